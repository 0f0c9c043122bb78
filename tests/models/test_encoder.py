"""Tests the model that only encodes: what its features are, and that nothing can be imagined with it."""

from dataclasses import replace

import pytest
import torch

from o2o.agent.agent import Agent
from o2o.agent.imagination import ImaginationConfig
from o2o.core.errors import UsageError
from o2o.core.spec import Spec
from o2o.core.transform import Transform
from o2o.models.encoder import Config, Model
from tests.support.episodes import make_batch
from tests.support.preset_agents import PIXELS, STATE, act, make, tiny, windows

VECTORS = Spec({"state": (3,), "goal": (2,)}, 2)
BOTH = Spec({"camera": (3, 64, 64), "state": (3,)}, 2)
PREDICTS_NOTHING = "model 'encoder' encodes observations and predicts nothing.*--no-plan"


def test_the_feature_of_vectors_is_the_vectors_and_there_is_nothing_to_learn():
    model, batch = Model(VECTORS, 0.9, Config()), make_batch(VECTORS)
    unroll = model.unroll(batch)
    vectors = torch.cat([batch.obs["state"], batch.obs["goal"]], -1)
    assert torch.equal(unroll.feature, vectors[:-1]) and torch.equal(unroll.next_feature, vectors[1:])
    assert not unroll.losses and not list(model.parameters()) and not model.state_dict()
    first = {name: value[0] for name, value in batch.obs.items()}
    action, reward = batch.action[0], batch.reward[0]
    state = model.observe(model.start(8), action, reward, first, torch.ones(8, dtype=torch.bool))
    assert torch.equal(model.feature(state), vectors[0]) and model.start(8)["feature"].shape == (8, 5)


def test_images_are_encoded_to_unit_scale_and_carry_gradient():
    model, batch = Model(BOTH, 0.9, Config(latent_dim=16, channels=4)), make_batch(BOTH)
    unroll = model.unroll(batch)
    assert unroll.feature.shape == (5, 8, 19)
    assert torch.equal(unroll.feature[..., :3], batch.obs["state"][:-1])
    latent = unroll.feature[..., 3:]
    assert latent.mean(-1).abs().max() < 1e-4
    assert latent.std(-1, correction=0).sub(1).abs().max() < 0.01
    latent.square().sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert not unroll.next_feature.requires_grad and not unroll.starts["feature"].requires_grad


def test_a_step_a_plan_and_imagination_are_refused_in_one_line():
    model = Model(VECTORS, 0.9, Config())
    with pytest.raises(UsageError, match=PREDICTS_NOTHING):
        model.step(model.start(1), torch.zeros(1, 2))
    agent = make("bc")
    agent.start(2, seed=0)
    with pytest.raises(UsageError, match=PREDICTS_NOTHING):
        act(agent, plan=True)
    agent.check_imagines(False)
    with pytest.raises(UsageError, match=PREDICTS_NOTHING):
        agent.check_imagines()
    config = tiny("bc")
    for impossible in (
        replace(config, imagination=ImaginationConfig(steps=3)),
        replace(config, planner=replace(config.planner, uncertainty="auto")),
    ):
        with pytest.raises(UsageError, match=PREDICTS_NOTHING):
            Agent(Transform(STATE, (-1.0, -1.0), (1.0, 1.0)), impossible)


@pytest.mark.parametrize("trains", [False, True])
def test_the_loss_of_the_policy_trains_the_encoder_only_where_it_is_told_to(trains):
    config = tiny("bc")
    config = replace(
        config,
        policy=replace(config.policy, encoder_gradient=trains),
        balance_options=replace(config.balance_options, q=0.0, v=0.0),
    )
    agent = Agent(Transform(PIXELS, (-1.0, -1.0), (1.0, 1.0)), config)
    before = [weight.clone() for weight in agent.model.parameters()]
    agent.update(windows(agent, 0))
    moved = [not torch.equal(*pair) for pair in zip(before, agent.model.parameters(), strict=True)]
    assert all(moved) if trains else not any(moved)
