"""The gate: its chances counted by hand, and its false alarms and delays over simulated runs."""

import json
from itertools import combinations

import numpy as np
import pytest

from o2o.core.errors import UsageError
from o2o.training.regression_gate import Outcome, PerformanceMonitor, RollbackConfig, rank_chance, score

EPISODES = 40


def run(gate: PerformanceMonitor, successes, totals=None, every: int = 5) -> tuple[int, int] | None:
    """(episode, checkpoint) of the first return; a checkpoint is written every few episodes."""
    gate.saved()
    for number, success in enumerate(successes, 1):
        verdict = gate.add(bool(success), float(success if totals is None else totals[number - 1]))
        if verdict:
            return number, verdict.to
        if number % every == 0:
            gate.saved()
    return None


def gate(**config) -> PerformanceMonitor:
    return PerformanceMonitor(RollbackConfig(**config), EPISODES)


# ---- the chance


def test_chance_is_the_share_of_draws_that_rank_so_low():
    assert rank_chance([0, 0], [1, 1]) == pytest.approx(1 / 6)  # one of the 6 pairs out of four
    assert rank_chance([0, 1], [1, 1]) == pytest.approx(3 / 6)
    assert rank_chance([1, 1], [0, 0]) == 1
    assert rank_chance([5.0] * 3, [5.0] * 6) == 1


def test_chance_is_what_trying_every_draw_gives():
    values = np.array([3.0, 1.0, 1.0, 7.0, 2.0, 2.0, 2.0, 9.0, 0.5])
    rank = np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])
    draws = [rank[list(places)].sum() for places in combinations(range(9), 3)]
    for last in ([0, 1, 2], [8, 1, 4], [3, 7, 0]):
        rest = np.delete(values, last)
        want = np.mean(np.array(draws) <= rank[last].sum() + 1e-9)
        assert rank_chance(values[last].tolist(), rest.tolist()) == pytest.approx(want)


def test_returns_count_by_rank_so_one_odd_return_does_not_hide_a_fall():
    assert rank_chance([1, 2, 3], [5, 6, 9e9]) == rank_chance([1, 2, 3], [5, 6, 7]) == 1 / 20


# ---- whole runs: 100 of 40 episodes each, from fixed seeds


def alarms(successes, totals=None) -> int:
    """Of 100 runs, those that went back."""
    runs = [run(gate(), s, None if totals is None else totals[i]) for i, s in enumerate(successes)]
    return sum(found is not None for found in runs)


@pytest.mark.parametrize("chance", [0.2, 0.5, 0.9])
def test_runs_that_do_not_change_rarely_go_back(chance):
    found = alarms(np.random.default_rng(0).random((100, EPISODES)) < chance)
    assert found <= 2  # of the 10 that its level allows: ties, and looks that overlap, make it rarer


def test_returns_that_do_not_change_rarely_send_a_run_back():
    totals = np.random.default_rng(1).standard_cauchy((100, EPISODES))
    assert alarms(np.zeros((100, EPISODES)), totals) <= 10


def test_a_run_that_gets_better_never_goes_back():
    chance = np.linspace(0.1, 0.9, EPISODES)
    assert alarms(np.random.default_rng(2).random((100, EPISODES)) < chance) == 0


@pytest.mark.parametrize(
    ("before", "after", "median", "missed"), [(0.9, 0.0, 7, 0), (0.9, 0.1, 10, 10), (1.0, 0.2, 10, 10)]
)
def test_a_collapse_after_20_episodes_is_seen_soon(before, after, median, missed):
    chance = np.where(np.arange(EPISODES) < 20, before, after)
    successes = np.random.default_rng(3).random((100, EPISODES)) < chance
    found = [run(gate(), row) for row in successes]
    delays = [EPISODES if at is None else at[0] - 20 for at in found]
    assert np.median(delays) <= median
    assert delays.count(EPISODES) <= missed


def test_an_evaluation_before_the_run_lets_a_collapse_at_the_start_be_seen():
    assert run(gate(), [0] * 9) is None  # nobody knows that it was ever better
    before = [(True, 1.0)] * 20
    assert run(PerformanceMonitor(RollbackConfig(), EPISODES, before=before), [0] * 9) == (6, 0)


