"""From recordings to a robot that acts: what it may do in its first episodes, and how that grows.

Three freedoms begin at nothing and grow by the episode: noise to explore with; how far the planner may lead
away from the policy, which was fitted to recorded actions while the planner looks for what lies beyond them;
and the room around actions as they were recorded. All are pure functions of the number of the episode, so a
resumed run goes on where it was.

Source of the order (policy first, then more and more of the planner): Lancaster et al. 2023 (MoDem-V2). They
hand single steps over by chance; here every step is handed over a little more, so that the robot never jumps
to and fro between the two.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from o2o.core.config import at_least, at_most

RANGE = 2.0  # of a unit action: from -1 to 1
ORDINARY = 0.1  # share of the recorded episodes; what so many do is no outlier, however short it lasts


@dataclass(frozen=True)
class SafeStartConfig:
    """How carefully the robot's first episodes begin. All counts are of online episodes; 0: at once.

    Attributes:
        noise_episodes: the first has no noise to explore with, then it grows to its full size.
        planner_episodes: the first is the policy's, then the planner may lead further and further away.
        action_range_episodes: the first stays among actions as they were recorded, then it may leave them
        more
            and more, in size and from step to step.
        action_range_quantile: share of the recorded actions, at either end, that counts as out of the
        ordinary.
    """

    noise_episodes: int = 5
    planner_episodes: int = 5
    action_range_episodes: int = 5
    action_range_quantile: float = 0.005

    def __post_init__(self):
        at_least(self, noise_episodes=0, planner_episodes=0, action_range_episodes=0, action_range_quantile=0)
        at_most(self, action_range_quantile=0.5)

    @property
    def episodes(self) -> int:
        """How many begin carefully."""
        return max(self.noise_episodes, self.planner_episodes, self.action_range_episodes)


@dataclass(frozen=True)
class ActionRange:
    """Where actions lie, and how they change from step to step, in [-1, 1].

    Attributes:
        low, high: (A,) of an action.
        down, up: (A,) of the difference to the action before; `down` is negative.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    down: tuple[float, ...]
    up: tuple[float, ...]

    def widened(self, share: float) -> "ActionRange":
        """The envelope grown towards all that there is: 0 as it is, 1 the whole box."""

        def grown(bounds: tuple[float, ...], end: float) -> tuple[float, ...]:
            return tuple(bound + share * (end - bound) for bound in bounds)

        return ActionRange(
            grown(self.low, -RANGE / 2), grown(self.high, RANGE / 2),
            grown(self.down, -RANGE), grown(self.up, RANGE),
        )  # fmt: skip

    def clip(self, action: np.ndarray, previous: np.ndarray, first: np.ndarray) -> np.ndarray:
        """(N, A) the nearest actions inside. The step has the last word: the robot never jumps.

        Args:
            action: (N, A) wanted.
            previous: (N, A) executed before.
            first: (N,) bool, rows that start an episode and have none before.
        """
        inside = np.clip(action, self.low, self.high)
        near = np.clip(inside, previous + np.array(self.down), previous + np.array(self.up))
        return np.where(first[:, None], inside, near).astype(action.dtype)


@dataclass(frozen=True)
class ExplorationLimits:
    """What the robot may do in an episode; by default everything.

    Attributes:
        explore: size of the noise to explore with, 0 to 1.
        max_policy_deviation: how far each entry of an action may be from the policy's, unit actions.
        within: what actions are clipped to; None: nothing but the robot's own limits.
    """

    explore: float = 1.0
    max_policy_deviation: float = math.inf
    within: ActionRange | None = None

    def line(self, plan: bool = True) -> str:
        """For a log; the planner is named where it acts."""
        max_policy_deviation = (
            "free"
            if self.max_policy_deviation == math.inf
            else f"within {self.max_policy_deviation:.2g} of the policy"
        )
        room = "anywhere" if self.within is None else "kept near recorded actions"
        planner = f"planner {max_policy_deviation}, " if plan else ""
        return f"exploration {self.explore:.0%}, {planner}actions {room}"


def freedom(config: SafeStartConfig, action_range: ActionRange | None, episode: int) -> ExplorationLimits:
    """What the robot may do in its `episode`-th online episode, the first being number 0.

    Args:
        action_range: of the recorded actions; None where nothing is known of them.
    """
    agency = _share(episode, config.planner_episodes)
    room = _share(episode, config.action_range_episodes)
    return ExplorationLimits(
        _share(episode, config.noise_episodes),
        RANGE * agency if agency < 1 else math.inf,
        action_range.widened(room) if action_range and room < 1 else None,
    )


def action_range(episodes: Iterable[np.ndarray], quantile: float) -> ActionRange:
    """Of recorded actions: all but a quantile of their steps, at either end.

    A gripper that closes once in a long episode would fall into that quantile and could never close. So what
    a tenth of the episodes do at least once is inside as well.

    Args:
        episodes: (T, A) actions each, in [-1, 1].
        quantile: see `SafeStartConfig`.
    """
    actions = list(episodes)
    changes = [np.diff(action, axis=0) for action in actions if len(action) > 1]
    low, high = _bounds(actions, quantile)
    count = len(low)
    down, up = _bounds(changes, quantile) if changes else ([-RANGE] * count, [RANGE] * count)
    return ActionRange(low, high, tuple(min(x, 0.0) for x in down), tuple(max(x, 0.0) for x in up))


def _share(episode: int, episodes: int) -> float:
    return min(1.0, episode / episodes) if episodes else 1.0


def _bounds(parts: Sequence[np.ndarray], quantile: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(A,) low and high of what is in (T, A) parts."""
    steps = np.concatenate(parts)
    least, most = np.stack([part.min(0) for part in parts]), np.stack([part.max(0) for part in parts])
    low = np.minimum(np.quantile(steps, quantile, 0), np.quantile(least, ORDINARY, 0))
    high = np.maximum(np.quantile(steps, 1 - quantile, 0), np.quantile(most, 1 - ORDINARY, 0))
    return tuple(low.tolist()), tuple(high.tolist())
