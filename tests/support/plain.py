"""Implements FOWM in plain eager PyTorch, as the reference for correctness and speed.

Written from the formulas alone: nothing of `o2o` is called, torch keeps its default settings, and loops
run over time, members and robots one by one. No work is done twice that the reference does once, and
none is left out: 24.7 GFLOP an update and 81.5 a plan of six iterations at the reference's sizes.

Source: Feng et al. 2023 (FOWM), with the deviations that the docstrings of `o2o` name.
"""

import math
import re
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

GROUPS = {"model": ("model.", "critic."), "policy": ("policy.",)}


@dataclass(frozen=True)
class Config:
    """Every number of the equations that the weights' shapes do not say. Defaults: FOWM, xArm."""

    discount: float = 0.9
    rho: float = 0.5
    learning_rate: float = 3e-4
    clip_norm: float = 10.0
    dynamics: float = 20.0
    reward: float = 0.5
    q: float = 0.1
    v: float = 0.1
    expectile: float = 0.9
    inverse_temperature: float = 3.0
    max_weight: float = 100.0
    target_rate: float = 0.01
    target_every: int = 2
    noise_std: float = 0.05
    noise_clip: float = 0.3
    horizon: int = 5
    num_samples: int = 512
    num_policy: int = 51
    num_elites: int = 50
    iterations: int = 6
    uncertainty: float = 1.0
    temperature: float = 0.5
    momentum: float = 0.1
    min_std: float = 0.05
    max_std: float = 2.0

    @classmethod
    def of(cls, config) -> "Config":
        """The same numbers from a config whose parts hold them under the same names."""
        said = {}
        for part in (
            config.critic,
            config.policy,
            config.balance_options,
            config.planner,
            config.optimizer,
            config,
        ):
            said |= vars(part)  # `discount` is a loss's weight in the balance and gamma in the config
        return cls(**{field.name: said[field.name] for field in fields(cls)})


