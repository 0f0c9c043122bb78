"""Defines `Episode`, a recorded episode of a robot, and `Batch`, the windows that updates are computed on."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from o2o.core.errors import DataError

if TYPE_CHECKING:  # a robot's process needs episodes, but no torch
    from torch import Tensor


@dataclass(frozen=True)
class Episode:
    """One episode in Minari's alignment: `obs[t], action[t] -> reward[t], obs[t+1]`.

    The type holds both a recorded episode (physical actions, raw observations) and its form for the model
    (`Transform.episode`: actions in [-1, 1], float32 vectors, uint8 CHW images).

    Attributes:
        obs: name -> (T+1, *shape); recorded images may be a `LazyArray` instead of an array.
        action: (T, A) float32.
        reward: (T,) float32, the reward for `action[t]`.
        terminated: the task ended with the last action; the value of the last state is zero.
        truncated: the episode was cut off, by a time limit or the operator; the task had not ended.
        last_obs_known: False where the file has no observation after the last action and `obs[T]` is a
            placeholder; losses on observations skip it.
        success: whether the task was done at any step; None where the recording does not say.
        infos: other recorded columns, name -> (T+1, ...), in Minari's alignment: row t+1 belongs to
            `action[t]`, row 0 to the reset. `time_s` is the clock in seconds. The model sees none of them.
        reward_known: False for an episode of another task, whose rewards and ending mean nothing for this
            one; it trains the model's observations and dynamics alone.
    """

    obs: dict[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray
    terminated: bool
    truncated: bool
    last_obs_known: bool = True
    success: bool | None = None
    infos: dict[str, np.ndarray] = field(default_factory=dict)
    reward_known: bool = True

    def __len__(self) -> int:
        return len(self.action)

    @property
    def episode_return(self) -> float:
        return float(self.reward.sum(dtype=np.float64))

    def layout(self) -> tuple[dict[str, tuple[int, ...]], int]:
        """Returns name -> shape of a row of each observation, and the number of actions."""
        return {name: value.shape[1:] for name, value in self.obs.items()}, self.action.shape[1]

    def check(self, name: str) -> "Episode":
        """Returns the episode itself if it is consistent.

        Args:
            name: of the episode, for the error.
        Raises:
            DataError: no steps, lengths that disagree, or values that are not finite; the line names each.
        """
        if not len(self.action):
            raise DataError(f"{name} has no steps; an episode needs at least one action")
        faults = list(self._faults())
        if faults:
            raise DataError(f"{name}: {'; '.join(faults)}")
        return self

    def _faults(self) -> Iterator[str]:
        steps = len(self.action)
        if self.action.ndim != 2:
            yield f"actions have shape {self.action.shape}, wanted (T, A)"
        if self.reward.shape != (steps,):
            yield f"{steps} actions but rewards of shape {self.reward.shape}"
        for key, value in self.obs.items():
            if len(value) != steps + 1:
                yield f"{steps} actions need {steps + 1} observations, {key!r} has {len(value)}"
        vectors = {key: value for key, value in self.obs.items() if value.dtype.kind == "f"}
        for key, value in {"actions": self.action, "rewards": self.reward, **vectors}.items():
            if not np.isfinite(value).all():
                row = int(np.argwhere(~np.isfinite(value))[0][0])
                yield f"{key!r} is not finite (NaN or infinite) at step {row}"


@dataclass(frozen=True)
class Batch:
    """B windows of T transitions, time first; a window never extends over an episode's end.

    Attributes:
        obs: name -> (T+1, B, *shape), uint8 CHW images or float32 vectors.
        action: (T, B, A) in [-1, 1].
        reward: (T, B), in units of the dataset's scaled reward.
        terminated: (T, B) bool; True stops bootstrapping.
        valid: (T, B) bool, True for recorded steps, which come first, False for padding; `valid[0]` is True.
        next_valid: (T, B) bool; False where `obs[t+1]` is unknown or padding.
        weight: (B,) importance weight, at most 1 over the whole (mixed) batch.
        index: (B,) int64, the replay buffer's index, for setting priorities.
        online: (B,) bool, True for steps of the robot's own episodes, False for the dataset's.
        episode: (B,) int64, number of the window's episode, counted from 0 in the replay buffer's order.
        reward_known: (B,) bool, False for windows of another task, whose rewards and endings mean nothing.
        episode_return: (B,) sum of the rewards of the window's whole episode; by default that of the window.
    """

    obs: "dict[str, Tensor]"
    action: "Tensor"
    reward: "Tensor"
    terminated: "Tensor"
    valid: "Tensor"
    next_valid: "Tensor"
    weight: "Tensor"
    index: "Tensor"
    online: "Tensor"
    episode: "Tensor"
    reward_known: "Tensor"
    episode_return: "Tensor" = None  # pyright: ignore[reportAssignmentType]  # `__post_init__` sets it

    def __post_init__(self):
        if self.episode_return is None:
            object.__setattr__(self, "episode_return", self.reward.sum(0))

    def to(self, device) -> "Batch":
        moved = {name: value.to(device) for name, value in vars(self).items() if name != "obs"}
        return replace(self, obs={k: v.to(device) for k, v in self.obs.items()}, **moved)
