"""Lets LeRobot act by a policy server of o2o: `--policy.type=o2o --policy.address=HOST:PORT`."""

from .configuration_o2o import O2OConfig
from .modeling_o2o import O2OPolicy
from .processor_o2o import make_o2o_pre_post_processors

__all__ = ["O2OConfig", "O2OPolicy", "make_o2o_pre_post_processors"]
