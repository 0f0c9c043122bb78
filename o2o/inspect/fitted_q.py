"""Estimates the return of policies from recordings of other policies, by fitted-Q evaluation.

A value function is regressed on the reward plus the value of the policy's next action, repeatedly: after h
iterations it is the value over h steps (Le et al. 2019; Paine et al. 2020 rank policies by it). Each member
of the ensemble here is a network with one hidden layer that is random and fixed (Rahimi & Recht 2007). A
regression is then a product with a small matrix, which is exact within a fraction of a second, so there is
no training that may fail to converge. Members differ in the random layer and in the bootstrap sample of
episodes.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from torch import Tensor

from o2o.core.seeding import RandomStream, derive

NUM_MEMBERS = 10
HIDDEN = 256  # hidden units of a member
WIDTH = (1.0, 5.0)  # length scale of the random features of the first and the last member
RIDGE = 1e-4  # ridge penalty of the regression
MAX_INPUTS = 64  # principal components of the feature that are used
SLACK = 0.1  # of the possible range; a value outside the range by no more than this still counts as possible
EFFECTIVE_HORIZONS = 5.0  # number of effective horizons 1 / (1 - discount) after which rewards are ignored


@dataclass(frozen=True)
class RecordedSteps:
    """M recorded steps with known next observations or terminations, and the S starts of their episodes.

    All tensors are on one device.

    Attributes:
        feature, next_feature: (M, F) features before and after the action.
        action: (M, A) recorded actions.
        reward: (M,) rewards.
        continues: (M,) 0 if the episode terminated after the action, else 1.
        episode: (M,) int64, episode of each step, from 0.
        start: (S, F) features at the starts.
    """

    feature: Tensor
    next_feature: Tensor
    action: Tensor
    reward: Tensor
    continues: Tensor
    episode: Tensor
    start: Tensor


@dataclass(frozen=True)
class Evaluation:
    """Estimated returns of C policies.

    Attributes:
        value: (C, E, S) discounted return from each start by each member, in units of the scaled reward;
            clipped to the range that the recorded rewards can add up to.
        impossible: (C,) fraction of predicted values that were well outside that range. If it is large, the
            recordings do not contain what the policy does.
    """

    value: np.ndarray
    impossible: np.ndarray


@torch.no_grad()
def evaluate_policies(
    recorded: RecordedSteps,
    next_action: Tensor,
    start_action: Tensor,
    discount: float,
    horizon: int,
    seed: int = 0,
    num_members: int = NUM_MEMBERS,
    ridge: float = RIDGE,
) -> Evaluation:
    """Estimates the returns of policies over `horizon` steps, all with the same members.

    Args:
        recorded: the recorded steps.
        next_action: (C, M, A) action of each policy after each recorded step.
        start_action: (C, S, A) action of each policy at the starts.
        discount: discount factor of one step.
        horizon: number of steps of an episode.
        seed: seed of the random layers and the bootstrap samples.
        num_members: number of members of the ensemble.
        ridge: ridge penalty of the regression.
    """
    scaling, device = _Scaling(recorded), recorded.feature.device
    steps = horizon if discount == 1 else min(horizon, ceil(EFFECTIVE_HORIZONS / (1 - discount)))
    total = steps if discount == 1 else (1 - discount**steps) / (1 - discount)
    low, high = (
        total * end for end in (recorded.reward.amin().clamp(max=0), recorded.reward.amax().clamp(min=0))
    )
    here, after, start = (scaling.state(x) for x in (recorded.feature, recorded.next_feature, recorded.start))
    reward, decay, slack = recorded.reward.double(), discount * recorded.continues, SLACK * (high - low)
    values, impossible = [], []
    with RandomStream(derive(seed, "evaluation"), device).use():
        for width in torch.linspace(*WIDTH, num_members).tolist():
            layer = _RandomFeatures(here.shape[1], recorded.action.shape[1], width, device)
            x = layer(here, scaling.action(recorded.action)).double()  # (M, D)
            weighted = x.T * _bootstrap_weights(recorded.episode)
            gram = weighted @ x
            gram.diagonal().add_(ridge)
            factor = torch.linalg.cholesky(gram)
            immediate = torch.cholesky_solve((weighted @ reward)[:, None], factor)  # (D, 1) of one step
            for c in range(len(next_action)):
                later = layer(after, scaling.action(next_action[c])).double()
                transition = torch.cholesky_solve((weighted * decay) @ later, factor)  # (D, D)
                weights = immediate
                for _ in range(steps - 1):
                    weights = immediate + transition @ weights
                first = layer(start, scaling.action(start_action[c])).double()
                predicted = torch.cat([first, later]) @ weights  # (S + M, 1)
                possible = (predicted >= low - slack) & (predicted <= high + slack)  # False for NaN
                impossible.append(1 - possible.float().mean())
                values.append(predicted[: len(first), 0].clamp(low, high).nan_to_num().float())
    shape = num_members, len(next_action)
    value = torch.stack(values).unflatten(0, shape).transpose(0, 1)
    return Evaluation(value.cpu().numpy(), torch.stack(impossible).view(shape).mean(0).cpu().numpy())


@torch.no_grad()
def action_distance(recorded: RecordedSteps, action: Tensor) -> Tensor:
    """Returns how far policies are from the recorded actions, relative to the spread of the recorded actions.

    Args:
        recorded: the recorded steps.
        action: (C, M, A) action of each policy in the state of each recorded action.
    Returns:
        (C,) root mean square distance, divided by that of a regression of the recorded action on the
        feature. It is about 1 for a policy that predicts the recorded action as well as the regression does.
    """
    scaling = _Scaling(recorded)
    with RandomStream(derive(0, "shift"), recorded.feature.device).use():
        layer = _RandomFeatures(
            scaling.basis.shape[1], recorded.action.shape[1], WIDTH[0], recorded.feature.device
        )
    target = scaling.action(recorded.action)
    x = layer(scaling.state(recorded.feature), torch.zeros_like(target))
    gram = (x.T @ x / len(x)).double()
    gram.diagonal().add_(RIDGE)
    regression = x @ torch.linalg.solve(gram, (x.T @ target / len(x)).double()).float()
    residual = (target - regression).square().sum(1).mean().sqrt().clamp(min=1e-6)
    return (scaling.action(action) - target).square().sum(-1).mean(-1).sqrt() / residual


class _Scaling:
    """Centers features and actions and scales them to a mean square of 1; their own scales are arbitrary.

    Features are projected on their first principal components, at most `MAX_INPUTS`.
    """

    def __init__(self, recorded: RecordedSteps):
        feature, action = recorded.feature.double(), recorded.action.double()
        self.mean, self.action_mean = feature.mean(0), action.mean(0)
        _, basis = torch.linalg.eigh((feature - self.mean).T @ (feature - self.mean))  # ascending
        basis = basis[:, -MAX_INPUTS:]
        self.basis = basis / _rms((feature - self.mean) @ basis)
        self.scale = 1 / _rms(action - self.action_mean)

    def state(self, feature: Tensor) -> Tensor:
        return ((feature - self.mean) @ self.basis).float()

    def action(self, action: Tensor) -> Tensor:
        return ((action - self.action_mean) * self.scale).float()


class _RandomFeatures:
    """Computes D random Fourier features of state and action, and a constant, of about unit length."""

    def __init__(self, state_dim: int, action_dim: int, width: float, device: torch.device):
        self.state = torch.randn(state_dim, HIDDEN, device=device) / width
        self.action = torch.randn(action_dim, HIDDEN, device=device) / width
        self.phase = 2 * torch.pi * torch.rand(HIDDEN, device=device)

    def __call__(self, state: Tensor, action: Tensor) -> Tensor:
        wave = (state @ self.state + action @ self.action + self.phase).cos() * (2 / HIDDEN) ** 0.5
        return torch.cat([wave, torch.ones_like(wave[:, :1])], 1)


def _bootstrap_weights(episode: Tensor) -> Tensor:
    """Returns (M,) weights of the steps in a bootstrap sample of episodes; they sum to one."""
    num = int(episode.amax()) + 1
    times = torch.bincount(torch.randint(num, (num,), device=episode.device), minlength=num)
    weight = times[episode].float()
    return weight / weight.sum().clamp(min=1)


def _rms(x: Tensor) -> Tensor:
    """Returns the root mean square length of rows."""
    return x.square().sum(1).mean().sqrt().clamp(min=1e-6)
