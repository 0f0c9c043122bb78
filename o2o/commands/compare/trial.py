"""Runs one preset with one seed: pretrain, evaluate, fine-tune, evaluate, each stage in its own process."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path

from o2o.agent import presets
from o2o.agent.agent import Agent
from o2o.agent.agent_config import read_config
from o2o.commands.compare import subprocess_run
from o2o.core import checkpoint, plugins, run_checkpoint, trust
from o2o.core.config import check_finite, read_json
from o2o.core.errors import UsageError
from o2o.core.launch.task import STOPPED
from o2o.core.progress import format_duration
from o2o.core.run_folder import CHECKPOINTS, RUN_INFO, write_run_info
from o2o.training.evaluate import Score
from o2o.training.finetune_config import NO_SAFE_START, FinetuneConfig
from o2o.training.pretrain_config import PretrainConfig

CHECKPOINT_EVERY = 5  # online episodes between two stored checkpoints, where `marks` needs them


@dataclass(frozen=True)
class Cost:
    """Cost of one stage.

    Attributes:
        seconds: duration of the updates that its checkpoint holds, without starting the process, reading the
            data, and updates lost by a kill.
        peak_mb: peak resident memory of its process, MB.
        cpu_s: CPU time of its processes, with all that `seconds` leaves out; 0 where it is not known.
    """

    seconds: float = 0.0
    peak_mb: float = 0.0
    cpu_s: float = 0.0


@dataclass(frozen=True)
class Record:
    """State of a trial, written to disk after every stage.

    Attributes:
        done: names of the finished stages.
        costs: cost of each stage so far.
        updates: number of offline gradient steps.
        weights: number of trained weights.
        failed: stage and reason of a failure; empty without one.
    """

    done: tuple[str, ...] = ()
    costs: dict[str, Cost] = field(default_factory=dict)
    updates: int = 0
    weights: int = 0
    failed: str = ""

    def __post_init__(self):
        check_finite(self)

    def cost(self, stage: str) -> Cost:
        return self.costs.get(stage, Cost())

    def having(self, stage: str, cost: Cost) -> "Record":
        return replace(self, costs={**self.costs, stage: cost})


@dataclass(frozen=True)
class Trial:
    """One preset or variant with one seed.

    Attributes:
        name: name of the preset or variant.
        config: its pretraining config, with seed and folder.
        folder: output folder, with a subfolder or file for each stage.
        episodes: number of online episodes; 0 trains offline only.
        scenes: number of scenes of an evaluation.
        seconds: time limit of pretraining; infinite where updates are the budget.
        marks: numbers of online episodes after which policy and planner are both evaluated, from stored
            checkpoints, besides before the first; multiples of `CHECKPOINT_EVERY`, or all episodes. Empty:
            only what the preset acts with is evaluated, before and after.
        safe_start: whether the preset's safe start and rollback stay on.
        task: name of the task, where there are several.
        evaluate_every: number of online episodes between two evaluations while fine-tuning; 0: none.
    """

    name: str
    config: PretrainConfig
    folder: Path
    episodes: int
    scenes: int
    seconds: float = math.inf
    marks: tuple[int, ...] = ()
    safe_start: bool = False
    task: str = ""
    evaluate_every: int = 0

    @property
    def label(self) -> str:
        task = f"{self.task}: " if self.task else ""
        return f"{task}{self.name}, seed {self.config.seed}"

    @property
    def actors(self) -> tuple[str, ...]:
        """What can act: the policy, and the planner where the model can imagine."""
        model = plugins.load("models", self.config.agent.model).Model
        return ("policy", "planner") if getattr(model, "imagines", True) else ("policy",)

    @property
    def stages(self) -> tuple[str, ...]:
        if self.marks:
            before, *after = [[f"{actor}-{mark}" for actor in self.actors] for mark in (0, *self.marks)]
            return ("pretrain", *before, "finetune", *chain.from_iterable(after))
        return ("pretrain", "offline", "finetune", "online") if self.episodes else ("pretrain", "offline")

    def score(self, stage: str) -> Score | None:
        """Score of an evaluation, such as `offline`, `online` or `planner-25`; None if it has not run yet.

        Raises:
            UsageError: its file cannot be read, or was edited.
        """
        path = self.folder / f"{stage}.json"
        if not path.exists():
            return None
        score = Score.load(path)
        if len(score.successes) != self.scenes:
            raise UsageError(f"{path} is of {len(score.successes)} scenes, wanted {self.scenes}")
        return score

    def record(self) -> Record:
        """State so far.

        Raises:
            UsageError: its file cannot be read, or was edited.
        """
        path = self.folder / "trial.json"
        return read_json(path, Record) if path.exists() else Record()

    def save(self, record: Record) -> Record:
        checkpoint.write_json(self.folder / "trial.json", asdict(record))
        return record


def run(trial: Trial, stopped: Callable[[], bool]) -> Record:
    """Runs the remaining stages of a trial. A failed stage is retried from its last checkpoint.

    Args:
        stopped: returns whether to end early.
    Raises:
        KeyboardInterrupt: the trial was stopped; finished work is on disk.
    """
    trial.folder.mkdir(parents=True, exist_ok=True)
    record = trial.save(replace(trial.record(), failed=""))
    for stage in trial.stages:
        if stage not in record.done:
            record = trial.save(_run_stage(trial, stage, record, stopped))
            if stopped():
                raise KeyboardInterrupt
            print(f"  {trial.label}, {outcome(trial, stage, record)}", flush=True)
        if record.failed:
            break
    return record


def _run_stage(trial: Trial, stage: str, record: Record, stopped: Callable[[], bool]) -> Record:
    """Runs one stage and returns the new record."""
    words, log = _words(trial, stage), trial.folder / "log.txt"
    meter = _Meter(trial.folder / stage, record.cost(stage))
    limit = trial.seconds if stage == "pretrain" else math.inf

    def watch(pid: int) -> bool:
        before = meter.kept
        if meter.read(pid).seconds > before.seconds:
            trial.save(record.having(stage, meter.kept))
        return meter.spent_s < limit and not stopped()

    code = subprocess_run.run(words, log, watch)
    record = record.having(stage, meter.read())
    if stopped():
        return record
    if code and not (code == STOPPED and meter.spent_s >= limit):
        return replace(record, failed=f"{stage}: {subprocess_run.reason(code, log)}")
    facts = _facts(trial.folder / stage) if stage == "pretrain" else {}
    return replace(record, done=(*record.done, stage), **facts)


def _words(trial: Trial, stage: str) -> list[str]:
    """Command line of a stage. Training always resumes: a folder with only `run.json` is a run not yet
    begun."""
    folder, config, given = trial.folder / stage, trial.config, trust.given()
    permitted = ["--trust", *given] if given else []
    if stage not in ("pretrain", "finetune"):
        source, actor = _evaluated(trial, stage)
        return [
            *("evaluate", "--checkpoint", str(source), *actor, "--episodes", str(trial.scenes)),
            *("--out", str(folder.with_suffix(".json")), "--device", config.device),
            *("--threads", str(config.threads), "--tune" if config.tune else "--no-tune"),
            *permitted,
        ]
    if stage == "pretrain":
        pretrain_folder(trial)
    elif not (folder / RUN_INFO).exists():
        write_run_info(folder, stage, replace(_online(trial), out=folder), {})
    return [stage, "--resume", "--out", str(folder), *permitted]


def pretrain_folder(trial: Trial) -> Path:
    """Returns the folder of the trial's pretraining, a run not yet begun if it is new."""
    folder = trial.folder / "pretrain"
    if not (folder / RUN_INFO).exists():
        write_run_info(folder, "pretrain", replace(trial.config, out=folder), {})
    return folder


