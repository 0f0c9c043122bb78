"""Tests who acts online: evidence from episodes decides, and nothing else."""

import numpy as np
import pytest

from o2o.core.episode import Episode
from o2o.training.actor_choice import PLANNER, POLICY, ActorChoice

SKIP = 5


def episode(success: bool, value: float) -> Episode:
    arrays = {"s": np.zeros((2, 1))}, np.zeros((1, 1)), np.array([value])
    return Episode(*arrays, terminated=False, truncated=True, success=success)


def play(planner: float, policy: float, seed: int, episodes: int = 60, sparse: bool = True) -> ActorChoice:
    """Plays episodes in which each actor succeeds with its own probability."""
    rng, choice = np.random.default_rng(seed), ActorChoice(seed, SKIP)
    for _ in range(episodes):
        won = bool(rng.random() < (planner if choice.next else policy))
        choice.add(episode(won, float(won)) if sparse else episode(False, won + 0.1 * rng.normal()))
    return choice


def test_the_planner_acts_in_the_first_episodes():
    assert play(0.0, 1.0, seed=1, episodes=SKIP).actors == [True] * SKIP


def test_a_resumed_run_finds_the_same_choices():
    episodes = [episode(i % 3 == 0, i % 3) for i in range(30)]
    whole = ActorChoice(1, SKIP, episodes)
    for number in (0, 7, 30):
        part = ActorChoice(1, SKIP, episodes[:number])
        assert [*part.actors, part.next] == [*whole.actors, whole.next][: number + 1]
    assert ActorChoice(2, SKIP, episodes).actors != whole.actors


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize(("planner", "policy"), [(0.8, 0.3), (0.3, 0.8)])
def test_the_better_actor_acts_more_often(planner, policy, sparse):
    shares, found = [], []
    for seed in range(20):
        choice = play(planner, policy, seed, sparse=sparse)
        shares.append(np.mean(choice.actors[-30:]))
        found.append(choice.better)
    assert (np.mean(shares) > 0.8) if planner > policy else (np.mean(shares) < 0.2)
    assert np.mean(found) == pytest.approx(float(planner > policy), abs=0.15)


def test_both_actors_are_tried_where_they_are_alike():
    shares = [np.mean(play(0.5, 0.5, seed).actors) for seed in range(20)]
    assert 0.35 < np.mean(shares) < 0.7


def test_without_episodes_the_planner_is_the_better_one():
    assert ActorChoice(0, SKIP).better and ActorChoice(0, 0).better


def play_policy_first(planner: float, policy: float, seed: int, episodes: int = 50) -> ActorChoice:
    rng, choice = np.random.default_rng(seed), ActorChoice(seed, SKIP, policy_first=True)
    for _ in range(episodes):
        won = bool(rng.random() < (planner if choice.next else policy))
        choice.add(episode(won, float(won)))
    return choice


def test_a_policy_that_acts_first_is_given_up_for_a_better_planner_alone():
    assert not ActorChoice(0, SKIP, policy_first=True).better
    runs = [play_policy_first(0.0, 0.8, seed) for seed in range(20)]
    assert all(run.actors[:SKIP] == [POLICY] * SKIP for run in runs)
    assert np.mean([run.actors for run in runs]) < 0.1 and not any(run.better for run in runs)
    assert np.mean([play_policy_first(0.9, 0.2, seed).better for seed in range(20)]) > 0.85
    assert "the policy acted in 5 episodes" in play_policy_first(0.0, 0.8, 0, SKIP).summary()


def test_an_actor_that_has_not_acted_is_only_expected_to_be_better():
    choice = ActorChoice(0, 0)
    choice.add(episode(True, 1.0), POLICY)
    choice.add(episode(False, 0.0), POLICY)
    assert choice.summary().endswith("; the planner is expected to be the better actor")
    choice.add(episode(True, 1.0), PLANNER)
    assert choice.summary().endswith("; the planner is the better actor")


def test_the_summary_counts_only_episodes_that_were_chosen():
    choice = ActorChoice(0, 2, [episode(True, 9.0), episode(True, 9.0)])
    choice.add(episode(False, 1.0))
    name = "planner" if choice.actors[2] else "policy"
    assert f"the {name} acted in 1 episode (success 0%, return 1)" in choice.summary()


def test_episodes_whose_actor_is_named_are_added_without_a_choice(monkeypatch):
    """A fleet's learner adds thousands of them when it starts, and a choice looks at all before it."""
    looks = []
    real = ActorChoice._estimate
    monkeypatch.setattr(ActorChoice, "_estimate", lambda *args: looks.append(args) or real(*args))
    choice = ActorChoice(0, 0)
    for number in range(50):
        choice.add(episode(number % 2 == 0, 1.0), number % 2 == 0)
    assert looks == []
    assert choice.better and len(looks) == 2


def test_the_actor_that_a_robot_names_counts_in_place_of_the_one_chosen_here():
    choice = ActorChoice(0, 0)
    for _ in range(20):
        choice.add(episode(True, 1.0), POLICY)
        choice.add(episode(False, 0.0), PLANNER)
    assert choice.actors == [POLICY, PLANNER] * 20 and not choice.better
