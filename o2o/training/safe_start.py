"""Limits exploration in a run's first episodes and lifts the limits episode by episode.

Three limits start tight and widen over the first online episodes: the size of the exploration noise; how far
the planner may deviate from the policy, which was fitted to recorded actions while the planner searches
beyond them; and the range of actions around the recorded ones. Each is a pure function of the episode's
number, so a resumed run continues where it stopped.

Source of the order (policy first, then gradually the planner): Lancaster et al. 2023 (MoDem-V2). MoDem-V2
picks policy or planner at random for each step; here every step moves a little further from the policy to the
planner, so that the robot does not jump between the two.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from o2o.core.config import at_least, at_most

WIDTH = 2.0  # of the unit action interval [-1, 1]
COMMON = 0.1  # fraction of the recorded episodes; an action that this many reach is no outlier, however brief


@dataclass(frozen=True)
class SafeStartConfig:
    """How many of the first online episodes each exploration limit lasts; 0 disables a limit.

    Attributes:
        noise_episodes: Number of episodes over which the exploration noise grows from zero to its full size;
            0 starts with full noise.
        planner_episodes: Number of episodes over which the planner's allowed deviation from the policy grows
            from zero to unlimited; 0 starts with the unrestricted planner.
        action_range_episodes: Number of episodes over which the allowed actions, and their change from step
            to step, widen from the recorded range to the robot's limits; 0 starts at the robot's limits.
        action_range_quantile: Fraction of the recorded actions at each end that counts as outliers and lies
            outside the recorded range, 0 to 0.5.
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
        """Number of episodes until no limit is left."""
        return max(self.noise_episodes, self.planner_episodes, self.action_range_episodes)


@dataclass(frozen=True)
class ActionRange:
    """Bounds of actions in [-1, 1] and of their change from one step to the next.

    Attributes:
        low, high: (A,) bounds of an action.
        delta_low, delta_high: (A,) bounds of the difference to the previous action; `delta_low` is negative
            or zero.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    delta_low: tuple[float, ...]
    delta_high: tuple[float, ...]

    def widened(self, fraction: float) -> "ActionRange":
        """Returns the range interpolated towards [-1, 1]: unchanged at 0, all of it at 1."""

        def interpolate(bounds: tuple[float, ...], end: float) -> tuple[float, ...]:
            return tuple(bound + fraction * (end - bound) for bound in bounds)

        return ActionRange(
            interpolate(self.low, -WIDTH / 2), interpolate(self.high, WIDTH / 2),
            interpolate(self.delta_low, -WIDTH), interpolate(self.delta_high, WIDTH),
        )  # fmt: skip

    def clip(self, action: np.ndarray, previous: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Returns the nearest actions (N, A) inside the range.

        The bound on the change applies last, so that the robot never jumps, even from outside the range.

        Args:
            action: (N, A) intended.
            previous: (N, A) executed in the step before.
            first: (N,) bool, rows that start an episode and have no previous action.
        """
        inside = np.clip(action, self.low, self.high)
        near = np.clip(inside, previous + np.array(self.delta_low), previous + np.array(self.delta_high))
        return np.where(first[:, None], inside, near).astype(action.dtype)


@dataclass(frozen=True)
class ExplorationLimits:
    """What the robot may do in one episode; the defaults allow everything.

    Attributes:
        noise: Scale of the exploration noise, 0 to 1.
        max_policy_deviation: Largest difference between each entry of an action and the policy's, in unit
            actions.
        action_range: Range that actions are clipped to; None leaves the robot's own limits alone.
    """

    noise: float = 1.0
    max_policy_deviation: float = math.inf
    action_range: ActionRange | None = None

    def summary(self, plan: bool = True) -> str:
        """Returns the limits as one line for the log; `plan` is whether the planner acts."""
        deviation = self.max_policy_deviation
        planner = (
            "planner unrestricted"
            if deviation == math.inf
            else f"planner within {deviation:.2g} of the policy"
        )
        actions = "actions unrestricted" if self.action_range is None else "actions near the recorded range"
        return ", ".join([f"exploration noise {self.noise:.0%}", *([planner] if plan else []), actions])


def exploration_limits(
    config: SafeStartConfig, action_range: ActionRange | None, episode: int
) -> ExplorationLimits:
    """Returns the limits of an online episode.

    Args:
        action_range: range of the recorded actions; None where it is unknown.
        episode: number of the online episode; the first is 0.
    """
    planner = _progress(episode, config.planner_episodes)
    widening = _progress(episode, config.action_range_episodes)
    return ExplorationLimits(
        _progress(episode, config.noise_episodes),
        WIDTH * planner if planner < 1 else math.inf,
        action_range.widened(widening) if action_range and widening < 1 else None,
    )


def fit_action_range(episodes: Iterable[np.ndarray], quantile: float) -> ActionRange:
    """Returns the range that holds all recorded actions but a quantile at each end.

    A gripper that closes once in a long episode falls into that quantile and could never close. So an action
    that a tenth of the episodes reach at least once is inside the range as well.

    Args:
        episodes: (T, A) actions of each episode, in [-1, 1].
        quantile: `SafeStartConfig.action_range_quantile`.
    """
    actions = list(episodes)
    deltas = [np.diff(action, axis=0) for action in actions if len(action) > 1]
    low, high = _bounds(actions, quantile)
    num_entries = len(low)
    delta_low, delta_high = (
        _bounds(deltas, quantile) if deltas else ([-WIDTH] * num_entries, [WIDTH] * num_entries)
    )
    return ActionRange(
        low, high, tuple(min(x, 0.0) for x in delta_low), tuple(max(x, 0.0) for x in delta_high)
    )


def _progress(episode: int, episodes: int) -> float:
    return min(1.0, episode / episodes) if episodes else 1.0


def _bounds(parts: Sequence[np.ndarray], quantile: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns low (A,) and high (A,) of the values in (T, A) parts, one part an episode."""
    values = np.concatenate(parts)
    minima, maxima = np.stack([part.min(0) for part in parts]), np.stack([part.max(0) for part in parts])
    low = np.minimum(np.quantile(values, quantile, 0), np.quantile(minima, COMMON, 0))
    high = np.maximum(np.quantile(values, 1 - quantile, 0), np.quantile(maxima, 1 - COMMON, 0))
    return tuple(low.tolist()), tuple(high.tolist())
