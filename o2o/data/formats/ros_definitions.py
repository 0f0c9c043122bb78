"""Holds the definitions of ROS 2's usual messages, for bags that do not define the types of their topics."""

import re

from o2o.data.formats.ros_messages import NUMBERS, TEXT, short_name

SEPARATOR = "=" * 80
HEADER = "std_msgs/Header header\n"
DEFINITIONS = {
    "builtin_interfaces/Time": "int32 sec\nuint32 nanosec",
    "std_msgs/Header": "builtin_interfaces/Time stamp\nstring frame_id",
    **{f"std_msgs/{kind.title()}": f"{kind} data" for kind in ("bool", "float32", "float64")},
    **{f"std_msgs/Int{bits}": f"int{bits} data" for bits in (8, 16, 32, 64)},
    **{f"std_msgs/UInt{bits}": f"uint{bits} data" for bits in (8, 16, 32, 64)},
    "std_msgs/String": "string data",
    "std_msgs/MultiArrayDimension": "string label\nuint32 size\nuint32 stride",
    "std_msgs/MultiArrayLayout": "std_msgs/MultiArrayDimension[] dim\nuint32 data_offset",
    **{
        f"std_msgs/{kind}MultiArray": f"std_msgs/MultiArrayLayout layout\n{kind.lower()}[] data"
        for kind in ("Float32", "Float64", "Int32", "Int64", "UInt8")
    },
    "geometry_msgs/Vector3": "float64 x\nfloat64 y\nfloat64 z",
    "geometry_msgs/Point": "float64 x\nfloat64 y\nfloat64 z",
    "geometry_msgs/Quaternion": "float64 x\nfloat64 y\nfloat64 z\nfloat64 w",
    "geometry_msgs/Pose": "geometry_msgs/Point position\ngeometry_msgs/Quaternion orientation",
    "geometry_msgs/Transform": "geometry_msgs/Vector3 translation\ngeometry_msgs/Quaternion rotation",
    "geometry_msgs/Twist": "geometry_msgs/Vector3 linear\ngeometry_msgs/Vector3 angular",
    "geometry_msgs/Accel": "geometry_msgs/Vector3 linear\ngeometry_msgs/Vector3 angular",
    "geometry_msgs/Wrench": "geometry_msgs/Vector3 force\ngeometry_msgs/Vector3 torque",
    **{
        f"geometry_msgs/{kind}Stamped": f"{HEADER}geometry_msgs/{kind} {kind.lower()}"
        for kind in ("Point", "Quaternion", "Pose", "Twist", "Accel", "Wrench")
    },
    "geometry_msgs/Vector3Stamped": f"{HEADER}geometry_msgs/Vector3 vector",
    "geometry_msgs/TransformStamped": (f"{HEADER}string child_frame_id\ngeometry_msgs/Transform transform"),
    "geometry_msgs/PoseWithCovariance": "geometry_msgs/Pose pose\nfloat64[36] covariance",
    "geometry_msgs/TwistWithCovariance": "geometry_msgs/Twist twist\nfloat64[36] covariance",
    "nav_msgs/Odometry": (
        f"{HEADER}string child_frame_id\ngeometry_msgs/PoseWithCovariance pose\n"
        "geometry_msgs/TwistWithCovariance twist"
    ),
    "sensor_msgs/JointState": (
        f"{HEADER}string[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort"
    ),
    "sensor_msgs/Image": (
        f"{HEADER}uint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\nuint8[] data"
    ),
    "sensor_msgs/CompressedImage": f"{HEADER}string format\nuint8[] data",
    "sensor_msgs/Imu": (
        f"{HEADER}geometry_msgs/Quaternion orientation\nfloat64[9] orientation_covariance\n"
        "geometry_msgs/Vector3 angular_velocity\nfloat64[9] angular_velocity_covariance\n"
        "geometry_msgs/Vector3 linear_acceleration\nfloat64[9] linear_acceleration_covariance"
    ),
    "sensor_msgs/Joy": f"{HEADER}float32[] axes\nint32[] buttons",
}


def find(name: str) -> str:
    """Returns the definition of a type with those of the messages in it; empty if it is none of these.

    Args:
        name: such as `sensor_msgs/msg/JointState`.
    """
    sections, needed = [], [short_name(name)]
    if needed[0] not in DEFINITIONS:
        return ""
    for kind in needed:  # grows meanwhile
        text = DEFINITIONS[kind]
        sections.append(text if not sections else f"MSG: {kind}\n{text}")
        types = re.findall(r"^([\w/]+)", text, flags=re.MULTILINE)
        needed += [one for one in types if one not in (*NUMBERS, TEXT, *needed)]
    return f"\n{SEPARATOR}\n".join(sections)
