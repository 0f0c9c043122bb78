"""Tests the RLDS reader, which reads the tfrecords of a TensorFlow dataset without TensorFlow."""

import json
import logging
import shutil
import sys

import numpy as np
import pytest

from o2o.core.errors import DataError, UsageError
from o2o.data.formats import registry, rlds, tfrecord
from o2o.data.formats.crc32c import crc32c
from o2o.data.formats.episode_choice import parse_episodes
from o2o.data.formats.lazy_array import LazyArray, parse_request
from tests.support.make_rlds import (
    META,
    STEP,
    encode_rows,
    example,
    field,
    make_features,
    make_rlds,
    record,
    write_rlds,
)
from tests.support.paths import REAL_DATA

SMALL = {"action": ("float32", (2,)), "reward": ("float32", ()), "observation/state": ("float32", (1,))}
FILE = "toy-train.tfrecord-00000-of-00001"


def small(rewards: list[float], **more) -> dict:
    """Flat features of an episode with these rewards."""
    steps = len(rewards)
    return {
        "steps/action": np.zeros((steps, 2), np.float32),
        "steps/reward": np.float32(rewards),
        "steps/observation/state": np.arange(steps, dtype=np.float32),
    } | {f"steps/{name}": value for name, value in more.items()}


def read_small(folder, *episodes, request=None, **kinds):
    write_rlds(folder, list(episodes), SMALL | kinds)
    return rlds.read(folder, request or parse_request([]))


@pytest.mark.parametrize(
    ("data", "crc"),  # RFC 3720, B.4, and the standard check value
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"", 0),
    ],
)
def test_crc32c_matches_the_published_values(data, crc):
    assert crc32c(data) == crc


def test_rlds_names_the_extra_that_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    with pytest.raises(UsageError, match=r"reading RLDS needs google_crc32c.*\[rlds\]"):
        rlds.read(make_rlds(tmp_path))


def test_episode_of_four_steps_has_three_actions_and_four_observations(tmp_path):
    first, second = rlds.read(make_rlds(tmp_path)).episodes
    np.testing.assert_array_equal(second.obs["state"], [[1, t, t / 16] for t in range(4)])
    np.testing.assert_array_equal(second.action, [[0, 0], [1, -1], [2, -2]])
    np.testing.assert_array_equal(second.obs["gripper.open"], [True, False, True, False])
    np.testing.assert_array_equal(second.obs["ticks"], [[0, 0], [1000, -1], [2000, -2], [3000, -3]])
    assert first.terminated and not first.truncated and first.last_obs_known
    assert (first.success, second.success) == (True, False)
    assert second.infos["episode_id"].tolist() == [101] * 4
    assert set(second.obs) == {"state", "gripper.open", "ticks", "camera"}
    assert [v.dtype for v in (second.obs["state"], second.action, second.reward)] == [np.float32] * 3


def test_images_stay_in_the_file_and_are_decoded_when_indexed(tmp_path):
    _, episode = rlds.read(make_rlds(tmp_path)).episodes
    camera = episode.obs["camera"]
    assert isinstance(camera, LazyArray) and camera.shape == (4, 8, 6, 3)
    assert np.asarray(camera)[:, 0, 0, 0].tolist() == [10, 11, 12, 13]
    assert camera[2].max() == 12 and camera[1:3].shape == (2, 8, 6, 3)
    (tmp_path / FILE).write_bytes(b"")
    with pytest.raises(DataError, match="has become shorter since it was opened"):
        np.asarray(camera)


def test_only_reward_at_the_last_step_becomes_that_of_the_last_action(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "o2o"):
        episodes = read_small(tmp_path, small([0, 0, 0, 1]), small([0, 0, 0]), small([0, 2])).episodes
    assert [e.reward.tolist() for e in episodes] == [[0, 0, 1], [0, 0], [2]]
    assert caplog.text.count("at the last step of 2 episodes, become rewards of the last action") == 1


