"""Plans rolled out through the world model: where they lead, and what they bring on the way."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from o2o.nn.world_model import State, WorldModel, repeat

DEEP = ("action", "feature", "discount", "reward")  # what plans have at each step


@dataclass(frozen=True)
class Roll:
    """M futures as the world model sees them.

    Attributes:
        action: (H, M, A), in [-1, 1].
        feature: (H+1, M, F), the last one where they end.
        reward: (H, M) brought by each action, in units of the scaled reward.
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
        feature: (H+1, N, S, F), the last one where the plan ends.
        discount: (H+1, N, S), what a unit of return at that step is worth now; the first is one.
        reward: (H, N, S) brought by each action, in units of the scaled reward.
        gain: (N, S) discounted reward on the way.
        penalty: (N, S) discounted price of the ensemble's disagreement on the way; zero until charged.
    """

    action: Tensor
    feature: Tensor
    discount: Tensor
    reward: Tensor
    gain: Tensor
    penalty: Tensor

    def pick(self, places: Tensor) -> "Imagined":
        """The candidates at `places` (N, K)."""
        rows = torch.arange(len(places), device=places.device)[:, None]
        deep = {name: getattr(self, name)[:, rows, places] for name in DEEP}
        flat = {name: getattr(self, name)[rows, places] for name in ("gain", "penalty")}
        return Imagined(**deep, **flat)


def join(left: Imagined, right: Imagined) -> Imagined:
    """The candidates of both, side by side."""
    deep = {n: torch.cat([getattr(left, n), getattr(right, n)], 2) for n in DEEP}
    flat = {n: torch.cat([getattr(left, n), getattr(right, n)], 1) for n in ("gain", "penalty")}
    return Imagined(**deep, **flat)


def imagine(model: WorldModel, state: State, action: Tensor) -> Imagined:
    """Rolls out `action` (H, N, S, A) from N states."""
    flat = action.flatten(1, 2)
    return _candidates(model, state, len(action), action.shape[2], lambda step, feature: flat[step])


def imagine_policy(model: WorldModel, state: State, policy, steps: int, size: int) -> Imagined:
    """Rolls the exploring policy out, `size` times from each of N states."""
    return _candidates(model, state, steps, size, lambda step, feature: policy.act(feature, explore=True))


def roll(model: WorldModel, state: State, steps: int, act: Callable[[int, Tensor], Tensor]) -> Roll:
    """Acts for `steps` steps from M states; `act` turns (step, feature (M, F)) into an action (M, A)."""
    features, actions, rewards, decays = [model.feature(state)], [], [], []
    for step in range(steps):
        actions.append(act(step, features[-1]))
        state, reward, decay = model.step(state, actions[-1])
        features.append(model.feature(state))
        rewards.append(reward)
        decays.append(decay)
    return Roll(*(torch.stack(values) for values in (actions, features, rewards, decays)))


def _candidates(
    model: WorldModel, state: State, steps: int, size: int, act: Callable[[int, Tensor], Tensor]
) -> Imagined:
    shape = (len(next(iter(state.values()))), size)
    rolled = roll(model, repeat(state, size), steps, act)
    one = torch.ones_like(rolled.decay[:1])
    discount = torch.cat([one, rolled.decay.cumprod(0)])  # (H+1, M)
    gain = (discount[:-1] * rolled.reward).sum(0).view(shape)
    return Imagined(
        rolled.action.unflatten(1, shape),
        rolled.feature.unflatten(1, shape),
        discount.unflatten(1, shape),
        rolled.reward.unflatten(1, shape),
        gain,
        torch.zeros_like(gain),
    )
