"""Tests the reader of ROS bags: steps, fields, images, folders of bags, and broken files."""

import sqlite3
import struct
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from o2o.core.errors import DataError, UsageError
from o2o.data.formats import bags, registry, ros_definitions
from o2o.data.formats.bags import read
from o2o.data.formats.episode_choice import parse_episodes
from o2o.data.formats.lazy_array import LazyArray, ReadRequest, parse_request
from o2o.data.formats.ros_messages import parse
from o2o.data.load import LoadConfig, load
from tests.support.make_bag import (
    arm,
    floats,
    image,
    joints,
    nanoseconds,
    stamp,
    write_mcap,
    write_rosbag1,
    write_sqlite,
)

pytest.importorskip("mcap_ros2")
rosbags = pytest.importorskip("rosbags")

OBS = ["joints=/joint_states.position", "camera=/camera/image_raw"]
JOINTS, FLOATS, FLOAT = "sensor_msgs/msg/JointState", "std_msgs/msg/Float64MultiArray", "std_msgs/msg/Float32"
WRITERS = {".mcap": write_mcap, ".bag": write_rosbag1, "": write_sqlite}


def request(obs=OBS, action="/command.data", reward="", hz: float | None = None, **more) -> ReadRequest:
    return ReadRequest(**{**vars(parse_request(obs, action, reward)), "control_hz": hz, **more})


