"""Tests the agent: loss reduction, separate optimizers, bit-exact save and load (G36)."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from o2o.agent.agent import Agent, read_config
from o2o.core.config import to_dict
from o2o.core.errors import UsageError
from o2o.core.transform import ObsTransform, Transform
from o2o.models import tdmpc
from tests.support.paths import RECURRENT_MODEL
from tests.support.tiny_agent import TINY, agent, batch


def weights(agent: Agent) -> dict:
    return {k: v.clone() for part in agent.parts.values() for k, v in part.state_dict().items()}


@pytest.mark.parametrize(("rho", "valid_steps", "want"), [(1.0, 5, 1.0), (0.5, 5, 0.3875), (1.0, 1, 0.6)])
def test_reduction_of_a_constant_loss(rho, valid_steps, want):
    hub = agent(replace(TINY, rho=rho))
    data = batch()
    valid = data.valid.clone()
    valid[valid_steps:, : valid.shape[1] // 2] = False
    data = replace(data, valid=valid, weight=torch.ones_like(data.weight))
    ones = torch.ones_like(data.reward)
    hub.critic.losses = lambda unroll, batch: ({"q": ones}, ones)
    world, _, priority = hub._losses(data)
    assert world["q"].item() == pytest.approx(want)
    assert priority[-1].item() == pytest.approx(sum(rho**t for t in range(5)))


def test_padding_and_importance_weight_scale_every_loss_and_the_policy_too():
    hub, data = agent(), batch()
    none = replace(data, weight=torch.zeros_like(data.weight))
    world, policy, _ = hub._losses(none)
    assert all(loss.item() == 0 for loss in [*world.values(), *policy.values()])


def test_policy_and_world_train_disjoint_parameters():
    hub = agent()
    world, policy = (set(map(id, hub.optimizers[name].parameters)) for name in ("model", "policy"))
    trainable = {id(p) for part in hub.parts.values() for p in part.parameters() if p.requires_grad}
    assert not world & policy and world | policy == trainable


def test_update_moves_weights_and_clips_gradients():
    hub = agent()
    before = weights(hub)
    metrics, priority = hub.update(batch())
    moved = [name for name, value in weights(hub).items() if not value.equal(before[name])]
    assert any("encoder" in name for name in moved) and any("q_heads" in name for name in moved)
    assert priority.shape == (8,) and (priority >= 0).all()
    assert all(torch.isfinite(value) for value in metrics.values())


def test_validate_changes_nothing():
    hub = agent()
    before = weights(hub)
    hub.validate(batch())
    assert all(value.equal(before[name]) for name, value in weights(hub).items())


def test_stop_and_resume_gives_the_same_bits():
    straight = agent()
    for i in range(6):
        straight.update(batch(i))
    first = agent()
    for i in range(3):
        first.update(batch(i))
    torch.randn(1000)  # the rest of the program draws numbers too
    second = Agent.from_state(*first.state())
    for i in range(3, 6):
        second.update(batch(i))
    a, b = straight.state()[0], second.state()[0]
    assert a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def act(hub: Agent, n=2, first=True, **flags):
    obs = {"state": np.ones((n, 3), np.float32)}
    return hub.act(obs, np.zeros((n, 2)), np.zeros(n), np.full(n, first), **flags)


def test_acting_is_fixed_by_its_seed_and_leaves_learning_alone():
    hub = agent()
    hub.start(2, seed=5)
    one = act(hub, explore=True)
    learning = hub.learning_stream.state()["cpu"]
    hub.start(2, seed=5)
    two = act(hub, explore=True)
    assert np.array_equal(one, two) and hub.learning_stream.state()["cpu"].equal(learning)
    hub.start(2, seed=6)
    assert not np.array_equal(one, act(hub, explore=True))


def test_planner_memory_is_saved_and_given_back():
    hub = agent()
    hub.start(2, seed=5)
    act(hub)
    copy = Agent.from_state(*hub.state())
    assert np.array_equal(act(hub, first=False), act(copy, first=False))


def test_policy_alone_and_planner_differ():
    hub = agent()
    hub.start(2, seed=0)
    assert not np.array_equal(act(hub, plan=False), act(hub, plan=True))
    assert np.abs(act(hub, plan=True, explore=True)).max() <= 1


def test_checkpoint_of_another_size_names_what_differs():
    tensors, meta = agent().state()
    other = replace(TINY, model_options=tdmpc.Config(latent_dim=9, hidden_dim=16, encoder_dim=16))
    with pytest.raises(UsageError, match=r"does not fit the model.*wanted"):
        Agent.from_state(tensors, meta, config=other)


def test_config_survives_json_and_unknown_fields_are_named():
    config = replace(TINY, discount=0.95)
    assert read_config(to_dict(config)) == config
    with pytest.raises(UsageError, match="wings"):
        read_config(to_dict(config) | {"wings": 2})


def test_an_external_model_file_learns_and_acts():
    path = RECURRENT_MODEL
    hub = agent(
        replace(
            TINY,
            model=path,
            model_options=read_config({"model": path, "model_options": {"hidden_dim": 12}}).model_options,
        )
    )
    hub.update(batch())
    hub.start(3, seed=0)
    assert act(hub, n=3).shape == (3, 2)
    assert Agent.from_state(*hub.state()).model.feature_dim == 12


def test_bfloat16_products_leave_losses_actions_and_weights_in_float32():
    exact, rounded = agent(), agent(replace(TINY, precision="bfloat16"))
    want, _ = exact.update(batch())
    have, priority = rounded.update(batch())
    assert priority.dtype == torch.float32
    for name, value in want.items():
        assert have[name].dtype == torch.float32
        torch.testing.assert_close(have[name], value, rtol=0.05, atol=0.02)
    assert {weight.dtype for weight in weights(rounded).values()} == {torch.float32, torch.int64}
    rounded.start(1, seed=0)
    zeros, obs = np.zeros((1, 2), np.float32), {"state": np.zeros((1, 3), np.float32)}
    for plan in (True, False):
        action = rounded.act(obs, zeros, zeros[:, 0], np.array([True]), plan=plan)
        assert action.dtype == np.float32 and np.isfinite(action).all()


def test_a_search_may_do_without_candidates_of_the_policy():
    hub = agent(replace(TINY, planner=replace(TINY.planner, num_policy=0)))
    action = act(hub)
    assert action.shape == (2, 2) and np.isfinite(action).all()


def test_an_agent_acts_on_the_frames_that_an_episode_holds():
    camera = ObsTransform((8, 8, 1), image=True, size=64, frames=3)
    agent = Agent(Transform({"camera": camera}, (-1.0,), (1.0,)), TINY, "cpu")
    images = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 1), dtype=np.uint8)
    stacked = torch.as_tensor(camera.stack(camera(images)))
    agent.start(1, 0)
    for t in range(4):
        obs = agent.transform.obs({"camera": images[t : t + 1]})
        agent.act(obs, np.zeros((1, 1)), np.zeros(1), np.array([t == 0]), plan=False)
        seen = {"camera": stacked[t : t + 1]}
        expected = agent.model.observe({}, torch.zeros(1, 1), torch.zeros(1), seen, torch.ones(1).bool())["z"]
        assert torch.equal(agent.belief["z"], expected)
    assert agent.state()[0]["frames.camera"].equal(stacked[3:4])
    first = np.array([True])
    agent.act(agent.transform.obs({"camera": images[:1]}), np.zeros((1, 1)), np.zeros(1), first, plan=False)
    assert agent.frames["camera"].equal(stacked[:1])
