"""Unsure decisions: limits learned from recordings for every system, and what the robot does about them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from o2o.agent.agent import Agent
from o2o.core.config import from_dict, to_dict
from o2o.core.errors import UsageError
from o2o.data.replay_buffer import Replay, ReplayConfig
from o2o.training.uncertainty_guard import (
    ROUNDING,
    Limit,
    OodConfig,
    OodResponse,
    Question,
    is_ood,
    learn,
    relative_disagreement,
)
from tests.support.inspected import episodes
from tests.support.preset_agents import act, disagreeing

WANTED, STILL = np.array([0.8, -0.4]), np.array([0.0, 0.2])


def data(agent: Agent, held_out: bool = True):
    """What a run knows of 15 recorded steps."""
    replays = [Replay(agent.transform.spec, rows, 0, ReplayConfig()) for rows in (100, 100)]
    for replay in replays[: 1 + held_out]:
        for episode in episodes():
            replay.add(episode)
    return SimpleNamespace(replay=replays[0], validation=replays[1])


def learned(agent: Agent, **how) -> Limit:
    return learn(agent, data(agent), how.pop("quantile", 0.5), **how)  # type: ignore[arg-type]


# ---- the limit


@pytest.mark.parametrize("name", ["small", "fowm", "tdmpc2", "dreamerv3", "twm"])
def test_a_limit_is_learned_for_every_system_and_leaves_it_as_it_was(name):
    agent = disagreeing(name)
    before = {key: value.clone() for key, value in agent.state()[0].items()}
    found = learned(agent)
    assert found.action > 0 and found.plan is not None and found.plan > 0
    assert found.num_moments == 15 and found.unseen
    assert all(torch.equal(value, before[key]) for key, value in agent.state()[0].items())
    agent.start(2, 0)
    for plan in (True, False):
        unit = act(agent, plan=plan)
        assert relative_disagreement(agent, found, unit).shape == (2,)
        assert (relative_disagreement(agent, found, unit) > 0).all()


def test_a_higher_quantile_gives_a_higher_limit():
    agent = disagreeing("small")
    low, high = learned(agent, quantile=0.1), learned(agent, quantile=0.9)
    assert low.action < high.action and (low.plan or 0) < (high.plan or 0)


def test_half_of_the_recorded_moments_are_over_a_limit_at_the_half():
    agent, found = disagreeing("small"), None
    found = learned(agent)
    over = []
    for episode in episodes():
        agent.start(1, 0)
        for t in range(len(episode)):
            obs = {name: value[t][None] for name, value in episode.obs.items()}
            unit = agent.act(obs, np.zeros((1, 2)), np.zeros(1), np.array([t == 0]), plan=False)
            over.append(is_ood(relative_disagreement(agent, found, unit)[0]))
    assert sum(over) == 7  # of 15: the limit is the one in the middle


def test_without_a_price_the_action_is_judged_and_not_the_plan():
    agent = disagreeing("small")
    agent.set_penalty_weight(0.0)
    found = learned(agent)
    assert found.plan is None and found.action == learned(agent, plan=False).action
    agent.start(2, 0)
    unit = act(agent)
    spread = agent.critic.disagreement(agent.model.feature(agent.belief), torch.as_tensor(unit))
    np.testing.assert_allclose(
        relative_disagreement(agent, found, unit), spread.detach().numpy() / found.action, rtol=1e-5
    )


def test_a_plan_is_judged_by_its_spread_and_not_by_its_price():
    agent = disagreeing("small")
    found = learned(agent)
    agent.start(2, 0)
    unit = act(agent)
    plan = agent.last_plan
    assert plan is not None and found.plan
    want = plan.penalty.numpy() / agent.penalty_weight / found.plan
    np.testing.assert_allclose(relative_disagreement(agent, found, unit), want, rtol=1e-5)
    limit_policy_deviation = relative_disagreement(agent, found, unit, planned=False)
    agent.last_plan = replace(plan, usable=torch.tensor([True, False]))  # there the policy acted
    mixed = relative_disagreement(agent, found, unit)
    np.testing.assert_allclose(mixed, [want[0], limit_policy_deviation[1]], rtol=1e-5)


def test_recordings_that_were_learned_from_do_where_none_were_held_out():
    agent = disagreeing("small")
    found = learn(agent, data(agent, held_out=False), 0.99)  # type: ignore[arg-type]
    assert not found.unseen and "of 15 learned recorded moments" in found.line()


def test_a_spread_where_the_recordings_had_none_is_as_unsure_as_can_be():
    agent = disagreeing("small")
    agent.start(2, 0)
    unit = act(agent, plan=False)
    assert (relative_disagreement(agent, Limit(0.0, None, 0.99, 15, True), unit) == np.inf).all()
    with torch.no_grad():
        for weight in agent.critic.q_heads.parameters():
            weight.zero_()
    assert (relative_disagreement(agent, Limit(0.0, None, 0.99, 15, True), unit) == 0).all()


def test_a_limit_goes_through_plain_data_and_can_be_said():
    limit = Limit(0.021, 0.43, 0.99, 256, True)
    assert from_dict(Limit, json.loads(json.dumps(to_dict(limit)))) == limit
    assert limit.line() == (
        "unsure is what critics disagree about by more than 0.43 along a plan, 0.021 at an action: "
        "so are 1 % of 256 held-out recorded moments"
    )


# ---- what the robot does


def test_sure_decisions_are_carried_out_as_they_are():
    caution = OodResponse("hold", OodConfig(), can_hold=True)
    assert caution.judge(1.0, WANTED, STILL) is WANTED
    assert caution.metrics() == {"ood/fraction": 0, "ood/slow": 0, "ood/hold": 0, "ood/queries": 0,
                                 "ood/max": 1.0}  # fmt: skip


@pytest.mark.parametrize(
    ("do", "want"), [("continue", WANTED), ("slow", [0.2, 0.05]), ("hold", STILL)]
)  # a quarter of the way from still to wanted
def test_unsure_decisions_go_on_slow_down_or_hold(do, want):
    caution = OodResponse(do, OodConfig(speed=0.25), can_hold=True)
    np.testing.assert_allclose(caution.judge(1.5, WANTED, STILL), want)
    caution.judge(0.5, WANTED, STILL)
    found = caution.metrics()
    assert found["ood/fraction"] == 0.5 and found["ood/max"] == 1.5
    assert found.get(f"ood/{do}", 0.5) == 0.5


def test_a_decision_on_its_limit_is_not_over_it_whichever_way_it_was_rounded():
    caution = OodResponse("hold", OodConfig(), can_hold=True)
    assert ROUNDING < 1e-5
    for ulps in (-8, 0, 8):
        assert caution.judge(1 + ulps * 2.0**-23, WANTED, STILL) is WANTED
    np.testing.assert_array_equal(caution.judge(1.0001, WANTED, STILL), STILL)


def test_what_is_not_a_number_is_unsure():
    np.testing.assert_array_equal(OodResponse("hold", OodConfig(), True).judge(np.nan, WANTED, STILL), STILL)


def test_where_nobody_knows_how_to_hold_at_this_moment_the_action_goes_to_the_guard():
    caution = OodResponse("hold", OodConfig(), can_hold=True)
    assert caution.judge(2.0, WANTED, None) is WANTED and caution.held == 0


def test_the_operator_is_asked_until_there_is_an_answer_and_it_counts_while_it_is_unsure():
    asked, answers = [], [None, None, "slow"]

    def ask(question: Question):
        asked.append((question.step, question.held))
        return answers.pop(0)

    caution = OodResponse("ask", OodConfig(speed=0.25), can_hold=True, ask=ask)
    did = [caution.judge(3.0, WANTED, STILL).tolist() for _ in range(5)]
    assert did == [STILL.tolist()] * 2 + [pytest.approx([0.2, 0.05])] * 3
    assert asked == [(0, 0), (1, 1), (2, 2)]
    assert caution.judge(0.5, WANTED, STILL) is WANTED
    answers.append("continue")
    assert caution.judge(3.0, WANTED, STILL) is WANTED and asked[-1] == (6, 0)
    assert caution.metrics()["ood/queries"] == 2 / 7
    assert str(Question(3, 2.5, 0)) == "step 3: 2.5 times as unsure as the limit: go, slow or hold?"


def test_decisions_held_in_a_row_are_counted_and_a_new_episode_forgets():
    caution = OodResponse("hold", OodConfig(), can_hold=True)
    for _ in range(3):
        caution.judge(2.0, WANTED, STILL)
    assert caution.held == 3
    caution.start()
    assert caution.held == 0 and caution.metrics()["ood/fraction"] == 0


def test_what_the_robot_or_nobody_can_do_is_refused():
    with pytest.raises(UsageError, match="--ood-action slow needs a robot that says what its actions are"):
        OodResponse("slow", OodConfig(), can_hold=False)
    with pytest.raises(UsageError, match="needs an operator"):
        OodResponse("ask", OodConfig(), can_hold=True)
    with pytest.raises(UsageError, match=r"quantile is 1\.5"):
        OodConfig(quantile=1.5)
    OodResponse("continue", OodConfig(), can_hold=False)
