"""Keeps random streams that can be saved and resumed."""

from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from o2o.core.derive_seed import derive as derive  # most modules that need one import it from here
from o2o.core.errors import UsageError


class RandomStream:
    """A separate stream of torch's random numbers, on the CPU and on a device.

    Inside `with stream.use():` torch draws from this stream; outside, its global state is unchanged.
    """

    def __init__(self, seed: int, device: torch.device):
        self.device = device
        self.seed(seed)

    def seed(self, seed: int) -> None:
        self.cpu_state = torch.Generator().manual_seed(seed).get_state()
        self.cuda_state = None
        if self.device.type == "cuda":
            self.cuda_state = torch.Generator(self.device).manual_seed(seed).get_state()

    @contextmanager
    def use(self):
        cpu_state = torch.get_rng_state()
        cuda_state = torch.cuda.get_rng_state(self.device) if self.cuda_state is not None else None
        torch.set_rng_state(self.cpu_state)
        if self.cuda_state is not None:
            torch.cuda.set_rng_state(self.cuda_state, self.device)
        try:
            yield
        finally:
            self.cpu_state = torch.get_rng_state()
            torch.set_rng_state(cpu_state)
            if cuda_state is not None:
                self.cuda_state = torch.cuda.get_rng_state(self.device)
                torch.cuda.set_rng_state(cuda_state, self.device)

    def state(self) -> dict[str, Tensor]:
        cuda = {} if self.cuda_state is None else {"cuda": self.cuda_state.clone()}
        return {"cpu": self.cpu_state.clone(), **cuda}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restores what `state` returned.

        Raises:
            UsageError: it is no state of a generator.
        """
        self.cpu_state = _checked_state(state.get("cpu"), torch.Generator())
        if self.cuda_state is not None and "cuda" in state:
            self.cuda_state = _checked_state(state["cuda"], torch.Generator(self.device))


def _checked_state(state: Tensor | None, generator: torch.Generator) -> Tensor:
    """Returns a copy of a state that a generator has accepted."""
    try:
        generator.set_state(torch.empty(0) if state is None else state.cpu())
    except (RuntimeError, TypeError) as error:
        what = "nothing" if state is None else f"{tuple(state.shape)} {state.dtype}"
        raise UsageError(f"the saved random stream is no state of a torch generator: {what}") from error
    return generator.get_state()


def restore_generator(generator: np.random.Generator, state: dict) -> None:
    """Sets the state of numpy's generator to `generator.bit_generator.state` of another one.

    Raises:
        UsageError: it is no such state.
    """
    try:
        generator.bit_generator.state = state
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise UsageError(f"the saved state of a random generator is none: {error}") from error
