"""Simulates an arm that moves its gripper to reach a ball, push a cube or lift it; needs only MuJoCo.

The arm (`arm.xml`) has five joints and keeps its gripper pointing down, aligned with the table. One action
moves the gripper's target in a straight line; the closed-form inverse kinematics turn the line into joint
targets, and stiff joint servos follow it. The table top is z = 0, the arm stands at x = y = 0.

Observations are a dict. Positions are in decimetres, so that entries are of order one, with the origin on
the table at x = 0.4 m, y = 0; velocities are in m/s (decimetres per decision, the same number).

* `state`: gripper position (3), gripper velocity (3), opening (1: 0 closed to 1 open), then
  push and lift: cube position (3), cube minus gripper (3), cube velocity (3), cos and sin of four times
  the cube's yaw (2: a cube looks the same every quarter turn); then
  reach: goal (3), goal minus gripper (3); push: goal on the table (2), goal minus cube (2). With
  `--robot.obs shared` it is the same 24 entries for every task, in a scene that always has a cube: all of the
  above up to the cube's yaw, goal (3), goal minus cube (3); the goal of lift is `LIFT_HEIGHT` above the first
  place of the cube. `shared_reward` and `shared_success` compute every task's reward and success from them.
* `camera`: (size, size, 3) uint8 image, in which the goal is visible.
* `proprio`: gripper position, velocity and opening, as above; given with the camera instead of `state`.

`metadata["displacement"]` states which of these entries an action moves, and `project` returns where a point
of the world lies in the image of `render`; both serve to draw plans over the arm.

A decision's reward lies between -0.03 and 1 and rises towards the goal; with `--robot.reward success` it is
1 while the task is done and 0 otherwise, as a person or a detector would label a real robot. Episodes last
25 decisions and never end on success.
"""

import math
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from o2o.core.config import FieldError
from o2o.core.errors import UsageError
from o2o.core.plugins import load, not_found
from o2o.hardware.guard import RobotConfig

TASKS = {"reach": ("ball",), "push": ("cube", "disc"), "lift": ("cube",)}  # objects on the table
OBS = ("state", "camera", "both", "shared")
REWARDS = ("shaped", "success")

NUM_DECISIONS = 25
CONTROL_HZ = 10
NUM_WAYPOINTS = 5  # on the straight line of one decision; the last is held, so that the arm can catch up
ACTION_HIGH = np.array([0.04, 0.04, 0.04, 1.0], np.float32)  # m, m, m, gripper -1 open to 1 closed
WORKSPACE = np.array([[0.24, -0.20, 0.022], [0.56, 0.20, 0.28]])  # m, of the point between the fingers
CENTER = np.array([0.40, 0.0, 0.0])  # m, origin of the observations
GOAL_BOXES = {  # m, boxes that goals are sampled from; lift has no goal position
    "reach": ([0.28, -0.16, 0.04], [0.52, 0.16, 0.26]),
    "push": ([0.27, -0.13, 0.0], [0.53, 0.13, 0.0]),
    "lift": (CENTER, CENTER),
}
MIN_GOAL_DISTANCE = 0.09  # m, from the start
MAX_TARGET_LEAD = 0.02  # m, of the target ahead of a blocked gripper; 3 mm in free motion
DECIMETER = 0.1
DISPLACEMENT = {  # actions move the gripper, see `o2o.hardware.end_effector`
    "actions": (0, 1, 2), "metres_by_action": 1.0,
    "obs": {"state": (0, 1, 2), "proprio": (0, 1, 2)}, "metres_by_obs": DECIMETER, "origin": tuple(CENTER),
}  # fmt: skip

SHOULDER_HEIGHT, UPPER_ARM, FOREARM, HAND = 0.20, 0.34, 0.32, 0.14  # m, as in arm.xml
FINGER_TRAVEL = 0.04  # m, of each finger
CUBE_HALF = 0.022  # m
LIFT_HEIGHT = 0.12  # m above the table
SUCCESS_WITHIN = {"reach": 0.025, "push": 0.05, "lift": 0.02}  # m of the goal


