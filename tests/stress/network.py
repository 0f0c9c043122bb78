"""Attacks a served robot over its socket: `python -m tests.stress.network --rate 80 --seconds 10`.

Connections that never show the token are opened at a rate, in a process of their own: `silent` ones send
nothing, `slow` ones half of an opening request, byte by byte. Meanwhile a client with the token connects
again and again, and then keeps its control rate. Afterwards the decoders of messages, of specs and of the
observations of a policy server get `--rounds` damaged ones each, and must accept or refuse them in one line.
"""

import argparse
import contextlib
import copy
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from gymnasium.spaces import Box, Dict

from o2o.core.errors import O2OError, RobotError
from o2o.hardware import RealTimeRobot
from o2o.hardware.guard import Guard
from o2o.hardware.remote import protocol
from o2o.hardware.remote.handshake import decode_spec
from tests.support.served import remote, served, write_token
from tests.support.strangers import attack

MODES = ("none", "silent", "slow")
BOX = {"dtype": "float32", "shape": [2], "low": -1, "high": 1}
SPEC = {
    "version": 1, "robot": "x", "action": BOX,
    "obs": {"state": BOX, "camera": {"dtype": "uint8", "shape": [4, 4, 3], "low": 0, "high": 255}},
    "metadata": {
        "control_hz": 10, "command": ["displacement", "displacement"], "max_decisions": 5,
        "measured": {"state": [0, 1]},
        "limits": {
            "velocity": [1.0, 2.0], "acceleration": 3.0, "max_age_s": 0.2, "frozen_s": 1.0, "patience": 5,
            "watchdog_s": 1.0, "workspace": [[0, 0], [1, 1]],
        },
        "displacement": {
            "actions": [0, 1], "metres_by_action": 0.01, "obs": {"state": [0, 1]}, "metres_by_obs": 1.0,
            "origin": [0.0, 0.0],
        },
    },
}  # fmt: skip
VALUES = (
    None, True, 0, -1, 1, 3, 0.5, 2**31, 2**63, -(2**60), 1e308, float("inf"), float("nan"), "", "x", "10",
    "x" * 300, "\n\x1b[2J", [], [1], [1, 2], [[1]], [None], ["a", "b"], [2**24] * 3, [1] * 5, {}, {"a": 1},
    "object", "float16", "int64", "bool", "uint8", "float64", BOX, {"x" * 300: BOX}, {"\n\x1b[2J": 1},
    {str(n): BOX for n in range(99)},
)  # fmt: skip


