"""Lambda from recordings: the rule by hand, on a world that can be worked out, and through whole runs."""

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
from o2o.core.seeding import Stream
from o2o.inspect.beliefs import beliefs
from o2o.inspect.estimate import Estimate
from o2o.inspect.penalty_weight import (
    PenaltyWeight,
    estimate_penalty_weight,
    lowest_sufficient_weight,
    penalty_weight,
)
from tests.support.inspected import episodes
from tests.support.preset_agents import doubtful, make, tiny, windows
from tests.support.tiny_runs import TINY, finetune_config, pretrain_config, same
from tests.support.toy_nets import Toy

GRID = np.array([1e-9, 1.0, 10.0, 100.0])


class Tempting(Toy):
    """Every unit of action promises `hope` of reward and has `doubt` of spread; the policy stays at zero."""

    def __init__(self, hope: float, doubt: float):
        super().__init__(doubt=lambda action: doubt * action[..., 0].abs())
        self.hope = hope

    def step(self, state, action):
        reward = self.hope * action[:, 0].abs()
        return state, reward, torch.full_like(reward, self.discount)


def tempted(hope: float, doubt: float, **config) -> PenaltyWeight:
    """The price of a planner for one step, from four states of two episodes."""
    toy, config = (
        Tempting(hope, doubt),
        PlannerConfig(horizon=1, num_elites=4, num_samples=64, iterations=3, **config),
    )
    agent = SimpleNamespace(
        model=toy, critic=toy, policy=toy, planner=SimpleNamespace(action_dim=1), price=config.price,
        config=SimpleNamespace(planner=config), device=torch.device("cpu"), precision=nullcontext,
    )  # fmt: skip
    steps = SimpleNamespace(
        starts=np.arange(4), state={"z": torch.zeros(4, 1)}, episode=np.array([0, 0, 1, 1])
    )
    return estimate_penalty_weight(agent, steps)  # type: ignore[arg-type]


def auto(config):
    return replace(config, planner=replace(config.planner, uncertainty="auto"))


# ---- the rule


def test_the_price_is_where_a_twentieth_of_the_excess_is_left():
    excess = np.array([1.0, 0.9, 0.1, -0.1])  # 0.05 lies a quarter of the way from 10 to 100, in decades
    assert lowest_sufficient_weight(GRID, excess) == pytest.approx(10**1.25)


def test_no_price_is_enough_where_the_excess_stays():
    excess = np.array([1.0, 0.8, 0.6, 0.5])  # half a unit stays; 0.55 is as good as it gets
    assert lowest_sufficient_weight(GRID, excess) == pytest.approx(10**1.5)
    answer = PenaltyWeight(
        GRID, excess[:, None], np.ones((4, 1)), np.ones(1), Estimate(31.6, 20, 40, 1), 2.0, 1
    )
    assert not answer.enough and "--no-plan" in answer.text()[0]


def test_plans_that_promise_no_more_than_the_policy_need_the_least_price():
    assert lowest_sufficient_weight(GRID, np.array([-0.1, -0.2, -0.3, -0.4])) == 1.0


@pytest.mark.parametrize(("hope", "doubt"), [(0.3, 0.1), (3.0, 0.1), (1.0, 0.005)])
def test_it_is_found_where_doubt_begins_to_cost_more_than_hope_brings(hope, doubt):
    answer = tempted(hope, doubt)  # (hope - price * doubt) |a| is best at |a| = 1 below hope / doubt
    assert answer.enough and 1 / 3.2 < answer.price.value / (hope / doubt) < 3.2  # neighbours on the grid
    assert answer.excess[0] == pytest.approx(hope, rel=0.05)
    assert answer.doubt[0] == pytest.approx(doubt, rel=0.05) and not answer.tried.any()
    assert answer.num_episodes == 2


def test_its_scale_is_that_of_hope_and_doubt():
    """Three times the reward, or a third of the spread, and lambda is three times as high."""
    base, *others = (tempted(*world).price.value for world in [(1, 0.2), (3.1623, 0.2), (1, 0.063246)])
    assert others == pytest.approx([3.1623 * base] * 2, rel=0.05)


def test_hope_without_doubt_has_no_price():
    answer = tempted(1.0, 0.0)
    assert not answer.enough and "--no-plan" in answer.line
    assert "disagree" not in str(answer)


@pytest.mark.parametrize(
    "config", [{"method": "icem"}, {"num_policy": 0}, {"prune": True}, {"budget_ms": 50}]
)
def test_it_is_the_same_for_every_kind_of_search(config):
    if "num_policy" not in config:
        config |= {"num_policy": 16}
    assert tempted(1.0, 0.1, **config).price == tempted(1.0, 0.1, num_policy=16).price


@pytest.mark.parametrize(
    ("own", "judged"), [(0.0, "too low"), (1.0, "too low"), (13.0, "fits"), (500.0, "too high")]
)
def test_it_says_whether_the_agents_own_fits(own, judged):
    excess = np.array([1.0, 0.9, 0.1, -0.1])[:, None]
    answer = PenaltyWeight(GRID, excess, np.ones((4, 1)), np.ones(1), Estimate(17.8, 10, 30, 9), own, 9)
    assert judged in answer.text()[-1] and answer.metrics()["lambda"] == 17.8
    assert all(np.isfinite(number) for number in answer.metrics().values())


def test_it_draws_excess_and_doubt_over_the_price():
    answer = tempted(1.0, 0.1)
    assert [chart.title for chart in answer.charts()] == [
        "What plans promise too much",
        "How unsure plans are",
    ]
    assert len(answer.plot().axes) == 2


