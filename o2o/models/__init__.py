"""World models that share one contract (`o2o.nn.world_model`), one file each."""
