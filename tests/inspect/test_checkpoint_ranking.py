"""Tests the ranking of checkpoints: fitted-Q evaluation on closed forms, and a run with a bad checkpoint."""

import importlib
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import o2o
from o2o.agent.agent import Agent
from o2o.core import checkpoint, run_folder
from o2o.core.stats import success_interval
from o2o.data.collect import collect
from o2o.data.formats import minari
from o2o.hardware.guard import connect
from o2o.inspect import open as open_run
from o2o.inspect.checkpoint_ranking import (
    MAX_DISTANCE,
    MAX_IMPOSSIBLE,
    bootstrap_values,
    checkpoints,
    is_unreliable,
    rank_checkpoints,
    recommended_index,
)
from o2o.inspect.fitted_q import RecordedSteps, action_distance, evaluate_policies
from tests.support.tiny_runs import TINY, pretrain_config

RIGHT, LEFT = 1.0, -1.0
module = importlib.import_module("o2o.inspect.checkpoint_ranking")  # the package's attribute is the function


def chain(terminates: bool, episodes: int = 60, steps: int = 12, seed: int = 0) -> RecordedSteps:
    """Returns random walks over four positions; the last one gives reward 1 and may terminate."""
    rng = np.random.default_rng(seed)
    rows = []
    for episode in range(episodes):
        position = 0
        for _ in range(steps):
            action = rng.choice([LEFT, RIGHT])
            after = int(np.clip(position + action, 0, 3))
            rows.append((position, after, action, float(after == 3), episode))
            if after == 3 and terminates:
                break
            position = after
    here, after, action, reward, episode = (torch.tensor(column) for column in zip(*rows, strict=True))
    features = torch.eye(4)
    continues = 1 - reward if terminates else torch.ones(len(rows))
    return RecordedSteps(
        features[here], features[after], action[:, None].float(), reward, continues, episode, features[:1]
    )


