"""`o2o demo`: records a simulated arm, pretrains, evaluates, fine-tunes and evaluates again."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from o2o.agent import presets
from o2o.commands.demo_config import DemoConfig
from o2o.core import checkpoint, child_process, stats
from o2o.core.errors import RobotError
from o2o.core.progress import format_duration, live_line
from o2o.core.run_folder import new_folder, write_run_info
from o2o.core.text import count
from o2o.core.video import write_figure
from o2o.data.load import load
from o2o.inspect.charts.chart import CHOSEN, DATA, PLAN
from o2o.inspect.own_evaluations import read_evaluations
from o2o.training.comparison_film import film_comparison
from o2o.training.evaluate import Score
from o2o.training.finetune import finetune
from o2o.training.finetune_config import FinetuneConfig
from o2o.training.pretrain import pretrain
from o2o.training.pretrain_config import PretrainConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure


EVALUATION_SCENES = 25  # of a run's own evaluations, on the learning curve


def demo(config: DemoConfig) -> Path:
    """Runs all stages, prints one table, and returns the folder with curves and videos.

    Raises:
        O2OError: with the exit codes of docs/reference/exit-codes.md.
    """
    begin = time.monotonic()
    with new_folder(config.out, "demo", config.dataset, "remove it, or give another --out") as folder:
        _demo(config, folder)
    print(f"everything is in {folder}; took {format_duration(time.monotonic() - begin)}")
    return folder


def _demo(config: DemoConfig, folder: Path) -> None:
    write_run_info(folder, "demo", config, {})
    preset = presets.get(config.preset)
    dataset_options = replace(preset.dataset_options, max_episodes=config.recordings)
    before = pretrain(
        PretrainConfig(
            dataset=config.dataset, preset=config.preset, agent=preset.agent, dataset_options=dataset_options,
            updates=config.updates, seed=config.seed, device=config.device, threads=preset.threads,
            out=folder / "pretrain", evaluate_every=250, evaluate_episodes=EVALUATION_SCENES,
            evaluate_film=False, patience=3,
        )
    )  # fmt: skip
    # "--plan": the planner, also where the policy is the better actor
    with (
        _evaluation(before, config, folder / "policy_offline.json", "--no-plan") as policy,
        _evaluation(before, config, folder / "planner_offline.json", "--plan") as planner,
    ):  # on the other core, while fine-tuning runs
        after = finetune(
            FinetuneConfig(
                checkpoint=before, preset=config.preset, updates_per_step=preset.updates_per_step,
                episodes=config.episodes, seed=config.seed, device=config.device, threads=preset.threads,
                out=folder / "finetune", evaluate_every=-(-config.episodes // 3),
                evaluate_episodes=EVALUATION_SCENES, evaluate_film=False,
            )
        )  # fmt: skip
        rows = {"the data": Score.of(load(config.dataset, dataset_options, config.seed).episodes)}
        rows["policy alone"], rows["planner, offline"] = policy(), planner()
    with _evaluation(after, config, folder / "planner_online.json", "--plan") as planner:
        rows["planner, online"] = planner()
    gains = {
        name: stats.paired_difference(
            getattr(rows["planner, offline"], name), getattr(rows["planner, online"], name)
        )
        for name in ("successes", "returns")
    }
    write_figure(folder / "learning_curve.png", learning_curve(folder, rows), dpi=130)
    checkpoint.write_json(folder / "result.json", _result(config, rows, gains))
    print(_table(config, rows, gains))
    with live_line("filming scenes before and after"):
        successes = rows["planner, offline"].successes, rows["planner, online"].successes
        line = film_comparison(folder / "before_after.mp4", (before, after), successes, config.device)
    print(f"{line}\nlearning curve: {folder / 'learning_curve.png'}")


@contextmanager
def _evaluation(run: Path, config: DemoConfig, out: Path, *flags: str) -> Iterator[Callable[[], Score]]:
    """Starts `o2o evaluate` in its own process; the yielded function waits for its result."""
    command, environment = child_process.command(
        *("o2o", "evaluate", "--checkpoint", str(run), "--out", str(out)),
        *("--episodes", str(config.evaluate_episodes), "--device", config.device, "--threads", "1", *flags),
    )
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:

        def result() -> Score:
            with live_line(f"evaluating in {count(config.evaluate_episodes, 'scene')}"):
                _, errors = process.communicate()
            if process.returncode:
                raise RobotError(f"the evaluation of {run} failed: {errors.strip().splitlines()[-1]}")
            return Score.load(out)

        try:
            yield result
        finally:
            process.terminate()


def _table(config: DemoConfig, rows: dict[str, Score], gains: dict) -> str:
    lines = [
        "",
        f"{config.dataset}, seed {config.seed}",
        f"{'':<18}{'success':>9}  {'95 %':<13}{'return':>8}  {'95 %':<16}{'episodes':>8}",
    ]
    for name, row in rows.items():
        count, n = int(row.successes.sum()), len(row.successes)
        low, high = stats.success_interval(count, n)
        worst, best = stats.mean_interval(row.returns)
        lines.append(
            f"{name:<18}{count / n:>9.0%}  {f'[{low:.0%}, {high:.0%}]':<13}{row.returns.mean():>8.2f}  "
            f"{f'[{worst:.2f}, {best:.2f}]':<16}{n:>8}"
        )
    for name, (mean, low, high) in gains.items():
        shown = (
            f"{mean:+.0%} [{low:+.0%}, {high:+.0%}]"
            if name == "successes"
            else f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
        )
        lines.append(f"gain of online over offline, same scenes, {name}: {shown}")
    return "\n".join(lines)


def _result(config: DemoConfig, rows: dict[str, Score], gains: dict) -> dict:
    return {
        "dataset": config.dataset,
        "seed": config.seed,
        "rows": {name: {**row.metrics(), "episodes": len(row.successes)} for name, row in rows.items()},
        "gain": {name: dict(zip(("mean", "low", "high"), gain, strict=True)) for name, gain in gains.items()},
    }


def learning_curve(folder: Path, rows: dict[str, Score]) -> "Figure":
    """Draws success over offline updates and online episodes with 95 % intervals, beside the recordings."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    parts = (
        ("pretrain", "offline gradient steps", "the pretrained agent"),
        ("finetune", "online episodes", "the better actor so far"),
    )
    for axes, (part, label, actor) in zip(panels, parts, strict=True):
        phase = "offline" if part == "pretrain" else "online"
        evaluations = read_evaluations(folder / part, phase)
        low, high = evaluations.intervals().T
        axes.plot(evaluations.step, evaluations.success, "o-", color=PLAN, label=actor)
        axes.fill_between(evaluations.step, low, high, color=PLAN, alpha=0.15, lw=0, label="95 % interval")
        axes.axhline(rows["the data"].successes.mean(), color=DATA, ls="--", label="the data")
        axes.set(xlabel=label, ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    for axes, name in zip(panels, ("planner, offline", "planner, online"), strict=True):
        scores = rows[name].successes
        low, high = stats.success_interval(int(scores.sum()), len(scores))
        axes.axhspan(low, high, color=CHOSEN, alpha=0.08, lw=0)
        axes.axhline(scores.mean(), color=CHOSEN, ls=":", label=f"{name}, {len(scores)} scenes")
    panels[0].set(ylabel="success at any step", title="pretraining on recordings")
    panels[1].set(title="fine-tuning on the robot")
    for axes in panels:
        axes.legend(loc="best", fontsize=8)
    return figure
