"""Which checkpoint to choose: fitted-Q evaluation against closed forms, and runs with a bad one in them."""

import importlib
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import o2o
from o2o.agent.agent import Agent
from o2o.core import checkpoint, run_folder
from o2o.data.collect import collect
from o2o.data.formats import minari
from o2o.hardware.guard import connect
from o2o.inspect import open as look
from o2o.inspect.checkpoint_ranking import FAR, WILD, checkpoints, draws, rank_checkpoints, recommend, unknown
from o2o.inspect.fitted_q import Recorded, evaluate, shift
from tests.support.tiny_runs import TINY, pretrain_config

RIGHT, LEFT = 1.0, -1.0
module = importlib.import_module("o2o.inspect.checkpoint_ranking")  # the package's attribute is the function


def chain(ends: bool, episodes: int = 60, steps: int = 12, seed: int = 0) -> Recorded:
    """Random walks over four places; coming to the last one pays 1, and ends the world if `ends`."""
    rng = np.random.default_rng(seed)
    rows = []
    for episode in range(episodes):
        place = 0
        for _ in range(steps):
            action = rng.choice([LEFT, RIGHT])
            after = int(np.clip(place + action, 0, 3))
            rows.append((place, after, action, float(after == 3), episode))
            if after == 3 and ends:
                break
            place = after
    here, after, action, reward, episode = (torch.tensor(column) for column in zip(*rows, strict=True))
    features = torch.eye(4)
    goes_on = 1 - reward if ends else torch.ones(len(rows))
    return Recorded(
        features[here], features[after], action[:, None].float(), reward, goes_on, episode, features[:1]
    )


