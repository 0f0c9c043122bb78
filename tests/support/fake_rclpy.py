"""Stands in for rclpy and messages of ROS 2; a test sends the messages and ticks the timer.

Names and signatures are those of ROS 2 Jazzy (`rclpy.node.Node`, `sensor_msgs`, `std_msgs`, `std_srvs`).
"""

import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import numpy as np


@dataclass
class JointState:
    name: list = field(default_factory=list)
    position: list = field(default_factory=list)
    velocity: list = field(default_factory=list)
    effort: list = field(default_factory=list)


@dataclass
class Image:
    height: int = 0
    width: int = 0
    encoding: str = ""
    is_bigendian: int = 0
    step: int = 0
    data: bytes = b""


@dataclass
class Float64:
    data: float = 0.0


@dataclass
class Float64MultiArray:
    data: list = field(default_factory=list)


class Trigger:
    class Request: ...

    @dataclass
    class Response:
        success: bool = False
        message: str = ""


class ExternalShutdownException(Exception):
    pass


class ParameterTypeError(Exception):
    """As `rclpy.exceptions.InvalidParameterTypeException`."""


class Node:
    """Keeps what was declared; `parameters` are those of the command line.

    Attributes:
        topics: topic -> (type of its messages, callback, quality of service).
        published: topic -> messages.
        services: name -> callback.
        timers: (period, s; callback).
        lines: (level, text) of the log.
    """

    def __init__(self, name: str, parameters: dict | None = None):
        self.name, self.parameters = name, parameters or {}
        self.topics, self.published, self.services, self.timers, self.lines = {}, {}, {}, [], []
        self.destroyed = False

    def declare_parameter(self, name: str, default):
        value = self.parameters.get(name, default)
        if type(value) is not type(default):
            raise ParameterTypeError(f"Trying to set parameter '{name}' to '{value}' of another type")
        return SimpleNamespace(value=value)

    def create_subscription(self, kind, topic, callback, qos):
        self.topics[topic] = kind, callback, qos

    def create_publisher(self, kind, topic, qos):
        sent = self.published.setdefault(topic, [])

        def publish(message) -> None:
            assert type(message) is kind
            sent.append(message)

        return SimpleNamespace(publish=publish)

    def create_service(self, kind, name, callback):
        assert kind is Trigger
        self.services[name] = callback

    def create_timer(self, period_s, callback):
        self.timers.append((period_s, callback))

    def get_logger(self):
        return SimpleNamespace(
            warning=lambda text: self.lines.append(("warning", text)),
            error=lambda text: self.lines.append(("error", text)),
        )

    def destroy_node(self):
        self.destroyed = True

    # ---- what a test does

    def send(self, topic: str, message) -> None:
        kind, callback, _ = self.topics[topic]
        assert type(message) is kind
        callback(message)

    def call(self, service: str):
        return self.services[service](Trigger.Request(), Trigger.Response())


def image_message(pixels: np.ndarray, encoding: str, padding: int = 0, **changes) -> Image:
    """Returns the message of (H, W, C) pixels, whose rows end with unused bytes."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    data = np.pad(rows, ((0, 0), (0, padding)), constant_values=7)
    fields = {"height": height, "width": width, "encoding": encoding, "step": data.shape[1]}
    return Image(**{**fields, "data": data.tobytes(), **changes})


@contextmanager
def installed(parameters: dict, spin):
    """Makes the modules importable while the block runs; yields the list of nodes.

    Args:
        parameters: what the command line sets.
        spin: called with the node, as `rclpy.spin` is.
    """
    nodes: list[Node] = []

    def create_node(name: str) -> Node:
        nodes.append(Node(name, parameters))
        return nodes[-1]

    rclpy = {"init": lambda args=None: None, "create_node": create_node, "spin": spin,
             "try_shutdown": lambda: None}  # fmt: skip
    modules = {
        "rclpy": rclpy,
        "rclpy.executors": {"ExternalShutdownException": ExternalShutdownException},
        "rclpy.qos": {"qos_profile_sensor_data": "sensor data"},
        "sensor_msgs": {}, "sensor_msgs.msg": {"Image": Image, "JointState": JointState},
        "std_msgs": {}, "std_msgs.msg": {"Float64": Float64, "Float64MultiArray": Float64MultiArray},
        "std_srvs": {}, "std_srvs.srv": {"Trigger": Trigger},
    }  # fmt: skip
    try:
        for name, values in modules.items():
            sys.modules[name] = ModuleType(name)
            vars(sys.modules[name]).update({"__path__": [], **values})
        yield nodes
    finally:
        for name in modules:
            sys.modules.pop(name, None)
