"""Checks derived seeds, and that random streams are independent of the rest of the program."""

import numpy as np
import pytest
import torch

from o2o.core.errors import UsageError
from o2o.core.seeding import RandomStream, derive, restore_generator

CPU = torch.device("cpu")


def test_derived_seeds_are_fixed_different_and_in_range():
    seeds = [derive(seed, name, i) for seed in range(5) for name in ("scene", "act") for i in range(20)]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**31 for seed in seeds)
    assert derive(0, "scene", 3) == derive(0, "scene", 3) != derive(0, "scene", 13)


def test_derived_seeds_are_the_same_on_every_machine():
    """sha256 of "0/scene/3", its first four bytes, halved."""
    assert derive(0, "scene", 3) == 2081910023


def draw(stream: RandomStream, n=3) -> torch.Tensor:
    with stream.use():
        return torch.randn(n)


def test_a_stream_continues_and_leaves_the_global_state_unchanged():
    stream, alone = RandomStream(7, CPU), torch.Generator().manual_seed(7)
    torch.manual_seed(1)
    undisturbed = torch.randn(2)
    torch.manual_seed(1)
    assert draw(stream).equal(torch.randn(3, generator=alone))
    assert torch.randn(2).equal(undisturbed)
    assert draw(stream).equal(torch.randn(3, generator=alone))


def test_a_stream_is_saved_and_restored():
    stream, other = RandomStream(7, CPU), RandomStream(8, CPU)
    draw(stream)
    other.load_state(stream.state())
    assert draw(stream).equal(draw(other))


def test_a_stream_survives_an_error_inside():
    stream = RandomStream(7, CPU)
    before = torch.get_rng_state()
    try:
        with stream.use():
            torch.randn(3)
            raise ValueError
    except ValueError:
        pass
    assert torch.get_rng_state().equal(before) and not stream.cpu_state.equal(RandomStream(7, CPU).cpu_state)


@pytest.mark.parametrize(
    "state", [{}, {"cpu": torch.zeros(3)}, {"cpu": torch.zeros(5056)}, {"cpu": torch.zeros(7).byte()}]
)
def test_what_is_no_state_of_a_stream_is_refused(state):
    stream, same = RandomStream(7, CPU), RandomStream(7, CPU)
    with pytest.raises(UsageError, match="no state of a torch generator"):
        stream.load_state(state)
    assert draw(stream).equal(draw(same))


@pytest.mark.parametrize(
    "state", [{}, {"bit_generator": "PCG64", "state": "x"}, {"bit_generator": "MT19937"}]
)
def test_what_is_no_state_of_a_generator_is_refused(state):
    with pytest.raises(UsageError, match="state of a random generator"):
        restore_generator(np.random.default_rng(0), state)


def test_a_generator_is_restored():
    first, second = np.random.default_rng(3), np.random.default_rng(4)
    restore_generator(second, first.bit_generator.state)
    assert first.random() == second.random()
