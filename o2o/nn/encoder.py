"""Encodes observations into one embedding, and decodes features into predicted observations.

All vectors share one MLP; each image has convolutions of its own. Source: Hafner et al. 2021 (DreamerV2); TWM
uses the same convolutions.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from o2o.core.errors import UsageError
from o2o.core.spec import Spec
from o2o.nn.choices import Style
from o2o.nn.layers import ELU, Linear
from o2o.nn.two_hot import symexp, symlog

IMAGE_SIZE = 64


@dataclass(frozen=True)
class Architecture:
    """Sizes that encoder and decoder share.

    Attributes:
        hidden_dim: width of the MLPs.
        num_layers: number of hidden layers of each MLP.
        channels: channels of the first convolution; later ones have 2, 4 and 8 times as many.
        style: `elu` without normalization (DreamerV2), or `silu` after RMSNorm (DreamerV3).
        symlog: whether vectors are encoded and predicted in symlog (DreamerV3).
    """

    hidden_dim: int
    num_layers: int
    channels: int
    style: Style
    symlog: bool = False


class RMSNorm(nn.RMSNorm):
    """RMSNorm in float32, whatever the precision of the input."""

    def __init__(self, dim: int):
        super().__init__(dim, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


def dense(in_dim: int, out_dim: int, style: Style) -> nn.Sequential:
    """Returns one hidden layer."""
    if style == "elu":
        return nn.Sequential(Linear(in_dim, out_dim), ELU())
    return nn.Sequential(Linear(in_dim, out_dim), RMSNorm(out_dim), nn.SiLU())


def stack(in_dim: int, hidden_dim: int, num: int, style: Style) -> list[nn.Module]:
    """Returns `num` hidden layers."""
    return [dense(in_dim if i == 0 else hidden_dim, hidden_dim, style) for i in range(num)]


class Encoder(nn.Module):
    """Encodes observations into one embedding: all vectors by one MLP, each image by convolutions."""

    def __init__(self, spec: Spec, architecture: Architecture):
        """
        Raises:
            UsageError: an image is not 64 by 64 pixels.
        """
        super().__init__()
        check_image_size(spec)
        self.symlog, self.images = architecture.symlog, spec.images
        self.vectors = [name for name in spec.obs if name not in spec.images]
        self.embed_dim = 0
        if self.vectors:
            size = sum(spec.obs[name][0] for name in self.vectors)
            layers = stack(size, architecture.hidden_dim, architecture.num_layers, architecture.style)
            self.mlp = nn.Sequential(*layers)
            self.embed_dim += architecture.hidden_dim
        depth, activation = architecture.channels, nn.ELU if architecture.style == "elu" else nn.SiLU
        self.convs = nn.ModuleList()
        for name in self.images:
            sizes = spec.obs[name][0], depth, 2 * depth, 4 * depth, 8 * depth  # 64, 31, 14, 6, 2 pixels wide
            convs = [(nn.Conv2d(i, o, 4, stride=2), activation()) for i, o in pairwise(sizes)]
            self.convs.append(nn.Sequential(*(layer for pair in convs for layer in pair), nn.Flatten()))
            self.embed_dim += 2 * 2 * 8 * depth

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """Encodes name -> (N, *shape) into (N, embed_dim)."""
        parts = []
        if self.vectors:
            vector = torch.cat([obs[name] for name in self.vectors], -1)
            parts.append(self.mlp(symlog(vector) if self.symlog else vector))
        for name, conv in zip(self.images, self.convs, strict=True):
            parts.append(conv(obs[name].float() / 255 - 0.5))
        return torch.cat(parts, -1)


class Decoder(nn.Module):
    """Decodes features into observations: images in [-0.5, 0.5], vectors in symlog if configured."""

    def __init__(self, spec: Spec, feature_dim: int, architecture: Architecture):
        """
        Raises:
            UsageError: an image is not 64 by 64 pixels.
        """
        super().__init__()
        check_image_size(spec)
        self.symlog, self.images = architecture.symlog, spec.images
        self.sizes = {name: size[0] for name, size in spec.obs.items() if name not in spec.images}
        if self.sizes:
            body = stack(feature_dim, architecture.hidden_dim, architecture.num_layers, architecture.style)
            self.mlp = nn.Sequential(*body, Linear(architecture.hidden_dim, sum(self.sizes.values())))
        depth, activation = architecture.channels, nn.ELU if architecture.style == "elu" else nn.SiLU
        self.deconvs = nn.ModuleList()
        for name in self.images:
            self.deconvs.append(
                nn.Sequential(
                    Linear(feature_dim, 32 * depth), nn.Unflatten(-1, (32 * depth, 1, 1)),
                    nn.ConvTranspose2d(32 * depth, 4 * depth, 5, stride=2), activation(),  # 5 pixels wide
                    nn.ConvTranspose2d(4 * depth, 2 * depth, 5, stride=2), activation(),  # 13
                    nn.ConvTranspose2d(2 * depth, depth, 6, stride=2), activation(),  # 30
                    nn.ConvTranspose2d(depth, spec.obs[name][0], 6, stride=2),  # 64
                )
            )  # fmt: skip

    def forward(self, feature: Tensor) -> dict[str, Tensor]:
        """Decodes (N, F) into name -> (N, *shape)."""
        predicted = {}
        if self.sizes:
            vectors = self.mlp(feature).split(list(self.sizes.values()), -1)
            predicted |= dict(zip(self.sizes, vectors, strict=True))
        for name, deconv in zip(self.images, self.deconvs, strict=True):
            predicted[name] = deconv(feature)
        return predicted

    def predict(self, feature: Tensor) -> dict[str, Tensor]:
        """Decodes (N, F) into name -> (N, *shape): images float32 in [0, 1], vectors in the model's units."""
        predicted = self(feature)
        for name, value in predicted.items():
            if name in self.images:
                predicted[name] = (value + 0.5).clamp(0, 1)
            elif self.symlog:
                predicted[name] = symexp(value)
        return predicted

    def error(self, feature: Tensor, obs: dict[str, Tensor]) -> Tensor:
        """Returns the squared error (...) of features (..., F) against observations name -> (..., *shape).

        It is summed over entries and names.
        """
        shape = feature.shape[:-1]
        predicted, total = self(feature.flatten(0, -2)), torch.zeros(shape.numel(), device=feature.device)
        for name, value in obs.items():
            target = value.flatten(0, len(shape) - 1).float()
            if name in self.images:
                target = target / 255 - 0.5
            elif self.symlog:
                target = symlog(target)
            total = total + (predicted[name].float() - target).square().flatten(1).sum(1)
        return total.view(shape)


def check_image_size(spec: Spec) -> None:
    """
    Raises:
        UsageError: an image does not have the size that the convolutions are made for.
    """
    for name in spec.images:
        if spec.obs[name][1:] != (IMAGE_SIZE, IMAGE_SIZE):
            size = spec.obs[name][1]
            raise UsageError(
                f"this model needs images of 64 by 64 pixels, {name!r} has {size}: "
                "add --dataset.image-size 64"
            )
