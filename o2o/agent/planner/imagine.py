"""Rolls out candidate plans through the world model."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from o2o.nn.world_model import State, WorldModel, repeat

PER_STEP = ("action", "feature", "discount", "reward")  # fields with an entry for each step of a plan
PER_PLAN = ("discounted_reward", "penalty", "disagreement")


@dataclass(frozen=True)
class Rollout:
    """M imagined futures.

    Attributes:
        action: (H, M, A), in [-1, 1].
        feature: (H+1, M, F); the last one is where the future ends.
        reward: (H, M) given by each action, in units of the scaled reward.
        decay: (H, M) gamma * P(the episode goes on).
    """

    action: Tensor
    feature: Tensor
    reward: Tensor
    decay: Tensor


@dataclass(frozen=True)
class Imagined:
    """S candidate plans of each of N robots, rolled out.

    Attributes:
        action: (H, N, S, A), in [-1, 1].
        feature: (H+1, N, S, F); the last one is where the plan ends.
        discount: (H+1, N, S) factor of a unit of return at that step; the first is one.
        reward: (H, N, S) given by each action, in units of the scaled reward.
        discounted_reward: (N, S) discounted sum of the rewards, without the terminal value.
        penalty: (N, S) discounted penalty of the plan's steps, without its end; zero until it is added.
        disagreement: (N, S) the same sum without the penalty weight.
    """

    action: Tensor
    feature: Tensor
    discount: Tensor
    reward: Tensor
    discounted_reward: Tensor
    penalty: Tensor
    disagreement: Tensor

    def select(self, indices: Tensor) -> "Imagined":
        """Returns the candidates at `indices` (N, K)."""
        rows = torch.arange(len(indices), device=indices.device)[:, None]
        per_step = {name: getattr(self, name)[:, rows, indices] for name in PER_STEP}
        per_plan = {name: getattr(self, name)[rows, indices] for name in PER_PLAN}
        return Imagined(**per_step, **per_plan)


def join(left: Imagined, right: Imagined) -> Imagined:
    """Concatenates the candidates of both."""
    per_step = {n: torch.cat([getattr(left, n), getattr(right, n)], 2) for n in PER_STEP}
    per_plan = {n: torch.cat([getattr(left, n), getattr(right, n)], 1) for n in PER_PLAN}
    return Imagined(**per_step, **per_plan)


def imagine(model: WorldModel, state: State, action: Tensor) -> Imagined:
    """Rolls out `action` (H, N, S, A) from N states."""
    flat = action.flatten(1, 2)
    return _candidates(model, state, len(action), action.shape[2], lambda step, feature: flat[step])


def imagine_policy(
    model: WorldModel, state: State, policy, steps: int, size: int,
    nominal: Tensor | None = None, std: float = 0.0,
) -> Imagined:  # fmt: skip
    """Rolls out the exploring policy, `size` times from each of N states.

    Args:
        nominal: (K, N, A) first actions, in place of the policy's.
        std: standard deviation of the noise on these.
    """
    if nominal is not None:
        nominal = nominal.repeat_interleave(size, 1)
        nominal = (nominal + std * torch.randn_like(nominal)).clamp(-1, 1)
    act = begin_with(nominal, lambda feature: policy.act(feature, explore=True))
    return _candidates(model, state, steps, size, act)


def begin_with(actions: Tensor | None, act: Callable[[Tensor], Tensor]) -> Callable[[int, Tensor], Tensor]:
    """Returns (step, feature (M, F)) -> action (M, A): first `actions` (K, M, A), then those of `act`."""
    if actions is None:
        return lambda step, feature: act(feature)
    return lambda step, feature: actions[step] if step < len(actions) else act(feature)


def roll_out(model: WorldModel, state: State, steps: int, act: Callable[[int, Tensor], Tensor]) -> Rollout:
    """Imagines `steps` steps from M states.

    Args:
        act: turns (step, feature (M, F)) into an action (M, A).
    """
    features, actions, rewards, decays = [model.feature(state)], [], [], []
    for step in range(steps):
        actions.append(act(step, features[-1]))
        state, reward, decay = model.step(state, actions[-1])
        features.append(model.feature(state))
        rewards.append(reward)
        decays.append(decay)
    return Rollout(*(torch.stack(values) for values in (actions, features, rewards, decays)))


def _candidates(
    model: WorldModel, state: State, steps: int, size: int, act: Callable[[int, Tensor], Tensor]
) -> Imagined:
    shape = (len(next(iter(state.values()))), size)
    rollout = roll_out(model, repeat(state, size), steps, act)
    one = torch.ones_like(rollout.decay[:1])
    discount = torch.cat([one, rollout.decay.cumprod(0)])  # (H+1, M)
    discounted_reward = (discount[:-1] * rollout.reward).sum(0).view(shape)
    return Imagined(
        rollout.action.unflatten(1, shape),
        rollout.feature.unflatten(1, shape),
        discount.unflatten(1, shape),
        rollout.reward.unflatten(1, shape),
        discounted_reward,
        torch.zeros_like(discounted_reward),
        torch.zeros_like(discounted_reward),
    )
