"""Implements a transformer world model: discrete latents of observations, and attention over past steps.

Source: Robine et al. 2023 (TWM). Each step is three tokens: latent, action, reward. Deviations: actions are
continuous, vectors are encoded too, scores are scaled by the width of a head, there is no dropout, and sizes
are for robots. The input of critic and policy is the latent alone, as published.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from o2o.core.episode import Batch
from o2o.core.spec import Spec
from o2o.nn.categorical import entropy, kl_divergence, log_probs, mode, sample
from o2o.nn.encoder import Architecture, Decoder, Encoder, stack
from o2o.nn.layers import Linear
from o2o.nn.model_config import TWMConfig as Config
from o2o.nn.world_model import State, Unroll, WorldModel, by_step, known_obs, where

TOKENS = 3  # per step


# ---- attention


class Layer(nn.Module):
    """Attention by content and distance, then an MLP, each followed by LayerNorm. Source: Dai et al. 2019."""

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

    def forward(self, x: Tensor, past: Tensor, codes: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the outputs of S new tokens, and the keys and values of all tokens.

        Args:
            x: (N, S, D) new tokens.
            past: (N, heads, M, 2 D / heads) keys and values, side by side, of earlier tokens.
            codes: (M + S, D) encodings of the distances M + S - 1, ..., 1, 0.
            mask: (N or 1, S, M + S) bool, tokens that a new token attends to; at least one each.
        Returns:
            (N, S, D), and keys and values of all (N, heads, M + S, 2 D / heads).
        """
        new = torch.cat([self._heads(self.key(x)), self._heads(self.value(x))], -1)
        cache = torch.cat([past, new], 2)
        key, value = cache.chunk(2, -1)  # (N, heads, M + S, D / heads)
        query = self.query(x)
        content = self._heads(query + self.content_bias) @ key.transpose(-1, -2)
        code = self._heads(self.distance(codes))  # (heads, M + S, D / heads)
        by_distance = torch.einsum("nhsd,hkd->nhsk", self._heads(query + self.distance_bias), code)
        score = content + align_distances(by_distance)  # (N, heads, S, M + S)
        attention = (self.scale * score.float()).masked_fill(~mask[:, None], -torch.inf).softmax(-1)
        attended = (attention.to(value.dtype) @ value).transpose(-2, -3).flatten(-2)  # (N, S, D)
        x = self.norm1(x + self.out(attended))
        return self.norm2(x + self.mlp(x)), cache

    def _heads(self, x: Tensor) -> Tensor:
        """Splits (..., S, D) into heads (..., heads, S, D / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)


def align_distances(score: Tensor) -> Tensor:
    """Turns scores (..., S, K) of the distances K - 1, ..., 0 from S new tokens into scores of K positions.

    The last row stays, the one above it moves left by one position, and so on; the values that enter from the
    right belong to later tokens and are to be masked. Source: Dai et al. 2019, appendix B.
    """
    new = score.shape[-2]
    return F.pad(score, (1, 0)).flatten(-2)[..., new:].unflatten(-1, (new, -1))


class Transformer(nn.Module):
    """Transformer over new tokens and a cache of the keys and values of earlier tokens."""

    sinusoids: Tensor

    def __init__(self, dim: int, num_layers: int, num_heads: int, reach: int):
        """
        Args:
            reach: largest distance between two tokens of which one attends to the other.
        """
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim, num_heads) for _ in range(num_layers))
        self.register_buffer("sinusoids", sinusoids(reach + 1, dim), persistent=False)

    def forward(self, x: Tensor, past: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the outputs of new tokens, and the cache of all tokens.

        Args:
            x: (N, S, D) new tokens.
            past: (N, layers, heads, M, 2 D / heads) keys and values of earlier tokens.
            mask: (N or 1, S, M + S) bool, tokens within reach that a new token attends to; at least one each.
        Returns:
            (N, S, D), and keys and values of all (N, layers, heads, M + S, 2 D / heads).
        """
        distance = torch.arange(past.shape[3] + x.shape[1] - 1, -1, -1, device=x.device)
        codes = self.sinusoids[distance.clamp(max=len(self.sinusoids) - 1)]  # (M + S, D)
        caches = []
        for number, layer in enumerate(self.layers):
            x, cache = layer(x, past[:, number], codes, mask)
            caches.append(cache)
        return x, torch.stack(caches, 1)