def test_last_reward_is_dropped_with_a_warning_if_others_exist(tmp_path, caplog):
    episodes = read_small(tmp_path, small([1, 1, 9]), small([0, 0, 0])).episodes
    assert [e.reward.tolist() for e in episodes] == [[1, 1], [0, 0]]
    assert "1 episodes have a reward at their last step" in caplog.text


def test_episode_that_is_not_terminal_is_truncated(tmp_path):
    kinds = {"is_terminal": ("bool", ()), "is_last": ("bool", ())}
    end = np.array([False, False, True])
    one = small([0, 0, 0], is_terminal=end & False, is_last=end)
    other = small([0, 0, 0], is_terminal=end, is_last=end)
    cut, over = read_small(tmp_path, one, other, **kinds).episodes
    assert (cut.terminated, cut.truncated, over.terminated, over.truncated) == (False, True, True, False)


def test_discount_of_zero_is_terminal_without_is_terminal(tmp_path):
    kinds = {"discount": ("float32", ())}
    ends = [np.float32([1, 0, 0]), np.float32([1, 1, 0])]
    episodes = read_small(tmp_path, *(small([0, 0, 0], discount=d) for d in ends), **kinds).episodes
    assert [e.terminated for e in episodes] == [True, False]


def test_steps_after_the_end_and_second_starts_are_refused(tmp_path):
    for name, flag, match in (
        ("is_last", [0, 1, 0], r"record 0 continues after step 1 of 3, which is_last"),
        ("is_terminal", [1, 0, 0], r"continues after step 0 of 3, which is_terminal"),
        ("is_first", [1, 0, 1], r"starts again at step 2 of 3"),
    ):
        episode = small([0, 0, 0], **{name: np.array(flag, bool)})
        with pytest.raises(DataError, match=match):
            read_small(tmp_path / name, episode, **{name: ("bool", ())})


def test_names_can_be_mapped_and_requested(tmp_path, caplog):
    make_rlds(tmp_path)
    with caplog.at_level(logging.INFO, "o2o"):
        rlds.read(tmp_path)
    assert "can also name language_embedding" in caplog.text
    assert "images are not read: language_instruction, observation.depth" in caplog.text
    request = parse_request(
        ["pose=state", "language_embedding"], action="ticks, action", reward="gripper.open"
    )
    requested = rlds.read(tmp_path, parse_request(["pose=state", "language_embedding"], reward="discount"))
    assert set(requested.episodes[0].obs) == {"pose", "language_embedding"}
    assert requested.episodes[0].reward.tolist() == [1, 1, 1]
    for wrong, match in (
        (parse_request(["stat"]), "observation 'stat' not found; did you mean 'state'"),
        (parse_request([], action="acton"), "action 'acton' not found"),
        (parse_request([], reward="camera"), "reward 'camera' not found"),
    ):
        with pytest.raises(UsageError, match=match):
            rlds.read(tmp_path, wrong)
    concatenated = rlds.read(tmp_path, request).episodes[0]
    assert concatenated.action.tolist() == [[0, 0, 0, 0], [1000, -1, 1, -1], [2000, -2, 2, -2]]
    assert concatenated.reward.tolist() == [1, 0, 1]


def test_parts_of_actions_are_concatenated_in_the_order_of_the_file(tmp_path, caplog):
    step = {
        "action/world": ("float32", (2,)),
        "action/grip": ("float32", ()),
        "observation/state": ("float32", ()),
    }
    t = np.arange(3, dtype=np.float32)
    episode = {
        "steps/action/world": np.stack([t, t + 10], 1),
        "steps/action/grip": -t,
        "steps/observation/state": t,
    }
    write_rlds(tmp_path, [episode], step)
    with caplog.at_level(logging.INFO, "o2o"):
        (read,) = rlds.read(tmp_path).episodes
    assert read.action.tolist() == [[0, 10, 0], [1, 11, -1]]
    assert "the action is action.world (2) + action.grip (1), concatenated" in caplog.text
    assert "has no rewards: all are read as 0" in caplog.text and not read.reward.any()
    (part,) = rlds.read(tmp_path, parse_request([], action="action.grip")).episodes
    assert part.action.tolist() == [[0], [-1]]


