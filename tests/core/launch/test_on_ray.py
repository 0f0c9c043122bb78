"""Tests what Ray's failures become, with a fake in place of Ray."""

import socket
import sys
from types import SimpleNamespace

import pytest

from o2o.core.errors import O2OError, UsageError
from o2o.core.launch import on_ray
from o2o.core.launch.config import LauncherConfig
from o2o.core.launch.launcher import open_launcher
from o2o.core.launch.task import NUM_TRIES, STOPPED, LauncherError, Task, pack


class RayError(Exception):
    pass


class TaskCancelledError(RayError):
    pass


class FakeRay:
    """Ray as far as o2o uses it; a task that begins returns, or raises, the next of `results`."""

    exceptions = SimpleNamespace(RayError=RayError, TaskCancelledError=TaskCancelledError)

    def __init__(self):
        self.results, self.begun, self.cancelled, self.open, self.running = [], [], [], False, False
        self.head = ("127.0.0.1", 1)

    def init(self, address, **options):
        self.open = True

    def shutdown(self):
        self.open = False

    def get_runtime_context(self):
        return SimpleNamespace(gcs_address=f"{self.head[0]}:{self.head[1]}")

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 64.0}}]

    def remote(self, function):
        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=self._begin))

    def _begin(self, task, files):
        self.begun.append(task)
        return len(self.begun)

    def wait(self, references, timeout):
        return ([], references) if self.running and not self.cancelled else (references, [])

    def get(self, reference):
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    def cancel(self, reference, force=False):
        self.cancelled.append(force)


@pytest.fixture
def ray(monkeypatch):
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(on_ray, "NO_USAGE_REPORT", {})
    return fake


@pytest.fixture
def task(tmp_path):
    folder = tmp_path / "trial"
    folder.mkdir()
    return Task("small, seed 0", "o2o", (), str(folder), threads=2)


def run(task, stopped=lambda: False) -> int:
    with open_launcher(LauncherConfig(on="ray")) as launch:
        assert launch is not None
        return launch(task, stopped)


def test_a_task_returns_its_code_and_its_files(ray, task, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "trial.json").write_text("{}")
    ray.results = [(3, pack(other))]
    assert run(task) == 3 and (tmp_path / "trial" / "trial.json").read_text() == "{}"
    assert ray.begun[0]["folder"] == task.folder and not ray.open


def test_a_dead_worker_or_node_begins_the_task_again(ray, task):
    ray.results = [RayError("The worker died\nunexpectedly"), RayError("node died"), (0, None)]
    assert run(task) == 0 and len(ray.begun) == 3
    ray.results = [RayError("\nThe worker died")] * NUM_TRIES
    with pytest.raises(O2OError, match=f"lost {NUM_TRIES} times: The worker died"):
        run(task)


def test_a_stop_cancels_politely_and_an_interrupt_at_once(ray, task):
    ray.running, ray.results = True, [(STOPPED, None)]
    assert run(task, lambda: True) == STOPPED and ray.cancelled == [False]
    ray.cancelled, ray.results = [], [TaskCancelledError()]
    assert run(task, lambda: True) == STOPPED
    ray.cancelled = []

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(task, interrupt)
    assert ray.cancelled == [True] and not ray.open


def test_a_task_that_no_node_can_run_does_not_wait_for_ever(ray, task):
    big = Task("small, seed 0", "o2o", (), task.folder, threads=3)
    with pytest.raises(UsageError, match="needs 3 CPUs on one node; the cluster's have 2 CPUs and 0 GPUs"):
        run(big)
    with pytest.raises(UsageError, match="needs 1 CPUs and a GPU"):
        run(Task("small, seed 0", "o2o", (), task.folder, gpu=True))


def test_a_head_that_dies_ends_the_command_in_one_line(ray, task, monkeypatch):
    monkeypatch.setattr(on_ray, "CHECK_EVERY_S", 0.0)
    monkeypatch.setattr(on_ray, "MAX_SILENT_S", -1.0)
    ray.running, ray.head = True, ("127.0.0.1", closed_port())
    with pytest.raises(LauncherError, match=r"the Ray head at 127.0.0.1:\d+ no longer answers"):
        run(task)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_head_that_is_not_there_is_named_before_ray_waits_for_it(ray):
    with pytest.raises(UsageError, match=r"no Ray head answers at 127.0.0.1:\d+ .*`ray start --head"):
        on_ray.check(f"127.0.0.1:{closed_port()}")
    for wrong in ("ray://head:10001", "head", "head:", "head:99999", ":6379"):
        with pytest.raises(UsageError, match=r"wanted HOST:PORT of the cluster's head, or auto"):
            on_ray.check(wrong)
    assert on_ray.check("") == "local" and on_ray.check("auto") == "auto"


def test_what_ray_says_of_a_connection_is_one_line(ray):
    def init(address, **options):
        raise ConnectionError("Could not find any running Ray instance.\nPlease specify one.")

    ray.init = init
    said = r"Ray cluster at auto: Could not find any running Ray instance.$"
    config = LauncherConfig(on="ray", ray_address="auto")
    with pytest.raises(UsageError, match=said), open_launcher(config):
        pass
