"""Tests the exploration limits of first episodes, the action range, and the online fraction of a batch."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from o2o.agent.planner.mppi import limit_policy_deviation
from o2o.core.config import from_dict, to_dict
from o2o.core.errors import UsageError
from o2o.data.replay_buffer import MixedReplay, online_ratio
from o2o.training.safe_start import (
    ActionRange,
    ExplorationLimits,
    SafeStartConfig,
    exploration_limits,
    fit_action_range,
)
from tests.support.replays import make_replay

NARROW = ActionRange((-0.5, -0.1), (0.5, 0.3), (-0.2, -0.1), (0.2, 0.1))
FIRST, LATER = np.array([True]), np.array([False])


# ---- limits by episode


def test_the_first_episode_follows_the_policy_without_noise_inside_the_recorded_range():
    first = exploration_limits(SafeStartConfig(), NARROW, 0)
    assert first == ExplorationLimits(0.0, 0.0, NARROW)
    noise, actions = "exploration noise 0%", "actions near the recorded range"
    assert first.summary() == f"{noise}, planner within 0 of the policy, {actions}"
    assert first.summary(plan=False) == f"{noise}, {actions}"
    free = ExplorationLimits().summary()
    assert free == "exploration noise 100%, planner unrestricted, actions unrestricted"


def test_limits_widen_in_even_steps_and_end():
    config = SafeStartConfig(noise_episodes=4, planner_episodes=2, action_range_episodes=4)
    found = [exploration_limits(config, NARROW, episode) for episode in range(6)]
    assert [f.noise for f in found] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert [f.max_policy_deviation for f in found] == [0, 1, math.inf, math.inf, math.inf, math.inf]
    assert found[2].action_range == NARROW.widened(0.5)
    assert found[4] == found[5] == ExplorationLimits() and config.episodes == 4


def test_zero_episodes_means_no_limits():
    assert exploration_limits(SafeStartConfig(0, 0, 0), NARROW, 0) == ExplorationLimits()


def test_without_a_recorded_range_only_the_robots_limits_hold():
    assert exploration_limits(SafeStartConfig(), None, 0).action_range is None


def test_each_entry_of_an_action_stays_near_the_policy():
    plan, policy = torch.tensor([[0.9, -0.3]]), torch.tensor([[0.1, -0.2]])
    assert torch.equal(limit_policy_deviation(plan, policy, 0.0), policy)
    torch.testing.assert_close(limit_policy_deviation(plan, policy, 0.25), torch.tensor([[0.35, -0.3]]))
    torch.testing.assert_close(limit_policy_deviation(plan, policy, 2.0), plan)


@pytest.mark.parametrize("wrong", [{"noise_episodes": -1}, {"action_range_quantile": 0.6}])
def test_an_invalid_schedule_is_refused(wrong):
    with pytest.raises(UsageError, match="wanted at"):
        SafeStartConfig(**wrong)


# ---- the action range


def test_actions_and_their_changes_are_clipped():
    wanted, before = np.array([[0.9, -0.4]], np.float32), np.array([[0.0, 0.25]], np.float32)
    np.testing.assert_allclose(NARROW.clip(wanted, before, FIRST), [[0.5, -0.1]])
    np.testing.assert_allclose(NARROW.clip(wanted, before, LATER), [[0.2, 0.15]])
    assert NARROW.clip(wanted, before, LATER).dtype == np.float32


def test_from_outside_the_range_the_action_returns_without_a_jump():
    outside = np.array([[0.95, 0.3]], np.float32)  # a human moved the robot there
    np.testing.assert_allclose(NARROW.clip(np.zeros((1, 2)), outside, LATER), [[0.75, 0.2]], atol=1e-7)


def test_actions_inside_the_range_stay_equal_to_the_bit():
    rng = np.random.default_rng(0)
    action = rng.uniform(-0.1, 0.1, (50, 2)).astype(np.float32)
    np.testing.assert_array_equal(NARROW.clip(action, 0 * action, np.arange(50) == 0), action)


def test_a_widened_range_ends_at_the_unit_box():
    assert NARROW.widened(0.0) == NARROW
    assert NARROW.widened(0.5).low == (-0.75, -0.55) and NARROW.widened(0.5).delta_high == (1.1, 1.05)
    assert NARROW.widened(1.0) == ActionRange((-1, -1), (1, 1), (-2, -2), (2, 2))


def test_the_range_leaves_out_a_quantile_at_each_end():
    ramp = np.linspace(-0.8, 0.8, 201)[:, None]  # steps of 0.008
    spike = np.concatenate([ramp[:100], [[1.0]], ramp[100:]])
    found = fit_action_range([ramp] * 19 + [spike], 0.005)
    assert found.low[0] == pytest.approx(-0.8) and found.high[0] == pytest.approx(
        0.8
    )  # every episode reaches it
    assert found.delta_high[0] == pytest.approx(0.008) and found.delta_low[0] == 0  # one spike is an outlier
    assert fit_action_range([np.clip(part, -0.7, 0.7) for part in [ramp] * 3], 0.0).high[0] == pytest.approx(
        0.7
    )


def test_a_gripper_that_closes_once_in_a_long_episode_may_still_close():
    gripper = np.concatenate([np.full(500, -1.0), [1.0]])[:, None]  # a fifth of a percent of the steps
    never = np.full((501, 1), -1.0)
    found = fit_action_range([gripper] * 2 + [never] * 8, 0.005)
    closed = found.clip(np.ones((1, 1)), -np.ones((1, 1)), LATER)
    assert closed[0, 0] == pytest.approx(1.0)
    frozen = fit_action_range([never] * 10, 0.005)
    assert frozen.clip(np.ones((1, 1)), -np.ones((1, 1)), LATER)[0, 0] == -1


def test_a_range_of_single_steps_bounds_no_change():
    found = fit_action_range([np.array([[0.5]]), np.array([[-0.5]])], 0.0)
    assert (found.low, found.high, found.delta_low, found.delta_high) == ((-0.5,), (0.5,), (-2,), (2,))


def test_a_range_survives_conversion_to_plain_data():
    assert from_dict(ActionRange, to_dict(NARROW)) == NARROW


def test_a_replay_returns_the_actions_of_its_episodes():
    replay = make_replay([4, 7, 2])
    actions = list(replay.actions())
    assert [len(action) for action in actions] == [4, 7, 2]
    for number, action in enumerate(actions):
        np.testing.assert_array_equal(action, replay.episode(number).action)


# ---- the online fraction of a batch


def test_oversampling_of_online_steps_is_bounded():
    for online in (1, 20, 300, 5000):
        share = online_ratio(5000, online, 0.5, 10)
        assert (share / online) / ((1 - share) / 5000) <= 10 + 1e-9
        assert share <= 10 * online / (5000 + online)  # uniform replay
    assert online_ratio(5000, 500, 0.5, 10) == 0.5 and online_ratio(5000, 250, 0.5, 10) == pytest.approx(
        1 / 3
    )


def test_the_online_fraction_grows_with_the_number_of_online_steps():
    shares = [online_ratio(1000, online, 0.5, 10) for online in range(10, 300, 10)]
    assert all(before <= after for before, after in pairwise(shares))
    assert shares[0] == pytest.approx(1 / 11) and shares[-1] == 0.5


def test_without_a_bound_the_online_fraction_is_fixed():
    assert online_ratio(1000, 1, 0.3, 0) == 0.3
    assert online_ratio(0, 5, 0.3, 10) == 0.3


@pytest.mark.parametrize(("online", "want"), [(9, 9), (1, 1), (90, 32)])
def test_a_mixed_batch_holds_the_online_fraction(online, want):
    mix = MixedReplay(
        make_replay([180]), make_replay([online], online=True), 0.5, max_online_oversampling=3.4
    )
    batch = mix.sample(64, 1)  # 3.4 * 9 / (180 + 3.4 * 9) = 14.5 % of 64
    assert int(batch.online.sum()) == want and mix.last_offline_ratio == 1 - want / 64


def test_a_bound_that_does_not_bind_changes_no_draw():
    batches = [
        MixedReplay(make_replay([9]), make_replay([8], online=True), 0.3, max_online_oversampling).sample(
            64, 2
        )
        for max_online_oversampling in (0, 100)
    ]
    assert torch.equal(batches[0].index, batches[1].index) and torch.equal(
        batches[0].weight, batches[1].weight
    )


def test_a_mix_of_recordings_alone_has_no_online_steps():
    assert (
        not MixedReplay(make_replay([50]), make_replay([2], online=True), 1.0, max_online_oversampling=2)
        .sample(16, 1)
        .online.any()
    )


@pytest.mark.parametrize("max_online_oversampling", [-1.0, float("inf"), float("nan")])
def test_an_oversampling_bound_that_is_not_finite_and_positive_is_refused(max_online_oversampling):
    with pytest.raises(UsageError, match="max-online-oversampling is"):
        MixedReplay(make_replay([9]), make_replay([8], online=True), 0.5, max_online_oversampling)
