"""The first episodes on a robot: the schedule and the envelope by hand, and the robot's share of a batch."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from o2o.agent.planner.mppi import limit_policy_deviation
from o2o.core.config import from_dict, to_dict
from o2o.core.errors import UsageError
from o2o.data.replay_buffer import MixedReplay, online_ratio
from o2o.training.safe_start import ActionRange, ExplorationLimits, SafeStartConfig, action_range, freedom
from tests.support.replays import make_replay

NARROW = ActionRange((-0.5, -0.1), (0.5, 0.3), (-0.2, -0.1), (0.2, 0.1))
FIRST, LATER = np.array([True]), np.array([False])


# ---- the schedule


def test_the_first_episode_is_the_policys_without_noise_and_inside_the_envelope():
    first = freedom(SafeStartConfig(), NARROW, 0)
    assert first == ExplorationLimits(0.0, 0.0, NARROW)
    assert (
        first.line() == "exploration 0%, planner within 0 of the policy, actions kept near recorded actions"
    )
    assert first.line(plan=False) == "exploration 0%, actions kept near recorded actions"


def test_freedoms_grow_in_even_steps_and_end_at_everything():
    config = SafeStartConfig(noise_episodes=4, planner_episodes=2, action_range_episodes=4)
    found = [freedom(config, NARROW, episode) for episode in range(6)]
    assert [f.explore for f in found] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert [f.max_policy_deviation for f in found] == [0, 1, math.inf, math.inf, math.inf, math.inf]
    assert found[2].within == NARROW.widened(0.5)
    assert found[4] == found[5] == ExplorationLimits() and config.episodes == 4


def test_no_episodes_means_everything_at_once():
    assert freedom(SafeStartConfig(0, 0, 0), NARROW, 0) == ExplorationLimits()


def test_where_nothing_is_known_of_the_recordings_only_the_robots_limits_hold():
    assert freedom(SafeStartConfig(), None, 0).within is None


def test_a_leash_keeps_each_entry_near_the_policy():
    plan, policy = torch.tensor([[0.9, -0.3]]), torch.tensor([[0.1, -0.2]])
    assert torch.equal(limit_policy_deviation(plan, policy, 0.0), policy)
    torch.testing.assert_close(limit_policy_deviation(plan, policy, 0.25), torch.tensor([[0.35, -0.3]]))
    torch.testing.assert_close(limit_policy_deviation(plan, policy, 2.0), plan)


@pytest.mark.parametrize("wrong", [{"noise_episodes": -1}, {"action_range_quantile": 0.6}])
def test_a_schedule_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(UsageError, match="wanted at"):
        SafeStartConfig(**wrong)


# ---- the envelope


def test_actions_are_clipped_into_the_box_and_the_step():
    wanted, before = np.array([[0.9, -0.4]], np.float32), np.array([[0.0, 0.25]], np.float32)
    np.testing.assert_allclose(NARROW.clip(wanted, before, FIRST), [[0.5, -0.1]])
    np.testing.assert_allclose(NARROW.clip(wanted, before, LATER), [[0.2, 0.15]])
    assert NARROW.clip(wanted, before, LATER).dtype == np.float32


def test_from_outside_the_box_the_way_back_is_no_jump():
    outside = np.array([[0.95, 0.3]], np.float32)  # a human was there
    np.testing.assert_allclose(NARROW.clip(np.zeros((1, 2)), outside, LATER), [[0.75, 0.2]], atol=1e-7)


def test_what_lies_inside_stays_as_it_is_to_the_bit():
    rng = np.random.default_rng(0)
    action = rng.uniform(-0.1, 0.1, (50, 2)).astype(np.float32)
    np.testing.assert_array_equal(NARROW.clip(action, 0 * action, np.arange(50) == 0), action)


def test_a_widened_envelope_ends_as_the_whole_box():
    assert NARROW.widened(0.0) == NARROW
    assert NARROW.widened(0.5).low == (-0.75, -0.55) and NARROW.widened(0.5).up == (1.1, 1.05)
    assert NARROW.widened(1.0) == ActionRange((-1, -1), (1, 1), (-2, -2), (2, 2))


def test_the_envelope_leaves_out_a_quantile_at_either_end():
    ramp = np.linspace(-0.8, 0.8, 201)[:, None]  # steps of 0.008
    spike = np.concatenate([ramp[:100], [[1.0]], ramp[100:]])
    found = action_range([ramp] * 19 + [spike], 0.005)
    assert found.low[0] == pytest.approx(-0.8) and found.high[0] == pytest.approx(
        0.8
    )  # every episode goes there
    assert found.up[0] == pytest.approx(0.008) and found.down[0] == 0  # one spike is not the rule
    assert action_range([np.clip(part, -0.7, 0.7) for part in [ramp] * 3], 0.0).high[0] == pytest.approx(0.7)


def test_a_gripper_that_closes_once_in_a_long_episode_may_still_close():
    gripper = np.concatenate([np.full(500, -1.0), [1.0]])[:, None]  # a fifth of a percent of the steps
    never = np.full((501, 1), -1.0)
    found = action_range([gripper] * 2 + [never] * 8, 0.005)
    closed = found.clip(np.ones((1, 1)), -np.ones((1, 1)), LATER)
    assert closed[0, 0] == pytest.approx(1.0)
    frozen = action_range([never] * 10, 0.005)
    assert frozen.clip(np.ones((1, 1)), -np.ones((1, 1)), LATER)[0, 0] == -1


def test_an_envelope_of_single_steps_bounds_no_change():
    found = action_range([np.array([[0.5]]), np.array([[-0.5]])], 0.0)
    assert (found.low, found.high, found.down, found.up) == ((-0.5,), (0.5,), (-2,), (2,))


def test_an_envelope_goes_through_plain_data():
    assert from_dict(ActionRange, to_dict(NARROW)) == NARROW


def test_the_recorded_actions_of_a_replay_are_those_of_its_episodes():
    replay = make_replay([4, 7, 2])
    actions = list(replay.actions())
    assert [len(action) for action in actions] == [4, 7, 2]
    for number, action in enumerate(actions):
        np.testing.assert_array_equal(action, replay.episode(number).action)


# ---- the robot's own share of a batch


def test_an_own_step_is_drawn_at_most_so_many_times_as_often_as_a_recorded_one():
    for online in (1, 20, 300, 5000):
        share = online_ratio(5000, online, 0.5, 10)
        assert (share / online) / ((1 - share) / 5000) <= 10 + 1e-9
        assert share <= 10 * online / (5000 + online)  # uniform replay
    assert online_ratio(5000, 500, 0.5, 10) == 0.5 and online_ratio(5000, 250, 0.5, 10) == pytest.approx(
        1 / 3
    )


def test_the_share_grows_with_what_the_robot_has_done_up_to_its_part():
    shares = [online_ratio(1000, online, 0.5, 10) for online in range(10, 300, 10)]
    assert all(before <= after for before, after in pairwise(shares))
    assert shares[0] == pytest.approx(1 / 11) and shares[-1] == 0.5


def test_without_a_bound_the_share_is_fixed():
    assert online_ratio(1000, 1, 0.3, 0) == 0.3
    assert online_ratio(0, 5, 0.3, 10) == 0.3


@pytest.mark.parametrize(("own", "want"), [(9, 9), (1, 1), (90, 32)])
def test_a_mixed_batch_holds_the_robots_share(own, want):
    mix = MixedReplay(make_replay([180]), make_replay([own], online=True), 0.5, max_online_oversampling=3.4)
    batch = mix.sample(64, 1)  # 3.4 * 9 / (180 + 3.4 * 9) = 14.5 % of 64
    assert int(batch.online.sum()) == want and mix.last_offline_ratio == 1 - want / 64


def test_a_bound_that_does_not_bind_changes_no_draw():
    batches = [
        MixedReplay(make_replay([9]), make_replay([8], online=True), 0.3, limit).sample(64, 2)
        for limit in (0, 100)
    ]
    assert torch.equal(batches[0].index, batches[1].index) and torch.equal(
        batches[0].weight, batches[1].weight
    )


def test_a_mix_of_recordings_alone_stays_that():
    assert (
        not MixedReplay(make_replay([50]), make_replay([2], online=True), 1.0, max_online_oversampling=2)
        .sample(16, 1)
        .online.any()
    )


@pytest.mark.parametrize("max_online_oversampling", [-1.0, float("inf"), float("nan")])
def test_an_oversampling_limit_that_is_not_finite_and_positive_is_refused(max_online_oversampling):
    with pytest.raises(UsageError, match="max-online-oversampling is"):
        MixedReplay(make_replay([9]), make_replay([8], online=True), 0.5, max_online_oversampling)
