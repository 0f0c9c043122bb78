"""The contract of a world model: five methods, and every loop, planner and critic works with it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from o2o.core.episode import Batch

State = dict[str, Tensor]  # whatever the model keeps; every entry has a leading axis N

LOSS_NAMES = ("obs", "reward", "dynamics", "discount", "entropy", "consistency")


@dataclass(frozen=True)
class ModelConfig:
    """Options of one world model. A model file subclasses it as `Config`; each field is a flag."""


@dataclass(frozen=True)
class Unroll:
    """What a world model learned from a `Batch`, before any reduction.

    Attributes:
        losses: name -> (T, B), names from `LOSS_NAMES`; padding may hold any finite value.
        feature: (T, B, F) where values and policies are fitted; carries gradient if the model wants it.
        next_feature: (T, B, F) of `obs[t+1]` for bootstrapping, no gradient.
        starts: states from which to imagine, leading axis N = T*B, no gradient.
    """

    losses: dict[str, Tensor]
    feature: Tensor
    next_feature: Tensor
    starts: State


class WorldModel(nn.Module, ABC):
    """A latent model of a robot and its task. One file in `o2o/models/`, or any file by path.

    The file holds `Config(ModelConfig)` and `Model(spec, discount, config)`. Source of the design:
    house.md's contracts; `feature` is all that critic, policy and planner ever see.

    Attributes:
        feature_dim: F.
    """

    feature_dim: int

    @abstractmethod
    def start(self, n: int) -> State:
        """The state before anything was observed, leading axis n."""

    @abstractmethod
    def observe(
        self, state: State, prev_action: Tensor, prev_reward: Tensor, obs: dict[str, Tensor], first: Tensor
    ) -> State:
        """The state after a real step.

        Args:
            state: the state before, leading axis N.
            prev_action: (N, A) the executed action that led here.
            prev_reward: (N,) the reward it brought.
            obs: name -> (N, *shape).
            first: (N,) bool; those rows forget `state`, `prev_action` and `prev_reward`.
        """

    @abstractmethod
    def step(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        """(state, reward (N,), discount (N,)) after an imagined `action` (N, A).

        The reward is the one paid for `action`; discount is gamma * P(the episode goes on).
        """

    @abstractmethod
    def feature(self, state: State) -> Tensor:
        """(N, F) of a state."""

    @abstractmethod
    def unroll(self, batch: Batch) -> Unroll:
        """The forward pass for learning."""

    def track(self) -> None:
        """Moves slow copies after an optimiser step; called after every step."""

    def decode(self, state: State) -> dict[str, Tensor] | None:
        """What the model believes it sees, name -> (N, *shape), for models that can draw."""
        return None


def known_obs(batch: Batch) -> Tensor:
    """(T+1, B) bool: which observations of the windows are known."""
    return torch.cat([torch.ones_like(batch.next_valid[:1]), batch.next_valid])


def by_step(loss: Tensor) -> Tensor:
    """(T, B) from losses of T + 1 observations: entry t is of the next one, entry 0 also of the first."""
    return torch.cat([loss[:1] + loss[1:2], loss[2:]])


def repeat(state: State, times: int) -> State:
    """Each of N states `times` times in a row, leading axis N * times."""
    return {name: value.repeat_interleave(times, 0) for name, value in state.items()}


def index(state: State, rows: Tensor) -> State:
    """The chosen rows of a state."""
    return {name: value[rows] for name, value in state.items()}


def where(rows: Tensor, yes: State, no: State) -> State:
    """`yes` in the rows (N,) that are True, else `no`."""
    return {
        name: torch.where(rows.view(-1, *[1] * (value.dim() - 1)), value, no[name])
        for name, value in yes.items()
    }
