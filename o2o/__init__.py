"""Fine-tunes robots from recorded data with world models and uncertainty-aware planning."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from o2o.commands.compare.loop import CompareConfig, compare
    from o2o.commands.demo import DemoConfig, demo
    from o2o.core.errors import O2OError
    from o2o.training.evaluate import EvaluateConfig, evaluate
    from o2o.training.finetune import FinetuneConfig, finetune
    from o2o.training.loaded_policy import load
    from o2o.training.pretrain import PretrainConfig, pretrain

__all__ = [
    "CompareConfig",
    "DemoConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "O2OError",
    "PretrainConfig",
    "compare",
    "demo",
    "evaluate",
    "finetune",
    "load",
    "pretrain",
]

_MODULES = {
    "compare": "commands.compare.loop",
    "demo": "commands.demo",
    "evaluate": "training.evaluate",
    "finetune": "training.finetune",
    "load": "training.loaded_policy",
    "pretrain": "training.pretrain",
}


def __getattr__(name: str):
    """Imports a public name on its first use, so that `import o2o` alone imports no torch.

    Raises:
        UsageError: the name needs an extra that is not installed.
    """
    if name not in __all__:
        raise AttributeError(f"module 'o2o' has no attribute {name!r}")
    module = "core.errors" if name == "O2OError" else _MODULES[name.removesuffix("Config").lower()]
    from o2o.core.extras import needed_by

    with needed_by(f"o2o.{name}"):
        value = globals()[name] = getattr(importlib.import_module(f"o2o.{module}"), name)
    return value


def __dir__():
    return sorted({*globals(), *__all__})