@dataclass(frozen=True)
class Config(RobotConfig):
    """Options of the simulated arm.

    Attributes:
        task: `reach` (move the gripper to the ball), `push` (the cube onto the disc) or `lift` (the cube
            10 cm up; the shaped reward rises up to 12 cm).
        obs: `state` (a vector of the full state), `camera` (an image and proprioception), `both` (state
            and image) or `shared` (a state that is the same for every task, with a cube in every scene).
        reward: `shaped` (rises towards the goal) or `success` (1 while the task is done, else 0).
        image_size: Side of the observed image, in pixels.
        render_size: Side of the images that `render()` returns, for videos, in pixels; at most 512.
    """

    task: str = "lift"
    obs: str = "state"
    reward: str = "shaped"
    image_size: int = 84
    render_size: int = 320


def make(config: Config) -> "Arm":
    """Returns the arm at one task.

    Raises:
        UsageError: the task, kind of observation or kind of reward is unknown, or an image size is out of
            range.
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


def real_time_world(config: Config, show_state: bool):
    """Returns the arm for `o2o robot serve`, as an `o2o.hardware.remote.realtime_sim.SimulatedWorld`.

    Args:
        config: options of the arm.
        show_state: whether the simulator's state is observed.
    """
    return load("robots", str(Path(__file__).with_name("real_time.py"))).world(config, show_state)


def expert(arm: "Arm") -> np.ndarray:
    """Returns (4,) the next action of the expert in `expert.py`, from the true state of an unwrapped arm."""
    return _expert_module().act(arm)


@cache  # a search for the file at every decision costs an eighth of the time of recording
def _expert_module():
    return load("robots", str(Path(__file__).with_name("expert.py")))


class Arm(gymnasium.Env):
    """Simulates the arm; actions are (dx, dy, dz, gripper) in m and [-1, 1].

    The module docstring describes the observations. `info["executed_action"]` is how far the target moved
    within the workspace, and `info["success"]` whether the task is done at this step.
    """

    metadata = {  # noqa: RUF012
        "control_hz": CONTROL_HZ, "simulated": True, "render_fps": CONTROL_HZ, "render_modes": ["rgb_array"],
        "displacement": DISPLACEMENT,
    }  # fmt: skip

    def __init__(self, config: Config):
        self.mujoco = _import_mujoco()
        self.config, self.render_mode = config, "rgb_array"
        self._shares = config.obs == "shared"
        objects = {*TASKS[config.task], "cube"} if self._shares else set(TASKS[config.task])
        self.model = self.mujoco.MjModel.from_xml_string(_scene(objects))
        self.data = self.mujoco.MjData(self.model)
        self.action_space = Box(-ACTION_HIGH, ACTION_HIGH, dtype=np.float32)
        self._has_cube = "cube" in objects
        self._cube_body = self.model.body("cube").id if self._has_cube else 0
        self._num_substeps = round(1 / (CONTROL_HZ * NUM_WAYPOINTS * self.model.opt.timestep))
        self._camera: _Renderer | None = None
        self._video: _Renderer | None = None
        self.set_scene(WORKSPACE.mean(0), np.array([*CENTER[:2], CUBE_HALF]), 0.0, CENTER)
        self.observation_space = self._space()

    @property
    def grip(self) -> np.ndarray:
        """(3,) position of the point between the fingertips, m."""
        return self.data.site_xpos[0].copy()

    @property
    def cube(self) -> np.ndarray:
        """(3,) position of the center of the cube, m; empty if there is none."""
        return self.data.qpos[7:10].copy()

    @property
    def opening(self) -> float:
        """Opening of the gripper, 0 closed to 1 open."""
        return float(self.data.qpos[5] + self.data.qpos[6]) / (2 * FINGER_TRAVEL)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.set_scene(*self.sample_scene(self.np_random))
        return self._observe(), {"success": self._success()}

    def sample_scene(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
        """Samples an episode's start: gripper (3,), cube (3,), the cube's yaw, goal (3,); m and radians."""
        uniform = rng.uniform
        grip = np.array([0.40, 0.0, 0.22]) + uniform(-0.03, 0.03, 3)
        push = self.config.task == "push"
        extent = 0.08 if push else 0.10  # leaves room behind the cube
        cube = CENTER + np.array([*uniform(-extent, extent, 2), CUBE_HALF])
        yaw = uniform(-0.3, 0.3)
        low, high = GOAL_BOXES[self.config.task]
        goal = uniform(low, high)
        while np.linalg.norm(goal - (cube if push else grip)) < MIN_GOAL_DISTANCE:
            goal = uniform(low, high)
        return grip, cube, yaw, goal

    def step(self, action):
        executed = self.begin_action(action)
        grip, cube = self.grip, self.cube
        for waypoint in range(1, NUM_WAYPOINTS + 1):
            self.advance(waypoint)
        self.mujoco.mj_forward(self.model, self.data)
        self._grip_velocity = (self.grip - grip) * CONTROL_HZ
        self._cube_velocity = (self.cube - cube) * CONTROL_HZ
        self._num_decisions += 1
        info = {"success": self._success(), "executed_action": executed.astype(np.float32)}
        return self._observe(), self._reward(executed), False, self._num_decisions >= NUM_DECISIONS, info

    def begin_action(self, action) -> np.ndarray:
        """Sets the target to the end of the action's straight line, within the workspace.

        Returns:
            (4,) the action that the workspace allows.
        """
        requested = np.clip(np.asarray(action, np.float64), -ACTION_HIGH, ACTION_HIGH)
        start = self._start = np.clip(
            np.clip(self.target, self.grip - MAX_TARGET_LEAD, self.grip + MAX_TARGET_LEAD), *WORKSPACE
        )
        self.target = np.clip(start + requested[:3], *WORKSPACE)
        self.data.ctrl[5:] = FINGER_TRAVEL * (1 - requested[3]) / 2
        return np.array([*(self.target - start), requested[3]])

    def advance(self, waypoint: int) -> None:
        """Simulates a fifth of a decision, up to a waypoint (1 to 5) on the line of `begin_action`."""
        fraction = min(1.0, waypoint / (NUM_WAYPOINTS - 1))
        self.data.ctrl[:5] = joint_angles(self._start + fraction * (self.target - self._start))
        self.mujoco.mj_step(self.model, self.data, self._num_substeps)

    def stop(self) -> None:
        """Holds the arm where it is; calling it twice is harmless."""
        self.target = np.clip(self.grip, *WORKSPACE)
        self.data.ctrl[:5] = self.data.qpos[:5]

    def render(self) -> np.ndarray:
        """Returns (render_size, render_size, 3) uint8, rendered at twice the size and averaged."""
        if self._video is None:
            self._video = _Renderer(self.mujoco, self.model, "picture", 2 * self.config.render_size)
        size = self.config.render_size
        fine = self._video(self.data).reshape(size, 2, size, 2, 3)
        return (fine.mean((1, 3)) + 0.5).astype(np.uint8)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Returns (n, 2) where points of the world (n, 3), m, lie in the image of `render`.

        The unit is pixels to the right and down from the upper left corner; NaN behind the camera.
        """
        camera = self.model.camera("picture").id
        rotation = self.data.cam_xmat[camera].reshape(3, 3)  # columns: right, up, backwards
        right, up, back = ((np.asarray(points, np.float64) - self.data.cam_xpos[camera]) @ rotation).T
        depth = np.where(back < 0, -back, np.nan)
        center = self.config.render_size / 2
        focal = center / math.tan(math.radians(self.model.cam_fovy[camera]) / 2)  # focal length, pixels
        return np.stack([center + focal * right / depth, center - focal * up / depth], 1)

    def close(self) -> None:
        for renderer in (self._camera, self._video):
            if renderer is not None:
                renderer.close()
        self._camera = self._video = None

    def set_scene(self, grip, cube, yaw, goal) -> None:
        """Sets the whole scene at rest: open gripper at `grip` (3,), cube (3,) at `yaw`, goal (3,)."""
        self.mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:5] = self.data.ctrl[:5] = joint_angles(grip)
        self.data.qpos[5:7] = self.data.ctrl[5:7] = FINGER_TRAVEL
        self.place_objects(cube, yaw, goal)
        self.target, self._num_decisions = self.grip, 0
        self._start = self.target
        self._grip_velocity = self._cube_velocity = np.zeros(3)

    def place_objects(self, cube, yaw, goal) -> None:
        """Puts cube and goal on the table at rest, and leaves the arm where it is."""
        if self._has_cube:
            self.data.qpos[7:14] = [*cube, math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)]
            self.data.qvel[7:13] = 0
        if self.model.nmocap:
            self.data.mocap_pos[0] = goal + (0 if self.config.task == "reach" else np.array([0, 0, 0.001]))
        self.mujoco.mj_forward(self.model, self.data)
        lifts = self._shares and self.config.task == "lift"
        self.goal = cube + np.array([0, 0, LIFT_HEIGHT]) if lifts else np.array(goal)

    def _observe(self) -> dict[str, np.ndarray]:
        return self.render_cameras(self.data) | self.vector_obs()

    def render_cameras(self, data) -> dict[str, np.ndarray]:
        """Returns the camera image of the scene in `data`; empty if there is no camera.

        It must be called in one thread, which also calls `close`: a rendering context belongs to its thread.
        """
        if self.config.obs not in ("camera", "both"):
            return {}
        if self._camera is None:
            self._camera = _Renderer(self.mujoco, self.model, "view", self.config.image_size)
        return {"camera": self._camera(data)}

    def vector_obs(self) -> dict[str, np.ndarray]:
        """Returns `proprio` or `state`."""
        entries = [(self.grip - CENTER) / DECIMETER, self._grip_velocity, [self.opening]]
        if self.config.obs == "camera":
            return {"proprio": np.concatenate(entries).astype(np.float32).clip(-20, 20)}
        if self._has_cube:
            rotation = self.data.xmat[self._cube_body]
            yaw = 4 * math.atan2(rotation[3], rotation[0])
            cube = [self.cube - CENTER, self.cube - self.grip]
            entries += [np.concatenate(cube) / DECIMETER, self._cube_velocity, [math.cos(yaw), math.sin(yaw)]]
        if self._shares:
            entries += [(self.goal - CENTER) / DECIMETER, (self.goal - self.cube) / DECIMETER]
        elif self.config.task == "reach":
            entries += [(self.goal - CENTER) / DECIMETER, (self.goal - self.grip) / DECIMETER]
        elif self.config.task == "push":
            entries += [(self.goal - CENTER)[:2] / DECIMETER, (self.goal - self.cube)[:2] / DECIMETER]
        return {"state": np.concatenate(entries).astype(np.float32).clip(-20, 20)}

    def _space(self) -> Dict:
        size = self.config.image_size
        spaces: dict[str, gymnasium.Space] = {}
        if self.config.obs in ("camera", "both"):
            spaces["camera"] = Box(0, 255, (size, size, 3), np.uint8)
        if self.config.obs == "camera":
            return Dict(spaces | {"proprio": Box(-20, 20, (7,), np.float32)})
        dim = 24 if self._shares else {"reach": 13, "push": 22, "lift": 18}[self.config.task]
        return Dict(spaces | {"state": Box(-20, 20, (dim,), np.float32)})

    def _distance(self) -> float:
        """Returns the remaining distance to the goal, m."""
        return float(_distance(self.config.task, self.grip, self.cube, self.goal))

    def _success(self) -> bool:
        return self._distance() <= SUCCESS_WITHIN[self.config.task]

    def _reward(self, executed) -> float:
        """Returns success; or closeness to the goal and, with a cube, to the cube, less a motion cost."""
        if self.config.reward == "success":
            return float(self._success())
        return float(_shaped_reward(self.config.task, self.grip, self.cube, self.goal, executed))


