"""A simulated arm that moves its gripper to reach a ball, push a cube or lift it. Needs only MuJoCo.

The arm (`arm.xml`) has five joints and keeps its gripper pointing down, square to the table. One action
moves the gripper's target in a straight line; the closed form of the arm's geometry turns the line into
joint targets, and stiff joint servos follow it. The table top is z = 0, the arm stands at x = y = 0.

Observations are a dict. Positions are in decimetres, so that entries are of order one, with the origin
on the table at x = 0.4 m, y = 0; velocities are in m/s (decimetres per decision, the same number).

* `state`: gripper position (3), gripper velocity (3), opening (1: 0 closed to 1 open), then
  push and lift: cube position (3), cube minus gripper (3), cube velocity (3), cos and sin of four times
  the cube's yaw (2: a cube looks the same every quarter turn); then
  reach: goal (3), goal minus gripper (3); push: goal on the table (2), goal minus cube (2).
* `camera`: (size, size, 3) uint8, in which the goal can be seen.
* `proprio`: gripper position, velocity and opening, as above; comes with the camera instead of `state`.

`metadata["displacement"]` says which of these entries an action moves, and `project` where a point of the
world lies in the picture that `render` draws; both are for whoever wants to draw plans over the arm.

Rewards lie between -0.03 and 1 a decision, more the nearer the goal; or they are 1 while the task is done and
else 0, as a person or a detector pays a real robot. Episodes last 25 decisions and never end on success.
"""

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from o2o.core.config import FieldError
from o2o.core.errors import UsageError
from o2o.core.plugins import load, not_found
from o2o.hardware.guard import RobotConfig

TASKS = {"reach": ("ball",), "push": ("cube", "disc"), "lift": ("cube",)}  # what lies on the table
OBS = ("state", "camera", "both")
REWARDS = ("shaped", "success")

NUM_DECISIONS = 25
CONTROL_HZ = 10
NUM_WAYPOINTS = 5  # of the straight line of one decision; the last is held, so that the arm catches up
ACTION_HIGH = np.array([0.04, 0.04, 0.04, 1.0], np.float32)  # m, m, m, gripper -1 open to 1 closed
WORKSPACE = np.array([[0.24, -0.20, 0.022], [0.56, 0.20, 0.28]])  # m, of the point between the fingers
CENTRE = np.array([0.40, 0.0, 0.0])  # m, origin of the observations
GOALS = {  # m, boxes that goals are drawn from; lift has none to speak of
    "reach": ([0.28, -0.16, 0.04], [0.52, 0.16, 0.26]),
    "push": ([0.27, -0.13, 0.0], [0.53, 0.13, 0.0]),
    "lift": (CENTRE, CENTRE),
}
MIN_WAY = 0.09  # m, from the start to the goal
LEASH = 0.02  # m, how far the target runs ahead of a gripper that is blocked; 3 mm in free motion
DECIMETRE = 0.1
DISPLACEMENT = {  # actions move the gripper, see `o2o.hardware.end_effector`
    "actions": (0, 1, 2), "metres_by_action": 1.0,
    "obs": {"state": (0, 1, 2), "proprio": (0, 1, 2)}, "metres_by_obs": DECIMETRE, "origin": tuple(CENTRE),
}  # fmt: skip

SHOULDER_HEIGHT, UPPER_ARM, FOREARM, HAND = 0.20, 0.34, 0.32, 0.14  # m, as in arm.xml
FINGER_TRAVEL = 0.04  # m, of each finger
CUBE_HALF = 0.022  # m
LIFT_TO = 0.12  # m above the table
SUCCESS_WITHIN = {"reach": 0.025, "push": 0.05, "lift": 0.02}  # m of the goal


@dataclass(frozen=True)
class Config(RobotConfig):
    """Options of the simulated arm.

    Attributes:
        task: `reach` (bring the gripper to the ball), `push` (the cube onto the disc) or `lift` (the
            cube 10 cm up; it is paid for up to 12).
        obs: `state` (a vector that holds all there is to know), `camera` (an image and what the arm
            feels) or `both`.
        reward: `shaped` (paid for the way there, too) or `success` (1 while the task is done, else 0).
        image_size: side of the observed image, pixels.
        render_size: side of what `render()` returns, for videos, pixels; at most 512.
    """

    task: str = "lift"
    obs: str = "state"
    reward: str = "shaped"
    image_size: int = 84
    render_size: int = 320


