"""Defines the contract of a world model: the methods that agent, planner and critic call."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from o2o.core.episode import Batch
from o2o.core.errors import UsageError
from o2o.nn.model_config import ModelConfig as ModelConfig

State = dict[str, Tensor]  # whatever the model stores; every entry has a leading axis N

LOSS_NAMES = ("obs", "reward", "dynamics", "discount", "entropy", "consistency")


@dataclass(frozen=True)
class Unroll:
    """Output of a world model on a `Batch`, before any reduction.

    Attributes:
        losses: name -> (T, B), names from `LOSS_NAMES`; padding may hold any finite value.
        feature: (T, B, F), input of critic and policy; carries gradient if the model is to learn from them.
        next_feature: (T, B, F) of `obs[t+1]` for bootstrapping, no gradient.
        starts: states from which to imagine, leading axis N = T*B, no gradient.
    """

    losses: dict[str, Tensor]
    feature: Tensor
    next_feature: Tensor
    starts: State


class WorldModel(nn.Module, ABC):
    """A latent model of a robot and its task. One file in `o2o/models/`, or any file by path.

    The file holds `Config(ModelConfig)` and `Model(spec, discount, config)`. It is first built on torch's
    `meta` device, to know its sizes, so `__init__` must not read the values of tensors. `feature` is the only
    input of critic, policy and planner.

    Attributes:
        feature_dim: F.
        imagines: whether `step` predicts. A model that only encodes raises `cannot_imagine` in `step`, and
            serves policies that learn from recorded steps alone.
        task_heads: names of the modules that predict what a task defines, its rewards and endings; another
            task may reset them. A name that a model lacks is passed over.
    """

    feature_dim: int
    imagines: bool = True
    task_heads: tuple[str, ...] = ("reward", "continues")

    @abstractmethod
    def start(self, n: int) -> State:
        """Returns the state before any observation, leading axis n."""

    @abstractmethod
    def observe(
        self, state: State, prev_action: Tensor, prev_reward: Tensor, obs: dict[str, Tensor], first: Tensor
    ) -> State:
        """Returns the state after a real step.

        Args:
            state: the state before, leading axis N.
            prev_action: (N, A) the executed action that led here.
            prev_reward: (N,) the reward it gave.
            obs: name -> (N, *shape).
            first: (N,) bool; those rows ignore `state`, `prev_action` and `prev_reward`.
        """

    @abstractmethod
    def step(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        """Returns (state, reward (N,), discount (N,)) after an imagined `action` (N, A).

        The reward is the one that `action` gives; discount is gamma * P(the episode goes on).
        """

    @abstractmethod
    def feature(self, state: State) -> Tensor:
        """Returns the feature (N, F) of a state."""

    @abstractmethod
    def unroll(self, batch: Batch) -> Unroll:
        """Runs the forward pass of training."""

    def track(self) -> None:
        """Moves target networks; called after every optimizer step."""

    def decode(self, state: State) -> dict[str, Tensor] | None:
        """Returns the predicted observation, name -> (N, *shape); None for models without a decoder."""
        return None


# ---- helpers for models


def cannot_imagine(model: str) -> UsageError:
    """Returns the error for a plan, or an imagined future, with a model that predicts nothing.

    Args:
        model: its name or path.
    """
    return UsageError(
        f"model {model!r} encodes observations and predicts nothing, so nothing can be planned or imagined "
        "with it: act with the policy (--no-plan; `--preset bc` does), or train another --model"
    )


def known_obs(batch: Batch) -> Tensor:
    """Returns (T+1, B) bool: which observations of the windows are known."""
    return torch.cat([torch.ones_like(batch.next_valid[:1]), batch.next_valid])


def by_step(loss: Tensor) -> Tensor:
    """Returns (T, B) from losses of T + 1 observations.

    Entry t is the loss of observation t + 1; entry 0 includes the loss of observation 0.
    """
    return torch.cat([loss[:1] + loss[1:2], loss[2:]])


def repeat(state: State, times: int) -> State:
    """Repeats each of N states `times` times in a row; leading axis N * times."""
    return {name: value.repeat_interleave(times, 0) for name, value in state.items()}


def index(state: State, rows: Tensor) -> State:
    """Returns the given rows of a state."""
    return {name: value[rows] for name, value in state.items()}


def where(rows: Tensor, yes: State, no: State) -> State:
    """Returns `yes` in the rows (N,) that are True, else `no`."""
    return {
        name: torch.where(rows.view(-1, *[1] * (value.dim() - 1)), value, no[name])
        for name, value in yes.items()
    }
