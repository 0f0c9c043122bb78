"""Checks that given numbers take the place of random ones, in the order in which they are drawn."""

import torch

from o2o.deployment.draws import GivenDraws, RecordedDraws


def draw():
    like = torch.zeros(2)
    return [
        torch.randn(2, 3, device="cpu"), torch.randn((2,)), torch.rand(4), torch.rand_like(like),
        torch.randn_like(like), torch.empty_like(like).exponential_(), like.exponential_(),
    ]  # fmt: skip


def test_recorded_numbers_are_given_again_in_order():
    with RecordedDraws() as recorded:
        before = draw()
    numbers = recorded.flat()
    assert {kind: len(values) for kind, values in numbers.items()} == {
        "normal": 6 + 2 + 2, "uniform": 4 + 2, "exponential": 2 + 2,
    }  # fmt: skip
    with GivenDraws(numbers):
        again = draw()
    assert all(torch.equal(one, other) for one, other in zip(before, again, strict=True))


def test_recording_changes_no_number():
    torch.manual_seed(3)
    plain = draw()
    torch.manual_seed(3)
    with RecordedDraws():
        watched = draw()
    assert all(torch.equal(one, other) for one, other in zip(plain, watched, strict=True))


def test_numbers_of_a_kind_that_is_not_given_are_drawn():
    with GivenDraws({"uniform": torch.full((1,), 0.25)}):
        assert torch.rand(1).item() == 0.25 and torch.randn(9).unique().numel() == 9
