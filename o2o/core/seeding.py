"""Random numbers that can be stopped, saved and gone on with, whoever draws them."""

import hashlib
from contextlib import contextmanager

import torch
from torch import Tensor


def derive(seed: int, *names: object) -> int:
    """A seed for one purpose, in [0, 2^31): the same names give the same seed, others an unrelated one."""
    text = "/".join(str(name) for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


class RandomStream:
    """torch's random numbers, as one stream of one's own: inside `with stream.use():` every draw of
    torch, on CPU and on the device, comes from here, and the rest of the program does not notice."""

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
        self.cpu_state = state["cpu"].cpu().clone()
        if self.cuda_state is not None and "cuda" in state:
            self.cuda_state = state["cuda"].cpu().clone()
