"""Reads where the entries of an action that are positions are, which a limit on their speed relies on.

A robot states it in its metadata:

* `measured`: observation name -> which entries of that observation hold the entries of the action, in the
  units and order of the action, -1 where there is none;
* `unmeasured`: entry of the action that no sensor measures, such as a gripper -> where `home` leaves it.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from o2o.core.errors import RobotError


def check_measured(metadata: Mapping, types: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks that the robot states where each entry is that is a position.

    Args:
        metadata: those of the robot.
        types: (A,) see `o2o.hardware.limits.command_types`; empty if the robot does not state them.
        shapes: name -> shape of every observation.
    Raises:
        RobotError: the metadata cannot be read, or an entry is a position and neither measured nor stated.
    """
    try:
        example = {name: np.zeros(shape) for name, shape in shapes.items()}
        found = home_positions(metadata, example, len(types))
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        what = f"{type(error).__name__}: {error}"
        raise RobotError(
            f"metadata['measured'] or ['unmeasured'] of the robot cannot be read ({what}); "
            f"it has {len(types)} actions and observes {dict(shapes)}"
        ) from error
    missing = [k for k, name in enumerate(types) if name == "position" and not np.isfinite(found[k])]
    if missing:
        raise RobotError(
            f"entries {missing} of the action are positions, and the robot states neither where it measures "
            "them (metadata['measured']) nor where home() leaves them (metadata['unmeasured'], for grippers)"
        )


def home_positions(metadata: Mapping, obs: Mapping[str, np.ndarray], action_dim: int) -> np.ndarray:
    """Returns (A,) `measured_positions`, and after `home` the stated value where nothing is measured."""
    positions = measured_positions(metadata, obs, action_dim)
    for entry, value in (metadata.get("unmeasured") or {}).items():
        if np.isnan(positions[int(entry)]):
            positions[int(entry)] = float(value)
    return positions


def measured_positions(metadata: Mapping, obs: Mapping[str, np.ndarray], action_dim: int) -> np.ndarray:
    """Returns (A,) the measured value of each entry of the action, NaN where there is none.

    Args:
        metadata: those of the robot.
        obs: observation by name.
        action_dim: number of entries of an action.
    """
    positions = np.full(action_dim, np.nan)
    for name, entries in (metadata.get("measured") or {}).items():
        value = np.asarray(obs[name], float).reshape(-1)
        for index, entry in enumerate(entries):
            if entry >= 0:
                positions[index] = value[entry]
    return positions
