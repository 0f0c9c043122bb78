"""Tests regression detection: p-values by hand, false alarms and delays over simulated runs."""

import json
from itertools import combinations

import numpy as np
import pytest

from o2o.core.errors import UsageError
from o2o.training.regression_gate import Outcome, PerformanceMonitor, RollbackConfig, rank_sum_p_value, score

EPISODES = 40


def run(monitor: PerformanceMonitor, successes, returns=None, every: int = 5) -> tuple[int, int] | None:
    """Returns (episode, checkpoint) of the first rollback; a checkpoint is written every few episodes."""
    monitor.checkpoint_written()
    for number, success in enumerate(successes, 1):
        value = float(success if returns is None else returns[number - 1])
        rollback = monitor.add(bool(success), value)
        if rollback:
            return number, rollback.checkpoint
        if number % every == 0:
            monitor.checkpoint_written()
    return None


def make_monitor(**config) -> PerformanceMonitor:
    return PerformanceMonitor(RollbackConfig(**config), EPISODES)


# ---- the p-value


def test_p_value_is_the_fraction_of_draws_that_rank_so_low():
    assert rank_sum_p_value([0, 0], [1, 1]) == pytest.approx(1 / 6)  # one of the 6 pairs out of four
    assert rank_sum_p_value([0, 1], [1, 1]) == pytest.approx(3 / 6)
    assert rank_sum_p_value([1, 1], [0, 0]) == 1
    assert rank_sum_p_value([5.0] * 3, [5.0] * 6) == 1


def test_p_value_equals_that_of_enumerating_every_draw():
    values = np.array([3.0, 1.0, 1.0, 7.0, 2.0, 2.0, 2.0, 9.0, 0.5])
    rank = np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])
    draws = [rank[list(indices)].sum() for indices in combinations(range(9), 3)]
    for last in ([0, 1, 2], [8, 1, 4], [3, 7, 0]):
        rest = np.delete(values, last)
        want = np.mean(np.array(draws) <= rank[last].sum() + 1e-9)
        assert rank_sum_p_value(values[last].tolist(), rest.tolist()) == pytest.approx(want)


def test_returns_count_by_rank_so_an_outlier_does_not_hide_a_regression():
    assert rank_sum_p_value([1, 2, 3], [5, 6, 9e9]) == rank_sum_p_value([1, 2, 3], [5, 6, 7]) == 1 / 20


# ---- whole runs: 100 of 40 episodes each, from fixed seeds


def num_rollbacks(successes, returns=None) -> int:
    """Returns how many of 100 runs were rolled back."""
    runs = [run(make_monitor(), s, None if returns is None else returns[i]) for i, s in enumerate(successes)]
    return sum(found is not None for found in runs)


@pytest.mark.parametrize("chance", [0.2, 0.5, 0.9])
def test_runs_without_a_change_are_rarely_rolled_back(chance):
    found = num_rollbacks(np.random.default_rng(0).random((100, EPISODES)) < chance)
    assert found <= 2  # alpha allows 10; ties and overlapping tests make it rarer


def test_returns_without_a_change_rarely_cause_a_rollback():
    returns = np.random.default_rng(1).standard_cauchy((100, EPISODES))
    assert num_rollbacks(np.zeros((100, EPISODES)), returns) <= 10


def test_a_run_that_improves_is_never_rolled_back():
    chance = np.linspace(0.1, 0.9, EPISODES)
    assert num_rollbacks(np.random.default_rng(2).random((100, EPISODES)) < chance) == 0


@pytest.mark.parametrize(
    ("before", "after", "median", "missed"), [(0.9, 0.0, 7, 0), (0.9, 0.1, 10, 10), (1.0, 0.2, 10, 10)]
)
def test_a_collapse_after_20_episodes_is_detected_soon(before, after, median, missed):
    chance = np.where(np.arange(EPISODES) < 20, before, after)
    successes = np.random.default_rng(3).random((100, EPISODES)) < chance
    found = [run(make_monitor(), row) for row in successes]
    delays = [EPISODES if at is None else at[0] - 20 for at in found]
    assert np.median(delays) <= median
    assert delays.count(EPISODES) <= missed


def test_with_an_evaluation_before_the_run_a_collapse_at_the_start_is_detected():
    assert run(make_monitor(), [0] * 9) is None  # without a better episode there is nothing to compare with
    before = [(True, 1.0)] * 20
    assert run(PerformanceMonitor(RollbackConfig(), EPISODES, before=before), [0] * 9) == (6, 0)


def test_safe_start_episodes_are_not_compared_with_later_ones():
    chance = np.where(np.arange(EPISODES) < 5, 1.0, 0.3)  # later exploration noise costs success
    successes = np.random.default_rng(6).random((100, EPISODES)) < chance

    def num_alarms(safe_start: int) -> int:
        return sum(
            run(PerformanceMonitor(RollbackConfig(), EPISODES, safe_start), row) is not None
            for row in successes
        )

    assert num_alarms(safe_start=5) <= 3 < 15 < num_alarms(safe_start=0)
    monitor = PerformanceMonitor(RollbackConfig(), EPISODES, safe_start=5)
    assert run(monitor, [1] * 16 + [0] * 20) == (23, 15) and len(monitor.state()["outcomes"]) == 10


def test_a_rollback_restores_the_best_checkpoint_and_states_the_reason():
    monitor, rollback = make_monitor(), None
    monitor.checkpoint_written()
    successes = [0, 1, 0, 1, 0] + [1] * 10 + [0] * 12
    for number, success in enumerate(successes, 1):
        rollback = monitor.add(bool(success), 3.0 * success)
        if rollback:
            break
        if number % 5 == 0:
            assert monitor.checkpoint_written() == (number in (10, 15))  # 20 is worse than 15
    assert rollback and rollback.checkpoint == 15 and monitor.num_rollbacks == 1
    assert rollback.reason == (
        "performance dropped: successes 0 of 6 in episodes 16 to 21, 11 of 12 in the 12 before; "
        "probability without a change 0.04 %; rolled back to the checkpoint after 15 episodes"
    )


