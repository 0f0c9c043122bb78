"""Defines the options of `o2o compare`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from o2o.agent import presets
from o2o.core.compute import MachineConfig
from o2o.core.config import FieldError, at_least, at_most
from o2o.core.errors import UsageError
from o2o.core.launch.config import JobsConfig
from o2o.data.load_config import check_name
from o2o.hardware.robot_choice import RobotChoice
from o2o.training.pretrain_config import PretrainConfig


@dataclass(frozen=True)
class CompareConfig(RobotChoice, JobsConfig, MachineConfig):
    """Presets, budget, seeds and scenes of a comparison.

    Attributes:
        threads: Number of CPU threads; 0 uses each preset's own number.
        compile: Compile updates and plans with torch's compiler; `auto` does so from 5,000 updates on where
            a C++ compiler is found, and not with `--minutes`.
        dataset: Dataset to learn from: a recipe from `o2o list`, a Minari id, or a path.
        presets: Presets to compare: names from `o2o list presets`, or variants with flags of `o2o pretrain`
            such as `dreamerv2:balance=harmony,window=32`.
        flags: Flags of `o2o pretrain` for every preset, such as `discount=0.98 dataset.normalize`.
        seeds: Number of runs of each preset.
        first_seed: Seed of the first run; the others follow in order. The evaluation scenes do not depend on
            it.
        updates: Number of offline gradient steps of each run; None uses each preset's own number.
        minutes: Minutes of offline training, instead of `--updates`; reading the data does not count.
        episodes: Number of online episodes of each run; 0 trains offline only.
        evaluate_episodes: Number of fixed scenes of each evaluation, the same for all presets.
        out: Output folder; by default `runs/compare-DATASET-TIME`.
        resume: Continue the comparison in `--out`; presets and seeds may be added.
    """

    threads: int = 0
    dataset: str = ""
    presets: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    seeds: int = 3
    first_seed: int = 0
    updates: int | None = None
    minutes: float | None = None
    episodes: int = 40
    evaluate_episodes: int = 50
    out: Path | None = None
    resume: bool = False

    def __post_init__(self):
        RobotChoice.__post_init__(self)
        JobsConfig.__post_init__(self)
        MachineConfig.__post_init__(self)
        at_least(self, seeds=1, first_seed=0, episodes=0, evaluate_episodes=1)
        if self.updates is not None and self.minutes is not None:
            raise FieldError(self, "<updates> and <minutes> exclude each other: give one budget for all")
        if self.updates is not None:
            at_least(self, updates=1)
        if self.minutes is not None:
            at_least(self, minutes=0.01)
            at_most(self, minutes=1e6)

    def check_inputs(self) -> None:
        """Checks the name of the dataset.

        Raises:
            O2OError: see `load.check_name`.
        """
        check_name(self.dataset)


Reader = Callable[[str, Sequence[str]], PretrainConfig]


def of_preset(name: str, flags: Sequence[str] = ()) -> PretrainConfig:
    """Returns the pretraining config of a preset.

    Raises:
        UsageError: no such preset, or flags are given, which only the command line can parse.
    """
    preset = presets.get(name)
    if flags:
        raise UsageError(
            f"flags {list(flags)} can only be parsed on the command line; from Python, pass `read`"
        )
    return PretrainConfig(
        preset=name,
        agent=preset.agent,
        dataset_options=preset.dataset_options,
        updates=preset.updates,
        threads=preset.threads,
    )
