"""One decision of the planner, taken apart: what it considered, what each part was worth, what it chose."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from o2o.agent.agent import Agent
from o2o.agent.planner.mppi import SearchTrace, elite_weights
from o2o.data.plan_store import PlanStore

MOST = 128  # candidates that are kept of a decision, unless its elites are more
HALF = ("feature",)  # what is kept in half precision: it takes most of the room
CANDIDATES = {  # the axis of what has one entry a candidate
    "action": 1, "feature": 1, "reward": 1, "spread": 1, "discount": 1,
    "leaf": 0, "by_policy": 0, "elite": 0, "weight": 0,
}  # fmt: skip


@dataclass(frozen=True)
class PlanRecord:
    """What one robot's planner thought at one moment. Values are in units of the scaled reward.

    S candidates are kept of those in the last iteration of the search: all elites, and others evenly.

    Attributes:
        action: (H, S, A) of each candidate, in [-1, 1].
        feature: (H+1, S, F) where each leads, as the model sees it; the first is where the robot is.
        reward: (H, S) imagined.
        leaf: (S,) value of the end.
        spread: (H+1, S) the ensemble's disagreement, before its price; the last is that of the end.
        discount: (H+1, S) what a unit at that step is worth now.
        by_policy: (S,) bool, the policy's own roll-outs (of `icem`, also elites of the iteration before).
        elite: (S,) bool, the best ones.
        weight: (S,) of the elites, by which the search's mean moved; 0 for all others.
        chosen: () the candidate whose first action was taken.
        mean, std: (I, H, A) of the search after each iteration.
        policy: (A,) what the policy alone would have done.
        asked: (A,) the action that was sent to the robot's guard, with exploration noise.
        price: () lambda, units of return for one unit of spread.
        iterations: () of the search.
        took_ms: () of the decision, for all robots that decided together; NaN where nobody measured.
        t: () steps since the episode's start.
    """

    action: np.ndarray
    feature: np.ndarray
    reward: np.ndarray
    leaf: np.ndarray
    spread: np.ndarray
    discount: np.ndarray
    by_policy: np.ndarray
    elite: np.ndarray
    weight: np.ndarray
    chosen: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    policy: np.ndarray
    asked: np.ndarray
    price: np.ndarray
    iterations: np.ndarray
    took_ms: np.ndarray
    t: np.ndarray = field(default_factory=lambda: np.array(0, np.int32))

    @property
    def gain(self) -> np.ndarray:
        """(S,) return of each candidate before the penalty."""
        return (self.discount[:-1] * self.reward).sum(0) + self.discount[-1] * self.leaf

    @property
    def doubt(self) -> np.ndarray:
        """(S,) discounted spread along each candidate: what the price is paid for."""
        return (self.discount * self.spread).sum(0)

    def penalty(self, price: float | None = None) -> np.ndarray:
        """(S,) what each candidate's doubt costs at this price, or at the planner's own."""
        return (float(self.price) if price is None else price) * self.doubt

    def share(self, price: float | None = None) -> np.ndarray:
        """(S,) the penalty's part of |gain| + penalty, 0 to 1."""
        penalty = self.penalty(price)
        return penalty / np.maximum(penalty + np.abs(self.gain), 1e-12)

    def value(self, price: float | None = None) -> np.ndarray:
        """(S,) what each candidate was worth to the planner, or would have been at this price."""
        return self.gain - self.penalty(price)

    def at(self, price: float, temperature: float) -> tuple[np.ndarray, int]:
        """What the last iteration would have come to at another price, its candidates being the same.

        Returns:
            weight: (S,) of the elites.
            best: the heaviest of them.
        """
        value, weight = self.value(price), np.zeros(len(self.leaf), np.float32)
        places = np.argsort(-value, kind="stable")[: int(self.elite.sum())]
        weight[places] = elite_weights(torch.from_numpy(value[places])[None], temperature)[0].numpy()
        return weight, int(places[0])


