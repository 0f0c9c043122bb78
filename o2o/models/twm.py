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

from o2o.core.config import FieldError, at_least
from o2o.core.episode import Batch
from o2o.core.spec import Spec
from o2o.nn.categorical import divergence, draw, entropy, log_chance, mode
from o2o.nn.encoder import Decoder, Encoder, Shape, stack
from o2o.nn.layers import Linear
from o2o.nn.world_model import ModelConfig, State, Unroll, WorldModel, by_step, known_obs, where

TOKENS = 3  # of a step


@dataclass(frozen=True)
class Config(ModelConfig):
    """Sizes of the transformer world model. A candidate plan carries 2 * num_layers * (3 * span + 2) *
    token_dim numbers of memory: 77 kB by default.

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
            raise FieldError(
                self,
                f"<token_dim> is {self.token_dim}, wanted an even multiple of <num_heads>, {self.num_heads}",
            )


# ---- attention


class Layer(nn.Module):
    """Attention by content and distance, then an MLP; normalised after each. Source: Dai et al. 2019."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.distance = nn.Linear(dim, dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(dim))
        self.distance_bias = nn.Parameter(torch.zeros(dim))
        self.out = nn.Linear(dim, dim, bias=False)
        self.mlp = nn.Sequential(Linear(dim, 2 * dim), nn.SiLU(), Linear(2 * dim, dim))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, past: Tensor, codes: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """What S new tokens become, and what later ones will look at.

        Args:
            x: (N, S, D) new tokens.
            past: (N, heads, M, 2 D / heads) keys and values, side by side, of earlier tokens.
            codes: (M + S, D) of the distances M + S - 1, ..., 1, 0.
            seen: (N or 1, S, M + S) bool, what a new token may look at; something.
        Returns:
            (N, S, D), and keys and values of all (N, heads, M + S, 2 D / heads).
        """
        own = torch.cat([self._heads(self.key(x)), self._heads(self.value(x))], -1)
        known = torch.cat([past, own], 2)
        key, value = known.chunk(2, -1)  # (N, heads, M + S, D / heads)
        query = self.query(x)
        content = self._heads(query + self.content_bias) @ key.transpose(-1, -2)
        code = self._heads(self.distance(codes))  # (heads, M + S, D / heads)
        by_distance = torch.einsum("nhsd,hkd->nhsk", self._heads(query + self.distance_bias), code)
        score = content + lined_up(by_distance)  # (N, heads, S, M + S)
        share = (self.scale * score.float()).masked_fill(~seen[:, None], -torch.inf).softmax(-1)
        mixed = (share.to(value.dtype) @ value).transpose(-2, -3).flatten(-2)  # (N, S, D)
        x = self.norm1(x + self.out(mixed))
        return self.norm2(x + self.mlp(x)), known

    def _heads(self, x: Tensor) -> Tensor:
        """(..., S, D) to (..., heads, S, D / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)


def lined_up(score: Tensor) -> Tensor:
    """Scores (..., S, K) of the distances K - 1, ..., 0 from each of S new tokens, as scores of K places.

    The last row stays, the one above it moves left by one place, and so on; what comes in from the right is
    of later tokens and means nothing. Source: Dai et al. 2019, appendix B.
    """
    new = score.shape[-2]
    return F.pad(score, (1, 0)).flatten(-2)[..., new:].unflatten(-1, (new, -1))


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
        """(N, S, D), and keys and values of all (N, layers, heads, M + S, 2 D / heads), after those of
        `past` (N, layers, heads, M, 2 D / heads).

        Args:
            seen: (N or 1, S, M + S) bool, what a new token may look at; something, nothing out of reach.
        """
        distance = torch.arange(past.shape[3] + x.shape[1] - 1, -1, -1, device=x.device)
        codes = self.waves[distance.clamp(max=len(self.waves) - 1)]  # (M + S, D)
        known = []
        for number, layer in enumerate(self.layers):
            x, left = layer(x, past[:, number], codes, seen)
            known.append(left)
        return x, torch.stack(known, 1)


def sinusoids(num: int, dim: int) -> Tensor:
    """(num, dim) sines and cosines of the distances 0, 1, ... Source: Vaswani et al. 2017."""
    rate = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    angle = torch.arange(num)[:, None] * rate  # (num, dim / 2)
    return torch.cat([angle.sin(), angle.cos()], 1)


# ---- the model


class Model(WorldModel):
    """State: the latent `z` (N, num_latents * num_classes), which is the feature; the `reward` (N,) that led
    to it; `past`, keys and values (N, layers, heads, M, 2 D / heads) of the tokens before that reward, the
    newest last; `steps` (N,), how many steps these are of. M is at most `memory`, and grows up to it.
    """

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
        self.memory = TOKENS * config.span + 2  # the last step's latent and action, and all that it saw
        self.transformer = Transformer(dim, config.num_layers, config.num_heads, self.memory)
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
        return self._start(n, self.memory)  # while a robot acts, shapes stay

    def observe(self, state, prev_action, prev_reward, obs, first) -> State:
        _, known = self._advance(state, prev_action)
        known["reward"] = prev_reward
        nothing = {name: torch.zeros_like(value) for name, value in known.items()}
        return where(first, nothing, known) | {"z": mode(self._encode(obs)).flatten(1)}

    def step(self, state, action):
        out, known = self._advance(state, action)
        reward, goes_on, log_p = self._outcome(out)
        after = known | {"z": draw(log_p).flatten(1), "reward": reward}
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

    def _start(self, n: int, memory: int) -> State:
        """The state before anything was observed, with M = `memory`."""
        device, cfg = self.transformer.waves.device, self.config
        width = 2 * cfg.token_dim // cfg.num_heads
        return {
            "z": torch.zeros(n, self.feature_dim, device=device),
            "reward": torch.zeros(n, device=device),
            "past": torch.zeros(n, cfg.num_layers, cfg.num_heads, memory, width, device=device),
            "steps": torch.zeros(n, dtype=torch.int64, device=device),
        }

    def _window(self, z: Tensor, action: Tensor, reward: Tensor) -> Tensor:
        """(T, B, D) outputs at the actions of a window, each step seeing `span` earlier ones."""
        parts = self.latent_token(z), self.action_token(action), self.reward_token(reward[..., None])
        tokens = torch.stack(parts, 2).transpose(0, 1).flatten(1, 2)[:, :-1]  # (B, 3 T - 1, D)
        place = torch.arange(tokens.shape[1], device=z.device)
        none = self._start(tokens.shape[0], 0)["past"]
        out, _ = self.transformer(tokens, none, self._near(place, place)[None])
        return out[:, 1::TOKENS].transpose(0, 1)

    def _near(self, new: Tensor, place: Tensor) -> Tensor:
        """(S, K) whether the token at a `place` (K,) is in reach of that at `new` (S,), and not later."""
        return (place <= new[:, None]) & (new[:, None] // TOKENS - place // TOKENS <= self.config.span)

    def _advance(self, state: State, action: Tensor) -> tuple[Tensor, State]:
        """The output (N, D) at an action, and the state after it, whose `z` and `reward` are still the old.

        A reward becomes a token together with the latent and action that first look at it: one pass a step.
        """
        parts = self.reward_token(state["reward"][:, None]), self.latent_token(state["z"])
        tokens = torch.stack([*parts, self.action_token(action)], 1)  # (N, 3, D)
        place = torch.arange(-1 - state["past"].shape[3], 2, device=action.device)  # the latent's is 0
        new = place[-TOKENS:]
        there = place >= -TOKENS * state["steps"][:, None]  # (N, M + 3)
        itself = place == new[:, None]  # where no reward came before, its token has nothing else to look at
        seen = self._near(new, place) & there[:, None] | itself  # (N, 3, M + 3)
        out, past = self.transformer(tokens, state["past"], seen)
        steps = (state["steps"] + 1).clamp(max=self.config.span + 1)
        return out[:, -1], state | {"past": past[:, :, :, -self.memory :], "steps": steps}

    @torch.no_grad()
    def _starts(self, z: Tensor, batch: Batch) -> State:
        """States of the window (T, B), each of which remembers the step before, as published."""
        steps, size = batch.reward.shape
        before = self._start((steps - 1) * size, 0) | {"z": z[:-1].flatten(0, 1)}
        _, after = self._advance(before, batch.action[:-1].flatten(0, 1))
        after["reward"] = batch.reward[:-1].flatten()
        after["past"] = after["past"][:, :, :, 1:]  # no reward came before
        first = self._start(size, TOKENS - 1)
        starts = {name: torch.cat([first[name], after[name]]) for name in first}
        return starts | {"z": z.flatten(0, 1)}


def _cross_entropy(log_target: Tensor, log_p: Tensor) -> Tensor:
    """(...) of log-probabilities (..., variables, classes), in nats, summed over the variables."""
    return divergence(log_target, log_p) + entropy(log_target)
