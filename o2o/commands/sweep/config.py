"""Defines the options of `o2o sweep`."""

from dataclasses import dataclass
from pathlib import Path

from o2o.core.compute import MachineConfig
from o2o.core.config import at_least, at_most
from o2o.core.errors import UsageError
from o2o.core.launch.config import JobsConfig
from o2o.data.load_config import check_name
from o2o.hardware.robot_choice import RobotChoice

MAX_TRIALS = 10_000


@dataclass(frozen=True)
class SweepConfig(RobotChoice, JobsConfig, MachineConfig):
    """What is varied, and the budget of each trial.

    Attributes:
        threads: Number of CPU threads of each trial; 0 uses the preset's own number.
        dataset: Dataset to learn from: a recipe from `o2o list`, a Minari id, or a path.
        preset: Preset whose flags are varied; trial 0 is the preset itself.
        vary: Flags of `o2o pretrain` and their values: `planner.uncertainty=0..20`,
            `learning-rate=log:1e-4..1e-2`, or `critic.expectile=0.7,0.9`.
        flags: Flags of `o2o pretrain` for every trial, such as `discount=0.98`.
        trials: Number of trials in all, also over several processes with the same `--out`.
        seeds: Number of further seeds with which the best trial and the preset itself are run again and
            compared; 0 compares nothing.
        seed: Seed of every trial, and of the search; the further seeds follow it.
        prune: Evaluate trials while they learn, and end those that are worse than the median.
        updates: Number of offline gradient steps of each trial; None uses the preset's own number.
        episodes: Number of online episodes of each trial; 0 trains offline only.
        evaluate_episodes: Number of fixed scenes of each evaluation.
        out: Output folder; by default `runs/sweep-DATASET-TIME`.
        resume: Continue the sweep in `--out`, or help a process that runs it; trials may be added.
    """

    threads: int = 0
    dataset: str = ""
    preset: str = "small"
    vary: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    trials: int = 20
    seeds: int = 3
    seed: int = 0
    prune: bool = True
    updates: int | None = None
    episodes: int = 40
    evaluate_episodes: int = 50
    out: Path | None = None
    resume: bool = False

    def __post_init__(self):
        RobotChoice.__post_init__(self)
        JobsConfig.__post_init__(self)
        MachineConfig.__post_init__(self)
        at_least(self, trials=1, seeds=0, seed=0, episodes=0, evaluate_episodes=1)
        at_most(self, trials=MAX_TRIALS)
        if self.updates is not None:
            at_least(self, updates=1)

    def check_inputs(self) -> None:
        """Checks that something is varied, and the name of the dataset.

        Raises:
            O2OError: nothing is varied, or see `load.check_name`.
        """
        if not self.vary:
            raise UsageError("nothing to vary: add --vary NAME=LOW..HIGH, such as planner.uncertainty=0..20")
        check_name(self.dataset)