@pytest.mark.parametrize("how", ["bytes", "zlib", "none"])
def test_tensors_of_every_encoding_are_read(tmp_path, how):
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3)).astype(np.uint8)
    exact = np.random.default_rng(1).normal(size=(3, 2))
    encoding = "" if how == "none" else f" {how}"
    more = {
        "observation/camera": frames if how == "none" else encode_rows(frames, how),
        "observation/exact": exact if how == "none" else encode_rows(exact, how),
    }
    kinds = {
        "observation/camera": (f"uint8{encoding}", (4, 5, 3)),
        "observation/exact": (f"float64{encoding}", (2,)),
    }
    (episode,) = read_small(tmp_path, small([0, 0, 0], **more), **kinds).episodes
    assert isinstance(episode.obs["camera"], LazyArray)
    np.testing.assert_array_equal(np.asarray(episode.obs["camera"]), frames)
    np.testing.assert_array_equal(episode.obs["camera"][1], frames[1])
    kept = exact.astype(np.float32) if how == "none" else exact  # unencoded floats of tfrecords have 32 bits
    np.testing.assert_array_equal(episode.obs["exact"], kept)


def test_integers_of_every_size_and_unpacked_numbers_are_read(tmp_path):
    values = np.array([0, 1, 127, 128, 300, -1, 2**31, -(2**63), 2**63 - 1])
    (tmp_path / "a").write_bytes(record(example({"n": values})))
    (values_of,) = tfrecord.read_examples(tmp_path / "a", {"n"})
    assert tfrecord.read_numbers(tmp_path / "a", values_of["n"]).tolist() == values.tolist()
    one_by_one = b"".join(b"\x0d" + np.float32(x).tobytes() for x in (1.5, -2))  # wire type 5
    ints = b"\x08\x05\x08\xac\x02"  # wire type 0: 5 and 300
    entries = [field(1, b"f") + field(2, field(2, one_by_one)), field(1, b"i") + field(2, field(3, ints))]
    (tmp_path / "b").write_bytes(record(field(1, b"".join(field(1, entry) for entry in entries))))
    (values_of,) = tfrecord.read_examples(tmp_path / "b", {"f", "i"})
    assert tfrecord.read_numbers(tmp_path / "b", values_of["f"]).tolist() == [1.5, -2]
    assert tfrecord.read_numbers(tmp_path / "b", values_of["i"]).tolist() == [5, 300]


def test_path_of_a_folder_reads_train_and_path_of_a_file_reads_the_file(tmp_path, caplog):
    make_rlds(tmp_path, episodes=1, split="val")
    make_rlds(tmp_path, episodes=5, shards=2)
    with caplog.at_level(logging.INFO, "o2o"):
        recording = rlds.read(tmp_path)
    assert "split 'train' is read; the splits are train, val" in caplog.text and recording.name == "toy"
    order = [int(e.obs["state"][0, 0]) for e in recording.episodes]
    assert order == [0, 2, 4, 1, 3]  # in the order of the shards
    one_file = rlds.read(tmp_path / "toy-train.tfrecord-00001-of-00002")
    assert [int(e.obs["state"][0, 0]) for e in one_file.episodes] == [1, 3]
    assert len(rlds.read(tmp_path / "toy-val.tfrecord-00000-of-00001").episodes) == 1
    (tmp_path / "toy-train.tfrecord-00000-of-00002").unlink()
    with pytest.raises(DataError, match="file 0 of 2 of split 'train' is missing"):
        rlds.read(tmp_path)


