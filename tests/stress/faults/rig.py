"""Starts the processes that a user starts, so that they can be broken: one serves the arm, one moves it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np

from tests.stress.faults.claims import claim, until
from tests.stress.faults.network import Network
from tests.stress.faults.trace import HOMING, ArmTrace
from tests.support.paths import ROOT

SETTLED_S = 0.6  # of an episode, before a fault may come
FAST_MM_S = 150  # that the arm moves at when a fault comes
NO_SAFE_START = [  # full speed from the first episode on
    word for name in ("noise", "planner", "action-range") for word in (f"--safe-start.{name}-episodes", "0")
]


class Child:
    """A process, and what it says, each line with the time at which it came."""

    def __init__(self, words: Sequence[str], env: dict[str, str]):
        self.process = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env=env, cwd=ROOT, text=True, start_new_session=True,
        )  # fmt: skip
        self.pid, self.lines = self.process.pid, list[tuple[float, str]]()
        self.ended_s = float("inf")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as said:
            for line in said:
                self.lines.append((time.monotonic(), line.rstrip()))

    def said(self, pattern: str, since_s: float = 0.0) -> tuple[float, re.Match] | None:
        """When it first said something like that since then, and what; None: not yet.

        Raises:
            Broken: it never will, for it has ended.
        """
        over = self.process.poll() is not None
        if over:
            self._thread.join(0.5)
        for when_s, line in list(self.lines):
            match = re.search(pattern, line)
            if match and when_s >= since_s:
                return when_s, match
        claim(not over, f"{self} has ended without saying {pattern!r}")
        return None

    def hears(self, pattern: str, seconds: float = 60, since_s: float = 0.0) -> tuple[float, re.Match]:
        return until(lambda: self.said(pattern, since_s), seconds, f"{pattern!r} said by {self}")

    def send(self, what: signal.Signals) -> float:
        """Sends a signal; when."""
        now_s = time.monotonic()
        os.kill(self.pid, what)
        return now_s

    def code(self, seconds: float = 60) -> int:
        """Its exit code, once it has ended."""
        until(lambda: self.process.poll() is not None, seconds, f"the end of {self}")
        self.ended_s = time.monotonic()
        self._thread.join(0.5)  # others may have its output, too, and go on
        assert self.process.returncode is not None
        return self.process.returncode

    def last(self) -> str:
        """The last line that it said."""
        return self.lines[-1][1] if self.lines else ""

    def __str__(self) -> str:
        last = " | ".join(line for _, line in self.lines[-4:])
        return f"process {self.pid} (it last said: {last})"


class WatchedRun:
    """A watched arm and the run that moves it, in a folder."""

    def __init__(self, folder: Path):
        self.folder, self.run, self.sign = folder, folder / "run", folder / "sign"

    def robot_flags(self, decisions: int) -> tuple[str, ...]:
        """Returns the flags that choose the arm, for the process that has its driver."""
        return (
            "--robot", str(Path(__file__).with_name("arm.py")), "--robot.log", str(self.folder / "trace"),
            "--robot.decisions", str(decisions), "--robot.hang", str(self.folder / "hang"),
        )  # fmt: skip

    def trace(self, last: int = 0) -> ArmTrace:
        return ArmTrace.read(self.folder / "trace", last)

    def order(self, line: str) -> float:
        """Writes a line to the control file, as a person does; when."""
        return write_sign(self.folder / "control", line + "\n")

    def spoil(self, who: str) -> float:
        """Turns the weights to NaN that `act`, or that `learn`, where `poison` is at work; when."""
        return write_sign(self.sign, who)

    def hang(self, method: str) -> float:
        """Makes the next call of a method of the driver hang, `send` or `observe`; when."""
        return write_sign(self.folder / "hang", method)

    def in_motion(self, client: Child, latest_s: float = 6, seconds: float = 120) -> None:
        """Waits until the arm moves fast, in the middle of an episode that began at most so long ago."""

        def fast() -> bool:
            claim(client.process.poll() is None, f"{client} has ended")
            trace = self.trace(last=2000)
            rows, home = trace.rows, np.flatnonzero(trace.rows["what"] == HOMING)
            if not len(home):
                return False
            now_s = float(rows["time_s"][-1])
            well = SETTLED_S < now_s - rows["time_s"][home[-1]] < latest_s
            led = len(trace.actions(now_s - 0.25, moving=True)) and now_s > time.monotonic() - 0.03
            return bool(well and led and trace.mm_s(now_s) > FAST_MM_S)

        until(fast, seconds, f"an arm in motion, moved by {client}")


class Served(WatchedRun):
    """The watched arm behind a socket, and a network on the way to it."""

    def start(self, child: Child) -> None:
        """Waits until the child serves the arm."""
        self.child = child
        self.serving_s, match = child.hears(r"^serving .* at .*:(\d+);")
        self.port, self.network = int(match[1]), Network(int(match[1]))
        self.address = f"127.0.0.1:{self.network.port}"


def write_sign(path: Path, text: str) -> float:
    """Writes a file that another process looks for, at once and whole; when."""
    now_s = time.monotonic()
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)
    return now_s


Run = TypeVar("Run", bound=WatchedRun)


class Rig:
    """Starts processes; whatever they start in turn, all are gone when it ends, however that comes.

    Attributes:
        agent: checkpoint that every run begins with.
        runs: the watched runs of this row.
    """

    def __init__(self, folder: Path, agent: Path | None):
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.mark = folder, f"O2O_FAULTTABLE={uuid.uuid4()}"
        name, _, value = self.mark.partition("=")
        home = str(folder / "home") if agent is None else os.environ.get("O2O_HOME", "")
        self.env = os.environ | {
            name: value, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "O2O_HOME": home,
        }  # fmt: skip
        self.agent, self._children = agent or folder / "agent", list[Child]()
        self.runs = list[WatchedRun]()

    def __enter__(self) -> "Rig":
        return self

    def __exit__(self, *_) -> None:
        self.end()

    def prepare(self) -> None:
        """Makes the agent, unless there is one."""
        if self.agent.exists():
            return
        child = self.child(
            "-m", "o2o", "pretrain", "--dataset", "sim-reach", "--preset", "small", "--updates", "300",
            "--compile", "no", "--threads", "1", "--out", str(self.agent),
        )  # fmt: skip
        claim(child.code(600) == 0, f"{child} failed")

    def _add(self, kind: type[Run]) -> Run:
        run = kind(Path(tempfile.mkdtemp(prefix="run-", dir=self.folder)))
        self.runs.append(run)
        return run

    def child(self, *words: str) -> Child:
        self._children.append(Child(words, self.env))
        return self._children[-1]

    @contextmanager
    def watch(self) -> Iterator[WatchedRun]:
        """A folder for a run that moves the arm in its own process; afterwards all processes are gone."""
        try:
            yield self._add(WatchedRun)
        finally:
            self.end()

    @contextmanager
    def serve(self, *flags: str, decisions: int = 100) -> Iterator[Served]:
        """The arm in a process of its own; afterwards it, and all that it was served to, is gone."""
        served = self._add(Served)
        child = self.child(
            "-m", "o2o", "robot", "serve", *served.robot_flags(decisions), "--port", "0",
            "--control-file", str(served.folder / "control"), *flags,
        )  # fmt: skip
        with ExitStack() as last:
            last.callback(self.end)
            served.start(child)
            last.callback(served.network.close)
            yield served

    def finetune(self, robot: WatchedRun, *flags: str, decisions: int = 100, module: str = "o2o") -> Child:
        """`o2o finetune`, or with `--resume` more of it, of an arm that is served, or of one of its own."""
        if "--resume" not in flags:
            which = robot.robot_flags(decisions)
            if isinstance(robot, Served):
                which = "--robot", "remote", "--robot.address", robot.address
            flags = (
                "--checkpoint", str(self.agent), *which, "--planner.budget-ms", "40", "--episodes", "1000",
                "--updates-per-step", "0.2", *NO_SAFE_START, "--compile", "no", "--threads", "1", *flags,
            )  # fmt: skip
        self.env["O2O_FAULT_SIGN"] = str(robot.sign)
        return self.child("-m", module, "finetune", "--out", str(robot.run), *flags)

    def mine(self, child: Child | None = None) -> dict[int, str]:
        """Process number -> command line, of all that was started here and lives, or of a child's own."""
        found = {}
        for place in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if place.name.isdigit() and self.mark.encode() in (place / "environ").read_bytes():
                    state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
                    if state != "Z" and (child is None or int(parent) == child.pid):
                        words = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                        found[int(place.name)] = words.strip()
        return found

    def learner(self, child: Child, but: int = 0) -> int:
        """Number of the process that learns beside a robot's, and is not that one; waits for it."""

        def found() -> int:
            learners = [
                pid for pid, words in self.mine(child).items() if "o2o.training.learner_main" in words
            ]
            return next((pid for pid in learners if pid != but), 0)

        return until(found, 60, f"a learner of {child}")

    def end(self) -> None:
        """Ends every process that was started here, and whatever these have started."""
        end_s = time.monotonic() + 10
        while (left := self.mine()) and time.monotonic() < end_s:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        while self._children:
            self._children.pop().code(5)
