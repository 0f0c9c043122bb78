"""Defines the options of the bundled world models.

They stand apart from the networks, so that flags and help pages import no torch. A model of your own has its
`Config` in its own file.
"""

from dataclasses import dataclass
from typing import Literal

from o2o.core.config import FieldError, at_least, at_most
from o2o.nn.choices import Convolutions, Style


@dataclass(frozen=True)
class ModelConfig:
    """Options of one world model. A model file subclasses it as `Config`; each field is a flag."""


@dataclass(frozen=True)
class TDMPCConfig(ModelConfig):
    """Sizes and rates of the TD-MPC model.

    Attributes:
        latent_dim: Number of entries of the latent state; FOWM uses 50.
        hidden_dim: Width of the dynamics and reward MLPs; FOWM uses 512.
        encoder_dim: Hidden width of the vector encoder; FOWM uses 256.
        channels: Channels of every convolution layer of the image encoder; FOWM uses 32.
        convolutions: Convolutions of the image encoder: `deep`, four that halve the image (FOWM), or
            `keypoints`, one of which each channel gives the place in the image where it is bright;
            `deep-keypoints`, two before it.
        target_rate: Update rate (tau) of the target encoder, an EMA of the encoder; FOWM uses 0.01.
        target_every: Gradient steps between two updates of the target encoder; FOWM uses 2.
        predict_end: Also learn whether the episode goes on, and discount plans by it; FOWM does not. `auto`:
            if an episode of the dataset terminates.
        simnorm: Number of latent entries in a group that sums to one; TD-MPC2 uses 8. 0: each entry is a
            sigmoid, as in FOWM.
        num_bins: Number of bins of the two-hot reward, evenly from -10 to 10 in symlog; TD-MPC2 uses 101. 0:
            the reward is a plain number with a squared error, as in FOWM.
        keep_vectors: Whether the state also holds the vectors of the observation as they are, and the
            dynamics predict how they change. Critic, policy and planner then see every digit of them, which
            latents between 0 and 1 lose; FOWM does not. `auto`: if the observation has an image.
        fusion: How the latents of several observations become one: their `mean` (FOWM), in which a camera's
            is lost among others, or `concat`, one after the other. `auto`: `concat` if one is an image.
        decoder: Whether the latent also learns to reconstruct the images, reduced to at most 32 by 32 pixels,
            with the weight `--balance.obs`; without images it has no effect. FOWM does not.
        contrast: Whether a predicted latent also learns to tell its own next observation from those of the
            other windows in the batch, with the weight `--balance.consistency`; FOWM does not.
        target: Encoder that gives the target latents of the dynamics: `ema`, the target encoder (FOWM), or
            `online`, the encoder itself without gradient (TD-MPC2).
    """

    latent_dim: int = 50
    hidden_dim: int = 512
    encoder_dim: int = 256
    channels: int = 32
    convolutions: Convolutions = "deep"
    target_rate: float = 0.01
    target_every: int = 2
    predict_end: bool | Literal["auto"] = False
    simnorm: int = 0
    num_bins: int = 0
    keep_vectors: bool | Literal["auto"] = False
    fusion: Literal["mean", "concat", "auto"] = "mean"
    decoder: bool = False
    contrast: bool = False
    target: Literal["ema", "online"] = "ema"

    def __post_init__(self):
        at_least(self, latent_dim=1, hidden_dim=1, encoder_dim=1, channels=1, target_rate=0, target_every=1)
        at_least(self, simnorm=2 if self.simnorm else 0, num_bins=2 if self.num_bins else 0)
        at_most(self, target_rate=1)
        if self.simnorm and self.latent_dim % self.simnorm:
            raise FieldError(
                self, f"<latent_dim> is {self.latent_dim}, wanted a multiple of <simnorm>, {self.simnorm}"
            )


