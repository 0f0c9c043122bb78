"""Formats a comparison as one Markdown table with notes."""

from collections.abc import Sequence
from pathlib import Path

from o2o.core.progress import format_duration
from o2o.core.text import count

GAP = "-"
HEAD = ("", "acts with", "runs", "success offline", "success online", "return offline", "return online",
        "updates", "time", "memory", "weights")  # fmt: skip
NOTES = (
    "Means over seeds; 95 % intervals over seeds and scenes, both resampled (of the data: over episodes).",
    "Time: learning time, offline + online, mean over runs. Memory: peak over runs.",
)


def text(result: dict) -> str:
    """The table as aligned Markdown."""
    rows = [HEAD, _data(result["data"]), *(_row(name, row) for name, row in result["presets"].items())]
    failed = failures(result["presets"])
    return "\n".join([title(result), "", *aligned(rows), "", *NOTES, *failed])


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a Markdown table with aligned columns; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = tuple("-" * width for width in widths)
    return [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in (rows[0], rule, *rows[1:])]


def title(result: dict) -> str:
    """Dataset, robot, seeds and budget of the comparison, in one line."""
    config = result["config"]
    budget = "each preset's own number of updates"
    if config["updates"]:
        budget = f"{count(config['updates'], 'update')}"
    if config["minutes"]:
        budget = f"{config['minutes']:g} minutes"
    first, last = config["first_seed"], config["first_seed"] + config["seeds"] - 1
    seeds = f"seeds {first} to {last}" if first < last else f"seed {first}"
    online = f"{count(config['episodes'], 'episode')} online" if config["episodes"] else "no robot"
    return (
        f"{Path(config['dataset']).stem} on {Path(result['robot']).stem}, {seeds}: {budget} offline, "
        f"then {online}; {count(config['evaluate_episodes'], 'scene')}, the same for all"
    )


def failures(presets: dict) -> list[str]:
    """Lines about failed runs, from name -> figures of a preset."""
    failed = [
        f"- {name}, seed {run['seed']}: {run['failed']}"
        for name, row in presets.items()
        for run in row["runs"]
        if run["failed"]
    ]
    return ["", "Failed:", "", *failed] if failed else []


def _data(row: dict) -> tuple[str, ...]:
    return (
        f"the data, {count(row['episodes'], 'episode')}",
        "",
        "",
        success_text(row),
        "",
        return_text(row),
        *[""] * 5,
    )


def _row(name: str, row: dict) -> tuple[str, ...]:
    finished, total = sum(run["finished"] for run in row["runs"]), len(row["runs"])
    offline, online = row["offline"] or {}, row["online"] or {}
    return (
        name,
        row["acts"],
        f"{finished}" if finished == total else f"{finished} of {total}",
        *(success_text(offline), success_text(online), return_text(offline), return_text(online)),
        GAP if row["updates"] is None else f"{row['updates']:.0f}",
        " + ".join(format_duration(row[stage]) for stage in ("pretrain_s", "finetune_s") if row[stage])
        or GAP,
        f"{row['peak_mb']:.0f} MB" if row["peak_mb"] else GAP,
        f"{row['weights'] / 1000:.0f} k" if row["weights"] else GAP,
    )


def success_text(row: dict) -> str:
    """71 % [58, 84]"""
    if "success" not in row:
        return GAP
    low, high = row["success_95"]
    return f"{100 * row['success']:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def return_text(row: dict) -> str:
    """12.31 [10.20, 14.12], or without decimals from 100 on."""
    if "return" not in row:
        return GAP
    values = (row["return"], *row["return_95"])
    mean, low, high = (f"{value:.{2 if max(map(abs, values)) < 100 else 0}f}" for value in values)
    return f"{mean} [{low}, {high}]"
