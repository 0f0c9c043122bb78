"""Compares losses, gradients, steps and plans with FOWM's formulas in `tests/support/plain.py`."""

from dataclasses import replace

import pytest
import torch

from o2o.agent import critic as critic_file
from o2o.agent.agent import Agent
from o2o.agent.agent_config import AgentConfig
from o2o.agent.critic import CriticConfig
from o2o.agent.optimizer import OptimizerConfig
from o2o.agent.planner.mppi import PlannerConfig
from o2o.agent.policy import PolicyConfig
from o2o.core.spec import Spec
from o2o.core.transform import ObsTransform, Transform
from o2o.data.replay_buffer import Replay, ReplayConfig
from o2o.models import tdmpc
from tests.support.episodes import make_batch, make_episode
from tests.support.plain import Config, Plain, crop, draw_shift, resample, stack

FIELDS = {
    "state": {"state": ObsTransform((5,))},
    "image": {"camera": ObsTransform((40, 40, 3), image=True, size=84)},
    "both": {"camera": ObsTransform((40, 40, 3), image=True, size=84), "arm.joint": ObsTransform((4,))},
}
CONFIG = AgentConfig(
    model_options=tdmpc.Config(latent_dim=6, hidden_dim=12, encoder_dim=10, channels=4),
    critic=CriticConfig(hidden_dim=12, expectile=0.8),
    policy=PolicyConfig(hidden_dim=12, inverse_temperature=4.0, max_weight=1.5),
    planner=PlannerConfig(
        horizon=3, num_samples=12, num_policy=5, num_elites=4, iterations=3, uncertainty=2.0
    ),
    discount=0.95,
    optimizer=OptimizerConfig(clip_norm=0.1),  # low, so that clipping is seen
)


def make_agent(kind: str) -> Agent:
    """An agent without zero weights, whose target networks differ from their sources."""
    agent = Agent(Transform(FIELDS[kind], (-1.0, -1.0), (1.0, 1.0)), CONFIG, seed=1)
    agent._contract_checked = True  # `draws` records those of the updates alone
    with torch.no_grad():
        for part in agent.parts.values():
            for weight in part.parameters():
                weight.add_(0.2 * torch.randn_like(weight))
    return agent


def make_windows(agent: Agent, seed: int = 0):
    """A batch with padding, endings and unknown observations."""
    batch = make_batch(agent.transform.spec, steps=5, size=6, seed=seed)
    valid, known = batch.valid.clone(), batch.next_valid.clone()
    valid[3:, 0] = valid[1:, 1] = False
    known[2, 2] = False
    return replace(batch, valid=valid, next_valid=known & valid, reward=batch.reward * valid)


def parameters(agent: Agent) -> dict[str, torch.Tensor]:
    return {f"{part}.{k}": v for part, module in agent.parts.items() for k, v in module.named_parameters()}


def read_weights(agent: Agent) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in parameters(agent).items()}


def make_plain(agent: Agent) -> Plain:
    """The formulas with the agent's weights and the agent's way to draw two members."""
    plain = Plain(read_weights(agent), Config.of(CONFIG))
    plain.pair = lambda: critic_file.random_pair(plain.num_q, "cpu").tolist()
    return plain


@pytest.fixture
def draws(monkeypatch):
    """What `o2o` drew by chance: image shifts and pairs of members, in order."""
    drawn = {"shift": [], "pair": []}
    shift_by, pair = tdmpc.random_shift, critic_file.random_pair

    def shifted(image, pad):
        offset = torch.randint(0, 2 * pad + 1, (2, len(image)))
        drawn["shift"].append(offset)
        monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: offset)
        try:
            return shift_by(image, pad)
        finally:
            monkeypatch.setattr(torch, "randint", randint)

    def paired(num, device):
        drawn["pair"].append(pair(num, device))
        return drawn["pair"][-1]

    randint = torch.randint
    monkeypatch.setattr(tdmpc, "random_shift", shifted)
    monkeypatch.setattr(critic_file, "random_pair", paired)
    return drawn


# ---- the comparison


