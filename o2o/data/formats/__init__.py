"""The formats of recordings that are read, and how each is laid out."""
