"""Defines the search budget and the uncertainty penalty of the planner; it imports no torch."""

from dataclasses import dataclass
from typing import Literal

from o2o.core.config import FieldError, at_least, at_most, check_finite

Method = Literal["mppi", "icem"]

# of a plan, and iterations of the search: beyond it no plan ends within a control period
MAX_STEPS = 1000


def _is_penalty_weight(value) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < float("inf")


@dataclass(frozen=True)
class PlannerConfig:
    """Search budget and uncertainty penalty of the planner.

    Attributes:
        horizon: Steps of a plan; FOWM uses 5.
        method: Search method: `mppi` samples `--planner.num-samples` candidates in every iteration; `icem`
            samples fewer each time and keeps the elites among them, for real-time control (after Pinneri et
            al. 2020).
        num_samples: Number of Gaussian candidates; FOWM uses 512.
        num_policy: Number of candidates rolled out by the policy; FOWM uses 51 (10 % of the samples).
        num_elites: Number of best candidates that move the mean; FOWM uses 50.
        iterations: Iterations of the search; FOWM uses 6 (xArm), 1 (D4RL).
        decay: Samples of an iteration as a fraction of those of the one before, for `icem`; at least
            `--planner.num-elites` are drawn.
        budget_ms: Time limit of a plan, ms; the search iterates until then, whatever `--planner.iterations`
            is, and the policy acts if there was no time for one iteration. 0: no limit.
        prune: Drop candidates that cannot become elites before the whole ensemble is evaluated. The elites
            stay the same. CPU only; networks narrower than about 256 gain nothing.
        uncertainty: Penalty weight (lambda): units of return per unit of disagreement of the Q-ensemble; FOWM
            uses 1 (xArm), 3 (AntMaze), 20 (Hopper). `auto`: 1 during pretraining, then the weight that the
            validation episodes suggest (`o2o.inspect.penalty_weight`).
        temperature: Sharpness of the elites' weights, per unit of return; TD-MPC uses 0.5.
        momentum: Weight of the old mean in the new one, 0 to 1; TD-MPC uses 0.1.
        center: Where the search begins: `memory`, the last plan, moved on by a step (FOWM), or `policy`, the
            plan of the policy.
        selection: Whose first action is taken: that of an elite that is drawn by its weight (`draw`, FOWM),
            or of the best one (`best`).
        min_std: Lowest standard deviation of the search, unit actions; TD-MPC uses 0.05.
        max_std: Highest and initial standard deviation of the search, unit actions; TD-MPC uses 2.
    """

    horizon: int = 5
    method: Method = "mppi"
    num_samples: int = 512
    num_policy: int = 51
    num_elites: int = 50
    iterations: int = 6
    decay: float = 0.5
    budget_ms: float = 0.0
    prune: bool = True
    uncertainty: float | Literal["auto"] = 1.0
    temperature: float = 0.5
    momentum: float = 0.1
    center: Literal["memory", "policy"] = "memory"
    selection: Literal["draw", "best"] = "draw"
    min_std: float = 0.05
    max_std: float = 2.0

    def __post_init__(self):
        if self.uncertainty != "auto" and not _is_penalty_weight(self.uncertainty):
            raise FieldError(self, f"<uncertainty> is {self.uncertainty}, wanted a number from 0 up, or auto")
        check_finite(self)  # otherwise an infinite bound is blamed on the value below it
        at_least(self, horizon=1, num_samples=1, num_policy=0, num_elites=1, iterations=1)
        at_least(self, temperature=0, momentum=0, min_std=0, max_std=self.min_std, decay=0, budget_ms=0)
        at_most(self, momentum=1, decay=1, horizon=MAX_STEPS, iterations=MAX_STEPS)

    @property
    def penalty_weight(self) -> float:
        """Penalty weight (lambda) until it is measured."""
        return 1.0 if self.uncertainty == "auto" else self.uncertainty
