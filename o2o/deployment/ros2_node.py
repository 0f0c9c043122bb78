"""Acts in ROS 2 by a policy server (`o2o serve`): subscribes to sensors, publishes actions.

    python -m o2o.deployment.ros2_node --ros-args -p address:=lab:8766 -p action_topic:=/arm/commands \\
      -p "observations:=['state=/joint_states.position', 'wrist=/wrist/image_raw']"
    ros2 service call /o2o_policy/start std_srvs/srv/Trigger      # begins an episode; ~/stop ends it

At the control rate it publishes an action, but nothing before `~/start`, while a sensor is silent, and for an
answer that came late; after `patience` such decisions in a row it stops, until `~/start` is called again. So
the robot's own controller must hold when no command comes, and its limits must stand behind the topic: this
node keeps none.
"""

import sys
from types import SimpleNamespace

from o2o.core.command_line import run_program
from o2o.core.errors import RobotError
from o2o.core.extras import needed_by
from o2o.deployment.ros2_settings import NodeError, Settings


def import_ros() -> SimpleNamespace:
    """Returns what the node needs of ROS 2.

    Raises:
        NodeError: ROS 2 is not there.
    """
    try:
        import rclpy  # type: ignore[import-not-found]
        from rclpy.executors import ExternalShutdownException  # type: ignore[import-not-found]
        from rclpy.qos import qos_profile_sensor_data  # type: ignore[import-not-found]
        from sensor_msgs.msg import Image, JointState  # type: ignore[import-not-found]
        from std_msgs.msg import Float64, Float64MultiArray  # type: ignore[import-not-found]
        from std_srvs.srv import Trigger  # type: ignore[import-not-found]
    except ImportError as error:
        raise NodeError(f"the node needs {error.name}: source the setup file of your ROS 2 first") from error
    return SimpleNamespace(
        rclpy=rclpy, ExternalShutdownException=ExternalShutdownException, sensor_qos=qos_profile_sensor_data,
        Image=Image, JointState=JointState, Float64=Float64, Float64MultiArray=Float64MultiArray,
        Trigger=Trigger,
    )  # fmt: skip


def run(argv: list[str] | None) -> None:
    """Runs the node until it is shut down.

    Raises:
        UsageError: a parameter does not fit, or ROS 2 or a package is missing.
        RobotError: there is no policy server.
    """
    with needed_by("the node"):
        from o2o.deployment.policy_client import PolicyError
        from o2o.deployment.ros2_policy import PolicyNode
    ros = import_ros()
    ros.rclpy.init(args=argv)
    node, policy = ros.rclpy.create_node("o2o_policy"), None
    try:
        policy = PolicyNode(node, ros, Settings.of(node))
        ros.rclpy.spin(node)
    except (KeyboardInterrupt, ros.ExternalShutdownException):
        pass
    except PolicyError as error:
        raise RobotError(str(error)) from error
    finally:
        if policy:
            policy.close()
        node.destroy_node()
        ros.rclpy.try_shutdown()


def main(argv: list[str] | None = None) -> int:
    """Runs the node; returns the exit code: 0 done, 2 a wrong parameter, 4 no policy server."""
    return run_program(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
