"""The commands of `o2o`, one file or folder each."""
