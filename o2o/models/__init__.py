"""World models that share one contract (`o2o.model`), one file each."""