@pytest.mark.parametrize("suffix", WRITERS)
def test_each_command_makes_a_step_without_a_rate(tmp_path, suffix, caplog):
    caplog.set_level("INFO")
    path = WRITERS[suffix](tmp_path / f"arm{suffix}", arm())
    assert registry.detect_format(path) is bags
    recording = read(path, request())
    (episode,) = recording.episodes
    assert recording.control_hz == 10 and recording.name == "arm"
    assert episode.action.tolist() == [[i, i + 0.5] for i in range(11)]  # nothing follows command 11
    assert episode.obs["joints"].tolist() == [[5 * i + 1, -5 * i - 1] for i in range(12)]
    pixels = np.asarray(episode.obs["camera"])
    assert isinstance(episode.obs["camera"], LazyArray) and pixels.shape == (12, 6, 8, 3)
    assert (pixels == [[[[i // 2 + 100, i // 2, i // 2]]] for i in range(12)]).all()  # RGB of BGR
    assert (episode.terminated, episode.truncated, episode.last_obs_known) == (False, True, True)
    np.testing.assert_allclose(episode.infos["time_s"], np.arange(12) / 10)
    assert "steps at 10 Hz, one for each command" in caplog.text and "has no rewards" in caplog.text


def test_rate_resamples_with_the_newest_messages(tmp_path):
    path = write_mcap(tmp_path / "arm.mcap", arm())
    slow = read(path, request(hz=5))
    assert slow.control_hz == 5
    assert slow.episodes[0].action.tolist() == [[i, i + 0.5] for i in (0, 2, 4, 6, 8)]
    assert slow.episodes[0].obs["joints"][:, 0].tolist() == [1, 11, 21, 31, 41, 51]
    fast = read(path, request(hz=20)).episodes[0]  # steps from 0.02 s on, every 0.05 s
    assert fast.action[:4, 0].tolist() == [0, 0, 1, 1]
    assert fast.obs["joints"][:4, 0].tolist() == [1, 3, 6, 8]


def test_late_command_belongs_to_the_observation_that_it_answers(tmp_path):
    """Joints and commands at 10 Hz, the commands up to 40 ms late."""
    late = [0.0, 0.04, 0.01, 0.03, 0.0, 0.02]
    messages = [(i / 10, "/joint_states", JOINTS, joints((i, i))) for i in range(6)]
    messages += [(i / 10 + late[i], "/command", FLOATS, floats((i, i))) for i in range(6)]
    path = write_mcap(tmp_path / "a.mcap", sorted(messages, key=lambda message: message[0]))
    episode = read(path, request(OBS[:1], hz=10)).episodes[0]
    assert episode.action[:, 0].tolist() == episode.obs["joints"][:-1, 0].tolist() == [0, 1, 2, 3, 4]


def test_topics_that_form_the_action_follow_each_other(tmp_path):
    grip = [(0.05 + i / 2, "/gripper/command", FLOAT, {"data": float(i)}) for i in range(3)]
    path = write_mcap(tmp_path / "a.mcap", sorted([*arm(), *grip], key=lambda message: message[0]))
    names = "/command.data,/gripper/command"
    episode = read(path, request(OBS[:1], names)).episodes[0]  # from command 1 on, at 0.12 s
    assert episode.action.tolist() == [[i, i + 0.5, i // 5] for i in range(1, 11)]
    episode = read(path, request(OBS[:1], names, hz=10)).episodes[0]
    assert episode.action.tolist() == [[i, i + 0.5, i // 5] for i in range(10)]
    assert read(path, request([], names)).episodes[0].obs.keys() == {
        "joint_states_position", "joint_states_velocity", "camera"
    }  # fmt: skip


def test_patterns_take_what_has_numbers(tmp_path):
    path = write_mcap(tmp_path / "a.mcap", arm())
    assert read(path, request(["/joint*"])).episodes[0].obs.keys() == {
        "/joint_states.position", "/joint_states.velocity"
    }  # fmt: skip
    assert read(path, request(["*"])).episodes[0].obs.keys() == {  # and not the action
        "/joint_states.position", "/joint_states.velocity", "/camera/image_raw"
    }  # fmt: skip
    obs = read(path, request(["/joint*", "-/joint_states.effort", "-*velocity"])).episodes[0].obs
    assert obs.keys() == {"/joint_states.position"}
    with pytest.raises(DataError, match=r"'obs./joint_states.effort' has shape \(12, 0\), so it is empty"):
        read(path, request(["/joint_states.effort"]))


@pytest.mark.parametrize(
    ("num", "hz", "message"),
    [
        (1, None, "1 messages of the action have no rate; state one: --dataset.control-hz"),
        (1, 10, r"has 1 steps: from 0.000 s before the last command on, every topic has had a message"),
        (12, 0.1, r"has 1 steps: from 1.100 s before the last command on"),
    ],
)
def test_bag_that_makes_no_two_steps_is_refused(tmp_path, num, hz, message):
    commands = [m for m in arm() if m[1] == "/command"][:num]
    messages = [m for m in arm() if m[1] != "/command"] + commands
    path = write_mcap(tmp_path / "a.mcap", sorted(messages, key=lambda message: message[0]))
    with pytest.raises(DataError, match=message):
        read(path, request(hz=hz))


def test_first_step_is_where_every_topic_has_a_message(tmp_path):
    messages = [m for m in arm() if m[1] != "/camera/image_raw" or m[0] > 0.3]  # the first image at 0.4 s
    episode = read(write_mcap(tmp_path / "a.mcap", messages), request()).episodes[0]
    assert episode.action[0, 0] == 4 and episode.obs["joints"][0, 0] == 21
    episode = read(tmp_path / "a.mcap", request(hz=10)).episodes[0]
    assert episode.obs["joints"][0, 0] == 20 and episode.action[0, 0] == 4  # the command 20 ms later


def test_messages_are_ordered_by_their_times(tmp_path):
    path = write_mcap(tmp_path / "a.mcap", reversed(arm()), chunk_size=1000)
    assert read(path, request()).episodes[0].action[:3, 0].tolist() == [0, 1, 2]


def test_topic_that_stops_is_held_with_a_warning(tmp_path, caplog):
    messages = [m for m in arm() if m[1] != "/joint_states" or m[0] < 0.3]
    episode = read(write_mcap(tmp_path / "a.mcap", messages), request()).episodes[0]
    assert episode.obs["joints"][-1, 0] == 14
    assert "'joints' is held for up to 0.84 s" in caplog.text


def test_last_reward_is_kept_as_outcome(tmp_path):
    rewards = [(0.0, "/reward", FLOAT, {"data": 0.0}), (1.15, "/reward", FLOAT, {"data": 1.0})]
    path = write_mcap(tmp_path / "a.mcap", sorted([*arm(), *rewards], key=lambda message: message[0]))
    episode = read(path, request(reward="/reward.data", hz=10)).episodes[0]
    assert episode.reward.tolist() == [0] * 11 + [1] and episode.terminated and not episode.last_obs_known
    np.testing.assert_allclose(episode.infos["time_s"], np.arange(13) / 10)


@pytest.mark.parametrize("compression", ["NONE", "LZ4", "ZSTD"])
@pytest.mark.parametrize("use_chunking", [True, False])
def test_values_are_those_of_the_library_of_the_format(tmp_path, compression, use_chunking):
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    rng, kind = np.random.default_rng(0), "test_msgs/msg/Odd"
    messages = [
        (i / 10, "/odd", kind, {
            "flag": True, "small": -i, "fixed": rng.normal(size=3).tolist(), "note": "x" * i, "few": [i, 7],
            "items": [{"tag": 1, "value": 2.0}] * (i % 3), "one": {"tag": i, "value": i / 3}, "last": -(2**9),
        })
        for i in range(6)
    ]  # fmt: skip
    pose = {"position": {"x": 1.5, "y": 2.0, "z": -3.25}, "orientation": {"x": 0, "y": 0.6, "z": 0, "w": 0.8}}
    poses = [(i / 10, "/pose", "geometry_msgs/msg/PoseStamped", {"header": stamp("x" * i), "pose": pose})
             for i in range(6)]  # fmt: skip
    mixed = sorted([*messages, *poses], key=lambda message: message[0])
    options = {"compression": compression, "use_chunking": use_chunking, "chunk_size": 500}
    path = write_mcap(tmp_path / "odd.mcap", mixed, **options)
    names = [
        "/odd.fixed",
        "/odd.few",
        "/odd.one",
        "/odd.last",
        "pose=/pose",
        "/pose.pose.position",
        "/odd.small",
    ]
    episode = read(path, request(names, "/odd.fixed")).episodes[0]
    with open(path, "rb") as file:
        decoded = make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages(
            topics=["/odd"]
        )
        odd = [message for _, _, _, message in decoded]
    for row, message in enumerate(odd):
        values = {name: episode.obs[name][row].tolist() for name in episode.obs}
        np.testing.assert_array_equal(values["/odd.fixed"], np.float32(message.fixed))
        assert values["/odd.few"] == message.few and values["/odd.small"] == [message.small]
        assert values["/odd.one"] == [message.one.tag, np.float32(message.one.value)]
        assert values["/odd.last"] == [message.last]
        assert values["pose"] == np.float32([1.5, 2, -3.25, 0, 0.6, 0, 0.8]).tolist()
        assert values["/pose.pose.position"] == [1.5, 2, -3.25]


@pytest.mark.parametrize("compression", ["none", "lz4", "bz2"])
def test_values_of_ros1_are_those_of_rosbags(tmp_path, compression):
    from rosbags.rosbag1 import Reader
    from rosbags.typesys import Stores, get_typestore

    path = write_rosbag1(tmp_path / "arm.bag", arm(), compression)
    episode = read(path, request([*OBS, "effort=/joint_states.velocity"])).episodes[0]
    store = get_typestore(Stores.ROS1_NOETIC)
    with Reader(path) as reader:
        decoded = [(c.topic, t, store.deserialize_ros1(d, c.msgtype)) for c, t, d in reader.messages()]
    commands = [(at, message.data) for topic, at, message in decoded if topic == "/command"]
    np.testing.assert_array_equal(episode.action, np.float32([data for _, data in commands])[:-1])
    for row, (stamp_ns, _) in enumerate(commands):
        state = [message for topic, at, message in decoded if topic == "/joint_states" and at <= stamp_ns][-1]
        picture = [
            message for topic, at, message in decoded if topic == "/camera/image_raw" and at <= stamp_ns
        ][-1]
        np.testing.assert_array_equal(episode.obs["joints"][row], np.float32(state.position))
        np.testing.assert_array_equal(episode.obs["effort"][row], np.float32(state.velocity))
        pixels = picture.data.reshape(6, -1)[:, :24].reshape(6, 8, 3)[..., ::-1]
        np.testing.assert_array_equal(episode.obs["camera"][row], pixels)


def test_mcap_file_of_ros1_is_read(tmp_path):
    from mcap.writer import Writer
    from rosbags.rosbag1 import Reader
    from rosbags.typesys import Stores, get_typestore

    store, channels = get_typestore(Stores.ROS1_NOETIC), {}
    with Reader(write_rosbag1(tmp_path / "arm.bag", arm())) as bag, open(tmp_path / "arm.mcap", "wb") as file:
        writer = Writer(file)
        writer.start("ros1")
        for connection, stamp_ns, data in bag.messages():
            if connection.topic not in channels:
                text, _ = store.generate_msgdef(connection.msgtype, ros_version=1)
                name = connection.msgtype.replace("/msg/", "/")
                schema = writer.register_schema(name, "ros1msg", text.encode())
                channels[connection.topic] = writer.register_channel(connection.topic, "ros1", schema)
            writer.add_message(channels[connection.topic], stamp_ns, data, stamp_ns)
        writer.finish()
    one, other = (read(tmp_path / name, request()).episodes[0] for name in ("arm.bag", "arm.mcap"))
    assert one.action.tolist() == other.action.tolist()
    for name in one.obs:
        np.testing.assert_array_equal(one.obs[name], other.obs[name])


def database(folder: Path, *statements: str) -> Path:
    """Returns the `.db3` file of a bag, changed by statements of SQL."""
    (path,) = write_sqlite(folder / "arm", arm()).glob("*.db3")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
    return path


def test_bag_in_sqlite_without_definitions_is_read_with_those_of_ros(tmp_path):
    path = database(tmp_path, "DROP TABLE message_definitions")
    episode = read(path, request()).episodes[0]
    assert episode.obs["joints"].tolist() == [[5 * i + 1, -5 * i - 1] for i in range(12)]
    path = database(tmp_path / "b", "DROP TABLE message_definitions", "UPDATE topics SET type = 'a/msg/B'")
    with pytest.raises(
        UsageError, match=r"/command a/msg/B \(12 messages at 10 Hz: not readable, cdr without a def"
    ):
        read(path)


COUNT = "WITH RECURSIVE a(x) AS (SELECT 200 UNION ALL SELECT x + 1 FROM a"
NEVER = f"{COUNT}) SELECT x AS id, 1 AS topic_id, 1 AS timestamp"
MANY = f"{COUNT} LIMIT 30000) "


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (
            ["DROP TABLE messages", f"CREATE VIEW messages AS {NEVER}, x'00' AS data FROM a"],
            "no table 'messages'",
        ),
        (["ALTER TABLE messages ADD more BLOB AS (zeroblob(999999999))"], "no table 'messages'"),
        (["ALTER TABLE topics RENAME name TO other"], "no table 'topics' with id, name"),
        (["UPDATE messages SET data = 'text'"], "message 0 is of no topic or time"),
        (["UPDATE messages SET timestamp = 'soon'"], "message 0 is of no topic or time"),
        (["UPDATE messages SET topic_id = 99"], "message 0 is of no topic or time"),
        (["UPDATE messages SET data = x''"], "wanted the header of plain CDR"),
        (["UPDATE topics SET name = 'a' || char(10) || id"], "has the name or type"),
        (
            [f"INSERT INTO topics {MANY} SELECT x, '/' || x, 'a/B', 'cdr', '', '' FROM a"],
            "more than 1000 topics",
        ),
    ],
)
def test_hostile_tables_are_refused(tmp_path, statements, message):
    path = database(tmp_path, *statements)
    with pytest.raises(DataError, match=message) as caught:
        read(path, request())
    assert "\n" not in str(caught.value)


def run_in_circles(path: Path, table: str, levels: int = 6, fan_out: int = 400) -> None:
    """Puts pages above the first page of a table, each of which names the next one many times."""
    data = bytearray(path.read_bytes())
    size, num_pages = struct.unpack_from(">H", data, 16)[0], struct.unpack_from(">I", data, 28)[0]
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    pages = [root, *range(num_pages + 1, num_pages + levels + 1)]
    data += data[(root - 1) * size : root * size] + bytes((levels - 1) * size)
    for page, child in zip(pages[:1] + pages[2:], pages[2:] + pages[1:2], strict=True):
        cells = [size - 5 * (i + 1) for i in range(fan_out)]
        head = struct.pack(">BHHHBI", 5, 0, fan_out, cells[-1], 0, child)
        content = (head + struct.pack(f">{fan_out}H", *cells)).ljust(cells[-1], b"\0")
        data[(page - 1) * size : page * size] = content + struct.pack(">IB", child, 1) * fan_out
    struct.pack_into(">I", data, 28, num_pages + levels)
    path.write_bytes(data)


@pytest.mark.parametrize("table", ["messages", "topics", "message_definitions"])
def test_tables_that_run_in_circles_end(tmp_path, table):
    path = database(tmp_path)
    run_in_circles(path, table)
    begin = time.monotonic()
    with pytest.raises(DataError, match=r"arm.db3 (is (a )?broken|has more than|has too many)"):
        read(path, request())
    assert time.monotonic() - begin < 20


def test_bag_in_sqlite_that_was_not_closed_is_refused(tmp_path):
    path = database(tmp_path)
    path.with_name(f"{path.name}-wal").write_bytes(b"rest")
    with pytest.raises(DataError, match=r"was not closed: arm.db3-wal holds the rest"):
        read(path, request())


@pytest.mark.parametrize("name", ros_definitions.DEFINITIONS)
def test_definitions_of_usual_types_are_those_of_ros(name):
    from rosbags.typesys import Stores, get_typestore

    full = name.replace("/", "/msg/")
    text, _ = get_typestore(Stores.ROS2_HUMBLE).generate_msgdef(full, ros_version=2)
    assert parse(full, ros_definitions.find(full), False).steps == parse(full, text, False).steps


GRAY = np.arange(32 * 40, dtype=np.uint16).reshape(32, 40) * 50  # smaller ones are numbers, not images
ROWS = np.arange(4 * 48, dtype=np.uint8).reshape(6, 8, 4)


@pytest.mark.parametrize(
    ("pixels", "encoding", "is_big", "want"),
    [
        (ROWS[..., :3], "rgb8", False, ROWS[..., :3]),
        (ROWS[..., :3], "bgr8", False, ROWS[..., 2::-1]),
        (ROWS, "bgra8", False, ROWS[..., [2, 1, 0, 3]]),
        (ROWS[..., 0], "mono8", False, ROWS[..., :1]),
        (GRAY, "16UC1", False, GRAY[..., None]),
        (GRAY, "16UC1", True, GRAY[..., None]),
        (GRAY.astype(np.float32) / 1000, "32FC1", False, GRAY[..., None].astype(np.float32) / 1000),
    ],
)
def test_raw_images_keep_their_pixels(tmp_path, pixels, encoding, is_big, want):
    picture = image(np.ascontiguousarray(pixels), encoding, 5, is_big)
    messages = [*arm(camera=False), (0.0, "/depth", "sensor_msgs/msg/Image", picture)]
    value = np.asarray(
        read(write_mcap(tmp_path / "a.mcap", messages), request(["/depth"])).episodes[0].obs["/depth"]
    )
    assert value.dtype == want.dtype
    np.testing.assert_array_equal(value[3], want)


def encoded(pixels: np.ndarray, form: str, head: bytes = b"") -> dict:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG" if "png" in form else "JPEG")
    return {"header": stamp(), "format": form, "data": head + buffer.getvalue()}


@pytest.mark.parametrize(
    ("pixels", "form", "head"),
    [
        (ROWS[..., :3], "bgr8; png compressed bgr8", b""),
        (GRAY, "16UC1; compressedDepth png", bytes(12)),
    ],
)
def test_compressed_images_are_decoded(tmp_path, pixels, form, head):
    picture = encoded(np.ascontiguousarray(pixels), form, head)
    messages = [*arm(camera=False), (0.0, "/camera", "sensor_msgs/msg/CompressedImage", picture)]
    episode = read(write_mcap(tmp_path / "a.mcap", messages), request(["/camera"])).episodes[0]
    np.testing.assert_array_equal(episode.obs["/camera"][2], pixels.reshape(*pixels.shape[:2], -1))
    assert isinstance(episode.obs["/camera"], LazyArray)


def test_without_flags_the_error_lists_topics_and_flags_that_read_it(tmp_path):
    path = write_mcap(tmp_path / "arm.mcap", arm())
    with pytest.raises(UsageError) as caught:
        load(str(path), LoadConfig())
    line = str(caught.value)
    assert "/joint_states sensor_msgs/msg/JointState (60 messages at 50 Hz: position[2] velocity[2]" in line
    assert "/camera/image_raw sensor_msgs/msg/Image (6 messages at 5 Hz: 6 x 8 x 3 uint8)" in line
    assert "/command std_msgs/msg/Float64MultiArray (12 messages at 10 Hz: data[2])" in line
    words = line.partition("to read it: --dataset.action ")[2].split()
    assert words[:2] == ["/command.data", "--dataset.obs"] and "\n" not in line
    episode = load(str(path), LoadConfig(action=words[0], obs=tuple(words[2:]))).episodes[0]
    assert {name: value.shape[1:] for name, value in episode.obs.items()} == {
        "joint_states_position": (2,), "joint_states_velocity": (2,), "camera": (6, 8, 3)
    }  # fmt: skip
    assert load(str(path), LoadConfig(action=words[0])).episodes[0].obs.keys() == episode.obs.keys()


def test_without_a_topic_that_is_named_as_a_command_one_is_to_be_named(tmp_path):
    messages = [m for m in arm() if m[1] != "/command"]
    with pytest.raises(
        UsageError, match=r"none is named as a command: name it, such as --dataset.action /joint"
    ):
        read(write_mcap(tmp_path / "a.mcap", messages))


@pytest.mark.parametrize(
    ("obs", "action", "message"),
    [
        (
            ["/joint_state.position"],
            "/command",
            r"observation '/joint_state.position' not found; did you mean",
        ),
        (["/joint_states.positions"], "/command", r"has the numbers position, velocity, effort"),
        (["/joint_states.name"], "/command", r"has the numbers position, velocity, effort"),
        ([], "/camera/image_raw", r"'/camera/image_raw' is an image, wanted numbers"),
        ([], "/cmd", r"action '/cmd' not found; .*it holds the topics /rosout"),
    ],
)
def test_wrong_names_list_what_there_is(tmp_path, obs, action, message):
    path = write_mcap(tmp_path / "a.mcap", arm())
    with pytest.raises(UsageError, match=message):
        read(path, request(obs, action))


def changing(position) -> list:
    messages = arm(camera=False)
    at = next(i for i, m in enumerate(messages) if m[1] == "/joint_states" and m[0] > 0.5)
    return [*messages[:at], (*messages[at][:3], position), *messages[at + 1 :]]


@pytest.mark.parametrize(
    ("position", "message"),
    [
        (joints((1, 2), ("b", "a")), r"after 0.520 s: 'name' is \('b', 'a'\), and was \('a', 'b'\) before"),
        (joints((1, 2, 3), ("a", "b", "c")), r"after 0.520 s: 'name' is \('a', 'b', 'c'\)"),
        (joints((1, 2, 3)), r"'/joint_states.position' has 3 numbers, its first message has 2"),
        (joints((1, np.nan)), r"'/joint_states.position' is not finite \(NaN or infinite\) after 0.520 s"),
        (joints((1, 1e300)), r"'/joint_states.position' is not finite"),
    ],
)
def test_numbers_that_change_their_meaning_are_refused(tmp_path, position, message):
    path = write_mcap(tmp_path / "a.mcap", changing(position))
    with pytest.raises(DataError, match=message) as caught:
        read(path, request(OBS[:1]))
    assert "\n" not in str(caught.value)


def test_folder_of_bags_is_an_episode_each(tmp_path):
    write_rosbag1(tmp_path / "take_10.bag", arm(6))
    write_mcap(tmp_path / "take_2.mcap", arm(4))
    write_sqlite(tmp_path / "take_3", arm(5))
    (tmp_path / "take_1").mkdir()
    (tmp_path / "take_1" / "metadata.yaml").write_text("rosbag2_bagfile_information: {}")
    messages = arm(8)
    write_mcap(tmp_path / "take_1" / "take_1_0.mcap", messages[:30])
    write_mcap(tmp_path / "take_1" / "take_1_1.mcap", messages[30:])
    (tmp_path / "notes.txt").write_text("three takes")
    assert registry.detect_format(tmp_path) is bags
    recording = read(tmp_path, request())
    assert [len(episode) for episode in recording.episodes] == [7, 3, 4, 5]
    assert recording.numbers == (1, 2, 3, 10) and "4, 5, 6" in recording.missing
    assert recording.episodes[0].action[:, 0].tolist() == list(range(7))
    assert registry.detect_format(tmp_path / "take_1") is bags
    assert [len(episode) for episode in read(tmp_path / "take_1", request()).episodes] == [7]


def test_broken_bag_is_skipped_and_bags_are_chosen_by_number(tmp_path):
    for number in range(3):
        write_mcap(tmp_path / f"{number}.mcap", arm(4 + number))
    data = (tmp_path / "1.mcap").read_bytes()
    (tmp_path / "1.mcap").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"1.mcap is cut off.*`mcap recover`.*--dataset.skip-broken"):
        read(tmp_path, request())
    recording = read(tmp_path, request(episodes=parse_episodes("", skip_broken=True)))
    assert [len(episode) for episode in recording.episodes] == [3, 5] and recording.numbers == (0, 2)
    assert [len(e) for e in read(tmp_path, request(episodes=parse_episodes("2"))).episodes] == [5]


def test_bags_of_other_joint_order_are_not_mixed(tmp_path):
    write_mcap(tmp_path / "0.mcap", arm(4, camera=False))
    other = [
        (*m[:3], joints((1, 2), ("b", "a"))) if m[1] == "/joint_states" else m for m in arm(4, camera=False)
    ]
    write_mcap(tmp_path / "1.mcap", other)
    with pytest.raises(DataError, match=r"1.mcap: '/joint_states' after .* 'name' is \('b', 'a'\)"):
        read(tmp_path, request(OBS[:1]))


def test_images_of_another_size_are_refused_when_they_are_read(tmp_path):
    messages = arm()
    at = max(i for i, m in enumerate(messages) if m[1] == "/camera/image_raw")
    messages[at] = (*messages[at][:3], image(np.zeros((7, 8, 3), np.uint8), "bgr8"))
    episode = read(write_mcap(tmp_path / "a.mcap", messages), request()).episodes[0]
    with pytest.raises(DataError, match=r"at step 10 is u1 \(7, 8, 3\), the first image is u1 \(6, 8, 3\)"):
        np.asarray(episode.obs["camera"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-8], "does not end like an MCAP file"),
        (lambda data: data[:900], "is cut off, or a record in it is broken; `mcap recover`"),
        (lambda data: data[:8] + bytes(9) + data[17:], "a record is of no kind"),
        (lambda data: data[:8], "ends without the record of its end"),
    ],
)
def test_cut_file_is_refused(tmp_path, change, message):
    path = write_mcap(tmp_path / "a.mcap", arm())
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        read(path, request())


def test_changed_byte_in_a_chunk_is_found_by_its_checksum(tmp_path):
    path = write_mcap(tmp_path / "a.mcap", arm(), "NONE")
    data = path.read_bytes()
    at = data.index(struct.pack("<2d", 3, -3))
    path.write_bytes(data[:at] + b"\1" + data[at + 1 :])
    with pytest.raises(DataError, match="has another checksum than stated"):
        read(path, request())


def test_rate_that_makes_far_too_many_steps_is_refused(tmp_path):
    path = write_mcap(tmp_path / "a.mcap", arm())
    with pytest.raises(DataError, match=r"would have \d+ steps at 1e\+09 Hz, as its messages take 1 s"):
        read(path, request(hz=1e9))


def test_definition_in_idl_is_said_to_be_unreadable(tmp_path):
    from mcap.writer import Writer

    path = tmp_path / "a.mcap"
    with open(path, "wb") as file:
        writer = Writer(file)
        writer.start()
        schema = writer.register_schema("pkg/msg/X", "ros2idl", b"module pkg {};")
        channel = writer.register_channel("/x", "cdr", schema)
        writer.add_message(channel, nanoseconds(0), b"\0\1\0\0", nanoseconds(0))
        writer.finish()
    with pytest.raises(UsageError, match=r"/x pkg/msg/X \(1 messages: not readable, ros2idl\)"):
        read(path)
    with pytest.raises(DataError, match="'/x' is of the encoding 'ros2idl', not of ROS"):
        read(path, request([], "/x.a"))


def test_package_of_a_compression_is_named(tmp_path, monkeypatch):
    import sys

    path = write_mcap(tmp_path / "a.mcap", arm())
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UsageError, match=r"needs zstandard: pip install .*\[bags\]"):
        read(path, request())


def test_folder_without_bags_is_none(tmp_path):
    assert not bags.matches(tmp_path) and not bags.matches(Path(__file__))
