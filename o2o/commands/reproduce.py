"""Runs the command of a run again, with the same settings and seeds: `o2o reproduce`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from o2o.commands.runs import command_line, one_run, version_changes
from o2o.core import checkpoint
from o2o.core.errors import UsageError
from o2o.core.run_folder import RUN_INFO, checkpoint_folder, read_run_info
from o2o.core.text import printable

# returns the config of a run, whose texts stay `trust.Saved`, and the function of its command
ReadRun = Callable[[Mapping, Path], tuple[Any, Callable]]


@dataclass(frozen=True)
class ReproduceConfig:
    """Options of `o2o reproduce`.

    Attributes:
        run: Folder of the run, or a folder that holds one run.
        out: Folder of the new run; by default one in `runs/` that is named after command and time.
        dry_run: Only say what is run and what can differ.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    out: Path | None = None
    dry_run: bool = False


def reproduce(config: ReproduceConfig, read: ReadRun) -> None:
    """Runs the command of a run again, and says whether data and weights are the same.

    The settings are those that `run.json` holds. They name files, but permit none to run (`o2o.core.trust`).

    Raises:
        O2OError: there is no such run, its settings are refused, or its command fails.
    """
    folder = one_run(config.run)
    info = read_run_info(folder)
    settings, run = read(info, folder)
    print(f"reproducing {folder}, a run of `o2o {printable(info['command'])}`", flush=True)
    typed = command_line(info)
    if typed:
        print(f"  command line: {printable(typed)}", flush=True)
    for reason in reasons_to_differ(info, settings):
        print(f"  may differ: {printable(reason)}", flush=True)
    if config.dry_run:
        return
    settings = replace(settings, out=config.out)
    if hasattr(settings, "check_inputs"):
        settings.check_inputs()
    made = run(settings)
    if isinstance(made, Path):
        print(comparison(folder, made), flush=True)


def reasons_to_differ(info: Mapping, settings) -> list[str]:
    """Returns a phrase for each reason why the same settings can give another result here and now."""
    reasons = [f"versions: {', '.join(version_changes(info))}"] if version_changes(info) else []
    if str((info.get("versions") or {}).get("commit", "")).endswith("-dirty"):
        reasons.append("files of o2o had been changed since its commit")
    if info.get("result") != "done":
        reasons.append("the run did not end by itself; the new one runs to its end")
    if getattr(settings, "device", "cpu") != "cpu":
        reasons.append(f"--device {settings.device}: a GPU rounds sums otherwise than a CPU or another GPU")
    if getattr(settings, "threads", 1) == 0:
        reasons.append("--threads was left to torch, and their number changes how sums are rounded")
    if (learner := getattr(settings, "learner", "sync")) != "sync":
        reasons.append(f"--learner {learner}: the time decides which weights act")
    planner = getattr(getattr(settings, "agent", None), "planner", None)
    if getattr(planner, "budget_ms", 0):
        reasons.append("--planner.budget-ms: the time decides how long the planner searches")
    if getattr(settings, "minutes", 0):
        reasons.append("--minutes: the time decides how many updates there are")
    robot = info.get("robot")
    if isinstance(robot, dict) and info["command"] == "finetune" and not robot.get("simulated", False):
        reasons.append("the robot is real: no two episodes are alike")
    source = getattr(settings, "checkpoint", None)
    if source is not None and _is_newer(Path(source), info):
        reasons.append(f"the checkpoint in {source} was written after this run began")
    return reasons


def _is_newer(source: Path, info: Mapping) -> bool:
    """Returns whether a checkpoint was written after the run that `info` describes began."""
    try:
        start_s = datetime.fromisoformat(info["start"]).timestamp()
        return (checkpoint_folder(source) / checkpoint.META).stat().st_mtime > start_s
    except (KeyError, TypeError, ValueError, OverflowError, OSError, UsageError):
        return False  # unknown, or missing, as the command itself will say


def comparison(before: Path, after: Path) -> str:
    """Returns a sentence about data and weights of a run and of its reproduction."""
    datasets = [read_run_info(folder).get("dataset") for folder in (before, after)]
    prints = [data.get("fingerprint") if isinstance(data, dict) else None for data in datasets]
    if prints[0] != prints[1]:
        return f"not the same: the data of {after} differ from those of {before} (sha256 in {RUN_INFO})"
    folders = [folder / "checkpoint" for folder in (before, after)]
    if not all(map(checkpoint.exists, folders)):
        return f"the new run is {after}"
    one, two = (checkpoint.load(folder)[0] for folder in folders)
    if checkpoint.fingerprint(one) == checkpoint.fingerprint(two):
        return f"the same: the checkpoints of {before} and {after} are equal to the bit"
    return f"not the same: the checkpoints of {before} and {after} differ"
