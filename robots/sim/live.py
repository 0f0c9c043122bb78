"""The simulated arm for `o2o robot serve`: finer ticks, a way home at arm's speed, a state that is hidden."""

from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np

from o2o.core.plugins import load

sim = load("robots", str(Path(__file__).with_name("sim.py")))
HOME_SPEED = 0.25  # m/s
SAFE_HEIGHT = 0.20  # m, that the gripper rises to before it goes anywhere
ARRIVED, LONGEST_S = 0.005, 8.0  # m off the start; s, after which home is wherever the arm is
LIMITS = {
    "velocity": [0.4, 0.4, 0.4, 20.0],  # 4 cm a decision at 10 Hz; the gripper opens in one
    "workspace": sim.WORKSPACE.tolist(),
    "max_age_s": 0.25,
    # longer than a network is usually gone, or a loop stalls: the server holds the arm after 0.3 s by itself
    "patience": 50, "watchdog_s": 2.0,
}  # fmt: skip
COMMAND = ("displacement", "displacement", "displacement", "position")


def world(config, show_state: bool) -> "Live":
    """The arm in ticks of 20 ms. Without `show_state` it shows a camera, what it feels, and success."""
    return Live(sim.make(config if show_state else replace(config, obs="camera", reward="success")))


class Live:
    """An `o2o.hardware.remote.realtime_sim.World` around an `Arm`. Its scenes are drawn from the system's
    own randomness."""

    num_ticks = sim.NUM_WAYPOINTS

    def __init__(self, arm):
        self.arm = arm
        self.observation_space, self.action_space = arm.observation_space, arm.action_space
        self.metadata = {
            "control_hz": sim.CONTROL_HZ, "displacement": sim.DISPLACEMENT, "command": COMMAND,
            "limits": LIMITS, "max_decisions": sim.NUM_DECISIONS, "resets_itself": True,
        }  # fmt: skip
        self._rng = np.random.default_rng()
        self._shot = arm.mujoco.MjData(arm.model) if arm.config.obs != "state" else None
        self._executed = np.zeros(4)
        arm._place(*arm.scatter(self._rng))
        self._past = deque([(arm.grip, arm.cube)], maxlen=self.num_ticks + 1)

    def begin(self, action):
        self._executed = self.arm.begin(action)
        return self._executed.astype(np.float32)

    def hold(self):
        self.arm.target = self.arm.grip  # and not where it was going
        self._executed = self.arm.begin([0, 0, 0, self._executed[3]])

    def advance(self, tick):
        self.arm.advance(tick)
        self._settle()

    def homing(self, tick):
        arm = self.arm
        if tick == 1:
            self._scene = arm.scatter(self._rng)
            self._executed = np.array([0, 0, 0, -1.0])  # opens
        home = self._scene[0]
        step = HOME_SPEED / (sim.CONTROL_HZ * self.num_ticks)
        away = np.linalg.norm((home - arm.target)[:2]) > step
        goal = np.array([*arm.target[:2], max(arm.target[2], SAFE_HEIGHT)]) if away else home
        if away and arm.target[2] >= SAFE_HEIGHT - 1e-6:
            goal = np.array([*home[:2], arm.target[2]])
        way = goal - arm.target
        way *= min(1.0, step / max(np.linalg.norm(way), 1e-9))
        arm.begin([*way, -1.0])
        arm.advance(self.num_ticks)
        self._settle()
        late = tick > LONGEST_S * sim.CONTROL_HZ * self.num_ticks
        there = np.linalg.norm(arm.grip - home) < ARRIVED and np.linalg.norm(arm._grip_speed) < 0.02
        if there or late:
            arm.lay(*self._scene[1:])  # the operator puts the things back
            self._past.clear()
            self._settle()
        return bool(there or late)

    def feel(self):
        return self.arm.feel()

    def reward_and_success(self):
        return self.arm._reward(self._executed), self.arm._success(), False

    def snapshot(self):
        if self._shot is not None:
            self.arm.mujoco.mj_copyData(self._shot, self.arm.model, self.arm.data)
        return self._shot

    def see(self, snapshot):
        return self.arm.see(snapshot)

    def close(self):
        self.arm.close()

    def _settle(self) -> None:
        """Positions of this tick, and velocities over the last decision."""
        arm = self.arm
        arm.mujoco.mj_forward(arm.model, arm.data)
        self._past.append((arm.grip, arm.cube))
        span_s = max(1, len(self._past) - 1) / (sim.CONTROL_HZ * self.num_ticks)
        arm._grip_speed, arm._cube_speed = (
            (now - then) / span_s for now, then in zip(self._past[-1], self._past[0], strict=True)
        )
