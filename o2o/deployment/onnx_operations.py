"""Computes what ONNX has no operation for from operations that it has."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Coefficients of the inverse error function in single precision, highest power first. Source: Giles 2012,
# "Approximating the erfinv function", table 5.
CENTRAL = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
           -0.00417768164, 0.246640727, 1.50140941)  # fmt: skip
TAIL = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613,
        0.00943887047, 1.00167406, 2.83297682)  # fmt: skip


class OnnxOperations(TorchFunctionMode):
    """Replaces `cumprod` and `erfinv` inside its block."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return REPLACEMENTS.get(func, func)(*args, **(kwargs or {}))


def cumprod(x: Tensor, dim: int) -> Tensor:
    """Returns the cumulative product along an axis, one product after the other."""
    products: list[Tensor] = []
    for factor in x.unbind(dim):
        products.append(products[-1] * factor if products else factor)
    return torch.stack(products, dim)


def erfinv(x: Tensor) -> Tensor:
    """Returns the inverse error function of x in (-1, 1); the relative error is below 1e-6."""
    w = -torch.log((1 - x) * (1 + x))
    return x * torch.where(w < 5, _polynomial(CENTRAL, w - 2.5), _polynomial(TAIL, w.clamp(min=5).sqrt() - 3))


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


REPLACEMENTS = {torch.Tensor.cumprod: cumprod, torch.cumprod: cumprod, torch.erfinv: erfinv,
                torch.Tensor.erfinv: erfinv}  # fmt: skip
