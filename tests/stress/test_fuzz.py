"""Damaged files of every format: read as before, refused in one line, or at least never worse."""

import time

import numpy as np
import pytest

from tests.stress import fuzz

ROUNDS = 20


@pytest.mark.parametrize("name", fuzz.available())
def test_damaged_files_are_refused_in_one_line(name):
    endings = list(fuzz.run(name, range(ROUNDS)))
    assert [seed for seed, _, _ in endings] == list(range(ROUNDS))
    found = [f"--seed {seed}: {ending}: {told}" for seed, ending, told in endings if ending in fuzz.FINDINGS]
    assert not found, "\n".join(found)
    assert any(ending == "refused" for _, ending, _ in endings)


def test_makers_and_damages_repeat_for_the_same_seed(tmp_path):
    told = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        path = fuzz.d4rl(folder)
        told.append((fuzz.look(path), fuzz.damage(path, np.random.default_rng(5))[2], path.read_bytes()))
    assert told[0] == told[1]


def test_content_sees_every_value(tmp_path):
    path = fuzz.d4rl(tmp_path)
    before = fuzz.look(path)
    data = path.read_bytes()
    pixels = fuzz.transitions()["observations/camera"].tobytes()
    place = data.index(pixels) + len(pixels) - 1  # the last pixel of the last image
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    assert fuzz.look(path) != before


class Reader:
    """A format whose reader does what a test asks for."""

    NAME = "broken"

    def __init__(self, do):
        self.do = do

    def matches(self, path):
        return True

    def read(self, path, request):
        return self.do()


def test_a_reader_that_raises_or_says_two_lines_is_found(tmp_path, monkeypatch):
    path = fuzz.d4rl(tmp_path)
    for do, ending in ((lambda: 1 / 0, "raised"), (two_lines, "lines"), (one_line, "refused")):
        monkeypatch.setattr(fuzz.registry, "FORMATS", (Reader(do),))
        assert fuzz.round_of("d4rl", 0, path, "")[0] == ending


def two_lines():
    raise fuzz.O2OError("one\ntwo")


def one_line():
    raise fuzz.O2OError("one")


def test_a_change_that_a_checksum_covers_is_a_misread(tmp_path, monkeypatch):
    path = fuzz.d4rl(tmp_path)
    monkeypatch.setattr(fuzz, "look", lambda path: "another")
    monkeypatch.setattr(fuzz, "damage", lambda path, rng: (fuzz.flip, path, "flipped"))
    assert fuzz.round_of("d4rl", 0, path, "want")[0] == "other"
    assert fuzz.round_of("d4rl-summed", 0, path, "want")[0] == "misread"
    monkeypatch.setattr(fuzz, "damage", lambda path, rng: (fuzz.change_hdf5, path, "changed"))
    assert fuzz.round_of("d4rl-summed", 0, path, "want")[0] == "changed"


@pytest.mark.parametrize(("body", "ending"), [("os._exit(7)", "died"), ("time.sleep(100)", "hung")])
def test_a_process_that_dies_or_hangs_is_found_with_its_seed(tmp_path, monkeypatch, body, ending):
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
    endings = [(seed, how) for seed, how, _ in fuzz.run("d4rl", range(5), limit_s=3.0)]
    assert endings == [(0, "same"), (1, "same"), (2, ending), (3, "same"), (4, "same")]
    assert time.monotonic() - begin < 30
