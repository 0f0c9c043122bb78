"""Draws random numbers and takes statistics over a batch of which several processes learn a share each.

Every process draws the numbers of the whole batch and uses those of its windows, so that N processes learn
what one process would from the joined batch, and their random streams stay equal. Outside `sharing`, and in
one process, the functions here do what torch's do.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from o2o.core.process_group import ProcessGroup


class _Share:
    """The windows of this process: `windows` of `windows * group.size`.

    Torch's compiler does not look into `total` and `gather`, which talk to the other processes.
    """

    def __init__(self, group: ProcessGroup, windows: int):
        self.rank, self.size, self.windows = group.rank, group.size, windows
        may_compile = "torch._dynamo" in sys.modules  # seconds to import, and few runs compile
        uncompiled: Any = torch.compiler.disable if may_compile else lambda function: function
        self.total, self.gather = uncompiled(_Sum.apply), uncompiled(group.gather)


_share: _Share | None = None
_share_of = cache(_Share)  # one for every update, or each would be compiled anew


@contextmanager
def sharing(group: ProcessGroup, windows: int) -> Iterator[None]:
    """Makes the functions here span the batch of a group, of which this process has `windows` windows."""
    global _share
    _share = _share_of(group, windows) if group.size > 1 else None
    try:
        yield
    finally:
        _share = None


def draw_like(draw: Callable[[Tensor], Tensor], x: Tensor, axis: int) -> Tensor:
    """Returns random numbers in the shape of x: this process's share of those for the whole batch.

    Args:
        draw: draws numbers in the shape, type and device of a tensor, such as `torch.randn_like`.
        x: (..., rows, ...).
        axis: axis of the rows: the windows (B), or other axes flattened with the windows last (T * B).
    """
    if _share is None:
        return draw(x)
    axis, own, size = axis % x.dim(), _share.windows, _share.size
    outer = x.shape[axis] // own
    whole = draw(x.new_empty((*x.shape[:axis], outer * size * own, *x.shape[axis + 1 :])))
    return whole.unflatten(axis, (outer, size, own)).select(axis + 1, _share.rank).flatten(axis, axis + 1)


def total(x: Tensor) -> Tensor:
    """Returns the sum of x over the processes, with its gradient."""
    return x if _share is None else _share.total(x)


def mean(x: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    """Returns the mean of x over axes (None: all) and the processes, with its gradient."""
    return x.mean(axes) if _share is None else _share.total(x.mean(axes)) / _share.size


def std(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Returns the standard deviation of x over axes and processes, n in the denominator; no gradient."""
    x = x.detach()
    if _share is None:
        return x.std(axes, correction=0)
    mean = _share.total(x.mean(axes, keepdim=True)) / _share.size
    return (_share.total((x - mean).square().mean(axes)) / _share.size).sqrt()


def joined(x: Tensor) -> Tensor:
    """Returns the values of x, one axis, of all processes; no gradient."""
    return x if _share is None else _share.gather(x.detach())


class _Sum(torch.autograd.Function):
    """Sum over the processes, of values and, on the way back, of gradients."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        result = x.clone()
        torch.distributed.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:
        result = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(result)
        return result
