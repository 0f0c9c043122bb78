"""What a robot sees, does and plans, for the viewer Rerun: live, or recorded in a file.

The control loop only puts things in a queue; a thread of the stream's own draws them. So the loop never
waits for a disk or a viewer, and where one of them fails the robot goes on.
"""

import logging
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from o2o.core.checkpoint import storage
from o2o.core.errors import StorageError, UsageError
from o2o.training.rerun_layout import Page

PORT = 9876  # Rerun's own
SCHEMES = ("rerun://", "rerun+http://", "rerun+https://")
MOST_WAITING = 200  # entries in the queue; what comes when it is full is left out
FLUSH_S, LIVE_S = 1.0, 0.1  # between two writes to a file, and to a viewer
PATIENCE_S, OPEN_S, CLOSE_S = 5.0, 20.0, 10.0  # for an answer, for a viewer to open, and to end

logger = logging.getLogger("o2o")


def open_stream(target: str, name: str) -> "Stream":
    """A stream to Rerun.

    Args:
        target: a path ending in .rrd; `live`, for a viewer that is opened, or the one that is open on this
            machine; or a viewer's address, `rerun+http://HOST:PORT/proxy`.
        name: of what is shown, such as the run's folder.
    Raises:
        UsageError: Rerun is not installed, the file exists, no viewer answers, or none of the three is meant.
        StorageError: the file cannot be written.
    """
    try:
        import rerun as rr
    except ImportError as error:
        raise UsageError('a stream needs Rerun, which is not installed: pip install "o2o[rerun]"') from error
    batches = rr.ChunkBatcherConfig(flush_tick=FLUSH_S if target.endswith(".rrd") else LIVE_S)
    recording = rr.RecordingStream("o2o", recording_id=uuid.uuid4(), batcher_config=batches)
    if target == "live":
        _connect(recording, _viewer())
    elif target.startswith(SCHEMES):
        _connect(recording, target)
    elif target.endswith(".rrd"):
        _save(recording, Path(target))
    else:
        wanted = "wanted a path ending in .rrd, `live`, or rerun+http://HOST:PORT/proxy"
        raise UsageError(f"--rerun is {target!r}, {wanted}")
    recording.send_recording_name(name)
    return Stream(recording)


@contextmanager
def show(target: str, name: str) -> Iterator["Stream | None"]:
    """`open_stream`, closed at the end; None where there is no target."""
    if not target:
        yield None
        return
    with open_stream(target, name) as stream:
        yield stream


