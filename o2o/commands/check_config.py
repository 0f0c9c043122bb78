"""Defines the options of `o2o check`."""

from dataclasses import dataclass, field
from pathlib import Path

from o2o.core.config import at_least
from o2o.core.errors import UsageError
from o2o.data.load_config import DataConfig, DataFlags, check_name
from o2o.hardware.robot_choice import RobotChoice


@dataclass(frozen=True)
class CheckConfig(RobotChoice):
    """Which dataset and which robot are checked.

    Attributes:
        dataset: Dataset to check: a recipe from `o2o list`, a Minari id, or a path.
        dataset_options: How the dataset is read.
        out: Folder for the report on the dataset, `check.json` and `check.png`; None writes none.
        steps: Number of random actions to execute on the robot; 0 only inspects its spaces. A simulated robot
            that is checked against a dataset also plays up to 1000 recorded actions.
        move: Also execute the random actions on a real robot, inside its limits. Without this flag a real
            robot is connected and observed, and does not move.
    """

    dataset: str = ""
    dataset_options: DataFlags = field(default_factory=DataConfig)
    out: Path | None = None
    steps: int = 100
    move: bool = False

    def __post_init__(self):
        super().__post_init__()
        at_least(self, steps=0)

    def check_inputs(self) -> None:
        """Checks that there is something to check.

        Raises:
            O2OError: there is nothing, or see `load.check_name`.
        """
        if not self.dataset and not self.robot:
            raise UsageError("nothing to check: add --dataset NAME or --robot NAME")
        if self.dataset:
            check_name(self.dataset)
