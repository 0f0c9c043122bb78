"""Plans rolled out through the world model: where they lead, and what they bring on the way."""

from dataclasses import dataclass

import torch
from torch import Tensor

from o2o.model import State, WorldModel, repeat


@dataclass(frozen=True)
class Imagined:
    """S candidate plans of each of N robots, rolled out.

    Attributes:
        action: (H, N, S, A), in [-1, 1].
        feature: (H+1, N, S, F), the last one where the plan ends.
        discount: (H+1, N, S), what a unit of return at that step is worth now; the first is one.
        gain: (N, S) discounted reward on the way, in units of the scaled reward.
        penalty: (N, S) discounted price of the ensemble's disagreement on the way; zero until charged.
    """

    action: Tensor
    feature: Tensor
    discount: Tensor
    gain: Tensor
    penalty: Tensor

    def pick(self, places: Tensor) -> "Imagined":
        """The candidates at `places` (N, K)."""
        rows = torch.arange(len(places), device=places.device)[:, None]
        deep = {name: getattr(self, name)[:, rows, places] for name in ("action", "feature", "discount")}
        flat = {name: getattr(self, name)[rows, places] for name in ("gain", "penalty")}
        return Imagined(**deep, **flat)


def join(left: Imagined, right: Imagined) -> Imagined:
    """The candidates of both, side by side."""
    deep = {n: torch.cat([getattr(left, n), getattr(right, n)], 2) for n in ("action", "feature", "discount")}
    flat = {n: torch.cat([getattr(left, n), getattr(right, n)], 1) for n in ("gain", "penalty")}
    return Imagined(**deep, **flat)


def imagine(model: WorldModel, state: State, action: Tensor) -> Imagined:
    """Rolls out `action` (H, N, S, A) from N states."""
    _, n, size, _ = action.shape
    state = repeat(state, size)
    features, rewards, decays = [model.feature(state)], [], []
    for now in action.flatten(1, 2):
        state, reward, decay = model.step(state, now)
        features.append(model.feature(state))
        rewards.append(reward)
        decays.append(decay)
    return _gather(action, features, rewards, decays, (n, size))


def imagine_policy(model: WorldModel, state: State, behaviour, steps: int, size: int) -> Imagined:
    """Rolls the exploring policy out, `size` times from each of N states."""
    shape = (len(next(iter(state.values()))), size)
    state = repeat(state, size)
    features, actions, rewards, decays = [model.feature(state)], [], [], []
    for _ in range(steps):
        actions.append(behaviour.act(features[-1], explore=True))
        state, reward, decay = model.step(state, actions[-1])
        features.append(model.feature(state))
        rewards.append(reward)
        decays.append(decay)
    return _gather(torch.stack(actions).unflatten(1, shape), features, rewards, decays, shape)


def _gather(action: Tensor, features: list, rewards: list, decays: list, shape: tuple) -> Imagined:
    discount = torch.cat([torch.ones_like(decays[0])[None], torch.stack(decays).cumprod(0)])  # (H+1, M)
    gain = (discount[:-1] * torch.stack(rewards)).sum(0).view(shape)
    return Imagined(
        action,
        torch.stack(features).unflatten(1, shape),
        discount.unflatten(1, shape),
        gain,
        torch.zeros_like(gain),
    )
