"""Recordings on their way to a model: reading, fitting, checking, replay; a robot's own episodes to disk."""
