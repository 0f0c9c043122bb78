"""Rehearses a fleet: `python -m tests.stress.fleet_rehearsal --robots 100 --episodes 20 --kills 20 --cuts 3`.

`o2o learner serve` runs in processes of its own. Robots without torch, each a process, deliver random
episodes to it over a network with delays, broken connections and cuts, while robots, learner and gateway are
killed by `kill -9` and started again. At the end every episode must be in the ledger once, with the content
that its robot recorded, and the learner must have taken each once. Printed are also the times of
acknowledgements, the memory, and the bytes of the network; the exit code is 1 if an episode was lost,
repeated or changed.
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from o2o.core import child_process
from o2o.data.finished_episodes import episode_path
from o2o.fleet.ledger import Ledger
from o2o.fleet.state_files import LearnerState, read_state
from tests.support.fake_robot import RobotJob, drive
from tests.support.lossy_proxy import LossyProxy
from tests.support.served import write_token

TICK_S, MEASURE_S = 0.1, 2.0
KINDS = ("gateway", "learner", "robot")
START_S = 60.0  # for the server, until it listens
LIMIT_S = 300.0  # without a new episode, after which the rehearsal is given up


class Server:
    """`o2o learner serve` at a fixed port, killed and started again.

    Attributes:
        peak_mb: kind -> largest unique memory (USS) of gateway or learner, MB.
        cpu_s: process id -> CPU time so far, s, and the kind of process.
        start_s: ages of the learner's processes when they were ready, s; not of all.
    """

    def __init__(self, checkpoint: Path, folder: Path, token: Path, flags: Sequence[str]):
        self.folder, self.port = folder, _free_port()
        words = ["learner", "serve", "--checkpoint", checkpoint, "--out", folder, "--token-file", token]
        words += ["--port", self.port, "--device", "cpu", "--threads", 1, *flags]
        self._command, self._environment = child_process.command("o2o", *map(str, words))
        self._log = folder.with_name("server.log")
        self.peak_mb: Counter = Counter()
        self.cpu_s: dict[int, tuple[str, float]] = {}
        self.start_s: list[float] = []
        self._learner_pid = self._learner_before = 0  # the one that runs, and the one that ran at a kill
        self._seen_s, self._is_noted = 0.0, False
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        self._entries_at_start = self.num_entries

    def restart_if_dead(self) -> None:
        """Starts a server that was killed.

        Raises:
            AssertionError: it ended by itself.
        """
        code = self.process.poll()
        if code is not None:
            assert code == -signal.SIGKILL, f"the server ended with exit code {code}, see {self._log}"
            self.start()

    @property
    def num_entries(self) -> int:
        path = self.folder / "ledger.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    @property
    def learner(self) -> LearnerState | None:
        return read_state(self.folder / "learner.json", LearnerState)

    def pids(self) -> dict[str, int]:
        """Returns the processes that run, by their kind."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with contextlib.suppress(OSError, IndexError):
            return {"gateway": self.process.pid, "learner": int(children.read_text().split()[0])}
        return {}

    def is_ready(self, kind: str, is_over: bool) -> bool:
        """Whether the gateway has taken an episode since it started, or the learner has begun to learn.

        Args:
            is_over: whether there are no more episodes to take: then the gateway is ready once it listens.
        """
        pids = self.pids()
        if kind == "gateway":
            return bool(pids) and (is_over or self.num_entries > self._entries_at_start)
        pid, state = pids.get("learner", 0), self.learner
        if pid != self._learner_pid or _is_alive(self._learner_before):  # which may still write its state
            self._learner_pid, self._seen_s, self._is_noted = pid, time.time(), False
        ready = bool(pid) and state is not None and state.time_s > self._seen_s
        if ready and not self._is_noted:
            self.start_s.append(_age_s(pid))
            self._is_noted = True
        return ready

    def kill(self, kind: str) -> bool:
        """Kills the gateway or the learner; returns whether it did."""
        pids = self.pids()
        if pids:
            self._learner_before = pids["learner"]
            os.kill(pids[kind], signal.SIGKILL)
        return bool(pids)

    def measure(self) -> None:
        """Notes memory and CPU time of the processes, as Linux states them."""
        for kind, pid in self.pids().items():
            with contextlib.suppress(OSError, ValueError, IndexError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
                sizes = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
                used_mb = (sizes["Private_Clean"] + sizes["Private_Dirty"]) / 1e3
                self.peak_mb[kind] = max(self.peak_mb[kind], used_mb)
                times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                self.cpu_s[pid] = kind, sum(map(int, times[11:13])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> int:
        """Ends the server with a checkpoint and returns its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(200)


@dataclass
class Robots:
    """The robots' processes, which are started again when they were killed."""

    jobs: list[RobotJob]

    def __post_init__(self):
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(["tests.support.fake_robot"])
        self._processes = [self._start(job) for job in self.jobs]
        self._rng = np.random.default_rng(0)

    def _start(self, job: RobotJob) -> BaseProcess:
        process = self._context.Process(target=drive, args=(job,), daemon=True)
        process.start()
        return process

    @property
    def num_running(self) -> int:
        return sum(process.exitcode != 0 for process in self._processes)

    def restart_dead(self) -> None:
        """Starts robots that were killed.

        Raises:
            AssertionError: one failed.
        """
        for number, process in enumerate(self._processes):
            if process.exitcode == -signal.SIGKILL:
                self._processes[number] = self._start(self.jobs[number])
            else:
                assert not process.exitcode, f"{self.jobs[number].name} failed"

    def kill(self) -> bool:
        """Kills a robot that runs, if one does."""
        running = [process for process in self._processes if process.is_alive()]
        if running:
            running[self._rng.integers(len(running))].kill()
        return bool(running)


def rehearse(
    server: Server, robots: Robots, proxy: LossyProxy, plan: argparse.Namespace
) -> tuple[Counter, int]:
    """Runs a fleet until every episode is delivered and learned from, and every kill is made.

    Gateway and learner are killed in turn, each at a random time of `--gap-s` after it is ready. The
    gateway's turn comes while a killed learner starts again, and ends that one, too. Robots are killed at
    fixed times.

    Returns:
        (how many kills were made of each kind, how many of them after the robots had delivered everything).
    Raises:
        AssertionError: the server or a robot failed, or nothing is delivered any more.
    """
    total, span_s = plan.robots * plan.episodes, plan.episodes * plan.episode_s
    rng, kills = np.random.default_rng(0), Counter(dict.fromkeys(KINDS, 0))
    due = [(kind, rng.uniform(0, plan.gap_s)) for _ in range(plan.kills) for kind in KINDS[:2]]
    due_robots_s = [(number + 0.75) * span_s / plan.kills for number in range(plan.kills)]
    cuts_s = [(number + 0.5) * span_s / plan.cuts for number in range(plan.cuts)]
    begin_s = time.monotonic()
    grown_s, measured_s, known = begin_s, begin_s, 0
    num_idle, ready_s = 0, math.inf  # when the next to be killed was ready
    while True:
        time.sleep(TICK_S)
        now_s = time.monotonic() - begin_s
        server.restart_if_dead()
        robots.restart_dead()
        proxy.cut = any(cut_s <= now_s < cut_s + plan.cut_s for cut_s in cuts_s)
        is_over = not robots.num_running
        if due and server.is_ready(due[0][0], is_over):
            ready_s = min(ready_s, now_s)
            if now_s >= ready_s + due[0][1] and server.kill(due[0][0]):
                kills[due.pop(0)[0]] += 1
                num_idle += is_over
                ready_s = math.inf
        if due_robots_s and now_s >= due_robots_s[0] and robots.kill():
            due_robots_s.pop(0)
            kills["robot"] += 1
        if time.monotonic() - measured_s > MEASURE_S:
            server.measure()
            measured_s = time.monotonic()
        num_taken = server.learner.num_episodes if server.learner else 0
        state = server.num_entries + num_taken + kills.total()
        if state != known:
            known, grown_s = state, time.monotonic()
        assert time.monotonic() - grown_s < LIMIT_S, f"nothing was delivered or killed for {LIMIT_S:.0f} s"
        if is_over and num_taken == server.num_entries >= total and not due:
            return kills, num_idle


def audit(folder: Path, robots: Sequence[Path]) -> list[str]:
    """Returns what is wrong with the episodes in a fleet's folder: lost, repeated, changed, or of nobody.

    Args:
        folder: folder of the fleet.
        robots: folders of its fake robots.
    """
    entries = Ledger(folder).entries
    times, of_key = Counter(entry.key for entry in entries), {entry.key: entry for entry in entries}
    wrong = [f"{key} is in the ledger {number} times" for key, number in times.items() if number > 1]
    for robot in robots:
        run = (robot / "run").read_text()
        for number in range(len(list((robot / "online" / "data" / "episodes").glob("*.hdf5")))):
            entry = of_key.pop((run, robot.name, number), None)
            if entry is None:
                wrong.append(f"episode {number} of {robot.name} is lost")
                continue
            there = episode_path(folder / "online", entry.number)
            sums = {entry.sha256, _sha256(episode_path(robot / "online", number)), _sha256(there)}
            if len(sums) > 1:
                wrong.append(f"episode {number} of {robot.name} is changed")
    return wrong + [f"nobody has recorded {key}" for key in of_key]


def learned_twice_or_never(folder: Path) -> list[str]:
    """Returns what is wrong with the episodes that the learner says it took, in their order."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    taken = [line["step"] for line in lines if line["phase"] == "online"]
    wanted = list(range(1, len(Ledger(folder).entries) + 1))
    return [] if taken == wanted else [f"the learner took {len(taken)} episodes, or in another order"]


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended, but that nobody has waited for, does not."""
    try:
        return bool(pid) and bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def _age_s(pid: int) -> float:
    """Returns how long ago a process started, s."""
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - started / os.sysconf("SC_CLK_TCK")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def report(server: Server, proxy: LossyProxy, robots: Sequence[Path], seconds: float) -> Iterator[str]:
    """Yields lines of what was measured."""
    acks = [json.loads(line) for robot in robots for line in (robot / "acks.jsonl").read_text().splitlines()]
    for name, what in (("ack_s", "a delivery"), ("age_s", "the end of an episode")):
        p50, p99, most = *np.quantile([ack[name] for ack in acks], [0.5, 0.99]), max(a[name] for a in acks)
        yield f"from {what} to its acknowledgement: p50 {p50:.3f} s, p99 {p99:.3f} s, most {most:.3f} s"
    entries = Ledger(server.folder).entries
    size = sum(entry.num_bytes for entry in entries)
    counts = proxy.counts
    yield (
        f"{len(entries)} episodes, {sum(entry.steps for entry in entries)} steps, {size / 1e6:.1f} MB "
        f"in {seconds:.0f} s; {counts['broken']} connections broken"
    )
    yield (
        f"a robot sent {counts['up'] / len(robots) / 1e3:.0f} kB, {counts['up'] / max(size, 1):.2f} times "
        f"its episodes, and received {counts['down'] / len(robots) / 1e3:.0f} kB"
    )
    if server.start_s:
        p50, most = np.median(server.start_s), max(server.start_s)
        yield f"{len(server.start_s)} times the learner was ready after p50 {p50:.1f} s, at most {most:.1f} s"
    for kind in KINDS[:2]:
        cpu_s = sum(seconds for one, seconds in server.cpu_s.values() if one == kind)
        yield f"{kind}: at most {server.peak_mb[kind]:.0f} MB (USS), {cpu_s:.1f} s of CPU, starts included"


def _checkpoint(folder: Path) -> Path:
    """Trains the point robot of the tests for a few updates; returns the run's folder."""
    import o2o
    from o2o.agent.presets import PRESETS
    from tests.support.tiny_runs import TINY, pretrain_config, record_point_dataset

    agent = replace(TINY, replay=PRESETS["small"].agent.replay)
    dataset = record_point_dataset(folder / "point-v0", 30)
    return o2o.pretrain(pretrain_config(dataset, folder / "pretrain", agent=agent))


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--robots", type=int, default=100, help="robots, each a process")
    add("--episodes", type=int, default=20, help="episodes of each robot")
    add("--steps", type=int, default=50, help="actions of an episode")
    add("--episode-s", type=float, default=5.0, help="time that a robot takes for an episode, s")
    add("--kills", type=int, default=0, help="how often each of gateway, learner and a robot is killed")
    add("--gap-s", type=float, default=6.0, help="most time from ready to killed, of gateway and learner, s")
    add("--cuts", type=int, default=0, help="how often the network is cut")
    add("--cut-s", type=float, default=60.0, help="how long it is cut, s")
    add("--rtt-ms", type=float, default=200.0, help="delay of the network, there and back, ms")
    add(
        "--loss",
        type=float,
        default=0.02,
        help="fraction of the pieces of 64 kB at which a connection breaks",
    )
    add("--checkpoint", type=Path, help="run that the fleet starts from; by default that of a tiny robot")
    add("--out", type=Path, help="empty folder that is kept; by default a temporary one")
    add("--flags", nargs="*", default=["updates-per-step=0.02"], help="of `o2o learner serve`, NAME=VALUE")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    plan = parse(words)
    disk = "/dev/shm" if Path("/dev/shm").is_dir() else None  # each real robot has a disk of its own
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory())
        home, robots_home = (
            plan.out or Path(temporary), Path(stack.enter_context(tempfile.TemporaryDirectory(dir=disk)))
        )  # fmt: skip
        home.mkdir(parents=True, exist_ok=True)
        source = plan.checkpoint or _checkpoint(home)
        token = write_token(home / "token", secrets.token_hex(16))
        flags = [word for flag in plan.flags for word in f"--{flag}".split("=", 1)]
        server = Server(source, home / "fleet", token, flags)
        stack.callback(server.process.kill)
        proxy = stack.enter_context(contextlib.closing(LossyProxy(server.port, plan.rtt_ms / 1e3, plan.loss)))
        job = RobotJob(
            "", robots_home, f"http://127.0.0.1:{proxy.port}", token, source / "checkpoint", plan.episodes,
            plan.steps, plan.episode_s,
        )  # fmt: skip
        names = [f"arm-{number}" for number in range(plan.robots)]
        begin_s = time.monotonic()
        robots = Robots([replace(job, name=name, folder=robots_home / name) for name in names])
        kills, num_idle = rehearse(server, robots, proxy, plan)
        seconds = time.monotonic() - begin_s
        server.measure()
        code = server.end()
        folders = [robots_home / name for name in names]
        for line in report(server, proxy, folders, seconds):
            print(line)
        wrong = audit(server.folder, folders) + learned_twice_or_never(server.folder)
        wrong += [f"the server ended with exit code {code}"] if code else []
        wrong += [f"only {kills[kind]} kills of the {kind}" for kind in KINDS if kills[kind] < plan.kills]
        print(f"kills: {dict(kills)}; cuts: {plan.cuts} of {plan.cut_s:.0f} s")
        if num_idle:
            print(
                f"{num_idle} of the kills came after the robots had delivered everything: raise --episode-s"
            )
        print("\n".join(wrong[:20]) or "every episode is in the ledger once, unchanged, and was taken once")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
