"""Defines the contract of a world model, and checks a model against it before the first gradient step."""

import difflib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor, nn

from o2o.core.episode import Batch
from o2o.core.errors import DivergedError, UsageError
from o2o.core.spec import Spec

State = dict[str, Tensor]  # whatever the model stores; every entry has a leading axis N

LOSS_NAMES = ("obs", "reward", "dynamics", "discount", "entropy", "consistency")
METHODS = ("start", "observe", "step", "feature", "unroll", "track", "decode")


@dataclass(frozen=True)
class ModelConfig:
    """Options of one world model. A model file subclasses it as `Config`; each field is a flag."""


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

    The file holds `Config(ModelConfig)` and `Model(spec, discount, config)`. `feature` is the only input of
    critic, policy and planner.

    Attributes:
        feature_dim: F.
    """

    feature_dim: int

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


# ---- checks of a model that comes from any file


def build_model(module: ModuleType, spec: Spec, discount: float, config: ModelConfig) -> WorldModel:
    """Builds the world model of a file.

    Raises:
        UsageError: the file has no class `Model`, the class lacks a method of the contract, or the model
            has no `feature_dim`.
    """
    model_class = getattr(module, "Model", None)
    if model_class is None:
        raise UsageError(f"model {module.__file__} has no class `Model(spec, discount, config)`")
    missing = [name for name in METHODS if _is_missing(model_class, name)]
    if missing:
        raise UsageError(
            f"model {module.__file__}: class Model has no method {', '.join(missing)}; "
            f"wanted {', '.join(METHODS)} (derive it from o2o.nn.world_model.WorldModel)"
        )
    model = model_class(spec, discount, config)
    width = getattr(model, "feature_dim", None)
    if not isinstance(width, int):
        raise UsageError(f"model {module.__file__}: feature_dim is {width!r}, wanted the width of a feature")
    return model


def check_contract(model: WorldModel, batch: Batch, path: str) -> None:
    """Checks the outputs of every method of a model on one batch: names, shapes and finite values.

    It runs eagerly and waits for the device. Weights and buffers stay as they are; random numbers come from
    the current stream.

    Args:
        model: the model, on the device of the batch.
        batch: windows to train on.
        path: path of the model's file, for the error.
    Raises:
        UsageError: an output breaks the contract.
        DivergedError: an output is not finite.
    """
    modules = list(model.modules())
    buffers = [(m, name, b, b.clone()) for m in modules for name, b in m.named_buffers(recurse=False)]
    if len(batch.reward) == batch.reward.shape[1] > 1:
        batch = _drop_window(batch)  # in a square batch (T, B) and (B, T) would look the same
    try:
        check = _ContractCheck(path, model.feature_dim)
        check.unroll(model, batch)
        with torch.no_grad():
            check.steps(model, batch)
    finally:
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                setattr(module, name, buffer.copy_(value))


class _ContractCheck:
    """Compares outputs with the contract and raises an error that names the model's file.

    Args:
        path: path of the model's file.
        feature_dim: F.
    """

    def __init__(self, path: str, feature_dim: int):
        self.path, self.feature_dim = path, feature_dim

    def unroll(self, model: WorldModel, batch: Batch) -> None:
        steps, size = batch.reward.shape
        unroll = model.unroll(batch)
        if not isinstance(unroll, Unroll):
            raise self._error(f"unroll returns {type(unroll).__name__}, wanted Unroll")
        for name, loss in unroll.losses.items():
            if name not in LOSS_NAMES:
                near = difflib.get_close_matches(str(name), LOSS_NAMES, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise self._error(f"unknown loss {name!r}; {hint}have {', '.join(LOSS_NAMES)}")
            self._tensor(f"loss {name!r}", loss, (steps, size), "(T, B)")
        shape = steps, size, self.feature_dim
        self._tensor("Unroll.feature", unroll.feature, shape, "(T, B, F)")
        self._tensor("Unroll.next_feature", unroll.next_feature, shape, "(T, B, F)")
        self._state("Unroll.starts", unroll.starts, steps * size, "T * B")
        for name, value in {"next_feature": unroll.next_feature, **unroll.starts}.items():
            if value.requires_grad:
                name = name if name == "next_feature" else f"starts[{name!r}]"
                raise self._error(f"Unroll.{name} carries a gradient, wanted none: add .detach()")
        with torch.no_grad():
            self._feature(model, unroll.starts, steps * size, "Unroll.starts")

    def steps(self, model: WorldModel, batch: Batch) -> None:
        """Observes the first two steps of the batch, then imagines one."""
        size = batch.reward.shape[1]
        state = model.start(size)
        self._state("the state of start", state, size, "N")
        first = torch.ones_like(batch.online)
        action, reward = torch.zeros_like(batch.action[0]), torch.zeros_like(batch.reward[0])
        for t in range(2):
            obs = {name: value[t] for name, value in batch.obs.items()}
            state = model.observe(state, action, reward, obs, first)
            self._state("the state of observe", state, size, "N")
            self._feature(model, state, size, "the state of observe")
            action, reward, first = batch.action[0], batch.reward[0], ~first
        outcome = model.step(state, action)
        if not isinstance(outcome, tuple) or len(outcome) != 3:
            raise self._error(f"step returns {type(outcome).__name__}, wanted (state, reward, discount)")
        state, reward, discount = outcome
        self._state("the state of step", state, size, "N")
        self._feature(model, state, size, "the state of step")
        self._tensor("the reward of step", reward, (size,), "(N,)")
        self._tensor("the discount of step", discount, (size,), "(N,)")

    def _feature(self, model: WorldModel, state: State, rows: int, what: str) -> None:
        shape = rows, self.feature_dim
        self._tensor(f"the feature of {what.removeprefix('the ')}", model.feature(state), shape, "(N, F)")

    def _state(self, what: str, state: State, rows: int, axis: str) -> None:
        if not isinstance(state, dict) or not state:
            raise self._error(f"{what} is {_describe(state)}, wanted a dict of tensors")
        for name, value in state.items():
            if not isinstance(value, Tensor) or value.shape[:1] != (rows,):
                wanted = f"a leading axis {axis} = {rows}"
                raise self._error(f"{what} has {name!r} with {_describe(value)}, wanted {wanted}")
            self._finite(f"{what}, entry {name!r},", value)

    def _tensor(self, what: str, value: Tensor, shape: tuple[int, ...], axes: str) -> None:
        if not isinstance(value, Tensor) or value.shape != shape:
            raise self._error(f"{what} has {_describe(value)}, wanted shape {axes} = {shape}")
        self._finite(what, value)

    def _finite(self, what: str, value: Tensor) -> None:
        if not value.isfinite().all():
            raise DivergedError(f"model {self.path}: {what} is not finite (NaN or infinite)")

    def _error(self, text: str) -> UsageError:
        return UsageError(f"model {self.path}: {text}")


def _describe(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"


def _is_missing(model_class: type, name: str) -> bool:
    method = getattr(model_class, name, None)
    return not callable(method) or getattr(method, "__isabstractmethod__", False)


def _drop_window(batch: Batch) -> Batch:
    """Returns the batch without its first window."""
    by_window = {name: getattr(batch, name)[1:] for name in ("weight", "index", "online", "episode")}
    by_time = {
        name: getattr(batch, name)[:, 1:]
        for name in ("action", "reward", "terminated", "valid", "next_valid")
    }
    return replace(
        batch, obs={name: value[:, 1:] for name, value in batch.obs.items()}, **by_window, **by_time
    )