def always(recorded: RecordedSteps, *actions: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (next_action, start_action) of policies with constant actions."""
    num = len(recorded.reward)
    each = torch.tensor(actions)[:, None, None]
    return each.expand(-1, num, 1), each.expand(-1, 1, 1)


@pytest.mark.parametrize(
    ("terminates", "horizon", "want"),
    [
        (False, 6, 0.9**2 + 0.9**3 + 0.9**4 + 0.9**5),  # arrives at the third of six steps, and stays
        (False, 2, 0.0),  # too short to arrive
        (True, 6, 0.9**2),  # once, then it terminates
    ],
)
def test_values_on_a_chain_match_the_closed_form(terminates, horizon, want):
    recorded = chain(terminates)
    evaluation = evaluate_policies(recorded, *always(recorded, RIGHT, LEFT), discount=0.9, horizon=horizon)
    right, left = evaluation.value.mean((1, 2))
    assert right == pytest.approx(want, abs=0.05) and left == pytest.approx(0, abs=0.05)
    assert evaluation.value.shape == (2, 10, 1) and evaluation.impossible.max() < 0.05


def test_without_discount_the_value_of_an_episode_is_its_return():
    """Arrives at the third of six steps, so four steps give a reward."""
    recorded = chain(False)
    evaluation = evaluate_policies(recorded, *always(recorded, RIGHT), discount=1.0, horizon=6)
    assert evaluation.value.mean() == pytest.approx(4, abs=0.15)


def test_values_stay_within_the_range_of_possible_returns():
    """The actions are ten times as large as any recorded one."""
    recorded = chain(False, episodes=4)
    evaluation = evaluate_policies(recorded, *always(recorded, 10 * RIGHT), discount=0.9, horizon=6)
    most = (1 - 0.9**6) / (1 - 0.9)
    assert evaluation.value.min() >= 0 and evaluation.value.max() <= most + 1e-6
    deviation = evaluation.value.std(1).mean()
    assert deviation > 3 * evaluate_policies(recorded, *always(recorded, RIGHT), 0.9, 6).value.std(1).mean()


def test_a_diverging_evaluation_is_reported_as_impossible():
    """Evaluates a thousand steps of actions that were never recorded, almost without ridge penalty."""
    recorded = chain(False, episodes=12)
    evaluation = evaluate_policies(
        recorded, *always(recorded, 10 * RIGHT), discount=1.0, horizon=1000, ridge=1e-9
    )
    assert evaluation.impossible[0] > 0 and np.isfinite(evaluation.value).all()
    assert evaluation.value.min() >= 0 and evaluation.value.max() <= 1000


def test_policies_are_compared_on_the_same_bootstrap_samples():
    recorded = chain(False)
    evaluation = evaluate_policies(recorded, *always(recorded, RIGHT, RIGHT), discount=0.9, horizon=6, seed=3)
    assert np.array_equal(evaluation.value[0], evaluation.value[1])
    again = evaluate_policies(recorded, *always(recorded, RIGHT), discount=0.9, horizon=6, seed=3)
    assert evaluation.value[0] == pytest.approx(again.value[0], abs=1e-6)
    other = evaluate_policies(recorded, *always(recorded, RIGHT), discount=0.9, horizon=6, seed=4)
    assert not np.array_equal(evaluation.value[0], other.value[0])


def test_action_distance_is_one_for_the_regression_and_grows_with_the_distance():
    """Actions are +1 or -1 at every position: the regression gives 0, and 10 is ten times as far."""
    recorded = chain(False, episodes=200)
    num = len(recorded.reward)
    action = torch.stack([torch.zeros(num, 1), recorded.action, torch.full((num, 1), 10.0)])
    assert action_distance(recorded, action).numpy() == pytest.approx([1, 0, 10], abs=0.1)


def test_the_highest_lower_end_of_the_reliable_checkpoints_is_recommended():
    low = np.array([0.1, 0.5, 0.9])
    unreliable = is_unreliable(
        np.array([1.0, MAX_DISTANCE - 0.1, MAX_DISTANCE + 0.1]), np.array([0.0, MAX_IMPOSSIBLE / 2, 0.0])
    )
    assert unreliable.tolist() == [False, False, True]
    assert is_unreliable(np.ones(1), np.array([2 * MAX_IMPOSSIBLE])).all()
    assert recommended_index(low, ~np.ones(3, bool)) == 2
    assert recommended_index(low, unreliable) == 1
    assert recommended_index(low[::-1], np.ones(3, bool)) == 2  # the latest


def test_a_bootstrap_sample_uses_one_member_for_all_policies():
    """With two members and one start, each sample is one of two numbers, of the same member for both."""
    samples = bootstrap_values(np.array([[[1.0], [3.0]], [[11.0], [13.0]]]), seed=0)
    assert set(samples[0]) == {1.0, 3.0} and (samples[1] - samples[0] == 10).all()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns a run of 200 updates on a noisy expert of the point robot, with three kept checkpoints."""
    folder = tmp_path_factory.mktemp("choice")
    robot = connect(pretrain_config(folder, folder).robot)
    levels = np.linspace(0.2, 1.0, 40).tolist()
    episodes = collect(robot, lambda env: -env.unwrapped.position, levels, seed=0)
    minari.write(
        folder / "point-v0", episodes, dataset_id="point-v0", control_hz=robot.control_hz,
        observation_space=robot.observation_space, action_space=robot.action_space,
    )  # fmt: skip
    agent = replace(TINY, batch_size=32, learning_rate=3e-3)
    return o2o.pretrain(
        pretrain_config(folder / "point-v0", folder / "run", agent=agent, updates=200, log_every=100,
                        checkpoint_every=100, keep_checkpoints=3)
    )  # fmt: skip


@pytest.fixture
def with_bad_checkpoint(trained, tmp_path):
    """Returns the run with a checkpoint 1 that does the opposite of the latest, and a copy 150 of it."""
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    latest = run_folder.stored_checkpoints(out)[200]
    shutil.copytree(latest, out / run_folder.CHECKPOINTS / "000150")
    tensors, meta = checkpoint.load(latest)
    agent = Agent.from_state(tensors, meta)
    last = agent.policy.net[-1]
    with torch.no_grad():
        last.weight.mul_(-1)
        last.bias.mul_(-1)
    checkpoint.save(out / run_folder.CHECKPOINTS / "000001", tensors | agent.state()[0], meta)
    return out


def test_a_run_is_ranked_and_the_bad_checkpoint_is_last(with_bad_checkpoint):
    result = rank_checkpoints(open_run(with_bad_checkpoint), plan=False)
    assert (
        result.progress.tolist() == [1, 100, 150, 200]
        and result.unit == "updates"
        and not result.planner_evaluated
    )
    assert result.low[0] == result.low.min() or result.unreliable[0]
    assert result.progress[result.recommended] != 1 and (result.low <= result.value).all()
    assert (
        result.value[2] == result.value[3] and result.probability_as_good[2] == result.probability_as_good[3]
    )
    text = str(result)
    assert f"--checkpoint {result.folders[result.recommended]} --no-plan`" in text and "validation" in text
    assert "may be as good" in text or "cannot distinguish" in text
    assert [chart.title for chart in result.charts()] and result.plot()
    numbers = result.metrics()
    assert (
        numbers["recommended"] == result.progress[result.recommended]
        and numbers["low_000100"] == result.low[1]
    )


def test_ranking_leaves_the_agent_unchanged(trained):
    run = open_run(trained)
    before = {name: value.clone() for name, value in run.agent.state()[0].items()}
    torch.manual_seed(5)
    random = torch.get_rng_state()
    rank_checkpoints(run, plan=False)
    after = run.agent.state()[0]
    assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)
    assert torch.get_rng_state().equal(random)


