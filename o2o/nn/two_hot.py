"""Encodes scalars for networks: compresses them by symlog, or spreads them over bins (two-hot).

Two variants of two-hot exist. `raw`: the bins are symexp of an even grid, a value is interpolated between two
of them in its own units, and the prediction is their mean (DreamerV3, Hafner et al. 2025). `symlog`: the bins
are an even grid of symlog values, and the prediction is symexp of their mean (TD-MPC2, Hansen et al. 2024).
"""

from typing import Literal

import torch
from torch import Tensor, nn

Space = Literal["raw", "symlog"]
LIMITS = {"raw": 20.0, "symlog": 10.0}


def symlog(x: Tensor) -> Tensor:
    """Returns sign(x) ln(1 + |x|), element by element."""
    sign = _sign(x)
    return sign * (sign * x).log1p()


def symexp(x: Tensor) -> Tensor:
    """Returns the inverse of `symlog`."""
    sign = _sign(x)
    return sign * (sign * x).expm1()


def _sign(x: Tensor) -> Tensor:
    """Returns -1 or 1; 1 at zero, because with torch's `sign` the slope at zero would come out as zero."""
    return torch.where(x < 0, -1, 1)


class ScalarEncoding(nn.Module):
    """Represents a scalar (...) by one output (..., 1) of a network, with a squared error.

    Attributes:
        out_dim: number of network outputs.
        weight: factor of the squared error; one half makes it the likelihood of a unit Gaussian.
    """

    out_dim = 1

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def decode(self, out: Tensor) -> Tensor:
        """Returns the value (...) that the output (..., 1) predicts."""
        return out.float().squeeze(-1)

    def loss(self, out: Tensor, x: Tensor) -> Tensor:
        """Returns the weighted squared error (...) of the output (..., 1) against `x` (...)."""
        return self.weight * (out.float().squeeze(-1) - x).square()


class TwoHot(nn.Module):
    """Represents a scalar (...) by logits (..., num_bins) of bins from -limit to limit, in symlog.

    A value gives weight to the two bins beside it, so that their mean is the value; a value beyond the last
    bin becomes the last bin. Equal logits mean exactly zero.
    """

    bins: Tensor

    def __init__(self, num_bins: int, limit: float, space: Space):
        """
        Raises:
            ValueError: fewer than two bins.
        """
        super().__init__()
        if num_bins < 2:
            raise ValueError(f"two-hot needs two bins or more, not {num_bins}")
        self.num_bins = self.out_dim = num_bins
        self.space = space
        half = torch.linspace(-limit, limit, num_bins, dtype=torch.float64)[: num_bins // 2]
        half = symexp(half) if space == "raw" else half
        middle = torch.zeros(num_bins % 2, dtype=torch.float64)
        bins = torch.cat([half, middle, -half.flip(0)])  # antisymmetric to the last bit
        self.register_buffer("bins", bins.float(), persistent=False)

    def locate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (lower bin (...) int64, weight (...) of the bin above it)."""
        x = (symlog(x) if self.space == "symlog" else x).contiguous()
        low = (torch.searchsorted(self.bins, x, right=True) - 1).clamp(0, self.num_bins - 2)
        below, above = self.bins[low], self.bins[low + 1]
        return low, ((x - below) / (above - below)).clamp(0, 1)

    def encode(self, x: Tensor) -> Tensor:
        """Returns weights (..., num_bins) that sum to one."""
        low, upper_weight = self.locate(x)
        weight = torch.zeros(*x.shape, self.num_bins, device=x.device)
        weight = weight.scatter(-1, low[..., None], (1 - upper_weight)[..., None])
        return weight.scatter(-1, low[..., None] + 1, upper_weight[..., None])

    def decode(self, logits: Tensor) -> Tensor:
        """Returns the value (...) that the logits (..., num_bins) predict."""
        p, half = logits.float().softmax(-1), self.num_bins // 2
        difference = p[..., -half:] - p[..., :half].flip(-1)  # of each positive bin and its mirror image
        mean = (difference * self.bins[-half:]).sum(-1)
        return symexp(mean) if self.space == "symlog" else mean

    def loss(self, logits: Tensor, x: Tensor) -> Tensor:
        """Returns the cross-entropy (...) against the two-hot weights of `x` (...), in nats."""
        log_p = logits.float().log_softmax(-1)
        low, upper_weight = self.locate(x)
        below = log_p.gather(-1, low[..., None]).squeeze(-1)
        above = log_p.gather(-1, low[..., None] + 1).squeeze(-1)
        return -((1 - upper_weight) * below + upper_weight * above)


def make_encoding(num_bins: int, space: Space, weight: float = 1.0) -> ScalarEncoding | TwoHot:
    """Returns a two-hot encoding with the published range, or a plain scalar without bins.

    Args:
        num_bins: number of bins; 0: a plain scalar.
        space: `raw` from -symexp(20) to symexp(20) (DreamerV3), `symlog` from -10 to 10 (TD-MPC2).
        weight: factor of the squared error without bins.
    """
    return TwoHot(num_bins, LIMITS[space], space) if num_bins else ScalarEncoding(weight)