def _evaluated(trial: Trial, stage: str) -> tuple[Path, list[str]]:
    """Returns the checkpoint that an evaluation is about, and the flag of what acts."""
    actor, _, mark = stage.partition("-")
    flag = ["--plan"] if presets.get(trial.config.preset).plan else ["--no-plan"]
    if stage == "offline" or mark == "0":
        source = trial.folder / "pretrain"
    elif stage == "online":
        source = trial.folder / "finetune"
    else:
        source = trial.folder / "finetune" / CHECKPOINTS / f"{int(mark):06}"
    return source, {"policy": ["--no-plan"], "planner": ["--plan"]}.get(actor, flag)


def _online(trial: Trial) -> FinetuneConfig:
    """Fine-tuning config of the pretrained agent, with its preset's settings and the checkpoint's robot."""
    config, preset, source = trial.config, presets.get(trial.config.preset), trial.folder / "pretrain"
    # `o2o compare` compares presets as published, without safe start
    settings = {} if trial.safe_start and preset.safe_start else NO_SAFE_START
    if trial.marks:
        kept = trial.episodes // CHECKPOINT_EVERY + 2
        settings = {**settings, "checkpoint_every": CHECKPOINT_EVERY, "keep_checkpoints": kept}
    if trial.evaluate_every:
        scenes = config.evaluate_episodes
        settings = {**settings, "evaluate_every": trial.evaluate_every, "evaluate_episodes": scenes}
    meta = run_checkpoint.load(source / "checkpoint")[1]
    return FinetuneConfig(
        checkpoint=source, preset=config.preset, agent=read_config(meta["config"]), episodes=trial.episodes,
        updates_per_step=preset.updates_per_step, plan=preset.plan, seed=config.seed,
        device=config.device, threads=config.threads, compile=config.compile, tune=config.tune,
        **settings,
    )  # fmt: skip