def sinusoids(num: int, dim: int) -> Tensor:
    """Returns sines and cosines (num, dim) of the distances 0, 1, ... Source: Vaswani et al. 2017."""
    rate = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    angle = torch.arange(num)[:, None] * rate  # (num, dim / 2)
    return torch.cat([angle.sin(), angle.cos()], 1)


# ---- the model


class Model(WorldModel):
    """Transformer world model.

    Its state is the latent `z` (N, num_latents * num_classes), which is the feature; the `reward` (N,) that
    led to it; `past`, keys and values (N, layers, heads, M, 2 D / heads) of the tokens before that reward,
    the latest last; and `steps` (N,), the number of steps that these tokens cover. M grows up to `memory`.
    """

    def __init__(self, spec: Spec, discount: float, config: Config):
        super().__init__()
        self.config, self.discount = config, discount
        dim, hidden = config.token_dim, config.hidden_dim
        self.feature_dim = latent = config.num_latents * config.num_classes
        architecture = Architecture(hidden, config.mlp_layers, config.channels, "silu")
        self.encoder = Encoder(spec, architecture)
        self.to_latent = Linear(self.encoder.embed_dim, latent)
        self.decoder = Decoder(spec, latent, architecture)
        self.latent_token = nn.Sequential(Linear(latent, dim), nn.SiLU())
        self.action_token = Linear(spec.action_dim, dim)
        self.reward_token = nn.Sequential(Linear(1, dim), nn.SiLU())
        self.memory = TOKENS * config.span + 2  # last latent and action, and what they attend to
        self.transformer = Transformer(dim, config.num_layers, config.num_heads, self.memory)
        self.next_latent, self.reward, self.continues = (self._head(out) for out in (latent, 1, 1))
        with torch.no_grad():
            last = self.continues[-1]
            assert isinstance(last, nn.Linear)
            last.bias.fill_(math.log(max(discount, 1e-6) / max(1 - discount, 1e-6)))  # begins at the discount

    def _head(self, out_dim: int) -> nn.Sequential:
        cfg = self.config
        return nn.Sequential(
            *stack(cfg.token_dim, cfg.hidden_dim, cfg.mlp_layers, "silu"), Linear(cfg.hidden_dim, out_dim)
        )

    def start(self, n: int) -> State:
        return self._start(n, self.memory)  # the full cache, so that shapes do not change while a robot acts

    def observe(self, state, prev_action, prev_reward, obs, first) -> State:
        _, after = self._advance(state, prev_action)
        after["reward"] = prev_reward
        empty = {name: torch.zeros_like(value) for name, value in after.items()}
        return where(first, empty, after) | {"z": mode(self._encode(obs)).flatten(1)}

    def step(self, state, action):
        out, after = self._advance(state, action)
        reward, continue_logit, log_p = self._predict(out)
        after = after | {"z": sample(log_p).flatten(1), "reward": reward}
        return after, reward, continue_logit.sigmoid().clamp(max=self.discount)

    def feature(self, state):
        return state["z"]

    def unroll(self, batch: Batch) -> Unroll:
        """Attends over the window; gives all losses of the contract.

        Source: Robine et al. 2023, eq. 3 to 5. Latents carry no gradient into the transformer.
        """
        cfg, (steps, size) = self.config, batch.reward.shape
        log_p = self._encode({name: value.flatten(0, 1) for name, value in batch.obs.items()})
        log_p = log_p.unflatten(0, (steps + 1, size))  # (T+1, B, latents, classes)
        sampled = sample(log_p).flatten(2)  # (T+1, B, latents * classes)
        z = sampled.detach()
        out = self._window(z[:-1], batch.action, batch.reward)  # (T, B, D)
        reward, continue_logit, next_log_p = self._predict(out)
        known = known_obs(batch)  # (T+1, B)
        max_entropy = cfg.num_latents * math.log(cfg.num_classes)
        entropy_fraction = (entropy(log_p) * known).sum() / known.sum() / max_entropy
        obs = 0.5 * self.decoder.error(sampled, batch.obs) * known
        losses = {
            "obs": by_step(obs),
            "entropy": (cfg.min_entropy - entropy_fraction).relu().expand(steps, size),
            "consistency": _cross_entropy(next_log_p.detach(), log_p[1:]) * batch.next_valid,
            "dynamics": _cross_entropy(log_p[1:].detach(), next_log_p) * batch.next_valid,
            "reward": 0.5 * (reward - batch.reward).square(),
            "discount": F.binary_cross_entropy_with_logits(
                continue_logit, self.discount * (~batch.terminated).float(), reduction="none"
            ),
        }
        return Unroll(losses, z[:-1], z[1:], self._starts(z[:-1], batch))

    def decode(self, state):
        return self.decoder.predict(state["z"])

    def _encode(self, obs: dict[str, Tensor]) -> Tensor:
        """Returns log-probabilities (N, latents, classes) of the latents of observations."""
        logits = self.to_latent(self.encoder(obs))
        return log_probs(logits.unflatten(-1, (self.config.num_latents, -1)), 0.0)

    def _predict(self, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns reward (...), logit of the discount (...) and log-probabilities of the next latent.

        Args:
            out: (..., D) outputs of the transformer.
        """
        logits = self.next_latent(out).unflatten(-1, (self.config.num_latents, -1))
        reward, continue_logit = self.reward(out), self.continues(out)
        return reward.float().squeeze(-1), continue_logit.float().squeeze(-1), log_probs(logits, 0.0)

    def _start(self, n: int, memory: int) -> State:
        """Returns the state before any observation, with M = `memory`."""
        device, cfg = self.transformer.sinusoids.device, self.config
        width = 2 * cfg.token_dim // cfg.num_heads
        return {
            "z": torch.zeros(n, self.feature_dim, device=device),
            "reward": torch.zeros(n, device=device),
            "past": torch.zeros(n, cfg.num_layers, cfg.num_heads, memory, width, device=device),
            "steps": torch.zeros(n, dtype=torch.int64, device=device),
        }

    def _window(self, z: Tensor, action: Tensor, reward: Tensor) -> Tensor:
        """Returns the outputs (T, B, D) at the actions of a window; a step attends to `span` earlier ones."""
        parts = self.latent_token(z), self.action_token(action), self.reward_token(reward[..., None])
        tokens = torch.stack(parts, 2).transpose(0, 1).flatten(1, 2)[:, :-1]  # (B, 3 T - 1, D)
        position = torch.arange(tokens.shape[1], device=z.device)
        no_past = self._start(tokens.shape[0], 0)["past"]
        out, _ = self.transformer(tokens, no_past, self._mask(position, position)[None])
        return out[:, 1::TOKENS].transpose(0, 1)

    def _mask(self, new: Tensor, position: Tensor) -> Tensor:
        """Returns (S, K) bool: whether `position` (K,) is within reach of `new` (S,) and not later."""
        return (position <= new[:, None]) & (new[:, None] // TOKENS - position // TOKENS <= self.config.span)

    def _advance(self, state: State, action: Tensor) -> tuple[Tensor, State]:
        """Returns the output (N, D) at an action, and the state after it with `z` and `reward` unchanged.

        A reward becomes a token together with the latent and action that first attend to it: one pass a step.
        """
        parts = self.reward_token(state["reward"][:, None]), self.latent_token(state["z"])
        tokens = torch.stack([*parts, self.action_token(action)], 1)  # (N, 3, D)
        position = torch.arange(-1 - state["past"].shape[3], 2, device=action.device)  # the latent is at 0
        new = position[-TOKENS:]
        exists = position >= -TOKENS * state["steps"][:, None]  # (N, M + 3)
        itself = position == new[:, None]  # before the first reward, its token has nothing else to attend to
        mask = self._mask(new, position) & exists[:, None] | itself  # (N, 3, M + 3)
        out, past = self.transformer(tokens, state["past"], mask)
        steps = (state["steps"] + 1).clamp(max=self.config.span + 1)
        return out[:, -1], state | {"past": past[:, :, :, -self.memory :], "steps": steps}

    @torch.no_grad()
    def _starts(self, z: Tensor, batch: Batch) -> State:
        """Returns the states of the window (T, B), each with a cache of the step before, as published."""
        steps, size = batch.reward.shape
        before = self._start((steps - 1) * size, 0) | {"z": z[:-1].flatten(0, 1)}
        _, after = self._advance(before, batch.action[:-1].flatten(0, 1))
        after["reward"] = batch.reward[:-1].flatten()
        after["past"] = after["past"][:, :, :, 1:]  # there is no earlier reward
        first = self._start(size, TOKENS - 1)
        starts = {name: torch.cat([first[name], after[name]]) for name in first}
        return starts | {"z": z.flatten(0, 1)}


def _cross_entropy(log_target: Tensor, log_p: Tensor) -> Tensor:
    """Returns the cross-entropy (...) in nats, summed over the variables of (..., variables, classes)."""
    return kl_divergence(log_target, log_p) + entropy(log_target)
