"""Recordings looked into, converted, labelled, split and merged: `o2o data VERB`."""
