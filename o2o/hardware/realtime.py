"""Defines `RealTimeRobot`, the base class of a robot that moves in real time at a fixed control rate."""

import threading
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from o2o.core.errors import RobotError
from o2o.hardware.clock import RateKeeper

MAX_AHEAD_S = 0.001  # of a time stamp that lies in the future


class RealTimeRobot(gymnasium.Env):
    """A real robot, or anything else that moves in wall-clock time and does not wait for the agent.

    A robot file subclasses it and sets, before or in its `__init__`,

    * `observation_space`, a Dict, and `action_space`, a Box in physical units;
    * `metadata["control_hz"]`, `metadata["command"]` and `metadata["limits"]`; see `o2o.hardware.limits`;
    * `metadata["displacement"]` if actions move a gripper through space; see `o2o.hardware.end_effector`;
    * `metadata["measured"]` if entries of an action are positions; see `o2o.hardware.measured`.

    It implements `observe`, `send` and `stop`, and, where needed, `home` and `reward_and_success`. No method
    but `home` may take longer than a few milliseconds: a blocking driver is read in its own thread, with
    `o2o.hardware.latest_value.LatestValue`.

    Attributes:
        stop_event: set while the robot is stopped, until it is homed again.
    """

    stop_event: threading.Event
    metadata: dict[str, Any] = {"simulated": False, "real_time": True}  # noqa: RUF012

    def __new__(cls, *args, **kwargs):
        robot = super().__new__(cls)
        robot.stop_event = threading.Event()  # here, because a subclass need not call our `__init__`
        return robot

    @abstractmethod
    def observe(self) -> tuple[Mapping[str, np.ndarray], float]:
        """Returns the latest observation and when its oldest part was measured, s of `time.monotonic`."""

    @abstractmethod
    def send(self, action: np.ndarray) -> np.ndarray | None:
        """Starts an action (A,), in physical units, and returns at once.

        Returns:
            (A,) the action that the driver executes after limits of its own; None if it is `action`.
        """

    @abstractmethod
    def stop(self) -> None:
        """Stops the robot's motion safely and at once. Any thread may call it, also twice in a row.

        It is also called at the end of every episode, so `home` must be able to move the robot after it.
        """

    def home(self) -> None:
        """Moves the robot to where an episode starts. This may take seconds, and may wait for a person.

        It must end when the robot is stopped meanwhile: it waits by `self.sleep` between its commands, or
        looks at `self.stop_event` itself.
        """

    def sleep(self, seconds: float) -> None:
        """Waits in `home`.

        Raises:
            RobotError: the robot is stopped meanwhile.
        """
        if self.stop_event.wait(seconds):
            raise RobotError("the robot was stopped while it was homing")

    def go_home(self) -> None:
        """Homes the robot, unless it is stopped: the caller clears `stop_event` when homing is allowed.

        Raises:
            RobotError: it was stopped meanwhile.
        """
        self.sleep(0)
        try:
            self.home()
        finally:
            if self.stop_event.is_set():
                self.stop()  # again, for `home` may have sent one more command
        self.sleep(0)

    def reward_and_success(self, obs: Mapping[str, np.ndarray]) -> tuple[float, bool, bool]:
        """Returns (reward, success, terminated) of an observation.

        The default is (0, False, False): an operator labels the episode instead.
        """
        return 0.0, False, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Returns (obs, info) after `home`. The seed only seeds `np_random`; a real robot has none."""
        super().reset(seed=seed)
        self.stop_event.clear()
        self.go_home()
        self.clock = RateKeeper(1 / float(self.metadata["control_hz"]))
        obs, measured_s = self.observe_checked()
        return obs, {"age_s": time.monotonic() - measured_s}

    def step(self, action):
        """Sends the action, waits for the next tick, and observes.

        Returns:
            (obs, reward, terminated, truncated, info), where `info["age_s"]` is the age of the observation
            when it is returned, `info["late_s"]` how late the tick came, and `info["stages"]` the time that
            sending and observing took; all in s.
        """
        begin_s = time.monotonic()
        executed = self.send(np.asarray(action))
        sent_s = time.monotonic()
        late_s = self.clock.wait()
        tick_s = time.monotonic()
        obs, measured_s = self.observe_checked()
        stages = {"send": sent_s - begin_s, "observe": time.monotonic() - tick_s}
        reward, success, terminated = self.reward_and_success(obs)
        info = {
            "success": success,
            "age_s": time.monotonic() - measured_s,
            "late_s": late_s,
            "stages": stages,
        }
        if executed is not None:
            info["executed_action"] = np.asarray(executed)
        return obs, float(reward), bool(terminated), False, info

    def close(self) -> None:
        self.stop()

    def observe_checked(self) -> tuple[dict[str, np.ndarray], float]:
        """Returns `observe`, after a check of its time.

        Raises:
            RobotError: the time is not one of `time.monotonic` that has passed.
        """
        obs, measured_s = self.observe()
        now_s = time.monotonic()
        if not measured_s <= now_s + MAX_AHEAD_S:
            raise RobotError(
                f"observe() returned the time {measured_s!r} s, and time.monotonic() is {now_s:.3f} s: "
                "wanted when the oldest part was measured, by time.monotonic()"
            )
        return dict(obs), min(measured_s, now_s)


Hardware = RealTimeRobot
