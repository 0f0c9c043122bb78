"""Makes random numbers the arguments of a computation, so that an exported graph draws none itself.

Models, policies and the planner draw with `torch.randn`, `torch.rand` and `exponential_`. Inside
`with GivenDraws(...)` these return given numbers instead, in the order in which they are asked for. So the
code of training is exported as it is, and a stranger's world model, too.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

NORMAL, UNIFORM, EXPONENTIAL = "normal", "uniform", "exponential"
KINDS = (NORMAL, UNIFORM, EXPONENTIAL)  # standard normal; 0 to 1; rate 1
BY_SHAPE: dict[Callable, str] = {torch.randn: NORMAL, torch.rand: UNIFORM}
BY_EXAMPLE: dict[Callable, str] = {
    torch.randn_like: NORMAL,
    torch.rand_like: UNIFORM,
    torch.Tensor.exponential_: EXPONENTIAL,
}


class RecordedDraws(TorchFunctionMode):
    """Lets torch draw inside its block, and keeps what came out.

    Attributes:
        values: kind -> the tensors that were drawn, in order.
    """

    def __init__(self):
        super().__init__()
        self.values: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result, kind = func(*args, **(kwargs or {})), _kind(func)
        if kind:
            self.values[kind].append(result.detach().clone())
        return result

    def flat(self) -> dict[str, Tensor]:
        """Returns kind -> (n,) all numbers of that kind; kinds of which none was drawn are left out."""
        return {kind: torch.cat([v.flatten() for v in drawn]) for kind, drawn in self.values.items() if drawn}


class GivenDraws(TorchFunctionMode):
    """Returns given numbers inside its block wherever the code draws.

    Args:
        numbers: kind -> (n,) numbers, at least as many as the block draws; a kind that is missing is drawn.
    """

    def __init__(self, numbers: Mapping[str, Tensor]):
        super().__init__()
        self.numbers = numbers
        self.used: dict[str, int] = dict.fromkeys(KINDS, 0)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kind = _kind(func)
        if kind not in self.numbers:
            return func(*args, **(kwargs or {}))
        shape = _shape(func, args)
        begin = self.used[kind]
        self.used[kind] = end = begin + shape.numel()
        numbers = self.numbers[kind][begin:end].view(shape)
        return args[0].copy_(numbers) if func is torch.Tensor.exponential_ else numbers


def _kind(func) -> str:
    return BY_SHAPE.get(func) or BY_EXAMPLE.get(func) or ""


def _shape(func, args: tuple) -> torch.Size:
    """Returns the shape of what a call draws: that of its example, or the sizes in its arguments."""
    if func in BY_EXAMPLE:
        return args[0].shape
    return torch.Size(args[0] if isinstance(args[0], (tuple, list)) else args)
