"""Searches the values of flags: trials of one preset, then the best one against the preset itself."""

import math
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from o2o.commands.compare import loop as comparing
from o2o.commands.compare.config import CompareConfig, Reader, of_preset
from o2o.commands.compare.remote_trial import run_remote
from o2o.commands.compare.run_trials import run_threads, run_trials
from o2o.commands.compare.trial import Record, Trial, run
from o2o.commands.sweep import report
from o2o.commands.sweep.config import SweepConfig
from o2o.commands.sweep.objective import curve, objective
from o2o.commands.sweep.search import Claim, Outcome, Search, trial_folder
from o2o.commands.sweep.space import Parameter, read_space
from o2o.core import trust
from o2o.core.config import to_dict
from o2o.core.errors import O2OError, UsageError
from o2o.core.launch.launcher import check_launcher, open_launcher
from o2o.core.launch.task import Run
from o2o.core.output_lock import lock_folder
from o2o.core.run_folder import check_resumable, new_folder, read_run_info, stop_requested, write_run_info
from o2o.core.run_log import versions
from o2o.core.text import count
from o2o.hardware.robot_choice import RobotChoice

RESUMABLE_FIELDS = {"trials", "seeds", "out", "resume", "trust", *comparing.LAUNCH_FIELDS}
NUM_EVALUATIONS = 4  # in each stage of a trial that may be pruned
MAX_SCENES = 20  # of these evaluations
PRUNE_EVERY_S = 2.0


