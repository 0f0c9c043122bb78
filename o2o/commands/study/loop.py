"""Measures presets on a suite of tasks: policy and planner, before and after fine-tuning, over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from o2o.commands.compare import loop as comparison
from o2o.commands.compare.config import CompareConfig, Reader, of_preset
from o2o.commands.compare.trial import Trial
from o2o.commands.study import plot, result, table
from o2o.commands.study.config import StudyConfig
from o2o.commands.study.tasks import QUICK_BUDGET, QUICK_TASKS, SUITE, Task, find
from o2o.core import checkpoint
from o2o.core.config import to_dict
from o2o.core.errors import DataError, RobotError, UsageError
from o2o.core.launch.launcher import check_launcher
from o2o.core.run_folder import open_folder, write_run_info
from o2o.core.run_log import versions

RESUMABLE_FIELDS = {"tasks", *comparison.RESUMABLE_FIELDS}
MARKS = (10, 25)  # online episodes before an evaluation, besides all of them


@dataclass(frozen=True)
class Prepared:
    """One task that can run here: its trials, its robot and the score of its recordings."""

    trials: list[Trial]
    robot: str
    data: dict


def study(config: StudyConfig, read: Reader = of_preset) -> Path:
    """Runs every preset on every task with every seed, prints one table, and returns the folder.

    Presets train as `o2o pretrain` and `o2o finetune` train them by default, with safe start and rollback.
    Finished stages are kept after a failure or a kill; the folder holds `result.json`, `table.md` and
    `study.png` after every run. A task of the suite whose data or simulator is missing is skipped.

    Args:
        read: returns the pretraining config for a preset's name and flags such as `--window=3`.
    Raises:
        UsageError: before anything is written.
        O2OError: a run failed; the others are done, and the table holds their rows.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint written.
    """
    names = config.tasks or (QUICK_TASKS if config.quick else tuple(task.dataset for task in SUITE))
    if len(set(names)) < len(names):
        raise UsageError("a task is given twice: name each --tasks once")
    tasks = {name: _comparison(config, _budget(config, find(name))) for name in names}
    systems = {name: comparison.read_presets(one, read) for name, one in tasks.items()}
    check_launcher(config)
    with open_folder(config, "study", "quick" if config.quick else "suite", RESUMABLE_FIELDS) as folder:
        folder = folder.resolve()
        prepared, skipped = _prepare(config, folder, tasks, systems)
        write_run_info(folder, "study", config, {})
        trials = [trial for one in prepared.values() for trial in one.trials]
        trials.sort(key=lambda trial: trial.config.seed)
        comparison.run_and_report(
            "study", folder, trials, config, lambda: _report(folder, config, prepared, skipped)
        )
    return folder


def _budget(config: StudyConfig, task: Task) -> Task:
    """Returns the task with the budget of `--quick` and of the flags."""
    given = {"updates": config.updates, "episodes": config.episodes, "scenes": config.evaluate_episodes}
    quick = QUICK_BUDGET if config.quick else {}
    return replace(task, **quick | {name: value for name, value in given.items() if value is not None})


def _comparison(config: StudyConfig, task: Task) -> CompareConfig:
    """Returns the comparison of all presets on one task."""
    machine = {name: getattr(config, name) for name in ("device", "threads", "compile", "tune", "trust")}
    return CompareConfig(
        dataset=task.dataset, presets=config.presets, flags=(*task.flags, *config.flags),
        seeds=config.seeds or (1 if config.quick else 3),
        first_seed=config.first_seed, updates=task.updates, episodes=task.episodes,
        evaluate_episodes=task.scenes, robot="" if task.about else config.robot, **machine,
    )  # fmt: skip


def _prepare(
    config: StudyConfig, folder: Path, tasks: dict[str, CompareConfig], systems: dict[str, dict]
) -> tuple[dict[str, Prepared], dict[str, str]]:
    """Returns the tasks that can run here, and why the others are skipped.

    Raises:
        UsageError: none can run.
        DataError: the data of a task outside the suite are missing or broken.
        RobotError: the robot of a task outside the suite cannot be built.
    """
    prepared, skipped = {}, {}
    for name, one in tasks.items():
        try:
            options = next(iter(systems[name].values())).dataset_options
            data, choice = comparison.data_and_robot(one, options)
        except (DataError, RobotError) as error:
            if not find(name).about:
                raise
            skipped[name] = str(error)
            print(f"skipping {name}: {error}", flush=True)
            continue
        marks = (*(mark for mark in MARKS if mark < one.episodes), one.episodes)
        trials = comparison.make_trials(one, folder / comparison.folder_name(name), choice, systems[name])
        prepared[name] = Prepared(
            [replace(trial, task=name, marks=marks, safe_start=True) for trial in trials], choice.robot, data
        )
    if not prepared:
        raise UsageError("no task can run here; the reasons are above")
    return prepared, skipped


def _report(folder: Path, config: StudyConfig, prepared: dict[str, Prepared], skipped: dict[str, str]) -> str:
    """Writes `result.json`, table and chart of the results so far; returns the table."""
    tasks = {
        name: {"robot": one.robot, "data": one.data, "presets": _presets(one.trials)}
        for name, one in prepared.items()
    }
    found = {"config": to_dict(config), "tasks": tasks, "skipped": skipped, "versions": versions()}
    checkpoint.write_json(folder / "result.json", found)
    lines = table.text(found)
    checkpoint.write_text(folder / "table.md", lines + "\n")
    plot.draw(folder / "study.png", found, [trial for one in prepared.values() for trial in one.trials])
    return lines


def _presets(trials: Sequence[Trial]) -> dict[str, dict]:
    names = dict.fromkeys(trial.name for trial in trials)
    return {name: result.of_preset([trial for trial in trials if trial.name == name]) for name in names}
