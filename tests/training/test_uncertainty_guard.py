"""Tests OOD decisions: thresholds calibrated for every preset, and the robot's response."""

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
    OodConfig,
    OodResponse,
    OodThreshold,
    OperatorQuery,
    calibrate_threshold,
    is_ood,
    relative_disagreement,
)
from tests.support.inspected import episodes
from tests.support.preset_agents import act, disagreeing

INTENDED, HOLD = np.array([0.8, -0.4]), np.array([0.0, 0.2])


def data(agent: Agent, validation: bool = True):
    """Returns training data of 15 recorded steps."""
    replays = [Replay(agent.transform.spec, rows, 0, ReplayConfig()) for rows in (100, 100)]
    for replay in replays[: 1 + validation]:
        for episode in episodes():
            replay.add(episode)
    return SimpleNamespace(replay=replays[0], validation=replays[1])


def calibrate(agent: Agent, **options) -> OodThreshold:
    quantile = options.pop("quantile", 0.5)
    return calibrate_threshold(agent, data(agent), quantile, **options)  # type: ignore[arg-type]


# ---- the threshold


@pytest.mark.parametrize("name", ["small", "fowm", "tdmpc2", "dreamerv3", "twm"])
def test_calibration_works_for_every_preset_and_leaves_the_agent_unchanged(name):
    agent = disagreeing(name)
    before = {key: value.clone() for key, value in agent.state()[0].items()}
    threshold = calibrate(agent)
    assert threshold.action > 0 and threshold.plan is not None and threshold.plan > 0
    assert threshold.num_states == 15 and threshold.validation
    assert all(torch.equal(value, before[key]) for key, value in agent.state()[0].items())
    agent.start(2, 0)
    for plan in (True, False):
        unit = act(agent, plan=plan)
        assert relative_disagreement(agent, threshold, unit).shape == (2,)
        assert (relative_disagreement(agent, threshold, unit) > 0).all()


def test_a_higher_quantile_gives_a_higher_threshold():
    agent = disagreeing("small")
    low, high = calibrate(agent, quantile=0.1), calibrate(agent, quantile=0.9)
    assert low.action < high.action and (low.plan or 0) < (high.plan or 0)


def test_half_of_the_recorded_states_exceed_the_median():
    agent = disagreeing("small")
    threshold = calibrate(agent)
    above = []
    for episode in episodes():
        agent.start(1, 0)
        for t in range(len(episode)):
            obs = {name: value[t][None] for name, value in episode.obs.items()}
            unit = agent.act(obs, np.zeros((1, 2)), np.zeros(1), np.array([t == 0]), plan=False)
            above.append(is_ood(relative_disagreement(agent, threshold, unit)[0]))
    assert sum(above) == 7  # of 15: the threshold is the one in the middle


def test_where_the_policy_acts_the_action_is_measured_and_not_a_plan():
    agent = disagreeing("small")
    threshold = calibrate(agent, plan=False)
    assert threshold.plan is None and threshold.action == calibrate(agent).action
    agent.start(2, 0)
    unit = act(agent, plan=False)
    disagreement = agent.critic.disagreement(agent.model.feature(agent.belief), torch.as_tensor(unit))
    np.testing.assert_allclose(
        relative_disagreement(agent, threshold, unit),
        disagreement.detach().numpy() / threshold.action,
        rtol=1e-5,
    )


@pytest.mark.parametrize("penalty_weight", [0.0, 3.0])
def test_a_plan_is_measured_by_its_disagreement_and_not_by_its_penalty(penalty_weight):
    agent = disagreeing("small")
    agent.set_penalty_weight(penalty_weight)
    threshold = calibrate(agent)
    agent.start(2, 0)
    unit = act(agent)
    plan = agent.last_plan
    assert plan is not None and threshold.plan
    want = plan.disagreement.numpy() / threshold.plan
    np.testing.assert_allclose(relative_disagreement(agent, threshold, unit), want, rtol=1e-5)
    at_action = relative_disagreement(agent, threshold, unit, planned=False)
    agent.last_plan = replace(plan, usable=torch.tensor([True, False]))  # there the policy acted
    mixed = relative_disagreement(agent, threshold, unit)
    np.testing.assert_allclose(mixed, [want[0], at_action[1]], rtol=1e-5)


def test_training_episodes_are_used_where_there_are_no_validation_episodes():
    agent = disagreeing("small")
    threshold = calibrate_threshold(agent, data(agent, validation=False), 0.99)  # type: ignore[arg-type]
    assert not threshold.validation and "of 15 recorded training states" in threshold.summary()