def test_nothing_is_compared_with_episodes_that_began_carefully():
    chance = np.where(np.arange(EPISODES) < 5, 1.0, 0.3)  # noise to explore with costs success
    successes = np.random.default_rng(6).random((100, EPISODES)) < chance

    def num_alarms(safe_start: int) -> int:
        return sum(
            run(PerformanceMonitor(RollbackConfig(), EPISODES, safe_start), row) is not None
            for row in successes
        )

    assert num_alarms(safe_start=5) <= 3 < 15 < num_alarms(safe_start=0)
    judge = PerformanceMonitor(RollbackConfig(), EPISODES, safe_start=5)
    assert run(judge, [1] * 16 + [0] * 20) == (23, 15) and len(judge.state()["outcomes"]) == 10


def test_it_goes_back_to_the_best_checkpoint_and_says_why():
    judge, verdict = gate(), None
    judge.saved()
    successes = [0, 1, 0, 1, 0] + [1] * 10 + [0] * 12
    for number, success in enumerate(successes, 1):
        verdict = judge.add(bool(success), 3.0 * success)
        if verdict:
            break
        if number % 5 == 0:
            assert judge.saved() == (number in (10, 15))  # 20 is worse than 15
    assert verdict and verdict.to == 15 and judge.num_returns == 1
    assert verdict.why == (
        "the last 6 episodes (16 to 21) succeeded in 0, the 12 before them in 11; "
        "chance of that without a change 0.04 %: back to the checkpoint after 15 episodes"
    )


def test_returns_are_judged_where_nothing_ever_succeeds():
    verdict = None
    judge = gate()
    judge.saved()
    for total in [900 + number for number in range(12)] + [100] * 6:
        verdict = verdict or judge.add(False, float(total))
    assert verdict and verdict.to == 0
    assert verdict.why.startswith(
        "the last 6 episodes (13 to 18) returned 100 on average, the 12 before them 90"
    )
    assert verdict.why.endswith("back to what the run began with")


def test_after_going_back_only_new_episodes_can_send_it_back_again():
    judge = gate()
    assert run(judge, [1] * 15 + [0] * 6) == (21, 15)
    assert not judge.saved()  # nothing is known yet of what it went back to
    assert [judge.add(False, 0.0) for _ in range(5)] == [None] * 5
    assert judge.learns
    (verdict,) = [said for _ in range(7) if (said := judge.add(False, 0.0))]
    assert verdict.why.endswith("back to the checkpoint after 15 episodes, and nothing more is learned: "
                                "it got worse too often")  # fmt: skip
    assert not judge.learns and judge.num_returns == 2
    assert not any(judge.add(False, 0.0) for _ in range(20))


def test_a_resumed_gate_judges_as_one_that_was_never_stopped():
    successes = np.random.default_rng(5).random(60) < np.where(np.arange(60) < 30, 0.8, 0.1)
    whole, resumed, judged = PerformanceMonitor(RollbackConfig(), 60, 3, [(True, 2.0)]), None, []
    for number, success in enumerate(successes):
        if number % 7 == 0:
            state = json.loads(json.dumps((resumed or whole).state()))
            resumed = PerformanceMonitor(RollbackConfig(), 60, 3)
            resumed.load_state(state)
        assert resumed is not None
        said = whole.add(bool(success), float(number)), resumed.add(bool(success), float(number))
        assert said[0] == said[1]
        judged.append(said[0])
        if number % 5 == 0:
            assert whole.saved() == resumed.saved()
        assert whole.best == resumed.best
    assert any(judged)


def test_a_window_of_nothing_never_goes_back():
    assert run(gate(window=0), [1] * 20 + [0] * 20) is None


def test_score_prefers_success_and_then_return():
    won, lost = Outcome(1, True, -5.0), Outcome(2, False, 9.0)
    assert score([won]) > score([lost]) and score([won, lost]) == (0.5, 2.0)


@pytest.mark.parametrize(
    ("config", "words"), [({"window": 1}, "window is 1"), ({"alpha": 0.0}, "alpha is 0")]
)
def test_a_gate_that_cannot_judge_is_refused(config, words):
    with pytest.raises(UsageError, match=words):
        RollbackConfig(**config)
