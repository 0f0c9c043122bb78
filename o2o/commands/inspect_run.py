"""`o2o inspect RUN`: every question asked once, and the answers on one page."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from o2o import inspect
from o2o.core import checkpoint
from o2o.core.compute import MachineConfig, tune
from o2o.core.config import at_least
from o2o.core.errors import O2OError, UsageError
from o2o.core.plugins import not_found
from o2o.core.video import write_picture
from o2o.data.load import DataConfig
from o2o.data.training_data import DataFlags
from o2o.hardware.guard import Guard
from o2o.hardware.selection import RobotChoice, choose_robot, connect_robot
from o2o.inspect.charts.html_page import Section, write_page
from o2o.inspect.result import Result
from o2o.inspect.run import Run

PAGE, NUMBERS = "index.html", "numbers.json"


@dataclass(frozen=True)
class InspectConfig:
    """Looks into a run and writes what it found: a page, pictures and numbers.

    Attributes:
        run: folder of `o2o pretrain` or `o2o finetune`, or one of its checkpoints.
        dataset: look at these recordings; empty: at those it was trained on, the held-out ones of them.
        dataset_options: how that dataset is read.
        episode: which one is looked at step by step: of the robot's own, if there are any, else recorded.
        plans: folder of `o2o evaluate --record-plans`; empty: what `o2o finetune --record-plans` kept.
        only: the questions to ask, such as `contrast price`; empty: all.
        out: folder for the page; default `RUN/inspect`.
        device: `cpu`, `cuda` or `auto`.
        threads: of the CPU; 0: as torch has it.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    dataset: str = ""
    dataset_options: DataFlags = field(default_factory=DataConfig)
    episode: int = 0
    plans: Path | None = None
    only: tuple[str, ...] = ()
    out: Path | None = None
    device: str = "auto"
    threads: int = 0

    def __post_init__(self):
        at_least(self, episode=0, threads=0)
        for name in self.only:
            if name not in QUESTIONS:
                raise UsageError(not_found("question", name, list(QUESTIONS)))


Ask = Callable[[Run, InspectConfig, Guard | None], Result]

# name -> title on the page, and how to ask; in the order of the page
QUESTIONS: dict[str, tuple[str, Ask]] = {
    "plans": ("What did the penalty do?", lambda s, c, r: inspect.plans(s, c.episode)),
    "sweep": ("What would other prices of doubt have chosen?", lambda s, c, r: inspect.penalty_sweep(s)),
    "fan": ("What did it consider at one moment?", lambda s, c, r: inspect.candidates(s, c.episode, robot=r)),
    "uncertainty": (
        "Where was it unsure?",
        lambda s, c, r: inspect.uncertainty(s, c.episode, own=bool(s.robot_episodes)),
    ),
    "coverage": ("Where are there no data?", lambda s, c, r: inspect.coverage(s)),
    "contrast": (
        "Does it tell what was recorded from what was not?",
        lambda s, c, r: inspect.ood_detection(s),
    ),
    "reliability": ("Does its doubt say where it is wrong?", lambda s, c, r: inspect.reliability(s)),
    "model_error": ("How far can the model see?", lambda s, c, r: inspect.model_error(s)),
    "value": ("Are its values what was achieved?", lambda s, c, r: inspect.value(s)),
    "price": ("Which price of doubt do the data suggest?", lambda s, c, r: inspect.penalty_weight(s)),
    "choice": ("Which checkpoint belongs on the robot?", lambda s, c, r: inspect.rank_checkpoints(s)),
}
LEAD = {  # question at the top -> whose first words answer it, the first that has any
    "What did the penalty do?": ("plans", "sweep"),
    "Where was the agent unsure?": ("uncertainty", "coverage"),
    "Can its uncertainty be trusted on these data?": ("reliability", "contrast"),
    "Which lambda do the data suggest?": ("price",),
    "Which checkpoint belongs on the robot?": ("choice",),
}

logger = logging.getLogger("o2o")


def report(config: InspectConfig) -> Path:
    """Asks every question, and writes `index.html`, a PNG for each answer, and `numbers.json`.

    A question that this run cannot answer says why in its place.

    Returns:
        The page.
    Raises:
        UsageError: no such run, recordings that do not fit it, or not one question can be answered.
        DataError: the recordings are gone or broken.
        StorageError: the folder cannot be written.
    """
    tune(MachineConfig(threads=config.threads))
    run = inspect.open(config.run, config.dataset, config.dataset_options, config.plans, config.device)
    out = config.out or Path(config.run) / "inspect"
    answers: dict[str, Result] = {}
    refused: dict[str, str] = {}
    with ExitStack() as stack:
        robot = _simulator(run, stack)
        for name in config.only or QUESTIONS:
            title, ask = QUESTIONS[name]
            begin_s = time.monotonic()
            try:
                answers[name] = ask(run, config, robot)
            except O2OError as error:
                refused[name] = str(error)
            why = f"   not answered: {refused[name]}" if name in refused else ""
            print(f"{title:<52} {time.monotonic() - begin_s:5.1f} s{why}", flush=True)
    if not answers:
        raise UsageError("no question could be answered; nothing is written")
    sections = [_section(name, answers.get(name), refused) for name in config.only or QUESTIONS]
    for name, answer in answers.items():
        if answer.charts():
            write_picture(out / f"{name}.png", answer.plot())
    checkpoint.write_json(out / NUMBERS, {name: answer.metrics() for name, answer in answers.items()})
    lead = _lead(answers)
    write_page(out / PAGE, f"Inside {config.run}", lead, sections, _facts(run))
    for question, said in lead:
        print(f"\n{question}\n  {said}")
    print(f"\nthe page: {out / PAGE}")
    return out / PAGE


def _section(name: str, answer: Result | None, refused: dict[str, str]) -> Section:
    if answer is None:
        return Section(QUESTIONS[name][0], [f"Not answered: {refused[name]}."])
    return Section(QUESTIONS[name][0], answer.text(), answer.charts())


def _lead(answers: dict[str, Result]) -> list[tuple[str, str]]:
    """The answers at the top of the page."""
    lead = []
    for question, names in LEAD.items():
        words = [answers[name].text()[0] for name in names if name in answers]
        if words:
            lead.append((question, words[0]))
    return lead


def _simulator(run: Run, stack: ExitStack) -> Guard | None:
    """The run's simulator, to draw plans over its picture. A real robot is not even connected."""
    saved = run.meta.get("robot", {})
    if not saved.get("simulated"):
        return None
    try:
        return stack.enter_context(
            closing(connect_robot(run.agent.transform, choose_robot(RobotChoice(), saved)))
        )
    except O2OError as error:
        logger.warning("no pictures of the simulator: %s", error)
        return None


def _facts(run: Run) -> dict[str, str]:
    data, agent = run.meta["dataset"], run.agent
    seen = "held out from training" if run.unseen else "it was trained on"
    return {
        "run": str(run.folder),
        "system": f"{run.meta.get('preset') or agent.config.model}, {agent.num_updates} updates",
        "dataset": f"{data['dataset']} (sha256 {data['fingerprint'][:12]})",
        "looked at": f"{len(run.episodes)} episodes, {len(run.beliefs)} steps, {seen}",
        "the robot's own": f"{len(run.robot_episodes)} episodes",
        "lambda": f"{agent.price:g}",
        "acts by": "planner" if run.uses_planner else "policy",
    }
