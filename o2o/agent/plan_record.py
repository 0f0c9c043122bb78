"""Records plans: the candidates of each decision, their values, and the action that was chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from o2o.agent.agent import Agent
from o2o.agent.planner.mppi import SearchTrace, elite_weights
from o2o.data.plan_store import PlanStore

MAX_CANDIDATES = 128  # candidates that are recorded of a decision, unless there are more elites
HALF_PRECISION = ("feature",)  # the largest array
CANDIDATE_AXIS = {  # the axis of arrays with an entry for each candidate
    "action": 1, "feature": 1, "reward": 1, "disagreement": 1, "discount": 1,
    "terminal_value": 0, "by_policy": 0, "elite": 0, "weight": 0,
}  # fmt: skip


@dataclass(frozen=True)
class PlanRecord:
    """Record of one decision of one robot's planner. Values are in units of the scaled reward.

    It holds S candidates of the last iteration of the search: all elites, and others evenly.

    Attributes:
        action: (H, S, A) of each candidate, in [-1, 1].
        feature: (H+1, S, F) predicted features; the first is that of the current state.
        reward: (H, S) imagined.
        terminal_value: (S,) value of the last state.
        disagreement: (H+1, S) of the ensemble, before the penalty weight; the last is that of the last state.
        discount: (H+1, S) factor of a unit of return at that step.
        by_policy: (S,) bool, the policy's own rollouts (of `icem`, also elites of the iteration before).
        elite: (S,) bool, the best ones.
        weight: (S,) of the elites in the search's new mean; 0 for all others.
        chosen: () the candidate whose first action was taken.
        mean, std: (I, H, A) of the search after each iteration.
        policy_action: (A,) what the policy alone would have done.
        requested_action: (A,) unit action that the agent chose, with exploration noise; the OOD response, the
            operator or the guard may still change it.
        penalty_weight: () lambda, units of return per unit of disagreement.
        iterations: () number of iterations of the search.
        took_ms: () duration of the decision, for all robots that decided together; NaN if not measured.
        t: () steps since the episode's start.
    """

    action: np.ndarray
    feature: np.ndarray
    reward: np.ndarray
    terminal_value: np.ndarray
    disagreement: np.ndarray
    discount: np.ndarray
    by_policy: np.ndarray
    elite: np.ndarray
    weight: np.ndarray
    chosen: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    policy_action: np.ndarray
    requested_action: np.ndarray
    penalty_weight: np.ndarray
    iterations: np.ndarray
    took_ms: np.ndarray
    t: np.ndarray = field(default_factory=lambda: np.array(0, np.int32))

    @property
    def return_(self) -> np.ndarray:
        """Return (S,) of each candidate before the penalty."""
        return (self.discount[:-1] * self.reward).sum(0) + self.discount[-1] * self.terminal_value

    @property
    def discounted_disagreement(self) -> np.ndarray:
        """Discounted sum (S,) of the disagreement along each candidate."""
        return (self.discount * self.disagreement).sum(0)

    def penalty(self, penalty_weight: float | None = None) -> np.ndarray:
        """Returns the penalty (S,) of each candidate, by default at the planner's own weight."""
        weight = float(self.penalty_weight) if penalty_weight is None else penalty_weight
        return weight * self.discounted_disagreement

    def penalty_fraction(self, penalty_weight: float | None = None) -> np.ndarray:
        """Returns the penalty (S,) as a fraction of |return| + penalty, 0 to 1."""
        penalty = self.penalty(penalty_weight)
        return penalty / np.maximum(penalty + np.abs(self.return_), 1e-12)

    def value(self, penalty_weight: float | None = None) -> np.ndarray:
        """Returns the penalized return (S,) of each candidate, by default at the planner's own weight."""
        return self.return_ - self.penalty(penalty_weight)

    def rerank(self, penalty_weight: float, temperature: float) -> tuple[np.ndarray, int]:
        """Repeats the last iteration's choice of elites with another penalty weight.

        Returns:
            weight: (S,) of the elites.
            best: the candidate with the largest weight.
        """
        value, weight = self.value(penalty_weight), np.zeros(len(self.terminal_value), np.float32)
        indices = np.argsort(-value, kind="stable")[: int(self.elite.sum())]
        weight[indices] = elite_weights(torch.from_numpy(value[indices])[None], temperature)[0].numpy()
        return weight, int(indices[0])


