"""Plots the weighted losses of a run over its updates."""

from pathlib import Path

import numpy as np

from o2o.core.run_log import read_metrics
from o2o.core.video import write_figure

WEIGHTED, SIGMA = "balance/weighted_", "balance/sigma_"
NUM_POINTS = 400  # of a curve, at most
WIDTH, HEIGHT = 6.5, 4.2  # inches per panel
COLORS = {
    "obs": "#33415c", "dynamics": "#e4572e", "reward": "#17a398", "discount": "#f3a712", "q": "#7d5ba6",
    "v": "#c08497", "consistency": "#5c9ead", "entropy": "#6a994e",
}  # fmt: skip
OTHER_LOSS, UNIT_LINE = "#8d99ae", "#c9ced6"  # color of any other loss; color of the line at 1

Curve = tuple[np.ndarray, np.ndarray]  # updates (n,) and values (n,)


def plot_losses(folder: Path, path: Path) -> bool:
    """Writes a PNG of the weighted losses of a run's updates and, if they were logged, of Harmony's sigmas.

    Returns:
        False, without a file, if the run has logged no weighted losses.
    Raises:
        StorageError: the file cannot be written.
        UsageError: the metrics of the folder cannot be read.
    """
    lines = [line for line in read_metrics(folder) if line["phase"] == "offline"]
    weighted, sigma = read_curves(lines, WEIGHTED), read_curves(lines, SIGMA)
    if not weighted:
        return False
    write_figure(path, _draw(weighted, sigma))
    return True


def read_curves(lines: list[dict], prefix: str) -> dict[str, Curve]:
    """Returns name -> curve of the positive values of each metric with the prefix, which the name omits."""
    names = dict.fromkeys(name for line in lines for name in line if name.startswith(prefix))
    curves = {}
    for name in names:
        points = [(line["step"], line[name]) for line in lines if line.get(name, 0) > 0]
        if points:
            steps, values = np.array(points, float).T
            curves[name.removeprefix(prefix)] = steps, values
    return curves


def _draw(weighted: dict[str, Curve], sigma: dict[str, Curve]):
    from matplotlib.figure import Figure

    panels = {"weighted losses": weighted}
    if sigma:
        panels = {
            r"weighted losses; loss / $\sigma$ converges below 1": weighted,
            r"$\sigma$; the weight of a loss is 1 / $\sigma$": sigma,
        }
    figure = Figure(figsize=(WIDTH * len(panels), HEIGHT), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, entries) in zip(all_axes, panels.items(), strict=True):
        _show(axes, entries)
        axes.axhline(1, color=UNIT_LINE, lw=1, zorder=1)
        axes.set_title(title, fontsize=10)
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, handlelength=1.2
    )
    return figure


def _show(axes, entries: dict[str, Curve]) -> None:
    """Draws curves over updates on a logarithmic scale, each with its minimum-to-maximum band."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    bottom, top, end = 1.0, 1.0, 0
    for name, (steps, values) in entries.items():
        step, low, mean, high = _downsample(steps, values)
        color = COLORS.get(name, OTHER_LOSS)
        axes.fill_between(step, low, high, color=color, alpha=0.18, lw=0)
        axes.plot(step, mean, color=color, lw=1.6, marker="" if len(step) > 1 else "o", label=name)
        bottom, top, end = min(bottom, mean.min()), max(top, mean.max()), max(end, step[-1])
    axes.set(yscale="log", ylim=(bottom / 2, top * 2), xlim=(0, 1.02 * end), xlabel="updates")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if top < 1e3 * bottom else (1,)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _downsample(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns (last step, minimum, mean, maximum), each (n,), of at most `NUM_POINTS` parts of a curve."""
    num_parts = min(len(steps), NUM_POINTS)
    last = np.array([part[-1] for part in np.array_split(steps, num_parts)])
    parts = np.array_split(values, num_parts)
    return last, *(np.array([reduce(part) for part in parts]) for reduce in (np.min, np.mean, np.max))
