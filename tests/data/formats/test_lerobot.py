"""Tests the LeRobot reader: frames match their rows, deviating files are read, damage is reported."""

import json
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from o2o.core.errors import DataError, UsageError
from o2o.core.image_layout import ImageFacts
from o2o.data.fit_transform import fit_transform
from o2o.data.formats.episode_choice import parse_episodes
from o2o.data.formats.lazy_array import LazyArray, parse_request
from o2o.data.formats.lerobot import matches, read
from o2o.data.load import DataConfig
from tests.support.make_lerobot import (
    CAMERA,
    FPS,
    columns,
    image,
    make_lerobot,
    png,
    rows_of,
    write_table,
    write_video,
)
from tests.support.paths import REAL_DATA

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
av = pytest.importorskip("av", reason="PyAV is not installed")


REAL_DATA = REAL_DATA / "g1_lerobot_v21"
VERSIONS = ("v2.1", "v3.0")
ROWS = [[0, 1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12, 13, 14]]  # of the three episodes of `make_lerobot`


def states(recording, name="observation.state") -> list[list[int]]:
    return [e.obs[name][:, 0].astype(int).tolist() for e in recording.episodes]


def frames(recording, name=CAMERA) -> list[list[int]]:
    return [rows_of(e.obs[name]) for e in recording.episodes]


def log_text(caplog) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


