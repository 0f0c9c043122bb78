"""Encodes observations and predicts nothing: the world model of an agent that only imitates."""

import torch
from torch import Tensor

from o2o.core.episode import Batch
from o2o.core.spec import Spec
from o2o.nn.blocks import image_encoders, join_observation, joined_dim, random_shift
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
        self.spec = spec
        self.encoders = image_encoders(spec, config.channels, config.latent_dim, config.convolutions)
        self.feature_dim = joined_dim(spec, config.latent_dim)
        self.register_buffer("zero", torch.zeros(1, self.feature_dim), persistent=False)

    def start(self, n: int) -> State:
        return {"feature": self.zero.repeat(n, 1)}

    def observe(self, state, prev_action, prev_reward, obs, first) -> State:
        return {"feature": join_observation(obs, self.spec, self.encoders)}

    def step(self, state, action):
        raise cannot_imagine("encoder")

    def feature(self, state):
        return state["feature"]

    def unroll(self, batch: Batch) -> Unroll:
        """Encodes every observation of the windows; there are no losses. Each image is shifted at random."""
        steps, size = batch.reward.shape
        obs = {name: value.flatten(0, 1) for name, value in batch.obs.items()}
        for name in self.spec.images:
            obs[name] = random_shift(obs[name], obs[name].shape[-1] // 21)  # DrQ-v2: 4 pixels of 84
        feature = join_observation(obs, self.spec, self.encoders).view(steps + 1, size, -1)  # (T+1, B, F)
        starts = {"feature": feature[:-1].detach().flatten(0, 1)}
        return Unroll({}, feature[:-1], feature[1:].detach(), starts)
