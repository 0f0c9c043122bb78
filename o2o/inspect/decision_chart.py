"""Plots one decision of the planner for a log: the paths of its candidates and their values."""

import numpy as np

from o2o.agent.plan_record import PlanRecord
from o2o.core.transform import Transform
from o2o.hardware.end_effector import Displacement
from o2o.inspect.charts.chart import CHOSEN, MUTED, POLICY, Chart, Paths, Points


def decision_chart(
    record: PlanRecord, obs: dict[str, np.ndarray], transform: Transform, displacement: Displacement | None
) -> list[Chart]:
    """Returns a chart of the candidates' return and disagreement, after one of their end-effector paths.

    Args:
        record: plan record of the decision.
        obs: name -> (*shape) physical observation at the decision.
        transform: transform of the agent.
        displacement: how actions move the end effector; None omits the paths.
    """
    disagreement, return_, chosen = record.discounted_disagreement, record.return_, int(record.chosen)
    sampled, by_policy = ~record.by_policy, record.by_policy
    value_chart = Chart(
        "Return and disagreement of the candidates", "disagreement, discounted sum along the plan",
        "return before penalty",
        [
            Points(disagreement[sampled], return_[sampled], "sampled", MUTED),
            Points(disagreement[by_policy], return_[by_policy], "policy", POLICY),
            Points(disagreement[[chosen]], return_[[chosen]], "chosen", CHOSEN, size=9),
        ],
        f"Step {int(record.t)}; penalty weight (lambda) {float(record.penalty_weight):g}.",
    )  # fmt: skip
    if displacement is None:
        return [value_chart]
    start = displacement.position({name: value[None] for name, value in obs.items()})[0]
    action = transform.physical_action(record.action)
    paths = displacement.path(start, action)[..., :2]  # (S, H+1, 2)
    path_chart = Chart(
        "Paths of the candidates, top view", "x, m", "y, m",
        [
            Paths(paths, disagreement),
            Paths(paths[[chosen]], name="chosen", color=CHOSEN, width=3.0),
        ],
        "Paths are the sums of the commanded displacements. Color: disagreement, discounted sum.",
        value="disagreement", equal_aspect=True,
    )  # fmt: skip
    return [path_chart, value_chart]
