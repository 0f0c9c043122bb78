"""TD-MPC's latent world model: encoder, latent dynamics, reward; no decoder.

Source: Hansen et al. 2022 (TD-MPC); sizes, initialisation and losses as in Feng et al. 2023 (FOWM).
Simplex latents, two-hot rewards and the online target are options from Hansen et al. 2024 (TD-MPC2).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from o2o.core.config import FieldError, at_least, at_most
from o2o.core.episode import Batch
from o2o.core.spec import Spec
from o2o.nn.blocks import ImageEncoder, SimNorm, TargetNetwork, mlp, random_shift, vector_encoder, zero_last
from o2o.nn.two_hot import code
from o2o.nn.world_model import ModelConfig, State, Unroll, WorldModel


@dataclass(frozen=True)
class Config(ModelConfig):
    """Sizes and rates of the TD-MPC model.

    Attributes:
        latent_dim: entries of the latent state; FOWM 50.
        hidden_dim: width of dynamics and reward MLPs; FOWM 512.
        encoder_dim: hidden width of the vector encoder; FOWM 256.
        channels: of every convolution of the image encoder; FOWM 32.
        target_rate: step of the slow encoder towards the encoder; FOWM 0.01.
        target_every: updates between two such steps; FOWM 2.
        predict_end: also learn whether the episode goes on, and discount plans by it; FOWM: no.
        simnorm: latent entries in a group that sums to one; TD-MPC2 8. 0: each entry is a sigmoid, as in
            FOWM.
        num_bins: of the reward's two-hot code, evenly from -10 to 10 in symlog; TD-MPC2 101. 0: the reward
            is a plain number with a squared error, as in FOWM.
        target: whose latent of the next observation the dynamics shall meet: of the `slow` encoder, as in
            FOWM, or of the encoder itself, without gradient, as in TD-MPC2.
    """

    latent_dim: int = 50
    hidden_dim: int = 512
    encoder_dim: int = 256
    channels: int = 32
    target_rate: float = 0.01
    target_every: int = 2
    predict_end: bool = False
    simnorm: int = 0
    num_bins: int = 0
    target: Literal["slow", "online"] = "slow"

    def __post_init__(self):
        at_least(self, latent_dim=1, hidden_dim=1, encoder_dim=1, channels=1, target_rate=0, target_every=1)
        at_least(self, simnorm=2 if self.simnorm else 0, num_bins=2 if self.num_bins else 0)
        at_most(self, target_rate=1)
        if self.simnorm and self.latent_dim % self.simnorm:
            raise FieldError(
                self, f"<latent_dim> is {self.latent_dim}, wanted a multiple of <simnorm>, {self.simnorm}"
            )


def squash(config: Config) -> nn.Module:
    """What bounds a latent, on top of its LayerNorm."""
    return SimNorm(config.simnorm) if config.simnorm else nn.Sigmoid()


class Encoder(nn.Module):
    """Observations to the mean of one latent per entry; each latent lies in (0, 1), or on simplices."""

    def __init__(self, spec: Spec, config: Config):
        super().__init__()
        self.names = list(spec.obs)
        self.parts = nn.ModuleDict()
        for name, shape in spec.obs.items():
            if name in spec.images:
                part = ImageEncoder(shape, config.channels, config.latent_dim, squash(config))
            else:
                part = vector_encoder(shape[0], config.encoder_dim, config.latent_dim, squash(config))
            self.parts[name.replace(".", "/")] = part

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """name -> (N, *shape), to (N, latent_dim)."""
        pairs = zip(self.names, self.parts.values(), strict=True)
        latents = [part(obs[name]) for name, part in pairs]
        return torch.stack(latents).mean(0) if len(latents) > 1 else latents[0]


class Model(WorldModel):
    """State: `{"z": (N, latent_dim)}`; the feature is z itself."""

    def __init__(self, spec: Spec, discount: float, config: Config):
        super().__init__()
        self.feature_dim = config.latent_dim
        self.discount = discount
        self.images = spec.images
        latent, hidden = config.latent_dim, config.hidden_dim
        self.encoder = Encoder(spec, config)
        self.dynamics = nn.Sequential(
            mlp(latent + spec.action_dim, hidden, latent), nn.LayerNorm(latent), squash(config)
        )
        self.reward_code = code(config.num_bins, "symlog")
        self.reward = zero_last(mlp(latent + spec.action_dim, hidden, self.reward_code.width))
        self.goes_on = mlp(latent + spec.action_dim, hidden, 1) if config.predict_end else None
        slow = config.target == "slow"
        self.slow_encoder = (
            TargetNetwork(self.encoder, config.target_rate, config.target_every) if slow else None
        )

    def start(self, n: int) -> State:
        device = next(self.parameters()).device
        return {"z": torch.zeros(n, self.feature_dim, device=device)}

    def observe(self, state, prev_action, prev_reward, obs, first) -> State:
        return {"z": self.encoder(obs)}

    def step(self, state, action):
        joint = torch.cat([state["z"], action], -1)
        discount = torch.full_like(joint[:, 0], self.discount)
        if self.goes_on is not None:
            discount = discount * torch.sigmoid(self.goes_on(joint).squeeze(-1))
        return {"z": self.dynamics(joint)}, self.reward_code.decode(self.reward(joint)), discount

    def feature(self, state):
        return state["z"]

    def unroll(self, batch: Batch) -> Unroll:
        """Open loop from `obs[0]`; losses `dynamics` (latent consistency), `reward`, maybe `discount`.

        Source: Feng et al. 2023, eq. 1 (TD-MPC objective); the gradient runs through the whole roll-out.
        """
        steps, size = batch.reward.shape
        obs0, later = self._augment(batch.obs)
        with torch.no_grad():
            next_feature = self.encoder(later).view(steps, size, -1)
            slow = self.slow_encoder
            target = next_feature if slow is None else slow(later).view(steps, size, -1)
        z, feature, predicted = self.encoder(obs0), [], []
        for t in range(steps):
            feature.append(z)
            z = self.dynamics(torch.cat([z, batch.action[t]], -1))
            predicted.append(z)
        features = torch.stack(feature)  # (T, B, F)
        joint = torch.cat([features, batch.action], -1)
        losses = {
            "dynamics": (torch.stack(predicted) - target).square().mean(-1) * batch.next_valid,
            "reward": self.reward_code.loss(self.reward(joint), batch.reward),
        }
        if self.goes_on is not None:
            logit, goes_on = self.goes_on(joint).squeeze(-1), (~batch.terminated).float()
            losses["discount"] = binary_cross_entropy_with_logits(logit, goes_on, reduction="none")
        return Unroll(losses, features, next_feature, {"z": features.detach().flatten(0, 1)})

    def track(self) -> None:
        if self.slow_encoder is not None:
            self.slow_encoder.track(self.encoder)

    def _augment(self, obs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """First observations (B, ...), and all later ones (T*B, ...); images shifted, each on its own."""
        first = {name: value[0] for name, value in obs.items()}
        later = {name: value[1:].flatten(0, 1) for name, value in obs.items()}
        for name in self.images:
            pad = obs[name].shape[-1] // 21  # DrQ-v2: 4 pixels of 84
            first[name], later[name] = random_shift(first[name], pad), random_shift(later[name], pad)
        return first, later