def _facts(folder: Path) -> dict[str, int]:
    """Number of updates and of trained weights of a pretrained run."""
    tensors, meta = run_checkpoint.load(folder / "checkpoint")
    optimizers = Agent.from_state(tensors, meta).optimizers.values()
    weights = sum(weight.numel() for optimizer in optimizers for weight in optimizer.parameters)
    return {"updates": meta["num_updates"], "weights": weights}


def outcome(trial: Trial, stage: str, record: Record) -> str:
    """Returns what a stage reached, or why it failed, in one line."""
    if record.failed:
        return f"failed: {record.failed}"
    cost, score = record.cost(stage), trial.score(stage)
    if score:
        return f"{stage}: {score.summary()}"
    what = f"{record.updates} updates" if stage == "pretrain" else f"{trial.episodes} episodes"
    return f"{stage}: {what} in {format_duration(cost.seconds)}, {cost.peak_mb:.0f} MB"


class _Meter:
    """Measures time and memory of a training process from the files it writes in its run folder.

    Attributes:
        kept: cost of the updates that the checkpoint holds.
        spent_s: seconds of training so far; 0 until training starts.
    """

    def __init__(self, folder: Path, before: Cost):
        self._run_info, self._checkpoint = folder / RUN_INFO, folder / "checkpoint" / checkpoint.META
        self._old, self._before = _written_s(self._run_info), before
        self.kept, self.spent_s = before, 0.0

    def read(self, pid: int | None = None) -> Cost:
        """Updates and returns `kept`; `pid` is given while the process runs."""
        begin, saved, seconds = _written_s(self._run_info), _written_s(self._checkpoint), self.kept.seconds
        if begin != self._old:  # the run writes `run.json` when training starts
            self.spent_s = self._before.seconds + time.time() - begin
            seconds = self._before.seconds + max(saved - begin, 0.0)
        peak = max(self.kept.peak_mb, subprocess_run.peak_mb(pid) if pid else 0.0)
        cpu = max(self.kept.cpu_s, self._before.cpu_s + subprocess_run.cpu_s(pid) if pid else 0.0)
        self.kept = Cost(seconds, peak, cpu)
        return self.kept


def _written_s(path: Path) -> float:
    """Time of the last write of a file; 0 if it does not exist."""
    return path.stat().st_mtime if path.exists() else 0.0
