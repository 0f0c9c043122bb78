"""Scalars of any size as a network sees them: squashed by symlog, or spread over bins (two-hot).

Two variants of two-hot exist. `raw`: the bins are symexp of an even grid, a value lies between two of them
in its own units, and the prediction is their mean (DreamerV3, Hafner et al. 2025). `symlog`: the bins are
an even grid of symlog values, and the prediction is symexp of their mean (TD-MPC2, Hansen et al. 2024).
"""

from typing import Literal

import torch
from torch import Tensor, nn

Space = Literal["raw", "symlog"]
LIMITS = {"raw": 20.0, "symlog": 10.0}


def symlog(x: Tensor) -> Tensor:
    """sign(x) ln(1 + |x|), element by element."""
    side = _side(x)
    return side * (side * x).log1p()


def symexp(x: Tensor) -> Tensor:
    """The inverse of `symlog`."""
    side = _side(x)
    return side * (side * x).expm1()


def _side(x: Tensor) -> Tensor:
    """-1 or 1; 1 at zero, unlike `sign`, with which the slope there would come out as zero."""
    return torch.where(x < 0, -1, 1)


class Plain(nn.Module):
    """A scalar (...) as the one output (..., 1) of a network, with a squared error.

    Attributes:
        width: outputs that it takes.
        weight: of the squared error; a half makes it the likelihood of a unit Gaussian.
    """

    width = 1

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def decode(self, out: Tensor) -> Tensor:
        """(...) the value that the output (..., 1) predicts."""
        return out.float().squeeze(-1)

    def loss(self, out: Tensor, x: Tensor) -> Tensor:
        """(...) how far the output (..., 1) is from `x` (...)."""
        return self.weight * (out.float().squeeze(-1) - x).square()


class TwoHot(nn.Module):
    """Between scalars (...) and weights or logits (..., num_bins) of bins from -limit to limit, in symlog.

    A value gets weight on the two bins beside it, so that their mean is the value; beyond the last bin it
    is the last bin. Equal logits mean exactly zero.
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
        self.num_bins = self.width = num_bins
        self.space = space
        half = torch.linspace(-limit, limit, num_bins, dtype=torch.float64)[: num_bins // 2]
        half = symexp(half) if space == "raw" else half
        middle = torch.zeros(num_bins % 2, dtype=torch.float64)
        bins = torch.cat([half, middle, -half.flip(0)])  # antisymmetric to the last bit
        self.register_buffer("bins", bins.float(), persistent=False)

    def place(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(lower bin (...) int64, weight of the bin above it (...))."""
        x = (symlog(x) if self.space == "symlog" else x).contiguous()
        low = (torch.searchsorted(self.bins, x, right=True) - 1).clamp(0, self.num_bins - 2)
        below, above = self.bins[low], self.bins[low + 1]
        return low, ((x - below) / (above - below)).clamp(0, 1)

    def encode(self, x: Tensor) -> Tensor:
        """(..., num_bins) weights that sum to one."""
        low, share = self.place(x)
        weight = torch.zeros(*x.shape, self.num_bins, device=x.device)
        weight = weight.scatter(-1, low[..., None], (1 - share)[..., None])
        return weight.scatter(-1, low[..., None] + 1, share[..., None])

    def decode(self, logits: Tensor) -> Tensor:
        """(...) the value that the logits (..., num_bins) predict."""
        chance, half = logits.float().softmax(-1), self.num_bins // 2
        lean = chance[..., -half:] - chance[..., :half].flip(-1)
        mean = (lean * self.bins[-half:]).sum(-1)
        return symexp(mean) if self.space == "symlog" else mean

    def loss(self, logits: Tensor, x: Tensor) -> Tensor:
        """(...) cross-entropy of the two-hot code of `x` (...), in nats."""
        log_chance = logits.float().log_softmax(-1)
        low, share = self.place(x)
        below = log_chance.gather(-1, low[..., None]).squeeze(-1)
        above = log_chance.gather(-1, low[..., None] + 1).squeeze(-1)
        return -((1 - share) * below + share * above)


def code(num_bins: int, space: Space, weight: float = 1.0) -> Plain | TwoHot:
    """How a network writes a scalar: in bins as far as the papers', or plainly if there are no bins.

    Args:
        num_bins: 0 for none.
        space: `raw` from -symexp(20) to symexp(20) (DreamerV3), `symlog` from -10 to 10 (TD-MPC2).
        weight: of the squared error, without bins.
    """
    return TwoHot(num_bins, LIMITS[space], space) if num_bins else Plain(weight)
