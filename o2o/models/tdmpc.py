"""Implements TD-MPC's latent world model: encoder, latent dynamics and reward, without a decoder.

Source: Hansen et al. 2022 (TD-MPC); sizes, initialization and losses are those of Feng et al. 2023 (FOWM).
Simplex latents, two-hot rewards and the online target are options from Hansen et al. 2024 (TD-MPC2).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from o2o.core.episode import Batch
from o2o.core.spec import Spec
from o2o.nn.blocks import ImageEncoder, SimNorm, TargetNetwork, mlp, random_shift, vector_encoder, zero_output
from o2o.nn.model_config import TDMPCConfig as Config
from o2o.nn.two_hot import make_encoding
from o2o.nn.world_model import State, Unroll, WorldModel


def latent_activation(config: Config) -> nn.Module:
    """Returns the layer that bounds a latent after its LayerNorm."""
    return SimNorm(config.simnorm) if config.simnorm else nn.Sigmoid()


class Encoder(nn.Module):
    """Encodes each observation entry into a latent, in (0, 1) or on simplices, and returns their mean.

    With `keep_vectors`, the vectors of the observation come before it, as they are.
    """

    def __init__(self, spec: Spec, config: Config):
        super().__init__()
        self.names = list(spec.obs)
        self.kept = [name for name in spec.obs if config.keep_vectors and name not in spec.images]
        self.parts = nn.ModuleDict()
        for name, shape in spec.obs.items():
            output = latent_activation(config)
            if name in spec.images:
                part = ImageEncoder(shape, config.channels, config.latent_dim, output)
            else:
                part = vector_encoder(shape[0], config.encoder_dim, config.latent_dim, output)
            self.parts[name.replace(".", "/")] = part

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """Encodes name -> (N, *shape) into (N, F)."""
        pairs = zip(self.names, self.parts.values(), strict=True)
        latents = [part(obs[name]) for name, part in pairs]
        latent = torch.stack(latents).mean(0) if len(latents) > 1 else latents[0]
        return torch.cat([*(obs[name] for name in self.kept), latent], -1) if self.kept else latent


class Dynamics(nn.Sequential):
    """Predicts the next state from state and action: kept vectors by their difference, the latent anew."""

    def __init__(self, kept_dim: int, action_dim: int, config: Config):
        feature_dim = kept_dim + config.latent_dim
        super().__init__(
            mlp(feature_dim + action_dim, config.hidden_dim, feature_dim),
            nn.LayerNorm(config.latent_dim),
            latent_activation(config),
        )
        self.kept_dim = kept_dim

    def forward(self, joint: Tensor) -> Tensor:
        """Returns the next state (N, F) of states and actions (N, F + A)."""
        net, norm, activation = self
        if not self.kept_dim:
            return activation(norm(net(joint)))
        difference, latent = net(joint).tensor_split([self.kept_dim], -1)
        return torch.cat([joint[..., : self.kept_dim] + difference, activation(norm(latent))], -1)


class Model(WorldModel):
    """TD-MPC's world model. Its state is `{"z": (N, F)}`; the feature is z itself.

    It is the latent (N, latent_dim), with `keep_vectors` after the vectors, which `decode` then returns.
    """

    def __init__(self, spec: Spec, discount: float, config: Config):
        super().__init__()
        self.discount = discount
        self.images = spec.images
        self.encoder = Encoder(spec, config)
        self.kept_dims = {name: spec.obs[name][0] for name in self.encoder.kept}
        kept_dim = sum(self.kept_dims.values())
        self.feature_dim = kept_dim + config.latent_dim
        joint_dim, hidden = self.feature_dim + spec.action_dim, config.hidden_dim
        self.dynamics = Dynamics(kept_dim, spec.action_dim, config)
        self.reward_encoding = make_encoding(config.num_bins, "symlog")
        self.reward = zero_output(mlp(joint_dim, hidden, self.reward_encoding.out_dim))
        self.continues = mlp(joint_dim, hidden, 1) if config.predict_end is True else None
        self.target_encoder = None
        if config.target == "ema":
            self.target_encoder = TargetNetwork(self.encoder, config.target_rate, config.target_every)

    def start(self, n: int) -> State:
        device = next(self.parameters()).device
        return {"z": torch.zeros(n, self.feature_dim, device=device)}

    def observe(self, state, prev_action, prev_reward, obs, first) -> State:
        return {"z": self.encoder(obs)}

    def step(self, state, action):
        joint = torch.cat([state["z"], action], -1)
        discount = torch.full_like(joint[:, 0], self.discount)
        if self.continues is not None:
            discount = discount * torch.sigmoid(self.continues(joint).squeeze(-1))
        return {"z": self.dynamics(joint)}, self.reward_encoding.decode(self.reward(joint)), discount

    def feature(self, state):
        return state["z"]

    def decode(self, state):
        if not self.kept_dims:
            return None
        sizes = list(self.kept_dims.values())
        vectors = state["z"][:, : sum(sizes)].split(sizes, -1)
        return dict(zip(self.kept_dims, vectors, strict=True))

    def unroll(self, batch: Batch) -> Unroll:
        """Rolls out open loop from `obs[0]`.

        The losses are `dynamics` (latent consistency), `reward`, and `discount` with `predict_end`.

        Source: Feng et al. 2023, eq. 1 (TD-MPC objective); the gradient runs through the whole rollout.
        """
        steps, size = batch.reward.shape
        obs0, later = self._augment(batch.obs)
        with torch.no_grad():
            next_feature = self.encoder(later).view(steps, size, -1)
            ema = self.target_encoder
            target = next_feature if ema is None else ema(later).view(steps, size, -1)
        z, feature, predicted = self.encoder(obs0), [], []
        for t in range(steps):
            feature.append(z)
            z = self.dynamics(torch.cat([z, batch.action[t]], -1))
            predicted.append(z)
        features = torch.stack(feature)  # (T, B, F)
        joint = torch.cat([features, batch.action], -1)
        losses = {
            "dynamics": (torch.stack(predicted) - target).square().mean(-1) * batch.next_valid,
            "reward": self.reward_encoding.loss(self.reward(joint), batch.reward),
        }
        if self.continues is not None:
            logit, continues = self.continues(joint).squeeze(-1), (~batch.terminated).float()
            losses["discount"] = binary_cross_entropy_with_logits(logit, continues, reduction="none")
        return Unroll(losses, features, next_feature, {"z": features.detach().flatten(0, 1)})

    def track(self) -> None:
        if self.target_encoder is not None:
            self.target_encoder.track(self.encoder)

    def _augment(self, obs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns first observations (B, ...) and later ones (T*B, ...); each image is shifted at random."""
        first = {name: value[0] for name, value in obs.items()}
        later = {name: value[1:].flatten(0, 1) for name, value in obs.items()}
        for name in self.images:
            pad = obs[name].shape[-1] // 21  # DrQ-v2: 4 pixels of 84
            first[name], later[name] = random_shift(first[name], pad), random_shift(later[name], pad)
        return first, later