def test_folder_above_a_single_version_is_the_dataset(tmp_path):
    make_rlds(tmp_path / "bridge" / "1.0.0")
    assert rlds.matches(tmp_path / "bridge") and len(rlds.read(tmp_path / "bridge").episodes) == 2
    make_rlds(tmp_path / "bridge" / "0.1.0")
    assert rlds.matches(tmp_path / "bridge")
    with pytest.raises(DataError, match=r"several versions or variants: 0\.1\.0, 1\.0\.0"):
        rlds.read(tmp_path / "bridge")


def test_folder_and_file_are_detected(tmp_path):
    make_rlds(tmp_path)
    assert registry.detect_format(tmp_path) is registry.detect_format(tmp_path / FILE) is rlds


def test_other_folders_and_files_do_not_match(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    assert not any(map(rlds.matches, (tmp_path, tmp_path / "a.txt", tmp_path / "none")))


def test_memory_budget_is_checked_before_reading(tmp_path, monkeypatch):
    make_rlds(tmp_path)
    monkeypatch.setattr(rlds, "_read_episode", lambda *_: pytest.fail("read before the budget was checked"))
    with pytest.raises(DataError, match="the budget is 100 B"):
        rlds.read(tmp_path, parse_request([], budget=100))


def test_every_truncation_raises_a_one_line_error_with_file_and_record(tmp_path):
    path = make_rlds(tmp_path) / FILE
    content = path.read_bytes()
    size = len(record(example(make_features(0, 4))))
    for cut in [1, 11, 12, 100, size - 1, size + 5, len(content) - 1]:
        path.write_bytes(content[:cut])
        with pytest.raises(DataError, match=rf"{FILE} record {cut // size} .*truncated|became shorter"):
            rlds.read(tmp_path)
    path.write_bytes(content[:size])
    with pytest.raises(DataError, match=r"has 1 records, dataset_info.json says 2"):
        rlds.read(tmp_path)


def test_every_flipped_bit_of_a_record_is_detected(tmp_path):
    path = write_rlds(tmp_path, [small([0, 1])], SMALL) / FILE
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        with pytest.raises(
            DataError, match=r"record 0.*(checksum of its (length|content) is wrong|truncated)"
        ):
            rlds.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"steps/observation/state": None}, r"record 0 has no 'steps/observation/state'"),
        ({"steps/reward": np.array([1, 2])}, "'steps/reward' holds ints, features.json says float32"),
        ({"steps/reward": np.zeros(3)}, "'steps/reward' has 3 steps, 'steps/action' 2"),
        ({"steps/action": np.zeros(5)}, "has 5 numbers, wanted a multiple of 2 per step"),
        ({"steps/action": np.full((2, 2), np.nan)}, r"record 0: 'actions' is not finite"),
    ],
)
def test_error_names_records_that_contradict_features_json(tmp_path, change, match):
    episode = {name: value for name, value in (small([0, 1]) | change).items() if value is not None}
    with pytest.raises(DataError, match=match):
        read_small(tmp_path, episode)


def test_record_that_is_not_an_example_is_refused(tmp_path):
    write_rlds(tmp_path, [small([0, 1])], SMALL)
    for content in (b"\x0a\xff\xff\x03", b"\x0a\x02\x0a\x7f", b"\x0b", b"\x0a" + b"\xff" * 12):
        (tmp_path / FILE).write_bytes(record(content))
        with pytest.raises(DataError, match=r"record 0 is not a tf.train.Example"):
            rlds.read(tmp_path)


