"""o2o: fine-tune a robot from recorded data to the task, with world models and cautious planning."""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from o2o.compare.loop import CompareConfig, compare
    from o2o.core.errors import O2OError
    from o2o.demo import DemoConfig, demo
    from o2o.evaluate import EvaluateConfig, evaluate
    from o2o.finetune import FinetuneConfig, finetune
    from o2o.pretrain import PretrainConfig, pretrain

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
    "pretrain",
]

_HOMES = {name: name.removesuffix("Config").lower() for name in __all__} | {
    "O2OError": "core.errors",
    "CompareConfig": "compare.loop",
    "compare": "compare.loop",
}


class _Package(ModuleType):
    """Imports a name when it is first asked for; `o2o.pretrain` is the function, never its file.

    Python sets a submodule as an attribute of its package, at whatever time it is imported, which
    would put the file `o2o/pretrain.py` in the place of the function of that name.
    """

    def __getattr__(self, name: str):
        if name not in _HOMES:
            raise AttributeError(f"module 'o2o' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"o2o.{_HOMES[name]}"), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value):
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self):
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
