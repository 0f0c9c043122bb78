import importlib.util
import logging
import resource
import socket
import sys
import threading
import time

import numpy as np
import pytest

from o2o.core.errors import StorageError, UsageError
from o2o.inspect.charts.spec import COLORMAP
from o2o.training import rerun_viewer
from o2o.training.rerun_viewer import open_stream

needs_rerun = pytest.mark.skipif(
    importlib.util.find_spec("rerun") is None, reason='Rerun is not installed: pip install "o2o[rerun]"'
)
PATHS = np.array([[[0, 0], [1, 0]], [[0, 0], [0, 1]], [[0, 0], [1, 1]]], float)  # three candidates, flat


def read(path):
    """entity -> rows, each a dict of what was logged and when, in order of the steps."""
    from rerun.chunk import RrdReader

    found = {}
    for chunk in RrdReader(path).stream():
        batch = chunk.to_record_batch()
        columns = {name: batch[name] for name in batch.schema.names if name != "log_time"}
        if "time" in columns:  # nanoseconds, too fine for Python's clock
            columns["time"] = columns["time"].cast("int64")
        values = [column.to_pylist() for column in columns.values()]
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
        found.setdefault(str(chunk.entity_path), []).extend(rows)
    return {name: sorted(rows, key=lambda row: row.get("step") or 0) for name, rows in found.items()}


def column(rows, name):
    return [row[name] for row in rows if row.get(name) is not None]


def warnings_of(caplog):
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@needs_rerun
def test_recording_holds_observations_actions_and_plans(tmp_path):
    image = np.zeros((8, 6, 3), np.uint8)
    with open_stream(str(tmp_path / "new" / "run.rrd"), "a run") as shown:
        shown.episode(7, "scene 3")
        shown.step(0, {"eye/left": image, "joints": np.array([1.0, 2.0])}, time_s=0.0)
        shown.plan(PATHS, np.array([0.0, 1.0, 2.0]), 1, value=3.0, penalty=0.5, penalty_weight=0.5)
        shown.image(image)
        shown.step(1, {"eye/left": image, "joints": np.array([3.0, 4.0])}, np.array([0.1]), -1.0, 0.5)
        shown.plan(None, np.array([4.0]), 0, value=1.0, penalty=2.0, penalty_weight=0.5)
        shown.step(
            2, {"eye/left": image.transpose(2, 0, 1), "joints": np.zeros(2)}, np.array([0.2]), 0.0, 1.0
        )
    rows = read(tmp_path / "new" / "run.rrd")
    assert column(rows["/state/joints"], "Scalars:scalars") == [[1, 2], [3, 4], [0, 0]]
    assert column(rows["/action"], "Scalars:scalars") == [[0.1], [0.2]]
    assert column(rows["/action"], "step") == [0, 1]  # the step of the action, not of its result
    assert column(rows["/reward"], "Scalars:scalars") == [[-1.0], [0.0]]
    assert column(rows["/value"], "Scalars:scalars") == [[3.0, 3.5], [1.0, 3.0]]
    assert column(rows["/disagreement"], "Scalars:scalars") == [[1.0, 1.0, 2.0], [4.0, 4.0, 4.0]]
    assert column(rows["/penalty_weight"], "Scalars:scalars") == [[0.5], [0.5]]
    assert column(rows["/disagreement"], "SeriesLines:names") == [
        ["chosen plan", "median candidate", "largest of the candidates"]
    ]
    assert len(column(rows[r"/camera/eye\/left"], "EncodedImage:blob")) == 3
    assert column(rows["/camera/rendered"], "step") == [0]
    assert column(rows["/episodes"], "TextLog:text") == [["episode 7: scene 3"]]
    assert column(rows["/episodes"], "episode") == [7]
    assert column(rows["/state/joints"], "time") == [0, 500_000_000, 1_000_000_000]


def color_of(number):
    return [number >> shift & 255 for shift in (24, 16, 8)]


