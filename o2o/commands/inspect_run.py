"""Runs `o2o inspect RUN`: answers every question about a run on one HTML page."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from o2o import inspect
from o2o.commands.inspect_config import QUESTIONS, InspectConfig
from o2o.core import checkpoint
from o2o.core.compute import MachineConfig, tune
from o2o.core.errors import O2OError, UsageError
from o2o.core.output_lock import lock_folder
from o2o.core.progress import live_line
from o2o.core.text import count
from o2o.core.video import write_figure
from o2o.hardware.guard import Guard
from o2o.hardware.robot_choice import RobotChoice, choose_robot, connect_robot
from o2o.inspect.charts.html_page import Section, write_page
from o2o.inspect.result import Result
from o2o.inspect.run import Run

PAGE, METRICS = "index.html", "numbers.json"


Answer = Callable[[Run, InspectConfig, Guard | None], Result]

# Name of a question -> function that answers it.
ANSWERS: dict[str, Answer] = {
    "performance": lambda run, c, robot: inspect.performance(run),
    "rank_checkpoints": lambda run, c, robot: inspect.rank_checkpoints(run),
    "plans": lambda run, c, robot: inspect.plans(run, c.episode),
    "penalty_sweep": lambda run, c, robot: inspect.penalty_sweep(run),
    "candidates": lambda run, c, robot: inspect.candidates(run, c.episode, robot=robot),
    "uncertainty": lambda run, c, robot: inspect.uncertainty(
        run, c.episode, from_robot=bool(run.robot_episodes)
    ),
    "coverage": lambda run, c, robot: inspect.coverage(run),
    "ood_detection": lambda run, c, robot: inspect.ood_detection(run),
    "reliability": lambda run, c, robot: inspect.reliability(run),
    "model_error": lambda run, c, robot: inspect.model_error(run),
    "value": lambda run, c, robot: inspect.value(run),
    "penalty_weight": lambda run, c, robot: inspect.penalty_weight(run),
}
# Question at the top of the page -> result, and the number of its sentence, that answers it.
SUMMARY = {
    "How well does the robot do?": ("performance", 0),
    "Did it get better?": ("performance", 1),
    "Which checkpoint should run on the robot?": ("rank_checkpoints", 0),
}

logger = logging.getLogger("o2o")


def report(config: InspectConfig) -> Path:
    """Answers the questions and writes `index.html`, a PNG of each result, and `numbers.json`.

    If a question cannot be answered for this run, its section states the reason.

    Returns:
        Path of the page.
    Raises:
        UsageError: there is no such run, the dataset does not fit it, no question can be answered, or
            another process writes the folder.
        DataError: the dataset is missing or broken.
        StorageError: the folder cannot be written.
    """
    tune(MachineConfig(threads=config.threads, trust=config.trust))
    with live_line("loading the run"):
        run = inspect.open(config.run, config.dataset, config.dataset_options, config.plans, config.device)
    out = config.out or run.folder / "inspect"
    with lock_folder(out):
        return _report(config, run, out)


def _report(config: InspectConfig, run: Run, out: Path) -> Path:
    results: dict[str, Result] = {}
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        robot = _simulator(run, stack)
        for name in config.questions:
            title, answer = QUESTIONS[name], ANSWERS[name]
            begin_s = time.monotonic()
            try:
                with live_line(title):
                    results[name] = answer(run, config, robot)
            except O2OError as error:
                failures[name] = str(error)
            reason = f"   not answered: {failures[name]}" if name in failures else ""
            print(f"{title:<54} {time.monotonic() - begin_s:5.1f} s{reason}", flush=True)
    if not results:
        raise UsageError("no question could be answered, so no page is written; the reasons are above")
    sections = [_section(name, result) for name, result in results.items()]
    if failures:
        reasons = [f"{QUESTIONS[name]} {reason}." for name, reason in failures.items()]
        sections.append(Section("Not answered", reasons))
    for name, result in results.items():
        if result.charts():
            with live_line(f"drawing {name}"):
                write_figure(out / f"{name}.png", result.plot())
    checkpoint.write_json(out / METRICS, {name: result.metrics() for name, result in results.items()})
    summary = _summary(results, failures)
    with live_line("writing the page"):
        write_page(out / PAGE, f"Inspection of {config.run}", summary, sections, _facts(run))
    for question, sentence in summary:
        print(f"\n{question}\n  {sentence}")
    print(f"\npage: {out / PAGE}")
    return out / PAGE


def _section(name: str, result: Result) -> Section:
    """Returns a section that shows its first sentence and folds the rest."""
    if name == "performance":  # the top of the page has its sentences
        return Section("Success over the run", charts=result.charts())
    return Section(QUESTIONS[name], result.text(), result.charts(), folded=True)


def _summary(results: dict[str, Result], failures: dict[str, str]) -> list[tuple[str, str]]:
    """Returns the questions and answers at the top of the page."""
    answers = {}
    for question, (name, number) in SUMMARY.items():
        if name in results:
            answers[question] = results[name].text()[number]
        elif name in failures:
            answers[question] = f"Cannot tell: {failures[name]}."
    return list(answers.items())


def _simulator(run: Run, stack: ExitStack) -> Guard | None:
    """Returns the run's simulator, to draw plans over its images; a real robot is never connected."""
    saved = run.meta.get("robot", {})
    if not saved.get("simulated"):
        return None
    try:
        return stack.enter_context(
            closing(connect_robot(run.agent.transform, choose_robot(RobotChoice(), saved)))
        )
    except O2OError as error:
        logger.warning("plans are not drawn over images of the simulator: %s", error)
        return None


def _facts(run: Run) -> dict[str, str]:
    data, agent = run.meta["dataset"], run.agent
    split = "not used in training" if run.unseen else "used in training"
    return {
        "run": str(run.folder),
        "system": f"{run.meta.get('preset') or agent.config.model}, {count(agent.num_updates, 'update')}",
        "dataset": f"{data['dataset']} (sha256 {data['fingerprint'][:12]})",
        "evaluated on": f"{count(len(run.episodes), 'episode')}, {count(len(run.beliefs), 'step')}, {split}",
        "robot episodes": str(len(run.robot_episodes)),
        "penalty weight": f"{agent.penalty_weight:g}",
        "acts with": "planner" if run.uses_planner else "policy",
    }