def test_planners_are_evaluated_within_the_time_budget(trained, monkeypatch):
    run = open_run(trained)
    run.episodes, run.unseen = run.episodes[:1], False
    monkeypatch.setattr(module, "_seconds_per_plan", lambda agent: 1.0)
    policies = rank_checkpoints(run, budget_s=1.0)
    assert not policies.planner_evaluated and policies.plan_s == 2 * 13
    assert "0.43 minutes" in str(policies)
    planners = rank_checkpoints(run, budget_s=100.0)
    assert planners.planner_evaluated and "return of its planner" in str(planners)
    assert "--no-plan" not in str(planners)
    assert not np.array_equal(planners.value, policies.value)


def test_a_planner_acts_on_beliefs_that_follow_the_executed_actions(trained):
    """A planner that only repeats the policy gives the policy's actions."""
    run = open_run(trained)
    agent, episodes = run.agent, run.episodes
    policy = module._policy_actions(agent, episodes, 0)
    act = agent.act
    agent.act = lambda *args: act(*args, plan=False)
    for planned, expected in zip(module._planner_actions(agent, episodes, 0), policy, strict=True):
        assert torch.allclose(planned, expected, atol=1e-5)


def test_a_single_checkpoint_explains_how_to_keep_more(trained, tmp_path):
    shutil.copytree(trained / "checkpoint", tmp_path / "run" / "checkpoint")
    run = open_run(tmp_path / "run")
    assert list(checkpoints(run).values()) == [tmp_path / "run" / "checkpoint"]
    result = rank_checkpoints(run, plan=False)
    assert "nothing to rank" in result.text()[0] and "--keep-checkpoints" in result.text()[0]


def test_checkpoints_that_cannot_be_distinguished_are_reported(trained):
    result = rank_checkpoints(open_run(trained), plan=False)
    result = replace(result, action_distance=np.ones(2), impossible=np.zeros(2))
    same = replace(result, probability_as_good=np.array([0.4, 1.0]))
    assert "cannot distinguish the 2 checkpoints" in same.text()[0]
    clear = replace(result, probability_as_good=np.array([0.01, 1.0]), low=np.array([0.0, 1.0]))
    assert clear.text()[0] == "The recommended checkpoint is the one after 200 updates."
    far = replace(clear, action_distance=np.array([MAX_DISTANCE + 1, 1.0]))
    assert "different from the recorded ones: the one after 100 updates." in str(
        far
    ) and "100 updates *" in str(far.charts()[0].marks[1])
    none = replace(clear, impossible=np.ones(2))
    assert "cannot rank the checkpoints" in none.text()[0] and none.recommended == 1


def test_the_runs_own_evaluations_come_first_and_say_where_they_cannot_tell(trained):
    """Estimates from recordings once preferred a checkpoint with 88 % success to one with 98 %."""
    estimated = rank_checkpoints(open_run(trained), plan=False)
    estimated = replace(
        estimated, low=np.array([5.0, 1.0]), action_distance=np.ones(2), impossible=np.zeros(2)
    )
    assert not estimated.measured and estimated.recommended == 0

    def measured(*counts):
        success = [(n / 50, *success_interval(n, 50)) for n in counts]
        return replace(estimated, success=np.array(success))

    clear = measured(25, 49)
    assert clear.recommended == 1 and "--no-plan" not in str(clear)
    assert clear.text()[0] == (
        "The recommended checkpoint is the one after 200 updates: it succeeded in 98% (90% to 100%) of its "
        "evaluation episodes."
    )
    assert "own evaluations" in clear.charts()[0].title and clear.plot()
    near = measured(46, 44)
    assert near.recommended == 0 and near.text()[0].startswith("The run's own evaluations cannot tell which")
    equal, one = measured(0, 0), replace(clear, success=np.array([[0.9, 0.8, 1.0], [np.nan] * 3]))
    assert not equal.measured and not one.measured and equal.recommended == one.recommended == 0
