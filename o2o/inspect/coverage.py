"""Measures how far states are from the training data, and whether disagreement grows with the distance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from o2o.agent.planner.imagine import roll_out
from o2o.core.episode import Episode
from o2o.core.seeding import RandomStream, derive
from o2o.core.spec import is_image
from o2o.core.stats import rank_correlation
from o2o.inspect.beliefs import Beliefs, beliefs, ensemble_disagreement
from o2o.inspect.charts.chart import DATA, MODEL, MUTED, PLAN, POLICY, Chart, Histogram, Points, Rule
from o2o.inspect.estimate import (
    CLEAR,
    Estimate,
    estimate,
    few_episodes_warning,
    format_number,
    format_percent,
)
from o2o.inspect.model_error import evenly_spaced
from o2o.inspect.result import Result
from o2o.inspect.run import Run, select_episodes
from o2o.nn.world_model import index

MAX_STEPS = 4000  # training steps to search for neighbors; steps of one group
NUM_STARTS = 64  # steps from which the policy is imagined
NUM_PLANS = 4  # episodes whose plan records are used
MAX_ROWS = 512  # rows whose distances are computed at once
NUM_DOTS, NUM_BINS = 1500, 40
BACKGROUND = "#d5dae2"  # color of the training steps, below all others
PERCENTILE = 99  # of the training steps' own distances; steps farther away are outside the training data
MIN_SCALE = 0.01  # of the median standard deviation; keeps nearly constant entries from dominating distances
NUM_NAMED = 3  # entries of observations that are named
VALIDATION, ROBOT = "validation steps", "robot steps"
IMAGINED, PLANNED = "steps imagined with the policy", "steps imagined in plans"
COLORS = {VALIDATION: DATA, ROBOT: MODEL, IMAGINED: POLICY, PLANNED: PLAN}


@dataclass(frozen=True, eq=False)
class Group:
    """A group of n steps that is compared with the training steps.

    Attributes:
        distance: (n,) distance to the nearest training step, in standard deviations of the training features.
        position: (n, 2) position on the map.
        disagreement: (n,) ensemble disagreement at the executed or imagined action.
        outside: fraction of steps farther away than 99 % of the training steps are from each other.
        correlation: rank correlation of disagreement and distance.
    """

    distance: np.ndarray
    position: np.ndarray
    disagreement: np.ndarray
    outside: Estimate
    correlation: Estimate


@dataclass(frozen=True, eq=False)
class Coverage(Result):
    """Distances of groups of steps from the training steps.

    Attributes:
        distance: (m,) distance of training steps to the nearest one of another episode (of another quarter,
            if there is only one episode), in standard deviations of the features.
        position: (m, 2) position of the training steps on the map.
        limit: 99th percentile of `distance`.
        explained_variance: fraction of the features' variance that the map shows.
        groups: name -> group of steps; only groups that have steps.
        unusual: name of an observation entry -> mean difference of the steps outside from their nearest
            training step, in standard deviations of the entry, the largest first; of the robot's steps, or
            of the validation steps.
        fraction_searched: fraction of the training steps that were searched for neighbors.
        num_episodes: number of training episodes that were searched.
    """

    distance: np.ndarray
    position: np.ndarray
    limit: float
    explained_variance: float
    groups: dict[str, Group]
    unusual: dict[str, float]
    fraction_searched: float
    num_episodes: int

    @property
    def main_group(self) -> str:
        """Returns the name of the group that `unusual` and the first sentences describe; empty if none."""
        return next((name for name in (ROBOT, VALIDATION, *self.groups) if name in self.groups), "")

    def text(self) -> list[str]:
        if not self.main_group or not np.isfinite(self.limit):
            return ["There are too few steps to compare with the training data."]
        main = self.groups[self.main_group]
        sentences = [
            f"{format_percent(main.outside.value).capitalize()} of the {self.main_group} are outside the "
            f"training data: their distance to it is larger than the distance of {PERCENTILE} % of the "
            "training steps to other training episodes."
        ]
        if self.unusual and main.outside.value > 1 - PERCENTILE / 100:
            entries = ", ".join(f"{entry} ({format_number(far)})" for entry, far in self.unusual.items())
            sentences.append(
                "The largest differences from the nearest training step, in standard deviations, are in "
                f"{entries}."
            )
        others = [
            f"{format_percent(group.outside.value)} of the {name}"
            for name, group in self.groups.items()
            if name != self.main_group
        ]
        if others:
            sentences.append(f"Also outside the training data are {', '.join(others)}.")
        sentences += [
            _describe_correlation(name, group.correlation)
            for name, group in self.groups.items()
            if group.correlation.known
        ]
        sentences += few_episodes_warning(self.num_episodes)
        if self.fraction_searched < 1:
            searched = format_percent(self.fraction_searched)
            sentences.append(f"Neighbors were searched among {searched} of the training steps.")
        return sentences

    def charts(self) -> list[Chart]:
        distances = np.concatenate([self.distance, *(group.distance for group in self.groups.values())])
        edges = np.linspace(0, _axis_end(distances), NUM_BINS + 1)
        kinds = {"training steps": (self.distance, MUTED)}
        kinds |= {name: (group.distance, COLORS[name]) for name, group in self.groups.items()}
        histograms = [
            Histogram(
                edges, 100 * np.histogram(far.clip(max=edges[-1]), edges)[0] / max(len(far), 1), name, color
            )
            for name, (far, color) in kinds.items()
        ]
        return [
            Chart(
                "Distance to the training data",
                "distance to the nearest training step, in standard deviations",
                "fraction of the steps, %",
                [*histograms, Rule(x=self.limit, name=f"{PERCENTILE}th percentile of training steps")],
                "Distances are in the model's feature space. Training steps are compared with other "
                "episodes than their own; the last bin holds all larger distances.",
            ),
            *(self._map(name) for name in self.groups),
        ]

    def _map(self, name: str) -> Chart:
        group, (low, high) = self.groups[name], self._color_range()
        background, dots = (
            part.position[evenly_spaced(len(part.position), NUM_DOTS)] for part in (self, group)
        )
        disagreement = group.disagreement[evenly_spaced(len(group.position), NUM_DOTS)]
        return Chart(
            f"Map of the features: {name}",
            "first principal component",
            "second principal component",
            [
                Points(background[:, 0], background[:, 1], "training steps", BACKGROUND, size=3),
                Points(dots[:, 0], dots[:, 1], name, value=disagreement, size=4),
            ],
            "The first two principal components of the training features; they explain "
            f"{format_percent(self.explained_variance)} of the variance. Colored dots without gray dots "
            "around them have no training data nearby.",
            value="ensemble disagreement",
            value_range=(low, high) if high > low else None,
        )

    def _color_range(self) -> tuple[float, float]:
        """Returns the range of colors, the same on all maps; outliers share the last color."""
        every = np.concatenate([group.disagreement for group in self.groups.values()])
        return float(every.min()), float(np.percentile(every, 98))

    def metrics(self) -> dict[str, float]:
        metrics = {"limit": self.limit, "distance_training": _median(self.distance)}
        for name, group in self.groups.items():
            key = name.replace(" ", "_")
            metrics[f"distance_{key}"] = _median(group.distance)
            metrics |= group.outside.metrics(f"outside_{key}")
            metrics |= group.correlation.metrics(f"correlation_{key}")
        return metrics


def coverage(run: Run) -> Coverage:
    """Measures how far recorded, robot and imagined steps are from the training steps.

    Args:
        run: the run to inspect.
    """
    agent = run.agent
    episodes = select_episodes(run.train, MAX_STEPS)
    train = beliefs(agent, episodes, num_starts=1)
    keep = torch.as_tensor(evenly_spaced(len(train), MAX_STEPS), device=agent.device)
    known = _scaled(train.feature[keep], train.feature)
    parts = train.episode if len(episodes) > 1 else 4 * train.t // len(train)
    parts = torch.as_tensor(parts, device=agent.device)[keep]
    distance = nearest(known, known, parts, parts)[0]
    distance = distance[np.isfinite(distance)]
    limit = float(np.percentile(distance, PERCENTILE)) if len(distance) else float("nan")
    directions, explained_variance = _principal_components(known)
    groups = {}
    for name, (feature, disagreement, episode) in _collect(run).items():
        scaled = _scaled(feature, train.feature)
        far = nearest(scaled, known)[0]
        groups[name] = Group(
            far,
            (scaled @ directions).cpu().numpy(),
            disagreement,
            estimate(np.mean, episode, (far > limit).astype(np.float64)),
            estimate(rank_correlation, episode, disagreement, far),
        )
    unusual = {}
    for name, group_episodes in (
        (ROBOT, latest(run.transformed_robot_episodes)),
        (VALIDATION, run.episodes),
    ):
        if name in groups:
            unusual = _unusual(group_episodes, groups[name].distance > limit, episodes, keep.cpu().numpy())
            break
    return Coverage(
        distance,
        (known @ directions).cpu().numpy(),
        limit,
        explained_variance,
        groups,
        unusual,
        len(known) / len(run.train),
        len(episodes),
    )


def latest(episodes: Sequence[Episode], max_steps: int = MAX_STEPS) -> list[Episode]:
    """Returns the last whole episodes, about `max_steps` steps in all, in order."""
    kept, steps = [], 0
    for episode in reversed(episodes):
        if kept and steps + len(episode) > max_steps:
            break
        kept.append(episode)
        steps += len(episode)
    return kept[::-1]


def nearest(
    rows: Tensor, others: Tensor, part: Tensor | None = None, parts: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distance of each row to the nearest of other rows, and the index of that row.

    Args:
        rows: (n, D).
        others: (m, D).
        part, parts: (n,) and (m,) parts of the data; a row is not compared with rows of its own part.
    Returns:
        (n,) distances, infinite if there is no other part, and (n,) indices.
    """
    minima = []
    for begin in range(0, len(rows), MAX_ROWS):
        block = slice(begin, begin + MAX_ROWS)
        far = torch.cdist(rows[block], others)
        if part is not None and parts is not None:
            far = far.masked_fill(part[block, None] == parts, torch.inf)
        minima.append(far.min(1))
    distance, indices = (torch.cat([getattr(m, name) for m in minima]) for name in ("values", "indices"))
    return distance.double().cpu().numpy(), indices.cpu().numpy()


