"""Look into an agent: one call a question, each gives arrays, says what they mean, and draws itself.

from o2o import inspect
run = inspect.open("runs/door")
print(inspect.contrast(run))
"""

from o2o.core.stats import auroc, correlation
from o2o.inspect.beliefs import Steps, walk
from o2o.inspect.candidates import fan
from o2o.inspect.checkpoint_ranking import choice
from o2o.inspect.coverage import coverage
from o2o.inspect.estimate import Estimate
from o2o.inspect.model_error import model_error
from o2o.inspect.ood_detection import contrast
from o2o.inspect.penalty_sweep import sweep
from o2o.inspect.penalty_weight import price
from o2o.inspect.plans import plans, replan
from o2o.inspect.reliability import reliability
from o2o.inspect.result import Result
from o2o.inspect.run import Run, open
from o2o.inspect.uncertainty import uncertainty
from o2o.inspect.value import value

__all__ = [
    "Estimate",
    "Result",
    "Run",
    "Steps",
    "auroc",
    "choice",
    "contrast",
    "correlation",
    "coverage",
    "fan",
    "model_error",
    "open",
    "plans",
    "price",
    "reliability",
    "replan",
    "sweep",
    "uncertainty",
    "value",
    "walk",
]
