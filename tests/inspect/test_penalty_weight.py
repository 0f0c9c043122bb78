"""Tests the penalty weight from recordings: the rule by hand, on closed-form models, and in whole runs."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import o2o
from o2o import cli, inspect
from o2o.agent.agent import Agent
from o2o.agent.planner.mppi import PlannerConfig
from o2o.core import checkpoint
from o2o.core.errors import UsageError
from o2o.core.seeding import RandomStream
from o2o.inspect.beliefs import beliefs
from o2o.inspect.estimate import Estimate
from o2o.inspect.penalty_weight import (
    PenaltyWeight,
    estimate_penalty_weight,
    lowest_sufficient_weight,
    penalty_weight,
)
from tests.support.inspected import episodes
from tests.support.preset_agents import disagreeing, make, tiny, windows
from tests.support.tiny_runs import TINY, finetune_config, pretrain_config, same
from tests.support.toy_nets import Toy

GRID = np.array([1e-9, 1.0, 10.0, 100.0])


class OverestimatingModel(Toy):
    """Predicts `gain` reward and `disagreement` per unit of action; the policy stays at zero."""

    def __init__(self, gain: float, disagreement: float):
        super().__init__(disagreement=lambda action: disagreement * action[..., 0].abs())
        self.gain = gain

    def step(self, state, action):
        reward = self.gain * action[:, 0].abs()
        return state, reward, torch.full_like(reward, self.discount)


def estimated(gain: float, disagreement: float, **config) -> PenaltyWeight:
    """Returns the penalty weight of a one-step planner, from four states of two episodes."""
    toy, config = (
        OverestimatingModel(gain, disagreement),
        PlannerConfig(horizon=1, num_elites=4, num_samples=64, iterations=3, **config),
    )
    agent = SimpleNamespace(
        model=toy, critic=toy, policy=toy, planner=SimpleNamespace(action_dim=1),
        penalty_weight=config.penalty_weight, config=SimpleNamespace(planner=config),
        device=torch.device("cpu"), precision=nullcontext,
    )  # fmt: skip
    steps = SimpleNamespace(
        starts=np.arange(4), state={"z": torch.zeros(4, 1)}, episode=np.array([0, 0, 1, 1])
    )
    return estimate_penalty_weight(agent, steps)  # type: ignore[arg-type]


def auto(config):
    return replace(config, planner=replace(config.planner, uncertainty="auto"))


# ---- the rule


def test_the_weight_is_where_a_twentieth_of_the_excess_is_left():
    excess = np.array([1.0, 0.9, 0.1, -0.1])  # 0.05 lies a quarter of the way from 10 to 100, in decades
    assert lowest_sufficient_weight(GRID, excess) == pytest.approx(10**1.25)


def test_no_weight_is_sufficient_if_the_excess_remains():
    excess = np.array([1.0, 0.8, 0.6, 0.5])  # half a unit remains; 0.55 is the tolerance above it
    assert lowest_sufficient_weight(GRID, excess) == pytest.approx(10**1.5)
    result = PenaltyWeight(
        GRID, excess[:, None], np.ones((4, 1)), np.ones(1), Estimate(31.6, 20, 40, 1), 2.0, 1
    )
    assert not result.sufficient and "--no-plan" in result.text()[0]


def test_plans_that_predict_no_more_than_the_policy_need_the_lowest_weight():
    assert lowest_sufficient_weight(GRID, np.array([-0.1, -0.2, -0.3, -0.4])) == 1.0


@pytest.mark.parametrize(("gain", "disagreement"), [(0.3, 0.1), (3.0, 0.1), (1.0, 0.005)])
def test_the_weight_is_where_the_penalty_exceeds_the_predicted_gain(gain, disagreement):
    result = estimated(gain, disagreement)  # |a| = 1 is best below gain / disagreement
    assert (
        result.sufficient and 1 / 3.2 < result.suggested.value / (gain / disagreement) < 3.2
    )  # neighbours on the grid
    assert result.excess[0] == pytest.approx(gain, rel=0.05)
    assert result.disagreement[0] == pytest.approx(disagreement, rel=0.05)
    assert not result.policy_disagreement.any()
    assert result.num_episodes == 2


def test_the_weight_scales_with_gain_over_disagreement():
    """Three times the reward, or a third of the disagreement, gives three times the weight."""
    base, *others = (estimated(*case).suggested.value for case in [(1, 0.2), (3.1623, 0.2), (1, 0.063246)])
    assert others == pytest.approx([3.1623 * base] * 2, rel=0.05)


def test_gain_without_disagreement_has_no_sufficient_weight():
    result = estimated(1.0, 0.0)
    assert not result.sufficient and "--no-plan" in result.summary
    assert "disagreement along plans" not in str(result)


@pytest.mark.parametrize(
    "config", [{"method": "icem"}, {"num_policy": 0}, {"prune": True}, {"budget_ms": 50}]
)
def test_the_weight_is_the_same_for_every_search_method(config):
    if "num_policy" not in config:
        config |= {"num_policy": 16}
    assert estimated(1.0, 0.1, **config).suggested == estimated(1.0, 0.1, num_policy=16).suggested


@pytest.mark.parametrize(
    ("current", "verdict"),
    [(0.0, "too low"), (1.0, "too low"), (13.0, "in the suggested range"), (500.0, "too high")],
)
def test_the_agents_current_weight_is_compared(current, verdict):
    excess = np.array([1.0, 0.9, 0.1, -0.1])[:, None]
    result = PenaltyWeight(GRID, excess, np.ones((4, 1)), np.ones(1), Estimate(17.8, 10, 30, 9), current, 9)
    assert verdict in result.text()[-1] and result.metrics()["penalty_weight"] == 17.8
    assert all(np.isfinite(number) for number in result.metrics().values())


def test_excess_and_disagreement_are_plotted_over_the_weight():
    result = estimated(1.0, 0.1)
    assert [chart.title for chart in result.charts()] == [
        "Excess predicted return of plans",
        "Disagreement along plans",
    ]
    assert len(result.plot().axes) == 2


# ---- on agents


@pytest.mark.parametrize("name", ["small", "tdmpc2", "dreamerv2", "twm"])
def test_every_world_model_is_estimated_and_left_unchanged(name):
    agent = disagreeing(name)
    before, stream = torch.get_rng_state(), agent.acting_stream.state()
    steps = beliefs(agent, episodes())
    one, two = estimate_penalty_weight(agent, steps), estimate_penalty_weight(agent, steps)
    assert one.suggested == two.suggested and one.suggested.value > 0 and np.isfinite(one.excess).all()
    assert agent.penalty_weight == agent.config.planner.uncertainty and agent.memory is None
    assert all(torch.equal(value, stream[key]) for key, value in agent.acting_stream.state().items())
    assert torch.get_rng_state().equal(before)


def test_the_weight_is_one_until_it_is_estimated():
    agent = Agent(make("dreamerv2").transform, auto(tiny("dreamerv2")))
    assert agent.penalty_weight == 1 and not agent.penalty_weight_known
    assert "penalty_weight" not in agent.state()[1]
    assert agent.imagination is not None and agent.imagination.penalty_weight == 1


def test_an_estimated_weight_is_saved_and_a_given_one_takes_precedence():
    agent = Agent(make("small").transform, auto(tiny("small")))
    agent.set_penalty_weight(7.5)
    tensors, meta = agent.state()
    again = Agent.from_state(tensors, meta)
    assert again.penalty_weight == 7.5 and again.penalty_weight_known
    assert Agent.from_state(tensors, meta, config=tiny("small")).penalty_weight == 2
    given = Agent.from_state(tensors, meta, config=tiny("small"))
    assert "penalty_weight" not in given.state()[1]
    later = Agent.from_state(*given.state(), config=agent.config)
    assert not later.penalty_weight_known and later.penalty_weight == 1


def test_learning_in_imagination_uses_the_weight_only_if_told_to():
    def actor_loss(price: float, learning: bool) -> torch.Tensor:
        agent = disagreeing("dreamerv2")
        agent.set_penalty_weight(price, learning)
        with RandomStream(0, agent.device).use():
            return agent.validate(windows(agent, 0))["loss/actor"]

    assert actor_loss(2.0, True) == actor_loss(50.0, False) != actor_loss(50.0, True)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf"), "often"])
def test_a_weight_is_a_nonnegative_number_or_auto(wrong):
    with pytest.raises(UsageError, match="wanted a number from 0 up, or auto"):
        PlannerConfig(uncertainty=wrong)


@pytest.mark.parametrize(
    ("value", "message"), [("auto", "no dataset"), ("3.5", "no dataset"), ("often", "auto")]
)
def test_the_command_line_takes_a_number_or_auto(value, message, capsys):
    assert cli.main(["pretrain", "--planner.uncertainty", value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


# ---- in runs


@pytest.fixture(scope="module")
def automatic(dataset, tmp_path_factory):
    """Returns a run that estimates its penalty weight itself."""
    return o2o.pretrain(pretrain_config(dataset, tmp_path_factory.mktemp("run") / "auto", agent=auto(TINY)))


def stored(run) -> float:
    return checkpoint.load(run / "checkpoint")[1]["penalty_weight"]


def test_pretraining_ends_with_the_weight_that_inspection_estimates(automatic, pretrained):
    assert stored(automatic) == penalty_weight(inspect.open(automatic)).suggested.value
    (weights, _), (others, meta) = (checkpoint.load(run / "checkpoint") for run in (automatic, pretrained))
    assert all(torch.equal(weights[name], others[name]) for name in others)  # and changes nothing else
    assert "penalty_weight" not in meta


def test_a_run_in_parts_ends_as_one_run(dataset, automatic, tmp_path):
    out = tmp_path / "parts"
    o2o.pretrain(pretrain_config(dataset, out, agent=auto(TINY), updates=7))
    o2o.pretrain(pretrain_config(dataset, out, agent=auto(TINY), resume=True))
    same(out, automatic)


def test_imagination_in_parts_ends_as_one_run(dataset, tmp_path):
    """Pretraining does not use the weight that was estimated at the end of its first part."""
    runs = [tmp_path / "one", tmp_path / "parts"]
    config = pretrain_config(dataset, runs[0], agent=auto(tiny("dreamerv2")), updates=6)
    o2o.pretrain(config)
    o2o.pretrain(replace(config, out=runs[1], updates=3))
    o2o.pretrain(replace(config, out=runs[1], resume=True))
    same(*runs)


def test_fine_tuning_continues_at_the_weight_of_pretraining(automatic, tmp_path):
    out = tmp_path / "online"
    o2o.finetune(finetune_config(automatic, out, agent=auto(TINY), episodes=1))
    assert stored(out) == stored(automatic)


def test_a_run_without_a_weight_gets_one_on_request(automatic, pretrained, tmp_path, capsys):
    o2o.evaluate(o2o.EvaluateConfig(checkpoint=pretrained, agent=auto(TINY), episodes=1))
    assert "penalty weight" in capsys.readouterr().out
    out = tmp_path / "online"
    o2o.finetune(finetune_config(pretrained, out, agent=auto(TINY), episodes=1))
    assert stored(out) == stored(automatic)
    log = capsys.readouterr().out
    o2o.finetune(finetune_config(pretrained, out, agent=auto(TINY), episodes=2, resume=True))
    assert "penalty weight" in log and "penalty weight" not in capsys.readouterr().out  # estimated once


def test_a_number_by_flag_overrides_the_estimate(automatic, capsys):
    o2o.evaluate(o2o.EvaluateConfig(checkpoint=automatic, agent=TINY, episodes=1))
    o2o.evaluate(o2o.EvaluateConfig(checkpoint=automatic, episodes=1))
    assert "penalty weight" not in capsys.readouterr().out
