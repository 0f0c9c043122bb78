"""Lets a world model see each image as the second policy encodes it: as a vector that says where things are.

Rewards that are almost always zero teach an encoder little, and predicting one's own latents less. Imitation
teaches it what the actions depend on, such as the place of a cube. World model, critic and the policy on the
feature then learn as they do from vectors, and their losses do not move the encoders.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from o2o.agent.direct_policy import LATENT_DIM, DirectPolicy
from o2o.core import batch_share
from o2o.core.episode import Batch
from o2o.core.spec import Spec
from o2o.nn.world_model import State, Unroll, WorldModel

CPU_ROWS = 64  # images of 64 by 64 pixels: 768 take 0.19 s in parts of 64, 0.40 s at once


def latent_spec(spec: Spec) -> Spec:
    """Returns the spec with a vector of `LATENT_DIM` entries in place of each image."""
    return replace(spec, obs=spec.obs | {name: (LATENT_DIM,) for name in spec.images})


def encode(encoder: nn.Module, image: Tensor) -> Tensor:
    """Returns the float32 latents (N, D) of images (N, C, h, w), on a CPU in parts that fit its cache."""
    parts = image.split(CPU_ROWS) if image.device.type == "cpu" else [image]
    return torch.cat([encoder(part).float() for part in parts])


class Standardizer(nn.Module):
    """Standardizes vectors (N, D) by moving averages of the mean and the deviation of each entry."""

    RATE = 0.01
    MIN_STD = 0.05  # of entries that hardly change; those of a latent are of the order of one
    mean: Tensor
    std: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def learn(self, value: Tensor) -> None:
        """Moves the averages towards the moments of values (N, D)."""
        self.mean.lerp_(batch_share.mean(value, (0,)), self.RATE)
        self.std.lerp_(batch_share.std(value, (0,)), self.RATE)

    def forward(self, value: Tensor) -> Tensor:
        return (value - self.mean) / self.std.clamp(min=self.MIN_STD)


class LatentImages(WorldModel):
    """World model that is built for vectors and sees the latent of each image, standardized.

    Args:
        inner: world model of `latent_spec`.
        direct: policy whose encoders see the images. They are its own, and no part of this module.
    """

    def __init__(self, inner: WorldModel, direct: DirectPolicy):
        super().__init__()
        self.inner, self._direct = inner, (direct,)  # a tuple hides the weights from this module
        self.feature_dim = inner.feature_dim
        self.imagines = getattr(inner, "imagines", True)  # a user's model need not derive from `WorldModel`
        self.task_heads = tuple(f"inner.{name}" for name in getattr(inner, "task_heads", ()))
        self.standardizers = nn.ModuleList(Standardizer(LATENT_DIM) for _ in direct.images)

    def start(self, n: int) -> State:
        return self.inner.start(n)

    def observe(self, state, prev_action, prev_reward, obs, first) -> State:
        return self.inner.observe(state, prev_action, prev_reward, self._seen(obs), first)

    def step(self, state, action):
        return self.inner.step(state, action)

    def feature(self, state):
        return self.inner.feature(state)

    def unroll(self, batch: Batch) -> Unroll:
        """Runs that of the inner model. Images are not shifted, for their latents say where things are."""
        steps, size = batch.action.shape[:2]
        learns = torch.is_grad_enabled() and self._direct[0].learns
        seen = self._seen({name: value.flatten(0, 1) for name, value in batch.obs.items()}, learns)
        obs = {name: value.unflatten(0, (steps + 1, size)) for name, value in seen.items()}
        return self.inner.unroll(replace(batch, obs=obs))

    def track(self) -> None:
        self.inner.track()

    def decode(self, state):
        decoded, images = self.inner.decode(state) or {}, self._direct[0].images
        return {name: value for name, value in decoded.items() if name not in images} or None

    @torch.no_grad()
    def _seen(self, obs: dict[str, Tensor], learns: bool = False) -> dict[str, Tensor]:
        """Returns name -> (N, *shape) with (N, LATENT_DIM) in place of each image.

        Args:
            learns: whether the standardization follows these observations.
        """
        direct, latents = self._direct[0], {}
        for name, encoder, standardize in zip(
            direct.images, direct.encoders, self.standardizers, strict=True
        ):
            latent = encode(encoder, obs[name])
            if learns:
                standardize.learn(latent)  # pyright: ignore[reportCallIssue]
            latents[name] = standardize(latent)
        return obs | latents
