"""Compares presets: each learns from the same data under one budget and is evaluated in the same scenes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

from o2o.agent.agent import pick_device
from o2o.commands.compare import plot, result, table
from o2o.commands.compare.config import CompareConfig, Reader, of_preset
from o2o.commands.compare.run_trials import run_trials
from o2o.commands.compare.trial import Trial
from o2o.core import checkpoint, trust
from o2o.core.compute import should_compile
from o2o.core.config import to_dict
from o2o.core.errors import O2OError, UsageError
from o2o.core.launch.config import JobsConfig, LauncherConfig
from o2o.core.launch.launcher import check_launcher, open_launcher
from o2o.core.run_folder import open_folder, stop_requested, write_run_info
from o2o.core.run_log import versions
from o2o.core.seeding import derive
from o2o.core.text import count
from o2o.data.fit_transform import fit_transform
from o2o.data.formats.recording import recipe_robot
from o2o.data.load import load
from o2o.data.load_config import DataConfig
from o2o.hardware.robot_choice import RobotChoice, action_bounds_reader, choose_robot, connect_robot
from o2o.training.pretrain_config import PretrainConfig

LAUNCH_FIELDS = {"jobs", *(field.name for field in fields(LauncherConfig))}
# may change when a comparison is resumed
RESUMABLE_FIELDS = {"presets", "seeds", "out", "resume", "trust", *LAUNCH_FIELDS}
UNLIMITED = 10**9  # updates, where minutes are the budget


def compare(config: CompareConfig, read: Reader = of_preset) -> Path:
    """Trains and evaluates every preset with every seed, prints one table, and returns the folder.

    Runs go in order, first all presets with the first seed. Finished stages are kept after a
    failure or a kill; the folder holds `result.json`, `table.md` and `comparison.png` after every run.

    Args:
        read: returns the pretraining config for a preset's name and flags such as `--window=3`.
    Raises:
        UsageError: before anything is written.
        O2OError: a run failed; the others are done, and the table holds their rows.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint written.
    """
    systems = read_presets(config, read)
    config.check_inputs()
    check_launcher(config)
    with open_folder(config, "compare", Path(config.dataset).stem, RESUMABLE_FIELDS) as folder:
        _compare(config, folder.resolve(), systems)
    return folder.resolve()


def _compare(config: CompareConfig, folder: Path, systems: dict[str, PretrainConfig]) -> None:
    data, choice = data_and_robot(config, next(iter(systems.values())).dataset_options)
    write_run_info(folder, "compare", config, {})
    trials = make_trials(config, folder, choice, systems)

    def report() -> str:
        return table.text(_report(folder, config, choice.robot, data, trials))

    run_and_report("compare", folder, trials, config, report)


def run_and_report(
    command: str, folder: Path, trials: Sequence[Trial], config: JobsConfig, report: Callable[[], str]
) -> None:
    """Runs trials, writes the results after each, and prints the table at the end.

    Args:
        command: name of the command, for the line that says how to continue.
        config: how many trials run at a time, and where.
        report: writes the results so far and returns the table.
    Raises:
        UsageError: there is no such cluster.
        O2OError: a run failed.
        KeyboardInterrupt: after Ctrl-C.
    """
    elsewhere = "" if config.on == "here" else f" --on {config.on}"
    print(f"{count(len(trials), 'run')} in {folder}; the output of each is in its log.txt", flush=True)
    table = ""

    def write() -> None:
        nonlocal table
        table = report()

    with open_launcher(config) as launch, stop_requested() as stopped:
        try:
            run_trials(trials, config.jobs, stopped, write, launch)
        except KeyboardInterrupt:
            print(f"stopped; continue with `o2o {command} --resume --out {folder}{elsewhere}`", flush=True)
            raise
    print(f"\n{table}\n\nresults are in {folder}")
    failed = sum(bool(trial.record().failed) for trial in trials)
    if failed:
        raise O2OError(f"{failed} of {len(trials)} runs failed; {folder}/table.md has the reasons")


def _seeds(config: CompareConfig) -> range:
    return range(config.first_seed, config.first_seed + config.seeds)


def read_presets(config: CompareConfig, read: Reader) -> dict[str, PretrainConfig]:
    """Returns the pretraining config of each entry of `config.presets`.

    Raises:
        UsageError: none, one twice, no such preset, or flags that are invalid or must be the same for all.
    """
    systems = {text: _read(text, config, read) for text in config.presets}
    if len(systems) < max(len(config.presets), 1):
        some = "a preset is given twice" if systems else "no presets given"
        raise UsageError(f"{some}: add --presets NAME NAME (`o2o list presets` shows names)")
    return systems


def _read(text: str, config: CompareConfig, read: Reader) -> PretrainConfig:
    """Returns the pretraining config of one entry of `config.presets`.

    Raises:
        UsageError: no such preset, or flags that are invalid or must be the same for all.
    """
    name, _, own = text.partition(":")
    words = (*config.flags, *trust.derive(text, own.split(",")))
    flags = [trust.derive(word, word.strip().lstrip("-")) for word in words if word.strip()]
    shared = {f.name for f in fields(CompareConfig)} & {f.name for f in fields(PretrainConfig)}
    for flag in flags:
        word = flag.partition("=")[0].replace("-", "_").removeprefix("no_")
        if word in {*shared, "preset", "seed"} or word.startswith("robot."):
            raise UsageError(
                f"{text!r}: --{flag} must be the same for all presets; give it to the command itself"
            )
    try:
        return read(name, [trust.derive(flag, f"--{flag}") for flag in flags])
    except UsageError as error:
        raise UsageError(f"{text!r}: {error}" if flags else str(error)) from error


def data_and_robot(config: CompareConfig, how: DataConfig) -> tuple[dict, RobotChoice]:
    """Returns the recordings' success and return over all seeds, and the robot, after checking that they fit.

    Raises:
        UsageError: no robot, a robot of another kind, or a device or compiler that is missing.
        DataError: the data are missing or broken.
        RobotError: the robot cannot be built.
    """
    pick_device(config.device)
    should_compile(config, 0)
    recording = load(config.dataset, how, config.first_seed)
    outlines, recipe = [recording.info()], recording.recipe
    choice = choose_robot(config, recipe_robot(outlines[0]))
    connect_robot(fit_transform(recording, how, action_bounds_reader(choice)), choice).close()
    if recipe is not None and recipe.make is not None:  # made from a seed, so each seed has its own data
        outlines += [load(config.dataset, how, seed).info() for seed in _seeds(config)[1:]]
    return result.of_data([episode for outline in outlines for episode in outline.episodes]), choice


def make_trials(
    config: CompareConfig, folder: Path, choice: RobotChoice, systems: dict[str, PretrainConfig]
) -> list[Trial]:
    """Returns the runs of every preset with every seed, first all presets with the first seed."""
    return [
        _trial(config, folder, choice, name, system, seed)
        for seed in _seeds(config)
        for name, system in systems.items()
    ]


def _trial(
    config: CompareConfig, folder: Path, choice: RobotChoice, name: str, system: PretrainConfig, seed: int
) -> Trial:
    """Returns one run with the common budget, robot and machine settings."""
    robot = {part.name: getattr(choice, part.name) for part in fields(RobotChoice)}
    timed = config.minutes is not None
    own = replace(
        system, dataset=config.dataset, seed=seed, device=config.device, tune=config.tune,
        updates=UNLIMITED if timed else config.updates or system.updates,
        threads=config.threads or system.threads,
        compile="no" if timed and config.compile == "auto" else config.compile,
        **robot,
    )  # fmt: skip
    seconds = math.inf if config.minutes is None else 60 * config.minutes
    place = folder / folder_name(name) / f"seed-{seed}"
    return Trial(name, own, place, config.episodes, config.evaluate_episodes, seconds)


def folder_name(name: str) -> str:
    """Folder name for a preset, variant or task; a long one is cut and ends in a hash."""
    tidy = "".join(letter if letter.isalnum() or letter in "._-=+," else "-" for letter in name)
    return tidy if len(tidy) <= 100 else f"{tidy[:80]}-{derive(0, name)}"


def _report(folder: Path, config: CompareConfig, robot: str, data: dict, trials: list[Trial]) -> dict:
    """Writes `result.json`, table and chart of the results so far; returns the contents of `result.json`."""
    names = dict.fromkeys(trial.name for trial in trials)
    found = {
        "config": to_dict(config),
        "robot": robot,
        "data": data,
        "presets": {name: result.of_preset([t for t in trials if t.name == name]) for name in names},
        "versions": versions(),
    }
    checkpoint.write_json(folder / "result.json", found)
    checkpoint.write_text(folder / "table.md", table.text(found) + "\n")
    plot.draw(folder / "comparison.png", found, trials)
    return found
