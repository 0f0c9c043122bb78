"""A function of tensors as one CUDA graph: launched once, where its kernels would be launched one by one."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # calls before the recording, in which libraries make their plans


class Captured:
    """Calls a function as it is a few times, then records it, and from there on replays the recording.

    Shapes, and arguments that are no tensors, choose among recordings. Random numbers go on: a graph asks
    its generator anew at every replay. What the function does in Python happens while it is recorded only.

    Args:
        function: of tensors and of dicts and dataclasses of them, all on one GPU; it never waits for it.
    """

    def __init__(self, function: Callable):
        self.function = function
        self._calls: dict[tuple, int] = {}
        self._recordings: dict[tuple, tuple[torch.cuda.CUDAGraph, Any, Any]] = {}

    def __call__(self, *args) -> Any:
        key = _key(args)
        if key not in self._recordings:
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._calls[key] <= WARM_UP:
                return self._aside(args)
            self._recordings[key] = self._record(args)
        graph, inputs, outputs = self._recordings[key]
        _each(lambda own, given: own.copy_(given, non_blocking=True), inputs, args)
        graph.replay()
        return _each(torch.clone, outputs)

    def _aside(self, args):
        """One call on a stream of its own, as recording asks for."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = self.function(*args)
        torch.cuda.current_stream().wait_stream(stream)
        return result

    def _record(self, args):
        inputs = _each(torch.clone, args)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self.function(*inputs)
        return graph, inputs, outputs


def _each(do: Callable, tree: Any, *others) -> Any:
    """The same tree with `do` applied to every tensor in it, and to its likes in the other trees."""
    if isinstance(tree, Tensor):
        return do(tree, *others)
    if isinstance(tree, dict):
        return {name: _each(do, value, *(other[name] for other in others)) for name, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_each(do, value, *(other[i] for other in others)) for i, value in enumerate(tree))
    if is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in fields(tree)]
        values = {n: _each(do, getattr(tree, n), *(getattr(o, n) for o in others)) for n in names}
        return replace(tree, **values)
    return tree


def _key(tree: Any) -> tuple:
    """Equal for arguments that one recording serves."""
    if isinstance(tree, Tensor):
        return (tree.shape, tree.dtype)
    if isinstance(tree, dict):
        return tuple((name, _key(value)) for name, value in tree.items())
    if isinstance(tree, tuple):
        return tuple(_key(value) for value in tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        return tuple(_key(getattr(tree, field.name)) for field in fields(tree))
    return (tree,)
