"""Checks that the exported modules decide as the agent does: every preset, by policy and by planner."""

from dataclasses import replace

import pytest

from o2o.agent.agent import Agent
from o2o.agent.agent_config import fit_config
from o2o.agent.presets import PRESETS
from o2o.core.transform import ObsTransform, Transform
from o2o.deployment.export import Graph, make_graphs
from tests.support.exported import compare, eager, random_episodes
from tests.support.preset_agents import disagree, tiny

FIELDS = {
    "state": ObsTransform((5,), mean=(0.5,) * 5, std=(2.0,) * 5),
    "camera": ObsTransform((48, 40, 3), image=True, size=64),
}


def agent_of(preset: str, fields=FIELDS, **planner) -> Agent:
    """A tiny agent of a preset whose ensemble disagrees, in a robot's units."""
    transform = Transform(fields, (-0.1, 0.0), (0.3, 5.0), reward_scale=0.5, reward_shift=-1.0)
    config = fit_config(tiny(preset), 100, images=True)
    return disagree(Agent(transform, replace(config, planner=replace(config.planner, **planner))))


@pytest.fixture
def modules(monkeypatch):
    """Graphs without the pass of torch's exporter that finds unused inputs."""
    monkeypatch.setattr(Graph, "used_inputs", lambda graph: set(graph.inputs))
    return make_graphs


@pytest.mark.parametrize("preset", PRESETS)
def test_the_policy_of_every_preset_decides_as_the_agent_does(modules, preset):
    agent = agent_of(preset)
    runner = eager(modules(agent, False))
    assert compare(agent, runner, random_episodes(agent, (4, 3)), plan=False).action < 1e-5


def test_stacked_frames_are_handed_on(modules):
    agent = agent_of("small", FIELDS | {"camera": replace(FIELDS["camera"], frames=2)})
    runner = eager(modules(agent, False))
    assert compare(agent, runner, random_episodes(agent, (4, 3)), plan=False).action < 1e-5


SLOW = {"dreamerv2", "dreamerv3", "fowm-hopper", "fowm-antmaze", "harmony", "twm"}
SEARCHES = [
    *(
        pytest.param(name, {}, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in PRESETS
        if name != "bc"
    ),
    (
        "small",
        {"method": "icem", "iterations": 3, "center": "memory", "selection": "draw", "uncertainty": 0.0},
    ),
    ("fowm", {"prune": True, "selection": "best", "num_policy": 1, "horizon": 1}),
]


@pytest.mark.parametrize(("preset", "planner"), SEARCHES)
def test_the_planner_of_every_preset_decides_as_the_agent_does(modules, preset, planner):
    agent = agent_of(preset, **planner)
    runner = eager(modules(agent, True))
    found = compare(agent, runner, random_episodes(agent, (3, 2)), plan=True)
    assert found.action < 1e-4 and found.value < 1e-3 and found.elites == 1.0


def test_a_measured_penalty_weight_is_that_of_the_exported_planner(modules):
    agent = agent_of("small")
    runner = eager(modules(agent, True))
    agent.set_penalty_weight(50.0)
    assert compare(agent, runner, random_episodes(agent, (3,)), plan=True).value > 1.0
    runner = eager(modules(agent, True))
    assert compare(agent, runner, random_episodes(agent, (3,)), plan=True).value < 1e-3
