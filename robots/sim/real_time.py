"""Runs the simulated arm for `o2o robot serve`: finer ticks, homing as a motion, and a hidden state."""

from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np

from o2o.core.plugins import load

sim = load("robots", str(Path(__file__).with_name("sim.py")))
HOME_SPEED = 0.25  # m/s
SAFE_HEIGHT = 0.20  # m, which the gripper rises to before it moves sideways
HOME_TOLERANCE, MAX_HOMING_S = 0.005, 8.0  # m from the start; s, after which homing ends anywhere
LIMITS = {
    "velocity": [0.4, 0.4, 0.4, 20.0],  # 4 cm a decision at 10 Hz; the gripper opens in one
    "workspace": sim.WORKSPACE.tolist(),
    "max_age_s": 0.25,
    # longer than usual outages and stalls: the server makes the arm hold after 0.3 s by itself
    "patience": 50, "watchdog_s": 2.0,
    "stuck_s": [2.0, 2.0, 2.0, np.inf],
}  # fmt: skip
COMMAND = ("displacement", "displacement", "displacement", "position")


def world(config, show_state: bool) -> "RealTimeArm":
    """Returns the arm in ticks of 20 ms; without `show_state`, only camera, proprioception and success."""
    return RealTimeArm(sim.make(config if show_state else replace(config, obs="camera", reward="success")))


class RealTimeArm:
    """Wraps an `Arm` as a `SimulatedWorld`, with scenes sampled without a seed."""

    num_ticks = sim.NUM_WAYPOINTS

    def __init__(self, arm):
        self.arm = arm
        self.observation_space, self.action_space = arm.observation_space, arm.action_space
        self.metadata = {
            "control_hz": sim.CONTROL_HZ, "displacement": sim.DISPLACEMENT, "command": COMMAND,
            "unmeasured": {3: -1.0}, "limits": LIMITS, "max_decisions": sim.NUM_DECISIONS,
            "resets_itself": True,
        }  # fmt: skip
        self._rng = np.random.default_rng()
        self._snapshot = arm.mujoco.MjData(arm.model) if arm.config.obs != "state" else None
        self._executed = np.zeros(4)
        arm.set_scene(*arm.sample_scene(self._rng))
        self._history = deque([(arm.grip, arm.cube)], maxlen=self.num_ticks + 1)

    def begin_action(self, action):
        self._executed = self.arm.begin_action(action)
        return self._executed.astype(np.float32)

    def hold(self):
        self.arm.target = self.arm.grip  # instead of the end of the action
        self._executed = self.arm.begin_action([0, 0, 0, self._executed[3]])

    def advance(self, tick):
        self.arm.advance(tick)
        self._update_velocities()

    def advance_homing(self, tick):
        arm = self.arm
        if tick == 1:
            self._scene = arm.sample_scene(self._rng)
            self._executed = np.array([0, 0, 0, -1.0])  # opens the gripper
        home = self._scene[0]
        step = HOME_SPEED / (sim.CONTROL_HZ * self.num_ticks)
        away = np.linalg.norm((home - arm.target)[:2]) > step
        goal = np.array([*arm.target[:2], max(arm.target[2], SAFE_HEIGHT)]) if away else home
        if away and arm.target[2] >= SAFE_HEIGHT - 1e-6:
            goal = np.array([*home[:2], arm.target[2]])
        offset = goal - arm.target
        offset *= min(1.0, step / max(np.linalg.norm(offset), 1e-9))
        arm.begin_action([*offset, -1.0])
        arm.advance(self.num_ticks)
        self._update_velocities()
        timed_out = tick > MAX_HOMING_S * sim.CONTROL_HZ * self.num_ticks
        arrived = (
            np.linalg.norm(arm.grip - home) < HOME_TOLERANCE and np.linalg.norm(arm._grip_velocity) < 0.02
        )
        if arrived or timed_out:
            arm.place_objects(*self._scene[1:])  # as an operator resets the objects
            self._history.clear()
            self._update_velocities()
        return bool(arrived or timed_out)

    def vector_obs(self):
        return self.arm.vector_obs()

    def reward_and_success(self):
        return self.arm._reward(self._executed), self.arm._success(), False

    def snapshot(self):
        if self._snapshot is not None:
            self.arm.mujoco.mj_copyData(self._snapshot, self.arm.model, self.arm.data)
        return self._snapshot

    def render_cameras(self, snapshot):
        return self.arm.render_cameras(snapshot)

    def close(self):
        self.arm.close()

    def _update_velocities(self) -> None:
        """Updates the positions of this tick, and the velocities over the last decision."""
        arm = self.arm
        arm.mujoco.mj_forward(arm.model, arm.data)
        self._history.append((arm.grip, arm.cube))
        span_s = max(1, len(self._history) - 1) / (sim.CONTROL_HZ * self.num_ticks)
        arm._grip_velocity, arm._cube_velocity = (
            (now - then) / span_s for now, then in zip(self._history[-1], self._history[0], strict=True)
        )
