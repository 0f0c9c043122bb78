"""Implements Dreamer's recurrent state-space model: recurrent state, discrete latents and a decoder.

Source: Hafner et al. 2021 (DreamerV2) and Hafner et al. 2025 (DreamerV3), two configurations of one class.
Deviations: both decode images by DreamerV2's strided convolutions, with a linear output; losses omit the
constants of their likelihoods; the loss of the window's first observation counts at its first step.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from o2o.core.batch_share import total
from o2o.core.episode import Batch
from o2o.core.spec import Spec
from o2o.nn.blocks import zero_output
from o2o.nn.categorical import kl_divergence, log_probs, sample
from o2o.nn.encoder import Architecture, Decoder, Encoder, RMSNorm, dense, stack
from o2o.nn.layers import Linear
from o2o.nn.model_config import RSSMConfig as Config
from o2o.nn.two_hot import make_encoding
from o2o.nn.world_model import State, Unroll, WorldModel, by_step, known_obs

# ---- layers


class BlockLinear(nn.Module):
    """Linear layer for each block, (N, blocks, in) to (N, blocks, out); zeros before `_initialize`."""

    def __init__(self, num_blocks: int, in_dim: int, out_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_blocks, in_dim, out_dim))
        self.bias = nn.Parameter(torch.zeros(num_blocks, out_dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x.transpose(0, 1), self.weight).transpose(0, 1) + self.bias


def gru_step(gates: Tensor, h: Tensor) -> Tensor:
    """Returns the next h (..., D) from reset, candidate and update gates (..., 3 D). Source: DreamerV2."""
    reset, candidate, update = gates.float().chunk(3, -1)
    candidate = torch.tanh(torch.sigmoid(reset) * candidate)
    return torch.lerp(h, candidate, torch.sigmoid(update - 1))


class GRU(nn.Module):
    """Recurrent cell of DreamerV2, with one LayerNorm over the three gates."""

    def __init__(self, latent_dim: int, action_dim: int, config: Config):
        super().__init__()
        deter, hidden = config.deter_dim, config.hidden_dim
        self.input = dense(latent_dim + action_dim, hidden, config.layers)
        self.gates = Linear(hidden + deter, 3 * deter)
        self.norm = nn.LayerNorm(3 * deter, eps=1e-3)

    def forward(self, h: Tensor, latent: Tensor, action: Tensor) -> Tensor:
        x = self.input(torch.cat([latent, action], -1))
        return gru_step(self.norm(self.gates(torch.cat([x, h], -1))), h)


class BlockGRU(nn.Module):
    """Recurrent cell of DreamerV3: each block sees itself and an embedding of the whole input."""

    def __init__(self, latent_dim: int, action_dim: int, config: Config):
        super().__init__()
        deter, hidden = config.deter_dim, config.hidden_dim
        self.num_blocks, block = config.num_blocks, deter // config.num_blocks
        self.inputs = nn.ModuleList(
            dense(dim, hidden, config.layers) for dim in (deter, latent_dim, action_dim)
        )
        self.mix = BlockLinear(self.num_blocks, block + 3 * hidden, block)
        self.norm = RMSNorm(deter)
        self.gates = BlockLinear(self.num_blocks, block, 3 * block)

    def forward(self, h: Tensor, latent: Tensor, action: Tensor) -> Tensor:
        action = action / action.abs().clamp(min=1).detach()
        embedded = [layer(x) for layer, x in zip(self.inputs, (h, latent, action), strict=True)]
        shared = torch.cat(embedded, -1)[:, None].expand(-1, self.num_blocks, -1)
        blocks = h.unflatten(-1, (self.num_blocks, -1))  # (N, blocks, D / blocks)
        x = self.mix(torch.cat([blocks, shared], -1)).flatten(1)
        x = F.silu(self.norm(x)).unflatten(-1, (self.num_blocks, -1))
        return gru_step(self.gates(x), blocks).flatten(1)


def free_bits(kl: Tensor, floor: float, over: str, known: Tensor) -> Tensor:
    """Returns `kl` (T, B), at least `floor` in each element or in the mean of the `known` (T, B) ones."""
    if over == "element":
        return kl.clamp(min=floor)
    mean = total((kl * known).sum()) / total(known.sum()).clamp(min=1)
    return mean.clamp(min=floor).expand_as(kl)


# ---- the model


class Model(WorldModel):
    """Dreamer's world model. Its state is `{"h": (N, deter_dim), "z": (N, num_latents * num_classes)}`.

    The feature is both, z first. The reward of an action, and whether the episode goes on, are predicted from
    the state that the action leads to. Dreamer's "action that led here" is a shift by one step inside
    `unroll` and nowhere else.
    """

    def __init__(self, spec: Spec, discount: float, config: Config):
        super().__init__()
        self.config, self.discount = config, discount
        latent, hidden, deter = config.num_latents * config.num_classes, config.hidden_dim, config.deter_dim
        self.feature_dim = latent + deter
        architecture = Architecture(hidden, config.num_layers, config.channels, config.layers, config.symlog)
        self.encoder = Encoder(spec, architecture)
        self.cell = (GRU if config.cell == "gru" else BlockGRU)(latent, spec.action_dim, config)
        prior = stack(deter, hidden, config.prior_layers, config.layers)
        self.prior = nn.Sequential(*prior, Linear(hidden if prior else deter, latent))
        posterior = dense(deter + self.encoder.embed_dim, hidden, config.layers)
        self.posterior = nn.Sequential(posterior, Linear(hidden, latent))
        self.decoder = Decoder(spec, self.feature_dim, architecture)
        self.reward_encoding = make_encoding(config.num_bins, "raw", weight=0.5)
        self.reward = self._head(self.reward_encoding.out_dim)
        self.continues = self._head(1)
        self.apply(_initialize)
        if config.num_bins:
            zero_output(self.reward)

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
        after = {"h": h, "z": sample(self._log_probs(self.prior(h))).flatten(1)}
        feature = self.feature(after)
        continues = torch.sigmoid(self.continues(feature).float().squeeze(-1))
        return after, self.reward_encoding.decode(self.reward(feature)), continues.clamp(max=self.discount)

    def feature(self, state):
        return torch.cat([state["z"], state["h"]], -1)

    @torch.compiler.disable  # it would unroll every step of the loop: minutes of compiling for a small gain
    def unroll(self, batch: Batch) -> Unroll:
        """Filters the window from a zero state; the losses are `obs`, `dynamics` (KL), `reward`, `discount`.

        Source: Hafner et al. 2021, eq. 2 with KL balancing; Hafner et al. 2025, eq. 4 and 5.
        """
        cfg, (steps, size) = self.config, batch.reward.shape
        embed = self.encoder({name: value.flatten(0, 1) for name, value in batch.obs.items()})
        embed = embed.unflatten(0, (steps + 1, size))
        state, hs, zs, posteriors = self.start(size), [], [], []
        action = torch.zeros_like(batch.action[0])
        for t in range(steps + 1):
            h = self.cell(state["h"], state["z"], action)
            z, log_p = self._posterior(h, embed[t])
            state = {"h": h, "z": z}
            action = batch.action[t] if t < steps else action
            for values, value in zip((hs, zs, posteriors), (h, z, log_p), strict=True):
                values.append(value)
        h, z = torch.stack(hs), torch.stack(zs)  # (T+1, B, D), (T+1, B, latents * classes)
        feature = torch.cat([z, h], -1)  # (T+1, B, F)
        known = known_obs(batch)  # (T+1, B)
        next_feature = feature[1:]
        discount = self.discount * (~batch.terminated).float()
        losses = {
            "obs": by_step(cfg.obs_weight * self.decoder.error(feature, batch.obs) * known),
            "dynamics": by_step(self._kl(torch.stack(posteriors), h, known) * known),
            "reward": self.reward_encoding.loss(self.reward(next_feature), batch.reward),
            "discount": F.binary_cross_entropy_with_logits(
                self.continues(next_feature).squeeze(-1), discount, reduction="none"
            ),
        }
        starts = {"h": h[:-1].detach().flatten(0, 1), "z": z[:-1].detach().flatten(0, 1)}
        critic_input = feature[:-1] if cfg.critic_grad else feature[:-1].detach()
        return Unroll(losses, critic_input, next_feature.detach(), starts)

    def decode(self, state):
        return self.decoder.predict(self.feature(state))

    def _log_probs(self, logits: Tensor) -> Tensor:
        """Returns log-probabilities (..., latents, classes) of logits (..., latents * classes)."""
        return log_probs(logits.unflatten(-1, (self.config.num_latents, -1)), self.config.unimix)

    def _posterior(self, h: Tensor, embed: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (sampled latent (N, latents * classes), log-probabilities (N, latents, classes))."""
        log_p = self._log_probs(self.posterior(torch.cat([h, embed], -1)))
        return sample(log_p).flatten(-2), log_p

    def _kl(self, posterior: Tensor, h: Tensor, known: Tensor) -> Tensor:
        """Returns KL (T+1, B) of posteriors (T+1, B, latents, classes) and the priors of h (T+1, B, D)."""
        cfg, prior = self.config, self._log_probs(self.prior(h))
        bound = cfg.free_nats, cfg.free_over, known
        prior_loss = free_bits(kl_divergence(posterior.detach(), prior), *bound)
        posterior_loss = free_bits(kl_divergence(posterior, prior.detach()), *bound)
        return cfg.prior_weight * prior_loss + cfg.posterior_weight * posterior_loss


def _initialize(module: nn.Module) -> None:
    """Sets Glorot's uniform weights (DreamerV2), scaled by fan-in and fan-out, and zero biases."""
    if isinstance(module, BlockLinear):
        for block in module.weight:
            nn.init.xavier_uniform_(block)
    elif isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
