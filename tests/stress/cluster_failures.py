"""Runs `o2o compare` and `o2o sweep` on a Ray cluster of two nodes, of which parts are killed.

    python -m tests.stress.cluster_failures --parts serial cluster killed sweep --out NEW

It needs `pip install "o2o[cluster,sweep]"`. Both nodes are Ray's processes of this machine, with one CPU
each. `serial` compares on this machine, one run after the other; `cluster` the same on both nodes; `killed`
kills a worker and then a node (`kill -9`) while their runs are under way, and adds another node. `sweep`
searches with the same two kills. Every run must be complete, with no finished stage repeated and the scores
of `serial`; the exit code is 1 where that is not so. Printed are wall and CPU times.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from o2o.core import child_process

PARTS = ("serial", "cluster", "killed", "sweep")
POLL_S, LIMIT_S = 0.5, 1500.0
# without ports a node waits 30 s for processes of its own to choose them, which a busy machine exceeds
PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
PATIENCE = {"RAY_raylet_start_wait_time_s": "300", "RAY_gcs_server_request_timeout_seconds": "300"}
TRIAL = "o2o.commands.trial_main"


@dataclass(frozen=True)
class Worker:
    """A trial that runs on a node.

    Attributes:
        trial: its folder.
        pid: Ray's worker, whose child the trial's process is.
        raylet: Ray's process of the node.
    """

    trial: Path
    pid: int
    raylet: int


def workers() -> Iterator[Worker]:
    """Yields the trials that run on the nodes of this machine."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            words = (path / "cmdline").read_bytes().decode().split("\0")
            if TRIAL in words:
                pid = _parent(int(path.name))
                yield Worker(Path(words[words.index(TRIAL) + 1]), pid, _parent(pid))


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _tree(pid: int) -> list[int]:
    """Returns a process and all that it started, each before its children."""
    pids = [pid]
    for one in pids:
        for path in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                pids += map(int, path.read_text().split())
    return pids


def done(trial: Path) -> tuple[str, ...]:
    """Returns the stages of a trial that are finished."""
    with contextlib.suppress(OSError, ValueError):
        return tuple(json.loads((trial / "trial.json").read_text())["done"])
    return ()


def _ports() -> dict[str, int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in PORTS]
        return {name: one.getsockname()[1] for name, one in zip(PORTS, sockets, strict=True)}


class Cluster:
    """A head and a second node, with one CPU each."""

    def __init__(self):
        from ray.cluster_utils import Cluster as RayCluster  # type: ignore[import-not-found]

        options = {"num_cpus": 1, "include_dashboard": False, **_ports()}
        self._ray = RayCluster(initialize_head=True, connect=False, head_node_args=options)
        self.address = self._ray.address
        self._second = self.add()

    def add(self):
        return self._ray.add_node(num_cpus=1, wait=False, **_ports())

    @property
    def raylet(self) -> int:
        """The second node's process."""
        return self._second.all_processes["raylet"][0].process.pid

    def close(self) -> None:
        self._ray.shutdown()


class Killer:
    """Kills a worker whose trial has finished a stage, then the second node when its trial has, once each.

    Attributes:
        killed: kind -> how many were killed.
        found: a line for each.
    """

    def __init__(self, cluster: Cluster, out: Path):
        """
        Args:
            out: folder whose trials are meant.
        """
        self._cluster, self._out, self.killed = cluster, out, Counter()
        self.found: list[str] = []

    def step(self) -> None:
        """Kills what is due."""
        for worker in workers():
            stages = done(worker.trial)
            if not stages or self._out not in worker.trial.parents:
                continue
            if not self.killed["worker"] and worker.raylet != self._cluster.raylet:
                os.kill(worker.pid, signal.SIGKILL)
                self._note("worker", worker, stages)
            elif self.killed["worker"] and not self.killed["node"] and worker.raylet == self._cluster.raylet:
                for pid in reversed(_tree(worker.raylet)):  # as a machine that goes away: with all it runs
                    os.kill(pid, signal.SIGKILL)
                self._note("node", worker, stages)
                self._cluster.add()

    def _note(self, kind: str, worker: Worker, stages: Sequence[str]) -> None:
        self.killed[kind] += 1
        name = worker.trial.relative_to(self._out)
        self.found.append(f"killed a {kind} that ran {name}, which had done {', '.join(stages)}")


def run(log: Path, words: Sequence[object], killer: Killer | None = None) -> float:
    """Runs `o2o` and returns its wall time, s.

    Raises:
        AssertionError: it failed, or took too long.
    """
    command, environment = child_process.command("o2o", *map(str, words))
    begin_s = time.monotonic()
    with (
        log.open("ab") as file,
        subprocess.Popen(command, env=environment, stdout=file, stderr=file) as process,
    ):
        while process.poll() is None:
            time.sleep(POLL_S)
            if killer:
                killer.step()
            if time.monotonic() - begin_s > LIMIT_S:
                process.kill()
    assert process.returncode == 0, f"exit code {process.returncode}, see {log}"
    return time.monotonic() - begin_s


