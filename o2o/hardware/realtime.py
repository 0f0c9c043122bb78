"""A robot that moves in real time: what its author writes, and the rate that is kept around it."""

import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from o2o.hardware.clock import RateKeeper


class RealTimeRobot(gymnasium.Env):
    """A real robot, or anything else that does not wait: its clock is the wall's.

    A robot's file subclasses it and sets, before or in its `__init__`,

    * `observation_space`, a Dict, and `action_space`, a Box in physical units;
    * `metadata["control_hz"]`, `metadata["command"]` and `metadata["limits"]` (see `o2o.hardware.limits`),
      and
      `metadata["displacement"]` where actions move a gripper through space (see `o2o.hardware.end_effector`).

    It writes `observe`, `send` and `stop`; `home` and `reward_and_success` where there is something to do.
    No method but `home` may take longer than a few milliseconds: a blocking driver reads in its own thread.
    """

    metadata: dict[str, Any] = {"simulated": False, "real_time": True}  # noqa: RUF012

    @abstractmethod
    def observe(self) -> tuple[Mapping[str, np.ndarray], float]:
        """The newest observation, and when its oldest part was measured, s of `time.monotonic`."""

    @abstractmethod
    def send(self, action: np.ndarray) -> np.ndarray | None:
        """Starts an action (A,), physical, and returns at once.

        Returns:
            (A,) what the driver made of it, after limits of its own; None: just that.
        """

    @abstractmethod
    def stop(self) -> None:
        """Makes the robot stand still, safely, now: from any thread, and twice is harmless.

        It is also called at the end of every episode, so `home` must be able to go on from there.
        """

    def home(self) -> None:
        """Brings the robot to where an episode starts. May take seconds, and may ask a person."""

    def reward_and_success(self, obs: Mapping[str, np.ndarray]) -> tuple[float, bool, bool]:
        """(reward, success, whether that ends the episode) of an observation; a person may decide later."""
        return 0.0, False, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """(obs, info) after `home`. A real robot has no seed; it goes to NumPy's draws alone."""
        super().reset(seed=seed)
        self.home()
        self.clock = RateKeeper(1 / float(self.metadata["control_hz"]))
        obs, age_s = self._look()
        return obs, {"age_s": age_s}

    def step(self, action):
        """Sends, waits for the tick, looks: (obs, reward, terminated, truncated, info) one period later.

        `info["age_s"]` is the age of the observation as it is handed over, `info["late_s"]` how late the
        tick came, `info["stages"]` what sending and observing took, s.
        """
        begin = time.monotonic()
        did = self.send(np.asarray(action))
        sent = time.monotonic()
        late_s = self.clock.wait()
        woken = time.monotonic()
        obs, age_s = self._look()
        stages = {"send": sent - begin, "observe": time.monotonic() - woken}
        reward, success, over = self.reward_and_success(obs)
        info = {"success": success, "age_s": age_s, "late_s": late_s, "stages": stages}
        if did is not None:
            info["executed_action"] = np.asarray(did)
        return obs, float(reward), bool(over), False, info

    def close(self) -> None:
        self.stop()

    def _look(self) -> tuple[dict[str, np.ndarray], float]:
        obs, measured_s = self.observe()
        return dict(obs), max(0.0, time.monotonic() - measured_s)


Hardware = RealTimeRobot