def _distance(task: str, grip, cube, goal) -> np.ndarray:
    """Returns the remaining distances (...) to the goal, m, of positions (..., 3), m."""
    if task == "lift":
        return np.maximum(0.0, LIFT_HEIGHT - (cube[..., 2] - CUBE_HALF))
    return np.linalg.norm(goal - grip if task == "reach" else (goal - cube)[..., :2], axis=-1)


def _shaped_reward(task: str, grip, cube, goal, executed) -> np.ndarray:
    """Returns the shaped rewards (...) of positions (..., 3), m, after actions (..., 4)."""
    distance = _distance(task, grip, cube, goal)
    cost = 0.01 * np.square(executed / ACTION_HIGH)[..., :3].sum(-1)
    if task == "reach":
        return _closeness(distance) - cost
    touch = _closeness(np.linalg.norm(cube - grip, axis=-1))
    if task == "push":
        return 0.2 * touch + 0.8 * _closeness(distance) - cost
    return 0.3 * touch + 0.7 * (1 - np.minimum(1.0, distance / LIFT_HEIGHT)) - cost


def _shared_positions(state) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the positions (N, 3) of gripper, cube and goal, m, of shared states (N, 24)."""
    entries = np.asarray(state, np.float64)
    grip, cube, goal = (CENTER + DECIMETER * entries[:, first : first + 3] for first in (0, 7, 18))
    return grip, cube, goal


def shared_reward(task: str, next_obs, action) -> np.ndarray:
    """Returns the shaped rewards (N,) of a task, from what `--robot.obs shared` observes of any task.

    Args:
        task: one of `TASKS`.
        next_obs: `state` -> (N, 24), after each decision.
        action: (N, 4) executed.
    """
    return _shaped_reward(task, *_shared_positions(next_obs["state"]), np.asarray(action, np.float64))


def shared_success(task: str, episode) -> bool:
    """Returns whether a recorded episode of any task, as `--robot.obs shared` observes it, does a task."""
    distance = _distance(task, *_shared_positions(episode.obs["state"][1:]))
    return bool((distance <= SUCCESS_WITHIN[task]).any())


def joint_angles(grip) -> list[float]:
    """Returns (5,) yaw, shoulder, elbow, pitch, roll that hold the gripper at `grip` (3,), pointing down.

    The closed-form inverse kinematics: the wrist lies a hand's length above the grip, two links reach it in
    the plane of the yaw, and the roll cancels the yaw. Points out of reach get the nearest configuration.
    """
    x, y, z = grip
    yaw, radius, height = math.atan2(y, x), math.hypot(x, y), z + HAND - SHOULDER_HEIGHT
    square = radius * radius + height * height
    cos_elbow = (square - UPPER_ARM**2 - FOREARM**2) / (2 * UPPER_ARM * FOREARM)
    elbow = math.acos(min(1.0, max(-1.0, cos_elbow)))
    offset = math.atan2(FOREARM * math.sin(elbow), UPPER_ARM + FOREARM * math.cos(elbow))
    shoulder = math.atan2(radius, height) - offset
    return [yaw, shoulder, elbow, math.pi - shoulder - elbow, yaw]


class _Renderer:
    """Renders the scene into a square image without shadows and reflections, which is 20 times faster."""

    def __init__(self, mujoco, model, camera: str, size: int):
        self.camera = camera
        self.renderer = mujoco.Renderer(model, size, size)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self.renderer.scene.flags[int(flag)] = 0

    def __call__(self, data) -> np.ndarray:
        """Returns the image, (size, size, 3) uint8."""
        self.renderer.update_scene(data, self.camera)
        return self.renderer.render()

    def close(self) -> None:
        self.renderer.close()


def _closeness(distance):
    """Returns 1 at distance 0, 0.24 at 0.1 m, and 0 far away."""
    return 1 - np.tanh(distance / 0.1)


def _scene(objects: set[str]) -> str:
    """Returns the arm's XML with only these objects on the table."""
    tree = ElementTree.parse(Path(__file__).with_name("arm.xml"))
    world = tree.getroot().find("worldbody")
    assert world is not None
    for name in {"cube", "ball", "disc"} - objects:
        for body in world.findall(f"body[@name='{name}']"):
            world.remove(body)
    return ElementTree.tostring(tree.getroot(), encoding="unicode")


def _import_mujoco():
    """Imports MuJoCo, set to render without a screen if there is none."""
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    import mujoco

    return mujoco
