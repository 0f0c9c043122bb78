"""Defines the options of an evaluation."""

from dataclasses import dataclass
from pathlib import Path

from o2o.agent.agent_config import FROM_CHECKPOINT, UnprefixedAgentConfig
from o2o.core import memory
from o2o.core.compute import MachineConfig
from o2o.core.config import FieldError, at_least, at_most
from o2o.core.launch.config import JobsConfig
from o2o.core.run_folder import checkpoint_folder
from o2o.hardware.robot_choice import RobotChoice

MAX_EPISODES = 1_000_000  # whose scenes and results are held in memory
ALONE = ("film", "record_plans", "rerun", "shadow", "dry_run")  # what only one process can do


@dataclass(frozen=True)
class EvaluateConfig(RobotChoice, JobsConfig, MachineConfig):
    """Evaluates a checkpoint on a robot.

    Attributes:
        checkpoint: Run folder of `o2o pretrain` or `o2o finetune`.
        agent: Agent; its sizes are fixed by the checkpoint, its planner may change.
        episodes: Number of episodes, each in its own fixed scene.
        first_scene: Number of the first scene; the others follow in order.
        seed: Seed of the agent's random choices; the scenes do not depend on it.
        plan: Act with the planner; `--no-plan` acts with the policy alone. The default is what the run did.
        num_robots: Number of simulators that run side by side; a real robot runs alone.
        jobs: Number of processes, each with a share of the groups of `--num-robots` scenes, and one thread
            unless `--threads` is given. With the same threads, the result is the same to the bit with any
            number.
        on: Where these processes run: `here`, on a `ray` cluster, or as `slurm` jobs.
        film: Write a short video of the first four episodes to this .mp4 file.
        out: Write the result to this .json file.
        dataset: Where the recordings lie now that the run was pretrained on, if they were moved; see
            `o2o finetune`.
        record_plans: Store the planner's candidates and values at every step in this folder, to be
            shown by `o2o inspect`.
        plans_budget: Disk space for the stored plans, such as `200MB`; when it is full, the plans of every
            second episode are deleted.
        rerun: Show the first robot in Rerun: `live`, a new .rrd file, or a viewer's address.
        teleop: Source of the operator's commands, who may label, repeat or end episodes; see `o2o finetune`.
        shadow: Plan and log, but hold the robot still.
        dry_run: Run the whole loop without a robot, on one recorded episode replayed in real time.
    """

    checkpoint: Path | None = None
    agent: UnprefixedAgentConfig = FROM_CHECKPOINT
    episodes: int = 50
    first_scene: int = 0
    seed: int = 0
    plan: bool = True
    num_robots: int = 25
    film: Path | None = None
    out: Path | None = None
    dataset: str = ""
    record_plans: Path | None = None
    plans_budget: str = "200MB"
    rerun: str = ""
    teleop: str = "auto"
    shadow: bool = False
    dry_run: bool = False

    def __post_init__(self):
        RobotChoice.__post_init__(self)
        MachineConfig.__post_init__(self)
        JobsConfig.__post_init__(self)
        at_least(self, episodes=1, first_scene=0, seed=0, num_robots=1)
        at_most(self, episodes=MAX_EPISODES, first_scene=MAX_EPISODES - self.episodes)
        memory.check_budget(self, "plans_budget")
        alone = [name for name in ALONE if getattr(self, name)]
        alone += [] if self.teleop in ("auto", "none") else ["teleop"]
        if self.is_split and alone:
            raise FieldError(self, f"<jobs> and <on> exclude <{alone[0]}>, which one process must do")
        if self.on == "slurm" and not self.out:
            raise FieldError(self, "<on> is slurm, which needs <out> in a folder that all machines share")

    @property
    def is_split(self) -> bool:
        """Whether the scenes are played by processes other than this one."""
        return self.jobs > 1 or self.on != "here"

    def check_inputs(self) -> None:
        """Checks that a checkpoint is given.

        Raises:
            UsageError: see `checkpoint_folder`.
        """
        checkpoint_folder(self.checkpoint)
