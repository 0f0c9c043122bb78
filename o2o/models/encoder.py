"""Encodes observations and predicts nothing: the world model of an agent that only imitates."""

import torch
from torch import Tensor, nn

from o2o.core.episode import Batch
from o2o.core.spec import Spec
from o2o.nn.blocks import ImageEncoder, random_shift
from o2o.nn.model_config import EncoderConfig as Config
from o2o.nn.world_model import State, Unroll, WorldModel, cannot_imagine


class Model(WorldModel):
    """Encoder. The feature is all vectors, unchanged, and the latents of all images, normalized by LayerNorm.

    It has no loss of its own: images are encoded as the critic and, with `--policy.encoder-gradient`, the
    policy need them. Its state is `{"feature": (N, F)}`.
    """

    imagines = False
    zero: Tensor

    def __init__(self, spec: Spec, discount: float, config: Config):
        super().__init__()
        self.vectors = [name for name in spec.obs if name not in spec.images]
        self.images = list(spec.images)
        self.encoders = nn.ModuleList(
            ImageEncoder(
                spec.obs[name], config.channels, config.latent_dim, nn.Identity(), config.convolutions
            )
            for name in self.images
        )
        sizes = [spec.obs[name][0] for name in self.vectors]
        self.feature_dim = sum(sizes) + config.latent_dim * len(self.images)
        self.register_buffer("zero", torch.zeros(1, self.feature_dim), persistent=False)

    def start(self, n: int) -> State:
        return {"feature": self.zero.repeat(n, 1)}

    def observe(self, state, prev_action, prev_reward, obs, first) -> State:
        return {"feature": self._encode(obs)}

    def step(self, state, action):
        raise cannot_imagine("encoder")

    def feature(self, state):
        return state["feature"]

    def unroll(self, batch: Batch) -> Unroll:
        """Encodes every observation of the windows; there are no losses. Each image is shifted at random."""
        steps, size = batch.reward.shape
        obs = {name: value.flatten(0, 1) for name, value in batch.obs.items()}
        for name in self.images:
            obs[name] = random_shift(obs[name], obs[name].shape[-1] // 21)  # DrQ-v2: 4 pixels of 84
        feature = self._encode(obs).view(steps + 1, size, -1)  # (T+1, B, F)
        starts = {"feature": feature[:-1].detach().flatten(0, 1)}
        return Unroll({}, feature[:-1], feature[1:].detach(), starts)

    def _encode(self, obs: dict[str, Tensor]) -> Tensor:
        """Encodes name -> (N, *shape) into (N, F)."""
        latents = [part(obs[name]) for name, part in zip(self.images, self.encoders, strict=True)]
        return torch.cat([*(obs[name] for name in self.vectors), *latents], -1)