@dataclass(frozen=True)
class RSSMConfig(ModelConfig):
    """Sizes and losses of the recurrent state-space model: sizes are ours, for robots, the rest DreamerV2's.

    Attributes:
        deter_dim: Number of entries of the deterministic recurrent state h.
        hidden_dim: Width of every MLP.
        num_layers: Number of hidden layers of encoder, decoder and heads.
        num_latents: Number of categorical variables of the latent z; DreamerV2 and DreamerV3 use 32.
        num_classes: Number of classes of each categorical variable; DreamerV2 and DreamerV3 use 32.
        cell: Recurrent cell: `gru` with one LayerNorm (DreamerV2), or `block` with block-diagonal weights
            (DreamerV3).
        num_blocks: Number of blocks of the block cell; DreamerV3 uses 8.
        layers: Style of hidden layers: `elu` without normalization (DreamerV2), or `silu` after RMSNorm
            (DreamerV3).
        prior_layers: Number of hidden layers from h to the prior of z; DreamerV2 uses 1, DreamerV3 2.
        channels: Channels of the first convolution layer; later ones have 2, 4 and 8 times as many.
        unimix: Part of a uniform distribution in every categorical, 0 to 1; DreamerV3 uses 0.01.
        free_nats: KL divergence below which it is not reduced further, nats; DreamerV2 (DMC) and DreamerV3
            use 1.
        free_over: Where `--model.free-nats` applies: to the mean of the `batch` (DreamerV2), or to each
            `element` (DreamerV3).
        prior_weight: Weight of KL(posterior || prior) as a loss of the prior; DreamerV2 uses 0.8, DreamerV3
            1.
        posterior_weight: Weight of the same KL as a loss of the posterior; DreamerV2 uses 0.2, DreamerV3 0.1.
        symlog: Encode and predict vectors in symlog (DreamerV3).
        obs_weight: Weight of the squared error of observations, summed over entries; DreamerV2 uses 0.5 (unit
            Gaussian), DreamerV3 1.
        num_bins: Number of bins of the two-hot reward; DreamerV3 uses 255. 0: half a squared error
            (DreamerV2).
        critic_grad: Let losses of the critic train the features too; DreamerV2 does not.
    """

    deter_dim: int = 128
    hidden_dim: int = 64
    num_layers: int = 2
    num_latents: int = 16
    num_classes: int = 8
    cell: Literal["gru", "block"] = "gru"
    num_blocks: int = 8
    layers: Style = "elu"
    prior_layers: int = 1
    channels: int = 8
    unimix: float = 0.0
    free_nats: float = 1.0
    free_over: Literal["batch", "element"] = "batch"
    prior_weight: float = 0.8
    posterior_weight: float = 0.2
    symlog: bool = False
    obs_weight: float = 0.5
    num_bins: int = 0
    critic_grad: bool = False

    def __post_init__(self):
        at_least(self, deter_dim=1, hidden_dim=1, num_layers=1, num_latents=1, num_classes=2, num_blocks=1)
        at_least(self, prior_layers=0, channels=1, unimix=0, free_nats=0, prior_weight=0, posterior_weight=0)
        at_least(self, obs_weight=0, num_bins=2 if self.num_bins else 0)
        at_most(self, unimix=1)
        if self.cell == "block" and self.deter_dim % self.num_blocks:
            raise FieldError(
                self, f"<deter_dim> is {self.deter_dim}, wanted a multiple of <num_blocks>, {self.num_blocks}"
            )


@dataclass(frozen=True)
class TWMConfig(ModelConfig):
    """Sizes of the transformer world model.

    The key-value cache of a candidate plan has 2 * num_layers * (3 * span + 2) * token_dim numbers: 77 kB by
    default.

    Attributes:
        token_dim: Width of tokens; TWM uses 256.
        num_layers: Number of layers of the transformer; TWM uses 10.
        num_heads: Number of attention heads; TWM uses 4.
        span: Number of earlier steps that a step attends to; TWM uses 16.
        hidden_dim: Width of the MLPs.
        mlp_layers: Number of hidden layers of encoder, decoder and heads.
        num_latents: Number of categorical variables of the latent z; TWM uses 32.
        num_classes: Number of classes of each categorical variable; TWM uses 32.
        channels: Channels of the first convolution layer; later ones have 2, 4 and 8 times as many; TWM uses
            48.
        min_entropy: Entropy of the latents below which a loss raises it, as a fraction of the maximum; TWM
            uses 0.1.
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


@dataclass(frozen=True)
class EncoderConfig(ModelConfig):
    """Sizes of the encoder.

    Attributes:
        latent_dim: Number of entries that each image is encoded into; vectors are passed on as they are.
        channels: Channels of every convolution layer of the image encoder; FOWM uses 32.
        convolutions: Convolutions of the image encoder, see the model `tdmpc`.
    """

    latent_dim: int = 64
    channels: int = 32
    convolutions: Convolutions = "deep"

    def __post_init__(self):
        at_least(self, latent_dim=1, channels=1)


# name of a bundled model -> class of its options
BUNDLED: dict[str, type[ModelConfig]] = {
    "encoder": EncoderConfig,
    "rssm": RSSMConfig,
    "tdmpc": TDMPCConfig,
    "twm": TWMConfig,
}