def make(config: Config) -> "Arm":
    """The arm at one task.

    Raises:
        UsageError: an unknown task, kind of observation or reward, or an image too small or too large.
    """
    if config.task not in TASKS:
        raise UsageError(not_found("task", config.task, list(TASKS)))
    if config.obs not in OBS:
        raise UsageError(not_found("kind of observation", config.obs, list(OBS)))
    if config.reward not in REWARDS:
        raise UsageError(not_found("kind of reward", config.reward, list(REWARDS)))
    for name in ("image_size", "render_size"):
        if not 16 <= getattr(config, name) <= 512:
            raise FieldError(config, f"<{name}> is {getattr(config, name)}, wanted 16 to 512 pixels")
    return Arm(config)


def live(config: Config, show_state: bool):
    """The same arm for `o2o robot serve`, an `o2o.hardware.remote.realtime_sim.World`; its state only with
    `show_state`."""
    return load("robots", str(Path(__file__).with_name("live.py"))).world(config, show_state)


def expert(arm: "Arm") -> np.ndarray:
    """(4,) what the scripted expert of `expert.py` does next, from the true state of an unwrapped arm."""
    return load("robots", str(Path(__file__).with_name("expert.py"))).act(arm)


class Arm(gymnasium.Env):
    """See the top of the file for observations; actions are (dx, dy, dz, gripper), metres and [-1, 1].

    `info["executed_action"]` is how far the target moved after the workspace stopped it,
    `info["success"]` whether the task is done at this very moment.
    """

    metadata = {  # noqa: RUF012
        "control_hz": CONTROL_HZ, "simulated": True, "render_fps": CONTROL_HZ, "render_modes": ["rgb_array"],
        "displacement": DISPLACEMENT,
    }  # fmt: skip

    def __init__(self, config: Config):
        self.mujoco = _import_mujoco()
        self.config, self.render_mode = config, "rgb_array"
        self.model = self.mujoco.MjModel.from_xml_string(_scene(config.task))
        self.data = self.mujoco.MjData(self.model)
        self.action_space = Box(-ACTION_HIGH, ACTION_HIGH, dtype=np.float32)
        self._has_cube = "cube" in TASKS[config.task]
        self._cube_body = self.model.body("cube").id if self._has_cube else 0
        self._num_substeps = round(1 / (CONTROL_HZ * NUM_WAYPOINTS * self.model.opt.timestep))
        self._eye: _Eye | None = None
        self._painter: _Eye | None = None
        self._place(WORKSPACE.mean(0), np.array([*CENTRE[:2], CUBE_HALF]), 0.0, CENTRE)
        self.observation_space = self._space()

    @property
    def grip(self) -> np.ndarray:
        """(3,) the point between the fingertips, metres."""
        return self.data.site_xpos[0].copy()

    @property
    def cube(self) -> np.ndarray:
        """(3,) centre of the cube, metres; empty where there is none."""
        return self.data.qpos[7:10].copy()

    @property
    def opening(self) -> float:
        """0 closed to 1 open."""
        return float(self.data.qpos[5] + self.data.qpos[6]) / (2 * FINGER_TRAVEL)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._place(*self.scatter(self.np_random))
        return self._observe(), {"success": self._success()}

    def scatter(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
        """Where an episode starts: gripper (3,), cube (3,), the cube's yaw, goal (3,); metres, radians."""
        draw = rng.uniform
        grip = np.array([0.40, 0.0, 0.22]) + draw(-0.03, 0.03, 3)
        push = self.config.task == "push"
        reach = 0.08 if push else 0.10  # leaves room behind the cube
        cube = CENTRE + np.array([*draw(-reach, reach, 2), CUBE_HALF])
        yaw = draw(-0.3, 0.3)
        low, high = GOALS[self.config.task]
        goal = draw(low, high)
        while np.linalg.norm(goal - (cube if push else grip)) < MIN_WAY:
            goal = draw(low, high)
        return grip, cube, yaw, goal

    def step(self, action):
        executed = self.begin(action)
        grip, cube = self.grip, self.cube
        for waypoint in range(1, NUM_WAYPOINTS + 1):
            self.advance(waypoint)
        self.mujoco.mj_forward(self.model, self.data)
        self._grip_speed = (self.grip - grip) * CONTROL_HZ
        self._cube_speed = (self.cube - cube) * CONTROL_HZ
        self._num_done += 1
        info = {"success": self._success(), "executed_action": executed.astype(np.float32)}
        return self._observe(), self._reward(executed), False, self._num_done >= NUM_DECISIONS, info

    def begin(self, action) -> np.ndarray:
        """Aims at the end of an action's straight line; (4,) what the workspace leaves of the action."""
        asked = np.clip(np.asarray(action, np.float64), -ACTION_HIGH, ACTION_HIGH)
        start = self._start = np.clip(np.clip(self.target, self.grip - LEASH, self.grip + LEASH), *WORKSPACE)
        self.target = np.clip(start + asked[:3], *WORKSPACE)
        self.data.ctrl[5:] = FINGER_TRAVEL * (1 - asked[3]) / 2
        return np.array([*(self.target - start), asked[3]])

    def advance(self, waypoint: int) -> None:
        """Moves time on by a fifth of a decision, to a waypoint (1 to 5) of the line that `begin` drew."""
        done = min(1.0, waypoint / (NUM_WAYPOINTS - 1))
        self.data.ctrl[:5] = joint_angles(self._start + done * (self.target - self._start))
        self.mujoco.mj_step(self.model, self.data, self._num_substeps)

    def stop(self) -> None:
        """Holds the arm where it is; twice is harmless."""
        self.target = np.clip(self.grip, *WORKSPACE)
        self.data.ctrl[:5] = self.data.qpos[:5]

    def render(self) -> np.ndarray:
        """(render_size, render_size, 3) uint8, drawn at twice the size and averaged."""
        if self._painter is None:
            self._painter = _Eye(self.mujoco, self.model, "picture", 2 * self.config.render_size)
        size = self.config.render_size
        fine = self._painter(self.data).reshape(size, 2, size, 2, 3)
        return (fine.mean((1, 3)) + 0.5).astype(np.uint8)

    def project(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) where points of the world (n, 3), metres, lie in the picture of `render` as the arm is now.

        Pixels to the right and down from the upper left corner of the picture; NaN behind the camera.
        """
        eye = self.model.camera("picture").id
        turn = self.data.cam_xmat[eye].reshape(3, 3)  # columns: right, up, backwards
        right, up, back = ((np.asarray(points, np.float64) - self.data.cam_xpos[eye]) @ turn).T
        depth = np.where(back < 0, -back, np.nan)
        middle = self.config.render_size / 2
        reach = middle / math.tan(math.radians(self.model.cam_fovy[eye]) / 2)  # pixels at depth 1
        return np.stack([middle + reach * right / depth, middle - reach * up / depth], 1)

    def close(self) -> None:
        for eye in (self._eye, self._painter):
            if eye is not None:
                eye.close()
        self._eye = self._painter = None

    def _place(self, grip, cube, yaw, goal) -> None:
        """Puts everything at rest: gripper open at `grip`, cube turned by `yaw`, goal marked."""
        self.mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:5] = self.data.ctrl[:5] = joint_angles(grip)
        self.data.qpos[5:7] = self.data.ctrl[5:7] = FINGER_TRAVEL
        self.lay(cube, yaw, goal)
        self.target, self._num_done = self.grip, 0
        self._start = self.target
        self._grip_speed = self._cube_speed = np.zeros(3)

    def lay(self, cube, yaw, goal) -> None:
        """Puts cube and goal on the table at rest, and leaves the arm where it is."""
        if self._has_cube:
            self.data.qpos[7:14] = [*cube, math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)]
            self.data.qvel[7:13] = 0
        if self.model.nmocap:
            self.data.mocap_pos[0] = goal + (0 if self.config.task == "reach" else np.array([0, 0, 0.001]))
        self.mujoco.mj_forward(self.model, self.data)
        self.goal = np.array(goal)

    def _observe(self) -> dict[str, np.ndarray]:
        return self.see(self.data) | self.feel()

    def see(self, data) -> dict[str, np.ndarray]:
        """The camera's image of the scene in `data`; empty where there is no camera.

        From one thread at a time, which also calls `close`: a drawing context belongs to its thread.
        """
        if self.config.obs not in ("camera", "both"):
            return {}
        if self._eye is None:
            self._eye = _Eye(self.mujoco, self.model, "view", self.config.image_size)
        return {"camera": self._eye(data)}

    def feel(self) -> dict[str, np.ndarray]:
        """`proprio`, or the `state`."""
        own = [(self.grip - CENTRE) / DECIMETRE, self._grip_speed, [self.opening]]
        if self.config.obs == "camera":
            return {"proprio": np.concatenate(own).astype(np.float32).clip(-20, 20)}
        if self._has_cube:
            turn = self.data.xmat[self._cube_body]
            yaw = 4 * math.atan2(turn[3], turn[0])
            cube = [self.cube - CENTRE, self.cube - self.grip]
            own += [np.concatenate(cube) / DECIMETRE, self._cube_speed, [math.cos(yaw), math.sin(yaw)]]
        if self.config.task == "reach":
            own += [(self.goal - CENTRE) / DECIMETRE, (self.goal - self.grip) / DECIMETRE]
        if self.config.task == "push":
            own += [(self.goal - CENTRE)[:2] / DECIMETRE, (self.goal - self.cube)[:2] / DECIMETRE]
        return {"state": np.concatenate(own).astype(np.float32).clip(-20, 20)}

    def _space(self) -> Dict:
        size = self.config.image_size
        spaces: dict[str, gymnasium.Space] = {}
        if self.config.obs in ("camera", "both"):
            spaces["camera"] = Box(0, 255, (size, size, 3), np.uint8)
        if self.config.obs == "camera":
            return Dict(spaces | {"proprio": Box(-20, 20, (7,), np.float32)})
        dim = {"reach": 13, "push": 22, "lift": 18}[self.config.task]
        return Dict(spaces | {"state": Box(-20, 20, (dim,), np.float32)})

    def _distance(self) -> float:
        """What is left to do, metres."""
        if self.config.task == "reach":
            return float(np.linalg.norm(self.goal - self.grip))
        if self.config.task == "push":
            return float(np.linalg.norm((self.goal - self.cube)[:2]))
        return max(0.0, LIFT_TO - float(self.cube[2] - CUBE_HALF))

    def _success(self) -> bool:
        return self._distance() <= SUCCESS_WITHIN[self.config.task]

    def _reward(self, executed) -> float:
        """Success alone; or closeness to the goal and, for the cube, to the cube, less a cost of motion."""
        if self.config.reward == "success":
            return float(self._success())
        cost = 0.01 * float(np.square(executed / ACTION_HIGH)[:3].sum())
        if self.config.task == "reach":
            return _near(self._distance()) - cost
        touch = _near(float(np.linalg.norm(self.cube - self.grip)))
        if self.config.task == "push":
            return 0.2 * touch + 0.8 * _near(self._distance()) - cost
        return 0.3 * touch + 0.7 * (1 - min(1.0, self._distance() / LIFT_TO)) - cost


def joint_angles(grip) -> list[float]:
    """(5,) yaw, shoulder, elbow, pitch, roll that hold the gripper at `grip` (3,), pointing down.

    The closed form: the wrist lies a hand's length above the grip, two links reach for it in the plane
    that the yaw turns to, and the roll undoes the yaw. Points out of reach get the nearest stretch.
    """
    x, y, z = grip
    yaw, radius, height = math.atan2(y, x), math.hypot(x, y), z + HAND - SHOULDER_HEIGHT
    square = radius * radius + height * height
    bend = (square - UPPER_ARM**2 - FOREARM**2) / (2 * UPPER_ARM * FOREARM)
    elbow = math.acos(min(1.0, max(-1.0, bend)))
    reach = math.atan2(FOREARM * math.sin(elbow), UPPER_ARM + FOREARM * math.cos(elbow))
    shoulder = math.atan2(radius, height) - reach
    return [yaw, shoulder, elbow, math.pi - shoulder - elbow, yaw]


class _Eye:
    """Draws the scene into a square image, the fast way: no shadows, no mirrors (20 times faster)."""

    def __init__(self, mujoco, model, camera: str, size: int):
        self.camera = camera
        self.renderer = mujoco.Renderer(model, size, size)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self.renderer.scene.flags[int(flag)] = 0

    def __call__(self, data) -> np.ndarray:
        """(size, size, 3) uint8."""
        self.renderer.update_scene(data, self.camera)
        return self.renderer.render()

    def close(self) -> None:
        self.renderer.close()


def _near(distance: float) -> float:
    """1 at the goal, 0.24 ten centimetres away, 0 far off."""
    return 1 - math.tanh(distance / 0.1)


def _scene(task: str) -> str:
    """The arm's XML with only the things that the task needs on the table."""
    tree = ElementTree.parse(Path(__file__).with_name("arm.xml"))
    world = tree.getroot().find("worldbody")
    assert world is not None
    for name in {"cube", "ball", "disc"} - set(TASKS[task]):
        for body in world.findall(f"body[@name='{name}']"):
            world.remove(body)
    return ElementTree.tostring(tree.getroot(), encoding="unicode")


def _import_mujoco():
    """MuJoCo, told to draw without a screen where there is none."""
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    import mujoco

    return mujoco