# ---- on agents


@pytest.mark.parametrize("name", ["small", "tdmpc2", "dreamerv2", "twm"])
def test_it_is_measured_on_every_world_model_and_disturbs_nothing(name):
    agent = doubtful(name)
    before, stream = torch.get_rng_state(), agent.acting.state()
    steps = beliefs(agent, episodes())
    one, two = estimate_penalty_weight(agent, steps), estimate_penalty_weight(agent, steps)
    assert one.price == two.price and one.price.value > 0 and np.isfinite(one.excess).all()
    assert agent.price == agent.config.planner.uncertainty and agent.memory is None
    assert all(torch.equal(value, stream[key]) for key, value in agent.acting.state().items())
    assert torch.get_rng_state().equal(before)


def test_until_it_is_measured_the_price_is_one():
    agent = Agent(make("dreamerv2").transform, auto(tiny("dreamerv2")))
    assert agent.price == 1 and not agent.priced and "price" not in agent.state()[1]
    assert agent.imagination is not None and agent.imagination.price == 1


def test_a_measured_price_is_saved_and_a_given_one_comes_first():
    agent = Agent(make("small").transform, auto(tiny("small")))
    agent.settle(7.5)
    tensors, meta = agent.state()
    again = Agent.from_state(tensors, meta)
    assert again.price == 7.5 and again.priced
    assert Agent.from_state(tensors, meta, config=tiny("small")).price == 2
    given = Agent.from_state(tensors, meta, config=tiny("small"))
    assert "price" not in given.state()[1]
    later = Agent.from_state(*given.state(), config=agent.config)
    assert not later.priced and later.price == 1


def test_lessons_in_imagination_pay_it_where_they_are_told_to():
    def lesson(price: float, learning: bool) -> torch.Tensor:
        agent = doubtful("dreamerv2")
        agent.settle(price, learning)
        with Stream(0, agent.device).use():
            return agent.validate(windows(agent, 0))["loss/actor"]

    assert lesson(2.0, True) == lesson(50.0, False) != lesson(50.0, True)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf"), "often"])
def test_a_price_is_a_number_from_zero_up_or_auto(wrong):
    with pytest.raises(UsageError, match="wanted a number from 0 up, or auto"):
        PlannerConfig(uncertainty=wrong)


@pytest.mark.parametrize(
    ("value", "said"), [("auto", "no dataset"), ("3.5", "no dataset"), ("often", "auto")]
)
def test_the_command_line_takes_a_number_or_auto(value, said, capsys):
    assert cli.main(["pretrain", "--planner.uncertainty", value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


# ---- in runs


@pytest.fixture(scope="module")
def automatic(dataset, tmp_path_factory):
    """A run that measures its price itself."""
    return o2o.pretrain(pretrain_config(dataset, tmp_path_factory.mktemp("run") / "auto", agent=auto(TINY)))


def stored(run) -> float:
    return checkpoint.load(run / "checkpoint")[1]["price"]


def test_pretraining_ends_with_the_price_that_inspection_finds(automatic, pretrained):
    assert stored(automatic) == penalty_weight(inspect.open(automatic)).price.value
    (weights, _), (others, meta) = (checkpoint.load(run / "checkpoint") for run in (automatic, pretrained))
    assert all(torch.equal(weights[name], others[name]) for name in others)  # and changes nothing else
    assert "price" not in meta


def test_a_run_in_parts_ends_as_one_run(dataset, automatic, tmp_path):
    out = tmp_path / "parts"
    o2o.pretrain(pretrain_config(dataset, out, agent=auto(TINY), updates=7))
    o2o.pretrain(pretrain_config(dataset, out, agent=auto(TINY), resume=True))
    same(out, automatic)


def test_dreams_in_parts_end_as_one_run(dataset, tmp_path):
    """Lessons of pretraining do not pay what was measured at the end of its first part."""
    runs = [tmp_path / "one", tmp_path / "parts"]
    config = pretrain_config(dataset, runs[0], agent=auto(tiny("dreamerv2")), updates=6)
    o2o.pretrain(config)
    o2o.pretrain(replace(config, out=runs[1], updates=3))
    o2o.pretrain(replace(config, out=runs[1], resume=True))
    same(*runs)


def test_fine_tuning_goes_on_at_the_price_of_pretraining(automatic, tmp_path):
    out = tmp_path / "online"
    o2o.finetune(finetune_config(automatic, out, agent=auto(TINY), episodes=1))
    assert stored(out) == stored(automatic)


def test_a_run_without_a_price_gets_one_when_it_is_asked_for(automatic, pretrained, tmp_path, capsys):
    o2o.evaluate(o2o.EvaluateConfig(checkpoint=pretrained, agent=auto(TINY), episodes=1))
    assert "lambda" in capsys.readouterr().out
    out = tmp_path / "online"
    o2o.finetune(finetune_config(pretrained, out, agent=auto(TINY), episodes=1))
    assert stored(out) == stored(automatic)
    log = capsys.readouterr().out
    o2o.finetune(finetune_config(pretrained, out, agent=auto(TINY), episodes=2, resume=True))
    assert "lambda" in log and "lambda" not in capsys.readouterr().out  # once is enough


def test_a_number_by_flag_overrides_what_was_measured(automatic, capsys):
    o2o.evaluate(o2o.EvaluateConfig(checkpoint=automatic, agent=TINY, episodes=1))
    o2o.evaluate(o2o.EvaluateConfig(checkpoint=automatic, episodes=1))
    assert "lambda" not in capsys.readouterr().out