def test_any_disagreement_is_infinite_where_the_recordings_had_none():
    agent = disagreeing("small")
    agent.start(2, 0)
    unit = act(agent, plan=False)
    assert (relative_disagreement(agent, OodThreshold(0.0, None, 0.99, 15, True), unit) == np.inf).all()
    with torch.no_grad():
        for weight in agent.critic.q_heads.parameters():
            weight.zero_()
    assert (relative_disagreement(agent, OodThreshold(0.0, None, 0.99, 15, True), unit) == 0).all()


def test_a_threshold_survives_conversion_to_plain_data_and_is_logged():
    threshold = OodThreshold(0.021, 0.43, 0.99, 256, True)
    assert from_dict(OodThreshold, json.loads(json.dumps(to_dict(threshold)))) == threshold
    assert threshold.summary() == (
        "OOD threshold of the ensemble disagreement: 0.43 along a plan, 0.021 at an action; "
        "1 % of 256 recorded validation states exceed it"
    )


# ---- the response


def test_decisions_in_distribution_are_executed_unchanged():
    response = OodResponse("hold", OodConfig(), can_hold=True)
    assert response.respond(1.0, INTENDED, HOLD) is INTENDED
    assert response.metrics() == {"ood/fraction": 0, "ood/slow": 0, "ood/hold": 0, "ood/queries": 0,
                                 "ood/max": 1.0}  # fmt: skip


@pytest.mark.parametrize(
    ("ood_action", "want"), [("continue", INTENDED), ("slow", [0.2, 0.05]), ("hold", HOLD)]
)  # a quarter of the intended motion
def test_ood_decisions_continue_slow_down_or_hold(ood_action, want):
    response = OodResponse(ood_action, OodConfig(speed=0.25), can_hold=True)
    np.testing.assert_allclose(response.respond(1.5, INTENDED, HOLD), want)
    response.respond(0.5, INTENDED, HOLD)
    metrics = response.metrics()
    assert metrics["ood/fraction"] == 0.5 and metrics["ood/max"] == 1.5
    assert metrics.get(f"ood/{ood_action}", 0.5) == 0.5


def test_a_decision_at_its_threshold_is_not_above_it_however_it_was_rounded():
    response = OodResponse("hold", OodConfig(), can_hold=True)
    assert ROUNDING < 1e-5
    for ulps in (-8, 0, 8):
        assert response.respond(1 + ulps * 2.0**-23, INTENDED, HOLD) is INTENDED
    np.testing.assert_array_equal(response.respond(1.0001, INTENDED, HOLD), HOLD)


def test_nan_is_ood():
    np.testing.assert_array_equal(
        OodResponse("hold", OodConfig(), True).respond(np.nan, INTENDED, HOLD), HOLD
    )


def test_without_a_hold_action_the_intended_action_goes_to_the_guard():
    response = OodResponse("hold", OodConfig(), can_hold=True)
    assert response.respond(2.0, INTENDED, None) is INTENDED and response.num_held == 0


def test_the_operator_is_asked_until_there_is_an_answer_which_lasts_while_decisions_are_ood():
    queries, answers = [], [None, None, "slow"]

    def ask(query: OperatorQuery):
        queries.append((query.step, query.num_held))
        return answers.pop(0)

    response = OodResponse("ask", OodConfig(speed=0.25), can_hold=True, ask=ask)
    actions = [response.respond(3.0, INTENDED, HOLD).tolist() for _ in range(5)]
    assert actions == [HOLD.tolist()] * 2 + [pytest.approx([0.2, 0.05])] * 3
    assert queries == [(0, 0), (1, 1), (2, 2)]
    assert response.respond(0.5, INTENDED, HOLD) is INTENDED
    answers.append("continue")
    assert response.respond(3.0, INTENDED, HOLD) is INTENDED and queries[-1] == (6, 0)
    assert response.metrics()["ood/queries"] == 2 / 7
    want = "step 3: disagreement is 2.5 times the OOD threshold: continue, slow or hold?"
    assert str(OperatorQuery(3, 2.5, 0)) == want


def test_decisions_held_in_a_row_are_counted_until_the_next_episode():
    response = OodResponse("hold", OodConfig(), can_hold=True)
    for _ in range(3):
        response.respond(2.0, INTENDED, HOLD)
    assert response.num_held == 3
    response.start()
    assert response.num_held == 0 and response.metrics()["ood/fraction"] == 0


def test_a_response_that_is_impossible_is_refused():
    with pytest.raises(UsageError, match="--ood-action slow needs a robot that can hold still"):
        OodResponse("slow", OodConfig(), can_hold=False)
    with pytest.raises(UsageError, match="needs an operator"):
        OodResponse("ask", OodConfig(), can_hold=True)
    with pytest.raises(UsageError, match=r"quantile is 1\.5"):
        OodConfig(quantile=1.5)
    OodResponse("continue", OodConfig(), can_hold=False)
