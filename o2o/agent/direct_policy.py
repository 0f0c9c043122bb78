"""Learns a policy from the observation itself, beside the one on the model's feature.

The feature is made for predicting rewards and the next feature, and loses what a precise task needs: with it,
a hand never opened the door that a network on the same 39 numbers opens in most trials, and an arm never
lifted a cube that it saw by a camera. Where the recordings are noisy, the feature is the better input. Which
of the two predicts held-out actions better is known before the robot moves, so that one acts.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from o2o.agent.action_chunk import future_actions
from o2o.agent.part_configs import OptimizerConfig, PolicyConfig
from o2o.agent.policy import AWRPolicy, awr_weight, valid_moments
from o2o.core.episode import Batch
from o2o.core.spec import Spec
from o2o.nn.blocks import image_encoders, join_observation, joined_dim, random_shift
from o2o.nn.world_model import Unroll

# Those of the preset `bc`.
CONFIG = PolicyConfig(distribution="laplace", noise_std=0.0, input_noise=0.05)
WIDTH, MAX_WIDTH = 4, 256  # times the width of the policy on the feature, and at most
CHANNELS, LATENT_DIM = 16, 64  # of the convolutions and the output of each image's encoder
MAX_WEIGHT = 20.0  # three standard deviations above the mean return
LEARNING_RATE = 1e-3
OPTIMIZER = OptimizerConfig(decay=4000)


class DirectPolicy(nn.Module):
    """Policy on the observation, learned by weighted imitation, in chunks of actions.

    It sees all vectors as they are, and each image by convolutions of its own.

    Attributes:
        images: names of the images, in the order of the encoders.
        learns: whether updates change it.
    """

    def __init__(self, spec: Spec, chunk_size: int, width: int):
        """
        Args:
            spec: observations and actions.
            chunk_size: number of actions in a chunk.
            width: width of the hidden layers of the policy on the feature.
        """
        super().__init__()
        self.spec, self.images, self.learns = spec, list(spec.images), True
        self.encoders = image_encoders(spec, CHANNELS, LATENT_DIM, "deep-keypoints")
        config = replace(CONFIG, chunk_size=chunk_size, hidden_dim=min(WIDTH * width, MAX_WIDTH))
        self.policy = AWRPolicy(joined_dim(spec, LATENT_DIM), spec.action_dim, config)

    @property
    def chunk_size(self) -> int:
        """Number of actions in a chunk."""
        return self.policy.chunk_size

    def act_chunk(self, obs: dict[str, Tensor], explore: float = 0.0) -> Tensor:
        """Returns the next `chunk_size` actions (N, K, A) in [-1, 1] at observations, name -> (N, *shape)."""
        return self.policy.act_chunk(self._encode(obs), explore)

    def losses(self, policy: AWRPolicy, critic, unroll: Unroll, batch: Batch) -> dict[str, Tensor]:
        """Returns `direct` (T, B): the loss of the actions from the first step of each window on, and zeros.

        While it learns, each image is shifted at random.

        Args:
            policy: the policy on the feature.
        """
        obs = {name: value[0] for name, value in batch.obs.items()}
        for name in self.images if torch.is_grad_enabled() else ():
            obs[name] = random_shift(obs[name], obs[name].shape[-1] // 21)  # DrQ-v2: 4 pixels of 84
        recorded, known = future_actions(batch, self.chunk_size)
        weight = policy.filtered(self.weight(policy, critic, unroll, batch), batch)[None]
        loss = self.policy.regression(self._encode(obs)[None], recorded[:1], known[:1], weight)
        return {"direct": F.pad(loss, (0, 0, 0, len(recorded) - 1))}

    def weight(self, policy: AWRPolicy, critic, unroll: Unroll, batch: Batch) -> Tensor:
        """Returns the weights (B,) of the recorded actions at the first step of each window.

        They are those of the policy on the feature, by the advantage; with images, by the return of the
        whole episode. The advantages of a critic that learned from a camera had an arm lift a cube in 2 of
        40 scenes, equal weights in 38.
        """
        if self.images:
            return return_weight(batch, policy.config.inverse_temperature)
        first = replace(batch, action=batch.action[:1], valid=batch.valid[:1])
        return policy.weight(critic, unroll.feature[:1].detach(), first)[0]

    def _encode(self, obs: dict[str, Tensor]) -> Tensor:
        return join_observation(obs, self.spec, self.encoders)  # (N, F)


def return_weight(batch: Batch, inverse_temperature: float) -> Tensor:
    """Returns exp(beta * z), (B,), with the standardized return of the whole episode of each window.

    Source: Peters and Schaal 2007, reward-weighted regression.
    """
    known, value = batch.reward_known, batch.episode_return
    mean, std = valid_moments(value, known)
    return awr_weight((value - mean) * known / std, inverse_temperature, MAX_WEIGHT)


@dataclass(frozen=True)
class ActionErrors:
    """Mean squared errors of the first action, of an entry in [-1, 1], weighted as the policies learn.

    Attributes:
        feature: error of the policy on the model's feature.
        direct: error of the policy on the observation.
        images: whether the observation has images.
    """

    feature: float
    direct: float
    images: bool = False

    def __str__(self) -> str:
        observed = "the images" if self.images else "observed vectors"
        better = observed if self.direct < self.feature else "the model's feature"
        return (
            f"held-out actions: squared error {self.feature:.3g} by the policy on the model's feature, "
            f"{self.direct:.3g} by that on {observed}; the one on {better} acts where no plan does"
        )
