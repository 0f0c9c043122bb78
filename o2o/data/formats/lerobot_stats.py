"""Computes the statistics that LeRobot normalizes by, of each episode and of all of them together."""

from collections.abc import Mapping, Sequence

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
Stats = dict[str, np.ndarray]  # min, max, mean, std, count and the quantiles


def of_values(values: np.ndarray) -> Stats:
    """Returns the statistics of (L, *shape) numbers along the first axis; those of (L,) have shape (1,)."""
    rows = np.asarray(values, np.float64).reshape(len(values), *(values.shape[1:] or (1,)))
    stats = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    stats["count"] = np.array([len(rows)])
    return stats | dict(zip(QUANTILES, np.quantile(rows, list(QUANTILES.values()), axis=0), strict=True))


class ImageStats:
    """Statistics of each channel of images that are added in parts, as fractions of the largest value."""

    def __init__(self, channels: int, dtype: np.dtype):
        self._counts = np.zeros((channels, np.iinfo(dtype).max + 1), np.int64)
        self._images = 0

    def add(self, images: np.ndarray) -> None:
        """Adds (L, H, W, C) images."""
        size = self._counts.shape[1]
        for channel, counts in enumerate(self._counts):
            counts += np.bincount(images[..., channel].ravel(), minlength=size)
        self._images += len(images)

    def result(self) -> Stats:
        """Returns statistics of shape (C, 1, 1), and the number of images as their count."""
        levels = np.linspace(0.0, 1.0, self._counts.shape[1])
        total = self._counts.sum(1, keepdims=True)
        weight = self._counts / total
        mean = weight @ levels
        variance = (weight * (levels - mean[:, None]) ** 2).sum(1)
        up_to = np.cumsum(self._counts, 1)
        columns = {
            "min": levels[(self._counts > 0).argmax(1)],
            "max": levels[::-1][(self._counts[:, ::-1] > 0).argmax(1)],
            "mean": mean,
            "std": np.sqrt(variance),
            **{name: levels[(up_to >= level * total).argmax(1)] for name, level in QUANTILES.items()},
        }
        stats = {name: column[:, None, None] for name, column in columns.items()}
        return stats | {"count": np.array([self._images])}


def combine(parts: Sequence[Mapping[str, np.ndarray]]) -> Stats:
    """Returns the statistics of all episodes from those of each.

    As in LeRobot's `aggregate_stats`, a quantile is the mean of the episodes', weighted by their frames.
    """
    counts = np.array([float(part["count"][0]) for part in parts])
    weight = counts / counts.sum()

    def weighted(values: np.ndarray) -> np.ndarray:
        return np.tensordot(weight, values, 1)

    stacked = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    mean = weighted(stacked["mean"])
    return {
        "min": stacked["min"].min(0),
        "max": stacked["max"].max(0),
        "mean": mean,
        "std": np.sqrt(weighted(stacked["std"] ** 2 + (stacked["mean"] - mean) ** 2)),
        "count": stacked["count"].sum(0),
        **{name: weighted(stacked[name]) for name in QUANTILES},
    }
