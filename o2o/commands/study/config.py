"""Defines the options of `o2o study`."""

from dataclasses import dataclass
from pathlib import Path

from o2o.core.compute import MachineConfig
from o2o.core.config import at_least
from o2o.core.launch.config import JobsConfig


@dataclass(frozen=True)
class StudyConfig(JobsConfig, MachineConfig):
    """Tasks, presets and seeds of a study.

    Attributes:
        threads: Number of CPU threads of each run; 0 uses each preset's own number.
        tasks: Tasks: recipes from `o2o list datasets`, paths of datasets, or recipes ending in .py; empty:
            the suite, as far as its data and simulators are on this machine.
        presets: Presets to measure: names from `o2o list presets`, or variants with flags of `o2o pretrain`
            such as `small:critic.expectile=0.7`.
        flags: Flags of `o2o pretrain` for every preset and task, such as `critic.num-q=10`.
        robot: Robot of the tasks outside the suite; empty: the one that their recipe names.
        seeds: Number of runs of each preset on each task; None: 3, and 1 with `--quick`.
        first_seed: Seed of the first run; the others follow in order. The evaluation scenes do not depend on
            it.
        quick: Measure on two short tasks with a small budget.
        updates: Number of offline gradient steps of each run; None uses the task's.
        episodes: Number of online episodes of each run; None uses the task's.
        evaluate_episodes: Number of fixed scenes of each evaluation; None uses the task's.
        out: Output folder; by default `runs/study-suite-TIME`.
        resume: Continue the study in `--out`; tasks, presets and seeds may be added.
    """

    threads: int = 0
    tasks: tuple[str, ...] = ()
    presets: tuple[str, ...] = ("small", "bc")
    flags: tuple[str, ...] = ()
    robot: str = ""
    seeds: int | None = None
    first_seed: int = 0
    quick: bool = False
    updates: int | None = None
    episodes: int | None = None
    evaluate_episodes: int | None = None
    out: Path | None = None
    resume: bool = False

    def __post_init__(self):
        JobsConfig.__post_init__(self)
        MachineConfig.__post_init__(self)
        at_least(self, first_seed=0)
        budget = ("seeds", "updates", "episodes", "evaluate_episodes")
        at_least(self, **{name: 1 for name in budget if getattr(self, name) is not None})
