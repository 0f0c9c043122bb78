"""Trains and evaluates agents: pretraining, fine-tuning, sync and async learner, safe start, rollback."""
