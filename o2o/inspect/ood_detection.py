"""Can the ensemble tell actions that were recorded from others?"""

from dataclasses import dataclass

import numpy as np
import torch

from o2o.core.seeding import Stream, derive
from o2o.core.stats import auroc
from o2o.inspect.beliefs import ensemble_disagreement
from o2o.inspect.charts.chart import DATA, POLICY, RANDOM, Chart, Histogram, Intervals, Rule
from o2o.inspect.estimate import Estimate, estimate, few_episodes_warning, format_percent
from o2o.inspect.result import Result
from o2o.inspect.run import Run

NEAR = (0.1, 0.3)  # standard deviation of noise on recorded actions, which reach from -1 to 1
NUM_BARS = 48


@dataclass(frozen=True, eq=False)
class OodDetection(Result):
    """The ensemble's spread at M recorded steps, of the recorded action and of others.

    Attributes:
        recorded: (M,) of the recorded actions, in units of the scaled reward.
        others: name -> (M,) `random`, uniform; `noise 0.1` and `0.3`, recorded ones with noise; `policy`.
        told: name -> how often an action of that kind has a higher spread than a recorded one of any step.
        same_step: name -> how often it has a higher spread than the recorded one of the same step.
        num_episodes: that were looked at.
    """

    recorded: np.ndarray
    others: dict[str, np.ndarray]
    told: dict[str, Estimate]
    same_step: dict[str, float]
    num_episodes: int

    def text(self) -> list[str]:
        if not any(spread.any() for spread in (self.recorded, *self.others.values())):
            return [
                "The ensemble cannot tell anything: its members agree everywhere, as one member alone or "
                "members that have not learned do."
            ]
        random = self.told["random"]
        near = ", ".join(
            f"{self.told[name]} with {name.replace(' ', ' of ')}"
            for name in self.others
            if name.startswith("noise")
        )
        return [
            f"{_judge(random)}: the chance that a random action has a higher spread than a "
            f"recorded one is {random}; 0.5 is a coin toss, 1 is always. At the same step it is higher in "
            f"{format_percent(self.same_step['random'])} of the cases.",
            f"Of actions near the recorded ones that chance is {near} (actions reach from -1 to 1).",
            f"{_judge_policy(self.told['policy'])} (chance of a higher spread {self.told['policy']}).",
            *few_episodes_warning(self.num_episodes),
        ]

    def charts(self) -> list[Chart]:
        shown = {"recorded": (self.recorded, DATA), "policy": (self.others["policy"], POLICY)}
        shown["random"] = (self.others["random"], RANDOM)
        edges, log = _edges(np.concatenate([spread for spread, _ in shown.values()]))
        names, told = list(self.told), list(self.told.values())
        middle, low, high = np.array([(m.value, m.low, m.high) for m in told]).T
        return [
            Chart(
                "Does it know what was recorded?",
                "ensemble spread",
                "share of the steps, %",
                [
                    Histogram(edges, _shares(spread, edges), f"{name} actions", color)
                    for name, (spread, color) in shown.items()
                ],
                "How far the critics disagree about recorded, random and the policy's actions at the same "
                "steps. The further apart, the better it knows where its data end.",
                log_x=log,
            ),
            Chart(
                "Told from recorded actions by their spread",
                "chance that the spread is higher (AUROC)",
                "",
                [
                    Rule(x=0.5, name="coin toss"),
                    Intervals([_LONG.get(n, n) for n in names], middle, low, high, DATA),
                ],
                "1: always higher than that of a recorded action; 0: always lower. Bars are 95 % intervals "
                "over episodes.",
                x_range=(0.0, 1.0),
            ),
        ]

    def metrics(self) -> dict[str, float]:
        numbers = {"spread_recorded": float(np.median(self.recorded))}
        for name, spread in self.others.items():
            key = name.replace(" ", "_")
            numbers[f"spread_{key}"] = float(np.median(spread))
            numbers |= self.told[name].metrics(f"auroc_{key}")
            numbers[f"same_step_{key}"] = self.same_step[name]
        return numbers


_LONG = {
    "random": "random actions",
    "noise 0.1": "recorded, noise 0.1",
    "noise 0.3": "recorded, noise 0.3",
    "policy": "the policy's actions",
}


def ood_detection(run: Run) -> OodDetection:
    """The spread at recorded actions against random ones, ones near the recorded ones, and the policy's."""
    agent, steps = run.agent, run.beliefs
    with Stream(derive(0, "contrast"), agent.device).use():
        actions = {"random": 2 * torch.rand_like(steps.action) - 1}
        for noise in NEAR:
            near = steps.action + noise * torch.randn_like(steps.action)
            actions[f"noise {noise}"] = near.clamp(-1, 1)
    actions["policy"] = steps.policy_action
    recorded = steps.disagreement.astype(np.float64)
    others = {name: ensemble_disagreement(agent, steps.feature, action) for name, action in actions.items()}
    told = {name: estimate(auroc, steps.episode, recorded, spread) for name, spread in others.items()}
    same = {
        name: float((spread > recorded).mean() + (spread == recorded).mean() / 2)
        for name, spread in others.items()
    }
    return OodDetection(recorded, others, told, same, len(run.episodes))


def _judge(random: Estimate) -> str:
    """Of random actions, whose spread should be higher."""
    if random.value >= 0.9:
        return "The ensemble tells random actions from recorded ones well"
    if random.value >= 0.7:
        return "The ensemble tells random actions from recorded ones most of the time"
    if random.side(0.5) < 0:
        return "Beware, the ensemble is surer of random actions than of recorded ones"
    return "The ensemble hardly tells random actions from recorded ones"


def _judge_policy(policy: Estimate) -> str:
    """Of the policy's actions, whose spread should not be higher."""
    if policy.side(0.5) > 0 and policy.value >= 0.6:
        return "It is less sure of the policy's actions than of recorded ones: the policy leaves the data"
    if policy.side(0.5) < 0:
        return "It is surer of the policy's actions than of recorded ones, as of a policy within the data"
    return "It is about as sure of the policy's actions as of recorded ones"


def _edges(spread: np.ndarray) -> tuple[np.ndarray, bool]:
    """Borders of the bars, and whether they are on a logarithmic axis."""
    seen = spread[spread > 0]
    if len(seen) and seen.max() > seen.min():
        low, high = np.percentile(seen, 0.1), seen.max()
        return np.geomspace(max(low, high * 1e-6), high * 1.0001, NUM_BARS + 1), True
    return np.linspace(0, 2 * (seen.max() if len(seen) else 0.5), NUM_BARS + 1), False


def _shares(spread: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """% of the entries in each bar; what lies below the first counts there."""
    return 100 * np.histogram(spread.clip(edges[0]), edges)[0] / len(spread)
