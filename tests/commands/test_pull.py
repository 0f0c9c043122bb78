"""Checks that `o2o pull` gives what was pushed, whole or not at all, on a fake hub."""

import hashlib
import json
import os
import sys
import threading
import time

import numpy as np
import pytest

import o2o as package
from o2o.core import checkpoint
from o2o.deployment.run_files import ALLOWED, CARD, write_files
from tests.support import forked
from tests.support.fake_hub import FakeHub, commit_of, environment
from tests.support.paths import POINT_ROBOT, ROOT

TENSORS = "checkpoint/tensors.safetensors"


@pytest.fixture(scope="module")
def files(pretrained, tmp_path_factory) -> dict[str, bytes]:
    """What `o2o push` sends of a run, with a short card."""
    folder = tmp_path_factory.mktemp("files")
    write_files(pretrained, folder)
    (folder / CARD).write_text("# point\n")
    return {name: (folder / name).read_bytes() for name in ALLOWED}


@pytest.fixture
def pushed(hub, files) -> FakeHub:
    hub.repos["ada/point"] = {"main": dict(files)}
    return hub


def left(folder) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"hf"}


def test_a_pulled_run_is_the_pushed_one(o2o, pushed, pretrained, tmp_path):
    pushed.files("ada/point")["arm.py"] = b"raise SystemExit"
    out = tmp_path / "runs" / "mine"
    code, said, err = o2o("pull", "ada/point", "--out", out)
    assert (code, err) == (0, "") and "pulled 6 files" in said and "o2o evaluate" in said
    before, after = (checkpoint.load(folder / "checkpoint")[0] for folder in (pretrained, out))
    assert checkpoint.fingerprint(before) == checkpoint.fingerprint(after)
    assert left(out) == {"README.md", "files.json", "run.json", "metrics.jsonl", "checkpoint"}
    assert left(out.parent) == {"mine"}


def test_a_pulled_run_evaluates_finetunes_and_loads(o2o, pushed, tmp_path):
    out = tmp_path / "mine"
    assert o2o("pull", "ada/point", "--out", out)[0] == 0
    robot = ["--robot", POINT_ROBOT, "--device", "cpu"]
    code, said, _ = o2o("evaluate", "--checkpoint", out, "--episodes", 1, *robot)
    assert code == 0 and "in one episode" in said
    words = ["--episodes", 1, "--offline-ratio", 0, "--out", tmp_path / "tuned", *robot]
    assert o2o("finetune", "--checkpoint", out, *words)[0] == 0
    assert o2o("show", out)[0] == 0
    policy = package.load(out, device="cpu")
    policy.reset(0)
    assert policy.act({"state": np.zeros(2)}, 0.0).shape == (2,)


def test_a_pulled_run_permits_no_file_of_a_robot(fails, o2o, pushed, tmp_path):
    out = tmp_path / "mine"
    assert o2o("pull", "ada/point", "--out", out)[0] == 0
    assert "point_robot.py" in fails(2, "evaluate", "--checkpoint", out, "--episodes", 1)


def test_a_cut_download_is_continued_where_it_was_cut(o2o, pushed, tmp_path):
    pushed.cut_after[TENSORS] = [1000, 50_000]
    assert o2o("pull", "ada/point", "--out", tmp_path / "mine")[0] == 0
    ranges = [what for *_, what in pushed.sent(f"resolve/{commit(pushed)}/{TENSORS}")]
    assert ranges == ["", "bytes=1000-", "bytes=51000-"]


def commit(hub: FakeHub) -> str:
    return commit_of(hub.files("ada/point"))


def test_a_second_pull_continues_one_that_gave_up(o2o, fails, pushed, tmp_path, monkeypatch):
    monkeypatch.setattr("o2o.deployment.hub.WAIT_S", 0.0)
    pushed.cut_after[TENSORS] = [2000, *[0] * 20]
    line = fails(2, "pull", "ada/point", "--out", tmp_path / "mine")
    assert "cut again and again, 2,000 of " in line and left(tmp_path) == {".mine.partial"}
    pushed.cut_after.clear()
    pushed.requests.clear()
    assert o2o("pull", "ada/point", "--out", tmp_path / "mine")[0] == 0
    assert pushed.sent(TENSORS)[-1][2] == "bytes=2000-" and left(tmp_path) == {"mine"}
    assert not pushed.sent("/run.json")  # it was there


