"""A recording looked over: what is in it, and what is wrong with it."""
