"""Defines the options of a fine-tuning run."""

from dataclasses import dataclass
from pathlib import Path

from o2o.agent.agent_config import FROM_CHECKPOINT, UnprefixedAgentConfig
from o2o.core import memory
from o2o.core.config import FieldError, at_least
from o2o.core.run_folder import checkpoint_folder
from o2o.hardware.robot_choice import RobotChoice
from o2o.training.learner_config import LearnerConfig
from o2o.training.regression_gate import RollbackConfig
from o2o.training.safe_start import SafeStartConfig

NO_SAFE_START = {  # as published: no limits from the first episode on, a fixed batch ratio, no rollback
    "max_online_oversampling": 0.0,
    "safe_start": SafeStartConfig(0, 0, 0),
    "rollback": RollbackConfig(window=0),
    "choose_actor": False,
}


@dataclass(frozen=True)
class FinetuneConfig(RobotChoice, LearnerConfig):
    """Fine-tunes a pretrained agent on its robot.

    Attributes:
        checkpoint: Run folder of `o2o pretrain`, or of `o2o finetune` to start from its weights without its
            episodes (`--resume` continues with them).
        preset: Preset that the default training lengths come from; empty uses the checkpoint's preset.
        agent: Agent; its sizes are fixed by the checkpoint, its planner and learning rates may change.
        out: Run folder; the default is `runs/finetune-ROBOT-TIME`.
        resume: Continue the run in `--out`.
        dry_run: Run the whole loop without a robot, on one recorded episode replayed in real time.
        plan: Act with the planner; `--no-plan` explores with the policy alone.
        record_plans: Store the planner's candidates and values at every step in `OUT/plans`, to be shown by
            `o2o inspect`.
        rerun: Show the robot's episodes in Rerun: `live`, a new .rrd file, or a viewer's address.
        plans_budget: Disk space for the stored plans, such as `200MB`; when it is full, the plans of every
            second episode are deleted.
        evaluate_every: Episodes between two evaluations in fixed scenes; 0 disables evaluation.
        evaluate_episodes: Number of episodes in one evaluation.
        evaluate_film: Film the first episode of each evaluation for TensorBoard, if the simulator can render.
        teleop: Source of the operator's commands: `keyboard` in this terminal, `gamepad` (and keyboard), a
            file that commands are written to, or `none`; `auto` uses the keyboard for a real robot in a
            terminal. The commands are listed in `o2o.hardware.teleop.operator`.
        teleop_reward: Reward of the step at which the operator labels success.
    """

    checkpoint: Path | None = None
    preset: str = ""
    agent: UnprefixedAgentConfig = FROM_CHECKPOINT
    out: Path | None = None
    resume: bool = False
    dry_run: bool = False
    plan: bool = True
    record_plans: bool = False
    rerun: str = ""
    plans_budget: str = "200MB"
    evaluate_every: int = 0
    evaluate_episodes: int = 20
    evaluate_film: bool = True
    teleop: str = "auto"
    teleop_reward: float = 1.0

    def __post_init__(self):
        RobotChoice.__post_init__(self)
        LearnerConfig.__post_init__(self)
        at_least(self, evaluate_every=0, evaluate_episodes=1)
        if self.dry_run and self.resume:
            raise FieldError(self, "<dry_run> and <resume> exclude each other: a dry run is a run of its own")
        memory.check_budget(self, "plans_budget")

    def check_inputs(self) -> None:
        """Checks that a checkpoint is given.

        Raises:
            UsageError: see `checkpoint_folder`.
        """
        if not self.resume:
            checkpoint_folder(self.checkpoint)
