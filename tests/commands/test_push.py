"""Checks what `o2o push` sends to the hub, and each refusal, on a fake hub."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
import yaml

from o2o.core import checkpoint
from o2o.training.evaluate import Score
from tests.support.fake_hub import TOKEN

FILES = {"README.md", "files.json", "run.json", "metrics.jsonl", "checkpoint/meta.json",
         "checkpoint/tensors.safetensors"}  # fmt: skip


@pytest.fixture(scope="module")
def run(pretrained, tmp_path_factory):
    """A run that evaluated itself twice."""
    out = tmp_path_factory.mktemp("run") / "evaluated"
    shutil.copytree(pretrained, out)
    info = json.loads((out / "run.json").read_text())
    info["config"] |= {"evaluate_every": 6, "evaluate_episodes": 4}
    (out / "run.json").write_text(json.dumps(info))
    lines = [
        {"phase": "offline", "step": step, "time": 1.0, "evaluate/success": success, "evaluate/return": -3.5,
         "evaluate/return_low": -4.25, "evaluate/return_high": -1.125}
        for step, success in ((6, 0.25), (12, 0.75))
    ]  # fmt: skip
    with (out / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return out


def test_a_push_sends_the_run_and_its_card_and_nothing_else(o2o, hub, run):
    (run / "arm.py").write_text("raise SystemExit")
    code, out, err = o2o("push", run, "ada/point", "--license", "mit")
    assert (code, err) == (0, "") and "pushed 6 files" in out and "o2o pull ada/point" in out
    files = hub.files("ada/point")
    assert set(files) == FILES and "ada/point" not in hub.private
    tensors = checkpoint.load(run / "checkpoint")[0]
    assert len(files["checkpoint/tensors.safetensors"]) > sum(one.nbytes for one in tensors.values()) * 0.9


def test_nothing_of_this_machine_is_in_what_is_sent(o2o, hub, run, tmp_path):
    theirs = tmp_path / "theirs"
    shutil.copytree(run, theirs)
    info = json.loads((theirs / "run.json").read_text())
    info["command_line"] = ["finetune", "--robot", "/home/ada/arm.py", "--robot.url", "http://u:pw@arm.lab:1"]
    info["config"]["robot_options"] = {"address": "arm.lab:8765", "note": "hf_abcdefghijkl"}
    (theirs / "run.json").write_text(json.dumps(info))
    assert o2o("push", theirs, "ada/point")[0] == 0
    text = b"".join(content for name, content in hub.files("ada/point").items() if "tensors" not in name)
    for secret in (str(tmp_path), str(run.parent), "/home/ada", "arm.lab", "pw", "hf_abc", TOKEN):
        assert secret.encode() not in text, secret
    assert (
        b"/elsewhere/point-v0" in text and b"o2o finetune --robot /elsewhere/arm.py --robot.url ..." in text
    )


def test_the_card_says_task_data_success_settings_and_limits(o2o, hub, run):
    assert o2o("push", run, "ada/point", "--license", "mit", "--data-license", "cc0-1.0")[0] == 0
    _, head, card = hub.files("ada/point")["README.md"].decode().split("---\n", 2)
    data = yaml.safe_load(head)
    assert data["library_name"] == "o2o" and data["license"] == "mit" and "robotics" in data["tags"]
    metrics = {one["type"]: one["value"] for one in data["model-index"][0]["results"][0]["metrics"]}
    assert metrics == {"success_rate": 0.75, "return": -3.5}
    assert "| after 6 updates | 25% [5%, 70%] | -3.5 [-4.25, -1.125] | 4 |" in card
    assert "| after 12 updates | 75% [30%, 95%] | -3.5 [-4.25, -1.125] | 4 |" in card
    for fact in ("30 episodes", "cc0-1.0", "point_robot.py", "10 Hz", "preset: small",
                 "`state`: vector", "measured on its robot in 4 episodes",
                 "acts with: the policy alone, until episodes show", "carries 30 recorded episodes",
                 "License of the checkpoint: mit"):  # fmt: skip
        assert fact in card, fact


def test_results_of_o2o_evaluate_take_the_place_of_the_runs_own(o2o, hub, run, tmp_path):
    for name, successes in (("before", 1), ("after", 3)):
        score = Score(np.arange(4) < successes, np.full(4, float(successes)), np.full(4, 9))
        score.save(tmp_path / f"{name}.json")
    files = ["--before", tmp_path / "before.json", "--after", tmp_path / "after.json"]
    assert o2o("push", run, "ada/point", *files)[0] == 0
    card = hub.files("ada/point")["README.md"].decode()
    assert "| before | 25% [5%, 70%] | 1 [1, 1] | 4 |" in card
    assert "| after | 75% [30%, 95%] | 3 [3, 3] | 4 |" in card


def test_the_card_of_a_run_that_was_never_measured_says_so(o2o, pretrained):
    out = o2o("push", pretrained, "ada/point", "--dry-run")[1]
    assert "It was never measured on a robot." in out and "none is stated: ask the owner" in out
    assert "model-index" not in out


def test_a_dry_run_prints_files_sizes_and_card_and_sends_nothing(o2o, hub, run):
    code, out, err = o2o("push", run, "ada/point", "--dry-run")
    assert (code, err) == (0, "") and not hub.requests
    assert all(f"  {name}\n" in out for name in FILES) and "library_name: o2o" in out


def test_private_and_revision(o2o, hub, run, fails):
    assert o2o("push", run, "ada/point", "--private", "--revision", "v1")[0] == 0
    assert "ada/point" in hub.private and set(hub.files("ada/point", "v1")) == FILES
    assert not hub.files("ada/point")
    assert o2o("push", run, "ada/open")[0] == 0
    assert "ada/open is public, so nothing was sent" in fails(2, "push", run, "ada/open", "--private")


def test_a_second_push_replaces_the_first(o2o, hub, run, pretrained):
    assert o2o("push", pretrained, "ada/point")[0] == o2o("push", run, "ada/point")[0] == 0
    assert json.loads(hub.files("ada/point")["run.json"])["config"]["evaluate_every"] == 6


@pytest.mark.parametrize(
    ("part", "status", "headers", "line"),
    [
        ("/commit/", 401, {}, "the hub does not accept the token"),
        ("/commit/", 403, {"X-Error-Message": "read-only token"}, "may not do this.*read-only token"),
        ("/api/repos/create", 429, {"Retry-After": "300"}, r"too many requests.*\(in 300 s\)"),
        ("/commit/", 409, {}, "is being changed by somebody else: give the same command again"),
        ("/commit/", 412, {}, "somebody else pushed there meanwhile, and nothing was sent"),
        ("/commit/", 502, {}, "the hub answers with 502"),
    ],
)
def test_a_refusal_is_one_line(fails, hub, run, part, status, headers, line):
    hub.refuse[part] = status, headers
    said = fails(2, "push", run, "ada/point")
    assert said.startswith("ada/point: ") and re.search(line, said), said
    assert hub.repos.get("ada/point", {"main": {}})["main"] == {}


def test_without_a_token_or_a_network_nothing_is_sent(fails, hub, run, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", "")
    assert "no token of the hub" in fails(2, "push", run, "ada/point") and not hub.requests
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    assert "does not accept the token" in fails(2, "push", run, "ada/point")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot reach the hub at http://127.0.0.1:9" in fails(2, "push", run, "ada/point")


@pytest.mark.parametrize(
    "repo", ["point", "a/b/c", "../x/y", "a/..", "ada/po int", "ada/x.git", "_a/b", "a/"]
)
def test_a_wrong_name_is_refused_before_anything_else(fails, run, repo):
    assert "wanted OWNER/NAME" in fails(2, "push", run, f"{repo}", "--dry-run")


def test_wrong_inputs_are_one_line(fails, run, tmp_path):
    assert "holds no checkpoint" in fails(2, "push", tmp_path, "ada/point")
    assert "without its run" in fails(2, "push", run / "checkpoint", "ada/point")
    assert "--license is 'My License'" in fails(2, "push", run, "ada/x", "--license", "My License")
    assert "--before is given without --after" in fails(2, "push", run, "ada/x", "--before", "a.json")
    assert "no.json is not readable" in fails(2, "push", run, "ada/x", "--after", tmp_path / "no.json")


def test_a_damaged_checkpoint_is_not_published(fails, hub, pretrained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(pretrained, run, ignore=shutil.ignore_patterns("checkpoint.previous"))
    tensors = run / "checkpoint" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\xff")
    assert "checksum" in fails(2, "push", run, "ada/point") and not hub.requests


def test_without_the_package_the_line_names_the_extra(fails, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "[hub]" in fails(2, "push", run, "ada/point", "--dry-run")
