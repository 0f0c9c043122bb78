"""o2o: fine-tune a robot from recorded data to the task, with world models and cautious planning."""

from o2o.demo import DemoConfig, demo
from o2o.errors import O2OError
from o2o.evaluate import EvaluateConfig, evaluate
from o2o.finetune import FinetuneConfig, finetune
from o2o.pretrain import PretrainConfig, pretrain

__all__ = [
    "DemoConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "O2OError",
    "PretrainConfig",
    "demo",
    "evaluate",
    "finetune",
    "pretrain",
]