@needs_rerun
def test_candidates_are_lines_in_space_colored_by_disagreement_and_the_chosen_one_is_thicker(tmp_path):
    with open_stream(str(tmp_path / "run.rrd"), "a run") as shown:
        shown.step(0, {})
        shown.plan(PATHS, np.array([0.0, 1.0, 1.0]), 0, value=3.0, penalty=0.5, penalty_weight=0.5)
    rows = read(tmp_path / "run.rrd")
    (candidates,), (chosen,) = rows["/plan/candidates"], rows["/plan/chosen"]
    assert candidates["LineStrips3D:strips"][2] == [[0, 0, 0], [1, 1, 0]]
    low, high = (int(COLORMAP[i][1:] + "ff", 16) for i in (0, -1))
    assert candidates["LineStrips3D:colors"] == [low, high, high]
    assert chosen["LineStrips3D:strips"] == [[[0, 0, 0], [1, 0, 0]]] and chosen["LineStrips3D:colors"] == [
        low
    ]
    assert abs(chosen["LineStrips3D:radii"][0]) > 3 * abs(candidates["LineStrips3D:radii"][0])


@needs_rerun
def test_colors_mean_the_same_at_every_step_once_the_range_is_known(tmp_path):
    with open_stream(str(tmp_path / "run.rrd"), "a run") as shown:
        for t, disagreement in enumerate([[0, 0, 2], [0, 2, 2], [1, 1, 1], [5, 5, 5], [1, 1, 1]]):
            shown.step(t, {})
            shown.plan(PATHS, np.array(disagreement, float), 0, value=0.0, penalty=0.0, penalty_weight=1.0)
    candidates = read(tmp_path / "run.rrd")["/plan/candidates"]
    first, second, third = (int(COLORMAP[i][1:], 16) << 8 for i in (0, 3, -1))
    assert color_of(candidates[1]["LineStrips3D:colors"][0]) == color_of(first)
    assert color_of(candidates[2]["LineStrips3D:colors"][0]) == pytest.approx(color_of(second), abs=6)
    assert color_of(candidates[3]["LineStrips3D:colors"][0]) == color_of(third)
    bluer = color_of(candidates[4]["LineStrips3D:colors"][0])  # 1 of 5, no longer 1 of 2
    assert bluer[0] < color_of(second)[0] - 50


@needs_rerun
def test_steps_and_seconds_continue_over_episodes(tmp_path):
    with open_stream(str(tmp_path / "run.rrd"), "a run") as shown:
        for number in (0, 1):
            shown.episode(number)
            for t in range(3):
                shown.step(t, {"joints": np.array([t])}, time_s=t / 4)
    rows = read(tmp_path / "run.rrd")["/state/joints"]
    assert column(rows, "step") == [0, 1, 2, 3, 4, 5] and column(rows, "episode") == [0, 0, 0, 1, 1, 1]
    assert [time / 1e9 for time in column(rows, "time")] == [0, 0.25, 0.5, 0.75, 1, 1.25]


@needs_rerun
def test_file_holds_its_layout_once(tmp_path):
    from rerun.chunk import RrdReader

    with open_stream(str(tmp_path / "run.rrd"), "a run") as shown:
        shown.episode(0)
        for t in range(4):
            shown.step(t, {"joints": np.zeros(3)}, np.zeros(2) if t else None, 0.0 if t else None)
            shown.plan(PATHS, np.ones(3), 0, value=0.0, penalty=0.0, penalty_weight=1.0)
    layout = RrdReader(tmp_path / "run.rrd").blueprints()
    assert len(layout) == 1 and layout[0].application_id == "o2o"


