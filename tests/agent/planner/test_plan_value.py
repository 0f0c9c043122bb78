"""Tests the values of plans against values by hand, and that pruning loses none of the best candidates."""

import pytest
import torch

from o2o.agent.planner.imagine import imagine, imagine_policy
from o2o.agent.planner.plan_value import PlanEvaluator
from tests.support.toy_nets import Nets


class Hand:
    """z counts the steps; reward 1, discount 0.5; spread 0.1, 0.2, and 0.4 where the plan ends."""

    def feature(self, state):
        return state["z"]

    def step(self, state, action):
        ones = torch.ones_like(action[:, 0])
        return {"z": state["z"] + 1}, ones, 0.5 * ones

    def act(self, feature, explore):
        return torch.zeros(*feature.shape[:-1], 1)

    def disagreement(self, feature, action):
        return torch.tensor([0.1, 0.2, 0.4])[feature[..., 0].long()]

    def pessimistic(self, feature, action):
        return torch.full_like(feature[..., 0], 4.0)

    def pessimistic_and_disagreement(self, feature, action):
        return self.pessimistic(feature, action), self.disagreement(feature, action)


@pytest.mark.parametrize("method", ["all", "best"])
@pytest.mark.parametrize(("penalty_weight", "value", "penalty"), [(1.0, 2.2, 0.3), (0.0, 2.5, 0.0)])
def test_penalized_return_by_hand(method, penalty_weight, value, penalty):
    hand, state = Hand(), {"z": torch.zeros(1, 1)}
    fresh = imagine(hand, state, torch.zeros(2, 1, 1, 1))
    kept = imagine_policy(hand, state, hand, steps=2, size=0)
    evaluator = PlanEvaluator(penalty_weight)
    result = evaluator.evaluate_all(fresh, kept, hand, hand) if method == "all" else (
        evaluator.evaluate_best(fresh, kept, hand, hand, num=1)
    )  # fmt: skip
    assert result.value.item() == pytest.approx(value)
    assert result.penalty.item() == pytest.approx(penalty)
    assert result.disagreement.item() == pytest.approx(0.3)  # 0.1 + 0.2 / 2 + 0.4 / 4, at any weight
    assert result.plans.discount[:, 0, 0].tolist() == [1.0, 0.5, 0.25]


@torch.no_grad()
@pytest.mark.parametrize("penalty_weight", [0.0, 0.3, 1.0, 5.0, 50.0])
@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("num_q", [1, 5])
def test_the_best_of_a_pruned_search_are_the_best_of_all(penalty_weight, broken, num_q):
    nets = Nets(num_q, broken)
    state = {"z": torch.randn(3, 6)}
    fresh = imagine(nets, state, torch.rand(4, 3, 60, 2) * 2 - 1)
    prior = imagine_policy(nets, state, nets, steps=4, size=9)
    evaluator = PlanEvaluator(penalty_weight)
    kept = evaluator.add_penalty(prior, nets.critic)
    torch.manual_seed(1)
    full = evaluator.evaluate_all(fresh, kept, nets.critic, nets)
    torch.manual_seed(1)
    few = evaluator.evaluate_best(fresh, kept, nets.critic, nets, num=8)
    want = torch.where(full.value.isfinite(), full.value, -torch.inf).topk(8)
    have = few.value.topk(8)
    assert torch.equal(want.indices, have.indices)
    torch.testing.assert_close(want.values, have.values, rtol=0, atol=2e-6 * max(penalty_weight, 1))
    elites = [valued.plans.select(want.indices) for valued in (full, few)]
    torch.testing.assert_close(
        elites[0].penalty, elites[1].penalty, rtol=0, atol=2e-6 * max(penalty_weight, 1)
    )
    assert torch.equal(elites[0].action, elites[1].action)
    disagreement = [valued.disagreement.gather(1, want.indices) for valued in (full, few)]
    torch.testing.assert_close(*disagreement, rtol=0, atol=2e-6)
    penalty = [valued.penalty.gather(1, want.indices) for valued in (full, few)]
    torch.testing.assert_close(penalty[0], penalty[1], rtol=0, atol=2e-6 * max(penalty_weight, 1))


@torch.no_grad()
def test_a_low_penalty_weight_avoids_most_evaluations():
    nets, state = Nets(), {"z": torch.randn(1, 6)}
    fresh = imagine(nets, state, torch.rand(4, 1, 200, 2) * 2 - 1)
    kept = imagine_policy(nets, state, nets, steps=4, size=0)
    shares = [
        PlanEvaluator(p).evaluate_best(fresh, kept, nets.critic, nets, num=10).evaluated_fraction
        for p in (0.01, 0.3, 50.0)
    ]
    assert shares[0] < 0.2 and shares[0] < shares[1] < shares[2] <= 1


@torch.no_grad()
def test_candidates_join_and_are_picked_robot_by_robot():
    nets, state = Nets(), {"z": torch.randn(2, 6)}
    plans = imagine(nets, state, torch.rand(4, 2, 5, 2))
    alone = imagine(nets, {"z": state["z"][1:]}, plans.action[:, 1:])
    torch.testing.assert_close(plans.discounted_reward[1:], alone.discounted_reward)
    torch.testing.assert_close(plans.feature[:, 1:], alone.feature)
    picked = plans.select(torch.tensor([[4, 0], [2, 2]]))
    assert torch.equal(
        picked.discounted_reward,
        torch.stack([plans.discounted_reward[0, [4, 0]], plans.discounted_reward[1, [2, 2]]]),
    )
    assert torch.equal(picked.action[:, 1, 0], plans.action[:, 1, 2])
