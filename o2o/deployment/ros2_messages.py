"""Reads the messages of ROS 2 that robots observe by: joint states and images."""

import numpy as np

from o2o.deployment.ros2_settings import NodeError

IMAGES = {  # encoding -> (dtype, channels)
    "rgb8": ("u1", 3), "bgr8": ("u1", 3), "rgba8": ("u1", 4), "bgra8": ("u1", 4), "8UC3": ("u1", 3),
    "mono8": ("u1", 1), "8UC1": ("u1", 1), "mono16": ("u2", 1), "16UC1": ("u2", 1), "32FC1": ("f4", 1),
}  # fmt: skip


def read_joints(message, field: str, joints: tuple[str, ...]) -> np.ndarray:
    """Returns (J,) float32 of a sensor_msgs/JointState.

    Args:
        message: the message.
        field: `position`, `velocity` or `effort`.
        joints: names of the joints in the wanted order.
    Raises:
        NodeError: it lacks one of them, or has another number of values than of names.
    """
    names, values = list(message.name), list(getattr(message, field))
    missing = [name for name in joints if name not in names]
    if missing or len(values) != len(names):
        what = f"no joint {missing[0]!r}" if missing else f"{len(values)} {field} values"
        raise NodeError(f"the message has {what}; it names {', '.join(names) or 'no joints'}")
    return np.array([values[names.index(name)] for name in joints], np.float32)


def read_image(message, layout: str) -> np.ndarray:
    """Returns the pixels of a sensor_msgs/Image in a layout: colors as RGB, 16 bits as float32, unscaled.

    Raises:
        NodeError: see `decode_image`, or the layout is none of one image.
    """
    image = decode_image(message)
    if layout not in ("HWC", "CHW", "HW"):
        raise NodeError(f"an image comes, the policy wants {f'the axes {layout}' if layout else 'a vector'}")
    return {"HWC": image, "CHW": image.transpose(2, 0, 1), "HW": image[..., 0]}[layout]


def decode_image(message) -> np.ndarray:
    """Returns (H, W, C) of a sensor_msgs/Image.

    Raises:
        NodeError: its encoding is not known, or it has fewer bytes than it states.
    """
    if message.encoding not in IMAGES:
        raise NodeError(f"the encoding is {message.encoding!r:.40}; have {', '.join(IMAGES)}")
    kind, channels = IMAGES[message.encoding]
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    height, width, step = message.height, message.width, message.step
    data, row = np.frombuffer(bytes(message.data), np.uint8), width * channels * dtype.itemsize
    if not height or not width or step < row or len(data) < step * height:
        raise NodeError(f"the image has {len(data)} bytes for {height} rows of {step}, {width} pixels each")
    rows = np.ascontiguousarray(data[: step * height].reshape(height, step)[:, :row])
    image = rows.view(dtype).reshape(height, width, channels)
    if message.encoding.startswith("bgr"):
        image = image[..., [2, 1, 0, 3][:channels]]
    return image if kind == "u1" else image.astype(np.float32)
