"""Results of a comparison as plain data: means over seeds with intervals, and every run."""

from collections.abc import Sequence

import numpy as np

from o2o.agent import presets
from o2o.commands.compare.trial import Trial
from o2o.core import stats
from o2o.data.formats.recording import EpisodeSummary
from o2o.training.evaluate import Score


def of_data(episodes: Sequence[EpisodeSummary]) -> dict:
    """Return and success of the recordings; success is left out where it is not recorded."""
    returns = [episode.episode_return for episode in episodes]
    judged = [episode.success for episode in episodes if episode.success is not None]
    found = {"episodes": len(episodes), "return": np.mean(returns), "return_95": stats.mean_interval(returns)}
    if judged:
        count, num = sum(judged), len(judged)
        found |= {"success": count / num, "success_95": stats.success_interval(count, num)}
    return found


def of_preset(trials: Sequence[Trial]) -> dict:
    """Figures of one preset over its seeds, each over the runs that finished that stage; None without any."""
    runs = [_run(trial) for trial in trials]
    done = {stage: [run for run in runs if stage in run["done"]] for stage in trials[0].stages}
    scores = [(trial.score("offline"), trial.score("online")) for trial in trials]
    both = [(before, after) for before, after in scores if before and after]
    return {
        "acts": "planner" if presets.get(trials[0].config.preset).plan else "policy",
        "weights": max(run["weights"] for run in runs),
        "peak_mb": max(run["peak_mb"] for run in runs),
        "updates": mean(done["pretrain"], "updates"),
        "pretrain_s": mean(done["pretrain"], "pretrain_s"),
        "finetune_s": mean(done.get("finetune", []), "finetune_s"),
        "offline": rates([before for before, _ in scores if before]),
        "online": rates([after for _, after in scores if after]),
        "gain": gain(both) if both else None,
        "runs": runs,
    }


def _run(trial: Trial) -> dict:
    record = trial.record()
    scores = {stage: trial.score(stage) for stage in ("offline", "online")}
    return {
        "seed": trial.config.seed,
        "failed": record.failed,
        "finished": set(trial.stages) <= set(record.done),
        "done": record.done,
        "weights": record.weights,
        "updates": record.updates,
        "pretrain_s": record.cost("pretrain").seconds,
        "finetune_s": record.cost("finetune").seconds,
        "peak_mb": max(record.cost(stage).peak_mb for stage in ("pretrain", "finetune")),
        **{stage: vars(score) for stage, score in scores.items() if score},
    }


def mean(runs: Sequence[dict], name: str) -> float | None:
    """Mean of an entry over runs; None without any."""
    return float(np.mean([run[name] for run in runs])) if runs else None


def rates(scores: Sequence[Score]) -> dict | None:
    """Figures over seeds. The interval of success is at least as wide as Wilson's over all episodes, so that
    a few seeds that all succeed do not look certain."""
    if not scores:
        return None
    found, successes = _figures(_table(scores)), np.stack([score.successes for score in scores])
    (low, high), (least, most) = (
        found["success_95"],
        stats.success_interval(int(successes.sum()), successes.size),
    )
    return found | {"success_95": (min(low, least), max(high, most))}


def gain(pairs: Sequence[tuple[Score, Score]]) -> dict:
    """Figures of the second minus the first score, paired by seed and scene."""
    before, after = (_table(scores) for scores in zip(*pairs, strict=True))
    return _figures(after - before)


def _table(scores: Sequence[Score]) -> np.ndarray:
    """Successes and returns of S seeds in N scenes, (2, S, N)."""
    return np.array([[score.successes for score in scores], [score.returns for score in scores]], float)


def _figures(table: np.ndarray) -> dict:
    """Means and intervals of a `_table`."""
    success, reached = table
    return {
        "seeds": len(success),
        "success": success.mean(), "success_95": crossed(success),
        "return": reached.mean(), "return_95": crossed(reached),
    }  # fmt: skip


def crossed(values: np.ndarray, num_resamples: int = 10_000) -> tuple[float, float]:
    """95 % interval of the mean of (S seeds, N scenes); seeds and scenes are both resampled.

    With one seed it is the bootstrap over scenes. Source: Owen 2007, the pigeonhole bootstrap.
    """
    rng, draws = np.random.default_rng(0), []
    for num in values.shape:
        draws.append(rng.multinomial(num, np.full(num, 1 / num), num_resamples))
    seeds, scenes = draws  # counts of each draw
    means = (seeds @ values * scenes).sum(1) / values.size
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
