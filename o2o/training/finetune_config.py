"""Defines the options of a fine-tuning run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from o2o.agent.agent_config import FROM_CHECKPOINT, UnprefixedAgentConfig
from o2o.core import memory
from o2o.core.config import FieldError, at_least, at_most
from o2o.core.run_folder import checkpoint_folder
from o2o.data.load_config import check_name
from o2o.fleet.messages import NAME
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
        task_of: Dataset of another task for the same robot: recipe, Minari id or path. The run then learns
            that task, begins with the checkpoint's encoder and dynamics, and learns from the recordings of
            both, see `o2o.training.next_task`. Empty: the checkpoint's task.
        task_heads: Whether the heads of rewards, values and actions are those of the checkpoint (`keep`) or
            begin anew (`reset`); `auto` keeps them where its reward head explains at least half of the
            variance of the new task's rewards.
        task_demos: Number of episodes of `--task-of` that are learned from; 0: its reward rule alone. None:
            all.
        task_updates: Gradient steps on the recordings before the robot moves; None: one for each recorded
            step, from 1,000 to 4,000.
        reward: Who rewards the robot's steps: the `robot` (or the recipe), or a `classifier` that judges
            success from observations: 1 while an episode counts as successful, else 0. An operator's label
            overrules it.
        classifier: Folder of a success classifier of `o2o data relabel --learn`; by default the one beside
            the recording, `RECORDING.classifier`. The run keeps a copy in `OUT/classifier`.
        max_false_positives: Largest share of its held-out failures that the classifier may have judged
            successful, 0 to 1.
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
        name: Name of this robot among those of the learner at `--learner http://HOST:PORT`, such as `arm-3`.
        learner_token_file: File with the token of that learner; only this user may read it.
        learner_cert: File with the certificates to trust, PEM, such as that learner's own; by default those
            that this system trusts.
        spool_budget: Disk space for finished episodes that the learner has not taken yet, such as `10GB`;
            when it is full, the run ends after the episode.
        lockstep: Wait after each episode until the learner has learned from it, as with `--learner sync`.
    """

    checkpoint: Path | None = None
    task_of: str = ""
    task_heads: Literal["auto", "reset", "keep"] = "auto"
    task_demos: int | None = None
    task_updates: int | None = None
    reward: Literal["robot", "classifier"] = "robot"
    classifier: Path | None = None
    max_false_positives: float = 0.1
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
    name: str = ""
    learner_token_file: Path | None = None
    learner_cert: Path | None = None
    spool_budget: str = "10GB"
    lockstep: bool = False

    def __post_init__(self):
        RobotChoice.__post_init__(self)
        LearnerConfig.__post_init__(self)
        at_least(self, evaluate_every=0, evaluate_episodes=1)
        if self.dry_run and self.resume:
            raise FieldError(self, "<dry_run> and <resume> exclude each other: a dry run is a run of its own")
        memory.check_budget(self, "plans_budget")
        at_least(self, max_false_positives=0)
        at_most(self, max_false_positives=1)
        if self.classifier and self.reward != "classifier":
            raise FieldError(self, "<classifier> needs <reward> classifier")
        for name in ("task_demos", "task_updates"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise FieldError(self, f"<{name}> is {value}, wanted at least 0")
        changed = self.task_heads != "auto" or (self.task_demos, self.task_updates) != (None, None)
        if changed and not self.task_of:
            raise FieldError(self, "<task_heads>, <task_demos> and <task_updates> need <task_of>")
        memory.check_budget(self, "spool_budget")
        self._check_learner()

    def _check_learner(self) -> None:
        if self.is_remote:
            if self.task_of or self.dry_run:
                other = "task_of" if self.task_of else "dry_run"
                raise FieldError(self, f"<{other}> and <learner> with an address exclude each other")
            if not NAME.fullmatch(self.name):
                wanted = "up to 64 letters, digits or ._-, such as arm-3"
                raise FieldError(
                    self, f"<name> is {self.name!r:.100}, <learner> with an address wants {wanted}"
                )
            return
        flags = ("name", "learner_token_file", "learner_cert", "lockstep")
        given = [f"<{flag}>" for flag in flags if getattr(self, flag)]
        if given:
            raise FieldError(self, f"{' and '.join(given)} need <learner> with an address, http://HOST:PORT")

    def check_inputs(self) -> None:
        """Checks that a checkpoint is given, and the name of the next task's dataset.

        Raises:
            O2OError: see `checkpoint_folder` and `load_config.check_name`.
        """
        if not self.resume:
            checkpoint_folder(self.checkpoint)
            if self.task_of:
                check_name(self.task_of)
