"""Defines `RealTimeRobot`, the base class of a robot that moves in real time at a fixed control rate."""

import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from o2o.hardware.clock import RateKeeper


class RealTimeRobot(gymnasium.Env):
    """A real robot, or anything else that moves in wall-clock time and does not wait for the agent.

    A robot file subclasses it and sets, before or in its `__init__`,

    * `observation_space`, a Dict, and `action_space`, a Box in physical units;
    * `metadata["control_hz"]`, `metadata["command"]` and `metadata["limits"]`; see `o2o.hardware.limits`;
    * `metadata["displacement"]` if actions move a gripper through space; see `o2o.hardware.end_effector`.

    It implements `observe`, `send` and `stop`, and, where needed, `home` and `reward_and_success`. No method
    but `home` may take longer than a few milliseconds: a blocking driver is read in its own thread, with
    `o2o.hardware.latest_value.LatestValue`.
    """

    metadata: dict[str, Any] = {"simulated": False, "real_time": True}  # noqa: RUF012

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
        """Moves the robot to where an episode starts. This may take seconds, and may wait for a person."""

    def reward_and_success(self, obs: Mapping[str, np.ndarray]) -> tuple[float, bool, bool]:
        """Returns (reward, success, terminated) of an observation.

        The default is (0, False, False): an operator labels the episode instead.
        """
        return 0.0, False, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Returns (obs, info) after `home`. The seed only seeds `np_random`; a real robot has none."""
        super().reset(seed=seed)
        self.home()
        self.clock = RateKeeper(1 / float(self.metadata["control_hz"]))
        obs, age_s = self._observe_with_age()
        return obs, {"age_s": age_s}

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
        obs, age_s = self._observe_with_age()
        stages = {"send": sent_s - begin_s, "observe": time.monotonic() - tick_s}
        reward, success, terminated = self.reward_and_success(obs)
        info = {"success": success, "age_s": age_s, "late_s": late_s, "stages": stages}
        if executed is not None:
            info["executed_action"] = np.asarray(executed)
        return obs, float(reward), bool(terminated), False, info

    def close(self) -> None:
        self.stop()

    def _observe_with_age(self) -> tuple[dict[str, np.ndarray], float]:
        obs, measured_s = self.observe()
        return dict(obs), max(0.0, time.monotonic() - measured_s)


Hardware = RealTimeRobot
