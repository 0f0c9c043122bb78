"""Attacks a policy server while two clients act by it: `python -m tests.stress.policy_attack --seconds 45`.

An untrained policy is served by `o2o serve` in a process of its own, with a token. One client sends damaged
observations, one floods it and never reads, processes of clients are killed or stopped in mid-decision, and
strangers open connections without the token. Printed are the decisions of the two honest clients, how long
they took, and the server's memory and threads; the exit code is 1 if one of their decisions failed, or the
server ended.
"""

import argparse
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from websockets.exceptions import WebSocketException

from o2o.core.errors import RobotError
from o2o.deployment.policy_client import PolicyClient, PolicyError
from o2o.hardware.remote import protocol
from tests.support.served import serving_process, write_token
from tests.support.served_policy import greeted, make_agent, write_run
from tests.support.strangers import attack

VICTIM = """
import sys
from o2o.deployment.policy_client import PolicyClient
client = PolicyClient(*sys.argv[1:])
client.reset()
print("acts", flush=True)
while True:
    client.act({"state": [1.0, 1.0]})
"""
OBSERVE = protocol.encode("observe", {"seq": 1, "reward": 0.0}, {"state": np.ones(2)})


class Attack:
    """Attacks one server until it is ended, and counts what was done.

    Attributes:
        counts: decisions of honest clients, and what each attacker has done.
        times: ms of each decision of the honest clients.
        ended: ends everything.
    """

    def __init__(self, port: int, token: str):
        self._port, self._token, self.ended = port, token, threading.Event()
        self.counts: Counter = Counter()
        self.times: list[float] = []

    def threads(self) -> list[threading.Thread]:
        jobs = [self.act_honestly, self.act_honestly, self.damage, self.flood, self.kill]
        strangers = [partial(attack, self._port, mode, 40, self.ended) for mode in ("silent", "slow")]
        return [threading.Thread(target=job) for job in (*jobs, *strangers)]

    def act_honestly(self) -> None:
        rng = np.random.default_rng(0)
        try:
            with PolicyClient(f"127.0.0.1:{self._port}", self._token) as client:
                client.reset()
                while not self.ended.is_set():
                    begin = time.perf_counter()
                    client.act({"state": rng.normal(size=2)}, 1.0)
                    self.times.append(1e3 * (time.perf_counter() - begin))
                    time.sleep(0.02)
        except PolicyError as error:
            self.counts["failed"] += 1
            print(f"an honest client failed: {error}")

    def damage(self) -> None:
        """Sends observations with up to two damaged bytes, 20 on a connection."""
        rng = np.random.default_rng(1)
        self._repeat(lambda client: [self._send_damaged(client, rng) for _ in range(20)])

    def _send_damaged(self, client, rng: np.random.Generator) -> None:
        data = bytearray(OBSERVE)
        for _ in range(rng.integers(3)):
            data[rng.integers(len(data))] = rng.integers(256)
        client.send(bytes(data))
        self.counts["damaged"] += 1

    def flood(self) -> None:
        """Sends observations as fast as it can, and reads no answer."""
        self._repeat(self._flood_once)

    def _flood_once(self, client) -> None:
        while not self.ended.is_set():
            client.send(OBSERVE)
            self.counts["flood"] += 1

    def _repeat(self, use: Callable) -> None:
        """Uses one connection after the other."""
        while not self.ended.is_set():
            with suppress(WebSocketException, OSError, AssertionError, RobotError):
                client = greeted(self._port, self._token)
                client.send(protocol.encode("reset", {"seq": 0}))
                use(client)
                client.close()

    def kill(self) -> None:
        """Kills processes of clients, and stops every second one half a second before."""
        while not self.ended.is_set():
            words = [sys.executable, "-c", VICTIM, f"127.0.0.1:{self._port}", self._token]
            with subprocess.Popen(words, stdout=subprocess.PIPE) as victim:
                assert victim.stdout
                victim.stdout.readline()
                time.sleep(0.1)
                if self.counts["killed"] % 2:
                    victim.send_signal(signal.SIGSTOP)
                    time.sleep(0.5)
                victim.kill()
            self.counts["killed"] += 1


def status(process: subprocess.Popen) -> str:
    """Returns memory and threads of a process, as Linux states them."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return f"{int(lines['VmRSS'].split()[0]) / 1024:.0f} MB, {lines['Threads'].strip()} threads"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=45.0, help="seconds that it is attacked")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, token = write_run(Path(folder) / "run", make_agent()), secrets.token_hex(16)
        path = write_token(Path(folder) / "token", token)
        words = ("--acting", "policy", "--device", "cpu", "--threads", "1", "--token-file", str(path))
        with serving_process("serve", str(run), *words) as (server, port):
            before, attacked = status(server), Attack(port, token)
            threads = attacked.threads()
            for thread in threads:
                thread.start()
            time.sleep(options.seconds)
            during = status(server)
            attacked.ended.set()
            for thread in threads:
                thread.join()
            time.sleep(4)  # until the server has closed what was left open
            alive = server.poll() is None
            print(f"server: {before} before, {during} during, {status(server) if alive else 'ended'} after")
    p50, p99, most = *np.quantile(attacked.times, [0.5, 0.99]), max(attacked.times)
    print(f"attacks: {dict(attacked.counts)}")
    print(f"honest: {len(attacked.times)} decisions, ms: p50 {p50:.1f}, p99 {p99:.1f}, most {most:.1f}")
    return 0 if alive and not attacked.counts["failed"] else 1


if __name__ == "__main__":
    sys.exit(main())
