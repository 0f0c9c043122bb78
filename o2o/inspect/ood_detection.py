"""Measures whether ensemble disagreement separates recorded actions from out-of-distribution actions."""

from dataclasses import dataclass

import numpy as np
import torch

from o2o.core.seeding import RandomStream, derive
from o2o.core.stats import auroc
from o2o.inspect.beliefs import ensemble_disagreement
from o2o.inspect.charts.chart import DATA, POLICY, RANDOM, Chart, Histogram, Intervals, Rule
from o2o.inspect.estimate import Estimate, estimate, few_episodes_warning, format_percent
from o2o.inspect.result import Result
from o2o.inspect.run import Run

NOISE = (0.1, 0.3)  # standard deviation of noise added to recorded actions, which lie in [-1, 1]
NUM_BINS = 48


@dataclass(frozen=True, eq=False)
class OodDetection(Result):
    """Disagreement of the Q-ensemble at M recorded steps, at the recorded action and at other actions.

    Attributes:
        recorded: (M,) disagreement at the recorded actions, in units of the scaled reward.
        others: name -> (M,) disagreement at other actions: `random` (uniform), `noise 0.1` and `noise 0.3`
            (recorded actions with Gaussian noise), and `policy`.
        auroc: name -> probability that an action of that kind has a higher disagreement than the recorded
            action of any step.
        same_step: name -> fraction of steps where it has a higher disagreement than the recorded action of
            the same step.
        num_episodes: number of episodes evaluated.
    """

    recorded: np.ndarray
    others: dict[str, np.ndarray]
    auroc: dict[str, Estimate]
    same_step: dict[str, float]
    num_episodes: int

    def text(self) -> list[str]:
        if not any(disagreement.any() for disagreement in (self.recorded, *self.others.values())):
            return [
                "The ensemble cannot separate any actions: its Q-functions agree everywhere, because there "
                "is only one or they have not been trained."
            ]
        random = self.auroc["random"]
        noise = ", ".join(
            f"{self.auroc[name]} for {name.replace(' ', ' of ')}"
            for name in self.others
            if name.startswith("noise")
        )
        return [
            f"{_judge_random(random)}: the probability that a random action has a higher disagreement than a "
            f"recorded one (AUROC) is {random}; 0.5 is chance, 1 is perfect. At the same step a random "
            f"action has the higher disagreement in {format_percent(self.same_step['random'])} of the cases.",
            f"For recorded actions with added noise the AUROC is {noise} (actions lie in [-1, 1]).",
            f"{_judge_policy(self.auroc['policy'])}. The AUROC is {self.auroc['policy']}.",
            *few_episodes_warning(self.num_episodes),
        ]

    def charts(self) -> list[Chart]:
        shown = {"recorded": (self.recorded, DATA), "policy": (self.others["policy"], POLICY)}
        shown["random"] = (self.others["random"], RANDOM)
        edges, log = _edges(np.concatenate([disagreement for disagreement, _ in shown.values()]))
        names, estimates = list(self.auroc), list(self.auroc.values())
        value, low, high = np.array([(m.value, m.low, m.high) for m in estimates]).T
        return [
            Chart(
                "Disagreement by kind of action",
                "ensemble disagreement",
                "fraction of the steps, %",
                [
                    Histogram(edges, _percentages(disagreement, edges), f"{name} actions", color)
                    for name, (disagreement, color) in shown.items()
                ],
                "Disagreement at recorded, random and policy actions at the same steps. The less the "
                "distributions overlap, the better the ensemble detects actions that the data do not "
                "contain.",
                log_x=log,
            ),
            Chart(
                "Separation from recorded actions",
                "probability of a higher disagreement (AUROC)",
                "",
                [
                    Rule(x=0.5, name="chance"),
                    Intervals([_LABELS.get(n, n) for n in names], value, low, high, DATA),
                ],
                "1: always higher than at a recorded action; 0: always lower. Bars are 95 % intervals over "
                "episodes.",
                x_range=(0.0, 1.0),
            ),
        ]

    def metrics(self) -> dict[str, float]:
        metrics = {"disagreement_recorded": float(np.median(self.recorded))}
        for name, disagreement in self.others.items():
            key = name.replace(" ", "_")
            metrics[f"disagreement_{key}"] = float(np.median(disagreement))
            metrics |= self.auroc[name].metrics(f"auroc_{key}")
            metrics[f"same_step_{key}"] = self.same_step[name]
        return metrics


_LABELS = {
    "random": "random actions",
    "noise 0.1": "recorded, noise 0.1",
    "noise 0.3": "recorded, noise 0.3",
    "policy": "policy actions",
}


def ood_detection(run: Run) -> OodDetection:
    """Compares the disagreement at recorded actions with that at random, noisy and policy actions.

    Args:
        run: the run to inspect.
    """
    agent, steps = run.agent, run.beliefs
    with RandomStream(derive(0, "contrast"), agent.device).use():
        actions = {"random": 2 * torch.rand_like(steps.action) - 1}
        for noise in NOISE:
            noisy = steps.action + noise * torch.randn_like(steps.action)
            actions[f"noise {noise}"] = noisy.clamp(-1, 1)
    actions["policy"] = steps.policy_action
    recorded = steps.disagreement.astype(np.float64)
    others = {name: ensemble_disagreement(agent, steps.feature, action) for name, action in actions.items()}
    estimates = {name: estimate(auroc, steps.episode, recorded, other) for name, other in others.items()}
    same_step = {
        name: float((other > recorded).mean() + (other == recorded).mean() / 2)
        for name, other in others.items()
    }
    return OodDetection(recorded, others, estimates, same_step, len(run.episodes))


def _judge_random(random: Estimate) -> str:
    """Describes the AUROC of random actions, which should be high."""
    if random.value >= 0.9:
        return "Disagreement separates random actions from recorded ones well"
    if random.value >= 0.7:
        return "Disagreement separates random actions from recorded ones in most cases"
    if random.side(0.5) < 0:
        return "Warning: disagreement is lower at random actions than at recorded ones"
    return "Disagreement hardly separates random actions from recorded ones"


def _judge_policy(policy: Estimate) -> str:
    """Describes the AUROC of the policy's actions, which should not be above 0.5."""
    if policy.side(0.5) > 0 and policy.value >= 0.6:
        return (
            "Disagreement is higher at the policy's actions than at recorded ones: the policy leaves the data"
        )
    if policy.side(0.5) < 0:
        return "Disagreement is lower at the policy's actions than at recorded ones: the policy stays in data"
    return "Disagreement is about equal at the policy's actions and at recorded ones"


def _edges(disagreement: np.ndarray) -> tuple[np.ndarray, bool]:
    """Returns the edges of the bins, and whether their axis is logarithmic."""
    positive = disagreement[disagreement > 0]
    if len(positive) and positive.max() > positive.min():
        low, high = np.percentile(positive, 0.1), positive.max()
        return np.geomspace(max(low, high * 1e-6), high * 1.0001, NUM_BINS + 1), True
    return np.linspace(0, 2 * (positive.max() if len(positive) else 0.5), NUM_BINS + 1), False


def _percentages(disagreement: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Returns the percentage of entries in each bin; entries below the first bin count as in it."""
    return 100 * np.histogram(disagreement.clip(edges[0]), edges)[0] / len(disagreement)
