"""Checks a world model from any file against the contract of `o2o.nn.world_model`, at its first update."""

from dataclasses import replace
from types import ModuleType

import torch
from torch import Tensor

from o2o.core.episode import Batch
from o2o.core.errors import DivergedError, O2OError, UsageError
from o2o.core.plugins import did_you_mean
from o2o.core.spec import Spec
from o2o.nn.model_config import ModelConfig
from o2o.nn.world_model import LOSS_NAMES, State, Unroll, WorldModel

METHODS = ("start", "observe", "step", "feature", "unroll", "track", "decode")


def build_model(module: ModuleType, spec: Spec, discount: float, config: ModelConfig) -> WorldModel:
    """Builds the world model of a file.

    Raises:
        UsageError: the file has no class `Model`, the class lacks a method of the contract, it cannot be
            built, or the model has no `feature_dim`.
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
    try:
        model = model_class(spec, discount, config)
    except O2OError:
        raise
    except Exception as error:  # a user's file can fail in any way; the cause stays attached
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UsageError(f"model {module.__file__}: Model(spec, discount, config) fails: {what}") from error
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
                hint = did_you_mean(str(name), LOSS_NAMES)
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
        if not getattr(model, "imagines", True):
            return
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
