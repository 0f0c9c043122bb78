"""Tests passing weights between processes: complete, the latest, and never a torn copy."""

import os
import signal
import sys
import textwrap
import time

import pytest
import torch

from o2o.core.checkpoint import fingerprint
from o2o.core.errors import DivergedError, UsageError
from o2o.training.shared_weights import SharedWeights
from tests.support import forked


def make_tensors(number: float) -> dict[str, torch.Tensor]:
    value = float(number)
    return {
        "net.weight": torch.full((3, 5), value),
        "net.steps": torch.tensor(int(value)),
        "net.on": torch.tensor([True, False, value > 2]),
        "half": torch.full((7,), value, dtype=torch.bfloat16),
        "none": torch.zeros(0, 4),
    }


def writer_and_reader(like) -> tuple[SharedWeights, SharedWeights]:
    writer = SharedWeights(like)
    return writer, SharedWeights(like, writer.handle)


def test_nothing_is_there_before_the_first_version():
    _, reader = writer_and_reader(make_tensors(0))
    assert reader.read() is None and reader.peek() is None


def test_published_weights_arrive_equal_to_the_bit_with_the_fingerprint_of_a_checkpoint():
    writer, reader = writer_and_reader(make_tensors(0))
    for value in (1.25, 2.5, 3.75):
        published = writer.write(make_tensors(value), int(4 * value), num_episodes=7, pending_updates=2)
        got = reader.read()
        assert got is not None
        version, tensors = got
        assert version == published == reader.peek()
        assert version.fingerprint == fingerprint(make_tensors(value)) == fingerprint(tensors)
        assert (version.num_updates, version.num_episodes, version.pending_updates) == (int(4 * value), 7, 2)
        assert tensors.keys() == make_tensors(0).keys()
        assert all(tensors[name].equal(want) for name, want in make_tensors(value).items())
    assert version.number == 3


def test_weights_that_are_not_finite_are_not_published():
    writer, reader = writer_and_reader(make_tensors(0))
    writer.write(make_tensors(1), 10, 1)
    for bad in (float("nan"), float("inf"), -1e30):  # the last one is finite, its square is not
        bad_tensors = make_tensors(2) | {"half": torch.tensor([1, bad] + [0.0] * 5, dtype=torch.bfloat16)}
        with pytest.raises(DivergedError, match="after 20 updates are not finite"):
            writer.write(bad_tensors, 20, 1)
    version, _ = reader.read() or (None, None)
    assert version is not None and version.num_updates == 10


def test_memory_of_other_weights_is_refused():
    writer = SharedWeights(make_tensors(0))
    with pytest.raises(UsageError, match=r"the shared memory has \d+ bytes, these weights need"):
        SharedWeights({"net": torch.zeros(1000)}, writer.handle)


@pytest.mark.parametrize("offset", [64 + 8, 64 + 64, 64 + 64 + 3])
def test_a_flipped_bit_is_detected(offset):
    """In the slot of version 2, which begins at byte 64: the count of updates, and the weights."""
    writer, reader = writer_and_reader(make_tensors(0))
    writer.write(make_tensors(1), 10, 1)
    writer.write(make_tensors(2), 20, 1)
    assert reader.read() is not None
    byte = os.pread(writer.handle, 1, offset)
    os.pwrite(writer.handle, bytes([byte[0] ^ 4]), offset)
    assert reader.read() is None


@pytest.mark.parametrize("before", range(7))
def test_a_writer_killed_at_any_store_leaves_the_last_complete_version(before, monkeypatch):
    """Five tensors, the head and the end: it dies before the nth of these, and the next one goes on."""
    writer, reader = writer_and_reader(make_tensors(0))
    writer.write(make_tensors(1), 10, 1)

    class Killed(Exception):
        pass

    left, real = before, torch.Tensor.copy_

    def dying(self, *args):
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return real(self, *args)

    def no_fingerprint(*args):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(torch.Tensor, "copy_", dying)
        if before >= 5:
            patch.setattr(
                f"o2o.training.shared_weights.{'fingerprint' if before == 5 else '_checksum'}",
                no_fingerprint,
            )
        writer.write(make_tensors(2), 20, 2)
    version, tensors = reader.read() or (None, {})
    assert version is not None and version.number == 1 and tensors["net.weight"].eq(1).all()
    again = SharedWeights(make_tensors(0), writer.handle).write(make_tensors(3), 30, 3)
    assert again.number == 2
    version, tensors = reader.read() or (None, {})
    assert version == again and tensors["net.weight"].eq(3).all()


HAMMER = """
    import sys, torch
    from o2o.training.shared_weights import SharedWeights
    weights = SharedWeights({name: torch.zeros(20_000) for name in "abcd"}, int(sys.argv[1]))
    print("on", flush=True)
    number = 0
    while True:
        number += 1
        weights.write({name: torch.full((20_000,), float(number)) for name in "abcd"}, number, 2 * number)
"""


def test_a_hammering_writer_in_another_process_never_makes_a_torn_read():
    """The writer publishes 320 kB in a loop until it is killed: every copy holds a single number."""
    like = {name: torch.zeros(20_000) for name in "abcd"}
    reader = SharedWeights(like)
    command = [sys.executable, "-c", textwrap.dedent(HAMMER), str(reader.handle)]
    with forked.Popen(command, stdout=forked.PIPE, pass_fds=[reader.handle]) as process:
        assert process.stdout is not None and process.stdout.readline()
        seen, until_s = [], time.monotonic() + 200
        while len(set(seen)) < 100 and time.monotonic() < until_s:
            got = reader.read()
            if got is None:  # none yet, or none without waiting
                continue
            version, tensors = got
            values = torch.stack([value for value in tensors.values()])
            assert values.eq(version.number).all()
            assert (version.num_updates, version.num_episodes) == (version.number, 2 * version.number)
            seen.append(version.number)
        process.send_signal(signal.SIGKILL)
    assert seen == sorted(seen) and len(set(seen)) == 100
    version, tensors = reader.read() or (None, {})
    assert version is not None and all(value.eq(version.number).all() for value in tensors.values())
