"""Checks of a recording, which `o2o check` reports, and a summary of its content."""
