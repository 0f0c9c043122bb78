"""Compares the rewards that a robot gives with those that were recorded near the same observations."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from o2o.core.episode import Episode
from o2o.data.audit.finding import Finding, note, warning
from o2o.data.formats.recording import Recording
from o2o.hardware.guard import Guard

NEIGHBOURS = 8  # recorded steps that a step is compared with
MAX_ROWS = 20_000  # recorded steps among which neighbours are searched
MAX_TESTED = 1000  # recorded steps that tell how well neighbours predict a reward
MAX_STEPS, MAX_EPISODES = 1000, 20  # that the robot plays
MIN_STEPS = 30  # comparable steps below which nothing is said
NEAR_QUANTILE = 0.9  # of the distances between recorded neighbours: what lies farther is not compared
EXCESS = 0.4  # share of disagreeing steps, beyond that among recordings, which is a finding
CORRELATED = 0.3  # correlation from which rewards are taken to follow, or to oppose, each other
SCALE = 4.0  # factor between rewards that is a finding; neighbours are up to 2.6 times too high or low
LAG = 20  # steps between which rises and falls of the reward are compared
OPPOSITE = 0.3  # share of common rises and falls below which the sign is opposite


@dataclass(frozen=True)
class Compared:
    """N steps of the robot, each near recorded ones.

    Attributes:
        given: (N,) rewards of the robot.
        recorded: (N, NEIGHBOURS) rewards of the nearest recorded steps.
        index: (N,) when the step was played; steps of different episodes lie more than LAG apart.
        outside: (N,) bool, the given reward lies outside of the recorded ones.
    """

    given: np.ndarray
    recorded: np.ndarray
    index: np.ndarray
    outside: np.ndarray


def check(recording: Recording, robot: Guard) -> Iterator[Finding]:
    """Plays recorded actions on a simulated robot and yields a finding about the rewards that it gives.

    Steps are near recorded ones if the vectors that are observed after them are; images are not compared.
    How often recorded rewards lie outside of those of their own neighbours, in other episodes, is the measure
    of how often the robot's may.
    """
    names = [name for name, value in recording.episodes[0].obs.items() if value.ndim == 2]
    names = [name for name in names if robot.shapes.get(name) == recording.episodes[0].obs[name].shape[1:]]
    if not names or len(recording.episodes) < 2:
        yield note("the robot's rewards were not compared: there are no two episodes with vectors to compare")
        return
    neighbours = _Neighbours(recording.episodes, names)
    compared, num_played = _play(recording, robot, names, neighbours)
    num_near = len(compared.given)
    if num_near < MIN_STEPS:
        yield note(
            f"the robot's rewards were not compared: of {num_played} steps with recorded actions, {num_near} "
            "came near recorded observations"
        )
        return
    difference = _difference(compared, neighbours.usual_fraction)
    if not difference:
        yield note(f"the robot's rewards are like those recorded, in {num_near} compared steps")
        return
    message = (
        f"the robot does not reward as recorded: {difference} (in {num_near} compared steps, of which "
        f"{100 * compared.outside.mean():.0f} % lie outside of what was recorded near there)"
    )
    if recording.reward_recipe:
        yield note(message, f"the reward function of {recording.reward_recipe} replaces it in training")
    else:
        yield warning(
            message,
            "state the recorded rule as `reward_function` in a recipe (--dataset.recipe), which then gives "
            "the rewards of both",
        )


def _difference(compared: Compared, usual_fraction: float) -> str:
    """Returns how the robot's rewards differ from those recorded: in sign, in scale, or by how much.

    The text is empty if they do not.
    """
    given, recorded = compared.given, np.median(compared.recorded, axis=1)
    varies = np.ptp(given) > 0 and np.ptp(recorded) > 0
    correlation = float(np.corrcoef(given, recorded)[0, 1]) if varies else 0.0
    differs = compared.outside.mean() > usual_fraction + EXCESS
    if correlation < -CORRELATED or (differs and _opposes(compared)):
        return "its sign is opposite, for where the recorded rewards rise, the robot's fall"
    factor = float(np.abs(given).sum() / max(np.abs(recorded).sum(), 1e-9))
    if correlation > CORRELATED and not 1 / SCALE < factor < SCALE:
        return f"its scale differs, for the robot's rewards are {factor:.2g} times those recorded"
    if differs:
        return f"in the median it gives {np.median(given):.3g} where {np.median(recorded):.3g} was recorded"
    return ""


def _opposes(compared: Compared) -> bool:
    """Returns whether the robot's reward falls where the recorded one rises, from one step to a near one.

    Unlike a correlation this sees through bonuses, which both may give alike.
    """
    index, given = compared.index[compared.outside], compared.given[compared.outside]
    recorded = compared.recorded[compared.outside]
    middle, width = np.median(recorded, axis=1), np.ptp(recorded, axis=1)
    i, j = np.nonzero((index[None] > index[:, None]) & (index[None] <= index[:, None] + LAG))
    rise, given_rise = middle[j] - middle[i], given[j] - given[i]
    clear = np.abs(rise) > (width[i] + width[j]) / 2 + 1e-9
    return clear.sum() >= MIN_STEPS and (rise * given_rise > 0)[clear].mean() < OPPOSITE


class _Neighbours:
    """Finds the recorded steps that are nearest to an observation.

    Attributes:
        near: greatest distance to the last neighbour that counts as near.
        usual_fraction: share of recorded rewards outside of those of their neighbours in other episodes.
    """

    def __init__(self, episodes: list[Episode], names: list[str]):
        rng = np.random.default_rng(0)
        number = np.concatenate([np.full(len(e), k) for k, e in enumerate(episodes)])
        rows = np.sort(rng.permutation(len(number))[:MAX_ROWS])
        starts = np.cumsum([0, *(len(e) for e in episodes)])
        self._names, self._number = names, number[rows]
        chosen = [(e, rows[self._number == k] - starts[k]) for k, e in enumerate(episodes)]
        vectors = np.concatenate([self._vector(e.obs, row + 1) for e, row in chosen])
        self._reward = np.concatenate([e.reward[row] for e, row in chosen])
        self._mean, self._std = vectors.mean(0), np.maximum(vectors.std(0), 1e-6)
        self._rows = self._normalize(vectors)
        self._slack = 1e-4 * float(np.ptp(self._reward)) + 1e-6
        tested = rng.permutation(len(rows))[:MAX_TESTED]
        recorded, distance = self._find(self._rows[tested], self._number[tested])
        self.near = float(np.quantile(distance, NEAR_QUANTILE))
        usual = self.outside(recorded, self._reward[tested])[distance <= self.near]
        self.usual_fraction = float(usual.mean())

    def find(self, obs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Returns (N, NEIGHBOURS) rewards and (N,) distances to the farthest neighbour of N observations."""
        return self._find(self._normalize(self._vector(obs, slice(None))))

    def outside(self, recorded: np.ndarray, reward: np.ndarray) -> np.ndarray:
        """Returns (N,) bool: a reward lies outside of (N, NEIGHBOURS) recorded ones by half their range."""
        low, high = recorded.min(1), recorded.max(1)
        slack = (high - low) / 2 + self._slack
        return (reward < low - slack) | (reward > high + slack)

    def _find(self, rows: np.ndarray, number: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Finds neighbours; `number` (N,) are the episodes in which none is searched."""
        distance = _distances(rows, self._rows)
        if number is not None:
            distance[number[:, None] == self._number[None]] = np.inf
        count = min(NEIGHBOURS, len(self._rows))
        index = np.argpartition(distance, count - 1, axis=1)[:, :count]
        return self._reward[index], np.take_along_axis(distance, index, axis=1).max(1)

    def _vector(self, obs, rows) -> np.ndarray:
        return np.concatenate([np.asarray(obs[name])[rows] for name in self._names], axis=1)

    def _normalize(self, vectors: np.ndarray) -> np.ndarray:
        return ((vectors - self._mean) / self._std).astype(np.float32)


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the (N, M) Euclidean distances between the rows of (N, F) and (M, F)."""
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * (a @ b.T)
    return np.sqrt(np.maximum(squared, 0))  # rounding can leave less than 0 between equal rows


def _play(
    recording: Recording, robot: Guard, names: list[str], neighbours: _Neighbours
) -> tuple[Compared, int]:
    """Returns the robot's steps near recorded ones, and the number of all steps that it played."""
    best = sorted(recording.episodes, key=lambda e: (e.success is True, e.episode_return), reverse=True)
    obs, given, index = [], [], []
    for number, episode in enumerate(best[:MAX_EPISODES]):
        robot.reset(seed=number)
        for action in episode.action:
            if len(given) == MAX_STEPS:
                break
            after, reward, terminated, truncated, _ = robot.step(action)
            obs.append({name: after[name] for name in names})
            given.append(reward)
            index.append(len(given) + number * (LAG + 1))
            if terminated or truncated:
                break
    rewards = np.array(given)
    recorded, distance = neighbours.find({name: np.stack([one[name] for one in obs]) for name in names})
    near = distance <= neighbours.near
    outside = neighbours.outside(recorded, rewards)
    return Compared(rewards[near], recorded[near], np.array(index)[near], outside[near]), len(given)
