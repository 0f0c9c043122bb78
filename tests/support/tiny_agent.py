"""Builds one tiny TD-MPC agent."""

from o2o.agent.agent import Agent
from o2o.agent.agent_config import AgentConfig
from o2o.agent.critic import CriticConfig
from o2o.agent.planner.mppi import PlannerConfig
from o2o.agent.policy import PolicyConfig
from o2o.core.transform import ObsTransform, Transform
from o2o.models import tdmpc
from tests.support.episodes import make_batch

TRANSFORM = Transform({"state": ObsTransform((3,))}, (-1.0, -1.0), (1.0, 1.0))


TINY = AgentConfig(
    model_options=tdmpc.Config(latent_dim=8, hidden_dim=16, encoder_dim=16),
    critic=CriticConfig(hidden_dim=16),
    policy=PolicyConfig(hidden_dim=16),
    planner=PlannerConfig(num_samples=16, num_policy=4, num_elites=4, iterations=2),
)


def agent(config=TINY, seed=0) -> Agent:
    return Agent(TRANSFORM, config, "cpu", seed)


def batch(seed=0):
    return make_batch(TRANSFORM.spec, seed=seed)