class Stream:
    """Takes what one robot sees, does and plans. No method waits, and none raises.

    Use as a context manager, or call `close`.

    Times: `step` counts decisions and `time` seconds over all episodes; `episode` is the number of one.
    """

    def __init__(self, recording):
        """
        Args:
            recording: a `rerun.RecordingStream`.
        """
        self._page = Page(recording)
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(MOST_WAITING)
        self._told_full, self._over = False, False
        self._thread = threading.Thread(target=self._work, name="o2o stream", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def episode(self, number: int, about: str = "") -> None:
        """An episode starts; the next step is its first."""
        self._put(self._page.episode, number, about)

    def step(
        self,
        t: int,
        obs: Mapping[str, np.ndarray],
        action: np.ndarray | None = None,
        reward: float | None = None,
        time_s: float | None = None,
    ) -> None:
        """What was just seen, and what was done to get here.

        Args:
            t: steps since the episode's start, 0 after the reset.
            obs: name -> as the robot shows it: uint8 images (h, w, C) or (C, h, w), and numbers.
            action: (A,) as executed at t - 1; it is shown there.
            reward: what that action earned.
            time_s: since the episode's start; None: by the clock of this machine.
        """
        now_s = time.monotonic()
        self._put(self._page.step, t, {k: np.array(v) for k, v in obs.items()}, action, reward, time_s, now_s)

    def plan(
        self,
        paths: np.ndarray | None,
        spread: np.ndarray,
        chosen: int,
        value: float,
        penalty: float,
        price: float,
    ) -> None:
        """What the planner thought at the last step.

        Args:
            paths: (S, n, 2 | 3) where each candidate leads, in the robot's own space, metres; None where
                nobody can tell.
            spread: (S,) the ensemble's disagreement along each candidate, before its price.
            chosen: the candidate that was taken.
            value: penalised return of that one.
            penalty: the penalty's part in it, never negative.
            price: lambda, units of return for one unit of spread.
        """
        self._put(self._page.plan, paths, np.array(spread), int(chosen), value, penalty, price)

    def picture(self, frame: np.ndarray) -> None:
        """(h, w, 3) uint8 of the robot from outside, at the last step."""
        self._put(self._page.picture, np.array(frame))

    def close(self) -> None:
        """Writes what is waiting; twice is harmless. A viewer that takes nothing is left behind."""
        if self._over:
            return
        with suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_S)
            self._thread.join(CLOSE_S)
        if not self._over:
            self._fail("it takes nothing more, and the end is lost")

    def _put(self, show: Callable, *args) -> None:
        if self._over:
            return
        try:
            self._queue.put_nowait(lambda: show(*args))
        except queue.Full:
            if not self._told_full:
                logger.warning("Rerun is slower than the robot; some of what happens is not shown")
            self._told_full = True

    def _work(self) -> None:
        """Shows what comes until the end, or until something fails."""
        recording, flushed_s = self._page.recording, time.monotonic()
        try:
            while not self._over:
                show = self._queue.get()
                if show is not None:
                    show()
                if show is None or time.monotonic() - flushed_s > FLUSH_S:
                    recording.flush(timeout_sec=PATIENCE_S)
                    flushed_s = time.monotonic()
                self._over |= show is None
        except Exception as error:  # a stream must not stop a robot, whatever is wrong with it
            self._fail(_first_line(error))
        with suppress(Exception):
            recording.disconnect()  # from a viewer that hangs this takes for ever; here that harms nobody

    def _fail(self, why: str) -> None:
        import rerun as rr

        self._over = True
        rr.unregister_shutdown()  # else Rerun waits for what it cannot send when the program ends
        logger.warning("Rerun shows nothing more: %s", why)


def _save(recording, path: Path) -> None:
    if path.exists():
        raise UsageError(f"{path} exists; give another name for the recording")
    with storage(path, 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # here it is known what is wrong with the place; Rerun's own errors do not say
    try:
        recording.save(path)
    except RuntimeError as error:
        raise StorageError(f"cannot write {path}: {_first_line(error)}") from error


def _connect(recording, address: str) -> None:
    try:
        host, port = urlsplit(address).hostname or "", urlsplit(address).port
    except ValueError:
        host, port = "", None
    if not host or port is None:
        raise UsageError(f"--rerun is {address!r}, wanted rerun+http://HOST:PORT/proxy")
    if not _answers(host, port):
        instead = "start one with `rerun`, or record to a .rrd file"
        raise UsageError(f"no Rerun viewer answers at {host}:{port}; {instead}")
    try:
        recording.connect_grpc(address)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"--rerun is {address!r}: {_first_line(error)}") from error


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=PATIENCE_S).close()
    except OSError:
        return False
    return True


def _viewer() -> str:
    """Address of the viewer on this machine, opened if it is not; it is open to this machine alone.

    Raises:
        UsageError: it cannot be opened.
    """
    address = f"rerun+http://127.0.0.1:{PORT}/proxy"
    if _answers("127.0.0.1", PORT):
        return address
    program = shutil.which("rerun", path=os.path.dirname(sys.executable)) or "rerun"
    command = [program, "--port", str(PORT), "--bind", "127.0.0.1", "--hide-welcome-screen"]
    with tempfile.TemporaryFile() as said:
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
            )
        except OSError as error:
            raise UsageError(f"the Rerun viewer cannot be started: {error}") from error
        end_s = time.monotonic() + OPEN_S
        while time.monotonic() < end_s:
            up = _answers("127.0.0.1", PORT)
            time.sleep(0.5)  # without a screen it answers for a moment before it ends
            if child.poll() is not None:
                said.seek(0)
                last = said.read().decode(errors="replace").strip().splitlines()[-1:]
                raise UsageError(f"the Rerun viewer ended at once: {' '.join(last) or 'it did not say why'}")
            if up:
                return address
    raise UsageError(f"the Rerun viewer did not answer within {OPEN_S:.0f} s; record to a .rrd file instead")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
