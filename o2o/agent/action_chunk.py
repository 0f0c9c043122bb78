"""Executes the actions that a policy predicts at once, a chunk, one at a decision.

A policy that commits itself to a few actions follows the pauses and habits of a person who demonstrated, and
its errors add up over fewer decisions. `persistence` tells whether recordings have such pauses and habits.

Source: Zhao et al. 2023 (ACT), action chunking.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from o2o.core.episode import Batch
from o2o.nn.world_model import State

SAME = 0.05  # greatest difference of an entry between a chunk's action and the executed one, unit actions


def future_actions(batch: Batch, size: int) -> tuple[Tensor, Tensor]:
    """Returns the recorded actions from each step of a batch on, within its windows.

    Returns:
        actions: (T, B, size, A); zero after the window.
        known: (T, B, size) bool, whether they are recorded.
    """
    steps = len(batch.action)
    action, valid = F.pad(batch.action, (0, 0, 0, 0, 0, size - 1)), F.pad(batch.valid, (0, 0, 0, size - 1))
    actions, known = ([x[i : i + steps] for i in range(size)] for x in (action, valid))
    return torch.stack(actions, 2), torch.stack(known, 2)


def persistence(residual: Tensor, valid: Tensor) -> float:
    """Returns the mean correlation of a prediction's error with the errors after it, from -1 to 1.

    Means are not subtracted: an error that is always the same persists, too.

    Args:
        residual: (T, B, A) recorded actions less predicted ones, T at least 2.
        valid: (T, B) bool, which of them are recorded.
    """
    first, correlations = residual[0], []
    for later, known in zip(residual[1:], valid[1:, :, None], strict=True):
        scale = ((first.square() * known).sum() * (later.square() * known).sum()).sqrt()
        correlations.append((first * later * known).sum() / scale.clamp(min=torch.finfo(scale.dtype).tiny))
    return float(torch.stack(correlations).mean())


def start_chunk(n: int, size: int, action_dim: int, device: torch.device) -> State:
    """Returns the chunks of n robots before their first decision; {} if a chunk is a single action."""
    if size == 1:
        return {}
    return {
        "actions": torch.zeros(n, size, action_dim, device=device),
        "left": torch.zeros(n, dtype=torch.int64, device=device),
    }


def next_action(
    chunk: State, predicted: Tensor, executed: Tensor | None, first: Tensor
) -> tuple[Tensor, State]:
    """Returns the next action (N, A) of each robot's chunk, and the chunks after it.

    A new chunk begins when the last one is executed, when an episode begins, and when something else than
    its action was executed, because a person or a limit of the robot intervened.

    Args:
        chunk: `actions` (N, K, A), and `left` (N,), how many of them are still to be executed; may be empty.
        predicted: (N, K, A) what the policy predicts now.
        executed: (N, A) action that was executed before this decision; None if a planner decides, which
            departs from the chunk by itself; then only the end of a chunk or of an episode ends it.
        first: (N,) bool, whether an episode begins.
    """
    if not chunk:
        return predicted[:, 0], {}
    actions, left = chunk["actions"], chunk["left"]
    size = actions.shape[1]
    begins = first | (left == 0)
    if executed is not None:
        last = _select(actions, (size - left - 1).clamp(min=0))
        begins = begins | ((executed - last).abs().amax(-1) > SAME)
    actions = torch.where(begins[:, None, None], predicted, actions)
    left = torch.where(begins, size, left)
    return _select(actions, size - left), {"actions": actions, "left": left - 1}


def rest_of(chunk: State, predicted: Tensor) -> Tensor:
    """Returns the next K actions (N, K, A): what is left of each robot's chunk, and then what is predicted.

    Args:
        chunk: chunks after `next_action`, whose current action is the first one; may be empty.
        predicted: (N, K, A) what the policy predicts now.
    """
    if not chunk:
        return predicted
    actions, left = chunk["actions"], chunk["left"]
    size = actions.shape[1]
    number = (size - 1 - left)[:, None] + torch.arange(size, device=left.device)  # (N, K)
    rest = actions.gather(1, number.clamp(max=size - 1)[..., None].expand_as(actions))
    return torch.where((number < size)[..., None], rest, predicted)


def _select(actions: Tensor, number: Tensor) -> Tensor:
    """Returns action `number` (N,) of each row of (N, K, A)."""
    return actions.gather(1, number[:, None, None].expand(-1, 1, actions.shape[-1])).squeeze(1)
