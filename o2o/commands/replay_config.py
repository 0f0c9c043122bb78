"""Defines the options of `o2o replay`."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from o2o.core.config import at_least
from o2o.core.errors import UsageError
from o2o.data.load_config import LoadConfig, check_name
from o2o.hardware.robot_choice import RobotChoice


@dataclass(frozen=True)
class ReplayConfig(RobotChoice):
    """Sends the recorded actions of an episode to a robot.

    Attributes:
        dataset: Recording: a recipe from `o2o list`, a Minari id, or a path.
        source: How the recording is read.
        episode: Number of the episode, from 0.
        seed: Seed of the scene, and of data that a recipe makes; None: the scene that the recording states,
            else 0.
        teleop: Source of the commands of a person who may pause or stop the robot; see `o2o finetune`.
    """

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")] = ""
    source: Annotated[LoadConfig, tyro.conf.arg(name="dataset")] = field(default_factory=LoadConfig)
    episode: int = 0
    seed: int | None = None
    teleop: str = "auto"

    def __post_init__(self):
        super().__post_init__()
        at_least(self, episode=0)
        if self.seed is not None:
            at_least(self, seed=0)

    def check_inputs(self) -> None:
        """Checks that there can be such a dataset.

        Raises:
            O2OError: see `load.check_name`.
        """
        if not self.dataset:
            raise UsageError("no recording given: o2o replay DATASET --robot ROBOT")
        check_name(self.dataset)
