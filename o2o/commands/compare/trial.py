"""One system with one seed: pretrain, evaluate, fine-tune, evaluate again, each in a process of its own."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from o2o.agent import presets
from o2o.agent.agent import Agent, read_config
from o2o.commands.compare import subprocess_run
from o2o.core import checkpoint
from o2o.core.run_folder import RUN_INFO, write_run_info
from o2o.core.run_log import clock
from o2o.training.evaluate import Score
from o2o.training.finetune import NO_SAFE_START, FinetuneConfig
from o2o.training.pretrain import PretrainConfig

STOPPED = 130  # exit code of a command that wrote its checkpoint and ended because it was asked to


@dataclass(frozen=True)
class Cost:
    """Of one stage.

    Attributes:
        seconds: that the updates took which its checkpoint holds; not those of starting the process, of
            reading the data, or of updates that a kill lost.
        peak_mb: most main memory that its process held.
    """

    seconds: float = 0.0
    peak_mb: float = 0.0


@dataclass(frozen=True)
class Record:
    """What a trial has come to; it is on disk after every stage.

    Attributes:
        done: stages that are over.
        costs: of the stages so far.
        updates: offline gradient steps.
        weights: number of them that learn.
        failed: stage and reason; empty if none did.
    """

    done: tuple[str, ...] = ()
    costs: dict[str, Cost] = field(default_factory=dict)
    updates: int = 0
    weights: int = 0
    failed: str = ""

    def cost(self, stage: str) -> Cost:
        return self.costs.get(stage, Cost())

    def having(self, stage: str, cost: Cost) -> "Record":
        return replace(self, costs={**self.costs, stage: cost})


@dataclass(frozen=True)
class Trial:
    """One line of a comparison for one seed.

    Attributes:
        name: of the system.
        config: of its pretraining, seed and folder included.
        folder: of everything; stages and their results have their names in it.
        episodes: online; 0: none.
        scenes: of an evaluation.
        seconds: of pretraining; infinite where updates are the budget.
    """

    name: str
    config: PretrainConfig
    folder: Path
    episodes: int
    scenes: int
    seconds: float = math.inf

    @property
    def stages(self) -> tuple[str, ...]:
        return ("pretrain", "offline", "finetune", "online") if self.episodes else ("pretrain", "offline")

    def score(self, stage: str) -> Score | None:
        """Of the evaluation `offline` or `online`; None where there is none yet."""
        path = self.folder / f"{stage}.json"
        return Score.load(path) if path.exists() else None

    def record(self) -> Record:
        path = self.folder / "trial.json"
        if not path.exists():
            return Record()
        data = json.loads(path.read_text())
        costs = {stage: Cost(**cost) for stage, cost in data["costs"].items()}
        return Record(**{**data, "done": tuple(data["done"]), "costs": costs})

    def save(self, record: Record) -> Record:
        checkpoint.write_json(self.folder / "trial.json", asdict(record))
        return record


def go(trial: Trial, stopped: Callable[[], bool]) -> Record:
    """Does what is left of a trial. A stage that failed is tried again from its last checkpoint.

    Args:
        stopped: whether to end early.
    Raises:
        KeyboardInterrupt: it was stopped; what is done is on disk.
    """
    trial.folder.mkdir(parents=True, exist_ok=True)
    record = trial.save(replace(trial.record(), failed=""))
    for stage in trial.stages:
        if stage not in record.done:
            record = trial.save(_do(trial, stage, record, stopped))
            if stopped():
                raise KeyboardInterrupt
            print(f"  {_outcome(trial, stage, record)}", flush=True)
        if record.failed:
            break
    return record


def _do(trial: Trial, stage: str, record: Record, stopped: Callable[[], bool]) -> Record:
    """The record after one stage."""
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
    """The command line of a stage. Learning always resumes: papers alone are a run that has not begun."""
    folder, config = trial.folder / stage, trial.config
    source = trial.folder / ("finetune" if stage == "online" else "pretrain")
    if stage in ("offline", "online"):
        return [
            *("evaluate", "--checkpoint", str(source), "--episodes", str(trial.scenes)),
            *("--out", str(folder.with_suffix(".json")), "--device", config.device),
            *("--threads", str(config.threads), "--tune" if config.tune else "--no-tune"),
        ]
    if not (folder / RUN_INFO).exists():
        first = config if stage == "pretrain" else _online(trial, source, folder)
        write_run_info(folder, stage, replace(first, out=folder), {})
    return [stage, "--resume", "--out", str(folder)]


def _online(trial: Trial, source: Path, folder: Path) -> FinetuneConfig:
    """Fine-tuning of what was pretrained, as its preset has it; the robot is the checkpoint's."""
    config, preset = trial.config, presets.get(trial.config.preset)
    meta = checkpoint.load(source / "checkpoint")[1]
    return FinetuneConfig(
        checkpoint=source, preset=config.preset, agent=read_config(meta["config"]), episodes=trial.episodes,
        updates_per_step=preset.updates_per_step, plan=preset.plan, seed=config.seed,
        device=config.device, threads=config.threads, compile=config.compile, tune=config.tune,
        **NO_SAFE_START,  # systems are compared as published, without what is built around them
    )  # fmt: skip


def _facts(folder: Path) -> dict[str, int]:
    """How long and how large what was pretrained is."""
    tensors, meta = checkpoint.load(folder / "checkpoint")
    optimizers = Agent.from_state(tensors, meta).optimizers.values()
    weights = sum(weight.numel() for optimizer in optimizers for weight in optimizer.parameters)
    return {"updates": meta["num_updates"], "weights": weights}


def _outcome(trial: Trial, stage: str, record: Record) -> str:
    if record.failed:
        return f"failed: {record.failed}"
    cost, score = record.cost(stage), trial.score(stage)
    if score:
        return f"{stage}: {score.line()}"
    what = f"{record.updates} updates" if stage == "pretrain" else f"{trial.episodes} episodes"
    return f"{stage}: {what} in {clock(cost.seconds)}, {cost.peak_mb:.0f} MB"


class _Meter:
    """Time and memory of a process that learns in a run folder, read off the files it writes there.

    Attributes:
        kept: cost of what the checkpoint holds.
        spent_s: seconds of learning so far; 0 until the process learns.
    """

    def __init__(self, folder: Path, before: Cost):
        self._papers, self._checkpoint = folder / RUN_INFO, folder / "checkpoint" / checkpoint.META
        self._old, self._before = _written_s(self._papers), before
        self.kept, self.spent_s = before, 0.0

    def read(self, pid: int | None = None) -> Cost:
        """`kept`, brought up to date; `pid` while the process lives."""
        begin, saved, seconds = _written_s(self._papers), _written_s(self._checkpoint), self.kept.seconds
        if begin != self._old:  # the run writes its papers when it begins to learn
            self.spent_s = self._before.seconds + time.time() - begin
            seconds = self._before.seconds + max(saved - begin, 0.0)
        peak = max(self.kept.peak_mb, subprocess_run.peak_mb(pid) if pid else 0.0)
        self.kept = Cost(seconds, peak)
        return self.kept


def _written_s(path: Path) -> float:
    """When a file was last written; 0 if it is not there."""
    return path.stat().st_mtime if path.exists() else 0.0
