"""Tests random numbers and statistics of a batch that two processes share, in one process."""

import pytest
import torch

from o2o.core import batch_share
from o2o.core.process_group import ProcessGroup
from o2o.core.torchrun import Place

FIRST, SECOND = (ProcessGroup(Place(rank, 2, rank, 2, launched=True)) for rank in range(2))


@pytest.fixture
def other(monkeypatch):
    """A list of what the other process adds to each sum, in order."""
    values = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x: x.add_(values.pop(0)))
    return values


@pytest.mark.parametrize("draw", [torch.randn_like, lambda like: torch.randint_like(like, 9)])
@pytest.mark.parametrize(
    ("joined", "axis"),
    [((6, 2), 0), ((3, 6, 2), 1), ((3 * 6, 2), -2), ((2, 6), 1), ((3 * 6, 4, 5), -3)],
    ids=["B A", "T B F", "T*B A", "2 B", "T*B latents classes"],
)
def test_two_processes_draw_the_two_parts_of_what_one_draws(draw, joined, axis):
    rows = joined[axis]
    shape = list(joined)
    shape[axis] = rows // 2
    torch.manual_seed(0)
    wanted = draw(torch.empty(joined))
    by_window = wanted.unflatten(axis, (rows // 6, 6))
    after = axis + 1 if axis >= 0 else axis
    for group, windows in ((FIRST, range(3)), (SECOND, range(3, 6))):
        torch.manual_seed(0)
        with batch_share.sharing(group, 3):
            own = batch_share.draw_like(draw, torch.empty(shape), axis)
        part = by_window.index_select(after, torch.tensor(list(windows)))
        assert own.equal(part.reshape(shape))


def test_one_process_draws_as_torch_does():
    torch.manual_seed(0)
    wanted, x = torch.randn(4, 2), torch.empty(4, 2)
    torch.manual_seed(0)
    with batch_share.sharing(ProcessGroup(), 4):
        assert batch_share.draw_like(torch.randn_like, x, 0).equal(wanted)
        assert batch_share.total(x) is x and batch_share.joined(x) is x


def test_a_sum_over_processes_sends_back_the_gradient_of_all(other):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    other += [torch.tensor([10.0, 20.0]), torch.tensor([0.0, 5.0])]  # values, then gradients of the other
    with batch_share.sharing(FIRST, 1):
        result = batch_share.total(x)
    assert result.tolist() == [11.0, 22.0]
    (result * torch.tensor([3.0, 4.0])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [3.0, 9.0]


def test_the_deviation_is_that_of_the_joined_batch(other):
    left, right = torch.tensor([[0.0], [1.0]]), torch.tensor([[4.0], [7.0]])  # mean 3
    other += [right.mean(0, keepdim=True), (right - 3).square().mean(0)]
    with batch_share.sharing(FIRST, 2):
        shared = batch_share.std(left, (0,))
    assert shared.tolist() == pytest.approx([7.5**0.5])
    assert batch_share.std(torch.cat([left, right]), (0,)).tolist() == pytest.approx([7.5**0.5])


def test_the_batch_is_shared_inside_the_block_only(other):
    with pytest.raises(ZeroDivisionError), batch_share.sharing(FIRST, 1):
        raise ZeroDivisionError
    assert float(batch_share.total(torch.ones(()))) == 1.0
