"""Tests the planner against values calculated by hand (G25 to G30)."""

import sys
from itertools import count
from types import SimpleNamespace

import pytest
import torch

from o2o.agent.planner.mppi import MPPI, PlannerConfig, draw, elite_weights, rank
from tests.support.toy_nets import Toy


def plan(toy, config, n=1, memory=None, first=None, explore=False, z=None):
    state = {"z": torch.zeros(n, 1) if z is None else z}
    first = torch.ones(n, dtype=torch.bool) if first is None else first
    return MPPI(1, config).plan(state, toy, toy, toy, memory, first, explore)


def test_elite_weights_are_a_softmax_of_half_the_value():
    weight = elite_weights(torch.tensor([[0.0, -2.0]]), 0.5)
    assert torch.allclose(weight, torch.tensor([[0.7310586, 0.2689414]]))


def test_refit_weights_mean_std_and_momentum():
    planner = MPPI(1, PlannerConfig(horizon=1))
    elite = torch.tensor([1.0, 0.0]).view(1, 1, 2, 1)
    weight = torch.tensor([[0.7310586, 0.2689414]])
    mean, std = planner._refit(torch.zeros(1, 1, 1), elite, weight)
    assert mean.item() == pytest.approx(0.6579527, abs=1e-6)
    assert std.item() == pytest.approx(0.4434094, abs=1e-6)


def test_nan_candidate_is_never_an_elite_among_negative_values():
    value, place = rank(torch.tensor([[-3.0, float("nan"), -1.0, float("inf")]]), 2)
    assert place.tolist() == [[2, 0]] and value.tolist() == [[-1.0, -3.0]]


def test_all_nan_falls_back_to_the_policy():
    toy = Toy(target=float("nan"))
    result = plan(toy, PlannerConfig(num_samples=8, num_policy=2, num_elites=4))
    assert not result.usable.any() and result.action.item() == 0
    assert torch.isfinite(result.memory).all()


@pytest.mark.parametrize("seed", range(5))
def test_six_iterations_find_the_best_action(seed):
    torch.manual_seed(seed)
    result = plan(Toy(), PlannerConfig(num_policy=0))
    assert abs(result.memory[0].item() - 0.3) < 0.02


def test_a_high_penalty_weight_keeps_the_plan_where_disagreement_is_low():
    toy = Toy(disagreement=lambda action: action[..., 0].abs())
    result = plan(toy, PlannerConfig(num_policy=0, uncertainty=5.0))
    assert abs(result.memory[0].item()) < 0.02


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("penalty_weight", [0.0, 0.5, 3.0])
def test_a_plan_states_its_disagreement_at_every_penalty_weight(penalty_weight, prune):
    toy = Toy(discount=0.5, disagreement=lambda action: torch.full_like(action[..., 0], 0.2))
    config = PlannerConfig(horizon=2, num_policy=3, uncertainty=penalty_weight, prune=prune)
    result = plan(toy, config, n=2)
    assert result.disagreement.tolist() == pytest.approx([0.2 * (1 + 0.5 + 0.25)] * 2)
    assert result.penalty.tolist() == pytest.approx([penalty_weight * 0.35] * 2)


def test_warm_start_shifts_and_only_first_forgets():
    planner = MPPI(1, PlannerConfig(horizon=3))
    memory = torch.arange(6.0).view(3, 2, 1)
    mean = planner._warm_start(memory, torch.tensor([False, True]))
    assert mean[:, 0, 0].tolist() == [2.0, 4.0, 0.0] and mean[:, 1].eq(0).all()


def test_the_search_can_begin_at_the_policy():
    """With no room to search, the plan is the policy's, wherever the last plan was."""
    toy = Toy()
    toy.act = lambda feature, explore=False: torch.full((*feature.shape[:-1], 1), -0.6)
    config = PlannerConfig(num_policy=0, center="policy", max_std=0.0, min_std=0.0)
    result = plan(toy, config, memory=torch.full((5, 1, 1), 0.9), first=torch.tensor([False]))
    assert torch.allclose(result.action, torch.tensor([[-0.6]]))


@pytest.mark.parametrize("seed", range(3))
def test_the_best_elite_can_be_chosen_instead_of_drawn(seed):
    torch.manual_seed(seed)
    config = PlannerConfig(num_policy=0, selection="best", iterations=1)
    toy, state, first = Toy(), {"z": torch.zeros(2, 1)}, torch.ones(2, dtype=torch.bool)
    result = MPPI(1, config).plan(state, toy, toy, toy, None, first, False, trace=True)
    assert result.trace.chosen.tolist() == result.trace.candidates.value.argmax(1).tolist()
    rows = torch.arange(2), result.trace.chosen
    assert torch.equal(result.action, result.trace.candidates.plans.action[0][rows])


