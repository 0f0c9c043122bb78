"""Where has the agent no data, and does its ensemble notice?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from o2o.agent.planner.imagine import roll
from o2o.core.episode import Episode
from o2o.core.seeding import Stream, derive
from o2o.core.spec import is_image
from o2o.core.stats import correlation
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

MOST = 4000  # training steps to look among; of one kind to look at
NUM_STARTS = 64  # from which the policy is imagined
NUM_PLANS = 4  # episodes whose plans are looked at
AT_ONCE = 512  # rows whose distances are taken at once
NUM_DOTS, NUM_BARS = 1500, 40
GREY = "#d5dae2"  # of the training steps, under all others
OUTSIDE = 99  # %: what lies farther off than so many training steps from each other, lies outside
FLOOR = 0.01  # of the middle deviation: entries that hardly ever change do not outweigh all others
NUM_NAMED = 3  # entries of observations
HELD_OUT, OWN = "held-out steps", "the robot's own steps"
POLICY_AHEAD, PLANNED = "imagined by the policy", "imagined by plans"
COLORS = {HELD_OUT: DATA, OWN: MODEL, POLICY_AHEAD: POLICY, PLANNED: PLAN}


@dataclass(frozen=True, eq=False)
class Group:
    """n steps that are held against the training steps.

    Attributes:
        distance: (n,) to the nearest training step, in standard deviations of the training features.
        place: (n, 2) on the map.
        spread: (n,) of the ensemble, at the action that was taken or imagined.
        outside: share of them that lie farther off than 99 % of the training steps from each other.
        follows: rank correlation of spread and distance.
    """

    distance: np.ndarray
    place: np.ndarray
    spread: np.ndarray
    outside: Estimate
    follows: Estimate


@dataclass(frozen=True, eq=False)
class Coverage(Result):
    """What lies far from the training steps.

    Attributes:
        distance: (m,) of training steps to the nearest one of another episode (of a lone episode: of another
            quarter), in standard deviations of the features.
        place: (m, 2) of them on the map.
        limit: 99 % of them are nearer than that.
        shown: share of the features' variance that the map shows.
        groups: what is held against them, by kind; only what there is.
        unusual: entries of the observations, and by how many of their standard deviations the steps outside
            differ in them from the nearest training step, the largest first; of the robot's own steps, or of
            the held-out ones.
        share_looked: of the training steps that were looked among.
        num_episodes: training episodes that were looked among.
    """

    distance: np.ndarray
    place: np.ndarray
    limit: float
    shown: float
    groups: dict[str, Group]
    unusual: dict[str, float]
    share_looked: float
    num_episodes: int

    @property
    def blamed(self) -> str:
        """The kind of steps that `unusual` is of, and that the words are about; empty without any."""
        return next((name for name in (OWN, HELD_OUT, *self.groups) if name in self.groups), "")

    def text(self) -> list[str]:
        if not self.blamed or not np.isfinite(self.limit):
            return ["There is too little to hold against the training data."]
        first = self.groups[self.blamed]
        words = [
            f"Of {self.blamed} {format_percent(first.outside.value)} lie outside the training data: "
            f"farther from "
            f"it than {OUTSIDE} % of its own steps lie from its other episodes."
        ]
        if self.unusual and first.outside.value > 1 - OUTSIDE / 100:
            entries = ", ".join(f"{entry} ({format_number(far)})" for entry, far in self.unusual.items())
            words.append(
                f"They differ most, in standard deviations from the nearest training step, in {entries}."
            )
        others = {name: group for name, group in self.groups.items() if name != self.blamed}
        if others:
            told = [
                f"{format_percent(group.outside.value)} of {_steps(name)}" for name, group in others.items()
            ]
            words.append(f"Likewise {', '.join(told)}.")
        words += [_noticed(name, group.follows) for name, group in self.groups.items() if group.follows.known]
        words += few_episodes_warning(self.num_episodes)
        if self.share_looked < 1:
            words.append(f"{format_percent(self.share_looked)} of the training steps were looked among.")
        return words

    def charts(self) -> list[Chart]:
        every = np.concatenate([self.distance, *(group.distance for group in self.groups.values())])
        edges = np.linspace(0, _top(every), NUM_BARS + 1)
        kinds = {"training steps": (self.distance, MUTED)}
        kinds |= {name: (group.distance, COLORS[name]) for name, group in self.groups.items()}
        bars = [
            Histogram(
                edges, 100 * np.histogram(far.clip(max=edges[-1]), edges)[0] / max(len(far), 1), name, color
            )
            for name, (far, color) in kinds.items()
        ]
        return [
            Chart(
                "How far from the training data?",
                "distance to the nearest training step, in standard deviations",
                "share of the steps, %",
                [*bars, Rule(x=self.limit, name=f"{OUTSIDE} % of the training steps are nearer")],
                "In the space of the model's features. Training steps are held against other episodes than "
                "their own; the last bar holds all that is farther.",
            ),
            *(self._map(name) for name in self.groups),
        ]

    def _map(self, name: str) -> Chart:
        group, (low, high) = self.groups[name], self._spreads()
        grey, dots = (of.place[evenly_spaced(len(of.place), NUM_DOTS)] for of in (self, group))
        spread = group.spread[evenly_spaced(len(group.place), NUM_DOTS)]
        return Chart(
            f"Map of the features: {name}",
            "first main direction",
            "second main direction",
            [
                Points(grey[:, 0], grey[:, 1], "training steps", GREY, size=3),
                Points(dots[:, 0], dots[:, 1], name, value=spread, size=4),
            ],
            f"The two directions in which training steps differ most; they show "
            f"{format_percent(self.shown)} of "
            "the differences. Where colored dots lie on no grey ones, there are no data.",
            value="ensemble spread",
            value_range=(low, high) if high > low else None,
        )

    def _spreads(self) -> tuple[float, float]:
        """Range of the colors, the same on all maps; outliers share the last color."""
        every = np.concatenate([group.spread for group in self.groups.values()])
        return float(every.min()), float(np.percentile(every, 98))

    def metrics(self) -> dict[str, float]:
        numbers = {"limit": self.limit, "distance_training": _half(self.distance)}
        for name, group in self.groups.items():
            key = name.removeprefix("the ").replace(" ", "_").replace("'s", "").replace("-", "_")
            numbers[f"distance_{key}"] = _half(group.distance)
            numbers |= group.outside.metrics(f"outside_{key}") | group.follows.metrics(f"follows_{key}")
        return numbers


def coverage(run: Run) -> Coverage:
    """How far from the training steps the agent was shown, led and dreamt, and whether it noticed."""
    agent = run.agent
    episodes = select_episodes(run.train, MOST)
    train = beliefs(agent, episodes, num_starts=1)
    keep = torch.as_tensor(evenly_spaced(len(train), MOST), device=agent.device)
    known = _scaled(train.feature[keep], train.feature)
    parts = train.episode if len(episodes) > 1 else 4 * train.t // len(train)
    parts = torch.as_tensor(parts, device=agent.device)[keep]
    distance = nearest(known, known, parts, parts)[0]
    distance = distance[np.isfinite(distance)]
    limit = float(np.percentile(distance, OUTSIDE)) if len(distance) else float("nan")
    directions, shown = _directions(known)
    groups = {}
    for name, (feature, spread, group) in _gather(run).items():
        scaled = _scaled(feature, train.feature)
        far = nearest(scaled, known)[0]
        groups[name] = Group(
            far,
            (scaled @ directions).cpu().numpy(),
            spread,
            estimate(np.mean, group, (far > limit).astype(np.float64)),
            estimate(correlation, group, spread, far),
        )
    unusual = {}
    for name, shown_episodes in ((OWN, latest(run.transformed_robot_episodes)), (HELD_OUT, run.episodes)):
        if name in groups:
            unusual = _unusual(shown_episodes, groups[name].distance > limit, episodes, keep.cpu().numpy())
            break
    return Coverage(
        distance,
        (known @ directions).cpu().numpy(),
        limit,
        shown,
        groups,
        unusual,
        len(known) / len(run.train),
        len(episodes),
    )


def latest(episodes: Sequence[Episode], most: int = MOST) -> list[Episode]:
    """The last whole episodes of about so many steps in all, in order."""
    kept, steps = [], 0
    for episode in reversed(episodes):
        if kept and steps + len(episode) > most:
            break
        kept.append(episode)
        steps += len(episode)
    return kept[::-1]


def nearest(
    rows: Tensor, among: Tensor, part: Tensor | None = None, parts: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest of other rows, and which it is.

    Args:
        rows: (n, D).
        among: (m, D).
        part, parts: (n,) and (m,); a row is not held against rows of its own part.
    Returns:
        (n,) distances, infinite where there is no other part, and (n,) places.
    """
    found = []
    for begin in range(0, len(rows), AT_ONCE):
        some_ = slice(begin, begin + AT_ONCE)
        far = torch.cdist(rows[some_], among)
        if part is not None and parts is not None:
            far = far.masked_fill(part[some_, None] == parts, torch.inf)
        found.append(far.min(1))
    distance, place = (torch.cat([getattr(f, name) for f in found]) for name in ("values", "indices"))
    return distance.double().cpu().numpy(), place.cpu().numpy()


