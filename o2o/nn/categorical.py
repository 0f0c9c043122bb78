"""Computes log-probabilities, straight-through samples and divergences of categorical latents.

Source: Hafner et al. 2021 (DreamerV2), straight-through gradients; Hafner et al. 2025 (DreamerV3), unimix.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from o2o.core.batch_share import draw_like


def log_probs(logits: Tensor, unimix: float) -> Tensor:
    """Returns log-probabilities (..., classes), mixed with a uniform distribution. Source: DreamerV3."""
    logits = logits.float()
    if not unimix:
        return logits.log_softmax(-1)
    return ((1 - unimix) * logits.softmax(-1) + unimix / logits.shape[-1]).log()


def sample(log_p: Tensor) -> Tensor:
    """Returns one-hot samples (..., classes) with the gradient of the probabilities (straight-through)."""
    p = log_p.exp()
    noise = draw_like(lambda like: torch.empty_like(like).exponential_(), p, -3)
    sampled = (p.detach() / noise).argmax(-1)
    return F.one_hot(sampled, p.shape[-1]) + (p - p.detach())  # exactly one-hot


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Returns KL(p || q) (...) in nats, summed over the variables of (..., variables, classes)."""
    return (log_p.exp() * (log_p - log_q)).sum((-1, -2))


def entropy(log_p: Tensor) -> Tensor:
    """Returns the entropy (...) in nats, summed over the variables of (..., variables, classes)."""
    return -(log_p.exp() * log_p).sum((-1, -2))


def mode(log_p: Tensor) -> Tensor:
    """Returns the most probable class, one-hot (..., classes)."""
    return F.one_hot(log_p.argmax(-1), log_p.shape[-1]).float()
