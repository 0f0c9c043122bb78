"""One decision at a glance, for a log: where its candidates lead, and what each was worth."""

import numpy as np

from o2o.agent.plan_record import PlanRecord
from o2o.core.transform import Transform
from o2o.hardware.end_effector import Displacement
from o2o.inspect.charts.chart import MODEL, MUTED, PLAN, POLICY, Chart, Paths, Points


def decision_chart(
    moment: PlanRecord, obs: dict[str, np.ndarray], transform: Transform, moves: Displacement | None
) -> list[Chart]:
    """Candidates as paths from above, where actions are known to move the robot's end, and by their worth.

    Args:
        obs: name -> (*shape) what the robot saw then, physical.
    """
    doubt, gain, chosen = moment.doubt, moment.gain, int(moment.chosen)
    worth = Chart(
        "What the candidates promised, and how sure", "doubt along the plan", "return before penalty",
        [
            Points(doubt[~moment.by_policy], gain[~moment.by_policy], "drawn", MUTED),
            Points(doubt[moment.by_policy], gain[moment.by_policy], "the policy's", POLICY),
            Points(doubt[[chosen]], gain[[chosen]], "chosen", MODEL, size=9),
        ],
        f"Step {int(moment.t)}; lambda {float(moment.price):g}.",
    )  # fmt: skip
    if moves is None:
        return [worth]
    here = moves.position({name: value[None] for name, value in obs.items()})[0]
    paths = moves.path(here, transform.physical_action(moment.action))[..., :2]  # (S, H+1, 2)
    seen = Chart(
        "Where the candidates lead, from above", "x, m", "y, m",
        [
            Paths(paths, doubt),
            Paths(paths[[chosen]], name="chosen", color=PLAN, width=3.0),
        ],
        "Commands added up; color: doubt along the plan.", value="doubt", equal_aspect=True,
    )  # fmt: skip
    return [seen, worth]
