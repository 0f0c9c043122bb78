"""Runs tasks on a Ray cluster.

Ray's own failures take other forms than errors: a command that connects to a head which is gone waits, and a
program whose head dies is ended a minute later. So the head's port is tried first, and again while tasks run.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from o2o.core.errors import UsageError
from o2o.core.launch import task as tasks
from o2o.core.launch.task import STOPPED, LauncherError, LostError, Run, Task

POLL_S = 0.2
CONNECT_S = 5.0  # for the head to accept a connection
CHECK_EVERY_S, MAX_SILENT_S = 5.0, 30.0  # Ray itself ends the program after 60 s
NO_USAGE_REPORT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def check(address: str) -> str:
    """Returns the address of the cluster, after checking that something accepts connections there.

    Args:
        address: HOST:PORT of the head; `auto`; or empty for `RAY_ADDRESS`, or else for this machine alone.
    Raises:
        UsageError: nothing answers there, it is no such address, or Ray is not installed.
    """
    os.environ |= NO_USAGE_REPORT
    address = address or os.environ.get("RAY_ADDRESS", "") or "local"
    host, _, port = address.rpartition(":")
    is_given = address not in ("auto", "local")
    if is_given and (not host or "/" in address or not port.isdecimal() or not 0 < int(port) < 65536):
        raise UsageError(f"--ray-address is {address!r}, wanted HOST:PORT of the cluster's head, or auto")
    import ray  # type: ignore[import-not-found]  # noqa: F401, reports a missing package before a dead head

    if not is_given:
        return address
    try:
        _knock(host, port)
    except OSError as error:
        raise UsageError(
            f"no Ray head answers at {address} ({_first_line(error)}); start one there with "
            "`ray start --head --port 6379`, or leave --ray-address out"
        ) from error
    return address


def _knock(host: str, port: str) -> None:
    socket.create_connection((host, int(port)), CONNECT_S).close()


@contextmanager
def connected(address: str) -> Iterator[Run]:
    """Yields the function that runs a task on a Ray cluster.

    Args:
        address: see `check`.
    Raises:
        UsageError: see `check`; or Ray refuses the connection.
    """
    address = check(address)
    import ray  # type: ignore[import-not-found]
    from ray import exceptions  # type: ignore[import-not-found]

    # Ray adds a handler of SIGTERM, in whose place `stop_requested` stands while tasks run
    before = signal.getsignal(signal.SIGTERM)
    try:
        # in this thread: the processes that Ray starts end with the thread that started them
        ray.init(address, include_dashboard=False if address == "local" else None, log_to_driver=False,
                 configure_logging=False)  # fmt: skip
    except (ConnectionError, RuntimeError, ValueError, OSError, exceptions.RayError) as error:
        raise UsageError(f"cannot use the Ray cluster at {address}: {_first_line(error)}") from error
    try:
        yield tasks.retried(_Cluster(ray).run)
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class _Cluster:
    """A Ray cluster that this process is connected to."""

    def __init__(self, ray):
        self._ray = ray
        self._remote = ray.remote(tasks.run)
        self._head = ray.get_runtime_context().gcs_address.rpartition(":")[::2]
        self._lock, self._checked_s, self._heard_s = threading.Lock(), 0.0, time.monotonic()

    def run(self, task: Task, stopped: Callable[[], bool]) -> int:
        """Runs a task once, on any node with enough free CPUs.

        Raises:
            LostError: the worker or its node died.
            LauncherError: the head is gone.
            UsageError: no node has enough CPUs, or a GPU, at all.
        """
        ray, folder = self._ray, Path(task.folder)
        self._check_resources(task)
        options = {"num_cpus": task.threads, "num_gpus": int(task.gpu), "max_retries": 0, "name": task.name}
        plain = tasks.mark(task)
        reference = self._remote.options(**options).remote(plain, tasks.pack(folder))
        cancelled = False
        try:
            while not ray.wait([reference], timeout=POLL_S)[0]:
                self._check_head()
                if stopped() and not cancelled:
                    ray.cancel(reference)
                    cancelled = True
            code, files = ray.get(reference)
        except KeyboardInterrupt:
            ray.cancel(reference, force=True)
            raise
        except ray.exceptions.TaskCancelledError:
            return STOPPED
        except ray.exceptions.RayError as error:
            raise LostError(_first_line(error)) from error
        if files is not None:
            tasks.unpack(files, folder)
        return code

    def _check_resources(self, task: Task) -> None:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= task.threads and node.get("GPU", 0) >= task.gpu for node in nodes):
            have = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
            wanted = f"{task.threads} CPUs{' and a GPU' if task.gpu else ''}"
            raise UsageError(f"{task.name} needs {wanted} on one node; the cluster's have {have}")

    def _check_head(self) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._checked_s < CHECK_EVERY_S:
                return
            self._checked_s, (host, port) = now, self._head
            try:
                _knock(host, port)
                self._heard_s = now
            except OSError as error:
                if now - self._heard_s > MAX_SILENT_S:
                    raise LauncherError(
                        f"the Ray head at {host}:{port} no longer answers; start it again and continue with "
                        "--resume"
                    ) from error