@dataclass(frozen=True)
class Sweep:
    """A sweep with all that its trials share.

    Attributes:
        folder: absolute path.
        read: returns the pretraining config for a preset's name and flags; one thread at a time may call it.
        robot: robot of the trials.
        data: success and return of the recordings.
        scale: a usual size of returns.
    """

    config: SweepConfig
    folder: Path
    read: Reader
    robot: RobotChoice
    data: dict
    reading: threading.Lock = field(default_factory=threading.Lock)

    @property
    def scale(self) -> float:
        return max(abs(float(self.data["return"])), 1e-6)

    def trials(self, values: dict[str, str], folder: Path, first_seed: int, seeds: int) -> list[Trial]:
        """Returns the runs of the preset with these values, one for each seed."""
        config = replace(_comparison(self.config, values), first_seed=first_seed, seeds=seeds)
        with self.reading:
            systems = comparing.read_presets(config, self.read)
        return comparing.make_trials(config, folder, self.robot, systems)

    def searched(self, number: int, values: dict[str, str]) -> Trial:
        """Returns a trial of the search, which is evaluated while it learns if it may be pruned."""
        folder = trial_folder(self.folder, number)
        (trial,) = self.trials(values, folder, self.config.seed, 1)
        trial = replace(trial, folder=folder, name=f"trial {number}")
        if not self.config.prune:
            return trial
        scenes = min(self.config.evaluate_episodes, MAX_SCENES)
        updates = trial.config.updates
        every = max(updates // NUM_EVALUATIONS, 1) if updates else 0
        return replace(
            trial, config=replace(trial.config, evaluate_every=every, evaluate_episodes=scenes),
            evaluate_every=max(trial.episodes // NUM_EVALUATIONS, 1),
        )  # fmt: skip


def sweep(config: SweepConfig, read: Reader = of_preset) -> Path:
    """Runs the trials, compares the best one with the preset, prints the report and returns the folder.

    Several processes may work on one folder: all but the first join with `--resume`. The last one that ends
    a trial compares and reports.

    Args:
        read: returns the pretraining config for a preset's name and flags such as `--window=3`.
    Raises:
        UsageError: before anything is written.
        O2OError: every trial failed, or a run on further seeds.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint written.
    """
    (system,) = comparing.read_presets(_comparison(config, {}), read).values()
    space = read_space(config.vary, lambda text: _check(config, text, read))
    config.check_inputs()
    check_launcher(config)
    import optuna  # type: ignore[import-not-found]  # noqa: F401, reports a missing package first

    with ExitStack() as stack:
        if config.resume:
            check_resumable(read_run_info(config.out)["config"], config, RESUMABLE_FIELDS)
            folder = Path(config.out or "")
        else:
            folder = stack.enter_context(new_folder(config.out, "sweep", Path(config.dataset).stem))
        folder = folder.resolve()
        data, robot = comparing.data_and_robot(_comparison(config, {}), system.dataset_options)
        if not config.resume:
            write_run_info(folder, "sweep", config, {})
    if not config.resume:
        write_run_info(folder, "sweep", config, {})  # again, because the block has written that it ended
    run_sweep(Sweep(config, folder, read, robot, data), space)
    return folder


def _comparison(config: SweepConfig, values: dict[str, str]) -> CompareConfig:
    """Returns the comparison whose only preset is the sweep's, with these values."""
    flags = ",".join(f"{name}={value}" for name, value in values.items())
    shared = ("dataset", "flags", "updates", "episodes", "evaluate_episodes", "robot", "robot_options",
              "action_repeat", "max_steps", "limits", "device", "threads", "compile", "tune",
              "trust")  # fmt: skip
    preset = f"{config.preset}:{flags}" if flags else config.preset
    is_saved = any(isinstance(text, trust.Saved) for text in (config.preset, *values.values()))
    return CompareConfig(
        presets=(trust.Saved(preset) if is_saved else preset,), seeds=1, first_seed=config.seed,
        **{name: getattr(config, name) for name in shared},
    )  # fmt: skip


def _check(config: SweepConfig, text: str, read: Reader) -> None:
    """Checks that the preset takes `NAME=VALUE`.

    Raises:
        UsageError: it does not, in one line.
    """
    name, _, value = text.partition("=")
    comparing.read_presets(_comparison(config, {name: value}), read)


def run_sweep(sweep: Sweep, space: list[Parameter]) -> None:
    """Runs the search, and unless another process still runs a trial of it, the comparison; see `sweep`."""
    config, folder = sweep.config, sweep.folder
    search = Search(folder, space, config.trials, config.seed)
    print(f"{count(config.trials, 'trial')} in {folder}; the output of each is in its log.txt", flush=True)
    with open_launcher(config) as launch, stop_requested() as stopped:
        try:
            _search(sweep, search, stopped, launch)
            outcomes = search.outcomes()
            running = sum(outcome.state == "running" for outcome in outcomes)
            if running:
                print(f"another process runs {count(running, 'trial')}; the last one to end reports")
                return
            with ExitStack() as stack:
                try:
                    stack.enter_context(lock_folder(folder))
                except UsageError as error:  # another process ended a trial at the same moment
                    print(f"another process reports: {error}")
                    return
                failed = _finish(sweep, outcomes, space, stopped, launch)
        except KeyboardInterrupt:
            print(f"stopped; continue with `o2o sweep --resume --out {folder}`", flush=True)
            raise
    if failed:
        raise O2OError(failed)


def _search(sweep: Sweep, search: Search, stopped: Callable[[], bool], launch: Run | None) -> None:
    """Runs trials until none is left, as many at a time as there are jobs."""

    def work(is_over: Callable[[], bool]) -> None:
        while True:
            with search.trial() as claim:
                if claim is None:
                    return
                run_claim(sweep, claim, is_over, launch)

    run_threads([work] * sweep.config.jobs, sweep.config.jobs, stopped)


class _Pruning:
    """Says whether to end a trial, for the search or because its evaluations are too bad."""

    def __init__(self, sweep: Sweep, claim: Claim, folder: Path, stopped: Callable[[], bool]):
        self._sweep, self._claim, self._folder, self._stopped = sweep, claim, folder, stopped
        self._checked_s, self._num_seen = -math.inf, 0
        self.pruned = False

    def __call__(self) -> bool:
        now = time.monotonic()
        if self._sweep.config.prune and not self.pruned and now - self._checked_s >= PRUNE_EVERY_S:
            self._checked_s = now
            values = curve(self._folder, self._sweep.config.evaluate_episodes, self._sweep.scale)
            if len(values) > self._num_seen:
                self._num_seen = len(values)
                self.pruned = self._claim.should_prune(values)
        return self.pruned or self._stopped()


def run_claim(sweep: Sweep, claim: Claim, stopped: Callable[[], bool], launch: Run | None) -> None:
    """Runs one trial of the search and enters what came out.

    Raises:
        KeyboardInterrupt: the sweep was stopped; the trial stays open.
    """
    if stopped():
        raise KeyboardInterrupt
    trial = sweep.searched(claim.number, claim.values)
    typed = " ".join(f"--{name} {value}" for name, value in claim.values.items())
    print(f"[{claim.number + 1}/{sweep.config.trials}] {typed or sweep.config.preset}", flush=True)
    pruning = _Pruning(sweep, claim, trial.folder, stopped)
    try:
        record = run_remote(trial, pruning, launch) if launch else run(trial, pruning)
    except KeyboardInterrupt:
        if stopped() or not pruning.pruned:
            raise
        claim.end("pruned")
        print(f"  {trial.label}, pruned", flush=True)
        return
    _enter(sweep, claim, trial, record)


def _enter(sweep: Sweep, claim: Claim, trial: Trial, record: Record) -> None:
    score = trial.score(trial.stages[-1])
    if record.failed or score is None:
        claim.end("fail")
        return
    figures = score.metrics()
    claim.complete(objective(figures["success"], figures["return"], len(score.successes), sweep.scale))


def _finish(
    sweep: Sweep, outcomes: list[Outcome], space: list[Parameter], stopped: Callable[[], bool],
    launch: Run | None,
) -> str:  # fmt: skip
    """Compares the best trial with the preset on further seeds, and reports.

    Returns:
        What failed; empty if nothing did.
    """
    config, chosen = sweep.config, report.best(outcomes)
    default, best = [], []
    if chosen and chosen.number and config.seeds:
        first = config.seed + 1
        default = sweep.trials({}, sweep.folder / "further-seeds", first, config.seeds)
        best = sweep.trials(chosen.values, sweep.folder / "further-seeds", first, config.seeds)
    runs = [trial for pair in zip(default, best, strict=True) for trial in pair]

    (plain,) = sweep.trials({}, sweep.folder, config.seed, 1)
    rows = [
        report.trial_row(one, replace(plain, folder=trial_folder(sweep.folder, one.number)))
        for one in outcomes
    ]

    def write() -> str:
        compared = report.comparison(default, best)
        found = {
            "config": to_dict(config),
            "title": _title(sweep, len(outcomes)),
            "preset": config.preset,
            "names": [parameter.name for parameter in space],
            "data": sweep.data,
            "trials": rows,
            "best": chosen.number if chosen else None,
            "comparison": compared,
            "verdict": report.verdict(config.preset, chosen, compared),
            "versions": versions(),
        }
        return report.write(sweep.folder, found)

    write()
    if runs:
        run_trials(runs, config.jobs, stopped, write, launch)
    write_run_info(sweep.folder, "sweep", config, {})
    print(f"\n{write()}\n\nresults are in {sweep.folder}")
    failed = [trial.label for trial in runs if trial.record().failed]
    if failed:
        return f"{', '.join(failed)} failed; the record of each, trial.json, has the reason"
    return "" if chosen else "every trial failed or was pruned; the log.txt of each has the reason"


def _title(sweep: Sweep, num_trials: int) -> str:
    config = sweep.config
    return (
        f"{Path(config.dataset).stem} on {Path(sweep.robot.robot).stem}, preset {config.preset}: "
        f"{count(num_trials, 'trial')}, {count(config.evaluate_episodes, 'scene')}, seed {config.seed}"
    )