class Plain:
    """Weights by name, two optimizers, and the equations.

    Attributes:
        w: name -> leaf tensor; members of an ensemble are leaves of their own, `critic.q_heads.0.weight1`.
        groups: leaves that one optimizer moves.
        num_updates: optimizer steps so far.
    """

    def __init__(self, weights: dict[str, Tensor], config: Config):
        """
        Args:
            weights: name -> tensor, members of an ensemble stacked along the first axis.
        Raises:
            ValueError: weights that the equations do not know.
        """
        unknown = [name for name in weights if name.startswith("model.continues")]
        if unknown:
            raise ValueError(f"{unknown[0]} is not part of FOWM")
        self.config, self.num_updates = config, 0
        self.w = {name: value.detach().clone() for name, value in unstack(weights).items()}
        self.num_q = sum(name.endswith(".weight1") for name in self.w if name.startswith("critic.q_heads."))
        self.action_dim = self.w["policy.net.6.bias"].numel()
        self.groups: dict[str, list[Tensor]] = {name: [] for name in GROUPS}
        for name, leaf in self.w.items():
            if "target_" not in name:
                group = next(g for g, prefixes in GROUPS.items() if name.startswith(prefixes))
                self.groups[group].append(leaf.requires_grad_())
        self.optimizers = {
            name: torch.optim.Adam(group, lr=config.learning_rate) for name, group in self.groups.items()
        }

    # ---- networks

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def mlp(self, name: str, x: Tensor) -> Tensor:
        for i in (0, 3):
            x = F.mish(self.norm(f"{name}.{i + 1}", self.linear(f"{name}.{i}", x)))
        return self.linear(f"{name}.6", x)

    def head(self, name: str, x: Tensor) -> Tensor:
        """(N,) of (N, in)."""
        w = self.w
        x = F.linear(x, w[f"{name}.weight1"], w[f"{name}.bias1"])
        x = torch.tanh(F.layer_norm(x, x.shape[-1:], w[f"{name}.norm_weight"], w[f"{name}.norm_bias"]))
        x = F.elu(F.linear(x, w[f"{name}.weight2"], w[f"{name}.bias2"]))
        return F.linear(x, w[f"{name}.weight3"], w[f"{name}.bias3"])[:, 0]

    def image_part(self, name: str, x: Tensor) -> Tensor:
        x = x.float() / 255
        for i in (0, 2, 4, 6):
            x = F.conv2d(x, self.w[f"{name}.conv.{i}.weight"], self.w[f"{name}.conv.{i}.bias"], stride=2)
            x = torch.relu(x)
        return torch.sigmoid(self.norm(f"{name}.head.1", self.linear(f"{name}.head.0", x.flatten(1))))

    def vector_part(self, name: str, x: Tensor) -> Tensor:
        x = F.elu(self.linear(f"{name}.0", x))
        return torch.sigmoid(self.norm(f"{name}.3", self.linear(f"{name}.2", x)))

    def encode(self, obs: dict[str, Tensor], name: str = "model.encoder") -> Tensor:
        """(N, F) of name -> (N, *shape): the mean over the observations."""
        latents = []
        for key, x in obs.items():
            part = self.image_part if x.dim() == 4 else self.vector_part
            latents.append(part(f"{name}.parts.{key.replace('.', '/')}", x))
        return sum(latents[1:], latents[0]) / len(latents)

    def dynamics(self, joint: Tensor) -> Tensor:
        return torch.sigmoid(self.norm("model.dynamics.1", self.mlp("model.dynamics.0", joint)))

    def reward(self, joint: Tensor) -> Tensor:
        return self.mlp("model.reward", joint)[:, 0]

    def q(self, joint: Tensor) -> list[Tensor]:
        return [self.head(f"critic.q_heads.{i}", joint) for i in range(self.num_q)]

    def target_q(self, joint: Tensor, pair) -> Tensor:
        """(N,) the lesser of two slow members; only these two are evaluated."""
        return torch.minimum(*(self.head(f"critic.target_q_heads.copy.{i}", joint) for i in pair))

    def v(self, z: Tensor) -> Tensor:
        return self.head("critic.v_head.0", z)

    def policy(self, z: Tensor) -> Tensor:
        return torch.tanh(self.mlp("policy.net", z))

    # ---- learning

    def update(self, batch, draws: dict | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """One gradient step.

        Args:
            batch: windows, time first; see `losses`.
            draws: see `losses`.
        Returns:
            losses by name, gradient norms by group, and priorities (B,).
        """
        cfg = self.config
        losses, priority = self.losses(batch, draws)
        total = (
            cfg.dynamics * losses["dynamics"] + cfg.reward * losses["reward"]
            + cfg.q * losses["q"] + cfg.v * losses["v"] + losses["policy"]
        )  # fmt: skip
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        total.backward()
        norms = {}
        for name, optimizer in self.optimizers.items():
            norms[name] = torch.nn.utils.clip_grad_norm_(self.groups[name], cfg.clip_norm)
            optimizer.step()
        if self.num_updates % cfg.target_every == 0:
            self.track()
        self.num_updates += 1
        return {name: loss.detach() for name, loss in losses.items()}, norms, priority

    def losses(self, batch, draws: dict | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Losses by name, summed over t with rho^t, the mask and the weights, divided by T B; priorities.

        Args:
            batch: `obs` name -> (T+1, B, ...), `action` (T, B, A), and (T, B) `reward`, `terminated`,
                `valid`, `next_valid`; `weight` (B,).
            draws: `shift`, offsets (2, N) of the first images and of all later ones, and `pair`, the
                slow members for V and for the policy; None to draw them here.
        """
        cfg = self.config
        steps, size = batch.reward.shape
        frames = seen(batch.obs, draws and draws["shift"])
        pair_v, pair_policy = draws["pair"] if draws else (self.pair(), self.pair())
        losses, priority = dict.fromkeys(("dynamics", "reward", "q", "v", "policy"), 0.0), 0.0
        z = self.encode(frames[0])
        for t in range(steps):
            action, later = batch.action[t], frames[t + 1]
            joint = torch.cat([z, action], -1)
            with torch.no_grad():
                target = self.encode(later, "model.target_encoder.copy")
                alive = 1 - batch.terminated[t].float()
                y = batch.reward[t] + cfg.discount * alive * self.v(self.encode(later))
                advised = self.target_q(joint, pair_v)
                advantage = self.target_q(joint, pair_policy) - self.v(z)
                weight = torch.exp(cfg.inverse_temperature * advantage).clamp(max=cfg.max_weight)
            z_next = self.dynamics(joint)
            errors = [q - y for q in self.q(joint)]
            u = advised - self.v(z)
            distance = ((self.policy(z.detach()) - action) ** 2).sum(-1)
            now = {
                "dynamics": ((z_next - target) ** 2).mean(-1) * batch.next_valid[t],
                "reward": (self.reward(joint) - batch.reward[t]) ** 2,
                "q": sum(error**2 for error in errors),
                "v": abs(cfg.expectile - (u.detach() < 0).float()) * u**2,
                "policy": weight * 0.5 * (distance + action.shape[-1] * math.log(2 * math.pi)),
            }
            counts = cfg.rho**t * batch.valid[t]
            priority = priority + counts * sum(error.detach().abs() for error in errors)
            for name, value in now.items():
                losses[name] = losses[name] + (counts * batch.weight * value).sum() / (steps * size)
            z = z_next
        return losses, priority

    def pair(self) -> list[int]:
        return torch.randperm(self.num_q)[:2].tolist()

    @torch.no_grad()
    def track(self) -> None:
        """Moves the target networks."""
        for name, value in self.w.items():
            if "target_" in name:
                source = self.w[name.replace("target_", "").replace("copy.", "")]
                value.lerp_(source, self.config.target_rate)

    # ---- planning

    @torch.no_grad()
    def plan(self, obs, memory: Tensor | None, first, explore: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """MPPI with the ensemble's penalty: action (N, A), mean (H, N, A) and value (N,) of N robots.

        Args:
            obs: name -> (N, *shape).
            memory: the mean of the last plan, or None.
            first: (N,) whether a robot starts an episode and has no memory.
            explore: add noise of the search's last width.
        """
        cfg, z = self.config, self.encode(obs)
        prior = self.policy_plans(z)
        mean = [self.warm_start(memory, first, n) for n in range(len(z))]
        std = [torch.full_like(m, cfg.max_std) for m in mean]
        elites, weights, values = [None] * len(z), [None] * len(z), [None] * len(z)
        for _ in range(cfg.iterations):
            noise = torch.randn(cfg.horizon, len(z), cfg.num_samples, mean[0].shape[-1], device=z.device)
            samples = [(mean[n][:, None] + std[n][:, None] * noise[:, n]).clamp(-1, 1) for n in range(len(z))]
            plans = [torch.cat(pair, 1) for pair in zip(samples, prior, strict=True)]
            for n, value in enumerate(self.score(z, plans)):
                best, order = value.topk(min(cfg.num_elites, len(value)))
                weight = torch.softmax(cfg.temperature * (best - best[0]), 0)
                elite = plans[n][:, order]
                new = (weight[:, None] * elite).sum(1)
                spread = (weight[:, None] * (elite - new[:, None]) ** 2).sum(1).sqrt()
                std[n] = spread.clamp(cfg.min_std, cfg.max_std)
                mean[n] = cfg.momentum * mean[n] + (1 - cfg.momentum) * new
                elites[n], weights[n], values[n] = elite, weight, (weight * best).sum()
        chosen = torch.multinomial(torch.stack(weights), 1)
        action = torch.stack([elite[0, chosen[n, 0]] for n, elite in enumerate(elites)])
        if explore:
            action = action + torch.stack([s[0] for s in std]) * torch.randn_like(action)
        return action.clamp(-1, 1), torch.stack(mean, 1), torch.stack(values)

    def score(self, z: Tensor, plans: list[Tensor]) -> list[Tensor]:
        """(S,) penalised return of each robot's plans (H, S, A)."""
        cfg, returns, ends = self.config, [], []
        for n, plan in enumerate(plans):
            state, total = z[n].expand(plan.shape[1], -1), 0.0
            for t in range(cfg.horizon):
                joint = torch.cat([state, plan[t]], -1)
                penalty = cfg.uncertainty * torch.stack(self.q(joint)).std(0)
                total = total + cfg.discount**t * (self.reward(joint) - penalty)
                state = self.dynamics(joint)
            returns.append(total)
            ends.append(state)
        leaves = self.noisy_policy(torch.cat(ends)).split([len(end) for end in ends])
        i, j = self.pair()
        for n, joint in enumerate(torch.cat(pair, -1) for pair in zip(ends, leaves, strict=True)):
            q = self.q(joint)
            leaf = torch.minimum(q[i], q[j]) - cfg.uncertainty * torch.stack(q).std(0)
            returns[n] = returns[n] + cfg.discount**cfg.horizon * leaf
        return returns

    def policy_plans(self, z: Tensor) -> list[Tensor]:
        """(H, P, A) of each robot, rolled out by the noisy policy."""
        state, plans = z.repeat_interleave(self.config.num_policy, 0), []
        for t in range(self.config.horizon):
            plans.append(self.noisy_policy(state))
            if t + 1 < self.config.horizon:
                state = self.dynamics(torch.cat([state, plans[-1]], -1))
        shape = (self.config.horizon, len(z), self.config.num_policy, self.action_dim)
        return list(torch.stack(plans).view(shape).unbind(1))

    def noisy_policy(self, z: Tensor) -> Tensor:
        mean, bound = self.policy(z), self.config.noise_clip
        noise = (torch.randn_like(mean) * self.config.noise_std).clamp(-bound, bound)
        return (mean + noise).clamp(-1 + 1e-6, 1 - 1e-6)

    def warm_start(self, memory: Tensor | None, first, n: int) -> Tensor:
        mean = self.w["policy.net.6.bias"].new_zeros(self.config.horizon, self.action_dim)
        if memory is not None and not first[n]:
            mean[:-1] = memory[1:, n]
        return mean


# ---- images


def seen(obs: dict[str, Tensor], shifts=None) -> list[dict[str, Tensor]]:
    """(T+1) observations, each image shifted on its own: by whole pixels where `shifts` says how far."""
    steps = len(next(iter(obs.values())))
    frames = [{name: value[t] for name, value in obs.items()} for t in range(steps)]
    for name in (name for name, value in obs.items() if value.dim() == 5):
        if shifts:
            offsets = [shifts[0], *shifts[1].view(2, steps - 1, -1).unbind(1)]
            for frame, offset in zip(frames, offsets, strict=True):
                frame[name] = crop(frame[name], offset)
        else:
            for frame in frames:
                frame[name] = resample(frame[name], draw_shift(frame[name]))
    return frames


def reach(image: Tensor) -> int:
    """Pixels that an image is shifted by at most: 4 of 84."""
    return image.shape[-1] // 21


def draw_shift(image: Tensor) -> Tensor:
    return torch.randint(0, 2 * reach(image) + 1, (2, len(image)), device=image.device)


def pad(image: Tensor) -> Tensor:
    return F.pad(image.float(), (reach(image),) * 4, mode="replicate")


def crop(image: Tensor, offset: Tensor) -> Tensor:
    """(N, C, h, w) uint8 at `offset` (2, N) of the padded image."""
    side, padded = image.shape[-1], pad(image)
    rows = [
        x[:, top : top + side, left : left + side]
        for x, top, left in zip(padded, *offset.tolist(), strict=True)
    ]
    return torch.stack(rows).to(torch.uint8)


def resample(image: Tensor, offset: Tensor) -> Tensor:
    """As `crop`, by bilinear resampling of floats, the way the reference does it.

    Source: Yarats et al. 2021 (DrQ-v2), `RandomShiftsAug`.
    """
    side, padded = image.shape[-1], pad(image)
    size = padded.shape[-1]
    line = torch.linspace(-1 + 1 / size, 1 - 1 / size, size, device=image.device)[:side]
    grid = torch.stack([line.expand(side, side), line[:, None].expand(side, side)], -1)
    grid = grid + (offset.flip(0).T * 2 / size)[:, None, None]
    return F.grid_sample(padded, grid, padding_mode="zeros", align_corners=False)


# ---- names


def unstack(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each member of an ensemble under a name of its own: `q_heads.weight1` -> `q_heads.0.weight1`."""
    single = {}
    for name, value in weights.items():
        heads, _, last = name.rpartition(".")
        if name.startswith("critic."):
            single |= {f"{heads}.{i}.{last}": own for i, own in enumerate(value)}
        else:
            single[name] = value
    return single


def stack(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undoes `unstack`."""
    stacked: dict[str, list[Tensor] | Tensor] = {}
    for name, value in values.items():
        member = re.fullmatch(r"(critic\..*)\.\d+\.(\w+)", name)
        if member:
            stacked.setdefault(".".join(member.groups()), []).append(value)
        else:
            stacked[name] = value
    return {name: torch.stack(v) if isinstance(v, list) else v for name, v in stacked.items()}
