"""A transformer as world model: discrete latents of single observations, and attention over what was done.

Source: Robine et al. 2023 (TWM). Each step is three tokens: latent, action, reward. Deviations: actions are
continuous, vectors are seen too, scores are scaled by the width of a head, there is no dropout, and sizes are
for robots. Critic and policy see the latent alone, as published.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from o2o.autoencoder import Decoder, Encoder, Shape, stack
from o2o.batch import Batch
from o2o.categorical import divergence, draw, entropy, log_chance, mode
from o2o.config import at_least
from o2o.errors import UsageError
from o2o.layers import Linear
from o2o.model import ModelConfig, State, Unroll, WorldModel, by_step, known_obs, where
from o2o.spec import Spec

TOKENS = 3  # of a step


@dataclass(frozen=True)
class Config(ModelConfig):
    """Sizes of the transformer world model. A candidate plan carries 2 * num_layers * 3 * span * token_dim
    numbers of memory: 74 kB by default.

    Attributes:
        token_dim: width of tokens; TWM 256.
        num_layers: of the transformer; TWM 10.
        num_heads: of attention; TWM 4.
        span: earlier steps that a step attends to; TWM 16.
        hidden_dim: width of the MLPs.
        mlp_layers: hidden layers of encoder, decoder and heads.
        num_latents: categorical variables of the latent z; TWM 32.
        num_classes: of each; TWM 32.
        channels: of the first convolution; later ones have 2, 4 and 8 times as many; TWM 48.
        min_entropy: share of the latents' greatest entropy under which they are pushed up; TWM 0.1.
    """

    token_dim: int = 64
    num_layers: int = 3
    num_heads: int = 4
    span: int = 16
    hidden_dim: int = 64
    mlp_layers: int = 2
    num_latents: int = 16
    num_classes: int = 8
    channels: int = 8
    min_entropy: float = 0.1

    def __post_init__(self):
        at_least(self, token_dim=2, num_layers=1, num_heads=1, span=1, hidden_dim=1, mlp_layers=1)
        at_least(self, num_latents=1, num_classes=2, channels=1, min_entropy=0)
        if self.token_dim % (2 * self.num_heads):
            raise UsageError(
                f"token-dim is {self.token_dim}, wanted an even multiple of num-heads {self.num_heads}"
            )


# ---- attention


class Layer(nn.Module):
    """Attention by content and distance, then an MLP; normalised after each. Source: Dai et al. 2019."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.query, self.key, self.value = (Linear(dim, dim, bias=False) for _ in range(3))
        self.distance = Linear(dim, dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(dim))
        self.distance_bias = nn.Parameter(torch.zeros(dim))
        self.out = Linear(dim, dim, bias=False)
        self.mlp = nn.Sequential(Linear(dim, 2 * dim), nn.SiLU(), Linear(2 * dim, dim))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, past: Tensor, waves: Tensor, steps: Tensor, seen: Tensor):
        """What S new tokens become, and what later ones will look at.

        Args:
            x: (N, S, D) new tokens.
            past: (N, 2, M, D) keys and values of earlier tokens.
            waves: (distances, D) one code for each distance in tokens.
            steps: (S, M + S) int64 distance of every token from each new one; 0 where it is later.
            seen: (N or 1, S, M + S) bool, what a new token may look at.
        Returns:
            (N, S, D), and their own keys and values (N, 2, S, D).
        """
        own = torch.stack([self.key(x), self.value(x)], 1)  # (N, 2, S, D)
        key, value = torch.cat([past, own], 2).unbind(1)  # (N, M + S, D)
        query = self.query(x)
        content = self._heads(query + self.content_bias) @ self._heads(key).transpose(-1, -2)
        by_distance = self._heads(query + self.distance_bias) @ self._heads(self.distance(waves)).transpose(
            -1, -2
        )
        score = content + by_distance.gather(-1, steps.expand(*content.shape))  # (N, heads, S, M + S)
        share = (self.scale * score.float()).masked_fill(~seen[:, None], -torch.inf).softmax(-1)
        mixed = (share.to(value.dtype) @ self._heads(value)).transpose(-2, -3).flatten(-2)  # (N, S, D)
        x = self.norm1(x + self.out(mixed))
        return self.norm2(x + self.mlp(x)), own

    def _heads(self, x: Tensor) -> Tensor:
        """(..., S, D) to (..., heads, S, D / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)


class Transformer(nn.Module):
    """Layers over tokens that are new, and over the keys and values that earlier ones left."""

    waves: Tensor

    def __init__(self, dim: int, num_layers: int, num_heads: int, reach: int):
        """
        Args:
            reach: greatest distance between two tokens of which one sees the other.
        """
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim, num_heads) for _ in range(num_layers))
        self.register_buffer("waves", sinusoids(reach + 1, dim), persistent=False)

    def forward(self, x: Tensor, past: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """(N, S, D) and keys and values (N, layers, 2, S, D), after `past` (N, layers, 2, M, D).

        Args:
            seen: (N or 1, S, M + S) bool, what a new token may look at; nothing out of reach.
        """
        new, all_ = x.shape[1], past.shape[3] + x.shape[1]
        place = torch.arange(all_, device=x.device)
        steps = (place[-new:, None] - place).clamp(0, len(self.waves) - 1)  # (S, M + S)
        left = []
        for number, layer in enumerate(self.layers):
            x, own = layer(x, past[:, number], self.waves, steps, seen)
            left.append(own)
        return x, torch.stack(left, 1)


def sinusoids(num: int, dim: int) -> Tensor:
    """(num, dim) sines and cosines of the distances 0, 1, ... Source: Vaswani et al. 2017."""
    rate = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    angle = torch.arange(num)[:, None] * rate  # (num, dim / 2)
    return torch.cat([angle.sin(), angle.cos()], 1)


# ---- the model


class Model(WorldModel):
    """State: the latent `z` (N, num_latents * num_classes), which is the feature; `past`, keys and values
    (N, layers, 2, 3 * span, D) of earlier tokens, the newest last; `length` (N,), how many these are."""

    def __init__(self, spec: Spec, discount: float, config: Config):
        super().__init__()
        self.config, self.discount = config, discount
        dim, hidden = config.token_dim, config.hidden_dim
        self.feature_dim = latent = config.num_latents * config.num_classes
        shape = Shape(hidden, config.mlp_layers, config.channels, "silu")
        self.encoder = Encoder(spec, shape)
        self.to_latent = Linear(self.encoder.embed_dim, latent)
        self.decoder = Decoder(spec, latent, shape)
        self.latent_token = nn.Sequential(Linear(latent, dim), nn.SiLU())
        self.action_token = Linear(spec.action_dim, dim)
        self.reward_token = nn.Sequential(Linear(1, dim), nn.SiLU())
        self.memory = TOKENS * config.span  # tokens
        self.transformer = Transformer(dim, config.num_layers, config.num_heads, self.memory + TOKENS - 1)
        self.next_latent, self.reward, self.goes_on = (self._head(out) for out in (latent, 1, 1))
        with torch.no_grad():
            last = self.goes_on[-1]
            assert isinstance(last, nn.Linear)
            last.bias.fill_(math.log(max(discount, 1e-6) / max(1 - discount, 1e-6)))  # begins at the discount

    def _head(self, out_dim: int) -> nn.Sequential:
        cfg = self.config
        return nn.Sequential(
            *stack(cfg.token_dim, cfg.hidden_dim, cfg.mlp_layers, "silu"), Linear(cfg.hidden_dim, out_dim)
        )

    def start(self, n: int) -> State:
        device, cfg = self.transformer.waves.device, self.config
        return {
            "z": torch.zeros(n, self.feature_dim, device=device),
            "past": torch.zeros(n, cfg.num_layers, 2, self.memory, cfg.token_dim, device=device),
            "length": torch.zeros(n, dtype=torch.int64, device=device),
        }

    def observe(self, state, prev_action, prev_reward, obs, first) -> State:
        known = self._remember(state, prev_action, prev_reward)
        known = where(first, self.start(len(first)), known)
        return known | {"z": mode(self._encode(obs)).flatten(1)}

    def step(self, state, action):
        tokens = torch.stack([self.latent_token(state["z"]), self.action_token(action)], 1)
        out, own = self._advance(state, tokens)
        outcome = out[:, 1]
        reward, goes_on, log_p = self._outcome(outcome)
        seen = self._push(state, own)
        _, last = self._advance(seen, self.reward_token(reward[:, None])[:, None])
        after = self._push(seen, last) | {"z": draw(log_p).flatten(1)}
        return after, reward, goes_on.sigmoid().clamp(max=self.discount)

    def feature(self, state):
        return state["z"]

    def unroll(self, batch: Batch) -> Unroll:
        """Attention over the window; all losses that there are.

        Source: Robine et al. 2023, eq. 3 to 5. Latents carry no gradient into the transformer.
        """
        cfg, (steps, size) = self.config, batch.reward.shape
        log_p = self._encode({name: value.flatten(0, 1) for name, value in batch.obs.items()})
        log_p = log_p.unflatten(0, (steps + 1, size))  # (T+1, B, latents, classes)
        drawn = draw(log_p).flatten(2)  # (T+1, B, latents * classes)
        z = drawn.detach()
        out = self._window(z[:-1], batch.action, batch.reward)  # (T, B, D)
        reward, goes_on, ahead = self._outcome(out)
        known = known_obs(batch)  # (T+1, B)
        share = (entropy(log_p) * known).sum() / known.sum() / (cfg.num_latents * math.log(cfg.num_classes))
        obs = 0.5 * self.decoder.error(drawn, batch.obs) * known
        losses = {
            "obs": by_step(obs),
            "entropy": (cfg.min_entropy - share).relu().expand(steps, size),
            "consistency": _cross_entropy(ahead.detach(), log_p[1:]) * batch.next_valid,
            "dynamics": _cross_entropy(log_p[1:].detach(), ahead) * batch.next_valid,
            "reward": 0.5 * (reward - batch.reward).square(),
            "discount": F.binary_cross_entropy_with_logits(
                goes_on, self.discount * (~batch.terminated).float(), reduction="none"
            ),
        }
        return Unroll(losses, z[:-1], z[1:], self._starts(z[:-1], batch))

    def decode(self, state):
        return self.decoder.draw(state["z"])

    def _encode(self, obs: dict[str, Tensor]) -> Tensor:
        """(N, latents, classes) log-probabilities."""
        logits = self.to_latent(self.encoder(obs))
        return log_chance(logits.unflatten(-1, (self.config.num_latents, -1)), 0.0)

    def _outcome(self, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of outputs (..., D): reward (...), logit of the discount (...), log-chances of the next latent."""
        logits = self.next_latent(out).unflatten(-1, (self.config.num_latents, -1))
        reward, goes_on = self.reward(out), self.goes_on(out)
        return reward.float().squeeze(-1), goes_on.float().squeeze(-1), log_chance(logits, 0.0)

    def _tokens(self, z: Tensor, action: Tensor, reward: Tensor) -> Tensor:
        """(..., 3, D)."""
        parts = self.latent_token(z), self.action_token(action), self.reward_token(reward[..., None])
        return torch.stack(parts, -2)

    def _window(self, z: Tensor, action: Tensor, reward: Tensor) -> Tensor:
        """(T, B, D) outputs at the actions of a window, each step seeing `span` earlier ones."""
        tokens = self._tokens(z, action, reward).transpose(0, 1).flatten(1, 2)[:, :-1]  # (B, 3 T - 1, D)
        place = torch.arange(tokens.shape[1], device=z.device)
        back = place[:, None] // TOKENS - place // TOKENS  # steps
        seen = (place <= place[:, None]) & (back <= self.config.span)
        none = self.start(tokens.shape[0])["past"][:, :, :, :0]
        out, _ = self.transformer(tokens, none, seen[None])
        return out[:, 1::TOKENS].transpose(0, 1)

    def _advance(self, state: State, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs, keys and values of new tokens (N, S, D), all of one step, after what the state keeps."""
        new, memory = tokens.shape[1], state["past"].shape[3]
        place = torch.arange(memory + new, device=tokens.device)
        there = place >= memory - state["length"][:, None]  # (N, M + S)
        seen = there[:, None] & (place <= place[-new:, None])
        return self.transformer(tokens, state["past"], seen)

    def _push(self, state: State, own: Tensor) -> State:
        """The state with keys and values of new tokens; the oldest go, but within a step none does."""
        past = torch.cat([state["past"], own], 3)
        length = state["length"] + own.shape[3]
        if past.shape[3] == self.memory + TOKENS:  # a step is over
            past, length = past[:, :, :, TOKENS:], length.clamp(max=self.memory)
        return state | {"past": past, "length": length}

    def _remember(self, state: State, action: Tensor, reward: Tensor) -> State:
        """The state after a step whose reward is known, its latent not yet."""
        _, own = self._advance(state, self._tokens(state["z"], action, reward))
        return self._push(state, own)

    @torch.no_grad()
    def _starts(self, z: Tensor, batch: Batch) -> State:
        """States of the window (T, B), each of which remembers the step before, as published."""
        steps, size = batch.reward.shape
        before = self.start((steps - 1) * size) | {"z": z[:-1].flatten(0, 1)}
        after = self._remember(before, batch.action[:-1].flatten(0, 1), batch.reward[:-1].flatten())
        first = self.start(size)
        starts = {name: torch.cat([first[name], after[name]]) for name in first}
        return starts | {"z": z.flatten(0, 1)}


def _cross_entropy(log_target: Tensor, log_p: Tensor) -> Tensor:
    """(...) of log-probabilities (..., variables, classes), in nats, summed over the variables."""
    return divergence(log_target, log_p) + entropy(log_target)
