"""Tests that a spec survives a round trip, and that its sizes are checked before anything is allocated."""

import tracemalloc

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from o2o.core.errors import RobotError
from o2o.hardware.remote import protocol
from o2o.hardware.remote.handshake import decode_spec, encode_spec

ACTION = Box(np.float32([-1, -0.5]), np.float32([1, 2]))


def spec(observations: dict, metadata: dict | None = None) -> dict:
    """The fields of a spec, as they arrive at the client."""
    fields = encode_spec("x", Dict(observations), ACTION, {"control_hz": 10, **(metadata or {})})
    return protocol.decode(protocol.encode("spec", fields), ("spec",)).fields


def picture(*shape: int) -> dict:
    return {"dtype": "uint8", "shape": list(shape), "low": 0, "high": 255}


def test_a_spec_survives_a_round_trip():
    spaces = {
        "camera": Box(0, 255, (4, 5, 3), np.uint8), "count": Box(-5, 2**40, (2,), np.int64),
        "open": Box(-np.inf, np.inf, (3,), np.float64), "state": Box(np.float32([0, 1]), np.float32([2, 3])),
    }  # fmt: skip
    metadata = {
        "command": ("position", "velocity"), "measured": {"state": [1, -1]}, "max_decisions": 7,
        "limits": {"velocity": (0.5, 1.0), "workspace": ((0, 0), (1, 1))}, "secret": "not sent",
    }  # fmt: skip
    observations, actions, stated = decode_spec(spec(spaces, metadata))
    assert observations == Dict(spaces) and actions == ACTION
    assert stated == {
        "control_hz": 10, "command": ("position", "velocity"), "measured": {"state": [1, -1]},
        "limits": {"velocity": [0.5, 1.0], "workspace": [[0, 0], [1, 1]]}, "max_decisions": 7,
    }  # fmt: skip


def peak_bytes(fields: dict) -> tuple[int, str]:
    """(the most that was allocated while a spec was decoded, the error or nothing)."""
    error = ""
    tracemalloc.start()
    try:
        decode_spec(fields)
    except RobotError as refused:
        error = str(refused)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, error


def test_observations_that_no_message_can_hold_together_are_refused_before_they_are_allocated():
    fields = spec({"state": Box(-1, 1, (2,), np.float32)})
    fields["obs"] |= {f"camera{n}": picture(4096, 4096) for n in range(2)}  # 16 MiB each
    peak, error = peak_bytes(fields)
    assert (
        error
        == "the server's spec is invalid (observations of 33554440 bytes in all, wanted at most 33554432)"
    )
    assert peak < 1e6
    del fields["obs"]["state"]
    peak, error = peak_bytes(fields)
    assert not error and peak < 6 * protocol.MAX_MESSAGE


def test_a_spec_may_announce_64_observations_and_not_65():
    names = [f"sensor.{n}" for n in range(65)]
    fields = spec({name: Box(-1, 1, (2,), np.float32) for name in names[:64]})
    assert len(decode_spec(fields)[0].spaces) == 64
    fields["obs"][names[64]] = fields["obs"][names[0]]
    with pytest.raises(RobotError, match="65 observations, wanted 1 to 64"):
        decode_spec(fields)


def test_metadata_that_no_guard_reads_is_dropped():
    fields = spec({"state": Box(-1, 1, (2,), np.float32)})
    fields["metadata"] |= {"simulated": True, "resets_itself": True, "x": [1] * 1000}
    assert decode_spec(fields)[2] == {"control_hz": 10}
