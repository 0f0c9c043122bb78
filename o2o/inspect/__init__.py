"""Inspects a trained agent: each function answers one question with arrays, sentences, metrics and charts.

from o2o import inspect
run = inspect.open("runs/door")
print(inspect.ood_detection(run))

A function and its module may share a name: `o2o.inspect.plans` is the function, because this file imports it
after the module. Import the module with `importlib.import_module("o2o.inspect.plans")`.
"""

from o2o.core.stats import auroc, rank_correlation
from o2o.inspect.beliefs import Beliefs, beliefs
from o2o.inspect.candidates import candidates
from o2o.inspect.checkpoint_ranking import rank_checkpoints
from o2o.inspect.coverage import coverage
from o2o.inspect.decision_chart import decision_chart
from o2o.inspect.estimate import Estimate
from o2o.inspect.model_error import model_error
from o2o.inspect.ood_detection import ood_detection
from o2o.inspect.penalty_sweep import penalty_sweep
from o2o.inspect.penalty_weight import penalty_weight
from o2o.inspect.performance import performance
from o2o.inspect.plans import plans, replan
from o2o.inspect.probe import probe
from o2o.inspect.reliability import reliability
from o2o.inspect.result import Result
from o2o.inspect.run import Run, open
from o2o.inspect.uncertainty import uncertainty
from o2o.inspect.value import value

# Former name -> function. The former names still work and will be removed in the next release.
ALIASES = {
    "choice": "rank_checkpoints",
    "contrast": "ood_detection",
    "fan": "candidates",
    "glance": "decision_chart",
    "price": "penalty_weight",
    "readout": "probe",
    "sweep": "penalty_sweep",
    "walk": "beliefs",
}
globals().update({old: globals()[new] for old, new in ALIASES.items()})

__all__ = [
    "ALIASES",
    "Beliefs",
    "Estimate",
    "Result",
    "Run",
    "auroc",
    "beliefs",
    "candidates",
    "coverage",
    "decision_chart",
    "model_error",
    "ood_detection",
    "open",
    "penalty_sweep",
    "penalty_weight",
    "performance",
    "plans",
    "probe",
    "rank_checkpoints",
    "rank_correlation",
    "reliability",
    "replan",
    "uncertainty",
    "value",
]
