"""Tests beliefs at recorded steps on models small enough to compute by hand."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from o2o.inspect.beliefs import beliefs, ensemble_disagreement
from tests.support.inspected import AGENT, DISCOUNT, episode, episodes
from tests.support.preset_agents import disagreeing, make


@pytest.mark.parametrize("name", ["small", "tdmpc2", "twm"])
def test_steps_are_in_order_and_a_batch_equals_single_episodes(name):
    agent, recorded = make(name), episodes()
    steps = beliefs(agent, recorded)
    assert steps.episode.tolist() == [0] * 7 + [1] * 3 + [2] * 5
    assert steps.t.tolist() == [*range(7), *range(3), *range(5)]
    assert steps.steps_left.tolist() == [*range(7, 0, -1), 3, 2, 1, *range(5, 0, -1)]
    assert steps.rows(1).tolist() == [7, 8, 9]
    if name != "twm":  # it samples its latents, in a batch in another order
        for i, episode in enumerate(recorded):
            alone = beliefs(agent, [episode])
            torch.testing.assert_close(alone.feature, steps.feature[steps.rows(i)])
            torch.testing.assert_close(alone.next_feature, steps.next_feature[steps.rows(i)])


def test_the_next_feature_is_the_feature_of_the_next_step():
    steps = beliefs(make("small"), episodes())
    torch.testing.assert_close(steps.next_feature[:6], steps.feature[1:7])
    assert steps.next_v[:6] == pytest.approx(steps.v[1:7], abs=1e-6)


def test_kept_states_belong_to_their_steps():
    agent = make("dreamerv3")
    steps = beliefs(agent, episodes(), num_starts=4)
    assert steps.starts.tolist() == [0, 5, 9, 14]
    torch.testing.assert_close(agent.model.feature(steps.state), steps.feature[steps.starts])


def test_beliefs_follow_their_seed_and_leave_other_streams_unchanged():
    agent = make("dreamerv3")
    before = torch.get_rng_state()
    one, same, other = (beliefs(agent, episodes(), seed=seed).feature for seed in (0, 0, 1))
    assert torch.get_rng_state().equal(before)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_terminations_and_unknown_ends_are_marked():
    first, second, third = episodes()
    recorded = [
        replace(first, terminated=True, truncated=False),
        replace(second, last_obs_known=False),
        third,
    ]
    steps = beliefs(make("small"), recorded)
    assert np.flatnonzero(steps.terminated).tolist() == [6]
    assert (
        np.flatnonzero(~steps.next_obs_known).tolist()
        == [9]
        == np.flatnonzero(~steps.td_error_known).tolist()
    )


def test_returns_and_their_missing_weight():
    """One episode terminated, the other was truncated by the recording."""
    assert DISCOUNT == 0.5
    recorded = [episode(4 * [0], reward=[1, 2, 4], terminated=True), episode(3 * [0], reward=[1, 1])]
    achieved, missing = beliefs(AGENT, recorded).returns()
    assert achieved.tolist() == [3, 4, 4, 1.5, 1] and missing.tolist() == [0, 0, 0, 0.25, 0.5]


def test_td_error_bootstraps_unless_the_episode_terminated():
    """Q and V are the position."""
    steps = beliefs(
        AGENT, [episode([8, 10, 20], reward=[1, 2], terminated=True), episode([8, 4], reward=[3])]
    )
    assert steps.td_error == pytest.approx([8 - 1 - 5, 10 - 2, 8 - 3 - 2])


def test_ensemble_disagreement_of_any_shape_is_computed_in_blocks(monkeypatch):
    agent = disagreeing("small")
    feature, action = torch.randn(3, 5, agent.model.feature_dim), torch.rand(3, 5, 2)
    with torch.no_grad():
        want = agent.critic.disagreement(feature, action).numpy()
    monkeypatch.setattr(importlib.import_module("o2o.inspect.beliefs"), "MAX_ROWS", 4)
    assert ensemble_disagreement(agent, feature, action) == pytest.approx(want, rel=1e-5)
    assert ensemble_disagreement(AGENT, torch.zeros(2, 1), torch.tensor([[-0.5], [0.25]])) == pytest.approx(
        [0.5, 0.25]
    )
