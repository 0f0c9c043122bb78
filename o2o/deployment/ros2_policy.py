"""Asks a policy server for the actions of a ROS 2 node, and publishes them while they are timely."""

import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from o2o.core.files import read_text
from o2o.deployment.policy_client import PolicyClient, PolicyError
from o2o.deployment.ros2_messages import read_image, read_joints
from o2o.deployment.ros2_settings import NodeError, Settings

ANSWER_S = 2.0  # time after which an answer that did not come is given up


class PolicyNode:
    """Asks the policy at the control rate, and publishes its answers while they are timely.

    A thread asks, so that a late answer stops no subscription. What came for an observation within one period
    is published; anything later never is.
    """

    def __init__(self, node, ros: SimpleNamespace, settings: Settings):
        """
        Args:
            node: node of rclpy.
            ros: what `import_ros` returns.
            settings: parameters of the node.
        Raises:
            NodeError: an observation that the policy wants is missing, or the rate is unknown.
            PolicyError: there is no server.
        """
        self._node, self._settings, self._ros = node, settings, ros
        self._changed = threading.Condition()  # protects all below
        self._latest: dict[str, tuple[np.ndarray, float]] = {}  # name -> value, and when it came
        self._joints: dict[str, tuple[str, ...]] = {}  # name -> joints in the order of its entries
        self._reward, self._num_missed, self._episode = 0.0, 0, 0
        self._request: tuple[dict, float] | None = None  # observations to send, and when they were taken
        self._asking, self._open, self._running = False, True, False
        self._published: np.ndarray | None = None
        self._missed = False  # whether the action of the previous request was not published
        self._client = self._connect()
        self._spec = self._client.policy["obs"]
        try:
            self._period_s = 1 / self._rate()
            self._subscribe()
        except NodeError:
            self._client.close()
            raise
        self._publisher = node.create_publisher(ros.Float64MultiArray, settings.action_topic, 1)
        node.create_service(ros.Trigger, "~/start", self._on_start)
        node.create_service(ros.Trigger, "~/stop", self._on_stop)
        node.create_timer(self._period_s, self.tick)
        self._thread = threading.Thread(target=self._ask_forever, name="o2o policy", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and the connection."""
        with self._changed:
            self._open = self._running = False
            self._changed.notify()
        self._thread.join(ANSWER_S + 1)
        self._client.close()

    # ---- set-up

    def _connect(self) -> PolicyClient:
        settings = self._settings
        try:
            token = read_text(Path(settings.token_file)).strip() if settings.token_file else ""
        except (OSError, UnicodeDecodeError) as error:
            raise NodeError(f"cannot read the token in {settings.token_file}: {error}") from error
        return PolicyClient(settings.address, token, settings.cert or None, ANSWER_S)

    def _rate(self) -> float:
        rate = self._settings.control_hz or self._client.policy["control_hz"]
        if not rate:
            raise NodeError("the policy's control rate is unknown: give control_hz")
        return float(rate)

    def _subscribe(self) -> None:
        """Subscribes to the topics of what the policy wants; other observations are left out.

        Raises:
            NodeError: one is missing.
        """
        topics = dict(text.split("=", 1) for text in self._settings.observations)
        missing = [f"{name!r} {one['shape']} {one['dtype']}" for name, one in self._spec.items()
                   if name not in topics]  # fmt: skip
        if missing:
            have = ", ".join(topics) or "nothing"
            raise NodeError(
                f"the policy wants {', '.join(missing)}; observations names {have}: add NAME=TOPIC"
            )
        for name in self._spec:
            head, slash, tail = topics[name].rpartition("/")
            tail, _, field = tail.partition(".")
            kind = self._ros.JointState if field else self._ros.Image
            take = partial(self._take, name, field)
            self._node.create_subscription(kind, head + slash + tail, take, self._ros.sensor_qos)
        topic = self._settings.reward_topic
        if topic:
            self._node.create_subscription(self._ros.Float64, topic, self._on_reward, 1)

    # ---- what comes in

    def _take(self, name: str, field: str, message) -> None:
        """Keeps the newest value of an observation; one that does not fit stops the node."""
        try:
            if field:
                joints = self._joints.setdefault(name, self._settings.joints or tuple(message.name))
                value = read_joints(message, field, joints)
            else:
                value = read_image(message, self._spec[name]["layout"])
        except NodeError as error:
            self._stop(f"{name!r}: {error}")
            return
        with self._changed:
            self._latest[name] = value, time.monotonic()

    def _on_reward(self, message) -> None:
        with self._changed:
            self._reward = float(message.data)

    # ---- episodes

    def _on_start(self, request, response):
        """Begins an episode; connects again if the server was gone."""
        try:
            self._stop("")
            with self._changed:
                if not self._changed.wait_for(lambda: not self._asking, ANSWER_S):
                    raise NodeError("the previous answer is still awaited")
                seed = self._settings.seed + self._episode
                try:
                    self._client.reset(seed)
                except PolicyError:
                    self._client.close()
                    self._client = self._connect()
                    self._client.reset(seed)
                self._episode += 1
                self._num_missed, self._missed, self._published, self._running = 0, False, None, True
            response.success, response.message = True, f"episode {self._episode}, seed {seed}"
        except (PolicyError, NodeError) as error:
            response.success, response.message = False, str(error)
        return response

    def _on_stop(self, request, response):
        self._stop("~/stop was called")
        response.success, response.message = True, "stopped"
        return response

    def _stop(self, reason: str) -> None:
        with self._changed:
            was_running, self._running, self._request = self._running, False, None
        if was_running and reason:
            self._node.get_logger().error(f"stopped: {reason}; call ~/start to go on")

    # ---- decisions

    def tick(self) -> None:
        """Has one action asked for, unless an answer is still awaited or an observation is missing."""
        now_s = time.monotonic()
        with self._changed:
            if not self._running:
                return
            old = [name for name in self._spec if now_s - self._age_from(name) > self._settings.max_age_s]
            why = "the previous answer is late" if self._asking or self._request else ""
            why = why or (f"no {old[0]!r} for {self._settings.max_age_s:g} s" if old else "")
            if not why:
                self._request = {name: self._latest[name][0] for name in self._spec}, now_s
                self._changed.notify()
        if why:
            self._miss(why)

    def _age_from(self, name: str) -> float:
        return self._latest[name][1] if name in self._latest else -np.inf

    def _miss(self, why: str) -> None:
        """Counts a decision without an action; too many in a row stop the node."""
        with self._changed:
            self._num_missed += 1
            stops = self._num_missed >= self._settings.patience
        if stops:
            self._stop(f"{why}, {self._num_missed} decisions in a row had no action")
        else:
            self._node.get_logger().warning(f"no action: {why}")

    def _ask_forever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._request or not self._open)
                if not self._open or not self._request:
                    return
                (obs, begin_s), self._request, self._asking = self._request, None, True
                reward, executed = self._reward, self._hold_action() if self._missed else None
            try:
                action = self._client.act(obs, reward, executed)
                self._publish(action, begin_s)
            except PolicyError as error:
                self._stop(str(error))
            finally:
                with self._changed:
                    self._asking = False
                    self._changed.notify_all()

    def _hold_action(self) -> np.ndarray | None:
        """Returns (A,) what the robot did instead of an action that was not published; None: unknown."""
        if self._settings.command == "position":
            return self._published
        return np.zeros(len(self._client.policy["action"]["low"]))

    def _publish(self, action: np.ndarray, begin_s: float) -> None:
        """Publishes an action, unless it is later than a period or the node was stopped meanwhile."""
        with self._changed:
            late_s = time.monotonic() - begin_s - self._period_s
            self._missed = not self._running or late_s > 0
            if not self._missed:
                self._num_missed, self._published = 0, action
                self._publisher.publish(self._ros.Float64MultiArray(data=action.tolist()))
            running = self._running
        if running and late_s > 0:
            self._miss(f"an answer came {1e3 * late_s:.0f} ms late")
