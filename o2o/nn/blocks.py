"""Provides MLPs, an image encoder, a vectorized ensemble, target networks and random shifts."""

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from o2o.core.batch_share import draw_like
from o2o.core.spec import Spec
from o2o.nn.choices import Convolutions
from o2o.nn.layers import ELU, Linear, Mish, elu, linear, tanh

Layers = TypeVar("Layers", bound=nn.Module)


def orthogonal(module: Layers) -> Layers:
    """Initializes a module as FOWM does: orthogonal weights (convolutions: gain sqrt 2), zero biases."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            gain = math.sqrt(2) if isinstance(layer, nn.Conv2d) else 1.0
            nn.init.orthogonal_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def mlp(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Returns an MLP of two hidden layers with LayerNorm and Mish; orthogonal weights. Source: FOWM."""
    return orthogonal(
        nn.Sequential(
            Linear(in_dim, hidden_dim), nn.LayerNorm(hidden_dim), Mish(),
            Linear(hidden_dim, hidden_dim), nn.LayerNorm(hidden_dim), Mish(),
            Linear(hidden_dim, out_dim),
        )
    )  # fmt: skip


def zero_output(layers: nn.Sequential) -> nn.Sequential:
    """Sets the last layer to zero, so that the output is exactly zero; returns the layers."""
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return layers


class SimNorm(nn.Module):
    """Softmax over groups of `group` neighboring entries, (..., F) to (..., F). Source: TD-MPC2."""

    def __init__(self, group: int):
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.group)).softmax(-1).flatten(-2)


def vector_encoder(in_dim: int, hidden_dim: int, out_dim: int, output: nn.Module) -> nn.Sequential:
    """Returns an encoder of vectors, (N, in_dim) to (N, out_dim), ending in `output`. Source: FOWM."""
    return orthogonal(
        nn.Sequential(
            Linear(in_dim, hidden_dim), ELU(), Linear(hidden_dim, out_dim), nn.LayerNorm(out_dim), output
        )
    )


# name -> kernel size and stride of each convolution of an image encoder
CONVOLUTIONS: dict[Convolutions, tuple[tuple[int, int], ...]] = {
    "deep": ((7, 2), (5, 2), (3, 2), (3, 2)),  # FOWM
    "keypoints": ((5, 2),),
    "deep-keypoints": ((5, 2), (3, 1), (3, 1)),
}


