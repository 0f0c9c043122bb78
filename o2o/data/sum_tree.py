"""Implements a sum tree in numpy, which samples and updates a whole batch in a few vector operations."""

import numpy as np

FANOUT = 16  # children per node: five levels for a million leaves, 7 % more memory than the leaves


class SumTree:
    """Stores non-negative weights and samples indices in proportion to them.

    A node is always recomputed from its children, never adjusted by a difference, so rounding errors do not
    accumulate and equal leaves make equal trees.

    Attributes:
        size: number of leaves.
    """

    def __init__(self, size: int):
        self.size = 0
        self._levels: list[np.ndarray] = []  # leaves first, then their sums, up to one block of FANOUT
        self.resize(size)

    @property
    def total(self) -> float:
        return float(self._levels[-1].sum())

    @property
    def leaves(self) -> np.ndarray:
        """Returns the (size,) float64 weights as a view; change them through `set` only."""
        return self._levels[0][: self.size]

    def get(self, indices: np.ndarray) -> np.ndarray:
        return self._levels[0][indices]

    def set(self, indices: np.ndarray, values: np.ndarray | float) -> None:
        """Sets the weights of leaves; the last weight counts for an index that comes twice."""
        self._levels[0][indices] = values
        nodes = np.asarray(indices)
        for below, level in zip(self._levels[:-1], self._levels[1:], strict=True):
            nodes = nodes // FANOUT
            if len(nodes) > FANOUT:
                nodes = nodes[np.append(True, nodes[1:] != nodes[:-1])]
            level[nodes] = below.reshape(-1, FANOUT)[nodes].sum(1)

    def fill(self, start: int, stop: int, value: float) -> None:
        """Sets the leaves from start to stop to the same weight."""
        if start == stop:
            return
        self._levels[0][start:stop] = value
        for below, level in zip(self._levels[:-1], self._levels[1:], strict=True):
            start, stop = start // FANOUT, (stop - 1) // FANOUT + 1
            level[start:stop] = below[start * FANOUT : stop * FANOUT].reshape(-1, FANOUT).sum(1)

    def sample(self, u: np.ndarray) -> np.ndarray:
        """Samples leaves with probability in proportion to their weights, never one of weight 0.

        Args:
            u: (n,) in [0, 1), uniform.
        Returns:
            (n,) int64 indices.
        """
        target = u * self.total
        nodes = np.zeros(len(u), np.int64)
        index = np.arange(len(u))
        for level in reversed(self._levels):
            sums = level.reshape(-1, FANOUT).take(nodes, 0).cumsum(1)  # (n, FANOUT)
            target = np.minimum(target, np.nextafter(sums[:, -1], 0))  # rounding can exceed the sum
            child = (sums > target[:, None]).argmax(1)
            target -= np.where(child > 0, sums[index, child - 1], 0.0)
            nodes = nodes * FANOUT + child
        return nodes

    def resize(self, size: int) -> None:
        """Grows the tree to `size` leaves, at least as many as there are; new leaves have weight 0."""
        old = self._levels[0][: self.size] if self._levels else np.zeros(0)
        self.size, blocks = size, -(-max(size, 1) // FANOUT)
        leaves = np.zeros(blocks * FANOUT)
        leaves[: len(old)] = old
        self._levels = [leaves]
        while len(self._levels[-1]) > FANOUT:
            sums = self._levels[-1].reshape(-1, FANOUT).sum(1)
            self._levels.append(np.append(sums, np.zeros(-len(sums) % FANOUT)))
