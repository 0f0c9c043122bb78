"""Checks that LeRobot datasets of o2o are read as they were recorded, and laid out as LeRobot documents."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet
import pytest

from o2o.core.episode import Episode
from o2o.core.errors import DataError, StorageError, UsageError
from o2o.core.image_layout import ImageFacts
from o2o.core.trust import Saved
from o2o.data.formats import lerobot, lerobot_stats, lerobot_write
from o2o.data.formats.lazy_array import ReadRequest
from tests.support.make_lerobot import make_lerobot
from tests.support.paths import ROOT

VECTORS = {
    "state": (np.float32, (3,)), "arm/angle": (np.float64, (2,)), "grid.sum": (np.int16, (2, 3)),
    "door": (np.bool_, (1,)), "ticks": (np.int64, (2,)), "id": (np.uint64, (1,)), "half": (np.float16, (2,)),
    "mask": (np.uint8, (4, 5)), "observation.force": (np.float32, (1,)),
}  # fmt: skip
IMAGES = {
    "front": (np.uint8, (36, 50, 3)), "gray": (np.uint8, (6, 8, 1)), "clear": (np.uint8, (6, 8, 4)),
    "depth": (np.uint16, (6, 8, 1)),
}  # fmt: skip
ENDS = [(True, False, True), (False, True, True), (True, True, True), (True, False, False),
        (False, True, False)]  # terminated, truncated, last_obs_known  # fmt: skip


def values(rng, dtype, shape):
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 2 if dtype is np.bool_ else np.iinfo(dtype).max, shape, dtype)


def episode(seed: int, kinds=VECTORS, ends=ENDS[1], steps=None, success: bool | None = True) -> Episode:
    rng, steps = np.random.default_rng(seed), steps or 4 + seed
    obs = {name: values(rng, dtype, (steps + 1, *shape)) for name, (dtype, shape) in kinds.items()}
    if not ends[2]:
        obs = {name: value[np.append(np.arange(steps), steps - 1)] for name, value in obs.items()}
    action, reward = rng.normal(size=(steps, 2)), rng.normal(size=steps)
    return Episode(obs, action.astype(np.float32), reward.astype(np.float32), *ends, success=success)


def write(folder, episodes, **options):
    options = {"task": "open the door", "control_hz": 10.0} | options
    lerobot_write.write(folder, episodes, **options)
    return lerobot.read(folder)


def same(one: Episode, two: Episode) -> None:
    assert list(one.obs) == list(two.obs)
    pairs = [(one.action, two.action), (one.reward, two.reward)]
    for left, right in pairs + [(one.obs[name], two.obs[name]) for name in one.obs]:
        left, right = np.asarray(left), np.asarray(right)
        assert left.dtype == right.dtype and left.shape == right.shape and (left == right).all()
    for name in ("terminated", "truncated", "last_obs_known", "success"):
        assert getattr(one, name) == getattr(two, name), name


def test_numbers_of_every_type_and_shape_come_back_to_the_bit(tmp_path):
    episodes = [episode(seed) for seed in range(3)]
    for one, two in zip(episodes, write(tmp_path / "d", episodes).episodes, strict=True):
        same(one, two)


def test_nested_names_have_dots_in_lerobot_and_come_back(tmp_path):
    recording = write(tmp_path / "d", [episode(0)])
    info = json.loads((tmp_path / "d/meta/info.json").read_text())
    assert {"observation.arm.angle", "observation.grid.sum", "observation.force"} <= set(info["features"])
    assert {"arm/angle", "grid.sum", "observation.force"} <= set(recording.episodes[0].obs)
    assert not any("/" in name for name in info["features"])  # LeRobot refuses it


@pytest.mark.parametrize("codec", ["lossless", "png"])
def test_images_come_back_to_the_bit(tmp_path, codec):
    episodes = [episode(seed, IMAGES) for seed in range(3)]
    recording = write(tmp_path / "d", episodes, codec=codec, images={"depth": ImageFacts("HWC")})
    for one, two in zip(episodes, recording.episodes, strict=True):
        same(one, two)
    videos = list((tmp_path / "d").rglob("*.mp4"))
    assert len(videos) == (codec == "lossless") and recording.images["depth"] == ImageFacts("HWC")


def test_h264_is_close_to_smooth_images(tmp_path):
    gradient = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)[..., None].repeat(3, 2)
    one = episode(0, {"front": (np.uint8, (48, 64, 3))})
    one.obs["front"][:] = gradient
    frames = np.asarray(write(tmp_path / "d", [one], codec="h264").episodes[0].obs["front"])
    assert abs(frames.astype(int) - gradient).max() <= 3
    odd = episode(0, {"front": (np.uint8, (5, 8, 3))})
    with pytest.raises(DataError, match="images 'front' have 8 x 5 pixels; --cameras h264 wants even sides"):
        write(tmp_path / "odd", [odd], codec="h264")


def test_channels_that_come_first_are_written_last(tmp_path):
    one = episode(0, {"front": (np.uint8, (3, 36, 50))})
    recording = write(tmp_path / "d", [one], images={"front": ImageFacts("CHW")})
    assert (np.asarray(recording.episodes[0].obs["front"]) == one.obs["front"].transpose(0, 2, 3, 1)).all()


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("success", [True, False, None])
def test_every_way_to_end_comes_back(tmp_path, ends, success):
    one = episode(0, {"state": (np.float32, (2,))}, ends, success=success)
    same(one, write(tmp_path / "d", [one]).episodes[0])


def test_success_that_only_some_episodes_state_stays_unknown_in_the_others(tmp_path):
    stated = [True, None, False]
    episodes = [episode(seed, {"state": (np.float32, (2,))}, success=one) for seed, one in enumerate(stated)]
    assert [one.success for one in write(tmp_path / "d", episodes).episodes] == stated


def test_an_episode_of_one_step_and_one_without_an_end_are_kept(tmp_path):
    one = episode(0, {"state": (np.float32, (2,))}, steps=1)
    two = replace(episode(1, {"state": (np.float32, (2,))}), truncated=False)
    first, second = write(tmp_path / "d", [one, two]).episodes
    same(one, first)
    assert second.truncated and len(second) == len(two)


def test_robot_limits_rate_and_takeovers_come_back(tmp_path):
    one = episode(0, {"state": (np.float32, (2,))})
    one.infos["takeover"] = np.array([0, 0, 1, 1, 0], bool)
    one.infos["task_index"] = np.array([1, 1, 1, 1, 1])
    robot = {"robot": "sim", "robot_options": {"task": "lift"}}
    low, high = np.array([-1.0, -np.inf]), np.array([0.1, np.inf])
    recording = write(tmp_path / "d", [one], control_hz=12.5, robot=robot, action_low=low, action_high=high)
    assert recording.robot == robot and isinstance(recording.robot["robot"], Saved)
    assert recording.control_hz == 12.5
    assert (recording.action_low == low).all() and (recording.action_high == high).all()
    infos = recording.episodes[0].infos
    assert infos["takeover"].tolist() == one.infos["takeover"].tolist()
    assert infos["task_index"].tolist() == [1] * 5
    assert recording.episodes[0].infos["time_s"] == pytest.approx(np.arange(5) / 12.5)
    info = json.loads((tmp_path / "d/meta/info.json").read_text())
    assert (info["robot_type"], info["fps"], info["total_tasks"]) == ("sim", 12.5, 2)


def test_large_datasets_have_several_tables_and_videos(tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot_write, "DATA_MB", 0)
    monkeypatch.setattr(lerobot_write, "VIDEO_MB", 0)
    monkeypatch.setattr(lerobot_write, "CHUNK_FILES", 2)
    episodes = [episode(seed, {"front": (np.uint8, (36, 50, 3))}) for seed in range(3)]
    for one, two in zip(episodes, write(tmp_path / "d", episodes).episodes, strict=True):
        same(one, two)
    files = {str(path.relative_to(tmp_path / "d")) for path in (tmp_path / "d").rglob("*.*")}
    assert {"data/chunk-000/file-001.parquet", "data/chunk-001/file-000.parquet"} <= files
    assert "videos/observation.images.front/chunk-001/file-000.mp4" in files


def test_the_metadata_are_those_that_lerobot_documents(tmp_path):
    episodes = [episode(seed, {"state": (np.float32, (2,)), "front": IMAGES["front"]}) for seed in range(2)]
    write(tmp_path / "d", episodes)
    info = json.loads((tmp_path / "d/meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["splits"] == {"train": "0:2"}
    assert (info["total_episodes"], info["total_frames"], info["fps"]) == (2, 11, 10)
    camera = info["features"]["observation.images.front"]
    assert (camera["dtype"], camera["shape"]) == ("video", [36, 50, 3])
    assert camera["info"]["video.pix_fmt"] == "gbrp" and camera["names"] == ["height", "width", "channels"]
    table = pyarrow.parquet.read_table(tmp_path / "d/data/chunk-000/file-000.parquet")
    assert table.column_names == [name for name, one in info["features"].items() if one["dtype"] != "video"]
    assert str(table.schema.field("action").type) == "fixed_size_list<element: float>[2]"
    assert table["index"].to_pylist() == list(range(11))
    assert table["next.done"].to_pylist()[3:5] == [True, True] and table["next.truncated"][3].as_py()
    rows = pyarrow.parquet.read_table(tmp_path / "d/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert rows[1]["tasks"] == ["open the door"] and rows[1]["length"] == 6
    assert (rows[1]["dataset_from_index"], rows[1]["dataset_to_index"]) == (5, 11)
    assert rows[1]["videos/observation.images.front/from_timestamp"] == pytest.approx(0.5)
    assert rows[1]["videos/observation.images.front/to_timestamp"] == pytest.approx(1.1)
    assert rows[0]["data/file_index"] == rows[0]["meta/episodes/chunk_index"] == 0
    assert rows[0]["stats/action/count"] == [5]
    tasks = pyarrow.parquet.read_table(tmp_path / "d/meta/tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0], "task": ["open the door"]}
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_statistics_are_those_of_all_frames(tmp_path):
    episodes = [episode(seed, {"state": (np.float32, (2,)), "front": IMAGES["front"]}) for seed in range(2)]
    write(tmp_path / "d", episodes)
    stats = json.loads((tmp_path / "d/meta/stats.json").read_text())
    state = np.concatenate([one.obs["state"] for one in episodes]).astype(float)
    pixels = np.concatenate([one.obs["front"] for one in episodes]) / 255
    for name, function in {"min": np.min, "max": np.max, "mean": np.mean, "std": np.std}.items():
        assert stats["observation.state"][name] == pytest.approx(function(state, axis=0))
        wanted = function(pixels, axis=(0, 1, 2))
        assert np.array(stats["observation.images.front"][name]) == pytest.approx(wanted[:, None, None])
    assert stats["observation.state"]["count"] == stats["observation.images.front"]["count"] == [11]


def test_quantiles_of_an_image_are_its_pixels():
    images = lerobot_stats.ImageStats(1, np.dtype(np.uint8))
    images.add(np.arange(100, dtype=np.uint8).reshape(1, 10, 10, 1))
    result = {name: float(value.ravel()[0]) * 255 for name, value in images.result().items()}
    assert result["q10"] == pytest.approx(9) and result["q90"] == pytest.approx(89)
    assert (result["min"], result["max"]) == pytest.approx((0, 99))


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path):
    one, other = episode(0), episode(1, VECTORS | {"state": (np.float32, (4,))})
    with pytest.raises(DataError, match=r"episode 1 has 'observation.state' of shape \(4,\)"):
        write(tmp_path / "d", [one, other])
    with pytest.raises(DataError, match=r"two columns would be 'observation\.a\.b'"):
        kinds = {"a/b": (np.float32, (1,)), "a.b": (np.float32, (1,))}
        write(tmp_path / "d", [episode(0, kinds)])
    cut = episode(1, {"front": (np.uint8, (36, 60, 3))})
    with pytest.raises(DataError, match=r"episode 1 has 'observation\.images\.front' of shape"):
        write(tmp_path / "d", [episode(0, {"front": IMAGES["front"]}), cut])
    one.infos["task_index"] = np.full(5, 10**9)
    with pytest.raises(DataError, match="task_index 1000000000, wanted below 10000"):
        write(tmp_path / "d", [one])
    with pytest.raises(DataError, match="no episodes"):
        write(tmp_path / "d", [])
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write the dataset"):
        write(tmp_path / "file" / "d", [episode(0)])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(UsageError, match="already exists and is not empty"):
        write(tmp_path / "full", [episode(0)])


def test_a_kill_leaves_no_dataset_under_the_name(tmp_path):
    code = f"""
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests/data/formats")!r}]
from test_lerobot_write import IMAGES, episode, write
folder = Path({str(tmp_path)!r})
class Killing(list):
    def __iter__(self):
        yield from list.__iter__(self)
        if list(folder.iterdir()):
            os.kill(os.getpid(), signal.SIGKILL)
