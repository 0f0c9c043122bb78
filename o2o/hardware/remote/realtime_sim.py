"""Runs a simulator in wall-clock time, in its own threads, so that it behaves like a real robot."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import gymnasium
import numpy as np

from o2o.core.errors import RobotError
from o2o.core.spec import space_shapes
from o2o.core.success import success_of_step
from o2o.hardware.clock import RateKeeper
from o2o.hardware.limits import command_types
from o2o.hardware.measured import check_measured, home_positions
from o2o.hardware.realtime import RealTimeRobot

MAX_CATCH_UP_TICKS = 25  # ticks simulated at once after a pause; a longer pause of the machine loses time

logger = logging.getLogger("o2o")


class SimulatedWorld(Protocol):
    """Interface of a simulator that can run in wall-clock time; see `robots/sim/real_time.py`.

    Attributes:
        observation_space, action_space, metadata: those of a robot.
        num_ticks: simulation ticks in one decision of `metadata["control_hz"]`.
    """

    observation_space: Any
    action_space: Any
    metadata: dict[str, Any]
    num_ticks: int

    def begin_action(self, action: np.ndarray) -> np.ndarray:
        """Starts an action (A,) and returns (A,) what the simulator's limits leave of it."""
        ...

    def hold(self) -> None:
        """Makes the arm hold its position, with the gripper unchanged."""
        ...

    def advance(self, tick: int) -> None:
        """Simulates one tick; `tick` counts from 1 since `begin_action`, and stays at `num_ticks`."""
        ...

    def advance_homing(self, tick: int) -> bool:
        """Simulates one tick of homing at a limited speed; returns whether the next episode can start."""
        ...

    def vector_obs(self) -> Mapping[str, np.ndarray]:
        """Returns every observation that is not an image."""
        ...

    def reward_and_success(self) -> tuple[float, bool, bool]:
        """Returns (reward, success, terminated)."""
        ...

    def snapshot(self) -> Any:
        """Returns a copy of the state that `render_cameras` needs; None if nothing is rendered."""
        ...

    def render_cameras(self, snapshot: Any) -> Mapping[str, np.ndarray]:
        """Returns the camera images of a snapshot; always called in one thread, which also calls `close`."""
        ...

    def close(self) -> None:
        """Frees the renderer."""
        ...


def idle_action(metadata: Mapping, space: gymnasium.spaces.Box, position: np.ndarray | None) -> np.ndarray:
    """Returns (A,) the action that moves nothing: displacements and velocities 0, positions as in `position`.

    Args:
        position: (A,) the last action, or `home_positions` where there is none; None if the action has no
            positions.
    """
    is_position = np.array([name == "position" for name in command_types(metadata, space.shape[0])])
    action = np.zeros(space.shape)
    if position is not None and len(is_position):
        action[is_position] = np.asarray(position)[is_position]
    return np.clip(action, space.low, space.high).astype(space.dtype)