def _gather(run: Run) -> dict[str, tuple[Tensor, np.ndarray, np.ndarray]]:
    """kind -> features (n, F), spread (n,), episode (n,)."""
    agent, steps = run.agent, run.beliefs
    found = {}
    if run.unseen:
        found[HELD_OUT] = steps.feature, steps.disagreement.astype(np.float64), steps.episode
    if run.transformed_robot_episodes:
        own = beliefs(agent, latest(run.transformed_robot_episodes), num_starts=1)
        found[OWN] = own.feature, own.disagreement.astype(np.float64), own.episode
    if run.plans.numbers():
        found[PLANNED] = _planned(run)
    else:
        found[POLICY_AHEAD] = _by_policy(run, steps)
    return found


@torch.no_grad()
def _by_policy(run: Run, steps: Beliefs) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Where the policy leads in imagination, as far ahead as the planner looks."""
    agent, horizon = run.agent, run.agent.config.planner.horizon
    places = evenly_spaced(len(steps.starts), NUM_STARTS)
    state = index(steps.state, torch.as_tensor(places, device=agent.device))
    with Stream(derive(0, "coverage"), agent.device).use(), agent.precision():
        rolled = roll(agent.model, state, horizon, lambda step, feature: agent.policy.act(feature))
        feature = rolled.feature[1:].float()
        action = torch.cat([rolled.action[1:], agent.policy.act(rolled.feature[-1:])]).float()
    episode = np.tile(steps.episode[steps.starts[places]], horizon)
    return feature.flatten(0, 1), ensemble_disagreement(agent, feature, action).reshape(-1), episode


def _planned(run: Run) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Where the chosen plans lead."""
    numbers = run.plans.numbers()
    features, spreads, episodes = [], [], []
    for number in (numbers[place] for place in evenly_spaced(len(numbers), NUM_PLANS)):
        for moment in run.plan_records(number):
            chosen = int(moment.chosen)
            features.append(moment.feature[1:, chosen])
            spreads.append(moment.spread[1:, chosen])
            episodes.append(np.full(len(moment.spread) - 1, number))
    feature = torch.as_tensor(np.concatenate(features), dtype=torch.float32, device=run.agent.device)
    return feature, np.concatenate(spreads).astype(np.float64), np.concatenate(episodes)


