"""Formats a study as one Markdown table with notes."""

from o2o.commands.compare.table import GAP, aligned, failures, return_text, success_text
from o2o.core.text import count

HEAD = ("task", "agent", "acts", "", "runs", "before", "after 10", "after 25", "at the end", "online mean",
        "worst drop", "updates/step", "CPU")  # fmt: skip
NOTES = (
    "Means over seeds; 95 % intervals over seeds and scenes, both resampled (of the data: over episodes).",
    "At the end: after all online episodes, their number in brackets. Online mean: over all online episodes",
    "as they were played, the area under the curve.",
    "Worst drop: lowest mean of ten online episodes in a row less the score before, mean over seeds.",
    "CPU: seconds of pretraining and fine-tuning, mean over runs.",
)


def text(result: dict) -> str:
    """The table as aligned Markdown, with notes, skipped tasks and failed runs."""
    rows: list[tuple[str, ...]] = [HEAD]
    for name, task in result["tasks"].items():
        for measure in measures(task):
            rows.append(_data(name, task["data"], measure))
        for preset, row in task["presets"].items():
            for actor in dict.fromkeys(stage.partition("-")[0] for stage in row["scores"]):
                rows += [_row(name, preset, row, actor, measure, task) for measure in measures(task)]
    lines = [*aligned(rows), "", *NOTES]
    if result["skipped"]:
        lines += ["", "Skipped:", "", *(f"- {name}: {why}" for name, why in result["skipped"].items())]
    failed = {f"{name}, {preset}": row for name, task in result["tasks"].items()
              for preset, row in task["presets"].items()}  # fmt: skip
    return "\n".join([*lines, *failures(failed)])


def measures(task: dict) -> tuple[str, ...]:
    """What a task is judged by: success, if anybody ever succeeds, and return."""
    scores = [score for row in task["presets"].values() for score in row["scores"].values() if score]
    anybody = any(score.get("success") for score in [task["data"], *scores])
    return ("success", "return") if anybody else ("return",)


def _data(name: str, data: dict, measure: str) -> tuple[str, ...]:
    score = _score(data, measure)
    return (name, f"the data, {count(data['episodes'], 'episode')}", "", measure, "", score, *[""] * 7)


def _row(name: str, preset: str, row: dict, actor: str, measure: str, task: dict) -> tuple[str, ...]:
    finished, total = sum(run["finished"] for run in row["runs"]), len(row["runs"])
    scores = {stage.partition("-")[2]: row["scores"][stage] for stage in row["scores"]
              if stage.startswith(f"{actor}-")}  # fmt: skip
    end = max(scores, key=int)
    cells = [_score(scores.get(mark) if mark != end else None, measure) for mark in ("0", "10", "25")]
    online = row["online"] if actor == row["acts"] else None
    return (
        name, preset, actor, measure, f"{finished}" if finished == total else f"{finished} of {total}",
        *cells, f"{_score(scores[end], measure)} ({end})",
        *(_online(online[measure], measure) if online else ("", "")),
        _number(row["updates_per_step"], ".2f") if online else "",
        f"{_number(row['cpu_s'], '.0f')} s" if online else "",
    )  # fmt: skip


def _score(score: dict | None, measure: str) -> str:
    return (success_text if measure == "success" else return_text)(score or {})


def _online(row: dict, measure: str) -> tuple[str, str]:
    score = {measure: row["mean"], f"{measure}_95": row["mean_95"]}
    if measure == "success":
        return _score(score, measure), f"{100 * row['worst_drop']:+.0f} points"
    return _score(score, measure), f"{row['worst_drop']:+.2f}"


def _number(value: float | None, form: str) -> str:
    return GAP if value is None else f"{value:{form}}"
