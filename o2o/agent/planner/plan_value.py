"""Values imagined plans: their return, less a penalty on the disagreement of the Q-ensemble.

Source: Feng et al. 2023 (FOWM), eq. 4; as in their code, the terminal value of a plan is the minimum of two
members, less lambda times the disagreement of all.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from o2o.agent.planner.imagine import Imagined, join

BLOCK = 256  # rows at once: arrays whose size follows the data stay small, which avoids memory fragmentation


@dataclass(frozen=True)
class PlanValues:
    """Candidate plans and their values.

    Attributes:
        plans: S candidates of each of N robots; the penalty is added for those that have a value.
        value: (N, S) penalized return, in units of the scaled reward; -inf for plans that were pruned because
            they cannot be among the best.
        penalty: (N, S) the penalty within it.
        disagreement: (N, S) discounted disagreement along the plan, its end included, at any penalty weight.
        terminal_action: (N, S, A) the policy's action where the plan ends.
        terminal_value: (N, S) value of the end, before discount and penalty.
        evaluated_fraction: fraction of the ensemble's evaluations that were made, 0 to 1.
    """

    plans: Imagined
    value: Tensor
    penalty: Tensor
    disagreement: Tensor
    terminal_action: Tensor
    terminal_value: Tensor
    evaluated_fraction: float = 1.0


class PlanEvaluator:
    """Values plans by a critic and a policy.

    Args:
        penalty_weight: lambda, units of return per unit of disagreement.
        wrap: makes the arithmetic faster, for example `torch.compile`.
    """

    def __init__(
        self, penalty_weight: float, wrap: Callable[[Callable], Callable] = lambda function: function
    ):
        self.penalty_weight, self.disagreement = penalty_weight, wrap(disagreement)
        self.terminal, self.terminal_and_disagreement = wrap(terminal), wrap(terminal_and_disagreement)

    def add_penalty(self, plans: Imagined, critic) -> Imagined:
        """Returns the plans with the disagreement at their steps and its penalty, without their end."""
        penalty, total = torch.zeros_like(plans.penalty), torch.zeros_like(plans.disagreement)
        for discount, feature, action in zip(plans.discount, plans.feature, plans.action, strict=False):
            at_step = self.disagreement(critic, feature.flatten(0, 1), action.flatten(0, 1)).view_as(penalty)
            penalty = penalty + discount * self.penalty_weight * at_step
            total = total + discount * at_step
        return replace(plans, penalty=penalty, disagreement=total)

    def evaluate_all(self, sampled: Imagined, kept: Imagined, critic, policy) -> PlanValues:
        """Values every candidate. Shapes are static. `kept` has its penalty, `sampled` not yet."""
        plans = join(self.add_penalty(sampled, critic), kept)
        end = plans.feature[-1]
        action, terminal_value, at_end = self.terminal_and_disagreement(critic, policy, end)
        penalty = plans.penalty + plans.discount[-1] * self.penalty_weight * at_end
        disagreement = plans.disagreement + plans.discount[-1] * at_end
        value = plans.discounted_reward + plans.discount[-1] * terminal_value - penalty
        return PlanValues(plans, value, penalty, disagreement, action, terminal_value)

    def evaluate_best(self, sampled: Imagined, kept: Imagined, critic, policy, num: int) -> PlanValues:
        """Values the `num` best candidates exactly as `evaluate_all` does, and few others.

        The penalty is never negative, so the return without it is an upper bound of the value. The most
        promising candidates are valued in full, which gives a lower bound of the best; for the others the
        penalty is added step by step, and they are pruned once they fall below that bound. Shapes follow the
        data, so this is for a CPU.
        """
        plans = join(sampled, kept)
        n, size = plans.penalty.shape
        terminal_action, terminal_value = self.terminal(critic, policy, plans.feature[-1])
        bound = plans.discounted_reward + plans.discount[-1] * terminal_value
        bound = torch.where(bound.isfinite(), bound, -torch.inf).flatten()  # (M,)
        action = torch.cat([plans.action, terminal_action[None]]).flatten(1, 2)  # (H+1, M, A)
        feature, discount = plans.feature.flatten(1, 2), plans.discount.flatten(1, 2)
        step_penalty, end_penalty = plans.penalty.flatten().clone(), torch.zeros_like(bound)  # (M,)
        total = plans.disagreement.flatten().clone()  # (M,)
        unpenalized = (torch.arange(size) < sampled.penalty.shape[1]).repeat(n)  # (M,) without step penalty
        num_evaluated, last = 0, len(action) - 1

        def penalize(alive: Tensor, lower_bound: Tensor | float) -> Tensor:
            """Adds the penalty step by step; returns which rows (M,) still reach the lower bound."""
            nonlocal num_evaluated
            for step in range(last + 1):
                rows = (alive if step == last else alive & unpenalized).nonzero().squeeze(1)
                penalty = end_penalty if step == last else step_penalty
                for begin in range(0, len(rows), BLOCK):
                    block = rows[begin : begin + BLOCK]
                    block = block.repeat(2) if len(block) == 1 else block  # a compiler specializes on one row
                    disagreement = self.disagreement(critic, feature[step, block], action[step, block])
                    penalty[block] += discount[step, block] * self.penalty_weight * disagreement
                    total[block] += discount[step, block] * disagreement
                alive = alive & (bound - (step_penalty + end_penalty) >= lower_bound)
                num_evaluated += len(rows)
            return alive

        def value(evaluated: Tensor) -> Tensor:
            return torch.where(evaluated, bound - (step_penalty + end_penalty), -torch.inf).view(n, size)

        promising = (bound - step_penalty).view(n, size).topk(min(num + num // 4, size)).indices
        first = torch.zeros(n, size, dtype=torch.bool).scatter_(1, promising, True).flatten()
        evaluated = penalize(first, -torch.inf)
        lower_bound = value(evaluated).topk(min(num, size)).values[:, -1:].expand(n, size).flatten()
        evaluated = evaluated | penalize(~first & (bound - step_penalty >= lower_bound), lower_bound)
        plans = replace(plans, penalty=step_penalty.view(n, size))
        penalty = (step_penalty + end_penalty).view(n, size)
        fraction = num_evaluated / ((last + 1) * n * size)
        return PlanValues(
            plans, value(evaluated), penalty, total.view(n, size), terminal_action, terminal_value, fraction
        )


def disagreement(critic, feature: Tensor, action: Tensor) -> Tensor:
    """Returns the disagreement (...) of the ensemble."""
    return critic.disagreement(feature, action)


def terminal(critic, policy, feature: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the exploring policy's action (..., A) and the minimum of two values (...) where plans end."""
    action = policy.act(feature, explore=True)
    return action, critic.pessimistic(feature, action)


def terminal_and_disagreement(critic, policy, feature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns what `terminal` returns, and the disagreement (...) of all members."""
    action = policy.act(feature, explore=True)
    return action, *critic.pessimistic_and_disagreement(feature, action)
