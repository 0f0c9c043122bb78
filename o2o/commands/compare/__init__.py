"""`o2o compare`: rates presets on one dataset and robot under one budget, each run in its own process."""