@contextlib.contextmanager
def module_process(*words: str) -> Iterator[subprocess.Popen]:
    """Runs this module in another process, which ends with the block."""
    command = [sys.executable, "-m", "tests.stress.network", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def connect_times(port: int, token_file: Path, tries: int) -> list[float]:
    """Returns the seconds that each successful connection took."""
    times = []
    for _ in range(tries):
        begin = time.monotonic()
        with contextlib.suppress(RobotError):
            client = remote(port, token_file=token_file)
            times.append(time.monotonic() - begin)
            client.close()
        time.sleep(0.2)
    return times


def step_times(client, seconds: float) -> tuple[np.ndarray, float]:
    """Returns (periods of a client at 20 Hz, s; the largest age of an observation, s)."""
    client.reset()
    ticks, ages = [], []
    for _ in range(int(20 * seconds)):
        *_, info = client.step(np.array([0.0, 0.1]))
        ticks.append(time.monotonic())
        ages.append(info["age_s"])
    return np.diff(ticks), max(ages)


def flood(mode: str, rate: float, seconds: float, tries: int) -> None:
    """Prints what a client meets while the server is attacked."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as last:
        token = write_token(Path(folder) / "token", secrets.token_hex(16))
        server = last.enter_context(module_process("--serve", str(token)))
        assert server.stdout
        port = int(server.stdout.readline())
        words = ["--attack", str(port), mode, "--rate", str(rate)]
        with module_process(*words):
            time.sleep(2)
            times = connect_times(port, token, tries)
        time.sleep(5)  # until the server has closed what the attack left open
        client = remote(port, token_file=token)
        with module_process(*words):
            time.sleep(2)
            ticks, age_s = step_times(client, seconds)
        client.close()
    took = f"median {1e3 * np.median(times):.0f} ms, at most {1e3 * max(times):.0f}" if times else "never"
    print(f"{mode} at {rate:g}/s: {len(times)} of {tries} connected: {took}")
    print(
        f"  20 Hz: median {1e3 * np.median(ticks):.2f} ms, 99 % {1e3 * np.quantile(ticks, 0.99):.2f}, "
        f"at most {1e3 * ticks.max():.2f}; oldest observation {1e3 * age_s:.0f} ms",
        flush=True,
    )


class Silent(RealTimeRobot):
    """Does nothing, behind the spaces and metadata of a spec."""

    def __init__(self, observations: Dict, actions: Box, metadata: dict):
        self.observation_space, self.action_space = observations, actions
        self.zeros = {name: np.zeros(box.shape or (), box.dtype) for name, box in observations.spaces.items()}
        self.metadata = {**metadata, "simulated": False, "real_time": True}

    def observe(self):
        return self.zeros, time.monotonic()

    def send(self, action):
        pass

    def stop(self):
        pass

    def home(self):
        pass

    def reward_and_success(self, obs):
        return 0.0, False, False


def read_message(rng: np.random.Generator) -> None:
    """Damages the bytes of a message of either side, and decodes them."""
    arrays = {"action": np.ones(2, np.float32), "camera": np.zeros((4, 4, 3), np.uint8)}
    kind = ("act", "observe", "spec")[rng.integers(3)]
    fields = (
        SPEC if kind == "spec" else {"seq": 3, "sent_s": 1.5, "echo": [1.0, 2.0], "flags": {"estop": True}}
    )
    data = bytearray(protocol.encode(kind, fields, arrays))
    for _ in range(rng.integers(1, 6)):
        data[rng.integers(min(len(data), 200))] = rng.integers(256)
    if rng.random() < 0.3:
        start, stop = sorted(rng.integers(0, len(data), 2))
        data[start:stop] = data[start:stop] * int(rng.integers(0, 3))
    message = protocol.decode(bytes(data), protocol.FROM_CLIENT + protocol.FROM_SERVER)
    message.number("seq")


def walk(node) -> Iterator[tuple]:
    """Yields every (container, key) in nested lists and dicts."""
    for name in range(len(node)) if isinstance(node, list) else list(node) if isinstance(node, dict) else ():
        yield node, name
        yield from walk(node[name])


def read_spec(rng: np.random.Generator) -> None:
    """Replaces values of a spec by others of any type and size, and builds the guarded robot."""
    fields = copy.deepcopy(SPEC)
    for _ in range(rng.integers(1, 3)):
        entries = list(walk(fields))
        node, name = entries[rng.integers(len(entries))]
        node[name] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    message = protocol.decode(protocol.encode("spec", fields), ("spec",))
    guard = Guard(Silent(*decode_spec(message.fields)))
    guard.reset()
    guard.close()


def fuzz(read: Callable[[np.random.Generator], None], rounds: int, rng: np.random.Generator) -> Counter:
    """Returns how often `read` accepted, refused in one line, or failed in another way, with its error."""
    counts: Counter = Counter()
    for _ in range(rounds):
        try:
            read(rng)
            counts["accepted"] += 1
        except O2OError as error:
            text = str(error)
            counts["refused" if text.isprintable() and len(text) < 500 else f"unclear: {text}"] += 1
        except Exception as error:
            counts[f"{type(error).__name__}: {error}"] += 1
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rate", type=float, default=80.0, help="connections opened per second")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds that a client is timed")
    parser.add_argument("--tries", type=int, default=10, help="connections of a client while it is attacked")
    parser.add_argument("--rounds", type=int, default=20_000, help="damaged messages of each kind")
    parser.add_argument("--seed", type=int, default=0, help="seed of the damages")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    parser.add_argument("--attack", nargs=2, default=(), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        with served(token_file=Path(options.serve)) as (server, _):
            print(server.port, flush=True)
            time.sleep(3600)
    if options.attack:
        attack(int(options.attack[0]), options.attack[1], options.rate)
    for mode in MODES if options.tries else ():
        flood(mode, options.rate, options.seconds, options.tries)
    rng, findings = np.random.default_rng(options.seed), 0
    from tests.stress.observations import read_observation  # it imports torch, which no attack waits for

    reads = {"messages": read_message, "specs": read_spec, "observations": read_observation()}
    for what, read in reads.items():
        counts = fuzz(read, options.rounds, rng)
        findings += sum(count for outcome, count in counts.items() if outcome not in ("accepted", "refused"))
        print(f"{what}: {options.rounds} rounds: {dict(counts)}")
    print(f"{findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
