"""Scripted experts for the simulated arm: they see the true state, and do every task nearly always."""

import numpy as np

CUBE_HALF = 0.022  # m, as in sim.py
OPEN, CLOSED = -1.0, 1.0


def act(arm) -> np.ndarray:
    """(4,) the next action at the arm's own task, physical units; limits are left to the robot.

    Args:
        arm: an `Arm` of `sim.py`, unwrapped.
    """
    return {"reach": reach, "push": push, "lift": lift}[arm.config.task](arm)


def reach(arm) -> np.ndarray:
    """Straight to the ball, gripper closed."""
    return _move(arm, arm.goal, CLOSED)


def push(arm) -> np.ndarray:
    """Over to the far side of the cube, down, and through it to the disc."""
    way = (arm.goal - arm.cube)[:2]
    left = np.linalg.norm(way)
    if left < 0.03:
        return _move(arm, arm.grip, CLOSED)
    way = way / left
    behind = arm.cube[:2] - way * 0.062
    along = float((arm.grip[:2] - arm.cube[:2]) @ way)
    aside = np.linalg.norm(arm.grip[:2] - arm.cube[:2] - along * way)
    if along < -0.02 and aside < 0.012 and arm.grip[2] < 0.05:
        return _move(arm, [*(arm.cube[:2] - way * 0.034 + way * min(0.5 * left, 0.03)), 0.026], CLOSED)
    if np.linalg.norm(arm.grip[:2] - behind) < 0.015:
        return _move(arm, [*behind, 0.026], CLOSED)
    return _move(arm, [*behind, max(0.09, arm.grip[2] - 0.04)], CLOSED)


def lift(arm) -> np.ndarray:
    """Over the cube, down with open fingers, close, and up."""
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
    """The action whose target is `goal` (3,), metres."""
    return np.array([*(np.asarray(goal) - arm.target), gripper])
