"""Writes small bags: MCAP files with mcap's own writer, bags of ROS 1 and SQLite files with rosbags."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

HEADER = "std_msgs/Header header\n"
HEADER_TYPE = """
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
================================================================================
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
"""
VECTOR_TYPE = """
================================================================================
MSG: geometry_msgs/Vector3
float64 x
float64 y
float64 z
"""
LAYOUT_TYPES = """
================================================================================
MSG: std_msgs/MultiArrayLayout
MultiArrayDimension[] dim
uint32 data_offset
================================================================================
MSG: std_msgs/MultiArrayDimension
string label
uint32 size
uint32 stride
"""
POSE_TYPES = """
================================================================================
MSG: geometry_msgs/Pose
Point position
Quaternion orientation
================================================================================
MSG: geometry_msgs/Point
float64 x
float64 y
float64 z
================================================================================
MSG: geometry_msgs/Quaternion
float64 x 0
float64 y 0
float64 z 0
float64 w 1
"""
DEFINITIONS = {
    "sensor_msgs/msg/JointState": f"""{HEADER}
string[] name   # of the joints
float64[] position
float64[] velocity
float64[] effort
{HEADER_TYPE}""",
    "std_msgs/msg/Float64MultiArray": f"MultiArrayLayout layout\nfloat64[] data{LAYOUT_TYPES}",
    "std_msgs/msg/Float32": "float32 data",
    "std_msgs/msg/String": "string data",
    "geometry_msgs/msg/Twist": f"Vector3 linear\nVector3 angular{VECTOR_TYPE}",
    "geometry_msgs/msg/PoseStamped": f"{HEADER}Pose pose{HEADER_TYPE}{POSE_TYPES}",
    "sensor_msgs/msg/Image": f"""{HEADER}
uint32 height
uint32 width
string encoding
uint8 is_bigendian
uint32 step
uint8[] data
{HEADER_TYPE}""",
    "sensor_msgs/msg/CompressedImage": f"{HEADER}string format\nuint8[] data{HEADER_TYPE}",
    "test_msgs/msg/Odd": """uint8 UP=1
