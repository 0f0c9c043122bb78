"""Tests that no file makes a command wait, leave the dataset's folder, or exceed the memory budget."""

import os
import re

import pytest

from tests.stress import fuzz
from tests.support.bombs import BOMBS
from tests.support.make_lerobot import make_lerobot
from tests.support.make_minari import link_episodes, make_minari
from tests.support.make_rlds import make_rlds
from tests.support.time_limit import time_limit

COMMANDS = {
    "info": ("data", "info", "SRC"),
    "convert": ("data", "convert", "SRC", "DST"),
    "relabel": ("data", "relabel", "SRC", "DST", "--success-reward", "1"),
    "split": ("data", "split", "SRC", "DST", "PART"),
    "merge": ("data", "merge", "SRC", "SRC", "DST"),
    "check": ("check", "--dataset", "SRC"),
    "pretrain": ("pretrain", "--dataset", "SRC", "--out", "DST"),
}
FOLDERS = {
    "minari": (make_minari, "data/main_data.hdf5"),
    "minari-arrow": (lambda folder: make_minari(folder, data_format="arrow"), "data/1/part-0.arrow"),
    "minari-linked": (lambda folder: link_episodes(make_minari(folder)), "data/episodes/000001.hdf5"),
    "lerobot": (make_lerobot, "data/chunk-000/episode_000001.parquet"),
    "lerobot-info": (make_lerobot, "meta/info.json"),
    "lerobot-episodes": (make_lerobot, "meta/episodes.jsonl"),
    "lerobot-video": (make_lerobot, "videos/chunk-000/observation.images.front/episode_000000.mp4"),
    "rlds": (make_rlds, "features.json"),
}


def words(command: str, tmp_path, source) -> list:
    places = {"SRC": source, "DST": tmp_path / "out", "PART": tmp_path / "part"}
    return [places.get(word, word) for word in COMMANDS[command]]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["data.hdf5", "buffer.pkl", "toy-train.tfrecord-00000-of-00001"])
def test_fifo_in_place_of_a_dataset_is_refused(fails, tmp_path, command, name):
    os.mkfifo(tmp_path / name)
    with time_limit(20):
        line = fails(3, *words(command, tmp_path, tmp_path / name))
    assert line == f"{tmp_path / name} cannot be read: it is a FIFO, wanted a regular file"


@pytest.mark.parametrize("kind", FOLDERS)
def test_fifo_in_a_dataset_is_refused(fails, tmp_path, kind):
    make, name = FOLDERS[kind]
    folder = make(tmp_path / "set")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with time_limit(20):
        line = fails(3, "data", "info", folder)
    assert line == f"{folder / name} cannot be read: it is a FIFO, wanted a regular file"


@pytest.mark.parametrize("kind", FOLDERS)
def test_link_out_of_a_dataset_is_refused(fails, tmp_path, kind):
    make, name = FOLDERS[kind]
    folder = make(tmp_path / "set")
    (folder / name).rename(tmp_path / "other")
    (folder / name).symlink_to(tmp_path / "other")
    assert f"{folder / name} leads to {tmp_path / 'other'}" in fails(3, "data", "info", folder)


@pytest.mark.parametrize("name", ["labels.csv", "labels.json", "labels.py"])
def test_fifo_in_place_of_labels_is_refused(fails, tmp_path, name):
    source = fuzz.robomimic(tmp_path)
    os.mkfifo(tmp_path / name)
    with time_limit(20):
        line = fails(2, "data", "relabel", source, tmp_path / "out", "--by", tmp_path / name)
    assert "it is a FIFO, wanted a regular file" in line and str(tmp_path / name) in line


@pytest.mark.parametrize("name", ["run.json", "checkpoint/tensors.safetensors"])
def test_fifo_in_a_run_is_refused(fails, tmp_path, name):
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    for file in ("run.json", "checkpoint/meta.json"):
        (tmp_path / "run" / file).write_text('{"format": 2, "command": "pretrain", "config": {}, "meta": {}}')
    (tmp_path / "run" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "run" / name)
    command = "pretrain" if name == "run.json" else "evaluate"
    flag = {"pretrain": ["--resume", "--out"], "evaluate": ["--checkpoint"]}[command]
    with time_limit(20):
        line = fails(2, command, *flag, tmp_path / "run")
    assert "it is a fifo, wanted a regular file" in line.lower()


@pytest.mark.parametrize("command", ["info", "convert", "check"])
@pytest.mark.parametrize("name", ["d4rl chunk", "minari steps", "lerobot cell", "lerobot pngs"])
def test_small_file_that_takes_more_memory_than_the_budget_is_refused(fails, tmp_path, command, name):
    make, what = BOMBS[name]
    path = make(tmp_path)
    line = fails(3, *words(command, tmp_path, path), "--dataset.memory-budget", "24MB")
    assert re.fullmatch(
        rf".* needs .* of memory.*{what}.*; the budget is 24 MB: raise .*memory-budget.*", line
    )
    assert not (tmp_path / "out").exists()
