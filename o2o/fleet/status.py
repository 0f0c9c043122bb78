"""Summarizes a fleet for people: its robots, its ledger and its learner, as plain data and as a page."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from o2o.core.progress import format_duration
from o2o.core.text import count
from o2o.fleet.ledger import Entry, Ledger
from o2o.fleet.state_files import LearnerState, RobotState, latest_weights, read_state

LAST = 20  # episodes that the success rate of a robot is taken over
RATE_S = 600.0  # time over which episodes an hour are counted
SILENT_S = 15.0  # time without a request after which a robot that has not finished counts as silent
REFRESH_S = 5  # of the page

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="{}">
<title>o2o fleet</title><style>body{{font:15px sans-serif;margin:2em}}
td,th{{padding:.2em .8em;text-align:right}}td:first-child,th:first-child{{text-align:left}}
tr:nth-child(even){{background:#f3f3f3}}</style></head><body>
<h1>o2o fleet</h1><p>{}</p><table><tr>{}</tr>{}</table></body></html>
"""
COLUMNS = ("robot", "last heard", "episodes", "success", "return", "an hour", "spooled", "weights")


def fleet_status(folder: Path, ledger: Ledger) -> dict:
    """Returns the state of a fleet as plain data, from the entries of its ledger and its small files.

    Ages are in seconds, `per_hour` are episodes, `success` and `return` are means of a robot's last episodes.
    """
    now_s = time.time()
    entries = list(ledger.entries)
    of_robot: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        of_robot[entry.robot].append(entry)
    states = {path.stem: read_state(path, RobotState) for path in sorted((folder / "robots").glob("*.json"))}
    names = sorted(of_robot.keys() | {name for name, state in states.items() if state})
    learner, weights = read_state(folder / "learner.json", LearnerState), latest_weights(folder)
    return {
        "episodes": len(entries), "steps": sum(entry.steps for entry in entries),
        "bytes": sum(entry.num_bytes for entry in entries), **_results(entries, now_s),
        "learner": learner and {**asdict(learner), "age_s": now_s - learner.time_s},
        "weights": weights and {"version": weights.number, "updates": weights.num_updates},
        "robots": {name: _robot(of_robot[name], states.get(name), now_s) for name in names},
    }  # fmt: skip


def status_lines(status: dict) -> list[str]:
    """Returns the state of a fleet as lines for a terminal."""
    rows = [COLUMNS, *_rows(status)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [*_summary(status), "", *table]


def status_page(status: dict) -> str:
    """Returns the state of a fleet as one HTML page, which loads itself anew and nothing else."""
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in _rows(status))
    return PAGE.format(REFRESH_S, "<br>".join(map(escape, _summary(status))), head, rows)


def _results(entries: Sequence[Entry], now_s: float) -> dict:
    last = entries[-LAST:]
    since_s = min(RATE_S, max(now_s - entries[0].time_s, 1.0)) if entries else RATE_S
    recent = sum(entry.time_s > now_s - RATE_S for entry in entries)
    return {
        "success": sum(entry.success for entry in last) / len(last) if last else None,
        "return": sum(entry.episode_return for entry in last) / len(last) if last else None,
        "per_hour": recent * 3600 / since_s,
    }


def _robot(entries: Sequence[Entry], state: RobotState | None, now_s: float) -> dict:
    heard_s = state.time_s if state else entries[-1].time_s
    acted = {"weights": entries[-1].weights} if entries else {}
    return {
        "age_s": now_s - heard_s, "delivered": len(entries), **_results(entries, now_s), **acted,
        **(state.report if state else {}),
    }  # fmt: skip


def _summary(status: dict) -> list[str]:
    learner, weights = status["learner"], status["weights"]
    lines = [
        f"{count(status['episodes'], 'episode')}, {count(status['steps'], 'step')}, "
        f"{status['bytes'] / 1e6:.1f} MB in the ledger; {_percent(status['success'])} of the last {LAST} "
        f"succeeded, {status['per_hour']:.0f} an hour"
    ]
    if not learner:
        return [*lines, "the learner has not begun yet"]
    age = format_duration(learner["age_s"])
    lines.append(
        f"learner: {count(learner['num_updates'], 'update')}, {learner['pending_updates']} pending, "
        f"{learner['dropped_updates']} dropped, {learner['updates_per_step']:.2f} a step, "
        f"{learner['updates_per_s']:.1f} a second, {count(learner['num_rollbacks'], 'rollback')}, "
        f"{count(status['episodes'] - learner['num_episodes'], 'episode')} behind, heard {age} ago"
    )
    if learner["failure"]:
        lines.append(f"the learner has ended: {learner['failure']}")
    if weights:
        lines.append(f"weights: version {weights['version']}, {count(weights['updates'], 'update')}")
    return lines


def _rows(status: dict) -> list[tuple[str, ...]]:
    rows = []
    for name, robot in status["robots"].items():
        mean = "-" if robot["return"] is None else f"{robot['return']:.3g}"
        rows.append((
            name, _last_heard(robot), str(robot["delivered"]),
            _percent(robot["success"]), mean, f"{robot['per_hour']:.0f}", str(robot.get("spooled", 0)),
            str(robot.get("weights", "-")),
        ))  # fmt: skip
    return rows


def _last_heard(robot: dict) -> str:
    age = format_duration(robot["age_s"])
    if robot.get("finished"):
        return f"finished {age} ago"
    return f"silent for {age}" if robot["age_s"] > SILENT_S else f"{age} ago"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
