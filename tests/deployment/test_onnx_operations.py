"""Checks the replacements of operations that ONNX lacks against torch's own."""

import torch

from o2o.deployment.onnx_operations import OnnxOperations


def test_the_cumulative_product_is_taken_along_the_axis():
    x = torch.tensor([[2.0, 3.0], [0.5, -1.0], [4.0, 5.0]])
    with OnnxOperations():
        assert x.cumprod(0).tolist() == [[2.0, 3.0], [1.0, -3.0], [4.0, -15.0]]
        assert torch.cumprod(x, 1).tolist() == [[2.0, 6.0], [0.5, -0.5], [4.0, 20.0]]


def test_the_inverse_error_function_is_exact_to_single_precision():
    x = torch.linspace(-1 + 1e-6, 1 - 1e-6, 20_001)
    exact = torch.erfinv(x.double())
    with OnnxOperations():
        found = torch.erfinv(x)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-9)
