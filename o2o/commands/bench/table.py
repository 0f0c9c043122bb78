"""Formats the figures of `o2o bench` as tables, and saves and loads baselines."""

import json
import re
from pathlib import Path

from o2o.core.checkpoint import write_json
from o2o.core.errors import UsageError
from o2o.core.files import read_text

FORMAT = "bench.format"
ROWS = {  # key -> label; plans follow in the order of their keys
    "update": "update", "update_sample": "  sample", "update_forward": "  forward",
    "update_backward": "  backward", "update_optimizer": "  optimizer", "update_priority": "  priority",
}  # fmt: skip
COLUMNS = ("floor", "plain", "eager", "compiled", "bf16")
GAP = "-"


def save(path: Path, figures: dict[str, float], words: dict[str, str]) -> None:
    """Writes figures and descriptions of the machine under flat keys."""
    write_json(path, {**words, **figures})


def load(path: Path) -> dict[str, float | str]:
    """Reads a file of `save`.

    Raises:
        UsageError: the file is not readable, or not an output of `o2o bench`.
    """
    try:
        data = json.loads(read_text(Path(path)))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not a baseline of `o2o bench`: {error}") from error
    if not isinstance(data, dict) or FORMAT not in data:
        raise UsageError(f"{path} is not a baseline of `o2o bench`: it has no {FORMAT!r}")
    return data


def contenders(title: str, prefix: str, figures: dict[str, float], baseline: dict) -> str:
    """A row for each job and a column for each contender, in milliseconds, with ratios at the end.

    Args:
        prefix: of the keys, such as `state.t1.`.
        baseline: figures of an earlier run; may be empty.
    """
    own = {key[len(prefix) :]: value for key, value in figures.items() if key.startswith(prefix)}
    columns = [name for name in COLUMNS if any(_column(key) == name for key in own)]
    head = ["", *columns, "plain / ours", "ours / floor", *(["now / baseline"] if baseline else [])]
    rows = [head]
    for row in [*(row for row in ROWS if f"{row}_ms" in own), *_plans(own)]:
        cells = [_number(own.get(_key(name, row))) for name in columns]
        if row.startswith("update_"):
            cells = [_number(own[f"{row}_ms"]) if name == _headline(columns) else "" for name in columns]
        ratios = [own.get(f"{row}_speedup"), own.get(f"{row}_over_floor")]
        ratios += [_ratio(figures, baseline, f"{prefix}{row}_ms")] if baseline else []
        rows.append([ROWS.get(row, row.replace("_", " ")), *cells, *map(_times, ratios)])
    return f"{title}, ms\n{_align(rows)}"


def listing(title: str, prefix: str, figures: dict[str, float], baseline: dict) -> str:
    """A line for each figure whose key starts with the prefix."""
    rows = [["", "", "now / baseline"]] if baseline else []
    for key, value in figures.items():
        if key.startswith(prefix):
            ratio = [_times(_ratio(figures, baseline, key))] if baseline else []
            rows.append([key, _number(value), *ratio])
    return f"{title}\n{_align(rows)}"


def _key(column: str, row: str) -> str:
    return f"{row}_floor_ms" if column == "floor" else f"{column}_{row}_ms"


def _column(key: str) -> str:
    """Contender of a key; empty for derived figures."""
    if key.endswith("_floor_ms"):
        return "floor"
    return key.split("_")[0] if key.endswith("_ms") else ""


def _headline(columns: list[str]) -> str:
    return "compiled" if "compiled" in columns else "eager"


def _plans(own: dict[str, float]) -> list[str]:
    """Planning jobs, without their floors and quartiles."""
    named = [key for key in own if re.fullmatch(r"plan\w*_ms", key)]
    return [key.removesuffix("_ms") for key in named if not re.search(r"_(floor|p25|p75)_ms", key)]


def _ratio(figures: dict[str, float], baseline: dict, key: str) -> float | None:
    before = baseline.get(key)
    if not isinstance(before, (int, float)) or before <= 0 or key not in figures:
        return None
    return figures[key] / before


def _number(value: float | None) -> str:
    if value is None:
        return GAP
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _times(value: float | None) -> str:
    return GAP if value is None else f"{value:.2f}"


def _align(rows: list[list[str]]) -> str:
    """Aligns columns: text to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([f"{name:<{widths[0]}}", *padded]).rstrip())
    return "\n".join(lines)