class SpatialSoftmax(nn.Module):
    """Returns where each channel is bright, (N, C, h, w) to (N, 2C): all x, then all y, from -1 to 1.

    Source: Levine et al. 2016, the expected position under the softmax of a channel over the image.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight = x.flatten(2).softmax(-1).unflatten(-1, x.shape[2:])  # (N, C, h, w)
        rows, columns = (torch.linspace(-1, 1, size, device=x.device) for size in x.shape[2:])
        return torch.cat([weight.sum(2) @ columns, weight.sum(3) @ rows], 1)


class ImageEncoder(nn.Module):
    """Encoder of images, (N, C, h, w) uint8 to (N, out_dim): convolutions, a linear layer, then `output`.

    Inside, the memory format is channels last, which is faster for convolutions. Source: FOWM.
    """

    def __init__(
        self, shape: tuple[int, ...], channels: int, out_dim: int, output: nn.Module,
        convolutions: Convolutions = "deep",
    ):  # fmt: skip
        super().__init__()
        layers: list[nn.Module] = []
        for kernel, stride in CONVOLUTIONS[convolutions]:
            layers += [nn.Conv2d(channels if layers else shape[0], channels, kernel, stride), nn.ReLU()]
        if convolutions.endswith("keypoints"):
            self.conv = nn.Sequential(*layers[:-1], SpatialSoftmax())
        else:
            self.conv = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            flat = self.conv(torch.zeros(1, *shape)).shape[1]
        self.head = nn.Sequential(Linear(flat, out_dim), nn.LayerNorm(out_dim), output)
        orthogonal(self)
        self.conv.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, image: Tensor) -> Tensor:
        image = image.contiguous(memory_format=torch.channels_last)
        return self.head(self.conv(image.float() / 255))


def image_encoders(spec: Spec, channels: int, latent_dim: int, convolutions: Convolutions) -> nn.ModuleList:
    """Returns an encoder of each image, in the order of `spec.images`, into `latent_dim` entries."""
    return nn.ModuleList(
        ImageEncoder(spec.obs[name], channels, latent_dim, nn.Identity(), convolutions)
        for name in spec.images
    )


def joined_dim(spec: Spec, latent_dim: int) -> int:
    """Returns the number of entries of `join_observation` where each image has `latent_dim`."""
    vectors = [shape[0] for name, shape in spec.obs.items() if name not in spec.images]
    return sum(vectors) + latent_dim * len(spec.images)


def join_observation(obs: dict[str, Tensor], spec: Spec, encoders: nn.ModuleList) -> Tensor:
    """Joins all vectors, unchanged, and the latents of all images into (N, F); name -> (N, *shape)."""
    latents = [encoder(obs[name]) for name, encoder in zip(spec.images, encoders, strict=True)]
    return torch.cat([*(obs[name] for name in spec.obs if name not in spec.images), *latents], -1)


class ImageDecoder(nn.Module):
    """Decoder of images, (N, in_dim) to (N, C, h, w) of at most 32 by 32: an MLP, for a camera at rest.

    A small object is lost in the mean squared error of all pixels, and a camera's brightness sets its unit.
    So the squared error of each pixel is divided by the pixel's variance in the batch, which makes 1 the
    error of the mean image.
    """

    MAX_SIZE, HIDDEN_DIM = 32, 128
    MIN_VARIANCE = 0.1  # of the mean over all pixels: the noise of constant pixels is not amplified

    def __init__(self, in_dim: int, image_shape: tuple[int, ...]):
        super().__init__()
        channels, *sizes = image_shape
        self.image_size, self.ratio = tuple(sizes), math.ceil(max(sizes) / self.MAX_SIZE)
        self.shape = channels, *(size // self.ratio for size in sizes)
        self.net = zero_output(mlp(in_dim, self.HIDDEN_DIM, math.prod(self.shape)))

    def forward(self, latent: Tensor) -> Tensor:
        """Decodes (N, in_dim) into (N, C, h, w); 0 is black, 1 white."""
        return self.net(latent).unflatten(-1, self.shape) + 0.5

    def enlarged(self, latent: Tensor) -> Tensor:
        """Decodes (N, in_dim) into images of the size of the observation, in [0, 1]."""
        return F.interpolate(self(latent).clamp(0, 1), self.image_size, mode="bilinear")

    def error(self, latent: Tensor, image: Tensor) -> Tensor:
        """Returns the (N,) mean error of latents (N, in_dim) against uint8 images of the observation."""
        target = F.avg_pool2d(image.float(), self.ratio) / 255
        variance = target.var(0, correction=0)  # (C, h, w)
        floor = (self.MIN_VARIANCE * variance.mean()).clamp(min=1e-5)
        return ((self(latent).float() - target).square() / variance.clamp(min=floor)).flatten(1).mean(1)


class Ensemble(nn.Module):
    """Ensemble of E value heads on one input: Linear LayerNorm Tanh, Linear ELU, Linear. Source: FOWM.

    The weights are stacked, so the members run as one batched product on a GPU or when compiled. On a CPU in
    eager mode they run one by one, which was measured to be faster (batched products miss the cache).
    """

    def __init__(self, num_members: int, in_dim: int, hidden_dim: int, out_dim: int, zero_output: bool):
        super().__init__()
        self.num_members, self.out_dim = num_members, out_dim
        self.weight1 = nn.Parameter(_orthogonal_stack(num_members, hidden_dim, in_dim))
        self.bias1 = nn.Parameter(torch.zeros(num_members, hidden_dim))
        self.norm_weight = nn.Parameter(torch.ones(num_members, hidden_dim))
        self.norm_bias = nn.Parameter(torch.zeros(num_members, hidden_dim))
        self.weight2 = nn.Parameter(_orthogonal_stack(num_members, hidden_dim, hidden_dim))
        self.bias2 = nn.Parameter(torch.zeros(num_members, hidden_dim))
        zeros = torch.zeros(num_members, out_dim, hidden_dim)
        last = zeros if zero_output else _orthogonal_stack(num_members, out_dim, hidden_dim)
        self.weight3 = nn.Parameter(last)
        self.bias3 = nn.Parameter(torch.zeros(num_members, out_dim))

    def forward(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        """Maps (..., in_dim) to (E, ..., out_dim), or (len(members), ..., out_dim) for the given members."""
        weights = [
            self.weight1, self.bias1, self.norm_weight, self.norm_bias,
            self.weight2, self.bias2, self.weight3, self.bias3,
        ]  # fmt: skip
        if members is not None:
            weights = [weight.index_select(0, members) for weight in weights]
        flat = x.reshape(-1, x.shape[-1])
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            unstacked = [weight.unbind(0) for weight in weights]
            value = torch.stack([_head(flat, *member) for member in zip(*unstacked, strict=True)])
        else:
            value = _heads(flat, *weights)
        return value.float().reshape(len(value), *x.shape[:-1], self.out_dim)  # x may hold no row


def _orthogonal_stack(num_members: int, out_dim: int, in_dim: int) -> Tensor:
    stack = torch.empty(num_members, out_dim, in_dim)
    for weight in () if stack.is_meta else stack:  # a sketch may have any number of members
        nn.init.orthogonal_(weight)
    return stack


def _head(x, weight1, bias1, norm_weight, norm_bias, weight2, bias2, weight3, bias3) -> Tensor:
    x = tanh(F.layer_norm(linear(x, weight1, bias1), bias1.shape, norm_weight, norm_bias))
    x = elu(linear(x, weight2, bias2))
    return linear(x, weight3, bias3)  # (N, out)


def _heads(x, weight1, bias1, norm_weight, norm_bias, weight2, bias2, weight3, bias3) -> Tensor:
    x = torch.einsum("ni,eoi->eno", x, weight1) + bias1[:, None]
    x = F.layer_norm(x, x.shape[-1:]) * norm_weight[:, None] + norm_bias[:, None]
    x = elu(torch.bmm(tanh(x), weight2.transpose(1, 2)) + bias2[:, None])
    if weight3.shape[1] == 1:  # a sum joins the pass over memory, a matrix product would not
        return (x * weight3).sum(-1, keepdim=True) + bias3[:, None]
    return torch.bmm(x, weight3.transpose(1, 2)) + bias3[:, None]  # (E, N, out)


class TargetNetwork(nn.Module):
    """Copy of a network that follows its source as an exponential moving average (EMA).

    Args:
        source: network to follow.
        rate: part of the distance to the source that a step covers (tau).
        every: calls of `track` from one step to the next.
    """

    def __init__(self, source: nn.Module, rate: float, every: int):
        super().__init__()
        self.copy = copy.deepcopy(source).requires_grad_(False)
        self.rate, self.every, self.num_calls = rate, every, 0

    def forward(self, *args, **kwargs):
        return self.copy(*args, **kwargs)

    @torch.no_grad()
    def track(self, source: nn.Module) -> None:
        """Counts an optimizer step and moves the copy towards its source at every `every`-th one."""
        if self.num_calls % self.every == 0:
            for weight, source_weight in zip(self.copy.parameters(), source.parameters(), strict=True):
                weight.lerp_(source_weight, self.rate)
        self.num_calls += 1

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.num_calls)

    def set_extra_state(self, state: Tensor) -> None:
        self.num_calls = int(state)


def random_shift(image: Tensor, pad: int) -> Tensor:
    """Shifts each image by its own random number of whole pixels, up to `pad` each way; edges repeat.

    Args:
        image: (N, C, h, w), any dtype.
        pad: largest shift, pixels.
    Source: Yarats et al. 2021 (DrQ-v2); whole pixels make its bilinear resampling a copy.
    """
    offset = torch.empty(2, len(image), dtype=torch.int64, device=image.device)
    offset = draw_like(lambda x: torch.randint(0, 2 * pad + 1, x.shape, device=x.device), offset, 1)
    return shift(image, offset, pad)


def shift(image: Tensor, offset: Tensor, pad: int) -> Tensor:
    """Crops (h, w) at `offset` (2, N) from the images padded by `pad`; offset = pad changes nothing."""
    n, channels, height, width = image.shape
    rows = torch.arange(height, device=image.device) + offset[0, :, None] - pad  # (N, h)
    columns = torch.arange(width, device=image.device) + offset[1, :, None] - pad  # (N, w)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    image = image.gather(2, rows[:, None, :, None].expand(n, channels, height, width))
    return image.gather(3, columns[:, None, None, :].expand(n, channels, height, width))
