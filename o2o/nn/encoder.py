"""From observations to one embedding, and from features back to what is expected to be seen.

Vectors go through an MLP together, each image through convolutions of its own. Source: Hafner et al. 2021
(DreamerV2), whose convolutions TWM took over.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from o2o.core.errors import UsageError
from o2o.core.spec import Spec
from o2o.nn.layers import ELU, Linear
from o2o.nn.two_hot import symexp, symlog

IMAGE_SIZE = 64
Style = Literal["elu", "silu"]


@dataclass(frozen=True)
class Shape:
    """What encoder and decoder have in common.

    Attributes:
        hidden_dim: width of the MLPs.
        num_layers: hidden layers of each.
        channels: of the first convolution; later ones have 2, 4 and 8 times as many.
        style: `elu` without normalisation (DreamerV2), or `silu` after RMSNorm (DreamerV3).
        symlog: vectors are seen and drawn through symlog (DreamerV3).
    """

    hidden_dim: int
    num_layers: int
    channels: int
    style: Style
    symlog: bool = False


class RMSNorm(nn.RMSNorm):
    """In float32, whatever comes in."""

    def __init__(self, dim: int):
        super().__init__(dim, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


def dense(in_dim: int, out_dim: int, style: Style) -> nn.Sequential:
    """One hidden layer."""
    if style == "elu":
        return nn.Sequential(Linear(in_dim, out_dim), ELU())
    return nn.Sequential(Linear(in_dim, out_dim), RMSNorm(out_dim), nn.SiLU())


def stack(in_dim: int, hidden_dim: int, num: int, style: Style) -> list[nn.Module]:
    """`num` hidden layers."""
    return [dense(in_dim if i == 0 else hidden_dim, hidden_dim, style) for i in range(num)]


class Encoder(nn.Module):
    """Observations to one embedding: vectors together through an MLP, each image through convolutions."""

    def __init__(self, spec: Spec, shape: Shape):
        """
        Raises:
            UsageError: images of another size.
        """
        super().__init__()
        check_size(spec)
        self.symlog, self.images = shape.symlog, spec.images
        self.vectors = [name for name in spec.obs if name not in spec.images]
        self.embed_dim = 0
        if self.vectors:
            size = sum(spec.obs[name][0] for name in self.vectors)
            self.mlp = nn.Sequential(*stack(size, shape.hidden_dim, shape.num_layers, shape.style))
            self.embed_dim += shape.hidden_dim
        depth, activation = shape.channels, nn.ELU if shape.style == "elu" else nn.SiLU
        self.convs = nn.ModuleList()
        for name in self.images:
            sizes = spec.obs[name][0], depth, 2 * depth, 4 * depth, 8 * depth  # 64, 31, 14, 6, 2 pixels wide
            convs = [(nn.Conv2d(i, o, 4, stride=2), activation()) for i, o in pairwise(sizes)]
            layers = [layer for pair in convs for layer in pair]
            self.convs.append(nn.Sequential(*layers, nn.Flatten()))
            self.embed_dim += 2 * 2 * 8 * depth

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """name -> (N, *shape), to (N, embed_dim)."""
        parts = []
        if self.vectors:
            vector = torch.cat([obs[name] for name in self.vectors], -1)
            parts.append(self.mlp(symlog(vector) if self.symlog else vector))
        for name, conv in zip(self.images, self.convs, strict=True):
            parts.append(conv(obs[name].float() / 255 - 0.5))
        return torch.cat(parts, -1)


class Decoder(nn.Module):
    """Features to what is expected to be seen: images in [-0.5, 0.5], vectors maybe in symlog."""

    def __init__(self, spec: Spec, feature_dim: int, shape: Shape):
        """
        Raises:
            UsageError: images of another size.
        """
        super().__init__()
        check_size(spec)
        self.symlog, self.images = shape.symlog, spec.images
        self.sizes = {name: size[0] for name, size in spec.obs.items() if name not in spec.images}
        if self.sizes:
            body = stack(feature_dim, shape.hidden_dim, shape.num_layers, shape.style)
            self.mlp = nn.Sequential(*body, Linear(shape.hidden_dim, sum(self.sizes.values())))
        depth, activation = shape.channels, nn.ELU if shape.style == "elu" else nn.SiLU
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
        """(N, F) to name -> (N, *shape)."""
        drawn = {}
        if self.sizes:
            vectors = self.mlp(feature).split(list(self.sizes.values()), -1)
            drawn |= dict(zip(self.sizes, vectors, strict=True))
        for name, deconv in zip(self.images, self.deconvs, strict=True):
            drawn[name] = deconv(feature)
        return drawn

    def draw(self, feature: Tensor) -> dict[str, Tensor]:
        """(N, F) to name -> (N, *shape): images float32 in [0, 1], vectors in the model's units."""
        drawn = self(feature)
        for name, value in drawn.items():
            if name in self.images:
                drawn[name] = (value + 0.5).clamp(0, 1)
            elif self.symlog:
                drawn[name] = symexp(value)
        return drawn

    def error(self, feature: Tensor, obs: dict[str, Tensor]) -> Tensor:
        """(...) squared error, summed over entries and names, of (..., F) and name -> (..., *shape)."""
        shape = feature.shape[:-1]
        drawn, total = self(feature.flatten(0, -2)), torch.zeros(shape.numel(), device=feature.device)
        for name, value in obs.items():
            want = value.flatten(0, len(shape) - 1).float()
            if name in self.images:
                want = want / 255 - 0.5
            elif self.symlog:
                want = symlog(want)
            total = total + (drawn[name].float() - want).square().flatten(1).sum(1)
        return total.view(shape)


def check_size(spec: Spec) -> None:
    """
    Raises:
        UsageError: images that the convolutions are not made for.
    """
    for name in spec.images:
        if spec.obs[name][1:] != (IMAGE_SIZE, IMAGE_SIZE):
            size = spec.obs[name][1]
            raise UsageError(
                f"this model draws images of 64 by 64 pixels, {name!r} has {size}: "
                "add --dataset.image-size 64"
            )