@needs_rerun
def test_failing_disk_stops_the_stream_with_one_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(rerun_viewer, "FLUSH_S", 0.01)  # of 0, Rerun makes a thread that never rests
    before, noise = resource.getrlimit(resource.RLIMIT_FSIZE), np.random.default_rng(0)
    shown = open_stream(str(tmp_path / "run.rrd"), "a run")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        for t in range(100):
            shown.step(t, {"camera": noise.integers(0, 256, (128, 128, 3), np.uint8)})
            time.sleep(0.005)
        shown._thread.join(10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    shown.step(100, {"camera": np.zeros((8, 8, 3), np.uint8)})
    shown.close()
    assert len(warnings_of(caplog)) == 1
    assert warnings_of(caplog)[0].startswith("Rerun stream stopped: ")


@needs_rerun
def test_data_that_cannot_be_drawn_stops_the_stream_with_one_warning(tmp_path, caplog):
    with open_stream(str(tmp_path / "run.rrd"), "a run") as shown:
        shown.step(0, {"joints": np.array(["left", "right"])})
        shown.step(1, {"joints": np.array([1.0])})
    (warning,) = warnings_of(caplog)
    assert warning.startswith("Rerun stream stopped: could not convert string to float")


@needs_rerun
def test_slow_viewer_never_delays_the_loop(tmp_path, caplog):
    shown, go_on = open_stream(str(tmp_path / "run.rrd"), "a run"), threading.Event()
    real = shown._page.step
    shown._page.step = lambda *args: (go_on.wait(30), real(*args))
    begin_s = time.monotonic()
    for t in range(3 * rerun_viewer.MAX_QUEUED):
        shown.step(t, {"joints": np.array([t])})
    assert time.monotonic() - begin_s < 5
    go_on.set()
    shown.close()
    assert warnings_of(caplog) == ["Rerun is slower than the robot; some steps are not shown"]
    assert len(read(tmp_path / "run.rrd")["/state/joints"]) == pytest.approx(rerun_viewer.MAX_QUEUED, abs=3)


@needs_rerun
def test_viewer_that_hangs_does_not_keep_the_program_from_ending(tmp_path, caplog, monkeypatch):
    import rerun as rr

    unregistered = []
    monkeypatch.setattr(rerun_viewer, "CLOSE_S", 0.1)
    monkeypatch.setattr(rr, "unregister_shutdown", lambda: unregistered.append(True))
    shown, go_on = open_stream(str(tmp_path / "run.rrd"), "a run"), threading.Event()
    shown._page.step = lambda *args: go_on.wait(30)
    shown.step(0, {})
    begin_s = time.monotonic()
    shown.close()
    assert time.monotonic() - begin_s < 5 and unregistered == [True]
    assert warnings_of(caplog) == ["Rerun stream stopped: it does not respond, and the last entries are lost"]
    go_on.set()
    shown._thread.join(10)


def test_missing_package_raises_one_line_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(UsageError, match=r'not installed: pip install "\S+\[rerun\]"'):
        open_stream("run.rrd", "a run")


@needs_rerun
def test_recording_is_not_overwritten(tmp_path):
    (tmp_path / "run.rrd").write_text("x")
    with pytest.raises(UsageError, match=r"run.rrd exists; choose another file name"):
        open_stream(str(tmp_path / "run.rrd"), "a run")
    with pytest.raises(StorageError, match=r"cannot write .*run.rrd"):
        open_stream(str(tmp_path / "run.rrd" / "run.rrd"), "a run")


@needs_rerun
@pytest.mark.parametrize("target", ["run.mp4", "", "http://127.0.0.1:9876"])
def test_invalid_target_raises_one_line_with_all_kinds(target):
    with pytest.raises(UsageError, match=r"wanted a path ending in .rrd, `live`, or rerun\+http://HOST:PORT"):
        open_stream(target, "a run")


@needs_rerun
def test_missing_viewer_raises_one_line(port):
    with pytest.raises(UsageError, match=f"no Rerun viewer answers at 127.0.0.1:{port}; start one with"):
        open_stream(f"rerun+http://127.0.0.1:{port}/proxy", "a run")
    for place in ("127.0.0.1:many", "127.0.0.1", ""):
        with pytest.raises(UsageError, match=r"wanted rerun\+http://HOST:PORT/proxy"):
            open_stream(f"rerun+http://{place}/proxy", "a run")


@needs_rerun
def test_address_that_rerun_rejects_raises_one_line():
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"rerun+http://127.0.0.1:{other.getsockname()[1]}/wrong"
        with pytest.raises(UsageError, match=r"wrong': .*[Uu]nexpected URI") as caught:
            open_stream(address, "a run")
    assert "\n" not in str(caught.value)


@needs_rerun
def test_file_may_have_the_name_of_the_viewer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_stream("rerun.rrd", "a run").close()
    assert (tmp_path / "rerun.rrd").stat().st_size > 0


@needs_rerun
def test_viewer_that_cannot_open_raises_the_reason(tmp_path, port, monkeypatch):
    program = tmp_path / "rerun"
    program.write_text("#!/bin/sh\necho starting\necho no screen >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(rerun_viewer.shutil, "which", lambda name, path: str(program))
    monkeypatch.setattr(rerun_viewer, "PORT", port)
    with pytest.raises(UsageError, match="the Rerun viewer ended at once: no screen"):
        open_stream("live", "a run")
    program.unlink()
    with pytest.raises(UsageError, match=r"the Rerun viewer cannot be started: .*No such file"):
        open_stream("live", "a run")
