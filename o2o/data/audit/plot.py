"""Plots the lengths, returns, rewards, actions and time gaps of a recording."""

from pathlib import Path

import numpy as np

from o2o.core.transform import Transform
from o2o.core.video import write_figure
from o2o.data.audit.actions import action_range
from o2o.data.audit.timestamps import valid_gaps
from o2o.data.formats.recording import Recording

WIDTH, HEIGHT = 4.4, 3.4  # size of a panel in inches
PRIMARY, SECONDARY, LIMIT = "#33415c", "#e4572e", "#8d99ae"
NUM_BINS, NUM_STEPS = 30, 100_000  # bins of a histogram; steps used for percentiles


def draw(path: Path, recording: Recording, transform: Transform) -> None:
    """Writes histograms of lengths, returns, rewards and time gaps, and the ranges of the actions.

    Raises:
        StorageError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    gaps = valid_gaps(recording)
    panels = [_lengths, _returns, _rewards, _actions, *([_gaps] if len(gaps) else [])]
    columns = (len(panels) + 1) // 2
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * 2), layout="constrained")
    figure.suptitle(f"{recording.name}: {len(recording.episodes)} episodes", fontsize=11)
    for number, plot_panel in enumerate(panels, 1):
        axes = figure.add_subplot(2, columns, number)
        plot_panel(axes, recording, transform)
        axes.title.set_fontsize(10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    write_figure(path, figure)


def _lengths(axes, recording: Recording, transform: Transform) -> None:
    lengths = np.array([len(e) for e in recording.episodes])
    ended = np.array([e.terminated for e in recording.episodes])
    _stacked_histogram(axes, {"truncated": lengths[~ended], "terminated": lengths[ended]})
    axes.set(title="length, steps", ylabel="episodes")


def _returns(axes, recording: Recording, transform: Transform) -> None:
    returns = np.array([e.episode_return for e in recording.episodes])
    done = np.array([e.success is True for e in recording.episodes])
    other = "all" if all(e.success is None for e in recording.episodes) else "no success"
    _stacked_histogram(axes, {other: returns[~done], "success": returns[done]})
    axes.set(title="return, as recorded", ylabel="episodes")


def _rewards(axes, recording: Recording, transform: Transform) -> None:
    rewards = np.concatenate([e.reward for e in recording.episodes])
    _log_histogram(axes, rewards, "reward, as recorded")


def _actions(axes, recording: Recording, transform: Transform) -> None:
    """Plots the range of each entry, scaled by the limits: thin for all values, thick for the middle 98 %."""
    low, high = np.array(transform.action_low), np.array(transform.action_high)
    stride = max(sum(map(len, recording.episodes)) // NUM_STEPS, 1)
    middle = np.percentile(np.concatenate([e.action[::stride] for e in recording.episodes]), (1, 99), axis=0)
    for pair, width in ((action_range(recording), 1), (middle, 4)):
        bottom, top = (2 * (side - low) / (high - low) - 1 for side in pair)
        axes.vlines(np.arange(len(low)), bottom, top, color=PRIMARY, lw=width)
    for limit in (-1, 1):
        axes.axhline(limit, color=LIMIT, ls="--", lw=1)
    axes.set(title="actions, limits at -1 and 1", xlabel="entry")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _gaps(axes, recording: Recording, transform: Transform) -> None:
    gaps = 1000 * valid_gaps(recording)
    near = 0.9 * np.median(gaps), 1.1 * np.median(gaps)  # keeps rounding errors from filling the panel
    span = min(gaps.min(), near[0]), max(gaps.max(), near[1])
    _log_histogram(axes, gaps, "gap between timestamps, ms", span)
    if recording.control_hz:
        axes.axvline(1000 / recording.control_hz, color=SECONDARY, ls="--", lw=1)


def _log_histogram(axes, values: np.ndarray, title: str, span: tuple[float, float] | None = None) -> None:
    """Plots a histogram of steps on a logarithmic scale that shows single steps."""
    axes.hist(values, NUM_BINS, range=span, color=PRIMARY)
    axes.set(title=title, ylabel="steps", yscale="log", ylim=(0.5, None))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter("")


def _stacked_histogram(axes, groups: dict[str, np.ndarray]) -> None:
    """Plots a stacked histogram of the groups, with a legend if there are two."""
    shown = {name: values for name, values in groups.items() if len(values)}
    colors = dict(zip(groups, (PRIMARY, SECONDARY), strict=True))
    axes.hist(
        list(shown.values()), NUM_BINS, stacked=True, label=list(shown), color=[colors[n] for n in shown]
    )
    axes.yaxis.get_major_locator().set_params(integer=True)
    if len(shown) > 1 or "all" not in shown:
        # "best" is explicit: as a default, matplotlib warns if the search takes more than a second.
        axes.legend(loc="best", frameon=False, fontsize=8)