class RealTimeSimulation(RealTimeRobot):
    """A `SimulatedWorld` as a robot in real time: it keeps moving unobserved, and has no seed or teleport.

    Physics and rendering run in one thread each. Images are rendered from a snapshot, so physics never waits
    for rendering, and an image is as old as its snapshot.
    """

    def __init__(self, world: SimulatedWorld, camera_hz: float = 30.0):
        self.observation_space, self.action_space = world.observation_space, world.action_space
        self.metadata = {**world.metadata, "simulated": False, "real_time": True}
        self._world, self._camera_hz = world, camera_hz
        self._lock = threading.Lock()  # protects the world and all attributes below
        self._changed = threading.Condition(self._lock)
        self._tick, self._homing = world.num_ticks, False
        self._open, self._failed = True, ""
        self._vectors, self._vectors_s = dict(world.vector_obs()), time.monotonic()
        self._outcome = world.reward_and_success()
        self._images, self._images_s = {}, time.monotonic()
        self.num_ticks_lost = 0
        self._has_cameras = world.snapshot() is not None
        loops = [self._run_physics, self._run_cameras] if self._has_cameras else [self._run_physics]
        self._threads = [threading.Thread(target=self._run, args=(loop,), daemon=True) for loop in loops]
        for thread in self._threads:
            thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._failed or not self._has_cameras or self._images, timeout=60)
            self._check()

    def observe(self) -> tuple[dict[str, np.ndarray], float]:
        with self._lock:
            self._check()
            measured_s = min(self._vectors_s, self._images_s) if self._has_cameras else self._vectors_s
            return {**self._images, **self._vectors}, measured_s

    def send(self, action: np.ndarray) -> np.ndarray:
        """Starts an action at once, even in the middle of another.

        Raises:
            RobotError: the robot is homing, or the simulator has failed.
        """
        with self._lock:
            self._check()
            if self._homing:
                raise RobotError("the robot is homing and takes no actions")
            self._tick = 0
            return self._world.begin_action(action)

    def stop(self) -> None:
        with self._changed:
            self._homing = False
            self._tick = 0
            self._world.hold()
            self._changed.notify_all()

    def home(self) -> None:
        """Moves home at a limited speed, and waits for it.

        Raises:
            RobotError: the robot was stopped while homing.
        """
        with self._changed:
            self._check()
            self.sleep(0)  # raises if the robot is stopped already
            self._homing, self._tick, self._arrived = True, 0, False
            self._changed.wait_for(lambda: not self._homing or self._failed)
            self._check()
            if not self._arrived:
                raise RobotError("the robot was stopped while homing")

    def reward_and_success(self, obs) -> tuple[float, bool, bool]:
        with self._lock:
            return self._outcome

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

    def _run(self, loop: Callable[[], None]) -> None:
        """Runs the loop of a thread; if it fails, the error is logged and the next call fails with it."""
        try:
            loop()
        except Exception as error:
            logger.error("the simulator failed: %s: %s", type(error).__name__, error)
            with self._changed:
                self._failed = f"{type(error).__name__}: {error}"
                self._changed.notify_all()

    def _run_physics(self) -> None:
        period_s = 1 / (float(self.metadata["control_hz"]) * self._world.num_ticks)
        clock = RateKeeper(period_s)
        while self._open:
            missed = int(clock.wait() // period_s)
            self.num_ticks_lost += max(0, missed + 1 - MAX_CATCH_UP_TICKS)
            with self._changed:
                for _ in range(min(missed + 1, MAX_CATCH_UP_TICKS)):
                    self._advance()
                self._vectors, self._vectors_s = dict(self._world.vector_obs()), time.monotonic()
                self._outcome = self._world.reward_and_success()

    def _advance(self) -> None:
        self._tick += 1
        if not self._homing:
            self._tick = min(self._tick, self._world.num_ticks)
            self._world.advance(self._tick)
        elif self._world.advance_homing(self._tick):
            self._homing, self._arrived, self._tick = False, True, self._world.num_ticks
            self._changed.notify_all()

    def _run_cameras(self) -> None:
        clock = RateKeeper(1 / self._camera_hz)
        try:
            while self._open:
                with self._lock:
                    snapshot, taken_s = self._world.snapshot(), time.monotonic()
                images = dict(self._world.render_cameras(snapshot))
                with self._changed:
                    self._images, self._images_s = images, taken_s
                    self._changed.notify_all()
                clock.wait()
        finally:
            self._world.close()


class EnvWorld:
    """Any Gymnasium environment as a `SimulatedWorld`: it steps whole decisions, and homing is a reset.

    An action is repeated until the next one; `hold` repeats one that moves nothing (see `idle_action`).
    """

    num_ticks = 1

    def __init__(self, env: gymnasium.Env):
        space = env.observation_space
        self._flat = not isinstance(space, gymnasium.spaces.Dict)
        self.observation_space: Any = gymnasium.spaces.Dict({"state": space}) if self._flat else space
        self.action_space: Any = env.action_space
        self.metadata = dict(env.metadata)
        self.metadata.setdefault("control_hz", 10)
        types = command_types(self.metadata, self.action_space.shape[0])
        check_measured(self.metadata, types, space_shapes(self.observation_space))
        self._env = env
        self.advance_homing(1)

    def begin_action(self, action):
        self._action = np.asarray(action, self.action_space.dtype)
        return self._action

    def hold(self):
        self._action = idle_action(self.metadata, self.action_space, self._action)

    def advance(self, tick):
        if not self._done:  # an episode that has ended stands still until the next reset
            self._obs, reward, terminated, truncated, info = self._env.step(self._action)
            success = bool(success_of_step(info))
            self._outcome, self._done = (float(reward), success), bool(terminated or truncated)

    def advance_homing(self, tick):
        self._obs, _ = self._env.reset()
        self._outcome, self._done = (0.0, False), False
        start = home_positions(self.metadata, self.vector_obs(), len(self.action_space.low))
        self._action = idle_action(self.metadata, self.action_space, start)
        return True

    def vector_obs(self):
        return {"state": self._obs} if self._flat else self._obs

    def reward_and_success(self):
        return (*self._outcome, self._done)

    def snapshot(self):
        return None

    def render_cameras(self, snapshot):
        return {}

    def close(self):
        self._env.close()
