"""Streams what a robot observes, does and plans to the Rerun viewer, live or into a file.

The control loop only adds to a queue; a thread of the stream draws from it. So the loop never waits for a
disk or a viewer, and where one of them fails the robot continues.
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

from o2o.core import trust
from o2o.core.checkpoint import storage
from o2o.core.errors import StorageError, UsageError
from o2o.core.extras import install_command
from o2o.training.rerun_layout import RerunPage

PORT = 9876  # Rerun's default
SCHEMES = ("rerun://", "rerun+http://", "rerun+https://")
MAX_QUEUED = 200  # entries; what comes while the queue is full is dropped
FLUSH_S, LIVE_S = 1.0, 0.1  # between two writes to a file, and to a viewer
REPLY_S, OPEN_S, CLOSE_S = 5.0, 20.0, 10.0  # limits for a reply, for a viewer to open, and for the last flush

logger = logging.getLogger("o2o")


def open_stream(target: str, name: str) -> "Stream":
    """Opens a stream to Rerun.

    Args:
        target: a path ending in .rrd; `live` for the viewer on this machine, which is opened if it is not; or
            a viewer's address, `rerun+http://HOST:PORT/proxy`.
        name: name of the recording, such as the run folder.
    Raises:
        UsageError: Rerun is not installed, the file exists, no viewer answers, or `target` is none of the
            three; or only a run's file names it, unless it is `live`.
        StorageError: the file cannot be written.
    """
    if isinstance(target, trust.Saved) and target != "live":  # it would get what the cameras see
        raise UsageError(f"--rerun {target} was named by a run, not by you: give --rerun yourself")
    try:
        import rerun as rr
    except ImportError as error:
        raise UsageError(
            f"--rerun needs Rerun, which is not installed: {install_command('rerun')}"
        ) from error
    batches = rr.ChunkBatcherConfig(flush_tick=FLUSH_S if target.endswith(".rrd") else LIVE_S)
    recording = rr.RecordingStream("o2o", recording_id=uuid.uuid4(), batcher_config=batches)
    if target == "live":
        _connect(recording, _local_viewer())
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
    """Yields a stream from `open_stream`, closed at the end; None where `target` is empty."""
    if not target:
        yield None
        return
    with open_stream(target, name) as stream:
        yield stream


class Stream:
    """Shows what one robot observes, does and plans. No method waits for Rerun, and none raises.

    Use as a context manager, or call `close`.

    The timelines: `step` counts decisions and `time` seconds over all episodes; `episode` is the episode's
    number.
    """

    def __init__(self, recording):
        """
        Args:
            recording: a `rerun.RecordingStream`.
        """
        self._page = RerunPage(recording)
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(MAX_QUEUED)
        self._warned_full, self._closed = False, False
        self._thread = threading.Thread(target=self._work, name="o2o stream", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def episode(self, number: int, about: str = "") -> None:
        """Starts an episode; the next step is its first."""
        self._put(self._page.episode, number, about)

    def step(
        self,
        t: int,
        obs: Mapping[str, np.ndarray],
        action: np.ndarray | None = None,
        reward: float | None = None,
        time_s: float | None = None,
    ) -> None:
        """Shows an observation, and the action that led to it.

        Args:
            t: steps since the episode's start, 0 after the reset.
            obs: name -> raw observation: uint8 images (h, w, C) or (C, h, w), and numbers.
            action: (A,) executed at t - 1; it is shown there.
            reward: reward of that action.
            time_s: seconds since the episode's start; None takes the clock of this machine.
        """
        now_s = time.monotonic()
        self._put(self._page.step, t, {k: np.array(v) for k, v in obs.items()}, action, reward, time_s, now_s)

    def plan(
        self,
        paths: np.ndarray | None,
        disagreement: np.ndarray,
        chosen: int,
        value: float,
        penalty: float,
        penalty_weight: float,
    ) -> None:
        """Shows the candidates of the planner at the last step.

        Args:
            paths: (S, n, 2 | 3) end-effector path of each candidate in the robot's space, meters; None where
                the robot does not state how actions move it.
            disagreement: (S,) the ensemble's disagreement along each candidate.
            chosen: index of the candidate that is executed.
            value: penalized return of that candidate.
            penalty: penalty contained in the value, never negative.
            penalty_weight: units of return per unit of disagreement.
        """
        self._put(self._page.plan, paths, np.array(disagreement), int(chosen), value, penalty, penalty_weight)

    def image(self, frame: np.ndarray) -> None:
        """Shows a rendered image (h, w, 3) uint8 of the robot at the last step."""
        self._put(self._page.image, np.array(frame))

    def close(self) -> None:
        """Writes what is queued, without waiting long for a viewer that hangs; may be called twice."""
        if self._closed:
            return
        with suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_S)
            self._thread.join(CLOSE_S)
        if not self._closed:
            self._fail("it does not respond, and the last entries are lost")

    def _put(self, draw: Callable, *args) -> None:
        if self._closed:
            return
        try:
            self._queue.put_nowait(lambda: draw(*args))
        except queue.Full:
            if not self._warned_full:
                logger.warning("Rerun is slower than the robot; some steps are not shown")
            self._warned_full = True

    def _work(self) -> None:
        """Draws what is queued until the stream is closed or fails."""
        recording, flushed_s = self._page.recording, time.monotonic()
        try:
            while not self._closed:
                draw = self._queue.get()
                if draw is not None:
                    draw()
                if draw is None or time.monotonic() - flushed_s > FLUSH_S:
                    recording.flush(timeout_sec=REPLY_S)
                    flushed_s = time.monotonic()
                self._closed |= draw is None
        except Exception as error:  # no error of a stream may stop the robot
            self._fail(_first_line(error))
        with suppress(Exception):
            recording.disconnect()  # blocks forever if the viewer hangs, which is harmless in this thread

    def _fail(self, reason: str) -> None:
        import rerun as rr

        self._closed = True
        rr.unregister_shutdown()  # else Rerun waits at the end of the program for what it cannot send
        logger.warning("Rerun stream stopped: %s", reason)


def _save(recording, path: Path) -> None:
    if path.exists():
        raise UsageError(f"--rerun {path} exists; choose another file name")
    with storage(path, 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # raises an error with the reason, which Rerun's own errors do not state
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
        advice = "start one with `rerun`, or record to a .rrd file"
        raise UsageError(f"no Rerun viewer answers at {host}:{port}; {advice}")
    try:
        recording.connect_grpc(address)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"--rerun is {address!r}: {_first_line(error)}") from error


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=REPLY_S).close()
    except OSError:
        return False
    return True


def _local_viewer() -> str:
    """Returns the address of the viewer on this machine, which is opened if needed, for local use only.

    Raises:
        UsageError: the viewer cannot be opened.
    """
    address = f"rerun+http://127.0.0.1:{PORT}/proxy"
    if _answers("127.0.0.1", PORT):
        return address
    program = shutil.which("rerun", path=os.path.dirname(sys.executable)) or "rerun"
    command = [program, "--port", str(PORT), "--bind", "127.0.0.1", "--hide-welcome-screen"]
    with tempfile.TemporaryFile() as output:
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        except OSError as error:
            raise UsageError(f"the Rerun viewer cannot be started: {error}") from error
        end_s = time.monotonic() + OPEN_S
        while time.monotonic() < end_s:
            is_up = _answers("127.0.0.1", PORT)
            time.sleep(0.5)  # without a display it answers briefly before it ends
            if child.poll() is not None:
                output.seek(0)
                last = output.read().decode(errors="replace").strip().splitlines()[-1:]
                raise UsageError(f"the Rerun viewer ended at once: {' '.join(last) or 'no output'}")
            if is_up:
                return address
    raise UsageError(f"the Rerun viewer did not answer within {OPEN_S:.0f} s; record to a .rrd file instead")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
