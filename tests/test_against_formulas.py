"""Losses, gradients and plans equal FOWM's formulas, written down again here from weights alone.

Source: Feng et al. 2023 (FOWM), with the deviations that the docstrings of `o2o` name. Nothing of `o2o`
is called below `# ---- the formulas`; loops run over time, members and robots one by one.
"""

import math
from dataclasses import replace

import pytest
import torch
from conftest import make_batch, make_episode
from torch.nn import functional as F

from o2o import critic as critic_file
from o2o.agent import Agent, AgentConfig
from o2o.behaviour import BehaviourConfig
from o2o.critic import CriticConfig
from o2o.data.replay import Replay, ReplayConfig
from o2o.models import tdmpc
from o2o.planner import PlannerConfig
from o2o.spec import Spec
from o2o.transform import Field, Transform

FIELDS = {
    "state": {"state": Field((5,))},
    "image": {"camera": Field((40, 40, 3), image=True, size=84)},
    "both": {"camera": Field((40, 40, 3), image=True, size=84), "arm.joint": Field((4,))},
}
CONFIG = AgentConfig(
    world=tdmpc.Config(latent_dim=6, hidden_dim=12, encoder_dim=10, channels=4),
    critic=CriticConfig(hidden_dim=12, expectile=0.8),
    behaviour=BehaviourConfig(hidden_dim=12, inverse_temperature=4.0, max_weight=1.5),
    planner=PlannerConfig(
        horizon=3, num_samples=12, num_policy=5, num_elites=4, iterations=3, uncertainty=2.0
    ),
    discount=0.95,
    clip_norm=0.1,  # low, so that clipping is seen
)
PREFIXES = {"world": ("model.", "critic."), "policy": ("behaviour.",)}


def make_agent(kind: str) -> Agent:
    """An agent without its zeros: every weight moved, slow copies unlike their sources."""
    agent = Agent(Transform(FIELDS[kind], (-1.0, -1.0), (1.0, 1.0)), CONFIG, seed=1)
    with torch.no_grad():
        for part in agent.parts.values():
            for weight in part.parameters():
                weight.add_(0.2 * torch.randn_like(weight))
    return agent


def make_windows(agent: Agent):
    """A batch with padding, endings and unknown observations."""
    batch = make_batch(agent.transform.spec, steps=5, size=6)
    valid, known = batch.valid.clone(), batch.next_valid.clone()
    valid[3:, 0] = valid[1:, 1] = False
    known[2, 2] = False
    return replace(batch, valid=valid, next_valid=known & valid, reward=batch.reward * valid)


def read_weights(agent: Agent) -> dict[str, torch.Tensor]:
    """Name -> leaf with a gradient of its own."""
    weights = {}
    for part, module in agent.parts.items():
        for name, value in module.named_parameters():
            weights[f"{part}.{name}"] = value.detach().clone().requires_grad_("slow_" not in name)
    return weights


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


# ---- the formulas


