"""Tests that update and plan neither mix devices nor wait for a device to read a number.

Tested on torch's `meta` device, whose tensors have shapes but no data: to read one on the host, to let a
shape follow the data, or to mix it with a tensor of the host is an error. How fast a real GPU is, and
what its kernels compute, this cannot tell.
"""

from dataclasses import replace

import pytest
import torch

from o2o.agent import presets
from o2o.agent.agent import Agent
from o2o.agent.agent_config import AgentConfig, fit_config
from o2o.agent.critic import CriticConfig
from o2o.agent.planner.mppi import MPPI, PlannerConfig
from o2o.core.transform import ObsTransform, Transform
from tests.support.episodes import make_batch

FIELDS = {
    "state": {"state": ObsTransform((5,))},
    "both": {"camera": ObsTransform((40, 40, 3), image=True, size=84), "state": ObsTransform((4,))},
}


def few_steps(config: AgentConfig) -> AgentConfig:
    """Windows of 5 observations, dreams of 3 steps and two Qs, each of which asks as much as the others."""
    steps = min(config.imagination.steps, 3)
    imagination, critic = replace(config.imagination, steps=steps), replace(config.critic, num_q=2)
    return fit_config(replace(config, imagination=imagination, critic=critic), 5)


SYSTEMS = {"fowm": replace(AgentConfig(), critic=CriticConfig(num_q=2))} | {
    name: few_steps(presets.get(name).agent)
    for name in ("tdmpc2", "dreamerv2", "dreamerv3", "twm", "harmony")
}


ONE_OF_EACH_MODEL = ("fowm", "dreamerv3", "twm")
SEVERAL = [  # the others differ from these by sizes and options of the same code
    name if name in (*ONE_OF_EACH_MODEL, "tdmpc2") else pytest.param(name, marks=pytest.mark.slow)
    for name in SYSTEMS
]


def make_pair(fields: str, name: str):
    """Returns an agent and a batch, both on the device that holds no data."""
    config, fields = SYSTEMS[name], FIELDS[fields]
    if config.model != "tdmpc":
        fields = {key: replace(field, size=64) for key, field in fields.items()}
    transform = Transform(fields, (-1.0,) * 2, (1.0,) * 2)
    batch, agent = make_batch(transform.spec, steps=config.window, size=6), Agent(transform, config)
    for part in agent.parts.values():
        part.to("meta")
    agent.decay = agent.decay.to("meta")
    return agent, batch.to("meta")


# images and vectors ask what vectors alone ask, but for an encoder and a decoder of nothing else
@pytest.mark.parametrize("fields", ["both", pytest.param("state", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SEVERAL)
def test_an_update_and_an_observation_never_wait_for_the_device(fields, name):
    agent, batch = make_pair(fields, name)
    total, losses, priority = agent.objective(batch)
    total.backward()
    agent.track(batch)
    weights = [weight for part in agent.parts.values() for weight in part.parameters()]
    tensors = [total, priority, *losses.values(), *(w.grad for w in weights if w.requires_grad)]
    tensors += observe(agent, batch).values()
    assert {value.device.type for value in tensors} == {"meta"}


# a plan begins at a latent state, whatever was observed; icem draws other actions and asks no more of a model
@pytest.mark.parametrize("name", SEVERAL)
def test_a_plan_never_waits_for_the_device(name):
    plan_twice(*make_pair("state", name), "mppi")


@pytest.mark.parametrize("name", ["fowm", pytest.param("dreamerv3", marks=pytest.mark.slow)])
def test_a_plan_by_icem_never_waits_for_the_device(name):
    plan_twice(*make_pair("state", name), "icem")


def observe(agent, batch) -> dict[str, torch.Tensor]:
    """Returns the latent states of six robots after an observation."""
    first = torch.zeros(6, dtype=torch.bool, device="meta")
    obs, zeros = {name: value[0] for name, value in batch.obs.items()}, torch.zeros(6, 2, device="meta")
    with torch.no_grad():
        return agent.model.observe(agent.model.start(6), zeros, zeros[:, 0], obs, first)


def plan_twice(agent, batch, method: str) -> None:
    """Plans, and once more from the memory of the first plan, in two iterations."""
    first, memory = torch.zeros(6, dtype=torch.bool, device="meta"), None
    state = observe(agent, batch)
    for iterations in (1, 2):
        planner = MPPI(2, PlannerConfig(horizon=2, iterations=iterations, method=method))
        plan = planner.plan(state, agent.model, agent.critic, agent.policy, memory, first, True)
        memory = plan.memory
    assert plan.action.device.type == memory.device.type == "meta"
    assert plan.action.shape == (6, 2) and plan.evaluated_fraction == 1.0


def test_this_would_notice_a_question():
    agent, batch = make_pair("both", "fowm")
    total, _, _ = agent.objective(batch)
    with pytest.raises(RuntimeError):
        total.item()
    with pytest.raises((RuntimeError, NotImplementedError)):
        batch.valid.nonzero()
    with pytest.raises(RuntimeError):
        total * torch.ones(3)
