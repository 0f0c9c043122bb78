"""Checks that checkpoints are complete or absent after a kill, a full disk or damage."""

import errno
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from o2o.core import checkpoint
from o2o.core.errors import StorageError, UsageError
from tests.support import forked

WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3)}


def save(folder, step):
    checkpoint.save(folder, {"w": torch.full((1000,), float(step))}, {"step": step})


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def flip_byte(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def test_tensors_come_back_bit_for_bit(tmp_path):
    base = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    tensors = {
        "plain": base,
        "turned": base.T,
        "row of the same memory": base[1],
        "expanded": torch.ones(1).expand(4),
        "random state": torch.get_rng_state(),
        "scalar": torch.tensor(3.5),
        "count": torch.tensor(2**62),
        "double": torch.tensor([0.1], dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "bool": torch.tensor([True, False]),
        "not finite": torch.tensor([math.nan, math.inf, -0.0]),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    checkpoint.save(tmp_path / "c", tensors, {})
    loaded, _ = checkpoint.load(tmp_path / "c")
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert same_bits(loaded[name], value.detach().contiguous()), name


def test_a_random_state_continues_where_it_stopped(tmp_path):
    generator = torch.Generator().manual_seed(1)
    checkpoint.save(tmp_path / "c", {"state": generator.get_state()}, {})
    want = torch.rand(5, generator=generator)
    other = torch.Generator()
    other.set_state(checkpoint.load(tmp_path / "c")[0]["state"])
    assert torch.equal(torch.rand(5, generator=other), want)


def test_loaded_tensors_are_writable(tmp_path):
    checkpoint.save(tmp_path / "c", WEIGHTS, {})
    loaded, _ = checkpoint.load(tmp_path / "c")
    loaded["w"] += 1
    assert loaded["w"][0, 0] == 1


def test_meta_comes_back(tmp_path):
    meta = {
        "step": 3,
        "best": -math.inf,
        "float": 0.1 + 0.2,
        "numpy": np.float32(0.5),
        "array": np.arange(2),
        "tensor": torch.tensor(2),
        "path": Path("a/b"),
        "big": 2**100,
        "text": "ä\n",
        "numpy generator": np.random.default_rng(0).bit_generator.state,
        7: "seven",
    }
    checkpoint.save(tmp_path / "c", {}, meta)
    _, back = checkpoint.load(tmp_path / "c")
    plain = {"numpy": 0.5, "array": [0, 1], "tensor": 2, "path": "a/b", "7": "seven"}
    assert back == {k: v for k, v in meta.items() if k != 7} | plain


def test_meta_that_is_not_plain_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"object .* cannot be stored"):
        checkpoint.save(tmp_path / "c", WEIGHTS, {"x": object()})
    assert list(tmp_path.iterdir()) == []


def test_the_checkpoint_before_is_stored_as_previous(tmp_path):
    for step in range(3):
        save(tmp_path / "c", step)
    assert checkpoint.load(tmp_path / "c")[1] == {"step": 2}
    assert checkpoint.load(tmp_path / "c.previous")[1] == {"step": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "c.previous"]


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.META])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "empty", "garbage"])
def test_damaged_checkpoint_falls_back_to_the_previous_with_a_warning(tmp_path, caplog, name, damage):
    save(tmp_path / "c", 1)
    save(tmp_path / "c", 2)
    path = tmp_path / "c" / name
    if damage == "flip":
        flip_byte(path, at=path.read_bytes().rfind(b"2") if name == checkpoint.META else -1)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "delete":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else b"\xff\x00" * 100)
    assert checkpoint.load(tmp_path / "c")[1] == {"step": 1}
    assert len(caplog.records) == 1
    assert "is not readable" in caplog.text and "c.previous" in caplog.text


def test_no_readable_checkpoint_is_one_line_with_exit_code_2(tmp_path):
    save(tmp_path / "c", 1)
    flip_byte(tmp_path / "c" / checkpoint.TENSORS)
    with pytest.raises(UsageError) as caught:
        checkpoint.load(tmp_path / "c")
    assert str(caught.value) == (
        f"checkpoint {tmp_path / 'c'} is not readable: its checksum does not match, so it was damaged or "
        "changed"
    )
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "meta, reason",
    [
        ("{", "meta.json is not that of a checkpoint"),
        ("[1]", "meta.json is not that of a checkpoint"),
        ("{}", "meta.json is not that of a checkpoint"),
        ("[" * 100_000, "meta.json is not that of a checkpoint"),
        ('{"format": 99}', r"another version of o2o \(checkpoint format 99\); this version reads format 2"),
        ('{"format": "x"}', r"another program \(checkpoint format 'x'\)"),
    ],
)
def test_unreadable_meta_is_one_line(tmp_path, meta, reason):
    save(tmp_path / "c", 1)
    (tmp_path / "c" / checkpoint.META).write_text(meta)
    with pytest.raises(UsageError, match=reason) as caught:
        checkpoint.load(tmp_path / "c")
    assert "\n" not in str(caught.value)


