"""Dataset readers, one module per format; each returns a `Recording` whose images stay on disk."""
