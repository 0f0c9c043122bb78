"""Dreamer's recurrent state-space model: a deterministic memory, discrete latents, and a decoder.

Source: Hafner et al. 2021 (DreamerV2) and Hafner et al. 2025 (DreamerV3), two configurations of one class.
Deviations: both draw images through DreamerV2's strided convolutions, with a linear output; losses leave
out the constants of their likelihoods; predictions of the window's first observation count at its first step.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from o2o.core.config import FieldError, at_least, at_most
from o2o.core.episode import Batch
from o2o.core.spec import Spec
from o2o.nn.blocks import zero_last
from o2o.nn.categorical import divergence, draw, log_chance
from o2o.nn.encoder import Decoder, Encoder, RMSNorm, Shape, Style, dense, stack
from o2o.nn.layers import Linear
from o2o.nn.two_hot import code
from o2o.nn.world_model import ModelConfig, State, Unroll, WorldModel, by_step, known_obs


@dataclass(frozen=True)
class Config(ModelConfig):
    """Sizes and losses of the recurrent state-space model: sizes are ours, for robots, the rest DreamerV2's.

    Attributes:
        deter_dim: entries of the deterministic memory h.
        hidden_dim: width of every MLP.
        num_layers: hidden layers of encoder, decoder and heads.
        num_latents: categorical variables of the latent z; both papers 32.
        num_classes: of each; both papers 32.
        cell: `gru` with one LayerNorm (DreamerV2), or `block`, whose weights are block-diagonal (DreamerV3).
        num_blocks: of the block cell; DreamerV3 8.
        layers: `elu` without normalisation (DreamerV2), or `silu` after RMSNorm (DreamerV3).
        prior_layers: hidden layers from memory to the latent's prior; DreamerV2 1, DreamerV3 2.
        channels: of the first convolution; later ones have 2, 4 and 8 times as many.
        unimix: share of a uniform distribution in every categorical; DreamerV3 0.01.
        free_nats: KL below this is not pushed further; DreamerV2 1 (DMC), DreamerV3 1.
        free_over: what that bound is for: the mean of the `batch` (DreamerV2), or each `element` (DreamerV3).
        prior_weight: of KL(posterior || prior) as a loss of the prior; DreamerV2 0.8, DreamerV3 1.
        posterior_weight: of the same KL as a loss of the posterior; DreamerV2 0.2, DreamerV3 0.1.
        symlog: see and predict vectors through symlog (DreamerV3).
        obs_weight: of the squared error, summed over entries; DreamerV2 0.5 (unit Gaussian), DreamerV3 1.
        num_bins: of the reward's two-hot code; 0: half a squared error (DreamerV2); DreamerV3 255.
        critic_grad: losses of the critic shape the features too; off in DreamerV2.
    """

    deter_dim: int = 128
    hidden_dim: int = 64
    num_layers: int = 2
    num_latents: int = 16
    num_classes: int = 8
    cell: Literal["gru", "block"] = "gru"
    num_blocks: int = 8
    layers: Style = "elu"
    prior_layers: int = 1
    channels: int = 8
    unimix: float = 0.0
    free_nats: float = 1.0
    free_over: Literal["batch", "element"] = "batch"
    prior_weight: float = 0.8
    posterior_weight: float = 0.2
    symlog: bool = False
    obs_weight: float = 0.5
    num_bins: int = 0
    critic_grad: bool = False

    def __post_init__(self):
        at_least(self, deter_dim=1, hidden_dim=1, num_layers=1, num_latents=1, num_classes=2, num_blocks=1)
        at_least(self, prior_layers=0, channels=1, unimix=0, free_nats=0, prior_weight=0, posterior_weight=0)
        at_least(self, obs_weight=0, num_bins=2 if self.num_bins else 0)
        at_most(self, unimix=1)
        if self.cell == "block" and self.deter_dim % self.num_blocks:
            raise FieldError(
                self, f"<deter_dim> is {self.deter_dim}, wanted a multiple of <num_blocks>, {self.num_blocks}"
            )


# ---- layers


class BlockLinear(nn.Module):
    """(N, blocks, in) to (N, blocks, out): a linear layer for each block; zeros before `_initialise`."""

    def __init__(self, num_blocks: int, in_dim: int, out_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_blocks, in_dim, out_dim))
        self.bias = nn.Parameter(torch.zeros(num_blocks, out_dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x.transpose(0, 1), self.weight).transpose(0, 1) + self.bias


def gate(parts: Tensor, memory: Tensor) -> Tensor:
    """The next memory (..., D) from reset, candidate and update (..., 3 D). Source: DreamerV2."""
    reset, candidate, update = parts.float().chunk(3, -1)
    candidate = torch.tanh(torch.sigmoid(reset) * candidate)
    return torch.lerp(memory, candidate, torch.sigmoid(update - 1))


class GRU(nn.Module):
    """DreamerV2's cell: one LayerNorm over the three gates."""

    def __init__(self, latent_dim: int, action_dim: int, config: Config):
        super().__init__()
        memory, hidden = config.deter_dim, config.hidden_dim
        self.enter = dense(latent_dim + action_dim, hidden, config.layers)
        self.gates = Linear(hidden + memory, 3 * memory)
        self.norm = nn.LayerNorm(3 * memory, eps=1e-3)

    def forward(self, memory: Tensor, latent: Tensor, action: Tensor) -> Tensor:
        x = self.enter(torch.cat([latent, action], -1))
        return gate(self.norm(self.gates(torch.cat([x, memory], -1))), memory)


