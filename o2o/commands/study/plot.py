"""Draws a study: for each task the online episodes, and the scores before and after them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from o2o.commands.compare.plot import COLOURS, SIGN, tidy
from o2o.commands.compare.trial import Trial
from o2o.commands.study.result import WINDOW, curve, running_mean
from o2o.commands.study.table import measures
from o2o.core.video import write_figure
from o2o.inspect.charts.chart import DATA

WIDTH, HEIGHT = 12.0, 3.0  # inches; the height is that of one task
LINES = {"policy": "--", "planner": "-"}


def draw(path: Path, result: dict, trials: Sequence[Trial]) -> None:
    """Writes the chart as a PNG: one row a task, one colour a preset.

    Raises:
        StorageError: the file cannot be written.
    """
    write_figure(path, _figure(result, trials), dpi=120)


def _figure(result: dict, trials: Sequence[Trial]):
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    tasks = result["tasks"]
    names = dict.fromkeys(name for task in tasks.values() for name in task["presets"])
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    figure = Figure(figsize=(WIDTH, HEIGHT * len(tasks) + 0.5), layout="constrained")
    panels = figure.subplots(len(tasks), 2, squeeze=False)
    for (left, right), (name, task) in zip(panels, tasks.items(), strict=True):
        measure = measures(task)[0]
        mine = [trial for trial in trials if trial.task == name]
        _show_curves(left, colours, measure, mine, task["presets"])
        _show_scores(right, colours, measure, task["presets"])
        for axes in (left, right):
            if task["data"].get(measure) is not None:
                axes.axhline(task["data"][measure], color=DATA, ls=":", lw=1.2, zorder=1)
            axes.set(xlabel="online episodes", ylabel=measure)
        tidy(left, f"{name}: the last {WINDOW} episodes while fine-tuning (circle: before)")
        tidy(right, f"{name}: fixed scenes, 95 % intervals")
    legend = [Line2D([], [], color=colour, lw=2.4, label=name) for name, colour in colours.items()]
    legend += [Line2D([], [], color=SIGN, ls=style, label=actor) for actor, style in LINES.items()]
    legend.append(Line2D([], [], color=DATA, ls=":", label="the data"))
    figure.legend(handles=legend, loc="outside lower center", ncols=len(legend), frameon=False, fontsize=9)
    return figure


def _show_curves(axes, colours: dict[str, str], measure: str, trials: Sequence[Trial], rows: dict) -> None:
    """Draws the running mean of every run as a thin line, their mean as a thick one, and where it starts."""
    for name, row in rows.items():
        start, colour = row["scores"][f"{row['acts']}-0"], colours[name]
        if start:
            axes.plot(0, start[measure], "o", ms=8, mfc="white", mec=colour, mew=1.8)
        found = [curve(trial)[measure] for trial in trials if trial.name == name and curve(trial)]
        if not found:
            continue
        lines = [running_mean(values) for values in found]
        ends = np.arange(len(lines[0])) + min(WINDOW, len(found[0]))  # episodes at the end of each window
        for line in lines if len(lines) > 1 else []:
            axes.plot(ends, line, color=colour, lw=0.9, alpha=0.4)
        axes.plot(ends, np.mean(lines, 0), color=colour, lw=2.4, marker="o", ms=3)


def _show_scores(axes, colours: dict[str, str], measure: str, rows: dict) -> None:
    """Draws the scores of policy and planner over the online episodes before them."""
    for name, row in rows.items():
        for actor, style in LINES.items():
            scores = {int(stage.partition("-")[2]): score for stage, score in row["scores"].items()
                      if score and stage.startswith(f"{actor}-")}  # fmt: skip
            if scores:
                low, high = np.array([score[f"{measure}_95"] for score in scores.values()]).T
                values = [score[measure] for score in scores.values()]
                axes.plot(list(scores), values, color=colours[name], ls=style, marker="o", ms=5)
                axes.vlines(list(scores), low, high, color=colours[name], lw=2, alpha=0.4)