bool flag
int8 small
float64[3] fixed
string<=10 note "a b"
uint16[<=4] few
Item[] items
Item one
int64 last
================================================================================
MSG: test_msgs/Item
uint8 tag
float32 value
""",
}

Message = tuple[float, str, str, dict]  # seconds, topic, type, fields


def joints(position, names=("a", "b"), frame: str = "base") -> dict:
    position = [float(value) for value in position]
    return {
        "header": stamp(frame),
        "name": list(names),
        "position": position,
        "velocity": [10 * value for value in position],
        "effort": [],
    }


def stamp(frame: str = "") -> dict:
    return {"stamp": {"sec": 1, "nanosec": 2}, "frame_id": frame}


def floats(values) -> dict:
    return {
        "layout": {"dim": [{"label": "joint", "size": 2, "stride": 2}], "data_offset": 0},
        "data": list(values),
    }


def image(pixels: np.ndarray, encoding: str, padding: int = 0, is_big: bool = False) -> dict:
    """Returns a raw image of (H, W) or (H, W, C) pixels, with bytes behind each row."""
    rows = (
        pixels.astype(pixels.dtype.newbyteorder(">" if is_big else "<"))
        .reshape(len(pixels), -1)
        .view(np.uint8)
    )
    rows = np.pad(rows, ((0, 0), (0, padding)))
    return {
        "header": stamp("camera"), "height": pixels.shape[0], "width": pixels.shape[1], "encoding": encoding,
        "is_bigendian": int(is_big), "step": rows.shape[1], "data": rows.tobytes(),
    }  # fmt: skip


def write_mcap(
    path: Path, messages: Iterable[Message], compression: str = "ZSTD",
    definitions: Mapping[str, str] = DEFINITIONS, **options,
) -> Path:  # fmt: skip
    """Writes messages in the given order; a time in seconds becomes nanoseconds after 1000 s.

    Args:
        compression: `NONE`, `LZ4` or `ZSTD`.
        options: of `mcap.writer.Writer`, such as `chunk_size` and `use_chunking`.
    """
    from mcap.writer import CompressionType, Writer
    from mcap_ros2._dynamic import serialize_dynamic

    with open(path, "wb") as file:
        writer = Writer(file, compression=CompressionType[compression], **options)
        writer.start("ros2")
        encoders, schemas, channels = {}, {}, {}
        for seconds, topic, kind, message in messages:
            if kind not in schemas:
                encoders[kind] = serialize_dynamic(kind, definitions[kind])[kind]
                schemas[kind] = writer.register_schema(kind, "ros2msg", definitions[kind].encode())
            if topic not in channels:
                channels[topic] = writer.register_channel(topic, "cdr", schemas[kind])
            time = nanoseconds(seconds)
            writer.add_message(channels[topic], time, encoders[kind](message), time)
        writer.finish()
    return path


def nanoseconds(seconds: float) -> int:
    return 1000 * 10**9 + round(seconds * 1e9)


def arm(num: int = 12, camera: bool = True, start: float = 0.0) -> list[Message]:
    """Returns a bag of an arm: joints at 50 Hz, a camera at 5 Hz, commands at 10 Hz, 20 ms after the joints.

    Joint message i has positions (i, -i), image i has pixels i, command i is (i, i + 0.5).
    """
    messages: list[Message] = [(start - 0.05, "/rosout", "std_msgs/msg/String", {"data": "hello"})]
    for i in range(5 * num):
        messages.append((start + i / 50, "/joint_states", "sensor_msgs/msg/JointState", joints((i, -i))))
    for i in range(num):
        command = floats((i, i + 0.5))
        messages.append((start + 0.02 + i / 10, "/command", "std_msgs/msg/Float64MultiArray", command))
    for i in range(num // 2 if camera else 0):
        pixels = np.full((6, 8, 3), i, np.uint8)
        pixels[..., 2] += 100
        picture = image(pixels, "bgr8", padding=3)
        messages.append((start + i / 5, "/camera/image_raw", "sensor_msgs/msg/Image", picture))
    return sorted(messages, key=lambda message: message[0])


def write_rosbag1(path: Path, messages: Iterable[Message], compression: str = "lz4") -> Path:
    """Writes messages of standard types as a bag of ROS 1.

    Args:
        compression: `none`, `lz4` or `bz2`.
    """
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_typestore

    store, connections = get_typestore(Stores.ROS1_NOETIC), {}
    writer = Writer(path)
    if compression != "none":
        writer.set_compression(Writer.CompressionFormat[compression.upper()])
    with writer:
        for seconds, topic, kind, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            data = store.serialize_ros1(_build(store, kind, message), kind)
            writer.write(connections[topic], nanoseconds(seconds), bytes(data))
    return path


def write_sqlite(path: Path, messages: Iterable[Message]) -> Path:
    """Writes messages of standard types as a folder of ROS 2 with a `.db3` file; the folder is returned."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store, connections = get_typestore(Stores.ROS2_HUMBLE), {}
    with Writer(path, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        for seconds, topic, kind, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            data = store.serialize_cdr(_build(store, kind, message), kind)
            writer.write(connections[topic], nanoseconds(seconds), bytes(data))
    return path


def _build(store, kind: str, fields: dict):
    """Returns a message of rosbags."""
    types = {name: node for name, node in store.fielddefs[kind][1]}
    values = {}
    for name, node in types.items():
        value = fields.get(name, 0)
        if name in ("sec", "nanosec", "seq"):
            value = int(value)
        elif isinstance(value, dict):
            value = _build(store, node[1], value)
        elif isinstance(value, bytes):
            value = np.frombuffer(value, np.uint8)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            value = [_build(store, node[1][0][1], one) for one in value]
        elif isinstance(value, list) and not (value and isinstance(value[0], str)):
            value = np.array(value, np.float64)
        values[name] = value
    return store.types[kind](**values)
