"""What imagined plans are worth: their return, less the price of the ensemble's disagreement.

Source: Feng et al. 2023 (FOWM), eq. 4; as their code does, the value at the end of a plan is the lesser
of two members, less lambda times the spread of all.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from o2o.agent.planner.imagine import Imagined, join

BLOCK = 256  # rows: arrays whose size follows the data stay small, or memory would be left in pieces


@dataclass(frozen=True)
class Valued:
    """Candidate plans and their worth.

    Attributes:
        plans: S candidates of each of N robots, those that have a value charged for their way.
        value: (N, S) penalised return, in units of the scaled reward; -inf for plans that were given up
            because they cannot be among the best.
        penalty: (N, S) the price of doubt within it.
        last_action: (N, S, A) the policy's, where the plan ends.
        leaf: (N, S) value of the end, before discount and price.
        evaluated: share of the ensemble's evaluations that were made, 0 to 1.
    """

    plans: Imagined
    value: Tensor
    penalty: Tensor
    last_action: Tensor
    leaf: Tensor
    evaluated: float = 1.0


class Valuation:
    """Values plans by a critic and a policy.

    Args:
        price: lambda, units of return for one unit of spread.
        wrap: makes the arithmetic faster, `torch.compile` say.
    """

    def __init__(self, price: float, wrap: Callable[[Callable], Callable] = lambda function: function):
        self.price, self.doubt, self.tip, self.end = price, wrap(doubt), wrap(tip), wrap(end)

    def charge(self, plans: Imagined, critic) -> Imagined:
        """The plans with the price of the disagreement on their way."""
        if self.price == 0:
            return plans
        penalty = torch.zeros_like(plans.gain)
        for discount, feature, action in zip(plans.discount, plans.feature, plans.action, strict=False):
            spread = self.doubt(critic, feature.flatten(0, 1), action.flatten(0, 1))
            penalty = penalty + discount * self.price * spread.view_as(penalty)
        return replace(plans, penalty=penalty)

    def all(self, fresh: Imagined, kept: Imagined, critic, policy) -> Valued:
        """Every candidate's value. Static shapes. `kept` is charged, `fresh` not yet."""
        plans = join(self.charge(fresh, critic), kept)
        action, leaf, spread = self.end(critic, policy, plans.feature[-1])
        penalty = plans.penalty + plans.discount[-1] * self.price * spread
        return Valued(plans, plans.gain + plans.discount[-1] * leaf - penalty, penalty, action, leaf)

    def best(self, fresh: Imagined, kept: Imagined, critic, policy, num: int) -> Valued:
        """The value of the `num` best candidates, exactly as `all` gives it, and of few others.

        The penalty is never negative, so the return without it bounds the value from above. The likeliest
        candidates are charged in full, which gives a floor; the rest are charged step by step and given
        up once they fall under it. Shapes follow the data, so this is for a CPU.
        """
        plans = join(fresh, kept)
        n, size = plans.gain.shape
        last_action, leaf = self.tip(critic, policy, plans.feature[-1])
        bound = plans.gain + plans.discount[-1] * leaf
        bound = torch.where(bound.isfinite(), bound, -torch.inf).flatten()  # (M,)
        action = torch.cat([plans.action, last_action[None]]).flatten(1, 2)  # (H+1, M, A)
        feature, discount = plans.feature.flatten(1, 2), plans.discount.flatten(1, 2)
        way, tail = plans.penalty.flatten().clone(), torch.zeros_like(bound)  # (M,)
        owing = (torch.arange(size) < fresh.gain.shape[1]).repeat(n)  # (M,) for the way
        num_evaluated, last = 0, len(action) - 1

        def pay(alive: Tensor, floor: Tensor | float) -> Tensor:
            """Charges step by step; which rows (M,) still reach the floor at the end."""
            nonlocal num_evaluated
            for step in range(last + 1):
                rows = (alive if step == last else alive & owing).nonzero().squeeze(1)
                timing_report = tail if step == last else way
                for begin in range(0, len(rows), BLOCK):
                    some = rows[begin : begin + BLOCK]
                    some = some.repeat(2) if len(some) == 1 else some  # a compiler makes a case of one row
                    spread = self.doubt(critic, feature[step, some], action[step, some])
                    timing_report[some] += discount[step, some] * self.price * spread
                alive = alive & (bound - (way + tail) >= floor)
                num_evaluated += len(rows)
            return alive

        def value(paid: Tensor) -> Tensor:
            return torch.where(paid, bound - (way + tail), -torch.inf).view(n, size)

        likely = (bound - way).view(n, size).topk(min(num + num // 4, size)).indices
        first = torch.zeros(n, size, dtype=torch.bool).scatter_(1, likely, True).flatten()
        paid = pay(first, -torch.inf)
        floor = value(paid).topk(min(num, size)).values[:, -1:].expand(n, size).flatten()
        paid = paid | pay(~first & (bound - way >= floor), floor)
        plans = replace(plans, penalty=way.view(n, size))
        share = num_evaluated / ((last + 1) * n * size)
        return Valued(plans, value(paid), (way + tail).view(n, size), last_action, leaf, share)


def doubt(critic, feature: Tensor, action: Tensor) -> Tensor:
    """(...) spread of the ensemble."""
    return critic.uncertainty(feature, action)


def tip(critic, policy, feature: Tensor) -> tuple[Tensor, Tensor]:
    """Where plans end: the exploring policy's action (..., A), and the lesser of two values (...)."""
    action = policy.act(feature, explore=True)
    return action, critic.pessimistic(feature, action)


def end(critic, policy, feature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `tip`, and the spread of all members (...)."""
    action = policy.act(feature, explore=True)
    return action, *critic.assess(feature, action)
