"""Learns a policy from the vectors of the observation as they are, beside the one on the model's feature.

The feature is made for predicting rewards and the next feature, and loses what a precise task needs: with it,
a hand never opened the door that a network on the same 39 numbers opens in most trials. Where the recordings
are noisy, the feature is the better input. Which of the two predicts held-out actions better is known before
the robot moves, so that one acts.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from o2o.agent.action_chunk import future_actions
from o2o.agent.part_configs import OptimizerConfig, PolicyConfig
from o2o.agent.policy import AWRPolicy
from o2o.core.episode import Batch
from o2o.core.errors import UsageError
from o2o.core.spec import Spec
from o2o.nn.world_model import Unroll

# Those of the preset `bc`.
CONFIG = PolicyConfig(distribution="laplace", noise_std=0.0, input_noise=0.05)
WIDTH, MAX_WIDTH = 4, 256  # times the width of the policy on the feature, and at most
LEARNING_RATE = 1e-3
OPTIMIZER = OptimizerConfig(decay=4000)


class DirectPolicy(nn.Module):
    """Policy on observed vectors, learned by the weighted regression of `AWRPolicy`, in chunks of actions."""

    def __init__(self, spec: Spec, chunk_size: int, width: int):
        """
        Args:
            spec: observations and actions.
            chunk_size: number of actions in a chunk.
            width: width of the hidden layers of the policy on the feature.
        Raises:
            UsageError: the observation has no vector.
        """
        super().__init__()
        self.names = [name for name in spec.obs if name not in spec.images]
        if not self.names:
            raise UsageError("--policy.direct-chunk needs a vector in the observation, it has only images")
        config = replace(CONFIG, chunk_size=chunk_size, hidden_dim=min(WIDTH * width, MAX_WIDTH))
        size = sum(spec.obs[name][0] for name in self.names)
        self.policy = AWRPolicy(size, spec.action_dim, config)

    @property
    def chunk_size(self) -> int:
        """Number of actions in a chunk."""
        return self.policy.chunk_size

    def act_chunk(self, obs: dict[str, Tensor], explore: float = 0.0) -> Tensor:
        """Returns the next `chunk_size` actions (N, K, A) in [-1, 1] at observations, name -> (N, *shape)."""
        return self.policy.act_chunk(self._vectors(obs), explore)

    def losses(self, policy: AWRPolicy, critic, unroll: Unroll, batch: Batch) -> dict[str, Tensor]:
        """Returns `direct` (T, B): the loss of the actions from the first step of each window on, and zeros.

        Args:
            policy: the policy on the feature; its weights of recorded actions are used.
        """
        recorded, known = future_actions(batch, self.chunk_size)
        weight = first_weight(policy, critic, unroll, batch)
        loss = self.policy.regression(self._vectors(batch.obs)[:1], recorded[:1], known[:1], weight)
        return {"direct": F.pad(loss, (0, 0, 0, len(recorded) - 1))}

    def _vectors(self, obs: dict[str, Tensor]) -> Tensor:
        return torch.cat([obs[name] for name in self.names], -1)


def first_weight(policy: AWRPolicy, critic, unroll: Unroll, batch: Batch) -> Tensor:
    """Returns the weights (1, B) of the recorded actions at the first step of each window."""
    first = replace(batch, action=batch.action[:1], valid=batch.valid[:1])
    return policy.weight(critic, unroll.feature[:1].detach(), first)


@dataclass(frozen=True)
class ActionErrors:
    """Mean squared errors of the first action, of an entry in [-1, 1], weighted as the policies learn.

    Attributes:
        feature: error of the policy on the model's feature.
        direct: error of the policy on observed vectors.
    """

    feature: float
    direct: float

    def __str__(self) -> str:
        better = "observed vectors" if self.direct < self.feature else "the model's feature"
        return (
            f"held-out actions: squared error {self.feature:.3g} by the policy on the model's feature, "
            f"{self.direct:.3g} by that on observed vectors; the one on {better} acts where no plan does"
        )
