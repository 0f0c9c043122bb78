"""Defines the parameters of the ROS 2 node."""

from dataclasses import dataclass, fields

from o2o.core.errors import UsageError

FIELDS = ("position", "velocity", "effort")  # of a JointState


class NodeError(UsageError):
    """A parameter or a message that does not fit."""


@dataclass(frozen=True)
class Settings:
    """Parameters of the node.

    Attributes:
        address: HOST:PORT of `o2o serve`, or `wss://HOST:PORT`.
        token_file: file with the server's token; empty: none.
        cert: file with the server's certificate, PEM; empty: no TLS, or the authorities of this system.
        observations: `NAME=TOPIC` of an Image, `NAME=TOPIC.position` (velocity, effort) of a JointState.
        joints: names of the joints in the order of the recordings; empty: that of the first message.
        action_topic: where the actions go, as Float64MultiArray.
        reward_topic: Float64 with the reward of the previous action; empty: 0.
        command: what holds the robot: `position` repeats the last command, `velocity` and `displacement`
            are 0. It tells the model what the robot did instead of an action that was not published.
        control_hz: decisions per second; 0: as the policy was recorded.
        max_age_s: age of an observation after which no action is published, s.
        patience: decisions in a row without an action after which the node stops.
        seed: seed of the first episode; each further one has the next.
    """

    address: str = "127.0.0.1:8766"
    token_file: str = ""
    cert: str = ""
    observations: tuple[str, ...] = ("",)
    joints: tuple[str, ...] = ("",)
    action_topic: str = "~/action"
    reward_topic: str = ""
    command: str = "position"
    control_hz: float = 0.0
    max_age_s: float = 0.2
    patience: int = 5
    seed: int = 0

    @classmethod
    def of(cls, node) -> "Settings":
        """Returns the parameters of a node, which are declared with their defaults.

        Raises:
            NodeError: one of them does not fit.
        """
        values = {}
        for one in fields(cls):
            default = list(one.default) if isinstance(one.default, tuple) else one.default
            try:
                value = node.declare_parameter(one.name, default).value
            except Exception as error:  # rclpy has kinds of its own for a value of another type
                raise NodeError(f"{one.name}: {error}") from error
            values[one.name] = tuple(word for word in value if word) if isinstance(value, list) else value
        settings = cls(**values)
        settings.check()
        return settings

    def check(self) -> None:
        """Raises NodeError where a parameter does not fit."""
        if self.command not in ("position", "velocity", "displacement"):
            raise NodeError(f"command is {self.command!r}, wanted position, velocity or displacement")
        for name, low in (("control_hz", 0.0), ("max_age_s", 1e-3), ("patience", 1), ("seed", 0)):
            if not getattr(self, name) >= low:
                raise NodeError(f"{name} is {getattr(self, name)}, wanted at least {low:g}")
        for text in self.observations:
            name, equals, topic = text.partition("=")
            field = topic.rpartition("/")[2].partition(".")[2]
            if not (name and equals and topic) or field not in ("", *FIELDS):
                raise NodeError(
                    f"observations has {text!r}, wanted NAME=TOPIC of images, or NAME=TOPIC.position, "
                    ".velocity or .effort of joints"
                )