@torch.no_grad()
def record_plan(
    agent: Agent, trace: SearchTrace, requested_action: Tensor, took_ms: float = np.nan
) -> list[PlanRecord]:
    """Records a plan, one record for each robot. The agent's random streams stay as they are.

    Args:
        trace: of a plan for N robots.
        requested_action: (N, A) the resulting actions.
        took_ms: duration of the decision.
    """
    terminal_value = trace.candidates.terminal_value
    weight = torch.zeros_like(terminal_value).scatter(1, trace.elite_indices, trace.weight)  # (N, S)
    elite = torch.zeros_like(terminal_value, dtype=torch.bool).scatter(1, trace.elite_indices, True)
    indices = _recorded(terminal_value.shape[1], trace.elite_indices, trace.chosen)  # (N, K)
    rows = torch.arange(len(indices), device=indices.device)[:, None]
    plans = trace.candidates.plans.select(indices)
    terminal_action = trace.candidates.terminal_action[rows, indices]
    action = torch.cat([plans.action, terminal_action[None]])  # (H+1, N, K, A)
    with agent.precision():
        disagreement = agent.critic.disagreement(plans.feature, action).float()  # (H+1, N, K)
    per_step = {
        name: getattr(plans, name).transpose(0, 1) for name in ("action", "feature", "reward", "discount")
    }
    others = {
        "disagreement": disagreement.transpose(0, 1),
        "terminal_value": terminal_value[rows, indices],
        "elite": elite[rows, indices],
        "weight": weight[rows, indices],
        "by_policy": indices >= trace.num_sampled,
        "chosen": (indices == trace.chosen[:, None]).int().argmax(1),
        "mean": trace.mean.movedim(2, 0),
        "std": trace.std.movedim(2, 0),
        "policy_action": trace.policy_action,
        "requested_action": requested_action,
    }
    arrays = {name: _array(name, value) for name, value in {**per_step, **others}.items()}
    shared: dict[str, Any] = {
        "penalty_weight": np.array(agent.penalty_weight, np.float32),
        "iterations": np.array(len(trace.mean), np.int32),
        "took_ms": np.array(took_ms, np.float32),
    }
    return [
        PlanRecord(**{name: value[i] for name, value in arrays.items()}, **shared)
        for i in range(len(indices))
    ]


def plan_writer(
    plans: PlanStore, agent: Agent, seeds: Sequence[int], first: int = 0
) -> Callable[[int, list[PlanRecord]], None]:
    """Returns the `record` argument of `rollout.play`, which writes the records of each episode.

    Args:
        first: number of the episode whose seed is `seeds[0]`; the others are numbered in order of the seeds.
    """

    def write(seed: int, records: list[PlanRecord]) -> None:
        metadata = {"seed": seed, "updates": agent.num_updates}
        plans.add(first + seeds.index(seed), pack(records), metadata)

    return write


def pack(records: list[PlanRecord]) -> dict[str, np.ndarray]:
    """Stacks the records of an episode into name -> (T, ...), for a file.

    Shorter searches are padded: with a time limit the number of iterations varies, and with `icem` a later
    iteration has fewer candidates. `num_candidates` (T,) is the number of candidates before padding.
    """
    packed = {"num_candidates": np.array([len(record.terminal_value) for record in records], np.int32)}
    for name in (entry.name for entry in fields(PlanRecord)):
        values = [getattr(record, name) for record in records]
        if name in ("mean", "std"):
            values = _pad(values, 0, np.nan)
        elif name in CANDIDATE_AXIS:
            values = _pad(values, CANDIDATE_AXIS[name], 0)
        packed[name] = np.stack(values)
    return packed


def unpack(arrays: dict[str, np.ndarray]) -> list[PlanRecord]:
    """Returns the records that `pack` packed."""
    records = []
    for t in range(len(arrays["terminal_value"])):
        entry: dict[str, Any] = {name: value[t] for name, value in arrays.items()}
        size, steps = int(entry.pop("num_candidates", len(entry["terminal_value"]))), int(entry["iterations"])
        for name, axis in CANDIDATE_AXIS.items():
            entry[name] = entry[name][(slice(None),) * axis + (slice(size),)]
        records.append(PlanRecord(**entry | {"mean": entry["mean"][:steps], "std": entry["std"][:steps]}))
    return records


def _recorded(size: int, elites: Tensor, chosen: Tensor) -> Tensor:
    """Returns indices (N, K) of S candidates to record: the chosen (N,), elites (N, E), others evenly."""
    n, device = len(chosen), chosen.device
    if size <= MAX_CANDIDATES:
        return torch.arange(size, device=device).expand(n, size)
    evenly = torch.arange(size, device=device) * 0.6180339887 % 1  # the golden ratio leaves no gaps
    priority = evenly.repeat(n, 1).scatter(1, elites, 2.0).scatter(1, chosen[:, None], 3.0)
    return priority.topk(min(size, max(MAX_CANDIDATES, elites.shape[1] + 1)), dim=1).indices.sort(1).values


def _array(name: str, value: Tensor) -> np.ndarray:
    value = value.half() if name in HALF_PRECISION else value
    return value.cpu().numpy()


def _pad(values: list[np.ndarray], axis: int, filler: float) -> list[np.ndarray]:
    """Pads all arrays to the length of the longest along an axis."""
    size = max(value.shape[axis] for value in values)
    widths = [[(0, size - v.shape[axis]) if i == axis else (0, 0) for i in range(v.ndim)] for v in values]
    return [np.pad(v, width, constant_values=filler) for v, width in zip(values, widths, strict=True)]
