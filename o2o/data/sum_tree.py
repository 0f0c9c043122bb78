"""A sum tree in numpy: draws and updates of a whole batch at once, in a few vector operations."""

import numpy as np

FAN = 16  # children a node: five levels for a million leaves, 7 % of memory above the leaves


class SumTree:
    """Non-negative weights that can be drawn in proportion.

    A node is always recomputed from its children, never adjusted by a difference, so nothing drifts
    and equal leaves make equal trees.

    Attributes:
        size: number of leaves.
    """

    def __init__(self, size: int):
        self.size = 0
        self._levels: list[np.ndarray] = []  # leaves first, then their sums, up to one block of FAN
        self.resize(size)

    @property
    def total(self) -> float:
        return float(self._levels[-1].sum())

    @property
    def leaves(self) -> np.ndarray:
        """(size,) float64, a view; change it through `set` only."""
        return self._levels[0][: self.size]

    def get(self, indices: np.ndarray) -> np.ndarray:
        return self._levels[0][indices]

    def set(self, indices: np.ndarray, values: np.ndarray | float) -> None:
        """Gives leaves new weights; of an index that comes twice, the last weight stays."""
        self._levels[0][indices] = values
        nodes = np.asarray(indices)
        for below, level in zip(self._levels[:-1], self._levels[1:], strict=True):
            nodes = nodes // FAN
            if len(nodes) > FAN:
                nodes = nodes[np.append(True, nodes[1:] != nodes[:-1])]
            level[nodes] = below.reshape(-1, FAN)[nodes].sum(1)

    def fill(self, start: int, stop: int, value: float) -> None:
        """Gives the leaves from start to stop the same new weight."""
        if start == stop:
            return
        self._levels[0][start:stop] = value
        for below, level in zip(self._levels[:-1], self._levels[1:], strict=True):
            start, stop = start // FAN, (stop - 1) // FAN + 1
            level[start:stop] = below[start * FAN : stop * FAN].reshape(-1, FAN).sum(1)

    def sample(self, u: np.ndarray) -> np.ndarray:
        """Leaves with probability in proportion to their weights, never one of weight 0.

        Args:
            u: (n,) in [0, 1), uniform.
        Returns:
            (n,) int64 indices.
        """
        target = u * self.total
        nodes = np.zeros(len(u), np.int64)
        each = np.arange(len(u))
        for level in reversed(self._levels):
            sums = level.reshape(-1, FAN).take(nodes, 0).cumsum(1)  # (n, FAN)
            target = np.minimum(target, np.nextafter(sums[:, -1], 0))  # what rounding put past the end
            child = (sums > target[:, None]).argmax(1)
            target -= np.where(child > 0, sums[each, child - 1], 0.0)
            nodes = nodes * FAN + child
        return nodes

    def resize(self, size: int) -> None:
        """Makes room for `size` leaves, at least as many as there are; new ones weigh 0."""
        old = self._levels[0][: self.size] if self._levels else np.zeros(0)
        self.size, blocks = size, -(-max(size, 1) // FAN)
        leaves = np.zeros(blocks * FAN)
        leaves[: len(old)] = old
        self._levels = [leaves]
        while len(self._levels[-1]) > FAN:
            sums = self._levels[-1].reshape(-1, FAN).sum(1)
            self._levels.append(np.append(sums, np.zeros(-len(sums) % FAN)))
