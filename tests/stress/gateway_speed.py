"""Measures what a request costs a fleet's gateway: `python -m tests.stress.gateway_speed`.

The gateway is served by the threads of this process, and the robots are processes beside it, so that the CPU
time of this process is the gateway's. Printed are, for each kind of request, how many a second there were,
the CPU time of one, and how long the robots waited for its answer.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import gymnasium
import numpy as np

from o2o.core.transform import ObsTransform
from o2o.data.finished_episodes import episode_path
from o2o.fleet.client import GatewayClient
from o2o.fleet.gateway import Gateway
from o2o.fleet.messages import Report
from tests.support import fleets
from tests.support.fleets import FACTS, Arm, make_fleet, metadata, publish, record, served_gateway

WEIGHTS_BYTES = 10_700_000  # of FOWM's weights
IMAGE = (84, 84, 3)


class CameraArm(Arm):
    observation_space = gymnasium.spaces.Dict(
        Arm.observation_space.spaces | {"camera": gymnasium.spaces.Box(0, 255, IMAGE, np.uint8)}
    )


def deliver(url: str, online: Path, start: Path, times: int) -> list[float]:
    """Delivers one episode under many numbers; returns how long each took, s."""
    client = GatewayClient(url, robot=os.urandom(4).hex(), run=os.urandom(16).hex())
    client.join(start, metadata(online))
    return [timed(lambda n=n: client.deliver(n, episode_path(online, 0), FACTS)) for n in range(times)]


def fetch(url: str, etag: str, times: int) -> list[float]:
    """Asks for weights; returns how long each answer took, s."""
    client = GatewayClient(url, robot=os.urandom(4).hex(), run=os.urandom(16).hex())
    return [timed(lambda: client.weights(etag, Report())) for _ in range(times)]


def timed(ask: Callable[[], object]) -> float:
    begin_s = time.perf_counter()
    ask()
    return time.perf_counter() - begin_s


def measure(what: str, num_bytes: int, robots: int, ask: Callable, *args) -> None:
    """Has robots ask at the same time, and prints what it cost."""
    with get_context("forkserver").Pool(robots) as pool:
        pool.map(abs, range(robots))  # they have started
        begin_s, cpu_s = time.perf_counter(), time.process_time()
        results = [pool.apply_async(ask, args) for _ in range(robots)]
        times = np.concatenate([result.get() for result in results])
        seconds, cpu_s = time.perf_counter() - begin_s, time.process_time() - cpu_s
    p50, p99 = 1e3 * np.quantile(times, [0.5, 0.99])
    rate = len(times) / seconds
    print(
        f"{what}, {num_bytes / 1e6:.2f} MB, {robots} at a time: {rate:.0f} a second, "
        f"{rate * num_bytes / 1e6:.1f} MB/s; {1e3 * cpu_s / len(times):.2f} ms of CPU; "
        f"answer after p50 {p50:.1f}, p99 {p99:.1f} ms",
        flush=True,
    )


def main() -> int:
    camera = {"camera": ObsTransform(IMAGE, image=True)}
    fleets.TRANSFORM = replace(fleets.TRANSFORM, fields=fleets.TRANSFORM.fields | camera)
    with tempfile.TemporaryDirectory() as place:
        folder = make_fleet(Path(place) / "fleet")
        start, online = folder / "start", record(Path(place) / "robot", [50], CameraArm)
        size = episode_path(online, 0).stat().st_size
        with served_gateway(Gateway(folder, max_backlog=10**9)) as server:
            url = f"http://127.0.0.1:{server.port}"
            for robots, times in ((1, 60), (4, 30)):
                measure("episode of 50 images", size, robots, deliver, url, online, start, times)
            info = publish(folder, 1, os.urandom(WEIGHTS_BYTES))
            measure("weights", WEIGHTS_BYTES, 1, fetch, url, "", 20)
            measure("weights unchanged", 0, 1, fetch, url, info.etag, 500)
    return 0


if __name__ == "__main__":
    sys.exit(main())
