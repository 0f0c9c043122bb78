"""What happened: one `Episode` of a robot, and the `Batch` of windows that learning reads."""

from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from o2o.core.errors import DataError


@dataclass(frozen=True)
class Episode:
    """One episode in Minari's alignment: `obs[t], action[t] -> reward[t], obs[t+1]`.

    The same type serves as it was recorded (physical actions, raw observations) and as the model
    sees it (`Transform.episode`: unit actions, float32 vectors, uint8 CHW images).

    Attributes:
        obs: name -> (T+1, *shape); recorded images may be `data.reading.LazyArray` in an array's place.
        action: (T, A) float32.
        reward: (T,) float32, paid for `action[t]`.
        terminated: the world ended after the last action; its value is zero from there on.
        truncated: the recording ended, the world went on (time limit, operator).
        last_obs_known: False where `obs[T]` is a stand-in because the file has no successor of the
            last step; losses on what was observed skip it.
        success: whether the task was done at any step; None where the recording does not say.
        infos: what else was recorded, name -> (T+1, ...), Minari's way: row t+1 tells of `action[t]`, row 0
            of the reset. `time_s` is the clock in seconds; the model sees none of it.
    """

    obs: dict[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray
    terminated: bool
    truncated: bool
    last_obs_known: bool = True
    success: bool | None = None
    infos: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.action)

    @property
    def episode_return(self) -> float:
        return float(self.reward.sum(dtype=np.float64))

    def check(self, name: str) -> "Episode":
        """The episode itself, or one line on what is wrong with it.

        Raises:
            DataError: no steps, lengths that disagree, or values that are not finite.
        """
        steps = len(self.action)
        if steps == 0:
            raise DataError(f"{name} has no steps; an episode needs at least one action")
        if self.action.ndim != 2:
            raise DataError(f"{name}: actions have shape {self.action.shape}, wanted (T, A)")
        if self.reward.shape != (steps,):
            raise DataError(f"{name}: {steps} actions but rewards of shape {self.reward.shape}")
        for key, value in self.obs.items():
            if len(value) != steps + 1:
                raise DataError(
                    f"{name}: {steps} actions need {steps + 1} observations, {key!r} has {len(value)}"
                )
        vectors = {key: value for key, value in self.obs.items() if value.dtype != np.uint8}
        for key, value in {"actions": self.action, "rewards": self.reward, **vectors}.items():
            if not np.isfinite(value).all():
                row = int(np.argwhere(~np.isfinite(value))[0][0])
                raise DataError(f"{name}: {key!r} is not finite (NaN or infinite) at step {row}")
        return self


@dataclass(frozen=True)
class Batch:
    """B windows of T transitions, time first; a window never crosses an episode.

    Attributes:
        obs: name -> (T+1, B, *shape), uint8 CHW images or float32 vectors.
        action: (T, B, A) in [-1, 1].
        reward: (T, B), in units of the dataset's scaled reward.
        terminated: (T, B) bool; stops bootstrapping.
        valid: (T, B) bool, a prefix of ones; the rest is padding. `valid[0]` is always True.
        next_valid: (T, B) bool; False where `obs[t+1]` is unknown or padding.
        weight: (B,) importance weight, at most 1 over the whole (mixed) batch.
        index: (B,) int64, the replay's own handle for priorities.
        online: (B,) bool, True for what this robot did itself.
        episode: (B,) int64, number of the episode the window is from, counted from 0 as the replay got them.
    """

    obs: dict[str, Tensor]
    action: Tensor
    reward: Tensor
    terminated: Tensor
    valid: Tensor
    next_valid: Tensor
    weight: Tensor
    index: Tensor
    online: Tensor
    episode: Tensor

    def to(self, device) -> "Batch":
        moved = {name: value.to(device) for name, value in vars(self).items() if name != "obs"}
        return replace(self, obs={k: v.to(device) for k, v in self.obs.items()}, **moved)