@pytest.mark.parametrize("kind", FIELDS)
def test_losses_gradients_and_priorities_are_those_of_the_formulas(kind, draws):
    agent = make_agent(kind)
    batch, plain = make_windows(agent), make_plain(agent)
    metrics, priority = agent.update(batch)
    loss, norms, want_priority = plain.update(batch, draws)

    assert loss.keys() == {"dynamics", "reward", "q", "v", "policy"}
    for name, value in loss.items():
        torch.testing.assert_close(metrics[f"loss/{name}"], value, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(priority, want_priority, rtol=2e-5, atol=1e-6)
    assert norms.keys() == {"model", "policy"}
    for group, norm in norms.items():
        assert metrics[f"grad_norm/{group}"].item() == pytest.approx(norm.item(), rel=1e-4)
        assert norm > 0.1, "clipping is not seen"
    have = parameters(agent)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(have[name].grad, gradient, rtol=1e-3, atol=2e-6, msg=name)


def gradients(plain: Plain) -> dict[str, torch.Tensor]:
    return stack({name: leaf.grad for name, leaf in plain.w.items() if leaf.grad is not None})


@pytest.mark.parametrize("kind", FIELDS)
def test_several_updates_end_at_the_weights_of_the_formulas(kind, draws):
    agent = make_agent(kind)
    start, plain = read_weights(agent), make_plain(agent)
    for seed in range(3):
        batch = make_windows(agent, seed)
        agent.update(batch)
        plain.update(batch, draws)
        for drawn in draws.values():
            drawn.clear()
    have = read_weights(agent)
    for name, want in stack(plain.w).items():
        torch.testing.assert_close(have[name], want.detach(), rtol=1e-4, atol=2e-5, msg=name)
        assert not torch.equal(have[name], start[name]), f"{name} has not moved"


def test_bilinear_resampling_by_whole_pixels_is_the_crop():
    image = torch.randint(0, 256, (7, 3, 84, 84), dtype=torch.uint8)
    offset = draw_shift(image)
    torch.testing.assert_close(resample(image, offset), crop(image, offset).float(), rtol=0, atol=0.02)


def test_the_stored_priority_is_the_sum_to_the_power_of_the_exponent():
    replay = Replay(Spec({"state": (3,)}, 2), 10, 0, ReplayConfig(priority_exponent=0.6))
    replay.add(make_episode(4))
    batch = replace(replay.sample(2, 1), index=torch.tensor([1, 3]))
    replay.update_priority(batch, torch.tensor([0.7, 2e4]))
    assert replay.state()[0]["leaf"][[1, 3]].tolist() == pytest.approx(
        [(0.7 + 1e-6) ** 0.6, 1e4**0.6], rel=2e-6
    )


def test_target_networks_move_after_every_second_update():
    agent = make_agent("state")
    for number in range(4):
        before = read_weights(agent)
        agent.update(make_windows(agent))
        after, moved = read_weights(agent), 0
        for name, old in before.items():
            if "target_" not in name:
                continue
            source = after[name.replace("target_", "").replace("copy.", "")]
            want = 0.99 * old + 0.01 * source if number % 2 == 0 else old
            torch.testing.assert_close(after[name], want, rtol=1e-5, atol=1e-6)
            moved += not torch.equal(after[name], old)
        assert bool(moved) == (number % 2 == 0)


def test_the_first_step_of_adam_is_its_learning_rate_against_the_sign():
    agent = make_agent("state")
    before = read_weights(agent)
    agent.update(make_windows(agent))
    for part, module in agent.parts.items():
        for name, weight in module.named_parameters():
            if weight.grad is None:
                continue
            clear = weight.grad.abs() > 1e-5
            step = (weight.detach() - before[f"{part}.{name}"])[clear]
            torch.testing.assert_close(step, -3e-4 * weight.grad[clear].sign(), rtol=5e-3, atol=2e-7)


@pytest.mark.parametrize("kind", ["state", "both"])
@pytest.mark.parametrize("explore", [False, True])
def test_plans_are_those_of_the_formulas(kind, explore):
    agent = make_agent(kind)
    plain, memory = make_plain(agent), None
    for number, first in enumerate([(True, True), (False, False), (True, False)]):
        obs = {k: v[0] for k, v in make_batch(agent.transform.spec, size=2, seed=number).obs.items()}
        with torch.no_grad():
            z = plain.encode(obs)
            state = agent.model.observe(agent.model.start(2), None, None, obs, None)
        torch.testing.assert_close(state["z"], z, rtol=1e-5, atol=1e-6)
        torch.manual_seed(number)
        plan = agent.planner.plan(
            state, agent.model, agent.critic, agent.policy, memory, torch.tensor(first), explore
        )
        torch.manual_seed(number)
        action, mean, value = plain.plan(obs, memory, first, explore)
        torch.testing.assert_close(plan.value, value, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(plan.memory, mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(plan.action, action, rtol=1e-4, atol=1e-4)
        memory = plan.memory