def check(folder: Path, like: Path | None = None) -> Iterator[str]:
    """Yields what is wrong with the trials in a folder: not complete, repeated, or with other scores."""
    trials = sorted(path.parent for path in folder.rglob("trial.json"))
    for trial in trials:
        name, stages = trial.relative_to(folder), done(trial)
        record = json.loads((trial / "trial.json").read_text())
        if record["failed"] or "online" not in stages:
            yield f"{name} has done {stages}: {record['failed']}"
        printed = (trial / "launch.txt").read_text().splitlines()
        for stage in stages:
            times = sum(f", {stage}: " in line for line in printed)
            if times != 1:
                yield f"{name} did {stage} {times} times"
        for path in trial.glob("*line.json"):
            if like and _scores(path) != _scores(like / name / path.name):
                yield f"{name} has other scores in {path.name} than {like}"
    if not trials:
        yield f"{folder} has no trial"


def _scores(path: Path) -> dict:
    score = json.loads(path.read_text())
    return {name: score[name] for name in ("successes", "returns")}


def compare(plan: argparse.Namespace, part: str) -> Iterator[str]:
    """Runs a comparison; yields what is wrong with it."""
    out = plan.out / part
    words = ["compare", "--dataset", plan.dataset, "--presets", "small", "small:discount=0.9", "--seeds", 2]
    words += _budget(plan, out)
    if part == "serial":
        _print(part, run(plan.out / f"{part}.log", words), out)
        return
    with _cluster() as cluster:
        killer = Killer(cluster, out) if part == "killed" else None
        words += ["--jobs", 2, "--on", "ray", "--ray-address", cluster.address]
        _print(part, run(plan.out / f"{part}.log", words, killer), out)
    yield from _missing(killer)
    serial = plan.out / "serial"
    yield from check(out, serial if serial.exists() else None)


def sweep(plan: argparse.Namespace) -> Iterator[str]:
    """Runs a sweep, of which a worker and a node are killed; yields what is wrong with it."""
    out = plan.out / "sweep"
    words = ["sweep", "--dataset", plan.dataset, "--vary", "planner.uncertainty=0..20", "--trials", 4]
    words += ["--seeds", 0, *_budget(plan, out)]
    with _cluster() as cluster:
        killer = Killer(cluster, out)
        words += ["--jobs", 2, "--on", "ray", "--ray-address", cluster.address]
        _print("sweep", run(plan.out / "sweep.log", words, killer), out)
    yield from _missing(killer)
    yield from check(out)
    num = len(json.loads((out / "result.json").read_text())["trials"])
    if num != 4:
        yield f"the sweep has {num} trials, wanted 4"


def _budget(plan: argparse.Namespace, out: Path) -> list[object]:
    return [
        "--updates", plan.updates, "--episodes", plan.episodes, "--evaluate-episodes", plan.scenes,
        "--device", "cpu", "--threads", 1, "--out", out,
    ]  # fmt: skip


def _missing(killer: Killer | None) -> list[str]:
    for line in killer.found if killer else ():
        print(line)
    return [f"no {kind} was killed" for kind in ("worker", "node") if killer and not killer.killed[kind]]


@contextlib.contextmanager
def _cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.close()


def _print(part: str, seconds: float, out: Path) -> None:
    records = [json.loads(path.read_text()) for path in out.rglob("trial.json")]
    cpu_s = sum(cost["cpu_s"] for record in records for cost in record["costs"].values())
    load = f"{os.getloadavg()[0]:.1f}"
    print(f"{part}: {seconds:.0f} s; stages used {cpu_s:.0f} s of CPU; load average {load}", flush=True)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is run, in this order")
    add("--dataset", default="sim-reach", help="dataset of all")
    add("--updates", type=int, default=200, help="gradient steps of a run")
    add("--episodes", type=int, default=4, help="online episodes of a run")
    add("--scenes", type=int, default=10, help="scenes of an evaluation")
    add("--out", type=Path, required=True, help="empty folder")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    plan = parse(words)
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", **PATIENCE}
    plan.out = plan.out.resolve()
    plan.out.mkdir(parents=True, exist_ok=True)
    wrong = []
    for part in plan.parts:
        wrong += [f"{part}: {line}" for line in (sweep(plan) if part == "sweep" else compare(plan, part))]
    print("\n".join(wrong) or "every run is complete, and no finished stage was repeated")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