def test_returns_are_compared_where_no_episode_succeeds():
    rollback = None
    monitor = make_monitor()
    monitor.checkpoint_written()
    for value in [900 + number for number in range(12)] + [100] * 6:
        rollback = rollback or monitor.add(False, float(value))
    assert rollback and rollback.checkpoint == 0
    assert rollback.reason.startswith("performance dropped: mean return 100 in episodes 13 to 18, 90")
    assert rollback.reason.endswith("rolled back to the weights the run started with")


def test_after_a_rollback_only_new_episodes_can_cause_another():
    monitor = make_monitor()
    assert run(monitor, [1] * 15 + [0] * 6) == (21, 15)
    assert not monitor.checkpoint_written()  # the restored weights have no score yet
    assert [monitor.add(False, 0.0) for _ in range(5)] == [None] * 5
    assert monitor.learning_enabled
    (rollback,) = [result for _ in range(7) if (result := monitor.add(False, 0.0))]
    assert rollback.reason.endswith(
        "rolled back to the checkpoint after 15 episodes; learning stops after this rollback, the last that "
        "--rollback.max-count allows"
    )
    assert not monitor.learning_enabled and monitor.num_rollbacks == 2
    assert not any(monitor.add(False, 0.0) for _ in range(20))


def test_a_resumed_monitor_decides_as_one_that_was_never_stopped():
    successes = np.random.default_rng(5).random(60) < np.where(np.arange(60) < 30, 0.8, 0.1)
    whole, resumed, rollbacks = PerformanceMonitor(RollbackConfig(), 60, 3, [(True, 2.0)]), None, []
    for number, success in enumerate(successes):
        if number % 7 == 0:
            state = json.loads(json.dumps((resumed or whole).state()))
            resumed = PerformanceMonitor(RollbackConfig(), 60, 3)
            resumed.load_state(state, state["count"])
        assert resumed is not None
        both = whole.add(bool(success), float(number)), resumed.add(bool(success), float(number))
        assert both[0] == both[1]
        rollbacks.append(both[0])
        if number % 5 == 0:
            assert whole.checkpoint_written() == resumed.checkpoint_written()
        assert whole.best == resumed.best
    assert any(rollbacks)


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 10**12}, {"count": -1}, {"since": "3"}, {"best_score": 1.0}, {"best_score": [1.0]},
        {"outcomes": [[1, 1, 0.5]]}, {"outcomes": [[1, True]]}, {"outcomes": [[1, True, float("nan")]]},
        {"before": None}, {"wings": 2},
    ],
)  # fmt: skip
def test_what_is_no_state_of_a_monitor_is_refused(changes):
    monitor = PerformanceMonitor(RollbackConfig(), 60)
    monitor.add(True, 1.0)
    state = json.loads(json.dumps(monitor.state()))
    PerformanceMonitor(RollbackConfig(), 60).load_state(state, 1)
    with pytest.raises(UsageError):
        PerformanceMonitor(RollbackConfig(), 60).load_state(state | changes, 1)


@pytest.mark.parametrize("before", [0, 3, 40])
@pytest.mark.parametrize("window", [2, 3, 6, 7])
def test_the_number_of_tests_is_that_of_the_episodes_that_one_follows(window, before):
    monitor = PerformanceMonitor(RollbackConfig(window), 60, 5, [(True, 1.0)] * before)
    for episodes in (1, 12, 60, 61, 63):
        due = sum(monitor._is_test_due(number) for number in range(1, episodes + 1))
        assert monitor._num_tests(episodes) == due


def test_a_window_of_zero_disables_rollback():
    assert run(make_monitor(window=0), [1] * 20 + [0] * 20) is None


def test_score_prefers_success_and_then_return():
    success, failure = Outcome(1, True, -5.0), Outcome(2, False, 9.0)
    assert score([success]) > score([failure]) and score([success, failure]) == (0.5, 2.0)


@pytest.mark.parametrize(
    ("config", "words"), [({"window": 1}, "window is 1"), ({"alpha": 0.0}, "alpha is 0")]
)
def test_an_invalid_rollback_config_is_refused(config, words):
    with pytest.raises(UsageError, match=words):
        RollbackConfig(**config)


def test_episodes_with_exploration_limits_count_for_no_test_wherever_they_come():
    """Robots that join a fleet later have their safe start in the middle of the series."""
    late = PerformanceMonitor(RollbackConfig(), EPISODES)
    early = PerformanceMonitor(RollbackConfig(), EPISODES)
    found = [], []
    for number in range(24):
        value = 1.0 if number < 12 else 0.0
        for monitor, rollbacks in zip((late, early), found, strict=True):
            rollbacks.append(monitor.add(bool(value), value, is_limited=False) is not None)
        if number == 6:
            for _ in range(5):
                assert late.add(False, -9.0, is_limited=True) is None
    assert found[0] == found[1] and any(found[0])
    assert late.state()["num_limited"] == 5


def test_a_state_from_before_robots_had_limits_of_their_own_is_restored():
    monitor = PerformanceMonitor(RollbackConfig(window=2), episodes=20, safe_start=3)
    for i in range(5):
        monitor.add(True, float(i))
    old = monitor.state()
    restored = PerformanceMonitor(RollbackConfig(window=2), episodes=20, safe_start=3)
    assert old.pop("num_limited") == 3
    restored.load_state(old, 5)
    assert restored.state() == monitor.state()