def change_info(folder: Path, **entries) -> Path:
    """Changes entries of info.json; None removes one."""
    path = folder / "meta/info.json"
    info = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({name: value for name, value in info.items() if value is not None}))
    return folder


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
def test_every_frame_matches_its_row(tmp_path, version, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV has no {codec}")
    folder = make_lerobot(tmp_path / "pick", version, codec=codec)
    assert matches(folder)
    recording = read(folder)
    assert (recording.name, recording.control_hz, len(recording.fingerprint)) == ("pick", FPS, 64)
    assert states(recording) == frames(recording) == ROWS
    for episode, rows in zip(recording.episodes, ROWS, strict=True):
        camera = episode.obs[CAMERA]
        assert isinstance(camera, LazyArray) and camera.shape == (len(rows), 64, 64, 3)
        assert rows_of(camera[2:4]) == rows[2:4] and rows_of(camera[-1:]) == rows[-1:]
        np.testing.assert_allclose(episode.action[:, 0] * 10, rows[:-1], rtol=1e-6)  # the last is dropped
        assert (episode.action.dtype, episode.reward.dtype) == (np.float32, np.float32)
        assert (episode.terminated, episode.truncated, episode.last_obs_known) == (False, True, True)
        assert not episode.reward.any() and episode.success is None
        np.testing.assert_allclose(episode.infos["time_s"], np.arange(len(rows)) / FPS, atol=1e-6)
        assert episode.infos["task_index"].tolist() == [0] * len(rows)


@pytest.mark.parametrize("per_file", [1, 3])
def test_v3_files_may_hold_one_episode_or_all(tmp_path, per_file):
    recording = read(make_lerobot(tmp_path, "v3.0", per_file=per_file))
    assert states(recording) == frames(recording) == ROWS


def test_v2_videos_are_found_in_several_chunk_folders(tmp_path):
    folder = change_info(make_lerobot(tmp_path), chunks_size=2)
    for kind, ending in (("data/chunk-00{}", "parquet"), (f"videos/chunk-00{{}}/{CAMERA}", "mp4")):
        target = folder / kind.format(1) / f"episode_000002.{ending}"
        target.parent.mkdir(parents=True)
        (folder / kind.format(0) / target.name).rename(target)
    assert states(read(folder)) == frames(read(folder)) == ROWS


VARIANTS = {
    "names of actions and state": {
        "table": {"actions": columns()["action"], "state": columns()["observation.state"]}
        | dict.fromkeys(("action", "observation.state"))
    },
    "another folder for videos": {"videos": "video"},
    "plain lists": {"plain": True},
    "64 bits": {"table": {"observation.state": columns()["observation.state"].astype(np.float64)}},
    "scalars as lists of length one": {
        "table": {n: columns()[n][:, None] for n in ("timestamp", "frame_index", "episode_index", "index")}
    },
    "index columns as floats": {
        "table": {name: columns()[name].astype(float) for name in ("frame_index", "episode_index")}
    },
    "no timestamps": {"table": {"timestamp": None}},
    "neither timestamps nor frame index": {"table": {"timestamp": None, "frame_index": None}},
    "small row groups": {"row_group_size": 2},
}  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("how", VARIANTS)
def test_datasets_that_deviate_from_the_specification_are_read(tmp_path, version, how):
    recording = read(make_lerobot(tmp_path, version, **VARIANTS[how]))
    name = next(name for name in recording.episodes[0].obs if name != CAMERA)
    assert states(recording, name) == frames(recording) == ROWS
    assert recording.episodes[0].obs[name].dtype == np.float32
    assert recording.episodes[0].action[:, 0].tolist() == pytest.approx([0, 0.1, 0.2, 0.3])


INFO = {
    "another template": {"video_path": "films/{episode_index}.mp4", "data_path": "nowhere/{x}"},
    "no template": {"video_path": None, "data_path": None},
    "an invalid template": {"video_path": "{episode_index:99999999999d}{video_key.__class__}"},
    "no version": {"codebase_version": None},
    "an unknown version": {"codebase_version": "v9"},
    "a rate as text": {"fps": "10"},
    "no chunks": {"chunks_size": 0},
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("how", INFO)
def test_wrong_entries_of_info_do_not_hide_the_files(tmp_path, version, how):
    recording = read(change_info(make_lerobot(tmp_path, version), **INFO[how]))
    assert states(recording) == frames(recording) == ROWS and recording.control_hz == FPS


def test_rows_and_files_in_any_order_are_sorted_by_episode_and_frame(tmp_path):
    folder = make_lerobot(tmp_path, "v3.0", per_file=3)
    table = {name: value[::-1] for name, value in columns().items()}
    (folder / "data/chunk-000/file-000.parquet").unlink()
    write_table(folder / "data/chunk-000/file-001.parquet", {n: v[:7] for n, v in table.items()})
    write_table(folder / "data/chunk-007/file-000.parquet", {n: v[7:] for n, v in table.items()})
    assert states(read(folder)) == frames(read(folder)) == ROWS


def test_without_episode_metadata_shared_videos_are_cut_by_the_lengths(tmp_path, caplog):
    folder = make_lerobot(tmp_path, "v3.0")
    (folder / "meta/episodes/chunk-000/file-000.parquet").unlink()
    assert frames(read(folder)) == frames(read(change_info(folder, video_path=None))) == ROWS
    assert "episodes are assumed to follow one another" in log_text(caplog)
    write_video(folder / f"videos/{CAMERA}/chunk-000/file-000.mp4", [image(row) for row in range(8)])
    with pytest.raises(DataError, match=r"has 8 frames, the next episodes have 9; meta/episodes"):
        read(folder)
    assert states(read(folder, parse_request(["observation.state"]))) == ROWS


def test_episodes_without_index_end_with_their_file_or_at_a_frame_restart(tmp_path, caplog):
    for version in VERSIONS:
        folder = make_lerobot(tmp_path / version, version, table={"episode_index": None})
        assert states(read(folder)) == frames(read(folder)) == ROWS
    assert "has no episode_index" in log_text(caplog)


def test_names_can_be_mapped(tmp_path):
    more = {
        "reward": np.arange(15.0),
        "pose": columns()["observation.state"] * 2,
        "act": columns()["action"] * 3,
    }
    folder = make_lerobot(tmp_path, table=more)
    recording = read(folder, parse_request(["pose", f"front={CAMERA}"], "act, action", "reward"))
    assert list(recording.episodes[0].obs) == ["pose", "front"]
    assert states(recording, "pose")[0] == [0, 2, 4, 6, 8] and frames(recording, "front") == ROWS
    np.testing.assert_allclose(
        recording.episodes[0].action, [[0, 0], [0.3, 0.1], [0.6, 0.2], [0.9, 0.3]], rtol=1e-5
    )
    assert recording.episodes[0].reward.tolist() == [0, 1, 2, 3]
    for request, line in (
        (parse_request(["observation.stat"]), "did you mean 'observation.state'"),
        (parse_request([], "acts"), "action 'acts' not found; did you mean 'act'"),
        (parse_request([], "", "score"), "reward 'score' not found"),
    ):
        with pytest.raises(UsageError, match=line):
            read(folder, request)


def test_parts_of_actions_are_concatenated(tmp_path):
    action = columns()["action"]
    folder = make_lerobot(tmp_path, table={"action": None, "action.arm": action, "action.hand": -action})
    np.testing.assert_allclose(read(folder).episodes[0].action[3], [0.3, -0.3], rtol=1e-6)


def ends(**columns_) -> dict[str, np.ndarray]:
    """Flags of the three episodes' 15 rows, true at the given rows."""
    return {f"next.{name}": np.isin(np.arange(15), rows) for name, rows in columns_.items()}


def test_success_at_the_end_keeps_its_last_step_and_a_time_limit_drops_it(tmp_path):
    table = ends(done=[4, 8, 14], success=[4, 12]) | {"next.reward": np.arange(15.0)}
    first, second, third = read(make_lerobot(tmp_path, table=table)).episodes
    assert (first.terminated, first.truncated, first.last_obs_known) == (True, False, False)
    assert first.obs["observation.state"][:, 0].tolist() == [0, 1, 2, 3, 4, 4] and first.reward.tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert rows_of(first.obs[CAMERA]) == [0, 1, 2, 3, 4, 4] and rows_of(first.obs[CAMERA][4:]) == [4, 4]
    np.testing.assert_allclose(first.infos["time_s"], [0, 0.1, 0.2, 0.3, 0.4, 0.5], atol=1e-6)
    assert (second.terminated, second.last_obs_known, len(second)) == (False, True, 3)
    assert [e.success for e in (first, second, third)] == [True, False, True]
    assert not third.terminated and third.reward.tolist() == [9, 10, 11, 12, 13]


def test_without_success_column_a_last_reward_of_one_marks_success(tmp_path):
    sparse = ends(done=[4, 8, 14]) | {"next.reward": np.isin(np.arange(15), [4]).astype(np.float32)[:, None]}
    first, second, _ = read(make_lerobot(tmp_path / "sparse", table=sparse)).episodes
    assert first.terminated and first.reward.tolist() == [0, 0, 0, 0, 1] and not second.terminated
    dense = sparse | {"next.reward": np.linspace(0, 1, 15)}
    assert not any(e.terminated for e in read(make_lerobot(tmp_path / "dense", table=dense)).episodes)


def test_the_only_reward_of_an_episode_is_kept_with_its_step(tmp_path, caplog):
    table = {"next.reward": np.isin(np.arange(15), [4, 13, 14]).astype(np.float32)}
    first, second, third = read(make_lerobot(tmp_path, table=table)).episodes
    assert first.reward.tolist() == [0, 0, 0, 0, 1] and first.terminated and not first.last_obs_known
    assert not second.reward.any() and not second.terminated and second.last_obs_known
    assert third.reward.tolist() == [0, 0, 0, 0, 1] and not third.terminated  # its next reward is lost
    assert "the last reward of 1 of 3 episodes differs from the others" in log_text(caplog)


def test_takeover_belongs_to_its_step(tmp_path):
    table = {"complementary_info.is_intervention": np.isin(np.arange(15), [1, 4]).astype(np.float32)[:, None]}
    first = read(make_lerobot(tmp_path, table=table)).episodes[0]
    assert first.infos["takeover"].tolist() == [False, False, True, False, False]  # of actions 0 to 3


def test_missing_rewards_are_zero_with_a_warning(tmp_path, caplog):
    read(make_lerobot(tmp_path, camera=False))
    assert "has no rewards: all are read as 0; add them with `o2o data relabel`" in log_text(caplog)


def test_camera_with_missing_files_is_left_out_unless_requested(tmp_path, caplog):
    for version, name in zip(VERSIONS, ("episode_000001.mp4", "file-001.mp4"), strict=True):
        caplog.clear()
        folder = make_lerobot(tmp_path / version, version)
        next((folder / "videos").rglob(name)).unlink()
        recording = read(folder)
        assert list(recording.episodes[0].obs) == ["observation.state"] and states(recording) == ROWS
        num = 3 if version == "v2.1" else 2
        assert f"{CAMERA!r} is left out, since 1 of {num} of its videos are missing" in log_text(caplog)
        with pytest.raises(DataError, match=f"videos of '{CAMERA}' are missing: .*{name}$"):
            read(folder, parse_request([f"camera={CAMERA}"]))


def test_dataset_whose_only_camera_has_no_files_is_refused(tmp_path):
    folder = make_lerobot(tmp_path, table={"observation.state": None})
    next((folder / "videos").rglob("*.mp4")).unlink()
    with pytest.raises(
        DataError, match=r"has no observations whose files exist, of observation.images.front"
    ):
        read(folder)


@pytest.mark.parametrize("where", ["in the table", "beside it", "as bare bytes"])
@pytest.mark.parametrize("version", VERSIONS)
def test_images_in_tables_are_decoded_when_indexed(tmp_path, version, where):
    stored = [{"bytes": png(image(row)), "path": None} for row in range(15)]
    if where == "beside it":
        stored = [{"bytes": None, "path": f"images/{row}.png"} for row in range(15)]
        (tmp_path / "images").mkdir()
        for row in range(15):
            (tmp_path / f"images/{row}.png").write_bytes(png(image(row)))
    if where == "as bare bytes":
        stored = [one["bytes"] for one in stored]
    folder = make_lerobot(
        tmp_path, version, table={"observation.image": stored}, camera=False, row_group_size=2
    )
    recording = read(folder)
    assert frames(recording, "observation.image") == states(recording) == ROWS
    camera = recording.episodes[2].obs["observation.image"]
    assert isinstance(camera, LazyArray) and rows_of(camera[3:5]) == [12, 13] and rows_of(camera[5:]) == [14]


@pytest.mark.parametrize(
    ("names", "layout"), [(["channels", "height", "width"], "CHW"), (["height", "width", "channels"], "HWC")]
)
def test_names_of_axes_say_what_an_array_is(tmp_path, names, layout):
    array = np.arange(15 * 5 * 6 * 7, dtype=np.float32).reshape(15, 5, 6, 7)
    folder = make_lerobot(tmp_path, table={"observation.touch": array}, camera=False)
    info = folder / "meta" / "info.json"
    content = json.loads(info.read_text())
    content["features"]["observation.touch"]["names"] = names
    info.write_text(json.dumps(content))
    recording = read(folder)
    assert recording.images == {"observation.touch": ImageFacts(layout)}
    field = fit_transform(recording, DataConfig(image_size=16)).fields["observation.touch"]
    assert field.axes == layout and field.model_shape == ({"CHW": 5, "HWC": 7}[layout], 16, 16)


def test_depth_of_16_bits_keeps_its_millimeters(tmp_path):
    millimeters = [np.full((12, 16), 1000 + 300 * row, np.uint16) for row in range(15)]
    stored = [{"bytes": png(pixels), "path": None} for pixels in millimeters]
    make_lerobot(tmp_path, table={"observation.depth": stored}, camera=False)
    episode = read(tmp_path).episodes[0]
    depth = episode.obs["observation.depth"]
    assert read(tmp_path).images == {"observation.depth": ImageFacts("HWC")}
    assert depth.dtype == np.uint16 and depth.shape[1:] == (12, 16, 1)
    rows = states(read(tmp_path))[0]
    assert depth[:, 0, 0, 0].tolist() == [1000 + 300 * row for row in rows]


def test_a_picture_of_8_bits_among_those_of_16_is_refused(tmp_path):
    pixels = [np.full((12, 16), 9, np.uint16)] * 2 + [np.full((12, 16), 9, np.uint8)] * 13
    stored = [{"bytes": png(one), "path": None} for one in pixels]
    make_lerobot(tmp_path, table={"observation.depth": stored}, camera=False)
    with pytest.raises(DataError, match="is an image of 8 bits a pixel, wanted 16"):
        np.asarray(read(tmp_path).episodes[0].obs["observation.depth"])


def test_image_outside_of_the_dataset_is_not_read(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(image(0)))
    stored = [{"bytes": None, "path": "../secret.png"}] * 15
    folder = make_lerobot(tmp_path / "set", table={"observation.image": stored}, camera=False)
    with pytest.raises(DataError, match=r"names the image '../secret.png', which is not in"):
        read(folder)


def test_contradictions_log_a_warning(tmp_path, caplog):
    folder = change_info(make_lerobot(tmp_path), total_frames=16, total_episodes=4, codebase_version="v1.6")
    lines = [{"episode_index": number, "length": 5} for number in range(5)]
    (folder / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    recording = read(folder)
    assert states(recording) == ROWS
    assert recording.missing == "its metadata say 5 episodes, the files hold 3: 2 are missing"
    for line in (
        "info.json says total_frames 16, the tables have 15",
        "episode 1 has 4 frames, meta/episodes says 5; 2 of 3 episodes differ",
        "has codebase_version 'v1.6'",
    ):
        assert line in log_text(caplog)


def test_missing_frame_logs_a_warning_and_duplicate_frame_is_refused(tmp_path, caplog):
    frame = columns()["frame_index"].copy()
    frame[3:5] += 1
    read(make_lerobot(tmp_path / "gap", table={"frame_index": frame}))
    assert "lacks frames in 1 places, first after frame 2 of episode 0" in log_text(caplog)
    frame[3:5] = 2
    with pytest.raises(DataError, match="has frame 2 of episode 0 twice"):
        read(make_lerobot(tmp_path / "twice", table={"frame_index": frame}))


def test_constant_timestamps_and_times_outside_the_video_are_refused(tmp_path):
    folder = make_lerobot(tmp_path / "still", table={"timestamp": np.zeros(15)})
    with pytest.raises(DataError, match="episode 0: timestamps do not increase after frame 0"):
        read(folder)
    assert states(read(folder, parse_request(["observation.state"]))) == ROWS
    late = read(make_lerobot(tmp_path / "late", table={"timestamp": 1.7e9 + np.arange(15) / FPS}))
    with pytest.raises(DataError, match=r"has no frame at 1700000000.* the nearest is at 0.400 s"):
        np.asarray(late.episodes[0].obs[CAMERA])


def test_episode_of_one_frame_is_dropped(tmp_path, caplog):
    caplog.set_level(logging.INFO, "o2o")
    recording = read(make_lerobot(tmp_path, lengths=(3, 1, 2)))
    assert frames(recording) == [[0, 1, 2], [4, 5]]
    assert "1 episodes of a single frame" in log_text(caplog)
    with pytest.raises(DataError, match="no episode of two frames or more"):
        read(make_lerobot(tmp_path / "none", lengths=(1, 1)))


def test_memory_budget_is_checked_before_reading(tmp_path):
    folder = make_lerobot(tmp_path)
    assert read(folder, parse_request([], budget=15 * (3 * 4 + 5 * 8))).episodes
    with pytest.raises(DataError, match="needs 780 B of memory for its vectors"):
        read(folder, parse_request([], budget=779))


BROKEN = {
    "info cut": lambda f: (f / "meta/info.json").write_text('{"fps": 10'),
    "info a list": lambda f: (f / "meta/info.json").write_text("[1]"),
    "info deep": lambda f: (f / "meta/info.json").write_text("[" * 100000),
    "info not text": lambda f: (f / "meta/info.json").write_bytes(b"\xff\xfe\x00"),
    "info gone": lambda f: (f / "meta/info.json").unlink(),
    "meta cut": lambda f: (f / "meta/episodes.jsonl").write_text('{"episode_index": 0\n'),
    "meta odd": lambda f: (f / "meta/episodes.jsonl").write_text('{"episode_index": "x"}\n'),
    "table cut": lambda f: os.truncate(f / "data/chunk-000/episode_000001.parquet", 900),
    "table empty": lambda f: os.truncate(f / "data/chunk-000/episode_000001.parquet", 0),
    "tables gone": lambda f: [path.unlink() for path in f.rglob("*.parquet")],
    "video cut": lambda f: os.truncate(f / f"videos/chunk-000/{CAMERA}/episode_000001.mp4", 500),
    "video text": lambda f: (f / f"videos/chunk-000/{CAMERA}/episode_000000.mp4").write_text(
        "version https://x"
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_file_raises_a_one_line_error(tmp_path, how, capfd):
    folder = make_lerobot(tmp_path)
    BROKEN[how](folder)
    assert matches(folder) or how == "tables gone"
    with pytest.raises(DataError) as caught:
        [np.asarray(value) for episode in read(folder).episodes for value in episode.obs.values()]
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert capfd.readouterr() == ("", "")


COLUMNS = {
    "row of another length": (
        {"action": [[0.1]] * 13 + [[0.1, 0.2]] + [[0.1]]},
        "'action' has 2 numbers in row 4, wanted 1",
    ),
    "missing value": ({"action": [[0.1]] * 13 + [[None], [0.1]]}, "'action' lacks 1 values"),
    "missing row": ({"action": [[0.1]] * 13 + [None, [0.1]]}, "'action' lacks 1 values"),
    "text in place of numbers": (
        {"action": ["x"] * 15},
        "has no actions; name them with --dataset.action, from observation.state",
    ),
    "not a number": ({"action": np.full((15, 1), np.nan)}, "'actions' is not finite"),
    "index that is not a number": ({"episode_index": np.full(15, np.nan)}, "'episode_index' is not finite"),
    "several numbers per row": (
        {"frame_index": np.zeros((15, 2))},
        "'frame_index' has rows of shape",
    ),
    "flag of 0.5": (
        {"next.done": np.full(15, 0.5)},
        "'next.done' is 0.5 in row 0, wanted 0 or 1",
    ),
    "empty lists": (
        {"observation.state": [[]] + [[1.0]] * 14},
        "'observation.state' has 0 numbers in row 0, wanted 1; 1 of 3 episodes is broken",
    ),
}


@pytest.mark.parametrize("how", COLUMNS)
def test_error_names_an_unusable_column(tmp_path, how):
    table, line = COLUMNS[how]
    with pytest.raises(DataError, match=line.replace("'", ".")):
        read(make_lerobot(tmp_path, table=table, camera=False))


def test_error_names_a_file_without_a_column(tmp_path):
    folder = make_lerobot(tmp_path)
    table = {name: value[5:9] for name, value in columns().items() if name != "action"}
    write_table(folder / "data/chunk-000/episode_000001.parquet", table)
    with pytest.raises(
        DataError, match=r"episode_000001.parquet has no column 'action', which other files have"
    ):
        read(folder)


def test_error_names_a_file_with_a_column_of_another_type(tmp_path):
    folder = make_lerobot(tmp_path)
    for value, line in (
        (["x"] * 4, "'action' holds string from row 0 on, wanted lists of numbers"),
        (np.zeros(4), "'action' holds double from row 0 on, wanted lists of numbers"),
        ([[[0.0]]] * 4, "'action' holds list<.*> from row 0 on, wanted lists of numbers"),
    ):
        table = {name: column[5:9] for name, column in columns().items()} | {"action": value}
        write_table(folder / "data/chunk-000/episode_000001.parquet", table)
        with pytest.raises(DataError, match=rf"episode_000001.parquet: {line}"):
            read(folder)


@pytest.mark.parametrize(
    "name", ["data/chunk-000/episode_000001.parquet", f"videos/chunk-000/{CAMERA}/episode_000000.mp4"]
)
def test_git_lfs_pointer_error_says_so(tmp_path, name):
    folder = make_lerobot(tmp_path)
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(DataError, match="it is a Git LFS pointer; run `git lfs pull` to fetch"):
        read(folder)


def test_two_videos_for_one_episode_are_refused(tmp_path):
    folder = change_info(make_lerobot(tmp_path), video_path="films/{episode_index}.mp4")
    write_video(folder / f"more/{CAMERA}/take_1.mp4", [image(0)] * 3)
    with pytest.raises(DataError, match="may both show episode 1; keep one"):
        read(folder)


@pytest.mark.parametrize("module", ["pyarrow", "av"])
def test_missing_module_error_names_the_extra(tmp_path, monkeypatch, module):
    folder = make_lerobot(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    assert matches(folder)
    with pytest.raises(UsageError, match=r'install it with: pip install "\S+\[lerobot\]"'):
        read(folder)
    if module == "av":
        assert states(read(folder, parse_request(["observation.state"]))) == ROWS


def test_other_folders_do_not_match(tmp_path):
    assert not matches(tmp_path) and not matches(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    assert not matches(tmp_path / "file")


real = pytest.mark.skipif(not (REAL_DATA / "meta/info.json").is_file(), reason=f"no {REAL_DATA}")


@real
def test_real_dataset_is_read_without_its_missing_videos(caplog):
    recording = read(REAL_DATA)
    assert len(recording.episodes) == 100 and recording.control_hz == 30
    assert sum(len(e) + 1 for e in recording.episodes) == 35965
    for episode in recording.episodes:
        assert (
            episode.obs["observation.state"].shape == (len(episode) + 1, 26) and episode.action.shape[1] == 26
        )
        assert episode.infos["time_s"][-1] == pytest.approx(len(episode) / 30, abs=1e-3)
    assert "'observation.images.cam_high' is left out, since 99 of 100 of its videos are missing" in log_text(
        caplog
    )
    with pytest.raises(DataError, match=r"missing: .*episode_000000.mp4, .*episode_000003.mp4 and 96 more"):
        read(REAL_DATA, parse_request(["observation.images.cam_high"]))


@real
def test_real_video_is_read_frame_by_frame(tmp_path):
    for name in ("data/chunk-000/episode_000002.parquet", "meta/info.json",
                 "videos/chunk-000/observation.images.cam_high/episode_000002.mp4"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(REAL_DATA / name)
    (episode,) = read(tmp_path).episodes
    camera = episode.obs["observation.images.cam_high"]
    assert camera.shape == (343, 480, 640, 3) and len(episode) == 342
    images = camera[200:204]
    assert (images != camera[203:204]).any((1, 2, 3)).tolist() == [True, True, True, False]
    np.testing.assert_array_equal(camera[202], images[2])


SKIP = parse_request([], episodes=parse_episodes("", skip_broken=True))


def set_row(name: str, row: int, value) -> dict:
    """Returns the column of this name with another value in a row."""
    column = columns()[name].tolist()
    column[row] = value
    return {name: column}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_row_without_a_value_breaks_its_episode_only(tmp_path, version):
    table = set_row("observation.state", 6, None)
    folder = make_lerobot(tmp_path, version, table=table, camera=False)
    with pytest.raises(DataError, match=r"episode 1: .*state' lacks 1 values .*; 1 of 3 episodes"):
        read(folder)
    recording = read(folder, SKIP)
    assert states(recording) == [ROWS[0], ROWS[2]] and recording.numbers == (0, 2)
    assert [one.number for one in recording.broken] == [1]


def test_nothing_in_the_last_frame_that_is_not_used_matters(tmp_path):
    table = set_row("action", 14, None) | {"next.reward": [0.5] * 14 + [None], "next.done": [0] * 14 + [None]}
    table |= set_row("task_index", 14, None)
    recording = read(make_lerobot(tmp_path, table=table, camera=False))
    assert [len(episode) for episode in recording.episodes] == [4, 3, 5]
    assert recording.episodes[2].reward.tolist() == [0.5] * 5
    assert "task_index" not in recording.episodes[2].infos


def test_a_column_of_varying_length_is_left_out_unless_requested(tmp_path, caplog):
    table = {"observation.contacts": [[1.0] * (row % 3) for row in range(15)]}
    folder = make_lerobot(tmp_path, table=table, camera=False)
    recording = read(folder)
    assert states(recording) == ROWS and list(recording.episodes[0].obs) == ["observation.state"]
    assert "rows of 'observation.contacts' lack values or differ in length, so it is left out" in caplog.text
    with pytest.raises(DataError, match="all 3 episodes are broken"):
        read(folder, parse_request(["observation.contacts"]))


def test_an_unreadable_table_breaks_its_episode_only(tmp_path):
    folder = make_lerobot(tmp_path, camera=False)
    os.truncate(folder / "data/chunk-000/episode_000001.parquet", 900)
    with pytest.raises(DataError, match=r"episode_000001.parquet .*; 1 of 3 episodes is broken"):
        read(folder)
    recording = read(folder, SKIP)
    assert states(recording) == [ROWS[0], ROWS[2]]
    assert "episode_000001.parquet" in recording.broken[0].fault


def test_a_stray_table_is_left_aside_and_named(tmp_path, caplog):
    folder = make_lerobot(tmp_path, camera=False)
    write_table(folder / "data/chunk-000/notes.parquet", {"rating": np.arange(3.0), "who": np.arange(3)})
    assert states(read(folder)) == ROWS
    assert "notes.parquet is left aside: it has the columns rating, who, other" in caplog.text


def test_episodes_and_splits_select(tmp_path, caplog):
    folder = change_info(make_lerobot(tmp_path), splits={"train": "0:2", "odd": "a"})
    assert states(read(folder, parse_request([], episodes=parse_episodes("", mask="train")))) == ROWS[:2]
    assert frames(read(folder, parse_request([], episodes=parse_episodes("1:")))) == ROWS[1:]
    assert "the split 'odd' is 'a', wanted FIRST:END" in caplog.text
    with pytest.raises(UsageError, match=r"--dataset.mask test.*train"):
        read(folder, parse_request([], episodes=parse_episodes("", mask="test")))


def test_missing_episodes_are_told(tmp_path):
    folder = make_lerobot(tmp_path, camera=False)
    (folder / "data/chunk-000/episode_000001.parquet").unlink()
    recording = read(folder)
    assert recording.numbers == (0, 2)
    assert recording.missing == "its metadata say 3 episodes, the files hold 2: 1 are missing"


def test_an_episode_without_its_video_is_broken_if_broken_ones_are_skipped(tmp_path):
    folder = make_lerobot(tmp_path)
    (folder / f"videos/chunk-000/{CAMERA}/episode_000001.mp4").unlink()
    recording = read(folder, SKIP)
    assert frames(recording) == [ROWS[0], ROWS[2]]
    assert "episode_000001.mp4 is missing" in recording.broken[0].fault
    chosen = read(folder, parse_request([], episodes=parse_episodes("~1")))
    assert frames(chosen) == [ROWS[0], ROWS[2]]


def test_a_camera_that_most_episodes_lack_was_not_downloaded_and_breaks_none(tmp_path, caplog):
    folder = make_lerobot(tmp_path)
    for number in (0, 2):
        (folder / f"videos/chunk-000/{CAMERA}/episode_{number:06}.mp4").unlink()
    recording = read(folder, SKIP)
    assert len(recording.episodes) == 3 and CAMERA not in recording.episodes[1].obs
    assert "is left out, since 2 of 3 of its videos are missing" in log_text(caplog)
