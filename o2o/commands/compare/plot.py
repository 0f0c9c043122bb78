"""Draws a comparison: learning curves of each preset, and its scores before and after fine-tuning."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from o2o.commands.compare.table import title
from o2o.commands.compare.trial import Trial
from o2o.core.run_log import METRICS, read_metrics
from o2o.core.video import write_figure
from o2o.inspect.charts.chart import DATA

COLOURS = ("#e4572e", "#17a398", "#f3a712", "#7d5ba6", "#6a994e", "#c08497", "#5c9ead")
SIGN = "#4a4e57"
WIDTH, HEIGHT = 12.0, 6.4  # inches
SMOOTH = 0.2  # share of the episodes in a running mean

Curve = tuple[np.ndarray, np.ndarray]  # steps (n,) and values (n,)


def draw(path: Path, result: dict, trials: Sequence[Trial]) -> None:
    """Writes the chart as a PNG, with one colour per preset.

    Raises:
        StorageError: the file cannot be written.
    """
    write_figure(path, _figure(result, trials), dpi=120)


def _figure(result: dict, trials: Sequence[Trial]):
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(result["presets"])}
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    figure.suptitle(title(result), fontsize=10)
    left, right = figure.subfigures(1, 2, width_ratios=(1.2, 1), squeeze=False)[0]
    _show_learning(left, colours, result["data"]["return"], trials)
    _show_scores(right, colours, result)
    legend = [
        Line2D([], [], color=SIGN, lw=2.4, label="mean over seeds (thin lines: seeds)"),
        Line2D([], [], color=DATA, ls="--", label="the data"),
        Line2D([], [], color=SIGN, marker="o", ls="", ms=8, mfc="white", label="after pretraining"),
        Line2D([], [], color=SIGN, marker="o", ls="", ms=8, label="after fine-tuning"),
        Line2D([], [], color=SIGN, lw=2, alpha=0.5, label="95 % interval"),
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=len(legend), frameon=False, fontsize=9)
    return figure


# ---- learning


def _show_learning(part, colours: dict[str, str], level: float, trials: Sequence[Trial]) -> None:
    """Draws return over online episodes and, where there were evaluations, over offline updates."""
    share = f"running mean over {SMOOTH:.0%} of them"
    kinds = {
        ("pretrain", "evaluate/return"): ("evaluations while pretraining", "updates", 0.0),
        ("finetune", "return"): (f"episodes while fine-tuning, {share}", "episodes", SMOOTH),
    }
    found = {}
    for kind, (_, _, width) in kinds.items():
        curves = [(trial.name, _curve(trial.folder, *kind, width)) for trial in trials]
        found[kind] = [(name, line) for name, line in curves if len(line[0])]
    shown = [kind for kind in kinds if found[kind]]
    panels = part.subplots(max(len(shown), 1), 1, squeeze=False)[:, 0]
    for axes, kind in zip(panels, shown, strict=False):
        about, unit, _ = kinds[kind]
        for name, colour in colours.items():
            _show_seeds(axes, colour, [line for owner, line in found[kind] if owner == name])
        axes.axhline(level, color=DATA, ls="--", lw=1.2, zorder=1)
        axes.set(xlabel=unit, ylabel="return")
        axes.xaxis.get_major_locator().set_params(integer=True)
        tidy(axes, about)
    if not shown:
        panels[0].axis("off")


def _curve(folder: Path, stage: str, name: str, share: float) -> Curve:
    """A metric of a stage, smoothed by a running mean over a fraction of its points."""
    lines = read_metrics(folder / stage) if (folder / stage / METRICS).exists() else []
    points = [(line["step"], line[name]) for line in lines if name in line]
    if not points:
        return np.empty(0), np.empty(0)
    steps, values = np.array(points, float).T
    window = np.ones(max(1, round(share * len(values))))
    return steps, np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def _show_seeds(axes, colour: str, lines: list[Curve]) -> None:
    """Draws each seed as a thin line, and their mean as a thick line as far as all seeds reach."""
    if not lines:
        return
    marker = "o" if max(len(steps) for steps, _ in lines) < 20 else ""
    if len(lines) > 1:
        for steps, values in lines:
            axes.plot(steps, values, color=colour, lw=0.9, alpha=0.4)
    common = min(len(steps) for steps, _ in lines)
    mean = np.mean([values[:common] for _, values in lines], 0)
    axes.plot(lines[0][0][:common], mean, color=colour, lw=2.4, marker=marker, ms=4)


# ---- scores


def _show_scores(part, colours: dict[str, str], result: dict) -> None:
    """Draws success (unless all are zero) and return, each before and after fine-tuning."""
    rows = [
        result["data"],
        *(row[stage] for row in result["presets"].values() for stage in ("offline", "online")),
    ]
    kinds = {"success": "success at any step", "return": "return"}
    shown = [kind for kind in kinds if kind == "return" or any(row and row.get(kind) for row in rows)]
    panels = part.subplots(len(shown), 1, squeeze=False)[:, 0]
    for axes, kind in zip(panels, shown, strict=True):
        if result["data"].get(kind) is not None:
            axes.axvline(result["data"][kind], color=DATA, ls="--", lw=1.2, zorder=1)
        for place, (name, row) in enumerate(result["presets"].items()):
            _show_pair(axes, place, colours[name], row, kind)
        tidy(axes, kinds[kind])
        _name_rows(axes, colours)
        if kind == "success":
            axes.set_xlim(-0.02, 1.02)
            axes.xaxis.set_major_formatter(lambda value, place: f"{value:.0%}")


def _show_pair(axes, place: int, colour: str, row: dict, kind: str) -> None:
    """Draws offline above online scores, with their intervals."""
    stages = {stage: row[stage] for stage in ("offline", "online") if row[stage]}
    if not stages:
        where = axes.get_yaxis_transform()
        axes.text(0.5, place, "no finished run", color=colour, fontsize=8, ha="center", transform=where)
        return
    heights = {"offline": place - 0.14, "online": place + 0.14}
    means = [(figures[kind], heights[stage]) for stage, figures in stages.items()]
    axes.plot(*zip(*means, strict=True), color=colour, lw=1, alpha=0.5, ls=":")
    for stage, figures in stages.items():
        height = heights[stage]
        axes.plot(
            figures[f"{kind}_95"], [height, height], color=colour, lw=2, alpha=0.5, solid_capstyle="butt"
        )
        face = colour if stage == "online" else "white"
        axes.plot(figures[kind], height, "o", ms=8, mfc=face, mec=colour, mew=1.8)


def _name_rows(axes, colours: dict[str, str]) -> None:
    """Labels the rows in the colours of the curves; the flags of a variant get a line each."""
    axes.set_ylim(len(colours) - 0.5, -0.5)
    axes.set_yticks(range(len(colours)), [name.replace(":", "\n").replace(",", "\n") for name in colours])
    for label, colour in zip(axes.get_yticklabels(), colours.values(), strict=True):
        label.set(color=colour, fontsize=9, fontweight="bold")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def tidy(axes, about: str) -> None:
    """Gives a plot its title and a light grid."""
    axes.set_title(about, fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
