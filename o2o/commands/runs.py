"""Lists runs and shows one of them: `o2o runs` and `o2o show`."""

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from o2o.core.errors import UsageError
from o2o.core.progress import format_duration
from o2o.core.run_folder import RUN_INFO
from o2o.core.run_log import versions
from o2o.core.run_summary import RunSummary, find, metrics_of, saved_versions, summarize
from o2o.core.text import printable

BARS = "▁▂▃▄▅▆▇█"
CURVES = ("evaluate/success", "evaluate/return", "success", "return", "plan/disagreement")
MAX_BARS, MAX_NAMED = 40, 6


@dataclass(frozen=True)
class RunsConfig:
    """Options of `o2o runs`.

    Attributes:
        folder: Folder that is searched, with the folders in it.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")] = Path("runs")


@dataclass(frozen=True)
class ShowConfig:
    """Options of `o2o show`.

    Attributes:
        run: Folder of the run, or a folder that holds one run.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]


def runs(config: RunsConfig) -> None:
    """Prints a table of the runs in a folder, in the order in which they began.

    Raises:
        UsageError: there is no such folder.
    """
    if not config.folder.is_dir():
        raise UsageError(f"{config.folder} is no folder; wanted one with runs, such as runs/")
    summaries, problems = [], []
    for folder in find(config.folder):
        try:
            summaries.append(summarize(folder))
        except UsageError as error:
            problems.append(str(error))
    summaries.sort(key=lambda one: one.start)
    if summaries:
        print("\n".join(_table(summaries)))
    else:
        print(f"no runs in {config.folder}; `o2o demo` makes some")
    for problem in problems:
        print(f"not listed: {printable(problem)}")


def show(config: ShowConfig) -> None:
    """Prints a run: its command line, when it ran and with which versions, its success and its curves.

    Raises:
        UsageError: there is no run, or more than one.
    """
    run = summarize(one_run(config.run))
    rows = [("run", str(run.folder)), ("command line", command_line(run.info)), ("started", _when(run))]
    rows += [("data", _data(run)), ("robot", run.robot), ("seed", str(run.info["config"].get("seed", "")))]
    rows += [("success", _success(run)), ("versions", _versions(run.info))]
    print("\n".join(f"{name:<14}{printable(text)}" for name, text in rows if text))
    lines = curves(metrics_of(run.folder))
    if lines:
        print("\n".join(["", *lines]))


def one_run(path: Path) -> Path:
    """Returns the folder if it is a run, else the one run in it.

    Raises:
        UsageError: there is none, or more than one; the line names them.
    """
    if (path / RUN_INFO).is_file() or not path.is_dir():
        return path
    inside = find(path)
    if len(inside) == 1:
        return inside[0]
    if not inside:
        raise UsageError(f"{path} holds no run; `o2o runs DIR` lists those in a folder")
    names = ", ".join(map(str, inside[:MAX_NAMED])) + (", ..." if len(inside) > MAX_NAMED else "")
    raise UsageError(f"{path} holds {len(inside)} runs; name one of them: {names}")


def command_line(info: Mapping) -> str:
    """Returns what the user typed to begin a run; empty where that is unknown."""
    words = info.get("command_line")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return ""
    return shlex.join(["o2o", *words]) if words else "none: Python code began the run"


def curves(metrics: Sequence[Mapping]) -> list[str]:
    """Returns a line for each curve: phase, name, bars, the first and the last bar, and where these are."""
    names = {name: None for line in metrics for name in line}
    wanted = [*CURVES, *(name for name in names if name.startswith("loss/"))]
    lines = []
    for phase in dict.fromkeys(line["phase"] for line in metrics):
        own = [line for line in metrics if line["phase"] == phase]
        lines += [_curve(phase, name, own) for name in wanted if any(_is_known(line, name) for line in own)]
    return lines


def _curve(phase: str, name: str, metrics: Sequence[Mapping]) -> str:
    points = [line for line in metrics if _is_known(line, name)]
    width = min(MAX_BARS, max(10, shutil.get_terminal_size().columns - 60))
    means = bin_means([line[name] for line in points], width)
    unit = "episode" if phase == "online" else "update"
    ends = f"{means[0]:.3g} -> {means[-1]:.3g}  ({unit} {points[0]['step']} to {points[-1]['step']})"
    return printable(f"{phase:<9}{name:<22}{sparkline(means):<{width}}  {ends}")


def bin_means(values: Sequence[float], count: int) -> list[float]:
    """Returns the means of at most `count` successive parts of as many values each."""
    parts = np.array_split(np.array(values), min(count, len(values)))
    return [float(part.mean()) for part in parts]


def _is_known(line: Mapping, name: str) -> bool:
    return bool(np.isfinite(line.get(name, np.nan)))


def sparkline(values: Sequence[float]) -> str:
    """Returns a bar for each value, from the lowest to the highest."""
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in values)


def _table(summaries: Sequence[RunSummary]) -> list[str]:
    head = ("run", "command", "began", "took", "state", "data", "robot", "success")
    rows = [head, *(tuple(map(printable, _cells(one))) for one in summaries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    if any(one.by_episodes for one in summaries):
        lines.append("~: of the robot's own first and last episodes, because the run made no evaluation")
    return lines


def _cells(run: RunSummary) -> tuple[str, ...]:
    began = f"{run.start:%Y-%m-%d %H:%M}"
    took = "" if run.duration_s is None else format_duration(run.duration_s)
    return (str(run.folder), run.command, began, took, run.state, run.data, run.robot, _success(run))


def _success(run: RunSummary) -> str:
    """Returns `32% -> 88%`, or the one value that is known."""
    mark = "~" if run.by_episodes else ""
    return " -> ".join(f"{mark}{value:.0%}" for value in (run.before, run.after) if value is not None)


def _when(run: RunSummary) -> str:
    took = "" if run.duration_s is None else f", took {format_duration(run.duration_s)}"
    return f"{run.start:%Y-%m-%d %H:%M:%S}{took}{', ' if run.state else ''}{run.state}"


def _data(run: RunSummary) -> str:
    facts = run.info.get("dataset")
    if not isinstance(facts, dict):
        return run.data
    return (
        f"{run.data}, {facts.get('episodes')} episodes, {facts.get('steps')} steps, "
        f"sha256 {str(facts.get('fingerprint'))[:12]}"
    )


def _versions(info: Mapping) -> str:
    return ", ".join(f"{name} {value}" for name, value in saved_versions(info).items() if value)


def version_changes(info: Mapping) -> list[str]:
    """Returns a phrase for each version that is another here than it was in a run."""
    here = versions()
    return [
        f"{name} {before or 'missing'} -> {here[name] or 'missing'}"
        for name, before in saved_versions(info).items()
        if name in here and before != here[name]
    ]
