"""Scripts experts for the tasks of the simulated arm; they use the true state and nearly always succeed."""

import numpy as np

CUBE_HALF = 0.022  # m, as in sim.py
OPEN, CLOSED = -1.0, 1.0


def act(arm) -> np.ndarray:
    """Returns (4,) the expert's next action at the arm's task, in physical units; the robot applies limits.

    Args:
        arm: an `Arm` of `sim.py`, unwrapped.
    """
    return {"reach": reach, "push": push, "lift": lift}[arm.config.task](arm)


def reach(arm) -> np.ndarray:
    """Moves straight to the ball, with the gripper closed."""
    return _move(arm, arm.goal, CLOSED)


def push(arm) -> np.ndarray:
    """Moves above the far side of the cube, down, and pushes the cube to the disc."""
    direction = (arm.goal - arm.cube)[:2]
    distance = np.linalg.norm(direction)
    if distance < 0.03:
        return _move(arm, arm.grip, CLOSED)
    direction = direction / distance
    behind = arm.cube[:2] - direction * 0.062
    along = float((arm.grip[:2] - arm.cube[:2]) @ direction)
    aside = np.linalg.norm(arm.grip[:2] - arm.cube[:2] - along * direction)
    if along < -0.02 and aside < 0.012 and arm.grip[2] < 0.05:
        target = arm.cube[:2] - direction * 0.034 + direction * min(0.5 * distance, 0.03)
        return _move(arm, [*target, 0.026], CLOSED)
    if np.linalg.norm(arm.grip[:2] - behind) < 0.015:
        return _move(arm, [*behind, 0.026], CLOSED)
    return _move(arm, [*behind, max(0.09, arm.grip[2] - 0.04)], CLOSED)


def lift(arm) -> np.ndarray:
    """Moves above the cube, down with open fingers, closes them, and moves up."""
    cube = arm.cube
    aside = np.linalg.norm((arm.grip - cube)[:2])
    if aside > 0.012 and arm.grip[2] < cube[2] + 0.05:
        return _move(arm, [*cube[:2], cube[2] + 0.06], OPEN)
    if aside > 0.012:
        return _move(arm, [*cube[:2], max(cube[2] + 0.06, arm.grip[2] - 0.02)], OPEN)
    if arm.grip[2] > cube[2] + 0.012:
        return _move(arm, cube, OPEN)
    if arm.opening > 0.62:
        return _move(arm, cube, CLOSED)
    return _move(arm, [*arm.grip[:2], min(arm.grip[2] + 0.03, CUBE_HALF + 0.14)], CLOSED)


def _move(arm, goal, gripper: float) -> np.ndarray:
    """Returns the action that moves the gripper's target to `goal` (3,), m."""
    return np.array([*(np.asarray(goal) - arm.target), gripper])
