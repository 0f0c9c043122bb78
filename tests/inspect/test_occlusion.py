"""Tests that the picture of occlusions shows which part of an image determines the action."""

import numpy as np
import torch

from o2o.agent.agent import Agent
from o2o.core.episode import Episode
from o2o.inspect.occlusion import occlusion, plot_occlusion
from tests.support.preset_agents import PIXELS, make


def record(agent: Agent, steps: int = 5) -> Episode:
    rng = np.random.default_rng(0)
    obs = {
        "camera": rng.integers(0, 255, (steps + 1, 3, 64, 64), np.uint8),
        "arm.joint": rng.standard_normal((steps + 1, 4)).astype(np.float32),
    }
    action = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
    return Episode(obs, action, np.zeros(steps, np.float32), False, True)


def test_only_the_part_that_the_policy_looks_at_moves_the_action(monkeypatch):
    agent = make("small", PIXELS)

    def looks_at_a_corner(feature, obs, explore=0.0):
        return obs["camera"][:, 0, 56:60, 8:12].float().mean((1, 2))[:, None, None].expand(-1, 1, 2) / 255

    monkeypatch.setattr(agent, "policy_chunk", looks_at_a_corner)
    changes = occlusion(agent, record(agent), [1, 4])["camera"]
    assert changes.shape == (2, 16, 16)
    rows, columns = np.nonzero(changes.max(0))
    assert set(rows.tolist()) == {13, 14} and set(columns.tolist()) == {1, 2}


def test_it_leaves_the_agent_and_the_random_state_as_they_are():
    agent = make("dreamerv2", PIXELS)
    state, before = torch.get_rng_state(), agent.state()[0]
    one, two = (occlusion(agent, record(agent), [0, 2])["camera"] for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in agent.state()[0].items())


def test_a_picture_is_drawn_where_there_is_an_image(tmp_path):
    agent = make("small", PIXELS)
    assert plot_occlusion(agent, record(agent), tmp_path / "one.png") and (tmp_path / "one.png").is_file()
    assert not plot_occlusion(make("small"), record(agent), tmp_path / "two.png")
    assert not (tmp_path / "two.png").exists()
