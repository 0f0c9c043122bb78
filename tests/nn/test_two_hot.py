"""Tests symlog and two-hot encodings against values calculated by hand (G1 to G4)."""

import math

import pytest
import torch

from o2o.nn.two_hot import TwoHot, symexp, symlog

EVERY_KIND = pytest.mark.parametrize(
    "code", [TwoHot(101, 10, "symlog"), TwoHot(255, 20, "raw"), TwoHot(4, 2, "raw")], ids=str
)


def by_hand() -> TwoHot:
    """Bins at 0, 1 and 3."""
    code = TwoHot(3, 1, "raw")
    code.bins = torch.tensor([0.0, 1.0, 3.0])
    return code


def largest(code: TwoHot) -> torch.Tensor:
    """What the last bin stands for."""
    return symexp(code.bins[-1]) if code.space == "symlog" else code.bins[-1]


def test_symlog_by_hand():
    x = torch.tensor([math.e - 1, -9.0, 1000.0, 0.0])
    assert symlog(x).tolist() == pytest.approx([1, -2.302585, 6.908755, 0])
    assert symexp(torch.tensor(1.0)).item() == pytest.approx(1.718282)


def test_symlog_is_odd_and_symexp_undoes_it():
    x = torch.linspace(-50, 50, 101)
    assert symlog(-x).equal(-symlog(x)) and symexp(-x / 9).equal(-symexp(x / 9))
    torch.testing.assert_close(symexp(symlog(x)), x)


@pytest.mark.parametrize(("x", "slope"), [(0.0, 1.0), (1.0, 0.5), (-1.0, 0.5), (-3.0, 0.25)])
def test_slopes_of_symlog_and_symexp_are_each_others_inverse(x, slope):
    at = torch.tensor(x, requires_grad=True)
    (forth,) = torch.autograd.grad(symlog(at), at)
    (back,) = torch.autograd.grad(symexp(at), at)
    assert forth.item() == pytest.approx(slope)
    assert back.item() == pytest.approx(math.exp(abs(x)))


@pytest.mark.parametrize(
    ("x", "weight"),
    [(1.5, [0, 0.75, 0.25]), (1.0, [0, 1, 0]), (9.0, [0, 0, 1]), (3.0, [0, 0, 1]), (-2.0, [1, 0, 0])],
)
def test_two_hot_by_hand(x, weight):
    code = by_hand()
    have = code.encode(torch.tensor(x))
    assert have.tolist() == pytest.approx(weight)
    assert (have * code.bins).sum().item() == pytest.approx(min(max(x, 0), 3))


def test_bins_of_dreamer_are_symexp_of_an_even_grid():
    code = TwoHot(255, 20, "raw")
    assert code.bins[127] == 0 and code.bins.equal(-code.bins.flip(0))
    assert code.bins[[128, 129, 254]].tolist() == pytest.approx([0.1705577, 0.3702054, 4.851652e8], rel=1e-6)
    assert code.encode(torch.tensor(0.1))[128].item() == pytest.approx(0.5863118, abs=1e-6)


@pytest.mark.parametrize(
    ("num_bins", "limit", "low", "share"), [(101, 10, 53, 0.4657359), (255, 20, 131, 0.401485)]
)
def test_one_on_an_even_grid_of_symlog(num_bins, limit, low, share):
    have_low, have_share = TwoHot(num_bins, limit, "symlog").locate(torch.tensor(1.0))
    assert have_low == low and have_share.item() == pytest.approx(share, abs=2e-6)


@EVERY_KIND
def test_what_was_encoded_is_decoded(code):
    x = torch.linspace(-1, 1, 37) * largest(code)
    weight = code.encode(x)
    assert torch.allclose(weight.sum(-1), torch.ones(37)) and (weight > 0).sum(-1).max() <= 2
    torch.testing.assert_close(code.decode(weight.log()), x, rtol=1e-4, atol=1e-5)


@EVERY_KIND
@pytest.mark.parametrize("side", [-1, 1])
def test_beyond_the_last_bin_a_value_is_the_last_bin(code, side):
    weight = code.encode(torch.tensor([1e12, torch.inf]) * side)
    assert weight[:, -1 if side > 0 else 0].eq(1).all()
    torch.testing.assert_close(code.decode(weight.log()), side * largest(code).expand(2))


@EVERY_KIND
@pytest.mark.parametrize("logit", [0.0, 3.7])
def test_equal_logits_mean_exactly_zero(code, logit):
    assert code.decode(torch.full((5, code.num_bins), logit)).eq(0).all()


@EVERY_KIND
def test_the_loss_is_the_cross_entropy_and_pulls_towards_the_code(code):
    logits, x = torch.randn(6, 4, code.num_bins, requires_grad=True), 3 * torch.randn(6, 4)
    loss, weight = code.loss(logits, x), code.encode(x)
    torch.testing.assert_close(loss, -(weight * logits.log_softmax(-1)).sum(-1))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient, logits.softmax(-1) - weight)


@EVERY_KIND
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_of_half_precision_are_summed_in_full(code, dtype):
    logits, x = torch.randn(5, code.num_bins).to(dtype), torch.randn(5)
    assert code.decode(logits).equal(code.decode(logits.float()))
    assert code.loss(logits, x).equal(code.loss(logits.float(), x))
    assert code.decode(logits).dtype == code.loss(logits, x).dtype == torch.float32


def test_not_a_number_stays_one():
    code = TwoHot(101, 10, "symlog")
    assert code.loss(torch.zeros(101), torch.tensor(torch.nan)).isnan()


def test_one_bin_is_refused():
    with pytest.raises(ValueError, match="two bins or more, not 1"):
        TwoHot(1, 10, "symlog")
