"""Tests that a dataset becomes two replay buffers and is in memory only once."""

import json
import subprocess
import sys
import tracemalloc
import weakref
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from o2o.core import memory, trust
from o2o.core.episode import Episode
from o2o.core.errors import DataError, UsageError
from o2o.data import fit_transform, training_data
from o2o.data.formats import flat_table, registry
from o2o.data.formats.lazy_array import make_lazy_array
from o2o.data.formats.recording import Recording, split
from o2o.data.load import DataConfig, load
from o2o.data.replay_buffer import ReplayConfig

CONFIG, REPLAY = DataConfig(holdout=0.3), ReplayConfig(priority_exponent=0)


@pytest.fixture
def path(tmp_path):
    """Returns a file of forty episodes of three steps; every observation is the number of its row."""
    row = np.arange(160, dtype=np.float32)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["observations"] = row[:, None]
        file["actions"] = np.cos(row)[:, None]
        file["rewards"] = row // 4
        file["terminals"] = np.zeros(160, bool)
        file["timeouts"] = row % 4 == 3
    return tmp_path / "a.hdf5"


def test_each_replay_buffer_has_its_episodes_in_the_order_of_the_file(path):
    data = training_data.read(str(path), CONFIG, REPLAY, seed=1)
    for replay, episodes in zip((data.replay, data.validation), split(range(40), 0.3, 1), strict=True):
        assert replay.num_episodes == len(episodes)
        batch = replay.sample(2000, 3)
        first = batch.obs["state"][0, :, 0]
        assert sorted(set((first // 4).int().tolist())) == episodes
        order = batch.index.argsort()
        assert (first[order].diff() >= 0).all()


def test_loaded_episodes_are_freed_once_stored(path, monkeypatch):
    monkeypatch.setattr(flat_table, "BLOCK_BYTES", 400)
    references = []

    def loaded(*args):
        recording = load(*args)
        references.extend(weakref.ref(episode.obs["state"].base) for episode in recording.episodes)
        return recording

    monkeypatch.setattr(training_data, "load", loaded)
    data = training_data.read(str(path), CONFIG, REPLAY, seed=1)
    assert len(references) == 40 and not any(reference() for reference in references)
    assert [e.episode_return for e in data.recording.episodes] == [3.0 * i for i in range(40)]
    assert data.mean_return == 3 * 19.5


def test_flags_of_a_layout_are_kept_so_that_the_dataset_is_read_again_in_the_same_way(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number in range(6):
            file[f"take{number}/cmd"] = np.full((4, 2), number) + np.arange(4)[:, None]
            file[f"take{number}/pos"] = np.full((5, 3), number)
            file[f"take{number}/paid"], file[f"take{number}/won"] = np.eye(4)[3], np.array([number < 2])
    flags = {"obs": ("pos",), "action": "cmd", "reward": "paid", "success": "won", "episodes_by": "group"}
    config = DataConfig(**flags)
    data = training_data.read(str(tmp_path / "a.h5"), config, REPLAY, seed=0)
    saved = training_data.dataset_info(str(tmp_path / "a.h5"), config, 0, data.recording)
    again = training_data.reload(json.loads(json.dumps(saved)), REPLAY, data.transform)
    assert [e.success for e in again.recording.episodes] == [True, True, False, False, False, False]
    assert again.recording == data.recording and [len(e) for e in again.recording.episodes] == 6 * [4]


def test_dataset_info_counts_all_episodes_and_reloads_the_dataset(path):
    data = training_data.read(str(path), CONFIG, REPLAY, seed=1)
    info = training_data.dataset_info(str(path), CONFIG, 1, data.recording)
    assert (info["episodes"], info["steps"]) == (40, 120)
    again = training_data.reload(info, REPLAY, data.transform)
    assert again.recording == data.recording and again.replay.sample(8, 3).index.shape == (8,)


def test_the_reward_function_is_saved_by_name_and_used_again(path, tmp_path, monkeypatch):
    monkeypatch.setattr(trust, "_given", set())
    recipe = tmp_path / "ruled.py"
    recipe.write_text(
        "from o2o.core.recipe import Recipe\n"
        "RECIPE = Recipe('a', 'b', 'MIT', reward_function=lambda obs, after, action: after['state'][:, 0])\n"
    )
    config = DataConfig(recipe=str(recipe))
    data = training_data.read(str(path), config, REPLAY, seed=1)
    assert data.transform.reward_recipe == str(recipe)
    assert [e.episode_return for e in data.recording.episodes[:2]] == [1 + 2 + 3, 5 + 6 + 7]
    info = training_data.dataset_info(str(path), config, 1, data.recording)
    assert info["dataset_options"]["recipe"] == str(recipe)
    assert training_data.reload(info, REPLAY, data.transform).recording == data.recording
    recorded = {**info, "dataset_options": info["dataset_options"] | {"recipe": ""}}
    line = (
        f"the rewards of the file, the checkpoint was trained with those of the reward function of {recipe}"
    )
    with pytest.raises(UsageError, match=line):
        training_data.reload(recorded, REPLAY, data.transform)
    moved = tmp_path / "moved" / "ruled.py"  # the run came from another machine
    moved.parent.mkdir()
    recipe.rename(moved)
    trust.give(str(moved))
    transform = replace(data.transform, reward_recipe=trust.Saved(recipe))
    again = training_data.reload(trust.mark(info), REPLAY, transform)
    assert again.recording.reward_recipe == str(moved)


def test_dataset_info_describes_the_transform(path):
    config = DataConfig(
        reward_scale=2.0, reward_shift=-1.0, control_hz=20, action_low=(-3.0,), action_high=(3.0,)
    )
    info = training_data.dataset_info(
        str(path), config, 1, training_data.read(str(path), config, REPLAY, 1).recording
    )
    assert info["format"] == "D4RL" and len(info["fingerprint"]) == 64
    assert info["transform"] == {
        "control_hz": 20, "action_low": [-3], "action_high": [3],
        "reward_scale": 2, "reward_shift": -1, "obs": {"state": [1]},
    }  # fmt: skip


def test_a_changed_dataset_is_refused(path):
    data = training_data.read(str(path), CONFIG, REPLAY, seed=1)
    info = training_data.dataset_info(str(path), CONFIG, 1, data.recording)
    with h5py.File(path, "a") as file:
        del file["observations"]
        file["observations"] = np.zeros((160, 2), np.float32)  # its shape does not fit any more either
    with pytest.raises(UsageError, match=r"not the one the checkpoint was trained on \(sha256 "):
        training_data.reload(info, REPLAY, data.transform)


def test_dataset_info_omits_the_memory_budget_of_the_machine(path):
    config = DataConfig(holdout=0.3, memory_budget="1TB", memory="ram")
    data = training_data.read(str(path), config, REPLAY, seed=1)
    info = training_data.dataset_info(str(path), config, 1, data.recording)
    assert not {"memory", "memory_budget"} & info["dataset_options"].keys()
    with pytest.raises(DataError, match=r"budget (is|of) 1 B"):
        training_data.reload(info, REPLAY, data.transform, memory_budget="1B")


# ---- memory


EPISODES, STEPS, SIDE = 40, 25, 64
RAW = EPISODES * (STEPS + 1) * SIDE * SIDE * 3  # 12.8 MB


class Camera:
    """A format whose images stay on disk; it records which episodes are read."""

    NAME = "camera"

    def __init__(self):
        self.read_images = []

    def matches(self, path):
        return True

    def read(self, path, request):
        request.check_memory(EPISODES * STEPS * 8, path)
        return Recording([self._episode(number) for number in range(EPISODES)], path, "x", "0")

    def _episode(self, number):
        def read(start, stop):
            self.read_images.append(number)
            return np.full((stop - start, SIDE, SIDE, 3), number, np.uint8)

        action = np.linspace(-1, 1, STEPS, dtype=np.float32)[:, None]
        camera = make_lazy_array((STEPS + 1, SIDE, SIDE, 3), read)
        return Episode({"camera": camera}, action, np.ones(STEPS, np.float32), False, True)


@pytest.fixture
def camera(tmp_path, monkeypatch):
    """Returns the format and the flags for a recording in it."""
    form = Camera()
    monkeypatch.setattr(registry, "FORMATS", (form,))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.dat").write_text("")
    return form, {"image_size": 16, "control_hz": 50, "resample_hz": 50}


def test_images_of_ten_times_the_budget_are_read_within_the_budget(camera, monkeypatch):
    monkeypatch.setattr(fit_transform, "RESIZE_BYTES", 2**14)  # a constant addition: some images in float32
    (form, flags), budget = camera, RAW // 10
    load("a.dat", DataConfig(**flags))  # imports and caches
    tracemalloc.start()
    data = training_data.read(
        "a.dat", DataConfig(**flags, memory_budget=f"{budget}B", memory="ram"), REPLAY, seed=1
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < budget
    assert form.read_images == list(range(EPISODES))  # each once
    sampled = set(data.replay.sample(2000, 1).obs["camera"].unique().tolist())
    assert len(sampled) == data.replay.num_episodes == 36 and sampled < set(range(EPISODES))


def test_resampling_selecting_and_splitting_read_no_images(camera):
    form, flags = camera
    flags |= {"resample_hz": 25, "max_episodes": 12, "normalize": True}
    recording = load("a.dat", DataConfig(**flags))
    training_data.fit_transform(recording, DataConfig(**flags))
    recording.info()
    assert not form.read_images and len(recording.episodes) == 12
    training_data.read("a.dat", DataConfig(**flags), REPLAY, seed=1)
    assert form.read_images == list(range(12))


def test_observations_over_the_budget_lie_in_files(camera, tmp_path, monkeypatch):
    monkeypatch.setenv("O2O_HOME", str(tmp_path))
    config = DataConfig(**camera[1], memory_budget=f"{RAW // 20}B")
    files = []
    monkeypatch.setattr(memory, "allocate_in_file", lambda *args: files.append(args[0]) or np.empty(*args))
    data = training_data.read("a.dat", config, REPLAY, seed=1)
    assert files == [(36 * 26, 3, 16, 16), (4 * 26, 3, 16, 16)]
    assert data.replay.num_episodes + data.validation.num_episodes == EPISODES


def test_data_that_fit_neither_memory_nor_disk_are_refused_before_an_image_is_read(camera, monkeypatch):
    form, flags = camera
    monkeypatch.setattr(memory, "free_disk_bytes", lambda folder: 0.0)
    with pytest.raises(DataError, match=r"needs .* of memory or .* of disk"):
        training_data.read("a.dat", DataConfig(**flags, memory_budget=f"{RAW // 20}B"), REPLAY, seed=1)
    with pytest.raises(DataError, match=r"--dataset.memory-budget"):
        training_data.read("a.dat", DataConfig(**flags, memory_budget="1kB"), REPLAY, seed=1)
    assert not form.read_images


LARGE = """
import sys
from pathlib import Path
import numpy as np
import o2o.training.pretrain
from o2o import cli
from o2o.core import memory
from o2o.core.episode import Episode
from o2o.data.formats import lazy_array, recording, registry

def status(name):
    return next(int(x.split()[1]) for x in Path("/proc/self/status").read_text().splitlines() if name in x)

class Large:
    NAME = "large"
    matches = staticmethod(lambda path: True)

    def read(self, path, request):
        steps, shape = VECTORS, (VECTORS + 1, 480, 640, 3)
        request.check_memory(4e3 * steps, path)
        camera = lazy_array.make_lazy_array(shape, lambda *_: 1 / 0)
        obs = {"state": np.ones((steps + 1, 1000), np.float32), "camera": camera}
        episode = Episode(obs, np.ones((steps, 1), np.float32), np.ones(steps, np.float32), True, False)
        return recording.Recording([episode], path, "x", "0")

registry.FORMATS = (Large(),)
memory.free_disk_bytes = lambda folder: 1e9
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
code = cli.main(["pretrain", "--dataset", "a.dat", "--dataset.memory-budget", "300MB", "--no-tune"])
print((status("VmHWM") - before) / 1000)
sys.exit(code)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no report of peak memory")
@pytest.mark.parametrize(
    ("vectors", "peak_mb"), [(100_000, 20), pytest.param(5_000, 60, marks=pytest.mark.slow)]
)  # of 400 and 20 MB
def test_pretrain_over_the_budget_ends_with_one_line_and_little_memory(vectors, peak_mb, tmp_path):
    (tmp_path / "a.dat").write_text("")
    code = LARGE.replace("VECTORS", str(vectors))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    errors = [line for line in done.stderr.splitlines() if "error" in line or not line.startswith("o2o: ")]
    assert done.returncode == 3 and len(errors) == 1, done.stderr
    assert "--dataset.memory-budget" in errors[0] and "budget" in done.stderr
    assert float(done.stdout) < peak_mb
    assert not (tmp_path / "runs").exists()


def test_episodes_whose_images_turn_out_broken_are_skipped_by_a_flag(path, monkeypatch, caplog):
    recording = load(str(path), CONFIG)

    def read(start, stop):
        raise DataError("frame 7 is broken")

    recording.episodes[3].obs["camera"] = make_lazy_array((4, 8, 8, 3), read)
    for episode in recording.episodes:
        episode.obs.setdefault("camera", np.zeros((4, 8, 8, 3), np.uint8))
    episodes = recording.episodes
    monkeypatch.setattr(training_data, "load", lambda *args: replace(recording, episodes=list(episodes)))
    with pytest.raises(DataError, match=r"frame 7 is broken; --dataset.skip-broken leaves such episodes out"):
        training_data.read(str(path), CONFIG, REPLAY, seed=1)
    data = training_data.read(str(path), replace(CONFIG, skip_broken=True), REPLAY, seed=1)
    assert data.replay.num_episodes + data.validation.num_episodes == len(data.recording.episodes) == 39
    assert "left out, for its images are broken: frame 7 is broken" in caplog.text
