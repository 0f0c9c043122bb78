"""Weights from process to process: whole, the newest, and never a torn copy."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from o2o.core.checkpoint import fingerprint
from o2o.core.errors import DivergedError, UsageError
from o2o.training.shared_weights import Weights


def some(number: float) -> dict[str, torch.Tensor]:
    value = float(number)
    return {
        "net.weight": torch.full((3, 5), value),
        "net.steps": torch.tensor(int(value)),
        "net.on": torch.tensor([True, False, value > 2]),
        "half": torch.full((7,), value, dtype=torch.bfloat16),
        "none": torch.zeros(0, 4),
    }


def pair(like) -> tuple[Weights, Weights]:
    writer = Weights(like)
    return writer, Weights(like, writer.handle)


def test_nothing_is_there_before_the_first_version():
    _, reader = pair(some(0))
    assert reader.get() is None and reader.peek() is None


def test_what_is_handed_over_arrives_to_the_bit_under_the_fingerprint_of_a_checkpoint():
    writer, reader = pair(some(0))
    for value in (1.25, 2.5, 3.75):
        put = writer.put(some(value), updates=int(4 * value), episodes=7, owed=2)
        got = reader.get()
        assert got is not None
        version, tensors = got
        assert version == put == reader.peek()
        assert version.fingerprint == fingerprint(some(value)) == fingerprint(tensors)
        assert (version.updates, version.episodes, version.owed) == (int(4 * value), 7, 2)
        assert tensors.keys() == some(0).keys()
        assert all(tensors[name].equal(want) for name, want in some(value).items())
    assert version.number == 3


def test_weights_that_are_not_finite_are_kept_back():
    writer, reader = pair(some(0))
    writer.put(some(1), 10, 1)
    for bad in (float("nan"), float("inf"), -1e30):  # the last one is finite, its square is not
        spoilt = some(2) | {"half": torch.tensor([1, bad] + [0.0] * 5, dtype=torch.bfloat16)}
        with pytest.raises(DivergedError, match="after 20 updates are not finite"):
            writer.put(spoilt, 20, 1)
    version, _ = reader.get() or (None, None)
    assert version is not None and version.updates == 10


def test_memory_of_other_weights_is_refused():
    writer = Weights(some(0))
    with pytest.raises(UsageError, match="for weights of another size"):
        Weights({"net": torch.zeros(1000)}, writer.handle)


@pytest.mark.parametrize("offset", [64 + 8, 64 + 64, 64 + 64 + 3])
def test_a_flipped_bit_is_never_taken(offset):
    """In the slot of version 2, which begins at byte 64: the count of updates, and the weights."""
    writer, reader = pair(some(0))
    writer.put(some(1), 10, 1)
    writer.put(some(2), 20, 1)
    assert reader.get() is not None
    byte = os.pread(writer.handle, 1, offset)
    os.pwrite(writer.handle, bytes([byte[0] ^ 4]), offset)
    assert reader.get() is None


@pytest.mark.parametrize("before", range(7))
def test_a_writer_killed_at_any_store_leaves_the_last_whole_version(before, monkeypatch):
    """Five tensors, the head and the end: it dies before the nth of these, and the next one goes on."""
    writer, reader = pair(some(0))
    writer.put(some(1), 10, 1)

    class Killed(Exception):
        pass

    left, real = before, torch.Tensor.copy_

    def dying(self, *args):
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return real(self, *args)

    def no_print(*args):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(torch.Tensor, "copy_", dying)
        if before >= 5:
            patch.setattr(
                "o2o.training.shared_weights.fingerprint"
                if before == 5
                else "o2o.training.shared_weights._check",
                no_print,
            )
        writer.put(some(2), 20, 2)
    version, tensors = reader.get() or (None, {})
    assert version is not None and version.number == 1 and tensors["net.weight"].eq(1).all()
    again = Weights(some(0), writer.handle).put(some(3), 30, 3)
    assert again.number == 2
    version, tensors = reader.get() or (None, {})
    assert version == again and tensors["net.weight"].eq(3).all()


HAMMER = """
    import sys, torch
    from o2o.training.shared_weights import Weights
    weights = Weights({name: torch.zeros(20_000) for name in "abcd"}, int(sys.argv[1]))
    print("on", flush=True)
    number = 0
    while True:
        number += 1
        weights.put({name: torch.full((20_000,), float(number)) for name in "abcd"}, number, 2 * number)
"""


def test_a_hammering_writer_in_another_process_never_makes_a_torn_read():
    """320 kB again and again, and the writer is killed in the midst of it: every copy is all one number."""
    like = {name: torch.zeros(20_000) for name in "abcd"}
    reader = Weights(like)
    command = [sys.executable, "-c", textwrap.dedent(HAMMER), str(reader.handle)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[reader.handle]) as process:
        assert process.stdout is not None and process.stdout.readline()
        seen, until_s = [], time.monotonic() + 200
        while len(set(seen)) < 200 and time.monotonic() < until_s:
            got = reader.get()
            if got is None:  # not yet, or not without waiting
                continue
            version, tensors = got
            values = torch.stack([value for value in tensors.values()])
            assert values.eq(version.number).all()
            assert (version.updates, version.episodes) == (version.number, 2 * version.number)
            seen.append(version.number)
        process.send_signal(signal.SIGKILL)
    assert seen == sorted(seen) and len(set(seen)) == 200
    version, tensors = reader.get() or (None, {})
    assert version is not None and all(value.eq(version.number).all() for value in tensors.values())