write(folder / "d", Killing([episode(0, IMAGES), episode(1, IMAGES)]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".d-") and not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        ({"format": 9}, "format is 9, wanted 1"),
        ({"obs": {"observation.state": {"name": 3, "dtype": "float32"}}}, "wanted a text"),
        ({"obs": {"observation.state": {"name": "s", "dtype": "object"}}}, "wanted a type of numbers"),
        ({"obs": {"a": {"name": "s", "dtype": "f4"}, "b": {"name": "s", "dtype": "f4"}}}, "the same name"),
        ({"images": {"state": {"layout": "XY"}}}, "layout of image 'state'"),
        ({"robot": 7}, "wanted an object"),
        ({"more": 1}, "unknown field 'more'"),
    ],
)
def test_an_edited_file_of_o2o_is_one_line(tmp_path, edit, line):
    write(tmp_path / "d", [episode(0)])
    file = tmp_path / "d/meta/o2o.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | edit))
    with pytest.raises(DataError, match=line):
        lerobot.read(tmp_path / "d")


def test_names_can_be_chosen_as_of_any_recording(tmp_path):
    write(tmp_path / "d", [episode(0)])
    recording = lerobot.read(tmp_path / "d", ReadRequest(obs={"angle": "arm/angle"}))
    assert list(recording.episodes[0].obs) == ["angle"]
    assert recording.episodes[0].obs["angle"].dtype == np.float64


def test_the_columns_of_endings_count_in_datasets_of_others(tmp_path):
    ends = np.zeros(15, bool)
    ends[[4, 7]] = True  # the last frame of episode 0, and the frame before that of episode 1
    table = {"next.terminated": ends, "next.truncated": np.zeros(15, bool)}
    folder = make_lerobot(tmp_path / "d", "v3.0", camera=False, table=table)
    first, second, third = lerobot.read(folder).episodes
    assert (len(first), first.terminated, first.last_obs_known) == (5, True, False)
    assert (len(second), second.terminated, second.last_obs_known) == (3, True, True)
    assert (len(third), third.terminated, third.truncated) == (5, False, True)
    ends[[10, 11]] = True, False
    broken = make_lerobot(tmp_path / "broken", "v3.0", camera=False, table=table)
    with pytest.raises(DataError, match="episode 2 has 4 frames after the one that ends it"):
        lerobot.read(broken)
