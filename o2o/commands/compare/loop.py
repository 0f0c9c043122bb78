"""A fair comparison: every system learns from the same data for as long, and plays in the same scenes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from o2o.agent import presets
from o2o.agent.agent import pick_device
from o2o.commands.compare import plot, result, table
from o2o.commands.compare.trial import Trial, go
from o2o.core import checkpoint
from o2o.core.compute import MachineConfig, compiles
from o2o.core.config import at_least, at_most, to_dict
from o2o.core.errors import O2OError, UsageError
from o2o.core.run_folder import check_same, read_run_info, stop_requested, write_run_info
from o2o.core.run_log import run_folder, versions
from o2o.core.seeding import derive
from o2o.data.fit_transform import transform
from o2o.data.load import DataConfig, load
from o2o.data.training_data import recipe_robot
from o2o.hardware.selection import RobotChoice, action_bounds_reader, choose_robot, connect_robot
from o2o.training.pretrain import PretrainConfig

FREE = {"presets", "seeds", "out", "resume"}  # may change when a comparison is resumed: it grows
ENDLESS = 10**9  # updates, where minutes are the budget
Reader = Callable[[str, Sequence[str]], PretrainConfig]


@dataclass(frozen=True)
class CompareConfig(RobotChoice, MachineConfig):
    """Which system is best on a robot's data, all under one budget.

    Attributes:
        threads: of the CPU; 0: as each preset has it.
        compile: `auto`: from 5,000 updates on, where there is a compiler; not with `minutes`.
        dataset: a recipe from `o2o list`, a Minari id, or a path.
        presets: names from `o2o list presets`, or variants with flags of `o2o pretrain`, such as
            `dreamerv2:balance=harmony,window=32`.
        flags: of `o2o pretrain`, for every preset, such as `discount=0.98 dataset.normalize`.
        seeds: runs of each preset.
        first_seed: the runs have this seed and the next ones; the evaluation scenes stay the same.
        updates: offline gradient steps of each run; None: each preset's own number.
        minutes: of offline training, in place of `updates`, once the data are read.
        episodes: online; 0: offline only.
        evaluate_episodes: fixed scenes of each evaluation, the same for all.
        out: folder for everything; default `runs/compare-DATASET-TIME`.
        resume: go on with the comparison in `out`; it may get more presets and seeds.
    """

    threads: int = 0
    dataset: str = ""
    presets: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    seeds: int = 3
    first_seed: int = 0
    updates: int | None = None
    minutes: float | None = None
    episodes: int = 40
    evaluate_episodes: int = 50
    out: Path | None = None
    resume: bool = False

    def __post_init__(self):
        RobotChoice.__post_init__(self)
        MachineConfig.__post_init__(self)
        at_least(self, seeds=1, first_seed=0, episodes=0, evaluate_episodes=1)
        if self.updates is not None and self.minutes is not None:
            raise UsageError("updates and minutes exclude each other: one budget for all")
        if self.updates is not None:
            at_least(self, updates=1)
        if self.minutes is not None:
            at_least(self, minutes=0.01)
            at_most(self, minutes=1e6)


def of_preset(name: str, flags: Sequence[str] = ()) -> PretrainConfig:
    """Pretraining as a preset has it.

    Raises:
        UsageError: no such preset, or flags, which only the command line can read.
    """
    preset = presets.get(name)
    if flags:
        raise UsageError(f"flags {list(flags)} are for the command line; from Python, give `read`")
    return PretrainConfig(
        preset=name,
        agent=preset.agent,
        dataset_options=preset.dataset_options,
        updates=preset.updates,
        threads=preset.threads,
    )


def compare(config: CompareConfig, read: Reader = of_preset) -> Path:
    """Trains and evaluates every preset with every seed, prints one table, and returns the folder.

    Runs go one after the other, first all presets with the first seed. What is finished is kept whatever
    happens; the folder holds `result.json`, `table.md` and `comparison.png` after every run.

    Args:
        read: makes the pretraining of a system of a preset's name and flags, such as `--window=3`.
    Raises:
        UsageError: before anything is written.
        O2OError: a run failed; the others went on, and the table is complete but for it.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint written.
    """
    systems = {text: _read(text, config, read) for text in config.presets}
    if len(systems) < max(len(config.presets), 1):
        some = "a preset is given twice" if systems else "no presets given"
        raise UsageError(f"{some}: add --presets NAME NAME (`o2o list presets` shows names)")
    data, choice = _look(config, next(iter(systems.values())).dataset_options)
    folder = _folder(config)
    write_run_info(folder, "compare", config, {})
    trials = [
        _trial(config, folder, choice, name, system, seed)
        for seed in _seeds(config)
        for name, system in systems.items()
    ]
    print(f"{len(trials)} runs in {folder}; what each says is in its log.txt", flush=True)
    with stop_requested() as stopped:
        for number, trial in enumerate(trials, 1):
            print(f"[{number}/{len(trials)}] {trial.name}, seed {trial.config.seed}", flush=True)
            try:
                go(trial, stopped)
            except KeyboardInterrupt:
                print(f"stopped; go on with `o2o compare --resume --out {folder}`", flush=True)
                raise
            found = _report(folder, config, choice.robot, data, trials)
    print(f"\n{table.text(found)}\n\neverything is in {folder}")
    failed = sum(bool(trial.record().failed) for trial in trials)
    if failed:
        raise O2OError(f"{failed} of {len(trials)} runs failed; {folder}/table.md says why")
    return folder


def _seeds(config: CompareConfig) -> range:
    return range(config.first_seed, config.first_seed + config.seeds)


def _read(text: str, config: CompareConfig, read: Reader) -> PretrainConfig:
    """The system of one entry of `config.presets`.

    Raises:
        UsageError: no such preset, or flags that do not fit or are the same for all.
    """
    name, _, own = text.partition(":")
    flags = [flag.strip().lstrip("-") for flag in (*config.flags, *own.split(",")) if flag.strip()]
    shared = {f.name for f in fields(CompareConfig)} & {f.name for f in fields(PretrainConfig)}
    for flag in flags:
        word = flag.partition("=")[0].replace("-", "_").removeprefix("no_")
        if word in {*shared, "preset", "seed"} or word.startswith("robot."):
            raise UsageError(f"{text!r}: --{flag} is not for one preset; give it to `o2o compare` itself")
    try:
        return read(name, [f"--{flag}" for flag in flags])
    except UsageError as error:
        raise UsageError(f"{text!r}: {error}" if flags else str(error)) from error


def _look(config: CompareConfig, how: DataConfig) -> tuple[dict, RobotChoice]:
    """What the recordings of all seeds reached themselves, and the robot, which fits them.

    Raises:
        UsageError: no dataset, no robot, a robot of another kind, or a machine that lacks something.
        DataError: the data are missing or broken.
        RobotError: the robot cannot be built.
    """
    if not config.dataset:
        raise UsageError("no dataset given: add --dataset NAME, ID or PATH (`o2o list` shows names)")
    pick_device(config.device)
    compiles(config, 0)
    recording = load(config.dataset, how, config.first_seed)
    outlines, recipe = [recording.outline()], recording.recipe
    choice = choose_robot(config, recipe_robot(outlines[0]))
    connect_robot(transform(recording, how, action_bounds_reader(choice)), choice).close()
    if recipe is not None and recipe.make is not None:  # from a seed, so that each has data of its own
        outlines += [load(config.dataset, how, seed).outline() for seed in _seeds(config)[1:]]
    return result.of_data([episode for outline in outlines for episode in outline.episodes]), choice


def _folder(config: CompareConfig) -> Path:
    if config.resume:
        check_same(read_run_info(config.out)["config"], config, FREE)
        return Path(config.out or "").resolve()
    return run_folder(config.out, "compare", Path(config.dataset).stem).resolve()


def _trial(
    config: CompareConfig, folder: Path, choice: RobotChoice, name: str, system: PretrainConfig, seed: int
) -> Trial:
    """One run, with the budget, robot and machine that all have in common."""
    robot = {part.name: getattr(choice, part.name) for part in fields(RobotChoice)}
    timed = config.minutes is not None
    own = replace(
        system, dataset=config.dataset, seed=seed, device=config.device, tune=config.tune,
        updates=ENDLESS if timed else config.updates or system.updates,
        threads=config.threads or system.threads,
        compile="no" if timed and config.compile == "auto" else config.compile,
        **robot,
    )  # fmt: skip
    limit = {"seconds": 60 * config.minutes} if config.minutes is not None else {}
    place = folder / _tidy(name) / f"seed-{seed}"
    return Trial(name, own, place, config.episodes, config.evaluate_episodes, **limit)


def _tidy(name: str) -> str:
    """A name for a folder; one that is too long ends in a number of its own."""
    tidy = "".join(letter if letter.isalnum() or letter in "._-=+," else "-" for letter in name)
    return tidy if len(tidy) <= 100 else f"{tidy[:80]}-{derive(0, name)}"


def _report(folder: Path, config: CompareConfig, robot: str, data: dict, trials: list[Trial]) -> dict:
    """Writes what is known so far; what `result.json` holds."""
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
