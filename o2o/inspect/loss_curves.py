"""What each loss weighed while a run learned: a picture of its metrics."""

from pathlib import Path

import numpy as np

from o2o.core.run_log import read_metrics
from o2o.core.video import write_picture

WEIGHTED, SIGMA = "balance/weighted_", "balance/sigma_"
NUM_POINTS = 400  # of a curve, however long the run
WIDTH, HEIGHT = 6.5, 4.2  # inches of a panel
COLORS = {
    "obs": "#33415c", "dynamics": "#e4572e", "reward": "#17a398", "discount": "#f3a712", "q": "#7d5ba6",
    "v": "#c08497", "consistency": "#5c9ead", "entropy": "#6a994e",
}  # fmt: skip
OTHER, LEVEL = "#8d99ae", "#c9ced6"  # a stranger's loss; the line at 1

Curve = tuple[np.ndarray, np.ndarray]  # updates (n,) and what was measured then (n,)


def picture(folder: Path, path: Path) -> bool:
    """Draws the weighted losses of a run's updates, and Harmony's sigmas beside them, as a PNG.

    Returns:
        False, and no file, where the run has logged none.
    Raises:
        StorageError: the file cannot be written.
        UsageError: the folder has no readable metrics.
    """
    lines = [line for line in read_metrics(folder) if line["phase"] == "offline"]
    weighted, sigma = curves(lines, WEIGHTED), curves(lines, SIGMA)
    if not weighted:
        return False
    write_picture(path, _draw(weighted, sigma))
    return True


def curves(lines: list[dict], prefix: str) -> dict[str, Curve]:
    """name -> curve of each metric under the prefix, as far as it is above zero."""
    names = dict.fromkeys(name for line in lines for name in line if name.startswith(prefix))
    found = {}
    for name in names:
        points = [(line["step"], line[name]) for line in lines if line.get(name, 0) > 0]
        if points:
            steps, values = np.array(points, float).T
            found[name.removeprefix(prefix)] = steps, values
    return found


def _draw(weighted: dict[str, Curve], sigma: dict[str, Curve]):
    from matplotlib.figure import Figure

    panels = {"weighted losses": weighted}
    if sigma:
        panels = {
            r"weighted losses; loss / $\sigma$ settles below 1": weighted,
            r"$\sigma$; a loss counts 1 / $\sigma$": sigma,
        }
    figure = Figure(figsize=(WIDTH * len(panels), HEIGHT), layout="constrained")
    every_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, entries) in zip(every_axes, panels.items(), strict=True):
        _show(axes, entries)
        axes.axhline(1, color=LEVEL, lw=1, zorder=1)
        axes.set_title(title, fontsize=10)
    handles, labels = every_axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, handlelength=1.2
    )
    return figure


def _show(axes, entries: dict[str, Curve]) -> None:
    """Curves over updates on a logarithmic scale, each in the band that its values filled."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    bottom, top, end = 1.0, 1.0, 0
    for name, (steps, values) in entries.items():
        step, low, mean, high = _thinned(steps, values)
        color = COLORS.get(name, OTHER)
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


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """(last step, lowest, mean, highest) of at most `NUM_POINTS` stretches of a curve, each (n,)."""
    number = min(len(steps), NUM_POINTS)
    last = np.array([part[-1] for part in np.array_split(steps, number)])
    parts = np.array_split(values, number)
    return last, *(np.array([measure(part) for part in parts]) for measure in (np.min, np.mean, np.max))
