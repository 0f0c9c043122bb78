"""Tests that damaged files of every format read as before or are refused in one line."""

import shutil
import time

import numpy as np
import pytest

from o2o.core import checkpoint
from o2o.core.errors import UsageError
from tests.stress import fuzz, fuzz_runs
from tests.support import forked

SLOW = {"lerobot-own"}  # of a reader that another format covers
NAMES = [
    *[pytest.param(name, 8, id=name) for name in fuzz.available() if name not in SLOW],
    *[pytest.param(name, 6, id=name) for name in fuzz.RUNS],  # a round starts a command
    *[
        pytest.param(name, 20, id=f"{name}, 20 rounds", marks=[pytest.mark.slow])
        for name in (*fuzz.available(), *fuzz.RUNS)
    ],
]


@pytest.mark.parametrize(("name", "rounds"), NAMES)
def test_damaged_files_are_refused_in_one_line(name, rounds, monkeypatch):
    monkeypatch.setattr(fuzz, "subprocess", forked)
    results = list(fuzz.run_rounds(name, range(rounds)))
    assert [seed for seed, _, _ in results] == list(range(rounds))
    findings = [
        f"--seed {seed}: {outcome}: {text}" for seed, outcome, text in results if outcome in fuzz.FINDINGS
    ]
    assert not findings, "\n".join(findings)
    assert any(outcome == "refused" for _, outcome, _ in results)


def test_makers_and_damages_repeat_for_the_same_seed(tmp_path):
    results = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        path = fuzz.d4rl(folder)
        results.append(
            (fuzz.read_digest(path), fuzz.damage_file(path, np.random.default_rng(5))[2], path.read_bytes())
        )
    assert results[0] == results[1]


def test_edited_checkpoints_have_valid_checksums(tmp_path):
    intact = fuzz_runs.make_run(tmp_path)
    for seed in range(12):
        run = tmp_path / f"run-{seed}"
        shutil.copytree(intact, run)
        edit = fuzz_runs.edit_meta if seed % 2 else fuzz_runs.edit_tensors
        name = "meta.json" if seed % 2 else "tensors.safetensors"
        edit(run / "pretrain" / "checkpoint" / name, np.random.default_rng(seed))
        try:
            checkpoint.load(run / "pretrain" / "checkpoint")
        except UsageError as error:  # of a header that lies
            assert "checksum" not in str(error) and "tensors.safetensors: " in str(error)


def test_content_digest_depends_on_every_value(tmp_path):
    path = fuzz.d4rl(tmp_path)
    before = fuzz.read_digest(path)
    data = path.read_bytes()
    pixels = fuzz.transitions()["observations/camera"].tobytes()
    position = data.index(pixels) + len(pixels) - 1  # the last pixel of the last image
    path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
    assert fuzz.read_digest(path) != before


class Reader:
    """A format whose reader calls a function of the test."""

    NAME = "broken"

    def __init__(self, do):
        self.do = do

    def matches(self, path):
        return True

    def read(self, path, request):
        return self.do()


def test_reader_that_raises_or_has_a_two_line_error_is_a_finding(tmp_path, monkeypatch):
    path = fuzz.d4rl(tmp_path)
    for do, outcome in ((lambda: 1 / 0, "raised"), (two_lines, "multiline"), (one_line, "refused")):
        monkeypatch.setattr(fuzz.registry, "FORMATS", (Reader(do),))
        assert fuzz.run_round("d4rl", 0, path, "")[0] == outcome


def two_lines():
    raise fuzz.O2OError("one\ntwo")


def one_line():
    raise fuzz.O2OError("one")


def test_undetected_change_under_a_checksum_is_a_misread(tmp_path, monkeypatch):
    path = fuzz.d4rl(tmp_path)
    monkeypatch.setattr(fuzz, "read_digest", lambda path: "another")
    monkeypatch.setattr(fuzz, "damage_file", lambda path, rng: (fuzz.flip_bytes, path, "flipped"))
    assert fuzz.run_round("d4rl", 0, path, "want")[0] == "other"
    assert fuzz.run_round("d4rl-summed", 0, path, "want")[0] == "misread"
    monkeypatch.setattr(fuzz, "damage_file", lambda path, rng: (fuzz.change_hdf5, path, "changed"))
    assert fuzz.run_round("d4rl-summed", 0, path, "want")[0] == "changed"


@pytest.mark.parametrize(("body", "outcome"), [("os._exit(7)", "died"), ("time.sleep(100)", "hung")])
def test_process_that_dies_or_hangs_is_a_finding_with_its_seed(tmp_path, monkeypatch, body, outcome):
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import json, os, sys, time\n"
        "seed, rounds = int(sys.argv[4]), int(sys.argv[6])\n"
        "for number in range(seed, seed + rounds):\n"
        "    print(json.dumps([number]), flush=True)\n"
        f"    if number == 2: {body}\n"
        "    print(json.dumps([number, 'same', '']), flush=True)\n"
    )
    monkeypatch.setattr(fuzz, "WORKER", [str(worker)])
    begin = time.monotonic()
    results = [(seed, result) for seed, result, _ in fuzz.run_rounds("d4rl", range(5), limit_s=3.0)]
    assert results == [(0, "same"), (1, "same"), (2, outcome), (3, "same"), (4, "same")]
    assert time.monotonic() - begin < 30