def test_an_older_format_is_one_line_and_no_reason_to_load_the_previous_one(tmp_path, caplog):
    save(tmp_path / "c", 1)
    save(tmp_path / "c", 2)
    path = tmp_path / "c" / checkpoint.META
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(UsageError) as caught:
        checkpoint.load(tmp_path / "c")
    assert str(caught.value) == (
        f"checkpoint {tmp_path / 'c'} was written by o2o 0.1.0 before its names changed "
        "(checkpoint format 1); this version reads format 2: pretrain again, or use that version"
    )
    assert caught.value.exit_code == 2 and caplog.records == []


def test_a_missing_checkpoint_and_a_file_of_that_name_are_one_line(tmp_path):
    with pytest.raises(UsageError, match="is not readable: there is no such folder"):
        checkpoint.load(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is not readable: it is a file, wanted a folder"):
        checkpoint.load(tmp_path / "file")
    save(tmp_path / "damaged", 1)
    (tmp_path / "damaged" / checkpoint.META).write_bytes(b"")
    assert checkpoint.exists(tmp_path / "damaged")  # which is for `load` to say
    assert not checkpoint.exists(tmp_path / "none") and not checkpoint.exists(tmp_path / "file")


def test_pickles_are_not_opened(tmp_path):
    save(tmp_path / "c", 1)
    torch.save({"w": torch.zeros(1)}, tmp_path / "c" / checkpoint.TENSORS)
    with pytest.raises(UsageError, match="is not readable"):
        checkpoint.load(tmp_path / "c")


STATES = {  # what a kill can leave behind, by the folders that exist, and the step that must be found
    "while writing the first": ({"c": None, ".c.partial": "half"}, None),
    "while writing the first one's last file": ({".c.partial": "cut"}, None),
    "while writing the second": ({"c": 1, ".c.partial": "half"}, 1),
    "while removing the older": ({"c": 2, "c.previous": "half", ".c.partial": 3}, 2),
    "between the two renames": ({"c.previous": 1, ".c.partial": 2}, 2),
    "after the renames": ({"c": 2, "c.previous": 1}, 2),
    "before the first is renamed": ({".c.partial": 1}, 1),
}


@pytest.mark.parametrize("state", STATES)
def test_a_checkpoint_is_readable_after_a_kill_and_the_next_save_cleans_up(tmp_path, state):
    folders, want = STATES[state]
    for name, step in folders.items():
        if step is not None:
            save(tmp_path / "made", step if isinstance(step, int) else 0)
            (tmp_path / "made").rename(tmp_path / name)
            if step == "half":
                (tmp_path / name / checkpoint.META).unlink()
            if step == "cut":
                (tmp_path / name / checkpoint.META).write_bytes(b"")
    if want is None:
        assert not checkpoint.exists(tmp_path / "c")
        with pytest.raises(UsageError):
            checkpoint.load(tmp_path / "c")
    else:
        assert checkpoint.load(tmp_path / "c")[1] == {"step": want}
        assert checkpoint.exists(tmp_path / "c")
        checkpoint.link(tmp_path / "c", tmp_path / "best")
        assert checkpoint.load(tmp_path / "best")[1] == {"step": want}
    save(tmp_path / "c", 9)
    assert checkpoint.load(tmp_path / "c")[1] == {"step": 9}
    assert not (tmp_path / ".c.partial").exists()


SAVER = """
import sys, torch
from pathlib import Path
from o2o.core import checkpoint
step = 0
while True:
    step += 1
    checkpoint.save(Path(sys.argv[1]), {"w": torch.full((50_000,), float(step))}, {"step": step})
    print(step, flush=True)
"""


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_kill_9_while_saving_leaves_a_readable_checkpoint(tmp_path, kills):
    for wait_s in np.random.default_rng(0).uniform(0, 0.03, kills):
        process = forked.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path / "c")], stdout=forked.PIPE, text=True
        )
        assert process.stdout is not None
        with process, process.stdout:
            saved = [int(process.stdout.readline()) for _ in range(3)]
            time.sleep(wait_s)
            process.send_signal(signal.SIGKILL)
            saved += [int(line) for line in process.stdout.read().split()]
        tensors, meta = checkpoint.load(tmp_path / "c")
        assert meta["step"] >= saved[-1]
        assert (tensors["w"] == meta["step"]).all()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("call", range(12))
