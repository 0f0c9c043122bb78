"""Writes the report of a sweep: every trial, the best one, and whether it is better than the preset."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from o2o.commands.compare import result
from o2o.commands.compare.table import aligned, return_text, success_text
from o2o.commands.compare.trial import Trial
from o2o.commands.sweep.search import Outcome
from o2o.core import checkpoint
from o2o.core.text import count
from o2o.core.video import write_figure
from o2o.inspect.charts.chart import DATA, PLAN, Chart, Points, Rule, to_matplotlib
from o2o.training.evaluate import Score


def best(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Returns the complete trial of the highest value, the first of equals; None if none is complete."""
    complete = [outcome for outcome in outcomes if outcome.value is not None]
    return max(complete, key=lambda outcome: (outcome.value, -outcome.number), default=None)


def comparison(default: Sequence[Trial], chosen: Sequence[Trial]) -> dict | None:
    """Returns figures of the preset and of the best trial over further seeds; None before any seed is done.

    Args:
        default, chosen: their runs, seed by seed.
    """
    pairs = [(_score(one), _score(other)) for one, other in zip(default, chosen, strict=True)]
    both = [(one, other) for one, other in pairs if one and other]
    if not both:
        return None
    return {
        "default": result.rates([one for one, _ in both]),
        "best": result.rates([other for _, other in both]),
        "difference": result.gain(both),
        "failed": len(pairs) - len(both),
    }


def _score(trial: Trial) -> Score | None:
    return trial.score(trial.stages[-1])


def verdict(preset: str, chosen: Outcome | None, compared: dict | None) -> str:
    """Returns one sentence: whether the best trial is better than the preset, with the interval."""
    if chosen is None:
        return "No trial is complete."
    if chosen.number == 0:
        return f"No trial was better than {preset} itself."
    name = f"Trial {chosen.number} ({_typed(chosen.values)})"
    if compared is None:
        return f"{name} is the best on the seed of the search; it was not compared on further seeds."
    gain, where = compared["difference"], count(compared["difference"]["seeds"], "further seed")
    for measure, text in (("success", _percent), ("return", "{:.4g}".format)):
        low, high = gain[f"{measure}_95"]
        numbers = f"{measure} {text(gain[measure])} higher [{text(low)}, {text(high)}], {where}"
        if low > 0:
            return f"{name} is better than {preset} itself: {numbers}."
        if low < 0 < high or high < 0 or measure == "return":
            return f"{name} is not shown to be better than {preset} itself: {numbers}."
    raise AssertionError


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _typed(values: Mapping[str, str]) -> str:
    return " ".join(f"--{name} {value}" for name, value in values.items())


def table(found: dict) -> str:
    """Returns the report as Markdown, from `result.json`."""
    names = found["names"]
    rows = [("trial", *names, "success", "return", "state")]
    for row in found["trials"]:
        figures = row["figures"] or {}
        own = [row["values"].get(name, "preset's") for name in names]
        rows.append((str(row["number"]), *own, success_text(figures), return_text(figures), row["state"]))
    lines = [found["title"], "", *aligned(rows), "", found["verdict"]]
    compared = found["comparison"]
    if compared:
        rows = [("on further seeds", "success", "return")]
        for name, key in ((found["preset"], "default"), (f"trial {found['best']}", "best")):
            rows.append((name, success_text(compared[key]), return_text(compared[key])))
        lines += ["", *aligned(rows)]
    return "\n".join([*lines, "", "95 % intervals; those of further seeds are over seeds and scenes."])


def trial_row(outcome: Outcome, trial: Trial) -> dict:
    """Returns one trial as plain data; its figures are None unless it is complete.

    Args:
        trial: run in its folder, of any values.
    """
    score = _score(trial) if outcome.state == "complete" else None
    return {**vars(outcome), "figures": result.rates([score]) if score else None}


def write(folder: Path, found: dict) -> str:
    """Writes `result.json`, `table.md` and `sweep.png`; returns the table.

    Raises:
        StorageError: a file cannot be written.
    """
    text = table(found)
    checkpoint.write_json(folder / "result.json", found)
    checkpoint.write_text(folder / "table.md", text + "\n")
    if charts := _charts(found):
        write_figure(folder / "sweep.png", to_matplotlib(charts), dpi=110)
    return text


def _charts(found: dict) -> list[Chart]:
    """Returns a chart for each flag whose values are numbers: success, or return where none succeeds."""
    done = [row for row in found["trials"] if row["figures"]]
    measure = "success" if any(row["figures"]["success"] for row in done) else "return"
    default = [row["figures"][measure] for row in done if row["number"] == 0]
    charts = []
    for name in found["names"]:
        points = [(row["values"][name], row) for row in done if _is_number(row["values"].get(name))]
        if points:
            x = np.array([float(value) for value, _ in points])
            y = np.array([row["figures"][measure] for _, row in points])
            chosen = np.array([row["number"] == found["best"] for _, row in points])
            marks = [Points(x, y, "trial", DATA), Points(x[chosen], y[chosen], "best", PLAN, size=9.0)]
            rules = [Rule(y=value, name="the preset itself") for value in default]
            charts.append(Chart(f"--{name}", name, measure, [*marks, *rules]))
    return charts


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and bool(np.isfinite(float(text)))
    except ValueError:
        return False
