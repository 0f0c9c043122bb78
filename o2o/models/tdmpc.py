"""Implements TD-MPC's latent world model: encoder, latent dynamics and reward, and losses for images.

Source: Hansen et al. 2022 (TD-MPC); sizes, initialization and losses are those of Feng et al. 2023 (FOWM).
Simplex latents, two-hot rewards and the online target are options from Hansen et al. 2024 (TD-MPC2). The
contrast of predicted latents is van den Oord et al. 2018 (CPC), the decoder is our own.
"""

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize

from o2o.core.episode import Batch
from o2o.core.spec import Spec
from o2o.nn.blocks import (
    ImageDecoder,
    ImageEncoder,
    SimNorm,
    TargetNetwork,
    mlp,
    random_shift,
    vector_encoder,
    zero_output,
)
from o2o.nn.model_config import TDMPCConfig as Config
from o2o.nn.two_hot import make_encoding
from o2o.nn.world_model import State, Unroll, WorldModel


def latent_activation(config: Config) -> nn.Module:
    """Returns the layer that bounds a latent after its LayerNorm."""
    return SimNorm(config.simnorm) if config.simnorm else nn.Sigmoid()


class Encoder(nn.Module):
    """Encodes each observation entry into a latent, in (0, 1) or on simplices, and fuses them.

    With `keep_vectors`, the vectors of the observation come before it, as they are.
    """

    def __init__(self, spec: Spec, config: Config):
        super().__init__()
        self.kept = [name for name in spec.obs if config.keep_vectors is True and name not in spec.images]
        self.concat = config.fusion == "concat"
        # the mean is FOWM's; beside kept vectors, their latents would only repeat them
        self.names = list(spec.images) if self.concat and self.kept and spec.images else list(spec.obs)
        self.latent_dim = config.latent_dim * (len(self.names) if self.concat else 1)
        self.parts = nn.ModuleDict()
        for name in self.names:
            shape = spec.obs[name]
            output = latent_activation(config)
            if name in spec.images:
                part = ImageEncoder(shape, config.channels, config.latent_dim, output, config.convolutions)
            else:
                part = vector_encoder(shape[0], config.encoder_dim, config.latent_dim, output)
            self.parts[name.replace(".", "/")] = part

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """Encodes name -> (N, *shape) into (N, F)."""
        pairs = zip(self.names, self.parts.values(), strict=True)
        latents = [part(obs[name]) for name, part in pairs]
        if len(latents) > 1 and not self.concat:
            latents = [torch.stack(latents).mean(0)]
        parts = [*(obs[name] for name in self.kept), *latents]
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]


class Dynamics(nn.Sequential):
    """Predicts the next state from state and action: kept vectors by their difference, the latent anew."""

    def __init__(self, kept_dim: int, latent_dim: int, action_dim: int, config: Config):
        feature_dim = kept_dim + latent_dim
        super().__init__(
            mlp(feature_dim + action_dim, config.hidden_dim, feature_dim),
            nn.LayerNorm(latent_dim),
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


class Contrast(nn.Module):
    """Loss of predicted latents that cannot tell their own next latent from those of the other windows."""

    TEMPERATURE = 0.1
    DIM = 32

    def __init__(self, latent_dim: int):
        super().__init__()
        self.dim = latent_dim
        self.projection = nn.Linear(latent_dim, self.DIM, bias=False)

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Returns (T, B) losses of latents (T, B, latent_dim) against the targets: 1 is the loss of chance.

        Source: van den Oord et al. 2018 (CPC), InfoNCE, with cosines as in Chen et al. 2020 (SimCLR).
        """
        query, key = (normalize(self.projection(2 * z - 1), dim=-1) for z in (predicted, target))
        logits = query @ key.mT / self.TEMPERATURE  # (T, B, B)
        size = logits.shape[-1]
        own = torch.arange(size, device=logits.device).expand(logits.shape[:2])
        loss = cross_entropy(logits.flatten(0, 1), own.flatten(), reduction="none").view(own.shape)
        return loss / max(math.log(size), 1.0)


class Model(WorldModel):
    """TD-MPC's world model. Its state is `{"z": (N, F)}`; the feature is z itself.

    It is the latent, `latent_dim` entries or as many for each observation (`fusion`), with `keep_vectors`
    after the vectors. `decode` returns these vectors, and with `decoder` the images.
    """

    def __init__(self, spec: Spec, discount: float, config: Config):
        super().__init__()
        self.discount = discount
        self.images = spec.images
        self.encoder = Encoder(spec, config)
        self.kept_dims = {name: spec.obs[name][0] for name in self.encoder.kept}
        kept_dim, latent_dim = sum(self.kept_dims.values()), self.encoder.latent_dim
        self.feature_dim = kept_dim + latent_dim
        joint_dim, hidden = self.feature_dim + spec.action_dim, config.hidden_dim
        self.dynamics = Dynamics(kept_dim, latent_dim, spec.action_dim, config)
        self.reward_encoding = make_encoding(config.num_bins, "symlog")
        self.reward = zero_output(mlp(joint_dim, hidden, self.reward_encoding.out_dim))
        self.continues = mlp(joint_dim, hidden, 1) if config.predict_end is True else None
        self.target_encoder = None
        if config.target == "ema":
            self.target_encoder = TargetNetwork(self.encoder, config.target_rate, config.target_every)
        self.decoders = nn.ModuleDict()
        for name in spec.images if config.decoder else ():
            self.decoders[name.replace(".", "/")] = ImageDecoder(self.feature_dim, spec.obs[name])
        self.contrast = Contrast(latent_dim) if config.contrast else None

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
        sizes = list(self.kept_dims.values())
        vectors = state["z"][:, : sum(sizes)].split(sizes, -1)
        decoded = dict(zip(self.kept_dims, vectors, strict=True))
        for name, decoder in self._image_decoders():
            decoded[name] = decoder.enlarged(state["z"])
        return decoded or None

    def unroll(self, batch: Batch) -> Unroll:
        """Rolls out open loop from `obs[0]`.

        The losses are `dynamics` (latent consistency), `reward`, `discount` with `predict_end`, `obs` with
        `decoder`, and `consistency` with `contrast`.

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
        if self.decoders:
            losses["obs"] = self._reconstruction(features[0], batch)
        if self.contrast is not None:
            latents = [value[..., -self.contrast.dim :] for value in (torch.stack(predicted), target)]
            losses["consistency"] = self.contrast(*latents) * batch.next_valid
        return Unroll(losses, features, next_feature, {"z": features.detach().flatten(0, 1)})

    def _image_decoders(self) -> list[tuple[str, ImageDecoder]]:
        """Returns pairs of the name of an image and its decoder; none without `decoder`."""
        decoders = cast(Iterable[ImageDecoder], self.decoders.values())
        return list(zip(self.images, decoders, strict=False))

    def _reconstruction(self, feature: Tensor, batch: Batch) -> Tensor:
        """Returns the (T, B) error of images decoded from features (B, F) of the first observations.

        Only the first step has one: later features are predicted, and learn from the target latents. The
        images to reconstruct are not shifted, so that the latent says where things are in the room.
        """
        errors = [decoder.error(feature, batch.obs[name][0]) for name, decoder in self._image_decoders()]
        first = torch.stack(errors).mean(0)
        return torch.cat([first[None], torch.zeros_like(batch.reward[1:])])

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