def test_a_kill_at_any_system_call_leaves_the_old_or_the_new_checkpoint(tmp_path, monkeypatch, call):
    """Stops the save before its nth sync, rename or removal, leaving the disk as it is."""
    save(tmp_path / "c", 1)
    save(tmp_path / "c", 2)
    count = -1

    def dying(function):
        def wrapper(*args, **kwargs):
            nonlocal count
            count += 1
            if count >= call:
                raise Killed
            return function(*args, **kwargs)

        return wrapper

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", dying(os.fsync))
        patch.setattr(Path, "rename", dying(Path.rename))
        patch.setattr(checkpoint.shutil, "rmtree", dying(checkpoint.shutil.rmtree))
        try:
            save(tmp_path / "c", 3)
            finished = True
        except Killed:
            finished = False
    step = checkpoint.load(tmp_path / "c")[1]["step"]
    assert step == 3 if finished else step in (2, 3)
    save(tmp_path / "c", 4)
    assert checkpoint.load(tmp_path / "c")[1] == {"step": 4}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_full_disk_is_one_line_and_leaves_the_old_checkpoint(tmp_path, monkeypatch, code):
    save(tmp_path / "c", 1)

    def full(handle):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError) as caught:
            save(tmp_path / "c", 2)
        with pytest.raises(StorageError):
            checkpoint.write_json(tmp_path / "run.json", {})
    line = str(caught.value)
    assert line.startswith(f"cannot write {tmp_path / 'c'}: {os.strerror(code).lower()} (")
    assert "bytes needed" in line and "free" in line and "\n" not in line
    assert caught.value.exit_code == 6
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    assert checkpoint.load(tmp_path / "c")[1] == {"step": 1}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_device_is_one_line(tmp_path):
    (tmp_path / ".run.json.partial").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="no space left on device"):
        checkpoint.write_text(tmp_path / "run.json", "x" * 100_000)
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_is_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot write"):
        save(tmp_path / "file" / "c", 1)


def test_a_link_takes_no_space_and_does_not_change(tmp_path):
    save(tmp_path / "c", 1)
    checkpoint.link(tmp_path / "c", tmp_path / "kept" / "000001")
    one, other = tmp_path / "c" / checkpoint.TENSORS, tmp_path / "kept" / "000001" / checkpoint.TENSORS
    assert one.samefile(other)
    save(tmp_path / "c", 2)
    save(tmp_path / "c", 3)
    assert checkpoint.load(tmp_path / "kept" / "000001")[1] == {"step": 1}
    checkpoint.link(tmp_path / "c", tmp_path / "kept" / "000001")
    assert checkpoint.load(tmp_path / "kept" / "000001")[1] == {"step": 3}


def test_a_file_system_without_links_gets_copies(tmp_path, monkeypatch):
    def no_links(*args, **kwargs):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    save(tmp_path / "c", 1)
    checkpoint.link(tmp_path / "c", tmp_path / "kept")
    assert not (tmp_path / "c" / checkpoint.META).samefile(tmp_path / "kept" / checkpoint.META)
    assert checkpoint.load(tmp_path / "kept")[1] == {"step": 1}


def test_a_link_on_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "full")

    save(tmp_path / "c", 1)
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space left"):
        checkpoint.link(tmp_path / "c", tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_fingerprint_changes_with_every_bit_name_and_shape():
    one = checkpoint.fingerprint(WEIGHTS)
    assert one == checkpoint.fingerprint({"w": WEIGHTS["w"].T.contiguous().T})
    assert len(one) == 12 and int(one, 16) >= 0
    others = [
        {"v": WEIGHTS["w"]},
        {"w": WEIGHTS["w"].reshape(3, 2)},
        {"w": WEIGHTS["w"].double()},
        {"w": WEIGHTS["w"] + torch.tensor([[0, 0, 0], [0, 0, 1e-6]])},
        {"w": WEIGHTS["w"], "x": torch.zeros(0)},
    ]
    assert len({one, *(checkpoint.fingerprint(other) for other in others)}) == 6


def test_fingerprint_does_not_depend_on_order():
    a, b = torch.zeros(2), torch.tensor(1)
    assert checkpoint.fingerprint({"a": a, "b": b}) == checkpoint.fingerprint({"b": b, "a": a})


def test_written_json_is_standard_and_complete(tmp_path):
    path = tmp_path / "new" / "result.json"
    checkpoint.write_json(path, {"a": math.nan, "b": [np.float64(math.inf), 1], "c": ("x", Path("p"))})
    checkpoint.write_json(path, {"a": math.nan, "b": [np.float64(math.inf), 1], "c": ("x", Path("p"))})
    data = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert data == {"a": None, "b": [None, 1], "c": ["x", "p"]}
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_a_save_after_a_kill_between_its_renames_leaves_the_newest_as_the_previous_one(tmp_path):
    for step in (1, 2):
        save(tmp_path / "c", step)
    (tmp_path / "c").rename(tmp_path / ".c.partial")
    save(tmp_path / "c", 3)
    assert checkpoint.load(tmp_path / "c")[1] == {"step": 3}
    assert checkpoint.load(tmp_path / "c.previous")[1] == {"step": 2}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_fifo_or_a_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(StorageError, match="it is a fifo, wanted a regular file"):
        checkpoint.write_text(tmp_path / "fifo", "x")
    assert (tmp_path / "fifo").is_fifo() and [path.name for path in tmp_path.iterdir()] == ["fifo"]
