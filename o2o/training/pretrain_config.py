"""Defines the options of a pretraining run."""

from dataclasses import dataclass, field
from pathlib import Path

from o2o.agent.agent_config import AgentConfig, UnprefixedAgentConfig
from o2o.core.compute import MachineConfig
from o2o.core.config import at_least
from o2o.data.load_config import DataConfig, DataFlags, check_name
from o2o.hardware.robot_choice import RobotChoice


@dataclass(frozen=True)
class PretrainConfig(RobotChoice, MachineConfig):
    """Pretrains an agent on a dataset, without a robot.

    Attributes:
        dataset: Recipe name from `o2o list`, Minari dataset id, or path. With `--resume`, where the run's
            dataset lies now; empty: where it lay, or as it lies from the run.
        preset: Preset that the defaults come from; `o2o list` shows the presets.
        dataset_options: How the dataset is read.
        agent: Agent that is trained.
        updates: Number of gradient steps; FOWM uses 25,000 (xArm) and 500,000 (D4RL). None: one for each
            recorded step, from 1,000 to 4,000, because more of them overfit few recordings.
        seed: Seed of weights, batches and noise.
        out: Run folder; the default is `runs/pretrain-DATASET-TIME`.
        resume: Continue the run in `--out`.
        allow_zero_rewards: Pretrain although all recorded rewards are 0. The policy then follows all recorded
            actions alike, and no value is learned; the preset `bc` needs no rewards and no permission.
        log_every: Updates between two lines of metrics.
        checkpoint_every: Updates between two checkpoints.
        keep_checkpoints: Number of checkpoints kept in `OUT/checkpoints`: the first, the latest, and others
            spread over the run; each takes as much disk space as `OUT/checkpoint`. 0 keeps none.
        evaluate_every: Updates between two evaluations on the robot; 0 disables evaluation.
        evaluate_episodes: Number of episodes in one evaluation.
        evaluate_film: Film the first episode of each evaluation for TensorBoard, if the simulator can render.
        patience: Stop early when this many evaluations in a row bring no better return, once one has exceeded
            the dataset's mean return; 0 never stops early.
        validation_patience: Stop early when the policy's loss on validation episodes has not fallen below its
            lowest for this many lines of metrics, and keep the weights of the lowest; 0 trains for
            `--updates` and keeps the last.
    """

    dataset: str = ""
    preset: str = "small"
    dataset_options: DataFlags = field(default_factory=DataConfig)
    agent: UnprefixedAgentConfig = field(default_factory=AgentConfig)
    updates: int | None = 5000
    seed: int = 0
    out: Path | None = None
    resume: bool = False
    allow_zero_rewards: bool = False
    log_every: int = 100
    checkpoint_every: int = 1000
    keep_checkpoints: int = 5
    evaluate_every: int = 0
    evaluate_episodes: int = 20
    evaluate_film: bool = True
    patience: int = 0
    validation_patience: int = 0

    def __post_init__(self):
        RobotChoice.__post_init__(self)
        MachineConfig.__post_init__(self)
        if self.updates is not None:
            at_least(self, updates=1)
        at_least(self, seed=0, log_every=1, checkpoint_every=1, keep_checkpoints=0)
        at_least(self, evaluate_every=0, evaluate_episodes=1, patience=0, validation_patience=0)

    def check_inputs(self) -> None:
        """Checks the name of the dataset.

        Raises:
            O2OError: see `load.check_name`.
        """
        if not self.resume:  # a run knows its own
            check_name(self.dataset)
