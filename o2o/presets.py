"""Systems by name: a preset is a set of defaults, every field of which is still a flag."""

from dataclasses import dataclass, replace

from o2o.agent import AgentConfig
from o2o.behaviour import BehaviourConfig
from o2o.catalog import not_found
from o2o.critic import CriticConfig
from o2o.data.replay import ReplayConfig
from o2o.data.source import DataConfig
from o2o.errors import UsageError
from o2o.models import tdmpc
from o2o.planner import PlannerConfig


@dataclass(frozen=True)
class Preset:
    """One system, its data rules and its training length.

    Attributes:
        about: one sentence for `o2o list`.
        agent: world model, critic, behaviour, planner, balance, replay.
        data: how the dataset is read.
        updates: offline gradient steps.
        threads: CPU threads; 0: one for each core.
        updates_per_step: online gradient steps for each step of the robot.
    """

    about: str
    agent: AgentConfig
    data: DataConfig = DataConfig()
    updates: int = 25_000
    updates_per_step: float = 1.0
    threads: int = 0


# The defaults of every part are FOWM's for xArm.
FOWM = AgentConfig(replay=ReplayConfig(capacity=10_000))

PRESETS = {
    # Ours: sizes chosen by time on two CPU cores, 12 ms an update and a plan; see `o2o demo`.
    "small": Preset(
        "FOWM's equations at laptop size; 25-step manipulation, discount 0.9",
        replace(
            FOWM,
            world=tdmpc.Config(latent_dim=32, hidden_dim=64, encoder_dim=64),
            critic=CriticConfig(hidden_dim=64),
            behaviour=BehaviourConfig(hidden_dim=64),
            planner=PlannerConfig(
                num_samples=64, num_policy=16, num_elites=8, iterations=3, uncertainty=2.0, prune=False
            ),
            batch_size=128,
            learning_rate=5e-4,
        ),
        updates=4000,
        updates_per_step=2.0,
        threads=1,  # 16 ms an update, two take 13; beside one busy program 16 and 57
    ),
    # Feng et al. 2023, cfgs/tasks: xArm lift and push share one configuration.
    "fowm": Preset("FOWM as published for xArm lift and push", FOWM),
    "fowm-hopper": Preset(
        "FOWM as published for D4RL Hopper",
        replace(
            FOWM,
            critic=CriticConfig(expectile=0.7),
            planner=PlannerConfig(uncertainty=20.0, iterations=1),
            replay=ReplayConfig(capacity=200_000),
            discount=0.99,
        ),
        DataConfig(reward_return_range=1000.0),
        updates=500_000,
    ),
    "fowm-antmaze": Preset(
        "FOWM as published for D4RL AntMaze",
        replace(
            FOWM,
            behaviour=BehaviourConfig(inverse_temperature=10.0),
            planner=PlannerConfig(uncertainty=3.0, iterations=1),
            replay=ReplayConfig(capacity=200_000),
            discount=0.99,
        ),
        DataConfig(reward_shift=-1.0),
        updates=500_000,
    ),
}


def get(name: str) -> Preset:
    """The preset of that name.

    Raises:
        UsageError: none; the line says what exists.
    """
    if name not in PRESETS:
        raise UsageError(not_found("preset", name, list(PRESETS)))
    return PRESETS[name]