def _unusual(
    shown: Sequence[Episode], outside: np.ndarray, train: Sequence[Episode], keep: np.ndarray
) -> dict[str, float]:
    """Entries of vectors in which the steps outside differ most from the nearest training step."""
    known, names = _vectors(train)
    if not names or not outside.any():
        return {}
    known, seen = known[keep], _vectors(shown)[0][outside]
    deviation = known.std(0)
    moving = deviation[deviation > 0]
    scale = deviation.clip(FLOOR * float(np.median(moving)) if len(moving) else 1.0)
    among, rows = torch.as_tensor(known / scale), torch.as_tensor(seen / scale)
    apart = abs(seen - known[nearest(rows, among)[1]]).mean(0) / scale
    return {names[i]: float(apart[i]) for i in np.argsort(-apart)[:NUM_NAMED]}


def _vectors(episodes: Sequence[Episode]) -> tuple[np.ndarray, list[str]]:
    """(M, D) all vectors observed before the actions, side by side, and the names of their entries."""
    kinds = {n: np.asarray(v).shape[1] for n, v in episodes[0].obs.items() if not is_image(v.shape[1:])}
    if not kinds:
        return np.zeros((0, 0)), []
    rows = [np.concatenate([np.asarray(e.obs[name])[:-1] for name in kinds], 1) for e in episodes]
    names = [f"{name}[{i}]" if size > 1 else name for name, size in kinds.items() for i in range(size)]
    return np.concatenate(rows).astype(np.float64), names


def _scaled(feature: Tensor, like: Tensor) -> Tensor:
    """Features about the mean of others, in units of their standard deviation."""
    scale = like.float().var(0, correction=0).sum().clamp(min=1e-12).sqrt()
    return (feature.float() - like.float().mean(0)) / scale


def _directions(rows: Tensor) -> tuple[Tensor, float]:
    """(F, 2) the directions in which rows vary most, and the share of the variance that they show."""
    centred = (rows - rows.mean(0)).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred)  # rising
    vectors = torch.nn.functional.pad(vectors.flip(1)[:, :2], (0, max(0, 2 - len(values))))
    total = float(values.sum())
    return vectors.float(), float(values[-2:].sum()) / total if total > 0 else float("nan")


def _noticed(name: str, follows: Estimate) -> str:
    if follows.side() > 0:
        start = f"The ensemble {'notices' if follows.value >= CLEAR else 'hardly notices'}"
    elif follows.side() < 0:
        start = "Beware, the ensemble is surer the farther it is"
    else:
        start = "That the ensemble notices cannot be told"
    return f"{start}: among {_steps(name)}, rank correlation of spread and distance {follows}."


def _steps(name: str) -> str:
    return f"steps {name}" if name.startswith("imagined") else name


def _top(distance: np.ndarray) -> float:
    """End of the axis: outliers do not squeeze the rest."""
    return float(np.percentile(distance, 99.5) * 1.05) or 1.0 if len(distance) else 1.0


def _half(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")
