"""Fitted-Q evaluation: what policies would achieve, from recordings of what somebody else did.

A value is regressed on the reward and the value of what the policy would do next, again and again: after h
times it is that of h steps (Le et al. 2019; Paine et al. 2020 choose among policies by it). Here each member
of the ensemble is a network whose one hidden layer is random and stays so (Rahimi & Recht 2007), so that a
regression is a product with a small matrix: exact in a fraction of a second, and there is no training that
may not have converged. Members differ in that layer, and in the episodes that they draw with replacement.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from torch import Tensor

from o2o.core.seeding import Stream, derive

NUM_MEMBERS = 10
HIDDEN = 256  # units of a member
WIDTH = (1.0, 5.0)  # of the first to the last member: how far apart inputs are that it tells apart
RIDGE = 1e-4  # of the regression, for each step
MOST_INPUTS = 64  # directions of the feature that are looked at
SLACK = 0.1  # of the possible range, by which a value may be outside of it and still count as inside
PATIENCE = 5.0  # mean lengths of what the discount lets count, after which rewards do not matter any more


@dataclass(frozen=True)
class Recorded:
    """M recorded steps with known ends, and the S starts of their episodes, all on one device.

    Attributes:
        feature, next_feature: (M, F) before and after the action.
        action: (M, A).
        reward: (M,).
        goes_on: (M,) 0 where the world ended, else 1.
        episode: (M,) int64, from 0.
        start: (S, F) features.
    """

    feature: Tensor
    next_feature: Tensor
    action: Tensor
    reward: Tensor
    goes_on: Tensor
    episode: Tensor
    start: Tensor


@dataclass(frozen=True)
class Evaluation:
    """What C policies would achieve.

    Attributes:
        value: (C, E, S) discounted return from each start, says each member, in units of the scaled reward;
            none is outside of what rewards as recorded can add up to.
        beyond: (C,) share of what was said that would have been well outside: where that is much, the policy
            does what the recordings say nothing about.
    """

    value: np.ndarray
    beyond: np.ndarray


@torch.no_grad()
def evaluate(
    recorded: Recorded,
    next_action: Tensor,
    start_action: Tensor,
    discount: float,
    horizon: int,
    seed: int = 0,
    num_members: int = NUM_MEMBERS,
    ridge: float = RIDGE,
) -> Evaluation:
    """Values policies over an episode of `horizon` steps, all on the same functions and the same draws.

    Args:
        next_action: (C, M, A) what each policy would do after each recorded step.
        start_action: (C, S, A) what each would do at the starts.
        discount: of one step.
        ridge: pulls towards zero.
    """
    view, device = _View(recorded), recorded.feature.device
    steps = horizon if discount == 1 else min(horizon, ceil(PATIENCE / (1 - discount)))
    most = steps if discount == 1 else (1 - discount**steps) / (1 - discount)
    low, high = (
        most * end for end in (recorded.reward.amin().clamp(max=0), recorded.reward.amax().clamp(min=0))
    )
    here, after, start = (view.state(x) for x in (recorded.feature, recorded.next_feature, recorded.start))
    reward, goes_on, slack = recorded.reward.double(), discount * recorded.goes_on, SLACK * (high - low)
    values, beyond = [], []
    with Stream(derive(seed, "evaluation"), device).use():
        for width in torch.linspace(*WIDTH, num_members).tolist():
            layer = _Layer(here.shape[1], recorded.action.shape[1], width, device)
            x = layer(here, view.action(recorded.action)).double()  # (M, D)
            weighted = x.T * _drawn(recorded.episode)
            gram = weighted @ x
            gram.diagonal().add_(ridge)
            factor = torch.linalg.cholesky(gram)
            paid = torch.cholesky_solve((weighted @ reward)[:, None], factor)  # (D, 1) of one step
            for c in range(len(next_action)):
                later = layer(after, view.action(next_action[c])).double()
                carry = torch.cholesky_solve((weighted * goes_on) @ later, factor)  # (D, D)
                weights = paid
                for _ in range(steps - 1):
                    weights = paid + carry @ weights
                first = layer(start, view.action(start_action[c])).double()
                said = torch.cat([first, later]) @ weights  # (S + M, 1)
                possible = (said >= low - slack) & (said <= high + slack)  # not so of NaN
                beyond.append(1 - possible.float().mean())
                values.append(said[: len(first), 0].clamp(low, high).nan_to_num().float())
    shape = num_members, len(next_action)
    value = torch.stack(values).unflatten(0, shape).transpose(0, 1)
    return Evaluation(value.cpu().numpy(), torch.stack(beyond).view(shape).mean(0).cpu().numpy())


@torch.no_grad()
def shift(recorded: Recorded, action: Tensor) -> Tensor:
    """How far policies are from the recorded actions, in units of how unlike each other those are.

    Args:
        action: (C, M, A) what each policy would do where the recorded action was taken.
    Returns:
        (C,) root mean square distance, over that of the best guess from the feature alone: about 1 for a
        policy that does on the whole what was done there.
    """
    view = _View(recorded)
    with Stream(derive(0, "shift"), recorded.feature.device).use():
        layer = _Layer(view.basis.shape[1], recorded.action.shape[1], WIDTH[0], recorded.feature.device)
    done = view.action(recorded.action)
    x = layer(view.state(recorded.feature), torch.zeros_like(done))
    gram = (x.T @ x / len(x)).double()
    gram.diagonal().add_(RIDGE)
    guess = x @ torch.linalg.solve(gram, (x.T @ done / len(x)).double()).float()
    noise = (done - guess).square().sum(1).mean().sqrt().clamp(min=1e-6)
    return (view.action(action) - done).square().sum(-1).mean(-1).sqrt() / noise


class _View:
    """Features and actions, each moved and scaled to a mean square of 1: the scales of features mean nothing.

    Of features only the directions in which the recorded ones vary most.
    """

    def __init__(self, recorded: Recorded):
        feature, action = recorded.feature.double(), recorded.action.double()
        self.middle, self.usual = feature.mean(0), action.mean(0)
        _, basis = torch.linalg.eigh((feature - self.middle).T @ (feature - self.middle))  # ascending
        basis = basis[:, -MOST_INPUTS:]
        self.basis = basis / _size((feature - self.middle) @ basis)
        self.scale = 1 / _size(action - self.usual)

    def state(self, feature: Tensor) -> Tensor:
        return ((feature - self.middle) @ self.basis).float()

    def action(self, action: Tensor) -> Tensor:
        return ((action - self.usual) * self.scale).float()


class _Layer:
    """D random waves over states and actions, and a constant; together of about unit length."""

    def __init__(self, state_dim: int, action_dim: int, width: float, device: torch.device):
        self.state = torch.randn(state_dim, HIDDEN, device=device) / width
        self.action = torch.randn(action_dim, HIDDEN, device=device) / width
        self.phase = 2 * torch.pi * torch.rand(HIDDEN, device=device)

    def __call__(self, state: Tensor, action: Tensor) -> Tensor:
        wave = (state @ self.state + action @ self.action + self.phase).cos() * (2 / HIDDEN) ** 0.5
        return torch.cat([wave, torch.ones_like(wave[:, :1])], 1)


def _drawn(episode: Tensor) -> Tensor:
    """(M,) weights that sum to one: how often each step's episode came in as many draws as there are."""
    num = int(episode.amax()) + 1
    times = torch.bincount(torch.randint(num, (num,), device=episode.device), minlength=num)
    weight = times[episode].float()
    return weight / weight.sum().clamp(min=1)


def _size(x: Tensor) -> Tensor:
    return x.square().sum(1).mean().sqrt().clamp(min=1e-6)