def test_broken_metadata_raises_a_one_line_error(tmp_path):
    make_rlds(tmp_path)
    metadata = {name: (tmp_path / name).read_text() for name in ("features.json", "dataset_info.json")}
    for name, text, match in (
        ("features.json", "{", "features.json is broken"),
        ("features.json", "[]", "features.json is broken: it is not a JSON object"),
        ("features.json", '{"type": "old"}', r"has an unknown structure; .* it has \['type'\]"),
        ("features.json", '{"featuresDict": {}}', "features.json is broken: KeyError 'features'"),
        ("features.json", '{"featuresDict": {"features": {}}}', "contains no episodes"),
        (
            "dataset_info.json",
            '{"splits": [{"name": "train", "shardLengths": ["x"]}]}',
            "its splits are invalid",
        ),
        ("dataset_info.json", "nope", "dataset_info.json is broken"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=match):
            rlds.read(tmp_path)
        (tmp_path / name).write_text(metadata[name])
    (tmp_path / "features.json").unlink()
    with pytest.raises(DataError, match=r"features.json is required and cannot be read: No such file"):
        rlds.read(tmp_path)


def test_another_record_format_is_refused(tmp_path):
    make_rlds(tmp_path)
    (tmp_path / FILE).rename(tmp_path / FILE.replace("tfrecord", "array_record"))
    with pytest.raises(DataError, match="is stored as array_record, o2o reads tfrecord"):
        rlds.read(tmp_path)


def test_error_names_the_step_of_a_broken_image(tmp_path):
    episodes = [make_features(0, 4)]
    camera = episodes[0]["steps/observation/camera"]
    camera[2] = camera[2][:-20]
    write_rlds(tmp_path, episodes, STEP, META)
    (episode,) = rlds.read(tmp_path).episodes
    assert episode.obs["camera"][1].max() == 1
    with pytest.raises(DataError, match=r"record 0: 'steps/observation/camera' step 2 is a broken image"):
        np.asarray(episode.obs["camera"])


def test_images_without_stated_size_use_their_own(tmp_path):
    make_rlds(tmp_path)
    metadata = json.loads((tmp_path / "features.json").read_text())
    steps = metadata["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    camera = steps["observation"]["featuresDict"]["features"]["camera"]
    camera["image"]["shape"]["dimensions"] = ["-1", "-1", "3"]
    (tmp_path / "features.json").write_text(json.dumps(metadata))
    assert rlds.read(tmp_path).episodes[0].obs["camera"].shape == (4, 8, 6, 3)


@pytest.mark.skipif(not (REAL_DATA / "bridge_rlds").is_dir(), reason=f"no bridge_rlds in {REAL_DATA}")
def test_bridge_is_read_completely(tmp_path):
    recording = rlds.read(REAL_DATA / "bridge_rlds")
    assert (recording.name, len(recording.episodes), sum(map(len, recording.episodes))) == (
        "bridge_dataset",
        25,
        225,
    )
    first = recording.episodes[0]
    assert {name: value.shape for name, value in first.obs.items()} == {
        "state": (10, 7),
        **{f"image_{i}": (10, 64, 64, 3) for i in range(4)},
    }
    np.testing.assert_allclose(first.obs["state"][-1, :2], [0.23181103, 0.11811563], rtol=1e-6)
    np.testing.assert_allclose(first.action[-1, -1], 1.0)
    assert recording.control_hz is None and first.truncated and first.success is None
    assert 20 < np.asarray(first.obs["image_0"]).mean() < 230
    shutil.copytree(REAL_DATA / "bridge_rlds", tmp_path / "1.0.0")
    assert rlds.read(tmp_path).fingerprint == recording.fingerprint


def test_a_broken_record_is_skipped_and_named(tmp_path):
    bad = small([1, 2, 3], action=np.full((3, 2), np.nan, np.float32))
    request = parse_request([], episodes=parse_episodes("", skip_broken=True))
    with pytest.raises(DataError, match=r"record 1: 'actions' is not finite .*; 1 of 3 episodes is broken"):
        read_small(tmp_path / "a", small([1, 2, 3]), bad, small([4, 5]))
    recording = read_small(tmp_path / "b", small([1, 2, 3]), bad, small([4, 5]), request=request)
    assert [len(episode) for episode in recording.episodes] == [2, 1] and recording.numbers == (0, 2)
    chosen = parse_request([], episodes=parse_episodes("~1"))
    assert read_small(tmp_path / "c", small([1, 2, 3]), bad, small([4, 5]), request=chosen).numbers == (0, 2)
