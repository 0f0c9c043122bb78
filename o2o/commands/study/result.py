"""Computes the figures of a study: scores over seeds and scenes, and what happened during fine-tuning."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from o2o.agent import presets
from o2o.commands.compare.result import crossed, gain, rates
from o2o.commands.compare.trial import Trial
from o2o.core import run_checkpoint
from o2o.core.config import at_least, read_json
from o2o.core.errors import UsageError
from o2o.core.run_log import METRICS, read_metrics
from o2o.training.evaluate import Score

WINDOW = 10  # episodes in a running mean


@dataclass(frozen=True)
class OnlineInfo:
    """What `online.json` of a fine-tuning run says of its episodes; see `OnlineDataset.info`."""

    episodes: int
    steps: int
    fingerprint: str

    def __post_init__(self):
        at_least(self, episodes=1, steps=1)


def of_preset(trials: Sequence[Trial]) -> dict:
    """Figures of one preset on one task over its seeds; None where no run has finished that stage.

    `scores` has an entry for each evaluation, such as `planner-25` for the planner after 25 online episodes;
    `gains` the same less the score before the first episode, paired by scene.
    """
    scores = {stage: [trial.score(stage) for trial in trials] for stage in _evaluations(trials[0])}
    runs = [_run(trial) for trial in trials]
    return {
        "acts": acts(trials[0]),
        "scores": {stage: rates([score for score in found if score]) for stage, found in scores.items()},
        "gains": {stage: _gain(scores, stage) for stage in scores if not stage.endswith("-0")},
        "online": _over_seeds([run["online"] for run in runs if run["online"]]),
        "updates_per_step": _mean([run["updates_per_step"] for run in runs]),
        "cpu_s": _mean([run["cpu_s"] for run in runs]),
        "runs": runs,
    }


def acts(trial: Trial) -> str:
    """What acts while fine-tuning: `planner` or `policy`."""
    return "planner" if presets.get(trial.config.preset).plan else "policy"


def curve(trial: Trial) -> dict[str, np.ndarray]:
    """Success and return of the online episodes in order; empty until fine-tuning is over.

    Raises:
        UsageError: the run's metrics cannot be read, or were edited.
    """
    if "finetune" not in trial.record().done:
        return {}
    folder = trial.folder / "finetune"
    lines = [line for line in read_metrics(folder) if {"return", "success"} <= line.keys()]
    if len(lines) != trial.episodes:
        raise UsageError(f"{folder / METRICS} has {len(lines)} episodes, wanted {trial.episodes}")
    return {name: np.array([line[name] for line in lines], float) for name in ("success", "return")}


def running_mean(values: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """Mean of every `window` episodes in a row, (n - window + 1,); of all episodes where there are fewer."""
    window = min(window, len(values))
    return np.convolve(values, np.full(window, 1 / window), "valid")


def worst_drop(values: np.ndarray, start: float) -> float:
    """Lowest running mean less the start; negative where fine-tuning was ever worse than its start."""
    return float(running_mean(values).min() - start)


def _evaluations(trial: Trial) -> list[str]:
    return [stage for stage in trial.stages if stage not in ("pretrain", "finetune")]


def _gain(scores: dict[str, list[Score | None]], stage: str) -> dict | None:
    before = scores[f"{stage.partition('-')[0]}-0"]
    both = [(a, b) for a, b in zip(before, scores[stage], strict=True) if a and b]
    return gain(both) if both else None


def _run(trial: Trial) -> dict:
    record, scores = trial.record(), {stage: trial.score(stage) for stage in _evaluations(trial)}
    values, start = curve(trial), scores[f"{acts(trial)}-0"]
    online = {}
    if values and start:
        online = {name: {"values": values[name], "mean": values[name].mean(),
                         "worst_drop": worst_drop(values[name], start.metrics()[name])}
                  for name in values}  # fmt: skip
    return {
        "seed": trial.config.seed,
        "failed": record.failed,
        "finished": set(trial.stages) <= set(record.done),
        "weights": record.weights,
        "updates": record.updates,
        "updates_per_step": _updates_per_step(trial) if values else None,
        "cpu_s": record.cost("pretrain").cpu_s + record.cost("finetune").cpu_s if values else None,
        "scores": {stage: vars(score) for stage, score in scores.items() if score},
        "online": online,
    }


def _updates_per_step(trial: Trial) -> float:
    """Gradient steps for each step of the robot, as they were made; a rollback may have left some out."""
    folder = trial.folder / "finetune"
    updates = run_checkpoint.load(folder / "checkpoint")[1]["num_updates"] - trial.record().updates
    return updates / read_json(folder / "online.json", OnlineInfo).steps


def _over_seeds(runs: list[dict]) -> dict | None:
    """Mean over episodes (the area under the curve) and worst drop; intervals over seeds and episodes."""
    if not runs:
        return None
    found = {}
    for name in ("success", "return"):
        table, drops = np.stack([run[name]["values"] for run in runs]), [r[name]["worst_drop"] for r in runs]
        found[name] = {"mean": table.mean(), "mean_95": crossed(table),
                       "worst_drop": np.mean(drops), "worst_drop_of_all": min(drops)}  # fmt: skip
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