class BlockGRU(nn.Module):
    """DreamerV3's cell: each block of the memory sees itself, and an embedding of everything."""

    def __init__(self, latent_dim: int, action_dim: int, config: Config):
        super().__init__()
        memory, hidden = config.deter_dim, config.hidden_dim
        self.num_blocks, block = config.num_blocks, memory // config.num_blocks
        self.enter = nn.ModuleList(
            dense(dim, hidden, config.layers) for dim in (memory, latent_dim, action_dim)
        )
        self.mix = BlockLinear(self.num_blocks, block + 3 * hidden, block)
        self.norm = RMSNorm(memory)
        self.gates = BlockLinear(self.num_blocks, block, 3 * block)

    def forward(self, memory: Tensor, latent: Tensor, action: Tensor) -> Tensor:
        action = action / action.abs().clamp(min=1).detach()
        entered = [enter(x) for enter, x in zip(self.enter, (memory, latent, action), strict=True)]
        shared = torch.cat(entered, -1)[:, None].expand(-1, self.num_blocks, -1)
        blocks = memory.unflatten(-1, (self.num_blocks, -1))  # (N, blocks, D / blocks)
        x = self.mix(torch.cat([blocks, shared], -1)).flatten(1)
        x = F.silu(self.norm(x)).unflatten(-1, (self.num_blocks, -1))
        return gate(self.gates(x), blocks).flatten(1)


def free_bits(kl: Tensor, floor: float, over: str, known: Tensor) -> Tensor:
    """`kl` (T, B), at least `floor`, each or in the mean of the `known` (T, B) entries."""
    if over == "element":
        return kl.clamp(min=floor)
    mean = (kl * known).sum() / known.sum().clamp(min=1)
    return mean.clamp(min=floor).expand_as(kl)


# ---- the model


