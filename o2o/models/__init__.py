"""Holds the built-in world models, one file each; all keep the contract in `o2o.nn.world_model`."""
