"""Builds agents of every preset at a tiny size."""

from dataclasses import replace

import numpy as np
import torch

from o2o.agent import presets
from o2o.agent.agent import Agent
from o2o.agent.agent_config import AgentConfig
from o2o.agent.plan_record import PlanRecord
from o2o.core.seeding import RandomStream
from o2o.core.transform import ObsTransform, Transform
from o2o.models import encoder, rssm, tdmpc, twm
from tests.support.episodes import make_batch

STATE = {"state": ObsTransform((5,)), "goal": ObsTransform((2,))}


PIXELS = {"camera": ObsTransform((48, 48, 3), image=True, size=64), "arm.joint": ObsTransform((4,))}


SIZES = {
    encoder.Config: {"latent_dim": 16, "channels": 4},
    tdmpc.Config: {"latent_dim": 16, "hidden_dim": 16, "encoder_dim": 16, "channels": 4},
    rssm.Config: {"deter_dim": 16, "hidden_dim": 16, "num_latents": 4, "num_classes": 4, "channels": 2},
    twm.Config: {"token_dim": 16, "hidden_dim": 16, "num_latents": 4, "num_classes": 4, "channels": 2},
}


def tiny(name: str) -> AgentConfig:
    """A preset with everything but its size."""
    config = presets.get(name).agent
    steps = min(config.imagination.steps, 3)
    return replace(
        config,
        model_options=replace(config.model_options, **SIZES[type(config.model_options)]),
        critic=replace(config.critic, hidden_dim=16),
        policy=replace(config.policy, hidden_dim=16),
        imagination=replace(config.imagination, hidden_dim=16, steps=steps, anchor_updates=10),
        planner=replace(config.planner, num_samples=16, num_policy=4, num_elites=4, iterations=2, horizon=3),
        optimizer=replace(config.optimizer, warmup=min(config.optimizer.warmup, 5)),
        window=min(config.window, 6),
        batch_size=8,
        discount=config.discount or 0.95,
    )


def make(name: str, fields=STATE, seed=0) -> Agent:
    return Agent(Transform(fields, (-1.0, -1.0), (1.0, 1.0)), tiny(name), seed=seed)


def windows(agent: Agent, seed: int, online: bool = False):
    batch = make_batch(agent.transform.spec, agent.config.window, agent.config.batch_size, seed)
    return replace(batch, online=torch.full_like(batch.online, online))


def disagreeing(name: str) -> Agent:
    """An agent whose ensemble disagrees; an untrained one does not, its output is zero."""
    return disagree(make(name))


def disagree(agent: Agent) -> Agent:
    """Changes the weights of an agent's Qs at random, and returns the agent."""
    with torch.no_grad(), RandomStream(1, agent.device).use():
        for weight in agent.critic.q_heads.parameters():
            weight.add_(0.5 * torch.randn_like(weight))
    return agent


def act(agent: Agent, n: int = 2, first: bool = True, **flags) -> np.ndarray:
    obs = {name: value[0].numpy() for name, value in make_batch(agent.transform.spec, 1, n).obs.items()}
    return agent.act(obs, np.zeros((n, 2)), np.zeros(n), np.full(n, first), **flags)


def two_plans(**changes) -> PlanRecord:
    """One step: the first plan brings 1 and is sure, the second brings 2 with a spread of 0.5 at its end."""
    record = PlanRecord(
        action=np.array([[[0.1], [0.9]]], np.float32),
        feature=np.zeros((2, 2, 1), np.float16),
        reward=np.array([[1.0, 1.0]], np.float32),
        terminal_value=np.array([0.0, 2.0], np.float32),
        disagreement=np.array([[0.0, 0.0], [0.0, 1.0]], np.float32),
        discount=np.array([[1.0, 1.0], [0.5, 0.5]], np.float32),
        by_policy=np.array([True, False]),
        elite=np.array([True, False]),
        weight=np.array([1.0, 0.0], np.float32),
        chosen=np.array(0),
        mean=np.zeros((1, 1, 1), np.float32),
        std=np.ones((1, 1, 1), np.float32),
        policy_action=np.array([0.1], np.float32),
        requested_action=np.array([0.1], np.float32),
        penalty_weight=np.float32(4.0),
        iterations=np.int32(1),
        took_ms=np.float32(3.0),
    )
    return replace(record, **changes)
