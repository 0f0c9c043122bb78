"""A simulator that does not wait: its world moves by the wall's clock, in threads of its own."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import gymnasium
import numpy as np

from o2o.core.errors import RobotError
from o2o.hardware.clock import RateKeeper
from o2o.hardware.limits import command_types
from o2o.hardware.realtime import RealTimeRobot

MOST_TICKS = 25  # caught up in one go; a longer pause of the machine stops the world for its rest

logger = logging.getLogger("o2o")


class World(Protocol):
    """What a simulator must be able to do to live in wall-clock time; see `robots/sim/live.py`.

    Attributes:
        observation_space, action_space, metadata: as of a robot.
        num_ticks: in one decision of `metadata["control_hz"]`.
    """

    observation_space: Any
    action_space: Any
    metadata: dict[str, Any]
    num_ticks: int

    def begin(self, action: np.ndarray) -> np.ndarray:
        """Starts an action (A,); what limits leave of it (A,)."""
        ...

    def hold(self) -> None:
        """Makes the arm rest where it is, the gripper as it was."""
        ...

    def advance(self, tick: int) -> None:
        """One tick of time; `tick` counts from 1 since `begin`, and stays at `num_ticks`."""
        ...

    def homing(self, tick: int) -> bool:
        """One tick of time on the way home, at a limited speed; True once the next episode can start."""
        ...

    def feel(self) -> Mapping[str, np.ndarray]:
        """Every observation that is no picture."""
        ...

    def reward_and_success(self) -> tuple[float, bool, bool]:
        """(reward, success, whether that ends the episode)."""
        ...

    def snapshot(self) -> Any:
        """What `see` needs of this moment, copied; None where nothing is drawn."""
        ...

    def see(self, snapshot: Any) -> Mapping[str, np.ndarray]:
        """Pictures of a snapshot, always drawn in the same thread, which also calls `close`."""
        ...

    def close(self) -> None:
        """Frees what draws."""
        ...


def rest(metadata: Mapping, space: gymnasium.spaces.Box, last: np.ndarray | None) -> np.ndarray:
    """(A,) the action that moves nothing: no displacement, no velocity, positions as in the `last` one."""
    words = command_types(metadata, space.shape[0])
    stay = np.zeros(space.shape, np.float64)
    if last is not None:
        position = [i for i, word in enumerate(words) if word == "position"]
        stay[position] = last[position]
    return np.clip(stay, space.low, space.high).astype(space.dtype)


class RealTimeSimulation(RealTimeRobot):
    """A `World` as a robot: it goes on while nobody looks, and has neither seed nor teleport.

    Physics and pictures have a thread each. A picture is drawn from a copy, so physics never waits for it,
    and it is as old as that copy. Nothing is drawn while nobody observes.
    """

    def __init__(self, world: World, camera_hz: float = 30.0):
        self.observation_space, self.action_space = world.observation_space, world.action_space
        self.metadata = {**world.metadata, "simulated": False, "real_time": True}
        self._world, self._camera_hz = world, camera_hz
        self._lock = threading.Lock()  # the world, and all below
        self._changed = threading.Condition(self._lock)
        self._tick, self._homing = world.num_ticks, False
        self._open, self._failed = True, ""
        self._felt, self._felt_s = dict(world.feel()), time.monotonic()
        self._judged = world.reward_and_success()
        self._seen, self._seen_s = {}, time.monotonic()
        self.num_ticks_lost = 0
        self._draws = world.snapshot() is not None
        runs = [self._live, self._film] if self._draws else [self._live]
        self._threads = [threading.Thread(target=self._guarded, args=(run,), daemon=True) for run in runs]
        for thread in self._threads:
            thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._failed or not self._draws or self._seen, timeout=60)
            self._check()

    def observe(self) -> tuple[dict[str, np.ndarray], float]:
        with self._lock:
            self._check()
            when = min(self._felt_s, self._seen_s) if self._draws else self._felt_s
            return {**self._seen, **self._felt}, when

    def send(self, action: np.ndarray) -> np.ndarray:
        """Starts an action at once, even in the middle of another; ignored on the way home."""
        with self._lock:
            self._check()
            if self._homing:
                raise RobotError("the robot is on its way home and takes no actions")
            self._tick = 0
            return self._world.begin(action)

    def stop(self) -> None:
        with self._changed:
            self._homing = False
            self._tick = 0
            self._world.hold()
            self._changed.notify_all()

    def home(self) -> None:
        """Moves home as fast as is safe, and waits for it.

        Raises:
            RobotError: it was stopped on the way.
        """
        with self._changed:
            self._check()
            self._homing, self._tick, self._arrived = True, 0, False
            self._changed.wait_for(lambda: not self._homing or self._failed)
            self._check()
            if not self._arrived:
                raise RobotError("the robot was stopped on its way home")

    def reward_and_success(self, obs) -> tuple[float, bool, bool]:
        with self._lock:
            return self._judged

    def close(self) -> None:
        self.stop()
        with self._changed:
            self._open = False
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=10)

    def _check(self) -> None:
        if self._failed:
            raise RobotError(f"the simulator failed: {self._failed}")

    def _guarded(self, run: Callable[[], None]) -> None:
        """A thread that dies says so, and the next call of anybody fails."""
        try:
            run()
        except Exception as error:
            logger.error("the simulator failed: %s: %s", type(error).__name__, error)
            with self._changed:
                self._failed = f"{type(error).__name__}: {error}"
                self._changed.notify_all()

    def _live(self) -> None:
        period_s = 1 / (float(self.metadata["control_hz"]) * self._world.num_ticks)
        clock = RateKeeper(period_s)
        while self._open:
            missed = int(clock.wait() // period_s)
            self.num_ticks_lost += max(0, missed + 1 - MOST_TICKS)
            with self._changed:
                for _ in range(min(missed + 1, MOST_TICKS)):
                    self._move()
                self._felt, self._felt_s = dict(self._world.feel()), time.monotonic()
                self._judged = self._world.reward_and_success()

    def _move(self) -> None:
        self._tick += 1
        if not self._homing:
            self._tick = min(self._tick, self._world.num_ticks)
            self._world.advance(self._tick)
        elif self._world.homing(self._tick):
            self._homing, self._arrived, self._tick = False, True, self._world.num_ticks
            self._changed.notify_all()

    def _film(self) -> None:
        clock = RateKeeper(1 / self._camera_hz)
        try:
            while self._open:
                with self._lock:
                    shot, taken_s = self._world.snapshot(), time.monotonic()
                seen = dict(self._world.see(shot))
                with self._changed:
                    self._seen, self._seen_s = seen, taken_s
                    self._changed.notify_all()
                clock.wait()
        finally:
            self._world.close()


class EnvWorld:
    """Any Gymnasium environment as a `World`: it takes whole decisions and resets at once to come home.

    An action goes on until the next one; to `hold` is to send one that moves nothing (see `rest`).
    """

    num_ticks = 1

    def __init__(self, env: gymnasium.Env):
        space = env.observation_space
        self._flat = not isinstance(space, gymnasium.spaces.Dict)
        self.observation_space: Any = gymnasium.spaces.Dict({"state": space}) if self._flat else space
        self.action_space: Any = env.action_space
        self.metadata = dict(env.metadata)
        self.metadata.setdefault("control_hz", 10)
        self._env = env
        self.homing(1)

    def begin(self, action):
        self._action = np.asarray(action, self.action_space.dtype)
        return self._action

    def hold(self):
        self._action = rest(self.metadata, self.action_space, self._action)

    def advance(self, tick):
        if not self._over:  # an episode that is over stands still until it is brought home
            self._obs, reward, terminated, truncated, info = self._env.step(self._action)
            success = bool(np.any(info.get("success", info.get("is_success", False))))
            self._label, self._over = (float(reward), success), bool(terminated or truncated)

    def homing(self, tick):
        self._obs, _ = self._env.reset()
        self._label, self._over = (0.0, False), False
        self._action = rest(self.metadata, self.action_space, None)
        return True

    def feel(self):
        return {"state": self._obs} if self._flat else self._obs

    def reward_and_success(self):
        return (*self._label, self._over)

    def snapshot(self):
        return None

    def see(self, snapshot):
        return {}

    def close(self):
        self._env.close()