@torch.no_grad()
def record_plan(agent: Agent, trace: SearchTrace, asked: Tensor, took_ms: float = np.nan) -> list[PlanRecord]:
    """Takes a plan apart, one moment a robot. The agent's random streams stay as they are.

    Args:
        trace: of a plan for N robots.
        asked: (N, A) the actions that came out.
        took_ms: of the decision.
    """
    leaf = trace.valued.leaf
    weight = torch.zeros_like(leaf).scatter(1, trace.places, trace.weight)  # (N, S)
    elite = torch.zeros_like(leaf, dtype=torch.bool).scatter(1, trace.places, True)
    places = _kept(leaf.shape[1], trace.places, trace.chosen)  # (N, K)
    rows = torch.arange(len(places), device=places.device)[:, None]
    plans = trace.valued.plans.pick(places)
    action = torch.cat([plans.action, trace.valued.last_action[rows, places][None]])  # (H+1, N, K, A)
    with agent.precision():
        spread = agent.critic.uncertainty(plans.feature, action).float()  # (H+1, N, K)
    deep = {
        name: getattr(plans, name).transpose(0, 1) for name in ("action", "feature", "reward", "discount")
    }
    flat = {
        "spread": spread.transpose(0, 1),
        "leaf": leaf[rows, places],
        "elite": elite[rows, places],
        "weight": weight[rows, places],
        "by_policy": places >= trace.num_fresh,
        "chosen": (places == trace.chosen[:, None]).int().argmax(1),
        "mean": trace.mean.movedim(2, 0),
        "std": trace.std.movedim(2, 0),
        "policy": trace.policy,
        "asked": asked,
    }
    arrays = {name: _array(name, value) for name, value in {**deep, **flat}.items()}
    shared: dict[str, Any] = {
        "price": np.array(agent.price, np.float32),
        "iterations": np.array(len(trace.mean), np.int32),
        "took_ms": np.array(took_ms, np.float32),
    }
    return [
        PlanRecord(**{name: value[i] for name, value in arrays.items()}, **shared) for i in range(len(places))
    ]


def plan_writer(
    plans: PlanStore, agent: Agent, seeds: Sequence[int], first: int = 0
) -> Callable[[int, list[PlanRecord]], None]:
    """What `rollout.play` wants as `record`: writes each episode, numbered from `first` as its seed lies."""

    def keep(seed: int, moments: list[PlanRecord]) -> None:
        facts = {"seed": seed, "updates": agent.num_updates}
        plans.add(first + seeds.index(seed), pack(moments), facts)

    return keep


def pack(moments: list[PlanRecord]) -> dict[str, np.ndarray]:
    """name -> (T, ...) of the moments of an episode, for a file.

    A shorter search is padded: a planner that has to keep to a time makes now more iterations, now fewer, and
    `icem` has fewer candidates in a later one. `num_candidates` (T,) says how many there were.
    """
    packed = {"num_candidates": np.array([len(moment.leaf) for moment in moments], np.int32)}
    for name in (entry.name for entry in fields(PlanRecord)):
        values = [getattr(moment, name) for moment in moments]
        if name in ("mean", "std"):
            values = _padded(values, 0, np.nan)
        elif name in CANDIDATES:
            values = _padded(values, CANDIDATES[name], 0)
        packed[name] = np.stack(values)
    return packed


def unpack(arrays: dict[str, np.ndarray]) -> list[PlanRecord]:
    """The moments that `pack` packed."""
    moments = []
    for t in range(len(arrays["leaf"])):
        own: dict[str, Any] = {name: value[t] for name, value in arrays.items()}
        size, steps = int(own.pop("num_candidates", len(own["leaf"]))), int(own["iterations"])
        for name, axis in CANDIDATES.items():
            own[name] = own[name][(slice(None),) * axis + (slice(size),)]
        moments.append(PlanRecord(**own | {"mean": own["mean"][:steps], "std": own["std"][:steps]}))
    return moments


def _kept(size: int, elites: Tensor, chosen: Tensor) -> Tensor:
    """(N, K) places of what is kept of S candidates: the chosen (N,), elites (N, E), others evenly."""
    n, device = len(chosen), chosen.device
    if size <= MOST:
        return torch.arange(size, device=device).expand(n, size)
    evenly = torch.arange(size, device=device) * 0.6180339887 % 1  # the golden ratio leaves no gaps
    wanted = evenly.repeat(n, 1).scatter(1, elites, 2.0).scatter(1, chosen[:, None], 3.0)
    return wanted.topk(min(size, max(MOST, elites.shape[1] + 1)), dim=1).indices.sort(1).values


def _array(name: str, value: Tensor) -> np.ndarray:
    value = value.half() if name in HALF else value
    return value.cpu().numpy()


def _padded(values: list[np.ndarray], axis: int, filler: float) -> list[np.ndarray]:
    """The arrays, all as long as the longest along an axis."""
    size = max(value.shape[axis] for value in values)
    widths = [[(0, size - v.shape[axis]) if i == axis else (0, 0) for i in range(v.ndim)] for v in values]
    return [np.pad(v, wide, constant_values=filler) for v, wide in zip(values, widths, strict=True)]
