"""Presets carry the reference's values (FOWM's cfgs/config.yaml and cfgs/tasks/*.yaml)."""

import pytest

from o2o import presets
from o2o.errors import UsageError

SHARED = {
    "batch_size": 256, "window": 5, "learning_rate": 3e-4, "rho": 0.5, "optimiser.clip_norm": 10.0,
    "world.latent_dim": 50, "world.hidden_dim": 512, "world.encoder_dim": 256, "world.predict_end": False,
    "world.slow_rate": 0.01, "world.slow_every": 2,
    "critic.num_q": 5, "critic.hidden_dim": 512, "critic.slow_rate": 0.01, "critic.slow_every": 2,
    "behaviour.hidden_dim": 512, "behaviour.max_weight": 100.0, "behaviour.noise_std": 0.05,
    "behaviour.noise_clip": 0.3,
    "planner.horizon": 5, "planner.num_samples": 512, "planner.num_policy": 51, "planner.num_elites": 50,
    "planner.temperature": 0.5, "planner.momentum": 0.1, "planner.min_std": 0.05, "planner.max_std": 2.0,
    "balance.dynamics": 20.0, "balance.reward": 0.5, "balance.q": 0.1, "balance.v": 0.1,
    "replay.priority_exponent": 0.6, "replay.weight_exponent": 0.4,
}  # fmt: skip
NAMES = ("critic.expectile", "behaviour.inverse_temperature", "planner.uncertainty", "planner.iterations",
         "discount", "replay.capacity")  # fmt: skip
TASKS = {
    "fowm": (0.9, 3.0, 1.0, 6, 0.9, 10_000),
    "fowm-hopper": (0.7, 3.0, 20.0, 1, 0.99, 200_000),
    "fowm-antmaze": (0.9, 10.0, 3.0, 1, 0.99, 200_000),
}


def value(config, name: str):
    for part in name.split("."):
        config = getattr(config, part)
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
    assert [p.data.reward_return_range for p in (xarm, hopper, antmaze)] == [None, 1000, None]
    assert [p.data.reward_shift for p in (xarm, hopper, antmaze)] == [None, None, -1]
    assert not any(p.data.normalize for p in (xarm, hopper, antmaze))


def test_every_preset_says_what_it_is_for():
    assert all(preset.about for preset in presets.PRESETS.values())


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match=r"did you mean 'fowm'\? have small, fowm"):
        presets.get("fown")