def test_another_commit_continues_nothing(o2o, fails, pushed, tmp_path, monkeypatch):
    monkeypatch.setattr("o2o.deployment.hub.WAIT_S", 0.0)
    pushed.cut_after[TENSORS] = [2000, *[0] * 20]
    fails(2, "pull", "ada/point", "--out", tmp_path / "mine")
    pushed.cut_after.clear()
    pushed.files("ada/point")["README.md"] += b"\n"
    pushed.requests.clear()
    assert o2o("pull", "ada/point", "--out", tmp_path / "mine")[0] == 0
    assert all(what == "" for *_, what in pushed.requests)


@pytest.mark.parametrize("name", ["run.json", TENSORS, "files.json", "README.md"])
def test_a_file_with_another_hash_than_the_hubs_is_refused(o2o, fails, pushed, tmp_path, name):
    right = pushed.files("ada/point")[name]
    pushed.changed[name] = right[:-1] + bytes([right[-1] ^ 1])
    line = fails(2, "pull", "ada/point", "--out", tmp_path / "mine")
    assert line.startswith(f"{name} of ada/point has another content") and left(tmp_path) == {".mine.partial"}
    pushed.changed.clear()
    assert o2o("pull", "ada/point", "--out", tmp_path / "mine")[0] == 0


@pytest.mark.parametrize("name", ["run.json", TENSORS])
def test_a_file_that_was_changed_after_the_push_is_refused(fails, pushed, tmp_path, name):
    files = pushed.files("ada/point")
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])
    line = fails(2, "pull", "ada/point", "--out", tmp_path / "mine")
    assert line.startswith(f"{name} of ada/point is not the file that was pushed")
    assert left(tmp_path) == {".mine.partial"}
    files[name] += b"x"
    assert "bytes, and" in fails(2, "pull", "ada/point", "--out", tmp_path / "mine")
    del files[name]
    assert f"lacks {name}" in fails(2, "pull", "ada/point", "--out", tmp_path / "mine")


def test_the_list_itself_is_not_believed(fails, pushed, tmp_path):
    listed = json.loads(pushed.files("ada/point")["files.json"])
    for change, line in [
        ({"files": listed["files"] | {"arm.py": listed["files"]["run.json"]}}, "names 'arm.py', which no"),
        ({"files": listed["files"] | {"../x": listed["files"]["run.json"]}}, "names '../x'"),
        ({"files": {}}, "lacks checkpoint/meta.json"),
        ({"format": 2}, "format is 2, wanted 1"),
        ({"files": listed["files"] | {"run.json": {"sha256": "1", "size": 2}}}, "64 hexadecimal digits"),
        ({"files": 3}, "wanted an object"),
    ]:  # fmt: skip
        pushed.files("ada/point")["files.json"] = json.dumps(listed | change).encode()
        assert line in fails(2, "pull", "ada/point", "--out", tmp_path / "mine")
        assert left(tmp_path) == {".mine.partial"}


def test_a_run_that_o2o_did_not_write_is_refused_although_its_hashes_are_right(fails, pushed, tmp_path):
    files = pushed.files("ada/point")
    files["checkpoint/meta.json"] = b"[" * 100
    listed = json.loads(files["files.json"])
    digest = hashlib.sha256(files["checkpoint/meta.json"]).hexdigest()
    listed["files"]["checkpoint/meta.json"] = {"sha256": digest, "size": 100}
    files["files.json"] = json.dumps(listed).encode()
    assert "meta.json is not that of a checkpoint" in fails(
        2, "pull", "ada/point", "--out", tmp_path / "mine"
    )
    assert left(tmp_path) == {".mine.partial"}


def test_metadata_of_gigabytes_are_not_fetched(fails, pushed, tmp_path, monkeypatch):
    monkeypatch.setattr("o2o.commands.pull.MAX_JSON_BYTES", 1000)
    line = fails(2, "pull", "ada/point", "--out", tmp_path / "mine")
    assert "bytes, wanted at most 1,000" in line and not pushed.sent("resolve")