def test_batched_robots_do_not_talk_to_each_other():
    z = torch.tensor([[0.0], [0.4], [-0.5]])
    result = plan(Toy(), PlannerConfig(num_policy=0), n=3, z=z)
    assert torch.allclose(result.memory[0, :, 0], 0.3 + z[:, 0], atol=0.02)
    order = torch.tensor([2, 0, 1])
    permuted = plan(Toy(), PlannerConfig(num_policy=0), n=3, z=z[order])
    assert torch.allclose(permuted.memory[0, :, 0], 0.3 + z[order, 0], atol=0.02)


def test_exploring_adds_noise_and_stays_in_bounds():
    torch.manual_seed(1)
    config = PlannerConfig(num_policy=0, iterations=1)
    actions = torch.stack([plan(Toy(), config, explore=True).action for _ in range(20)])
    assert actions.abs().max() <= 1 and actions.std() > 0.1


def test_pruning_changes_no_plan():
    toy = Toy(disagreement=lambda action: action[..., 0].abs())
    for uncertainty in (0.0, 0.5, 5.0):
        plans = []
        for prune in (True, False):
            torch.manual_seed(0)
            config = PlannerConfig(num_policy=3, uncertainty=uncertainty, prune=prune)
            plans.append(plan(toy, config, n=2, explore=True))
        assert torch.equal(plans[0].action, plans[1].action)
        assert torch.equal(plans[0].memory, plans[1].memory)
        assert torch.allclose(plans[0].value, plans[1].value, atol=1e-6)
        assert torch.allclose(plans[0].penalty, plans[1].penalty, atol=1e-6)
        assert torch.allclose(plans[0].disagreement, plans[1].disagreement, atol=1e-6)


def test_icem_draws_fewer_each_time_and_keeps_its_elites():
    toy, seen = Toy(), []
    config = PlannerConfig(method="icem", num_samples=100, num_policy=7, num_elites=20, iterations=4)
    planner = MPPI(1, config)
    roll = planner.imagine

    def spy(model, state, action):
        seen.append(action.shape[2])
        return roll(model, state, action)

    planner.imagine = spy
    torch.manual_seed(0)
    result = planner.plan({"z": torch.zeros(1, 1)}, toy, toy, toy, None, torch.tensor([True]), False)
    assert seen == [100, 50, 25, 20]
    assert abs(result.memory[0].item() - 0.3) < 0.05


def test_the_best_elite_of_icem_never_gets_worse():
    toy = Toy()
    planner = MPPI(1, PlannerConfig(method="icem", num_samples=40, num_policy=5, num_elites=10))
    state, mean = {"z": torch.zeros(1, 1)}, torch.zeros(5, 1, 1)
    torch.manual_seed(0)
    search, best = planner.begin(state, mean, toy, toy, toy), -torch.inf
    for number in range(6):
        search = planner.iterate(search, number, state, toy, toy, toy)
        assert search.latest is not None and search.latest.value.max() >= best
        best = search.latest.value.max()


def test_the_policy_acts_where_there_is_no_time():
    planner = MPPI(1, PlannerConfig(budget_ms=1e-6))
    planner.time_budget._durations_s[0].append(1.0)
    memory = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]).view(5, 1, 1)
    toy, state = Toy(), {"z": torch.zeros(1, 1)}
    result = planner.plan(state, toy, toy, toy, memory, torch.tensor([False]), False)
    assert result.iterations == 0 and not result.usable.any() and result.action.item() == 0
    assert result.memory[:, 0, 0].tolist() == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.0])  # still warm
    assert result.value.isnan().all()


def test_a_budget_is_filled_with_iterations(monkeypatch):
    """Each look at the clock finds it 10 ms later: one sets the deadline, one begins, five are in time."""
    toy, state, ticks = Toy(), {"z": torch.zeros(1, 1)}, count(step=0.01)
    planner = MPPI(1, PlannerConfig(budget_ms=65.0, iterations=1))
    for kind in (MPPI, type(planner.time_budget)):
        clock = SimpleNamespace(perf_counter=lambda: next(ticks))
        monkeypatch.setattr(sys.modules[kind.__module__], "time", clock)
    counts = [
        planner.plan(state, toy, toy, toy, None, torch.tensor([True]), False).iterations for _ in range(3)
    ]
    assert counts == [5, 5, 5]


def test_indices_are_drawn_by_weight():
    torch.manual_seed(0)
    weight = torch.tensor([0.7, 0.3, 0.0]).expand(20_000, 3)
    share = torch.bincount(draw(weight), minlength=3) / 20_000
    assert share.tolist() == pytest.approx([0.7, 0.3, 0.0], abs=0.015)
