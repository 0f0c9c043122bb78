"""Tests that every preset learns offline and online, plans or acts, and resumes exactly."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import o2o
from o2o.agent import presets
from o2o.agent.agent import Agent
from o2o.agent.agent_config import AgentConfig, fit_config, fitted_flags
from o2o.agent.plan_record import record_plan
from o2o.core import plugins, run_checkpoint
from o2o.core.config import from_dict, to_dict
from o2o.core.run_log import read_metrics
from o2o.core.transform import ObsTransform, Transform
from o2o.nn.model_config import TDMPCConfig
from o2o.nn.world_model import ModelConfig
from tests.support.paths import RECURRENT_MODEL
from tests.support.preset_agents import PIXELS, STATE, act, disagreeing, make, tiny, windows
from tests.support.tiny_runs import ROBOT, episodes_of, leave_out_charts, same


@pytest.fixture(params=sorted(set(presets.PRESETS) - {"fowm-hopper", "fowm-antmaze"}))
def name(request) -> str:
    return request.param


@pytest.fixture
def planner_name(name) -> str:
    """A preset whose model can imagine, so that it can be planned with."""
    if name == "bc":
        pytest.skip("its model predicts nothing; tests/models/test_encoder.py has its error")
    return name


@pytest.mark.parametrize("fields", [STATE, PIXELS], ids=["vectors", "pixels"])
def test_it_learns_from_a_batch_and_acts(name, fields):
    agent = make(name, fields)
    for seed in range(2):
        metrics, priority = agent.update(windows(agent, seed))
    assert all(torch.isfinite(value) for value in metrics.values()) and torch.isfinite(priority).all()
    agent.start(2, seed=0)
    for flags in ({"plan": name != "bc"}, {"plan": False}, {"plan": False, "explore": True}):
        action = act(agent, **flags)
        assert action.shape == (2, 2) and (abs(action) <= 1).all()


def test_bfloat16_products_leave_losses_actions_and_weights_in_float32(name):
    config = replace(tiny(name), precision="bfloat16")
    agent = Agent(Transform(STATE, (-1.0, -1.0), (1.0, 1.0)), config)
    metrics, _ = agent.update(windows(agent, 0))
    assert {value.dtype for value in metrics.values()} == {torch.float32}
    assert all(torch.isfinite(value) for value in metrics.values())
    agent.start(2, seed=0)
    for plan in (name != "bc", False):
        assert act(agent, plan=plan).dtype == np.float32
    assert {weight.dtype for part in agent.parts.values() for weight in part.parameters()} == {torch.float32}


def test_it_reports_the_same_uncertainty(planner_name):
    """The spread of the ensemble where the plan goes, in units of return, priced by the planner."""
    agent = disagreeing(planner_name)
    agent.start(3, seed=0)
    act(agent, 3)
    plan = agent.last_plan
    assert plan is not None and plan.usable.all() and (plan.penalty > 0).all()


def test_a_plan_taken_apart_adds_up_and_asking_changes_no_bit(planner_name):
    plain, asked = disagreeing(planner_name), disagreeing(planner_name)
    for agent in (plain, asked):
        agent.start(3, seed=0)
    first, again = act(plain, 3), act(asked, 3, trace=True)
    plan = asked.last_plan
    assert plan is not None and plan.trace is not None and (first == again).all()
    records = record_plan(asked, plan.trace, plan.action, took_ms=4.0)
    assert (act(plain, 3, first=False) == act(asked, 3, first=False, trace=True)).all()
    for i, record in enumerate(records):
        assert (record.requested_action == again[i]).all() and record.took_ms == 4
        assert record.action[0, record.chosen].tolist() == pytest.approx(again[i].tolist())
        assert record.weight.sum() == pytest.approx(1) and record.elite[record.chosen]
        assert (record.weight * record.value()).sum() == pytest.approx(float(plan.value[i]), rel=1e-3)
        assert (record.weight * record.penalty()).sum() == pytest.approx(float(plan.penalty[i]), rel=1e-3)
        assert record.value()[record.elite].min() >= record.value()[~record.elite].max() - 1e-4
        assert record.by_policy.sum() == asked.config.planner.num_policy


def test_stop_and_go_on_gives_the_same_bits(name):
    whole, part = make(name), make(name)
    for number in range(3):
        for agent in (whole, part):
            agent.update(windows(agent, number, online=number > 1))
    tensors, meta = part.state()
    again = Agent.from_state({k: v.clone() for k, v in tensors.items()}, meta)
    for number in range(3, 6):
        for agent in (whole, again):
            agent.update(windows(agent, number, online=True))
    have, want = again.state()[0], whole.state()[0]
    assert have.keys() == want.keys()
    assert [key for key in want if not torch.equal(have[key], want[key])] == []
    for agent in (whole, again):
        agent.start(2, seed=4)
    plan = name != "bc"
    assert (act(whole, explore=True, plan=plan) == act(again, explore=True, plan=plan)).all()


def test_validation_changes_nothing(name):
    agent = make(name)
    agent.update(windows(agent, 0))
    before = {key: value.clone() for key, value in agent.state()[0].items()}
    first, again = agent.validate(windows(agent, 1)), agent.validate(windows(agent, 1))
    assert first.keys() == again.keys() and all(torch.equal(first[key], again[key]) for key in first)
    after = agent.state()[0]
    assert [key for key in before if not torch.equal(before[key], after[key])] == []


def test_its_config_survives_json(name):
    config = presets.get(name).agent
    assert from_dict(AgentConfig, to_dict(config), {"model_options": type(config.model_options)}) == config


def test_groups_are_disjoint_and_hold_every_weight(name):
    agent = make(name)
    groups = [set(map(id, optimizer.parameters)) for optimizer in agent.optimizers.values()]
    weights = {id(p) for part in agent.parts.values() for p in part.parameters() if p.requires_grad}
    assert sum(map(len, groups)) == len(set.union(*groups)) and set.union(*groups) == weights


def test_padding_has_no_effect_on_learning(name):
    agent = make(name)
    batch = windows(agent, 0)
    valid = batch.valid.clone()
    valid[2:, :4] = False
    batch = replace(batch, valid=valid, next_valid=valid)
    wild = replace(
        batch,
        reward=torch.where(valid, batch.reward, 1e3),
        action=torch.where(valid[..., None], batch.action, -batch.action),
        terminated=batch.terminated & valid,
    )
    calm = replace(batch, terminated=batch.terminated & valid)
    losses = [agent.validate(some) for some in (calm, wild)]
    for key, value in losses[0].items():
        torch.testing.assert_close(value, losses[1][key], msg=key)


# the loops are the same for all; that agents of every preset resume exactly is tested above, without loops
@pytest.mark.parametrize(
    "name",
    [
        "dreamerv3",
        "bc",
        *(pytest.param(other, marks=pytest.mark.slow) for other in ("tdmpc2", "dreamerv2", "twm")),
    ],
    indirect=True,
)
def test_it_pretrains_finetunes_and_resumes_exactly(name, dataset: Path, tmp_path, monkeypatch, charts):
    agent = tiny(name)
    agent = replace(agent, planner=replace(agent.planner, iterations=1, horizon=2))
    settings = {
        "dataset": str(dataset), "robot": ROBOT, "agent": agent, "preset": name, "device": "cpu",
        "log_every": 2, "checkpoint_every": 2, "dataset_options": presets.get(name).dataset_options,
    }  # fmt: skip
    whole = o2o.pretrain(o2o.PretrainConfig(**settings, updates=4, out=tmp_path / "whole"))
    assert (whole / "losses.png").exists()
    assert (whole / "open_loop.png").exists() == (name not in {"tdmpc2", "bc"})
    leave_out_charts(monkeypatch)
    part = o2o.pretrain(o2o.PretrainConfig(**settings, updates=2, out=tmp_path / "part"))
    o2o.pretrain(o2o.PretrainConfig(**settings, updates=4, out=part, resume=True))
    same(whole, part)
    config = o2o.FinetuneConfig(
        checkpoint=whole, robot=ROBOT, episodes=2, updates_per_step=0.25, out=tmp_path / "online",
        plan=name != "bc",
    )  # fmt: skip
    online = o2o.finetune(config)
    half = o2o.finetune(replace(config, episodes=1, out=tmp_path / "half"))
    o2o.finetune(replace(config, out=half, resume=True))
    same(online, half)
    assert [line["step"] for line in read_metrics(online) if "return" in line] == [1, 2]
    for plan in (name != "bc", False):
        score = o2o.evaluate(
            o2o.EvaluateConfig(checkpoint=online, robot=ROBOT, episodes=1, plan=plan, device="cpu")
        )
        assert np.isfinite(score.returns).all()


@pytest.mark.parametrize("model", ["tdmpc", "rssm", "twm", RECURRENT_MODEL])
@pytest.mark.parametrize("gradient", ["dynamics", "reinforce"])
def test_every_world_model_can_be_dreamt_in(model, gradient):
    """A part, not a system: an external file gets it too."""
    world = getattr(plugins.load("models", model), "Config", ModelConfig)()
    shaped = replace(tiny("dreamerv3"), model=model, model_options=world)
    config = replace(shaped, imagination=replace(shaped.imagination, gradient=gradient))
    agent = Agent(Transform(STATE, (-1.0, -1.0), (1.0, 1.0)), config)
    before = {name: weight.clone() for name, weight in agent.policy.named_parameters()}
    metrics, _ = agent.update(windows(agent, 0))
    assert {"loss/actor", "loss/value", "loss/policy"} <= metrics.keys()
    assert any(not torch.equal(before[name], weight) for name, weight in agent.policy.named_parameters())


def test_windows_are_no_wider_than_the_longest_episode():
    assert fit_config(presets.get("dreamerv3").agent, 25).window == 25
    assert fit_config(presets.get("dreamerv3").agent, 500).window == 64


@pytest.mark.parametrize(
    ("images", "encodes", "kept", "fusion"),
    [(True, False, True, "concat"), (True, "auto", False, "mean"), (False, "auto", False, "mean")],
)
def test_the_default_preset_fits_its_encoder_to_cameras_that_it_sees(images, encodes, kept, fusion):
    small = presets.get("small").agent
    small = replace(small, policy=replace(small.policy, direct_encodes=encodes))
    fitted = fit_config(small, 25, images=images).model_options
    assert isinstance(fitted, TDMPCConfig)
    assert (fitted.keep_vectors, fitted.fusion, fitted.convolutions) == (kept, fusion, "keypoints")
    flags = fitted_flags(small, replace(AgentConfig(), model_options=fitted))
    assert flags == f"--model.predict-end True --model.keep-vectors {kept} --model.fusion {fusion}"
    assert fit_config(presets.get("fowm").agent, 25, images=images).model_options == TDMPCConfig()


@pytest.mark.parametrize(
    ("length", "discount"), [(1000, 0.995), (500, 0.99), (200, 0.975), (100, 0.95), (25, 0.95)]
)
def test_a_discount_of_zero_follows_the_length_of_the_episodes(length, discount):
    assert fit_config(presets.get("tdmpc2").agent, length).discount == pytest.approx(discount)
    assert fit_config(presets.get("fowm").agent, length).discount == 0.9


def test_laptop_presets_stay_under_two_million_weights():
    for name in ("tdmpc2", "dreamerv2", "dreamerv3", "twm"):
        for fields in (
            STATE,
            PIXELS,
            {"camera": ObsTransform((64, 64, 3), image=True, size=64), "s": ObsTransform((40,))},
        ):
            config = replace(presets.get(name).agent, discount=0.95)
            agent = Agent(Transform(fields, (-1.0,) * 8, (1.0,) * 8), config)
            weights = {p for part in agent.parts.values() for p in part.parameters() if p.requires_grad}
            assert sum(weight.numel() for weight in weights) < 2e6


# ---- bc, the clone


def test_a_clone_copies_a_linear_policy():
    """Actions that are linear in the observation are reproduced at observations that it has not seen."""
    fields = {"state": ObsTransform((3,), mean=(0.0,) * 3, std=(1.0,) * 3)}
    config = replace(tiny("bc"), batch_size=128, learning_rate=4e-3)
    agent = Agent(Transform(fields, (-1.0, -1.0), (1.0, 1.0)), config)
    gain = torch.tensor([[0.3, -0.2], [0.1, 0.4], [-0.3, 0.2]])
    for seed in range(200):
        batch = windows(agent, seed)
        action = (batch.obs["state"][:-1] @ gain).clamp(-0.9, 0.9)
        agent.update(replace(batch, action=action))
    state = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    agent.start(200, seed=0)
    zeros = np.zeros((200, 2), np.float32)
    action = agent.act({"state": state}, zeros, zeros[:, 0], np.ones(200, bool), plan=False)
    error = action - (state @ gain.numpy()).clip(-0.9, 0.9)
    assert np.sqrt((error**2).mean()) < 0.08  # the actions have a root mean square of 0.47


@pytest.fixture(scope="module")
def clone(dataset, tmp_path_factory) -> Path:
    config = o2o.PretrainConfig(
        dataset=str(dataset), robot=ROBOT, agent=tiny("bc"), preset="bc", device="cpu", updates=20,
        dataset_options=presets.get("bc").dataset_options, out=tmp_path_factory.mktemp("clone") / "run",
    )  # fmt: skip
    return o2o.pretrain(config)


def test_a_clone_stays_as_it_is_online_and_explores_nothing(o2o, clone, tmp_path):
    out = tmp_path / "online"
    code, _, err = o2o("finetune", "--checkpoint", clone, "--episodes", 3, "--out", out)
    assert code == 0, err
    before, after = (run_checkpoint.load(run / "checkpoint") for run in (clone, out))
    assert before[1]["num_updates"] == after[1]["num_updates"] == 20
    parts = [name for name in before[0] if name.startswith(("model.", "critic.", "policy."))]
    assert parts and all(torch.equal(before[0][name], after[0][name]) for name in parts)
    agent = Agent.from_state(*after)
    for episode in episodes_of(out):
        raw = {name: value[:-1] for name, value in episode.obs.items()}
        n = len(episode)
        agent.start(n, seed=0)
        unit = agent.act(
            agent.transform.obs(raw), np.zeros((n, 2)), np.zeros(n), np.ones(n, bool), plan=False
        )
        intended = episode.infos["intended_action"][1:]  # the first row has no action
        np.testing.assert_allclose(agent.transform.physical_action(unit), intended, atol=1e-5)


def test_a_plan_with_a_clone_is_refused_before_anything_moves(fails, dataset, clone, tmp_path):
    line = "model 'encoder' encodes observations and predicts nothing"
    out = tmp_path / "out"
    assert line in fails(2, "evaluate", "--checkpoint", clone, "--episodes", 1, "--plan")
    assert line in fails(2, "finetune", "--checkpoint", clone, "--episodes", 1, "--plan", "--out", out)
    assert not (out / "online").exists()
    words = ("pretrain", "--dataset", dataset, "--robot", ROBOT, "--out", tmp_path / "other")
    assert line in fails(2, *words, "--preset", "small", "--model", "encoder", "--updates", 2)
    assert line in fails(2, *words, "--preset", "bc", "--planner.uncertainty", "auto", "--updates", 2)


def test_a_page_about_a_clone_answers_what_needs_no_plan(o2o, clone, tmp_path):
    code, out, err = o2o("inspect", clone, "--out", tmp_path / "page", "--device", "cpu")
    assert code == 0, err
    lines = [line for line in out.splitlines() if "not answered" in line]
    assert lines and any("predicts nothing" in line for line in lines), out
    answered = {"value", "uncertainty", "ood_detection", "rank_checkpoints"}
    assert all((tmp_path / "page" / f"{name}.png").exists() for name in answered), out


def test_a_clone_is_guarded_by_the_disagreement_of_its_critic(o2o, clone, tmp_path):
    words = ("--episodes", 1, "--ood-action", "slow", "--out", tmp_path / "guarded")
    code, out, err = o2o("finetune", "--checkpoint", clone, *words)
    assert code == 0, err
    assert "disagreement" in out and "along a plan" not in out
