"""Defines the options of `o2o record`."""

from dataclasses import dataclass
from pathlib import Path

from o2o.core.config import at_least
from o2o.core.errors import UsageError
from o2o.core.plugins import not_found
from o2o.core.run_folder import checkpoint_folder
from o2o.hardware.robot_choice import RobotChoice

OPERATORS = ("keys", "gamepad", "policy", "random")


@dataclass(frozen=True)
class RecordConfig(RobotChoice):
    """Records episodes on a robot as a Minari dataset.

    Attributes:
        operator: What acts: a person with `keys` or a `gamepad`; `policy`, the agent in `--checkpoint`;
            `random`, actions drawn evenly from the action bounds; or a path ending in .py, a file with a
            function `act(obs)` that returns the action (A,) in the robot's units for observations by name.
        episodes: Number of episodes in the dataset.
        out: Folder of the dataset, which gets its name; the default is `runs/record-ROBOT-TIME`.
        resume: Continue the recording in `--out`, after a kill or with more `--episodes`.
        checkpoint: Run folder of the agent that acts, with `--operator policy`.
        plan: Act with the agent's planner; `--no-plan` acts with its policy alone. The default is the better
            one of its run.
        rehearse_resets: Number of resets to try before the first episode, which are not recorded; a line says
            how far the first observations differ.
        seed: Seed of scenes and random choices.
        teleop: Source of the commands of the person who drives, labels, repeats or ends episodes; `auto`: as
            `--operator` says, else as in `o2o finetune`.
        teleop_reward: Reward of the step at which the person labels success.
        device: Device of the agent's networks: `cpu`, `cuda` or `auto`.
    """

    operator: str = ""
    episodes: int = 10
    out: Path | None = None
    resume: bool = False
    checkpoint: Path | None = None
    plan: bool = True
    rehearse_resets: int = 0
    seed: int = 0
    teleop: str = "auto"
    teleop_reward: float = 1.0
    device: str = "auto"

    def __post_init__(self):
        super().__post_init__()
        at_least(self, episodes=1, rehearse_resets=0, seed=0)

    def check_inputs(self) -> None:
        """Checks that it is stated what acts.

        Raises:
            UsageError: nothing is, or something that cannot; or a policy without a checkpoint.
        """
        have = "a path ending in .py: a file with a function `act(obs)`"
        if not self.operator:
            raise UsageError(f"nothing acts: add --operator {', '.join(OPERATORS)}, or {have}")
        if self.operator not in OPERATORS and not self.operator.endswith(".py"):
            raise UsageError(not_found("operator", self.operator, list(OPERATORS), have))
        if self.operator == "policy":
            checkpoint_folder(self.checkpoint)
        elif self.checkpoint is not None:
            raise UsageError("--checkpoint is the agent of --operator policy: leave one out")

    @property
    def person_drives(self) -> bool:
        """Whether a person moves the robot."""
        return self.operator in ("keys", "gamepad")

    @property
    def source(self) -> str:
        """The `--teleop` of the person."""
        if self.teleop != "auto" or not self.person_drives:
            return self.teleop
        return {"keys": "keyboard", "gamepad": "gamepad"}[self.operator]
