"""Tests plan records: candidates, storage in a file, and reranking at another penalty weight."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from o2o.agent.plan_record import MAX_CANDIDATES, _recorded, pack, plan_writer, record_plan, unpack
from o2o.data.plan_store import PlanStore
from o2o.training import rollout
from tests.support.preset_agents import act, disagreeing, make, two_plans


def test_value_is_return_less_penalty():
    record = two_plans()
    assert record.return_.tolist() == [1, 2] and record.penalty().tolist() == [0, 2]
    assert record.value().tolist() == [1, 0] and record.value(penalty_weight=1.0).tolist() == [1, 1.5]


def test_the_penaltys_share_is_of_all_that_counted():
    record = two_plans()
    assert record.discounted_disagreement.tolist() == [0, 0.5]
    assert record.penalty_fraction().tolist() == [0, 0.5] and record.penalty_fraction(
        penalty_weight=12.0
    ).tolist() == [0, 0.75]
    assert two_plans(reward=np.zeros((1, 2)), terminal_value=np.zeros(2)).penalty_fraction().tolist() == [
        0,
        1,
    ]


def test_a_lower_penalty_weight_chooses_the_plan_with_the_higher_return():
    assert two_plans().rerank(4.0, temperature=0.5)[1] == 0
    weight, best = two_plans().rerank(1.0, temperature=0.5)
    assert best == 1 and weight.tolist() == [0, 1]
    weight, _ = two_plans(elite=np.array([True, True])).rerank(4.0, temperature=0.5)
    assert weight.tolist() == pytest.approx([1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(0.5))])


def test_of_many_candidates_elites_and_the_chosen_one_are_kept_and_others_from_everywhere():
    elites = torch.tensor([[5, 6, 7], [900, 901, 902]])
    kept = _recorded(1000, elites, chosen=torch.tensor([7, 3]))
    assert kept.shape == (2, MAX_CANDIDATES) and (kept.diff() > 0).all()
    assert {5, 6, 7} <= set(kept[0].tolist()) and {3, 900, 901, 902} <= set(kept[1].tolist())
    assert torch.histc(kept[0].float(), 10, 0, 1000).min() >= 10
    assert _recorded(5, elites[:, :2], torch.tensor([0, 0])).tolist() == [[0, 1, 2, 3, 4]] * 2


def test_records_of_searches_of_different_lengths_are_read_back_from_a_file(tmp_path):
    longer = two_plans(iterations=np.int32(2), mean=np.ones((2, 1, 1)), std=np.ones((2, 1, 1)), t=np.int32(1))
    plans = PlanStore(tmp_path)
    plans.add(0, pack([two_plans(), longer]), {})
    first, second = unpack(plans.read(0)[0])
    assert first.mean.shape == (1, 1, 1) and second.mean.shape == (2, 1, 1) and second.t == 1
    for name, value in vars(two_plans()).items():
        assert np.array_equal(getattr(first, name), value)


def test_records_with_fewer_candidates_are_read_back_unchanged():
    agent = disagreeing("small")
    config = replace(agent.planner.config, method="icem", num_samples=40, num_elites=4)
    records = []
    for iterations in (3, 1):
        agent.planner.config = replace(config, iterations=iterations)
        agent.start(1, seed=0)
        action = act(agent, 1, trace=True)
        plan = agent.last_plan
        assert plan is not None and plan.trace is not None
        records += record_plan(agent, plan.trace, torch.as_tensor(action))
    late, early = (len(record.terminal_value) for record in records)
    assert late < early
    for one, back in zip(records, unpack(pack(records)), strict=True):
        for name, value in vars(one).items():
            np.testing.assert_array_equal(
                getattr(back, name), value, strict=isinstance(value, np.ndarray) and value.ndim > 0
            )


def test_examining_keeps_what_a_wide_search_found():
    agent = disagreeing("small")
    agent.planner.config = replace(agent.planner.config, num_samples=300, num_elites=20)
    agent.start(2, seed=0)
    action = act(agent, trace=True)
    plan = agent.last_plan
    assert plan is not None and plan.trace is not None
    for one, asked in zip(record_plan(agent, plan.trace, plan.action), action, strict=True):
        assert one.action.shape == (3, MAX_CANDIDATES, 2) and one.elite.sum() == 20
        assert one.action[0, one.chosen].tolist() == pytest.approx(asked.tolist())
        assert np.isnan(one.took_ms)


class Robot:
    """Three steps, or a failure at the third."""

    simulated, control_hz, num_clipped, action_repeat = True, None, 0, 1
    metadata: dict = {}  # noqa: RUF012
    interventions: Counter = Counter()  # noqa: RUF012
    low, high = np.full(2, -1.0), np.ones(2)

    def __init__(self, fails=False):
        from gymnasium.spaces import Box, Dict

        self.fails = fails
        self.observation_space = Dict({k: Box(-1, 1, (n,)) for k, n in (("state", 5), ("goal", 2))})

    def reset(self, seed):
        self.count = 0
        return {"state": np.zeros(5, np.float32), "goal": np.zeros(2, np.float32)}, {}

    def end_episode(self):
        pass

    def step(self, action):
        self.count += 1
        if self.fails and self.count == 3:
            raise ZeroDivisionError
        info = {"executed_action": action, "success": False}
        return self.reset_obs(), 0.0, False, self.count == 3, info

    def reset_obs(self):
        return {"state": np.full(5, 0.1 * self.count, np.float32), "goal": np.zeros(2, np.float32)}


def test_playing_passes_on_the_records_of_each_episode_in_order(tmp_path):
    agent, plans = disagreeing("small"), PlanStore(tmp_path)
    agent.num_updates = 7
    rollout.play(agent, [Robot(), Robot()], [11, 12, 13], 0, record=plan_writer(plans, agent, [11, 12, 13]))  # type: ignore
    assert plans.numbers() == [0, 1, 2]
    for number in range(3):
        arrays, facts = plans.read(number)
        assert facts == {"seed": 11 + number, "updates": 7}
        records = unpack(arrays)
        assert [int(record.t) for record in records] == [0, 1, 2]
        assert all(record.took_ms > 0 for record in records)


def test_records_before_a_failure_are_stored(tmp_path):
    agent, plans = disagreeing("small"), PlanStore(tmp_path)
    with pytest.raises(ZeroDivisionError):
        rollout.play(agent, [Robot(fails=True)], [5], 0, record=plan_writer(plans, agent, [5], first=8))  # type: ignore
    assert plans.numbers() == [8] and len(unpack(plans.read(8)[0])) == 3


def test_a_policy_leaves_no_plans(tmp_path):
    agent, plans = make("small"), PlanStore(tmp_path)
    rollout.play(agent, [Robot()], [5], 0, plan=False, record=plan_writer(plans, agent, [5]))  # type: ignore[arg-type]
    assert plans.numbers() == []
