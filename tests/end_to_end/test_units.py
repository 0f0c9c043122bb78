"""Tests that the default preset learns the same whatever the units of the rewards and observations are."""

from dataclasses import replace

import numpy as np
import pytest

from o2o.agent import presets
from o2o.agent.agent import Agent
from o2o.agent.agent_config import fit_config
from o2o.data import training_data
from o2o.data.load import load
from tests.support.tiny_runs import record_point_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return record_point_dataset(tmp_path_factory.mktemp("units") / "data", 6)


@pytest.mark.parametrize(
    ("reward", "obs"),
    [(0.01, 1.0), (1.0, 50.0)]
    + [pytest.param(*units, marks=pytest.mark.slow) for units in ((100.0, 1.0), (1.0, 0.02))],
)
def test_policy_and_plan_do_not_depend_on_units(dataset, monkeypatch, reward, obs):
    """An agent of the same recordings in other units acts alike; actions are in [-1, 1]."""
    actions = [act_after_training(dataset, monkeypatch, *units) for units in ((1.0, 1.0), (reward, obs))]
    assert np.abs(actions[0]).max() > 0.01
    np.testing.assert_allclose(actions[1], actions[0], atol=0.02)


def act_after_training(dataset, monkeypatch, reward: float, obs: float) -> np.ndarray:
    """Returns the actions of policy and planner (2, N, A) after some updates on rescaled recordings."""

    def rescaled(*arguments):
        recording = load(*arguments)
        episodes = [
            replace(e, reward=e.reward * reward, obs={name: value * obs for name, value in e.obs.items()})
            for e in recording.episodes
        ]
        return replace(recording, episodes=episodes)

    monkeypatch.setattr(training_data, "load", rescaled)
    preset = presets.get("small")
    data = training_data.read(str(dataset), preset.dataset_options, preset.agent.replay, seed=0)
    config = replace(preset.agent, batch_size=16)
    agent = Agent(data.transform, fit_config(config, max(map(len, data.recording.episodes))), seed=0)
    for _ in range(20):
        agent.learn(data.replay)
    episode = data.replay.episode(0)
    size, dim = len(episode) + 1, episode.action.shape[1]
    results = []
    for plan in (False, True):
        agent.start(size, seed=1)
        first = np.ones(size, bool)
        results.append(agent.act(episode.obs, np.zeros((size, dim)), np.zeros(size), first, plan=plan))
    return np.stack(results)
