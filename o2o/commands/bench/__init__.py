"""`o2o bench`: measures update, plan, replay and loading beside plain PyTorch and the machine's peak."""
