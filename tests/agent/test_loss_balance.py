"""Tests fixed loss weights, and Harmony's sigmas against their closed form (G35), on every world model."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from o2o.agent.agent import Agent
from o2o.agent.agent_config import AgentConfig
from o2o.agent.loss_balance import SIGMA_LEARNING_RATE, SIGMA_OPTIMIZER, BalanceConfig, Fixed, Harmony
from o2o.agent.optimizer import Optimizer
from o2o.core import checkpoint, plugins
from o2o.core.errors import DivergedError, UsageError
from o2o.core.run_folder import finite_metrics
from o2o.core.run_log import read_metrics
from o2o.core.transform import Transform
from o2o.models import rssm
from tests.support.command_line import pretrain
from tests.support.episodes import make_batch
from tests.support.paths import RECURRENT_MODEL
from tests.support.preset_agents import PIXELS, STATE, tiny, windows

WEIGHTS = BalanceConfig(obs=2.0, dynamics=3.0, reward=4.0, q=0.1, v=0.2, discount=5.0)
REST = {0.5: 1.0, 1.0: 1.6180340, 4 / 3: 2.0, 2.0: 2.7320508, 0.01: 1 / 9.512492, 100.0: 1 / 0.0099020}
EACH_LOSS = pytest.mark.parametrize("loss", REST)


def at_rest(loss: float) -> float:
    return (loss + math.sqrt(loss**2 + 4 * loss)) / 2


def harmony(sigma: float = 1.0) -> Harmony:
    balance = Harmony(WEIGHTS).double()
    torch.nn.init.constant_(balance.log_sigma, math.log(sigma))
    return balance


def slope(balance: Harmony, loss: float) -> float:
    """Of the objective along ln sigma of the reward."""
    total, _ = balance({"reward": torch.tensor(loss, dtype=torch.float64)})
    (gradient,) = torch.autograd.grad(total, balance.log_sigma)
    return gradient[1].item()


# ---- the closed form


@EACH_LOSS
def test_sigma_rests_at_the_closed_form(loss):
    assert at_rest(loss) == pytest.approx(REST[loss], rel=1e-5)
    assert slope(harmony(at_rest(loss)), loss) == pytest.approx(0, abs=1e-12)
    assert slope(harmony(at_rest(loss) * 0.99), loss) < 0 < slope(harmony(at_rest(loss) * 1.01), loss)


@EACH_LOSS
def test_at_first_the_weight_is_one_and_the_slope_a_half_less_the_loss(loss):
    total, metrics = harmony()({"obs": torch.tensor(loss)})
    assert total.item() == pytest.approx(loss + math.log(2))
    assert metrics["balance/sigma_obs"] == 1 and metrics["balance/weighted_obs"].item() == pytest.approx(loss)
    assert slope(harmony(), loss) == pytest.approx(0.5 - loss)


@EACH_LOSS
def test_no_weighted_loss_rests_above_one(loss):
    """Unrectified, with ln(sigma) in place of ln(1 + sigma), sigma would rest at the loss itself."""
    sigma = at_rest(loss)
    weighted = harmony(sigma)({"dynamics": torch.tensor(loss)})[1]["balance/weighted_dynamics"].item()
    assert weighted == pytest.approx(sigma / (1 + sigma)) and weighted < 1
    assert sigma > loss


def test_the_objective_at_rest():
    total, _ = harmony(1.0)({"obs": torch.tensor(0.5)})
    assert total.item() == pytest.approx(1.1931472)


def test_adam_brings_sigma_to_rest():
    balance, losses = Harmony(WEIGHTS), {"obs": 10.0, "reward": 0.01, "dynamics": 4 / 3}
    optimizer = Optimizer(balance.parameters(), 0.05, SIGMA_OPTIMIZER)
    for _ in range(500):
        total, metrics = balance({name: torch.tensor(loss) for name, loss in losses.items()})
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    for name, loss in losses.items():
        assert metrics[f"balance/sigma_{name}"].item() == pytest.approx(at_rest(loss), rel=1e-3)


# ---- which losses


def test_fixed_weights_are_those_of_the_config():
    losses = {name: torch.tensor(0.5, requires_grad=True) for name in ("obs", "dynamics", "q", "entropy")}
    total, metrics = Fixed(WEIGHTS)(losses)
    assert total.item() == pytest.approx(0.5 * (2 + 3 + 0.1 + 1)) and total.requires_grad
    want = {"obs": 1.0, "dynamics": 1.5, "q": 0.05, "entropy": 0.5}
    assert {key.removeprefix("balance/weighted_"): value.item() for key, value in metrics.items()} == (
        pytest.approx(want)
    )
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("balance", [Fixed, Harmony])
def test_a_loss_without_a_weight_is_refused(balance):
    wanted = "loss 'rewrad' has no weight; have obs, dynamics, reward, q, v, discount, entropy, consistency"
    with pytest.raises(UsageError, match=wanted):
        balance(WEIGHTS)({"obs": torch.tensor(0.5), "rewrad": torch.tensor(0.5)})


def test_harmony_leaves_all_other_losses_their_fixed_weights():
    names = ("reward", "q", "v", "discount", "entropy", "consistency")
    total, metrics = harmony(2.0)({name: torch.tensor(3.0) for name in names})
    assert total.item() == pytest.approx(3 / 2 + math.log(3) + 3 * (0.1 + 0.2 + 5 + 1 + 1))
    assert metrics["balance/weighted_discount"].item() == pytest.approx(15)
    assert [key for key in metrics if "sigma" in key] == ["balance/sigma_reward"]
    assert not any(value.requires_grad for value in metrics.values())


def test_a_negative_loss_ends_the_run_and_rounding_does_not():
    for loss in (0.0, -1e-9):
        finite_metrics(harmony()({"obs": torch.tensor(loss)})[1], "update 1")
    with pytest.raises(DivergedError, match=r"update 2: balance/weighted_obs is not finite"):
        finite_metrics(harmony()({"obs": torch.tensor(-0.1), "reward": torch.tensor(1.0)})[1], "update 2")


def test_every_observation_is_in_the_loss_that_is_balanced():
    """Images and vectors; the reference forgets vectors."""
    spec = Transform(PIXELS, (-1.0,) * 2, (1.0,) * 2).spec
    model = rssm.Model(spec, 0.9, tiny("dreamerv2").model_options)
    batch = make_batch(spec, steps=4, size=3)
    unroll = model.unroll(batch)
    feature = torch.cat([unroll.feature, unroll.next_feature[-1:]])  # (T+1, B, F)
    apart = [0.5 * model.decoder.error(feature, {name: value}).sum() for name, value in batch.obs.items()]
    assert len(apart) == 2 and all(error > 0 for error in apart)
    torch.testing.assert_close(unroll.losses["obs"].sum(), sum(apart))
    Harmony(WEIGHTS)({"obs": unroll.losses["obs"].mean()})[0].backward()
    for part in (model.decoder.mlp, model.decoder.deconvs):
        assert all(weight.grad.abs().sum() > 0 for weight in part.parameters())


# ---- in the agent

EXTERNAL = RECURRENT_MODEL
SYSTEMS = {
    "small": {"reward", "dynamics"}, "tdmpc2": {"reward", "dynamics"},
    "dreamerv2": {"obs", "reward", "dynamics"}, "dreamerv3": {"obs", "reward", "dynamics"},
    EXTERNAL: {"obs", "reward"},
}  # fmt: skip


def harmonised(name: str) -> AgentConfig:
    """A preset, or the external model, with its losses balanced."""
    if name == EXTERNAL:
        world = plugins.load("models", EXTERNAL).Config(hidden_dim=12)
        return replace(tiny("small"), model=EXTERNAL, model_options=world, balance="harmony")
    return replace(tiny(name), balance="harmony")


@pytest.fixture(params=SYSTEMS, ids=lambda name: Path(name).stem)
def pair(request) -> tuple[Agent, set[str]]:
    """An agent, and the losses of its model that have a sigma."""
    transform = Transform(STATE, (-1.0, -1.0), (1.0, 1.0))
    return Agent(transform, harmonised(request.param)), SYSTEMS[request.param]


def sigmas(metrics: dict[str, torch.Tensor]) -> dict[str, float]:
    start = "balance/sigma_"
    return {key.removeprefix(start): value.item() for key, value in metrics.items() if key.startswith(start)}


def test_the_losses_that_a_model_has_are_balanced(pair):
    agent, names = pair
    metrics, _ = agent.update(windows(agent, 0))
    assert sigmas(metrics) == dict.fromkeys(names, 1.0)
    weighted = {key.removeprefix("balance/weighted_") for key in metrics if "weighted" in key}
    assert weighted >= names | {"q", "v"} and "policy" not in weighted
    again, _ = agent.update(windows(agent, 1))
    for name, sigma in sigmas(again).items():
        assert sigma != 1
        assert again[f"balance/weighted_{name}"].item() == pytest.approx(again[f"loss/{name}"].item() / sigma)


def test_a_step_of_sigma_is_the_whole_rate_whatever_clips_and_decays_the_rest(pair):
    """The first step of Adam is the rate. What the model does not have never moves."""
    agent, names = pair
    agent.update(windows(agent, 0))
    moved = dict(zip(("obs", "reward", "dynamics"), agent.balance.log_sigma.tolist(), strict=True))
    for name, value in moved.items():
        assert abs(value) == pytest.approx(SIGMA_LEARNING_RATE if name in names else 0, rel=1e-4)


def test_sigma_is_saved_and_resumes_exactly(pair):
    agent, _ = pair
    for seed in range(3):
        agent.update(windows(agent, seed))
    tensors, meta = agent.state()
    again = Agent.from_state({name: value.clone() for name, value in tensors.items()}, meta)
    assert again.config == agent.config
    assert again.balance.log_sigma.equal(agent.balance.log_sigma)
    for some in (agent, again):
        some.update(windows(agent, 3))
    have, want = again.state()[0], agent.state()[0]
    assert have.keys() == want.keys() and "optimizer.balance.0.exp_avg" in want
    assert [name for name in want if not want[name].equal(have[name])] == []


def test_fixed_weights_learn_nothing_about_the_balance():
    agent = Agent(Transform(STATE, (-1.0, -1.0), (1.0, 1.0)), tiny("dreamerv2"))
    metrics, _ = agent.update(windows(agent, 0))
    assert "balance" not in agent.optimizers and sigmas(metrics) == {}
    assert metrics["balance/weighted_dynamics"].item() == pytest.approx(0.1 * metrics["loss/dynamics"].item())


# ---- where it runs


def test_it_never_waits_for_the_device():
    balance = Harmony(WEIGHTS).to("meta")
    total, metrics = balance({"obs": torch.ones((), device="meta"), "q": torch.ones((), device="meta")})
    total.backward()
    tensors = [total, balance.log_sigma.grad, *metrics.values()]
    assert {value.device.type for value in tensors} == {"meta"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about itself
def test_it_compiles_as_a_whole():
    balance, losses = Harmony(WEIGHTS), {"reward": torch.tensor(2.0), "v": torch.tensor(3.0)}
    compiled = torch.compile(balance, fullgraph=True, backend="eager")
    assert compiled(losses) == balance(losses)


def test_it_is_one_flag_of_the_command_line(o2o, fails, dataset, tmp_path, charts):
    out, online = tmp_path / "run", tmp_path / "online"
    words = ["--balance", "harmony", "--balance.q", "0.3", "--log-every", 2]
    assert o2o(*pretrain(dataset, out, *words))[0] == 0
    tensors, meta = checkpoint.load(out / "checkpoint")
    assert meta["config"]["balance"] == "harmony" and meta["config"]["balance_options"]["q"] == 0.3
    assert (tensors["balance.log_sigma"] != 0).tolist() == [False, True, True]
    assert all({"balance/sigma_reward", "balance/weighted_q"} <= line.keys() for line in read_metrics(out))
    assert (out / "losses.png").read_bytes().startswith(b"\x89PNG")
    words = ["--checkpoint", out, "--episodes", 1, "--updates-per-step", "0.1"]
    assert o2o("finetune", *words, "--out", online)[0] == 0
    after = checkpoint.load(online / "checkpoint")[0]["balance.log_sigma"]
    assert not after.equal(tensors["balance.log_sigma"])
    assert "does not fit the balance" in fails(2, "finetune", *words, "--balance", "fixed")
    assert "Expected one of ('fixed', 'harmony')" in fails(2, "pretrain", "--balance", "equal")
