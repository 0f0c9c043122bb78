"""Latents of independent categorical variables: chances, one-hot draws with gradient, divergences.

Source: Hafner et al. 2021 (DreamerV2), straight-through gradients; Hafner et al. 2025 (DreamerV3), unimix.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def log_chance(logits: Tensor, unimix: float) -> Tensor:
    """(..., classes) log-probabilities, mixed with a uniform distribution. Source: DreamerV3."""
    logits = logits.float()
    if not unimix:
        return logits.log_softmax(-1)
    return ((1 - unimix) * logits.softmax(-1) + unimix / logits.shape[-1]).log()


def draw(log_p: Tensor) -> Tensor:
    """(..., classes) one-hot samples whose gradient is that of the probabilities (straight-through)."""
    p = log_p.exp()
    chosen = (p.detach() / torch.empty_like(p).exponential_()).argmax(-1)
    return F.one_hot(chosen, p.shape[-1]) + (p - p.detach())  # exactly one-hot


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(...) KL(p || q) in nats, summed over the variables of (..., variables, classes)."""
    return (log_p.exp() * (log_p - log_q)).sum((-1, -2))


def entropy(log_p: Tensor) -> Tensor:
    """(...) in nats, summed over the variables of (..., variables, classes)."""
    return -(log_p.exp() * log_p).sum((-1, -2))


def mode(log_p: Tensor) -> Tensor:
    """(..., classes) the likeliest class, one-hot."""
    return F.one_hot(log_p.argmax(-1), log_p.shape[-1]).float()
