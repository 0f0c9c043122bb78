"""Carries trained agents out of o2o, and back: the package between training and the command line."""
