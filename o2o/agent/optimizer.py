"""Steps one group of parameters: gradient clipping, Adam or LaProp, weight decay, and the learning rate."""

# torch's own optimizers use these `_foreach` functions, one call for all tensors of a group
# pyright: reportPrivateImportUsage=false

import math
from collections.abc import Iterable
from functools import cached_property

import torch
from torch import Tensor, nn

from o2o.agent.part_configs import OptimizerConfig
from o2o.core.run_checkpoint import describe_difference

LEAST_RATE = 0.01  # of the learning rate, after its decay
MIN_NORM = 1e-3  # least norm of a parameter in adaptive gradient clipping; DreamerV3


class Optimizer:
    """Optimizer of one group of parameters. Never waits for the device.

    Attributes:
        parameters: the group, on one device.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, config: OptimizerConfig):
        self.parameters: list[Tensor] = list(parameters)
        self.learning_rate, self.config = learning_rate, config
        self._loaded: dict[str, Tensor] = {}  # the state that `rule` begins with

    @cached_property
    def rule(self) -> torch.optim.Optimizer:
        """Torch's optimizer, which stores the moments; made at the first step.

        Making the first one of a process takes two seconds, in which torch imports its compiler. An agent
        that only acts is spared them.
        """
        device, config = self.parameters[0].device, self.config
        changes = config.warmup or config.decay
        rate = torch.tensor(self.learning_rate, device=device) if changes else self.learning_rate
        if config.method == "laprop":
            rule = LaProp(self.parameters, rate, config.eps)
        else:
            on_gpu = device.type == "cuda"
            rule = torch.optim.Adam(self.parameters, rate, eps=config.eps, fused=True, capturable=on_gpu)
        for name, value in self._loaded.items():
            i, key = name.split(".", 1)
            rule.state[self.parameters[int(i)]][key] = value
        self._loaded = {}
        return rule

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> Tensor:
        """Moves the parameters; returns the norm () of their gradient before clipping."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm or math.inf)
        if self.config.agc:
            clip_adaptively(self.parameters, self.config.agc)
        if self.config.weight_decay:
            torch._foreach_mul_(self.parameters, 1 - self.config.weight_decay)
        if self.config.warmup or self.config.decay:
            self._set_rate()
        self.rule.step()
        return norm

    def state(self) -> dict[str, Tensor]:
        """Returns the optimizer's state: `{i}.{name}` -> tensor of parameter i."""
        if "rule" not in self.__dict__:
            return dict(self._loaded)
        entries = self.rule.state_dict()["state"].items()
        return {f"{i}.{name}": value for i, entry in entries for name, value in entry.items()}

    def check_state(self, tensors: dict[str, Tensor]) -> str:
        """Returns how tensors differ from a state of these parameters; empty if they do not.

        Torch's fused optimizers write beyond moments that are shorter than their parameter.
        """
        numbers = {name.partition(".")[0] for name in tensors}
        want = {}
        for i, parameter in enumerate(self.parameters):
            if str(i) in numbers:  # a parameter that never had a gradient has no state
                want |= {
                    f"{i}.exp_avg": parameter,
                    f"{i}.exp_avg_sq": parameter,
                    f"{i}.step": torch.zeros(()),
                }
        return describe_difference(want, tensors)

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restores what `state` returned."""
        device = self.parameters[0].device
        self._loaded = {name: value.to(device, copy=True) for name, value in tensors.items()}
        self.__dict__.pop("rule", None)

    def _set_rate(self) -> None:
        """Sets the learning rate of step n = 1, 2, ... DreamerV3 counts from 0, so its first step is zero."""
        (group,) = self.rule.param_groups
        taken = [entry["step"] for entry in self.rule.state.values()]
        n = torch.stack(taken).max() + 1 if taken else torch.ones_like(group["lr"])
        rate = self.learning_rate * (n / max(self.config.warmup, 1)).clamp(max=1)
        if self.config.decay:
            half_cosine = (1 + torch.cos(math.pi * (n / self.config.decay).clamp(max=1))) / 2
            rate = rate * (LEAST_RATE + (1 - LEAST_RATE) * half_cosine)
        group["lr"].copy_(rate)


class LaProp(torch.optim.Optimizer):
    """Optimizer like Adam in another order: the gradient over its root mean square, then its momentum.

    Both moments are means over the steps so far, which is Adam's bias correction applied while averaging.

    Source: Ziyin et al. 2020; the betas are DreamerV3's.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float | Tensor, eps: float = 1e-20):
        super().__init__(parameters, {"lr": lr, "betas": (0.9, 0.999), "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            parameters, gradients = _with_gradient(group["params"])
            if parameters:
                self._move(parameters, gradients, group["lr"], group["betas"], group["eps"])

    def _move(self, parameters, gradients, rate, betas, eps) -> None:
        entries = [self._entry(parameter) for parameter in parameters]
        mean, square, steps = ([entry[k] for entry in entries] for k in ("exp_avg", "exp_avg_sq", "step"))
        torch._foreach_add_(steps, 1)
        count = torch.stack(steps)  # (P,)
        squared = torch._foreach_mul(gradients, gradients)
        torch._foreach_lerp_(square, squared, _latest_weight(betas[1], count))
        size = torch._foreach_sqrt(square)
        torch._foreach_add_(size, eps)
        torch._foreach_lerp_(mean, torch._foreach_div(gradients, size), _latest_weight(betas[0], count))
        torch._foreach_sub_(parameters, torch._foreach_mul(mean, rate))

    def _entry(self, parameter: Tensor) -> dict[str, Tensor]:
        entry = self.state[parameter]
        if not entry:
            entry["step"] = torch.zeros((), device=parameter.device)
            entry["exp_avg"], entry["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return entry


@torch.no_grad()
def clip_adaptively(parameters: Iterable[Tensor], limit: float) -> None:
    """Scales gradients down whose norm is more than `limit` times the norm of their parameter.

    Source: Brock et al. 2021, but with the norm of the whole tensor instead of its rows (DreamerV3).
    """
    parameters, gradients = _with_gradient(parameters)
    if not parameters:
        return
    bound = limit * torch.stack(torch._foreach_norm(parameters)).clamp(min=MIN_NORM)  # (P,)
    excess = torch.stack(torch._foreach_norm(gradients)) / bound
    torch._foreach_div_(gradients, list(excess.clamp(min=1)))


def _with_gradient(parameters: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the parameters that have a gradient, and these gradients."""
    pairs = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
    return [parameter for parameter, _ in pairs], [gradient for _, gradient in pairs]


def _latest_weight(beta: float, count: Tensor) -> list[Tensor]:
    """Returns the weight of the latest of `count` (P,) values in a mean that decays by beta."""
    log = math.log(beta)
    return list(math.expm1(log) / torch.expm1(log * count))  # (1 - beta) / (1 - beta^count)