def _collect(run: Run) -> dict[str, tuple[Tensor, np.ndarray, np.ndarray]]:
    """Returns name of the group -> features (n, F), disagreement (n,) and episode (n,)."""
    agent, steps = run.agent, run.beliefs
    groups = {}
    if run.unseen:
        groups[VALIDATION] = steps.feature, steps.disagreement.astype(np.float64), steps.episode
    if run.transformed_robot_episodes:
        robot = beliefs(agent, latest(run.transformed_robot_episodes), num_starts=1)
        groups[ROBOT] = robot.feature, robot.disagreement.astype(np.float64), robot.episode
    if run.plans.numbers():
        groups[PLANNED] = _planned(run)
    else:
        groups[IMAGINED] = _imagined(run, steps)
    return groups


@torch.no_grad()
def _imagined(run: Run, steps: Beliefs) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Returns the states that the policy reaches in imagination within the planner's horizon."""
    agent, horizon = run.agent, run.agent.config.planner.horizon
    indices = evenly_spaced(len(steps.starts), NUM_STARTS)
    state = index(steps.state, torch.as_tensor(indices, device=agent.device))
    with RandomStream(derive(0, "coverage"), agent.device).use(), agent.precision():
        rolled = roll_out(agent.model, state, horizon, lambda step, feature: agent.policy.act(feature))
        feature = rolled.feature[1:].float()
        action = torch.cat([rolled.action[1:], agent.policy.act(rolled.feature[-1:])]).float()
    episode = np.tile(steps.episode[steps.starts[indices]], horizon)
    return feature.flatten(0, 1), ensemble_disagreement(agent, feature, action).reshape(-1), episode