def always(recorded: Recorded, *actions: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(next_action, start_action) of policies that do the same everywhere."""
    num = len(recorded.reward)
    each = torch.tensor(actions)[:, None, None]
    return each.expand(-1, num, 1), each.expand(-1, 1, 1)


@pytest.mark.parametrize(
    ("ends", "horizon", "want"),
    [
        (False, 6, 0.9**2 + 0.9**3 + 0.9**4 + 0.9**5),  # there at the third of six steps, and stays
        (False, 2, 0.0),  # too short to come there
        (True, 6, 0.9**2),  # once, then the world ends
    ],
)
def test_values_on_a_chain_are_those_of_the_closed_form(ends, horizon, want):
    recorded = chain(ends)
    found = evaluate(recorded, *always(recorded, RIGHT, LEFT), discount=0.9, horizon=horizon)
    right, left = found.value.mean((1, 2))
    assert right == pytest.approx(want, abs=0.05) and left == pytest.approx(0, abs=0.05)
    assert found.value.shape == (2, 10, 1) and found.beyond.max() < 0.05


def test_without_discount_an_episode_is_worth_its_return():
    """Three steps to come there, four of seven are paid."""
    recorded = chain(False)
    found = evaluate(recorded, *always(recorded, RIGHT), discount=1.0, horizon=6)
    assert found.value.mean() == pytest.approx(4, abs=0.15)


def test_values_stay_within_what_rewards_can_add_up_to():
    """Actions ten times as large as any recorded."""
    recorded = chain(False, episodes=4)
    found = evaluate(recorded, *always(recorded, 10 * RIGHT), discount=0.9, horizon=6)
    most = (1 - 0.9**6) / (1 - 0.9)
    assert found.value.min() >= 0 and found.value.max() <= most + 1e-6
    spread = found.value.std(1).mean()
    assert spread > 3 * evaluate(recorded, *always(recorded, RIGHT), 0.9, 6).value.std(1).mean()


def test_an_evaluation_that_explodes_is_called_impossible():
    """A thousand steps of actions that were never recorded, nothing that pulls towards zero."""
    recorded = chain(False, episodes=12)
    found = evaluate(recorded, *always(recorded, 10 * RIGHT), discount=1.0, horizon=1000, ridge=1e-9)
    assert found.beyond[0] > 0 and np.isfinite(found.value).all()
    assert found.value.min() >= 0 and found.value.max() <= 1000


def test_policies_are_compared_on_the_same_draws():
    recorded = chain(False)
    found = evaluate(recorded, *always(recorded, RIGHT, RIGHT), discount=0.9, horizon=6, seed=3)
    assert np.array_equal(found.value[0], found.value[1])
    again = evaluate(recorded, *always(recorded, RIGHT), discount=0.9, horizon=6, seed=3)
    assert found.value[0] == pytest.approx(again.value[0], abs=1e-6)
    other = evaluate(recorded, *always(recorded, RIGHT), discount=0.9, horizon=6, seed=4)
    assert not np.array_equal(found.value[0], other.value[0])


def test_the_shift_is_one_for_the_best_guess_and_grows_with_the_distance():
    """Actions are +1 or -1 whatever the place: the best guess is 0, and 10 is ten times as far."""
    recorded = chain(False, episodes=200)
    num = len(recorded.reward)
    action = torch.stack([torch.zeros(num, 1), recorded.action, torch.full((num, 1), 10.0)])
    assert shift(recorded, action).numpy() == pytest.approx([1, 0, 10], abs=0.1)


def test_the_highest_lower_end_is_recommended_among_those_that_act_like_the_data():
    low = np.array([0.1, 0.5, 0.9])
    lost = unknown(np.array([1.0, FAR - 0.1, FAR + 0.1]), np.array([0.0, WILD / 2, 0.0]))
    assert lost.tolist() == [False, False, True]
    assert unknown(np.ones(1), np.array([2 * WILD])).all()
    assert recommend(low, ~np.ones(3, bool)) == 2
    assert recommend(low, lost) == 1
    assert recommend(low[::-1], np.ones(3, bool)) == 2  # the newest


def test_draws_are_of_one_member_each_and_of_whole_starts():
    """Two members, one start: every draw is one of two numbers, and both policies see the same one."""
    drawn = draws(np.array([[[1.0], [3.0]], [[11.0], [13.0]]]), seed=0)
    assert set(drawn[0]) == {1.0, 3.0} and (drawn[1] - drawn[0] == 10).all()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """200 updates on an expert of the point robot under noise, of which it kept three."""
    folder = tmp_path_factory.mktemp("choice")
    robot = connect(pretrain_config(folder, folder).robot)
    levels = np.linspace(0.2, 1.0, 40).tolist()
    episodes = collect(robot, lambda env: -env.unwrapped.place, levels, seed=0)
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
def spoiled(trained, tmp_path):
    """The same run, where number 1 does the opposite of the last one, and 150 the same."""
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    newest = run_folder.kept(out)[200]
    shutil.copytree(newest, out / run_folder.KEPT / "000150")
    tensors, meta = checkpoint.load(newest)
    agent = Agent.from_state(tensors, meta)
    last = agent.policy.net[-1]
    with torch.no_grad():
        last.weight.mul_(-1)
        last.bias.mul_(-1)
    checkpoint.save(out / run_folder.KEPT / "000001", tensors | agent.state()[0], meta)
    return out


def test_a_run_is_ranked_and_what_is_bad_comes_last(spoiled):
    answer = rank_checkpoints(look(spoiled), plan=False)
    assert answer.done.tolist() == [1, 100, 150, 200] and answer.unit == "updates" and not answer.planned
    assert answer.low[0] == answer.low.min() or answer.lost[0]
    assert answer.done[answer.best] != 1 and (answer.low <= answer.value).all()
    assert answer.value[2] == answer.value[3] and answer.rival[2] == answer.rival[3]
    said = str(answer)
    assert f"--checkpoint {answer.folders[answer.best]} --no-plan`" in said and "held-out" in said
    assert "may be as good" in said or "cannot tell" in said
    assert [chart.title for chart in answer.charts()] and answer.plot()
    numbers = answer.metrics()
    assert numbers["recommended"] == answer.done[answer.best] and numbers["low_000100"] == answer.low[1]


def test_asking_leaves_the_agent_as_it_was(trained):
    run = look(trained)
    before = {name: value.clone() for name, value in run.agent.state()[0].items()}
    torch.manual_seed(5)
    random = torch.get_rng_state()
    rank_checkpoints(run, plan=False)
    after = run.agent.state()[0]
    assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)
    assert torch.get_rng_state().equal(random)


def test_planners_are_judged_where_it_takes_no_longer_than_allowed(trained, monkeypatch):
    run = look(trained)
    run.episodes, run.unseen = run.episodes[:1], False
    monkeypatch.setattr(module, "_plan_s", lambda agent: 1.0)
    dear = rank_checkpoints(run, budget_s=1.0)
    assert not dear.planned and dear.plan_s == 2 * 13 and "0.43 minutes" in str(dear)
    cheap = rank_checkpoints(run, budget_s=100.0)
    assert cheap.planned and "Its planner would" in str(cheap) and "--no-plan" not in str(cheap)
    assert not np.array_equal(cheap.value, dear.value)


def test_a_planner_is_asked_in_the_belief_of_what_was_executed(trained):
    """With a planner that only repeats the policy, plans are the policy's actions."""
    run = look(trained)
    agent, episodes = run.agent, run.episodes
    policy = module._policy(agent, episodes, 0)
    act = agent.act
    agent.act = lambda *args: act(*args, plan=False)
    for planned, own in zip(module._plans(agent, episodes, 0), policy, strict=True):
        assert torch.allclose(planned, own, atol=1e-5)


def test_a_single_checkpoint_says_how_to_keep_more(trained, tmp_path):
    shutil.copytree(trained / "checkpoint", tmp_path / "run" / "checkpoint")
    run = look(tmp_path / "run")
    assert list(checkpoints(run).values()) == [tmp_path / "run" / "checkpoint"]
    answer = rank_checkpoints(run, plan=False)
    assert "nothing to choose" in answer.text()[0] and "--keep-checkpoints" in answer.text()[0]


def test_checkpoints_that_cannot_be_told_apart_are_called_so(trained):
    answer = rank_checkpoints(look(trained), plan=False)
    answer = replace(answer, shift=np.ones(2), beyond=np.zeros(2))
    same = replace(answer, rival=np.array([0.4, 1.0]))
    assert "cannot tell the 2 checkpoints apart" in same.text()[0]
    clear = replace(answer, rival=np.array([0.01, 1.0]), low=np.array([0.0, 1.0]))
    assert clear.text()[0] == "Put the checkpoint after 200 updates on the robot."
    far = replace(clear, shift=np.array([FAR + 1, 1.0]))
    assert "act so unlike them: after 100 updates." in str(far) and "100 updates *" in str(
        far.charts()[0].marks[1]
    )
    none = replace(clear, beyond=np.ones(2))
    assert "do not say which checkpoint is best" in none.text()[0] and none.best == 1
