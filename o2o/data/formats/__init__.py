"""Readers, one a format, and what every reader returns: a `Recording` of episodes with arrays on disk."""