def test_a_server_that_sends_more_than_it_says_is_cut(fails, pushed, tmp_path):
    pushed.changed["run.json"] = pushed.files("ada/point")["run.json"] + b" " * 100_000
    assert "sends more of run.json" in fails(2, "pull", "ada/point", "--out", tmp_path / "mine")


def test_an_existing_folder_is_not_replaced(fails, pushed, tmp_path):
    (tmp_path / "mine").mkdir()
    line = fails(2, "pull", "ada/point", "--out", tmp_path / "mine")
    assert line.endswith("mine exists and is not replaced; give another --out") and not pushed.requests


def test_a_dry_run_lists_the_files_and_fetches_none(o2o, pushed, tmp_path):
    code, out, _ = o2o("pull", "ada/point", "--out", tmp_path / "mine", "--dry-run")
    assert code == 0 and f"  {TENSORS}\n" in out and not pushed.sent("resolve") and not left(tmp_path)


def test_a_branch_or_commit_can_be_pulled(o2o, pushed, pretrained, tmp_path, fails):
    assert o2o("push", pretrained, "ada/point", "--revision", "v1", "--license", "mit")[0] == 0
    for revision, out in (("v1", "a"), (commit(pushed), "b")):
        assert o2o("pull", "ada/point", "--revision", revision, "--out", tmp_path / out)[0] == 0
    assert "license: mit" in (tmp_path / "a" / "README.md").read_text()
    assert "license: mit" not in (tmp_path / "b" / "README.md").read_text()
    line = fails(2, "pull", "ada/point", "--revision", "v9", "--out", tmp_path / "c")
    assert line == "ada/point has no revision 'v9'"


@pytest.mark.parametrize(
    ("status", "headers", "line"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, "no such repository, or it is private"),
        (401, {}, "does not accept the token"),
        (403, {"X-Error-Code": "GatedRepo"}, "ada/point is gated: ask for access"),
        (403, {}, "may not do this"),
        (429, {"Retry-After": "60"}, "too many requests"),
        (503, {}, "answers with 503"),
    ],
)
def test_a_refusal_is_one_line(fails, pushed, tmp_path, status, headers, line):
    pushed.refuse["/api/models/"] = status, headers
    assert line in fails(2, "pull", "ada/point", "--out", tmp_path / "mine")
    pushed.refuse = {"/resolve/": (status, headers)}
    assert "ada/point" in fails(2, "pull", "ada/point", "--out", tmp_path / "mine")
    assert "mine" not in left(tmp_path)


def test_a_hub_that_does_not_answer_is_not_waited_for(fails, pushed, tmp_path, monkeypatch):
    monkeypatch.setattr("o2o.deployment.hub.TIMEOUT_S", 0.1)
    pushed.hangs = threading.Event()
    line = fails(2, "pull", "ada/point", "--out", tmp_path / "mine")
    pushed.hangs.set()
    assert line.startswith(f"cannot reach the hub at {pushed.url}")


def test_a_repository_of_something_else_and_no_network_are_one_line(fails, hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    hub.repos["ada/bert"] = {"main": {"config.json": b"{}"}}
    line = fails(2, "pull", "ada/bert", "--out", tmp_path / "mine")
    assert line == "ada/bert is no run that `o2o push` published: it holds no files.json"
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    line = fails(2, "pull", "ada/point", "--out", tmp_path / "mine")
    assert line.startswith("cannot reach the hub at http://127.0.0.1:9") and not left(tmp_path)


def test_a_pull_that_is_killed_leaves_no_folder_and_is_continued(o2o, pushed, tmp_path):
    pushed.cut_after[TENSORS] = [3000, *[0] * 1000]
    out = tmp_path / "mine"
    code = "import sys; import o2o.deployment.hub as hub; hub.WAIT_S = 60.0; from o2o.cli import main; main()"
    process = forked.Popen(
        [sys.executable, "-c", code, "pull", "ada/point", "--out", str(out)],
        env=os.environ | environment(pushed, tmp_path), cwd=ROOT,
    )  # fmt: skip
    partial = tmp_path / ".mine.partial" / TENSORS
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size == 3000):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not out.exists()
    pushed.cut_after.clear()
    assert o2o("pull", "ada/point", "--out", out)[0] == 0
    assert [what for *_, what in pushed.sent(TENSORS)][-1] == "bytes=3000-" and out.is_dir()
