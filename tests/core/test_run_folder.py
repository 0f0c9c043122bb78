"""Tests the folder of a new and of a resumed run, and which changes of a config a resumed run accepts."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from o2o.core import checkpoint
from o2o.core.command_line import typed
from o2o.core.config import to_dict
from o2o.core.errors import UsageError
from o2o.core.output_lock import lock_folder
from o2o.core.run_folder import (
    LEFTOVERS,
    RUN_INFO,
    check_resumable,
    checkpoint_folder,
    new_folder,
    read_run_info,
    resumed_folder,
    write_run_info,
)


@dataclass(frozen=True)
class Limits:
    speed: float = 1.0


@dataclass(frozen=True)
class Config:
    updates: int = 10
    seed: int = 0
    limits: Limits = field(default_factory=Limits)


RESUMABLE = {"updates", "limits"}


def test_a_resumed_run_accepts_resumable_fields_and_all_fields_of_a_resumable_group():
    check_resumable(to_dict(Config()), Config(updates=20, limits=Limits(0.3)), RESUMABLE)


def test_every_other_changed_field_is_named_with_both_values():
    with pytest.raises(UsageError, match=r"seed: 0 -> 1; .*limits.speed: 1.0 -> 0.3"):
        check_resumable(to_dict(Config()), Config(seed=1, limits=Limits(0.3)), {"updates"})


def test_a_field_that_the_saved_config_lacks_is_no_change():
    check_resumable({"updates": 10, "seed": 0}, Config(), set())


def test_the_default_folder_names_command_and_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with new_folder(None, "pretrain", "./my arm/mine.py") as folder:
        assert folder.parent.name == "runs" and folder.is_dir()
        assert folder.name.startswith("pretrain-mine-20")
        assert len(folder.name) == len("pretrain-mine-20260102-030405")
    with new_folder(None, "finetune", "D4RL/pen v2") as folder:
        assert folder.name.startswith("finetune-D4RL-pen-v2-")
    assert list(tmp_path.iterdir()) == []  # nothing was written into them


def test_a_new_folder_may_hold_what_a_process_killed_before_the_run_began_has_left(tmp_path):
    with new_folder(tmp_path / "new", "pretrain", "x") as folder:
        assert folder == tmp_path / "new"
    for name in LEFTOVERS:
        (tmp_path / name).write_text("cut o")
    with new_folder(tmp_path, "pretrain", "x") as folder:
        assert folder == tmp_path


@pytest.mark.parametrize("name", ["file", "run.json", "metrics.jsonl", ".hidden"])
def test_a_new_folder_must_hold_nothing_else(tmp_path, name):
    (tmp_path / name).write_text("x")
    with pytest.raises(UsageError, match="is not empty; give --resume to continue it, or another --out"):
        new_folder(tmp_path, "pretrain", "x").__enter__()
    with (
        pytest.raises(UsageError, match="not empty; remove it"),
        new_folder(tmp_path, "demo", "", "remove it"),
    ):
        raise AssertionError
    assert (tmp_path / name).read_text() == "x"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(UsageError, match="is a file, wanted a new folder"),
        new_folder(tmp_path / "file", "", ""),
    ):
        raise AssertionError


def test_a_folder_in_use_is_neither_started_nor_resumed(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"command": "pretrain", "config": to_dict(Config())}))
    with lock_folder(tmp_path):
        with pytest.raises(UsageError, match="is in use by process"):
            new_folder(tmp_path, "pretrain", "x").__enter__()
        with pytest.raises(UsageError, match="is in use by process"):
            resumed_folder(tmp_path, Config(), RESUMABLE).__enter__()
        assert read_run_info(tmp_path)["command"] == "pretrain"  # readers need no lock
    with resumed_folder(tmp_path, Config(updates=20), RESUMABLE) as folder:
        assert folder == tmp_path


def test_resuming_a_folder_without_a_run_says_how_to_start_it(tmp_path):
    for name in LEFTOVERS:
        (tmp_path / name).write_text("")
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UsageError, match="holds no run yet; start it with its whole command"):
            read_run_info(folder)
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(UsageError, match=r"is no run: run\.json is not readable"):
            read_run_info(folder)


def test_the_one_run_inside_a_folder_is_found_and_several_are_named_latest_first(tmp_path):
    def write(path: str, time_s: int) -> None:
        checkpoint.save(tmp_path / path / "checkpoint", {}, {})
        os.utime(tmp_path / path / "checkpoint", (time_s, time_s))

    write("demo/pretrain", 100)
    checkpoint.save(tmp_path / "demo" / "pretrain" / "checkpoints" / "000500", {}, {})
    latest = tmp_path / "demo" / "pretrain" / "checkpoint"
    for path in (tmp_path, tmp_path / "demo", tmp_path / "demo" / "pretrain", latest):
        assert checkpoint_folder(path) == latest
    write("demo/finetune", 200)
    with pytest.raises(
        UsageError, match=r"holds 2 runs; name one of them, .*demo/finetune, .*demo/pretrain$"
    ):
        checkpoint_folder(tmp_path / "demo")
    for number in range(6):
        write(f"other{number}", number)
    with pytest.raises(UsageError, match=r"holds 8 runs.*demo/finetune, .*other2, \.\.\.$"):
        checkpoint_folder(tmp_path)


def run_info(folder) -> dict:
    return json.loads((folder / RUN_INFO).read_text())


@pytest.mark.parametrize(
    ("error", "result"), [(None, "done"), (KeyboardInterrupt, "stopped"), (UsageError, "failed")]
)
def test_a_run_records_what_was_typed_and_when_and_how_it_began_and_ended(tmp_path, error, result):
    with suppress(KeyboardInterrupt, UsageError), new_folder(tmp_path / "run", "pretrain", "x") as folder:
        with typed(["pretrain", "--out", "my run"]):
            write_run_info(folder, "pretrain", Config(), {})
        begun = run_info(folder)
        assert begun["command_line"] == ["pretrain", "--out", "my run"] and "end" not in begun
        if error:
            raise error
    ended = run_info(folder)
    assert ended == begun | {"end": ended["end"], "result": result}
    assert datetime.fromisoformat(ended["end"]) >= datetime.fromisoformat(ended["start"])
    with typed(["pretrain", "--resume"]), resumed_folder(folder, Config(), set()):
        write_run_info(folder, "pretrain", Config(), {})
        resumed = run_info(folder)
    assert (resumed["command_line"], resumed["start"]) == (begun["command_line"], begun["start"])
    assert "end" not in resumed and run_info(folder)["result"] == "done"


def test_a_resumed_run_that_fails_before_it_begins_keeps_its_end(tmp_path):
    with new_folder(tmp_path / "run", "pretrain", "x") as folder:
        write_run_info(folder, "pretrain", Config(), {})
    before = run_info(folder)
    with pytest.raises(ZeroDivisionError), resumed_folder(folder, Config(), set()):
        raise ZeroDivisionError
    assert run_info(folder) == before
