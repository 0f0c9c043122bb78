"""Runs a trial as a task on another machine."""

import json
import math
from collections.abc import Callable
from dataclasses import fields, replace

from o2o.commands.compare.trial import Record, Trial, outcome, pretrain_folder
from o2o.core import trust
from o2o.core.errors import O2OError
from o2o.core.launch.task import LOG, LauncherError, Run, Task

MAIN = "o2o.commands.trial_main"
BUDGET = [field.name for field in fields(Trial) if field.name not in ("config", "folder")]


def run_remote(trial: Trial, stopped: Callable[[], bool], launch: Run) -> Record:
    """Runs the remaining stages of a trial elsewhere; see `trial.run`.

    Raises:
        KeyboardInterrupt: the trial was stopped; finished work is on disk.
        LauncherError: the cluster is gone.
    """
    trial.folder.mkdir(parents=True, exist_ok=True)
    before = trial.save(replace(trial.record(), failed=""))
    pretrain_folder(trial)
    reason = ""
    try:
        code = launch(_task(trial), stopped)
        reason = f"exit code {code}; {trial.folder / LOG} says more" if code else ""
    except LauncherError:
        raise
    except O2OError as error:
        reason = str(error)
    record = trial.record()
    for stage in record.done[len(before.done) :]:
        print(f"  {trial.label}, {outcome(trial, stage, replace(record, failed=''))}", flush=True)
    if stopped():
        raise KeyboardInterrupt
    if reason and not record.failed:
        record = trial.save(replace(record, failed=f"launch: {reason}"))
    if record.failed:
        print(f"  {trial.label}, failed: {record.failed}", flush=True)
    return record


def _task(trial: Trial) -> Task:
    budget = {name: getattr(trial, name) for name in BUDGET}
    budget["seconds"] = None if math.isinf(trial.seconds) else trial.seconds
    words = (str(trial.folder), json.dumps(budget), *trust.given())
    return Task(
        trial.label, MAIN, words, str(trial.folder), max(trial.config.threads, 1),
        trial.config.device.startswith("cuda"),
    )  # fmt: skip
