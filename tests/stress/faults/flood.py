"""Floods a robot server with extreme actions, as a client of the raw protocol that has no guard.

    python -m tests.stress.faults.flood 127.0.0.1:8765 --seconds 8

Homes the robot first. A quarter of the time each: all entries at their upper bounds; random corners of the
action bounds; values of 1e30 whose signs alternate; and random corners with random times of sending.
"""

import argparse
import contextlib
import threading
import time
from collections import Counter

import numpy as np

from o2o.hardware.remote import protocol
from o2o.hardware.remote.handshake import decode_spec

HZ = 1000


def extreme(rng: np.random.Generator, phase: int, number: int, high: np.ndarray) -> np.ndarray:
    """Returns (A,) the action of that number in a phase, 0 to 3."""
    corner = high * rng.choice([-1, 1], len(high))
    return [high, corner, np.full(len(high), 1e30 * (-1) ** number), corner][phase]


def flood(address: str, seconds: float) -> None:
    host, port = protocol.parse_address(address)[:2]
    socket = protocol.connect(host, port, token="", timeout_s=5)
    socket.send(protocol.encode("hello", {"version": protocol.VERSION, "sent_s": time.monotonic()}))
    _, box, _ = decode_spec(protocol.decode(socket.recv(5), ("spec",)).fields)
    done, homed, reasons = [], threading.Event(), Counter[str]()

    def read() -> None:
        with contextlib.suppress(Exception):  # the connection was closed
            while True:
                message = protocol.decode(socket.recv(), protocol.FROM_SERVER)
                if message.kind == "homed":
                    homed.set()
                elif message.kind == "done":
                    done.append(message.number("seq"))
                    reasons.update(message.texts("reasons"))

    threading.Thread(target=read, daemon=True).start()
    socket.send(protocol.encode("home", {"request": 1}))
    assert homed.wait(30)
    rng, begin_s, number = np.random.default_rng(0), time.monotonic(), 0
    while (since_s := time.monotonic() - begin_s) < seconds:
        phase = int(4 * since_s / seconds)
        sent_s = time.monotonic() + (rng.uniform(-1e3, 1e3) if phase == 3 else 0)
        action = extreme(rng, phase, number, box.high.astype(float))
        socket.send(protocol.encode("act", {"seq": number, "sent_s": sent_s}, {"action": action}))
        number += 1
        time.sleep(max(0.0, begin_s + number / HZ - time.monotonic()))
    time.sleep(0.2)
    print(f"sent {number} actions in {since_s:.1f} s; {len(done)} were answered: {dict(reasons)}", flush=True)
    socket.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--seconds", type=float, default=8.0)
    args = parser.parse_args()
    flood(args.address, args.seconds)
