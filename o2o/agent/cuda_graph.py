"""Replays a function of tensors as one CUDA graph, instead of launching its kernels one by one."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # calls before the capture, in which libraries choose their algorithms


class CapturedFunction:
    """Calls a function directly a few times, then captures it as a CUDA graph, and replays the graph.

    There is one graph for each combination of shapes and non-tensor arguments. Random numbers continue: a
    graph reads its generator at every replay. Python code of the function runs only during the capture.

    Args:
        function: takes tensors, and dicts and dataclasses of tensors, all on one GPU; never waits for the
            GPU.
    """

    def __init__(self, function: Callable):
        self.function = function
        self._calls: dict[tuple, int] = {}
        self._graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, Any, Any]] = {}

    def __call__(self, *args) -> Any:
        key = _key(args)
        if key not in self._graphs:
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._calls[key] <= WARM_UP:
                return self._call_on_side_stream(args)
            self._graphs[key] = self._capture(args)
        graph, inputs, outputs = self._graphs[key]
        _map(lambda static, value: static.copy_(value, non_blocking=True), inputs, args)
        graph.replay()
        return _map(torch.clone, outputs)

    def _call_on_side_stream(self, args):
        """Calls the function on a separate stream, which a later capture requires."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = self.function(*args)
        torch.cuda.current_stream().wait_stream(stream)
        return result

    def _capture(self, args):
        inputs = _map(torch.clone, args)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self.function(*inputs)
        return graph, inputs, outputs


def _map(function: Callable, tree: Any, *others) -> Any:
    """Applies `function` to every tensor of a tree, with the tensors at its place in the other trees."""
    if isinstance(tree, Tensor):
        return function(tree, *others)
    if isinstance(tree, dict):
        names = list(tree)
        return {n: _map(function, tree[n], *(other[n] for other in others)) for n in names}
    if isinstance(tree, tuple):
        return tuple(_map(function, value, *(other[i] for other in others)) for i, value in enumerate(tree))
    if is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in fields(tree)]
        values = {n: _map(function, getattr(tree, n), *(getattr(o, n) for o in others)) for n in names}
        return replace(tree, **values)
    return tree


def _key(tree: Any) -> tuple:
    """Returns a key that is equal for arguments of one graph."""
    if isinstance(tree, Tensor):
        return (tree.shape, tree.dtype)
    if isinstance(tree, dict):
        return tuple((name, _key(value)) for name, value in tree.items())
    if isinstance(tree, tuple):
        return tuple(_key(value) for value in tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        return tuple(_key(getattr(tree, field.name)) for field in fields(tree))
    return (tree,)
