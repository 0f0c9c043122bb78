"""Tests that presets hold the references' values (FOWM: cfgs/config.yaml and cfgs/tasks/*.yaml)."""

import pytest

from o2o.agent import presets
from o2o.core.errors import UsageError

SHARED = {
    "batch_size": 256, "window": 5, "learning_rate": 3e-4, "rho": 0.5, "optimizer.clip_norm": 10.0,
    "model.latent_dim": 50, "model.hidden_dim": 512, "model.encoder_dim": 256, "model.predict_end": False,
    "model.target_rate": 0.01, "model.target_every": 2,
    "critic.num_q": 5, "critic.hidden_dim": 512, "critic.target_rate": 0.01, "critic.target_every": 2,
    "policy.hidden_dim": 512, "policy.max_weight": 100.0, "policy.noise_std": 0.05,
    "policy.noise_clip": 0.3,
    "planner.horizon": 5, "planner.num_samples": 512, "planner.num_policy": 51, "planner.num_elites": 50,
    "planner.temperature": 0.5, "planner.momentum": 0.1, "planner.min_std": 0.05, "planner.max_std": 2.0,
    "balance.dynamics": 20.0, "balance.reward": 0.5, "balance.q": 0.1, "balance.v": 0.1,
    "replay.priority_exponent": 0.6, "replay.weight_exponent": 0.4,
}  # fmt: skip
NAMES = ("critic.expectile", "policy.inverse_temperature", "planner.uncertainty", "planner.iterations",
         "discount", "replay.capacity")  # fmt: skip
TASKS = {
    "fowm": (0.9, 3.0, 1.0, 6, 0.9, 10_000),
    "fowm-hopper": (0.7, 3.0, 20.0, 1, 0.99, 200_000),
    "fowm-antmaze": (0.9, 10.0, 3.0, 1, 0.99, 200_000),
}


FIELDS = {"model": "model_options", "balance": "balance_options"}  # of these flags


def value(config, flag: str):
    for part in flag.split("."):
        config = getattr(config, FIELDS.get(part, part))
    return config


@pytest.mark.parametrize("preset", TASKS)
def test_fowm_presets_hold_the_published_values(preset):
    agent = presets.get(preset).agent
    want = SHARED | dict(zip(NAMES, TASKS[preset], strict=True))
    assert {name: value(agent, name) for name in want} == want


def test_fowm_presets_train_as_long_and_scale_rewards_as_published():
    xarm, hopper, antmaze = (presets.get(name) for name in TASKS)
    assert [p.updates for p in (xarm, hopper, antmaze)] == [25_000, 500_000, 500_000]
    assert [p.updates_per_step for p in (xarm, hopper, antmaze)] == [1, 1, 1]
    assert [p.dataset_options.reward_return_range for p in (xarm, hopper, antmaze)] == [None, 1000, None]
    assert [p.dataset_options.reward_shift for p in (xarm, hopper, antmaze)] == [None, None, -1]
    assert not any(p.dataset_options.normalize for p in (xarm, hopper, antmaze))


def test_every_preset_says_what_it_is_for():
    assert all(preset.about for preset in presets.PRESETS.values())


def test_an_unknown_preset_error_names_the_nearest():
    with pytest.raises(UsageError, match=r"did you mean 'fowm'\? have small, fowm"):
        presets.get("fown")


DREAMERS = {  # (DreamerV2, DreamerV3), as published
    "model.cell": ("gru", "block"), "model.layers": ("elu", "silu"), "model.prior_layers": (1, 2),
    "model.unimix": (0.0, 0.01), "model.free_nats": (1.0, 1.0), "model.free_over": ("batch", "element"),
    "model.prior_weight": (0.8, 1.0), "model.posterior_weight": (0.2, 0.1), "model.symlog": (False, True),
    "model.obs_weight": (0.5, 1.0), "model.num_bins": (0, 255),
    "policy.distribution": ("truncated", "bounded"),
    "imagination.gradient": ("dynamics", "reinforce"), "imagination.trace": (0.95, 0.95),
    "imagination.entropy": (1e-4, 3e-4), "imagination.scale_returns": (False, True),
    "imagination.num_bins": (0, 255), "imagination.target_rate": (1.0, 0.02),
    "imagination.target_every": (100, 1), "imagination.target_returns": (True, False),
    "imagination.target_weight": (0.0, 1.0), "imagination.replay_weight": (0.0, 0.3),
    "optimizer.method": ("adam", "laprop"), "optimizer.eps": (1e-5, 1e-20), "optimizer.agc": (0.0, 0.3),
    "optimizer.weight_decay": (1e-6, 0.0), "optimizer.clip_norm": (100.0, 0.0),
    "balance.reward": (1.0, 1.0), "balance.discount": (1.0, 1.0), "balance.obs": (1.0, 1.0),
    "window": (50, 64), "batch_size": (16, 16), "rho": (1.0, 1.0), "replay.priority_exponent": (0.0, 0.0),
}  # fmt: skip


@pytest.mark.parametrize(("preset", "column"), [("dreamerv2", 0), ("dreamerv3", 1)])
def test_dreamers_hold_the_published_choices(preset, column):
    agent = presets.get(preset).agent
    want = {name: pair[column] for name, pair in DREAMERS.items()}
    assert {name: value(agent, name) for name in want} == want


def test_tdmpc2_holds_the_published_choices():
    want = {
        "model.simnorm": 8, "model.num_bins": 101, "model.target": "online", "critic.num_bins": 101,
        "critic.target_rate": 0.01, "critic.target_every": 1, "planner.horizon": 3, "planner.momentum": 0.0,
        "balance.dynamics": 20.0, "balance.reward": 0.1, "balance.q": 0.1 / 5, "window": 3, "rho": 0.5,
        "learning_rate": 3e-4, "optimizer.clip_norm": 20.0, "replay.priority_exponent": 0.0,
    }  # fmt: skip
    agent = presets.get("tdmpc2").agent
    assert {name: value(agent, name) for name in want} == want