def norm(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def normed(w, name, x):
    return norm(x, w[f"{name}.weight"], w[f"{name}.bias"])


def mish(x):
    return x * torch.tanh(torch.log1p(torch.exp(x)))


def mlp(w, name, x):
    for i in (0, 3):
        x = mish(normed(w, f"{name}.{i + 1}", linear(w, f"{name}.{i}", x)))
    return linear(w, f"{name}.6", x)


def head(w, name, x, i=0):
    x = torch.tanh(
        norm(
            x @ w[f"{name}.weight1"][i].T + w[f"{name}.bias1"][i],
            w[f"{name}.norm_weight"][i],
            w[f"{name}.norm_bias"][i],
        )
    )
    x = F.elu(x @ w[f"{name}.weight2"][i].T + w[f"{name}.bias2"][i])
    return (x @ w[f"{name}.weight3"][i].T + w[f"{name}.bias3"][i])[..., 0]


def encode(w, obs, name="model.encoder"):
    latents = []
    for key, x in obs.items():
        part = f"{name}.parts.{key.replace('.', '/')}"
        if x.dtype == torch.uint8:
            x = x.float() / 255
            for i in (0, 2, 4, 6):
                x = torch.relu(
                    F.conv2d(x, w[f"{part}.conv.{i}.weight"], w[f"{part}.conv.{i}.bias"], stride=2)
                )
            x = torch.sigmoid(normed(w, f"{part}.head.1", linear(w, f"{part}.head.0", x.flatten(1))))
        else:
            x = F.elu(linear(w, f"{part}.0", x))
            x = torch.sigmoid(normed(w, f"{part}.3", linear(w, f"{part}.2", x)))
        latents.append(x)
    return sum(latents) / len(latents)


def dynamics(w, z, a):
    return torch.sigmoid(normed(w, "model.dynamics.1", mlp(w, "model.dynamics.0", torch.cat([z, a], -1))))


def reward(w, z, a):
    return mlp(w, "model.reward", torch.cat([z, a], -1))[..., 0]


def q_values(w, z, a, slow=False):
    name = "critic.slow_q_heads.copy" if slow else "critic.q_heads"
    return [head(w, name, torch.cat([z, a], -1), i) for i in range(5)]


def policy(w, z):
    return torch.tanh(mlp(w, "behaviour.net", z))


def augment(image, offset):
    padded = F.pad(image.float(), (4, 4, 4, 4), mode="replicate")
    rows = [
        x[:, top : top + 84, left : left + 84] for x, top, left in zip(padded, *offset.tolist(), strict=True)
    ]
    return torch.stack(rows).to(torch.uint8)


def seen(batch, shifts):
    """(T+1) observations, each image shifted on its own."""
    steps, size = batch.reward.shape
    frames = [{k: v[t] for k, v in batch.obs.items()} for t in range(steps + 1)]
    if "camera" in batch.obs:
        first, later = shifts
        offsets = [first, *later.view(2, steps, size).unbind(1)]
        for frame, offset in zip(frames, offsets, strict=True):
            frame["camera"] = augment(frame["camera"], offset)
    return frames


def fowm(w, batch, draws):
    """Losses by name, summed over t with rho^t, the mask and the weights, and divided by T B; priorities."""
    steps, size = batch.reward.shape
    frames, (pair_v, pair_policy) = seen(batch, draws["shift"]), draws["pair"]
    loss = dict.fromkeys(("dynamics", "reward", "q", "v", "policy"), torch.zeros(()))
    priority, z = torch.zeros(size), encode(w, frames[0])
    for t in range(steps):
        a, later = batch.action[t], frames[t + 1]
        with torch.no_grad():
            target = encode(w, later, "model.slow_encoder.copy")
            alive = 1 - batch.terminated[t].float()
            y = batch.reward[t] + CONFIG.discount * alive * head(w, "critic.v_head", encode(w, later))
            slow = q_values(w, z, a, slow=True)
            advised = torch.minimum(*(slow[i] for i in pair_v))
            advantage = torch.minimum(*(slow[i] for i in pair_policy)) - head(w, "critic.v_head", z)
            c = torch.exp(4.0 * advantage).clamp(max=1.5)
        z_next = dynamics(w, z, a)
        error = [q - y for q in q_values(w, z, a)]
        u = advised - head(w, "critic.v_head", z)
        distance = ((policy(w, z.detach()) - a) ** 2).sum(-1)
        now = {
            "dynamics": ((z_next - target) ** 2).mean(-1) * batch.next_valid[t],
            "reward": (reward(w, z, a) - batch.reward[t]) ** 2,
            "q": sum(e**2 for e in error),
            "v": abs(0.8 - (u.detach() < 0).float()) * u**2,
            "policy": c * (distance / 2 + math.log(2 * math.pi)),  # two actions
        }
        counts = 0.5**t * batch.valid[t]
        priority = priority + counts * sum(abs(e) for e in error).detach()
        for name, value in now.items():
            loss[name] = loss[name] + (counts * batch.weight * value).sum() / (steps * size)
        z = z_next
    return loss, priority


def mppi(w, z, memory, first, explore):
    """(action, mean, value) of each robot; draws noise in the planner's order."""
    cfg, robots, candidates = CONFIG.planner, len(z), 17

    def noisy(state):
        mean = policy(w, state)
        return mean, (torch.randn_like(mean) * 0.05).clamp(-0.3, 0.3)

    def rollout(state, plans):
        mean, noise = noisy(state)
        plans.append((mean + noise).clamp(-1 + 1e-6, 1 - 1e-6))
        return dynamics(w, state, plans[-1])

    plans, state = [], z.repeat_interleave(5, 0)
    for _ in range(3):
        state = rollout(state, plans)
    prior = [torch.stack(plans)[:, 5 * n : 5 * n + 5] for n in range(robots)]
    mean = [torch.zeros(3, 2) for _ in range(robots)]
    if memory is not None:
        for n in range(robots):
            if not first[n]:
                mean[n][:2] = memory[1:, n]
    std = [torch.full((3, 2), 2.0) for _ in range(robots)]
    elites, weights, values = [None] * robots, [None] * robots, [None] * robots
    for _ in range(cfg.iterations):
        noise = torch.randn(3, robots, 12, 2)
        plans = [
            torch.cat([(mean[n][:, None] + std[n][:, None] * noise[:, n]).clamp(-1, 1), prior[n]], 1)
            for n in range(robots)
        ]
        returns, ends = [torch.zeros(candidates) for _ in range(robots)], []
        for n in range(robots):
            state = z[n].expand(candidates, -1)
            for t in range(3):
                spread = torch.stack(q_values(w, state, plans[n][t])).std(0, correction=1)
                returns[n] = returns[n] + 0.95**t * (reward(w, state, plans[n][t]) - 2.0 * spread)
                state = dynamics(w, state, plans[n][t])
            ends.append(state)
        leaf_mean, leaf_noise = noisy(torch.cat(ends))
        leaf = (leaf_mean + leaf_noise).clamp(-1 + 1e-6, 1 - 1e-6)
        i, j = torch.randperm(5)[:2].tolist()
        for n in range(robots):
            q = q_values(w, ends[n], leaf[n * candidates : (n + 1) * candidates])
            spread = torch.stack(q).std(0, correction=1)
            returns[n] = returns[n] + 0.95**3 * (torch.minimum(q[i], q[j]) - 2.0 * spread)
            order = returns[n].argsort(descending=True)[:4]
            best = returns[n][order]
            weight = torch.exp(0.5 * (best - best.max()))
            weight = weight / weight.sum()
            elite = plans[n][:, order]
            new = (weight[:, None] * elite).sum(1)
            std[n] = (weight[:, None] * (elite - new[:, None]) ** 2).sum(1).sqrt().clamp(0.05, 2.0)
            mean[n] = 0.1 * mean[n] + 0.9 * new
            elites[n], weights[n], values[n] = elite, weight, (weight * best).sum()
    chosen = torch.multinomial(torch.stack(weights), 1)
    action = torch.stack([elites[n][0, chosen[n, 0]] for n in range(robots)])
    if explore:
        action = action + torch.stack([std[n][0] for n in range(robots)]) * torch.randn_like(action)
    return action.clamp(-1, 1), torch.stack(mean, 1), torch.stack(values)


# ---- the comparison


@pytest.mark.parametrize("kind", FIELDS)
def test_losses_gradients_and_priorities_are_those_of_the_formulas(kind, draws):
    agent = make_agent(kind)
    batch, w = make_windows(agent), read_weights(agent)
    metrics, priority = agent.update(batch)
    loss, want_priority = fowm(w, batch, draws)

    for name, value in loss.items():
        torch.testing.assert_close(metrics[f"loss/{name}"], value.detach(), rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(priority, want_priority, rtol=2e-5, atol=1e-6)

    total = 20 * loss["dynamics"] + 0.5 * loss["reward"] + 0.1 * loss["q"] + 0.1 * loss["v"] + loss["policy"]
    total.backward()
    have = {f"{p}.{k}": v for p, module in agent.parts.items() for k, v in module.named_parameters()}
    for group, prefixes in PREFIXES.items():
        own = {k: v for k, v in w.items() if k.startswith(prefixes) and v.requires_grad}
        length = math.sqrt(sum(v.grad.square().sum().item() for v in own.values()))
        assert metrics[f"grad_norm/{group}"].item() == pytest.approx(length, rel=1e-4)
        assert length > 0.1, "clipping is not seen"
        for name, weight in own.items():
            want = weight.grad * 0.1 / length
            torch.testing.assert_close(have[name].grad, want, rtol=1e-3, atol=2e-6, msg=name)


def test_the_stored_priority_is_the_sum_to_the_power_of_the_exponent():
    replay = Replay(Spec({"state": (3,)}, 2), 10, 0, ReplayConfig(priority_exponent=0.6))
    replay.add(make_episode(4))
    batch = replace(replay.sample(2, 1), index=torch.tensor([1, 3]))
    replay.update_priority(batch, torch.tensor([0.7, 2e4]))
    assert replay.state()[0]["leaf"][[1, 3]].tolist() == pytest.approx(
        [(0.7 + 1e-6) ** 0.6, 1e4**0.6], rel=2e-6
    )


def test_slow_copies_move_after_the_step_at_every_second_update():
    agent = make_agent("state")
    for number in range(4):
        before = read_weights(agent)
        agent.update(make_windows(agent))
        after, moved = read_weights(agent), 0
        for name, old in before.items():
            if "slow_" not in name:
                continue
            source = after[name.replace("slow_", "").replace("copy.", "")].detach()
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
            step = (weight.detach() - before[f"{part}.{name}"].detach())[clear]
            torch.testing.assert_close(step, -3e-4 * weight.grad[clear].sign(), rtol=5e-3, atol=2e-7)


@pytest.mark.parametrize("kind", ["state", "both"])
@pytest.mark.parametrize("explore", [False, True])
def test_plans_are_those_of_the_formulas(kind, explore):
    agent = make_agent(kind)
    w = {name: value.detach() for name, value in read_weights(agent).items()}
    memory = None
    for number, first in enumerate([(True, True), (False, False), (True, False)]):
        obs = {k: v[0] for k, v in make_batch(agent.transform.spec, size=2, seed=number).obs.items()}
        with torch.no_grad():
            z = encode(w, obs)
            state = agent.model.observe(agent.model.start(2), None, None, obs, None)
        torch.testing.assert_close(state["z"], z, rtol=1e-5, atol=1e-6)
        torch.manual_seed(number)
        plan = agent.planner.plan(
            state, agent.model, agent.critic, agent.behaviour, memory, torch.tensor(first), explore
        )
        torch.manual_seed(number)
        with torch.no_grad():
            action, mean, value = mppi(w, z, memory, first, explore)
        torch.testing.assert_close(plan.value, value, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(plan.memory, mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(plan.action, action, rtol=1e-4, atol=1e-4)
        memory = plan.memory