def _planned(run: Run) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Returns the states that the chosen plans reach in imagination."""
    numbers = run.plans.numbers()
    features, disagreements, episodes = [], [], []
    for number in (numbers[i] for i in evenly_spaced(len(numbers), NUM_PLANS)):
        for record in run.plan_records(number):
            chosen = int(record.chosen)
            features.append(record.feature[1:, chosen])
            disagreements.append(record.disagreement[1:, chosen])
            episodes.append(np.full(len(record.disagreement) - 1, number))
    feature = torch.as_tensor(np.concatenate(features), dtype=torch.float32, device=run.agent.device)
    return feature, np.concatenate(disagreements).astype(np.float64), np.concatenate(episodes)


def _unusual(
    episodes: Sequence[Episode], outside: np.ndarray, train: Sequence[Episode], keep: np.ndarray
) -> dict[str, float]:
    """Returns the entries of vectors where the steps outside differ most from the nearest training step."""
    known, names = _vectors(train)
    if not names or not outside.any():
        return {}
    known, outliers = known[keep], _vectors(episodes)[0][outside]
    deviation = known.std(0)
    moving = deviation[deviation > 0]
    scale = deviation.clip(MIN_SCALE * float(np.median(moving)) if len(moving) else 1.0)
    others, rows = torch.as_tensor(known / scale), torch.as_tensor(outliers / scale)
    difference = abs(outliers - known[nearest(rows, others)[1]]).mean(0) / scale
    return {names[i]: float(difference[i]) for i in np.argsort(-difference)[:NUM_NAMED]}


def _vectors(episodes: Sequence[Episode]) -> tuple[np.ndarray, list[str]]:
    """Returns (M, D) concatenated vectors observed before the actions, and the names of their entries."""
    kinds = {n: np.asarray(v).shape[1] for n, v in episodes[0].obs.items() if not is_image(v.shape[1:])}
    if not kinds:
        return np.zeros((0, 0)), []
    rows = [np.concatenate([np.asarray(e.obs[name])[:-1] for name in kinds], 1) for e in episodes]
    names = [f"{name}[{i}]" if size > 1 else name for name, size in kinds.items() for i in range(size)]
    return np.concatenate(rows).astype(np.float64), names


def _scaled(feature: Tensor, reference: Tensor) -> Tensor:
    """Subtracts the mean of the reference features and divides by their standard deviation."""
    scale = reference.float().var(0, correction=0).sum().clamp(min=1e-12).sqrt()
    return (feature.float() - reference.float().mean(0)) / scale


def _principal_components(rows: Tensor) -> tuple[Tensor, float]:
    """Returns (F, 2) the first two principal components and the fraction of variance that they explain."""
    centered = (rows - rows.mean(0)).double()
    values, vectors = torch.linalg.eigh(centered.T @ centered)  # ascending
    vectors = torch.nn.functional.pad(vectors.flip(1)[:, :2], (0, max(0, 2 - len(values))))
    total = float(values.sum())
    return vectors.float(), float(values[-2:].sum()) / total if total > 0 else float("nan")


def _describe_correlation(name: str, correlation: Estimate) -> str:
    if correlation.side() > 0:
        start = f"Disagreement {'rises' if correlation.value >= CLEAR else 'hardly rises'} with the distance"
    elif correlation.side() < 0:
        start = "Warning: disagreement falls with the distance"
    else:
        start = "It is not clear that disagreement rises with the distance"
    return f"{start}: for the {name} their rank correlation is {correlation}."


def _axis_end(distance: np.ndarray) -> float:
    """Returns the end of the axis, at which outliers are cut off."""
    return float(np.percentile(distance, 99.5) * 1.05) or 1.0 if len(distance) else 1.0


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")
