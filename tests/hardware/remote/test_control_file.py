"""Tests that a control file's lines are taken once, none is lost, and nobody else's are run."""

import os
import threading
import time

import pytest

from o2o.core.errors import UsageError
from o2o.hardware.remote.control_file import ControlFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "control"


@pytest.fixture
def control(path):
    control = ControlFile(path)
    yield control
    control.close()


def test_each_line_is_taken_once(control, path):
    assert control.take() == []
    path.write_text("estop\nclear")
    assert control.take() == ["estop", "clear"]
    assert control.take() == [] and not list(path.parent.iterdir())
    path.write_text("estop\n")  # the same again
    assert control.take() == ["estop"]


def test_a_line_of_a_writer_that_opened_the_file_before_it_was_taken_is_not_lost(control, path):
    with path.open("a") as writer:
        assert control.take() == []
        writer.write("estop\n")
    assert control.take() == ["estop"]
    assert control.take() == []


def test_no_line_is_lost_or_taken_twice_while_others_are_written(control, path):
    lines, written = [], threading.Event()

    def write() -> None:
        for number in range(500):
            with path.open("a") as file:
                time.sleep(0.0005)
                file.write(f"{number}\n")
        written.set()

    threading.Thread(target=write).start()
    while not written.is_set():
        lines += control.take()
        time.sleep(0.002)
    lines += control.take()
    assert lines == [str(number) for number in range(500)]


def test_what_is_no_file_of_this_user_is_refused_at_the_start(path):
    os.mkfifo(path)
    with pytest.raises(
        UsageError, match=rf"^--control-file {path} cannot be used: it is a FIFO, wanted a regular file$"
    ):
        ControlFile(path)
    path.unlink()
    path.parent.chmod(0o777)
    with pytest.raises(UsageError, match="would let other users command the robot"):
        ControlFile(path)


def test_what_is_no_regular_file_later_is_logged_once_and_left_alone(control, path, caplog):
    os.mkfifo(path)
    for _ in range(3):
        assert control.take() == []
    path.unlink()
    path.mkdir()
    assert control.take() == [] and path.is_dir()
    texts = [record.getMessage() for record in caplog.records]
    wanted = "wanted a regular file"
    assert texts == [
        f"cannot read the control file {path}: it is {kind}, {wanted}" for kind in ("a FIFO", "a folder")
    ]


def test_of_a_file_that_others_can_write_only_commands_that_stop_are_run(control, path, caplog):
    path.write_text("go\n estop \nstop\nclear\nsuccess\n")
    path.chmod(0o666)
    assert control.take() == [" estop ", "stop"]
    assert "(its mode is 666): only estop and stop are run" in caplog.text
    path.write_text("clear\n")
    path.chmod(0o644)
    assert control.take() == ["clear"]
