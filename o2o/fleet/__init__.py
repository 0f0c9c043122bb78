"""Carries the episodes of many robots to one learner, and its weights back to them, over HTTP."""
