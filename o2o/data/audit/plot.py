"""A recording at a glance: how long its episodes are, what they earn, what was done."""

from pathlib import Path

import numpy as np

from o2o.core.transform import Transform
from o2o.core.video import write_figure
from o2o.data.audit.actions import recorded
from o2o.data.audit.timestamps import all_gaps
from o2o.data.formats.recording import Recording

WIDTH, HEIGHT = 4.4, 3.4  # inches of a panel
ONE, OTHER, LIMIT = "#33415c", "#e4572e", "#8d99ae"
NUM_BINS, NUM_STEPS = 30, 100_000  # steps that percentiles are measured on


def draw(path: Path, recording: Recording, transform: Transform) -> None:
    """Writes histograms of lengths, returns, rewards and gaps between stamps, and the actions' ranges.

    Raises:
        StorageError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    every = all_gaps(recording)
    panels = [_lengths, _returns, _rewards, _actions, *([_gaps] if len(every) else [])]
    columns = (len(panels) + 1) // 2
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * 2), layout="constrained")
    figure.suptitle(f"{recording.name}: {len(recording.episodes)} episodes", fontsize=11)
    for number, show in enumerate(panels, 1):
        axes = figure.add_subplot(2, columns, number)
        show(axes, recording, transform)
        axes.title.set_fontsize(10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    write_figure(path, figure)


def _lengths(axes, recording: Recording, transform: Transform) -> None:
    lengths = np.array([len(e) for e in recording.episodes])
    ended = np.array([e.terminated for e in recording.episodes])
    _stacked(axes, {"cut off": lengths[~ended], "terminated": lengths[ended]})
    axes.set(title="length, steps", ylabel="episodes")


def _returns(axes, recording: Recording, transform: Transform) -> None:
    returns = np.array([e.episode_return for e in recording.episodes])
    done = np.array([e.success is True for e in recording.episodes])
    rest = "all" if all(e.success is None for e in recording.episodes) else "no success"
    _stacked(axes, {rest: returns[~done], "success": returns[done]})
    axes.set(title="return, as recorded", ylabel="episodes")


def _rewards(axes, recording: Recording, transform: Transform) -> None:
    rewards = np.concatenate([e.reward for e in recording.episodes])
    _counted(axes, rewards, "reward, as recorded")


def _actions(axes, recording: Recording, transform: Transform) -> None:
    """Every entry as the model's limits see it: all values thin, the middle 98 % thick."""
    low, high = np.array(transform.action_low), np.array(transform.action_high)
    thin = max(sum(map(len, recording.episodes)) // NUM_STEPS, 1)
    middle = np.percentile(np.concatenate([e.action[::thin] for e in recording.episodes]), (1, 99), axis=0)
    for pair, width in ((recorded(recording), 1), (middle, 4)):
        bottom, top = (2 * (side - low) / (high - low) - 1 for side in pair)
        axes.vlines(np.arange(len(low)), bottom, top, color=ONE, lw=width)
    for limit in (-1, 1):
        axes.axhline(limit, color=LIMIT, ls="--", lw=1)
    axes.set(title="actions, limits at -1 and 1", xlabel="entry")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _gaps(axes, recording: Recording, transform: Transform) -> None:
    gaps = 1000 * all_gaps(recording)
    near = 0.9 * np.median(gaps), 1.1 * np.median(gaps)  # rounding alone does not fill the panel
    span = min(gaps.min(), near[0]), max(gaps.max(), near[1])
    _counted(axes, gaps, "gap between time stamps, ms", span)
    if recording.control_hz:
        axes.axvline(1000 / recording.control_hz, color=OTHER, ls="--", lw=1)


def _counted(axes, values: np.ndarray, title: str, span: tuple[float, float] | None = None) -> None:
    """A histogram of steps, on a scale that shows single ones."""
    axes.hist(values, NUM_BINS, range=span, color=ONE)
    axes.set(title=title, ylabel="steps", yscale="log", ylim=(0.5, None))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter("")


def _stacked(axes, groups: dict[str, np.ndarray]) -> None:
    """A histogram of all groups, one on the other, named where there are two."""
    shown = {name: values for name, values in groups.items() if len(values)}
    colours = dict(zip(groups, (ONE, OTHER), strict=True))
    axes.hist(
        list(shown.values()), NUM_BINS, stacked=True, label=list(shown), color=[colours[n] for n in shown]
    )
    axes.yaxis.get_major_locator().set_params(integer=True)
    if len(shown) > 1 or "all" not in shown:
        # Not left out: where "best" is the default, to look for it longer than a second is warned about.
        axes.legend(loc="best", frameon=False, fontsize=8)