class Model(WorldModel):
    """State: memory `{"h": (N, deter_dim), "z": (N, num_latents * num_classes)}`; the feature is both.

    The reward of an action is read from the state it leads to, and so is whether the episode goes on.
    Dreamer's "action that led here" is a shift by one step inside `unroll` and nowhere else.
    """

    def __init__(self, spec: Spec, discount: float, config: Config):
        super().__init__()
        self.config, self.discount = config, discount
        latent, hidden, memory = config.num_latents * config.num_classes, config.hidden_dim, config.deter_dim
        self.feature_dim = latent + memory
        shape = Shape(hidden, config.num_layers, config.channels, config.layers, config.symlog)
        self.encoder = Encoder(spec, shape)
        self.cell = (GRU if config.cell == "gru" else BlockGRU)(latent, spec.action_dim, config)
        prior = stack(memory, hidden, config.prior_layers, config.layers)
        self.prior = nn.Sequential(*prior, Linear(hidden if prior else memory, latent))
        posterior = dense(memory + self.encoder.embed_dim, hidden, config.layers)
        self.posterior = nn.Sequential(posterior, Linear(hidden, latent))
        self.decoder = Decoder(spec, self.feature_dim, shape)
        self.reward_code = code(config.num_bins, "raw", weight=0.5)
        self.reward = self._head(self.reward_code.width)
        self.goes_on = self._head(1)
        self.apply(_initialise)
        if config.num_bins:
            zero_last(self.reward)

    def _head(self, out_dim: int) -> nn.Sequential:
        cfg = self.config
        body = stack(self.feature_dim, cfg.hidden_dim, cfg.num_layers, cfg.layers)
        return nn.Sequential(*body, Linear(cfg.hidden_dim, out_dim))

    def start(self, n: int) -> State:
        device = next(self.parameters()).device
        latent = self.feature_dim - self.config.deter_dim
        return {
            "h": torch.zeros(n, self.config.deter_dim, device=device),
            "z": torch.zeros(n, latent, device=device),
        }

    def observe(self, state, prev_action, prev_reward, obs, first) -> State:
        keep = (~first).float()[:, None]
        h = self.cell(keep * state["h"], keep * state["z"], keep * prev_action)
        z, _ = self._posterior(h, self.encoder(obs))
        return {"h": h, "z": z}

    def step(self, state, action):
        h = self.cell(state["h"], state["z"], action)
        after = {"h": h, "z": draw(self._log_chance(self.prior(h))).flatten(1)}
        feature = self.feature(after)
        goes_on = torch.sigmoid(self.goes_on(feature).float().squeeze(-1))
        return after, self.reward_code.decode(self.reward(feature)), goes_on.clamp(max=self.discount)

    def feature(self, state):
        return torch.cat([state["z"], state["h"]], -1)

    @torch.compiler.disable  # it would lay out every step of the loop: minutes of compiling, for little
    def unroll(self, batch: Batch) -> Unroll:
        """Closed loop from a blank state; losses `obs`, `dynamics` (KL), `reward`, `discount`.

        Source: Hafner et al. 2021, eq. 2 with KL balancing; Hafner et al. 2025, eq. 4 and 5.
        """
        cfg, (steps, size) = self.config, batch.reward.shape
        embed = self.encoder({name: value.flatten(0, 1) for name, value in batch.obs.items()})
        embed = embed.unflatten(0, (steps + 1, size))
        state, h, z, post = self.start(size), [], [], []
        action = torch.zeros_like(batch.action[0])
        for t in range(steps + 1):
            memory = self.cell(state["h"], state["z"], action)
            latent, log_p = self._posterior(memory, embed[t])
            state = {"h": memory, "z": latent}
            action = batch.action[t] if t < steps else action
            for store, value in zip((h, z, post), (memory, latent, log_p), strict=True):
                store.append(value)
        memory, latent = torch.stack(h), torch.stack(z)  # (T+1, B, D), (T+1, B, latents * classes)
        feature = torch.cat([latent, memory], -1)  # (T+1, B, F)
        known = known_obs(batch)  # (T+1, B)
        arrived = feature[1:]
        goes_on = self.discount * (~batch.terminated).float()
        losses = {
            "obs": by_step(cfg.obs_weight * self.decoder.error(feature, batch.obs) * known),
            "dynamics": by_step(self._kl(torch.stack(post), memory, known) * known),
            "reward": self.reward_code.loss(self.reward(arrived), batch.reward),
            "discount": F.binary_cross_entropy_with_logits(
                self.goes_on(arrived).squeeze(-1), goes_on, reduction="none"
            ),
        }
        starts = {"h": memory[:-1].detach().flatten(0, 1), "z": latent[:-1].detach().flatten(0, 1)}
        here = feature[:-1] if cfg.critic_grad else feature[:-1].detach()
        return Unroll(losses, here, arrived.detach(), starts)

    def decode(self, state):
        return self.decoder.draw(self.feature(state))

    def _log_chance(self, logits: Tensor) -> Tensor:
        """(..., latents * classes) to (..., latents, classes)."""
        return log_chance(logits.unflatten(-1, (self.config.num_latents, -1)), self.config.unimix)

    def _posterior(self, memory: Tensor, embed: Tensor) -> tuple[Tensor, Tensor]:
        """(latent (N, latents * classes), log-probabilities (N, latents, classes))."""
        log_p = self._log_chance(self.posterior(torch.cat([memory, embed], -1)))
        return draw(log_p).flatten(-2), log_p

    def _kl(self, post: Tensor, memory: Tensor, known: Tensor) -> Tensor:
        """(T+1, B) of posteriors (T+1, B, latents, classes) to the priors of memory (T+1, B, D)."""
        cfg, prior = self.config, self._log_chance(self.prior(memory))
        teach = free_bits(divergence(post.detach(), prior), cfg.free_nats, cfg.free_over, known)
        bind = free_bits(divergence(post, prior.detach()), cfg.free_nats, cfg.free_over, known)
        return cfg.prior_weight * teach + cfg.posterior_weight * bind


def _initialise(module: nn.Module) -> None:
    """Glorot's uniform weights (DreamerV2), scaled by fan-in and fan-out; zero biases."""
    if isinstance(module, BlockLinear):
        for block in module.weight:
            nn.init.xavier_uniform_(block)
    elif isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
