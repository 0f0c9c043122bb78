"""Stores one step of a robot as one row of fixed size, which the journal writes and episodes are built from.

Row 0 of an episode holds the observation after the reset; its action and reward are zero. Row t+1 holds
`action[t]`, the reward it received, and the observation that followed, and `action[t-1]` as it is known by
then: a robot behind a network may report an action only after the next one was sent.
"""

import time
from collections.abc import Mapping, Sequence

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from o2o.core.episode import Episode
from o2o.core.errors import RobotError
from o2o.data.formats import minari_spaces


def obs_boxes(space: gymnasium.Space) -> dict[str, tuple[str, Box]]:
    """Returns name -> (path in a Minari episode, box) of a space, with the names of `spec.flatten_obs`."""
    boxes = {}
    for name, (path, box) in minari_spaces.flatten_space(space, "_index_{}").items():
        assert isinstance(box, Box), box  # `Guard` refuses robots with other spaces
        boxes[name] = path, box
    return boxes


def row_type(boxes: Mapping[str, Box], action_dim: int) -> np.dtype:
    """Returns the dtype of a row, for observations with these names and boxes."""
    return np.dtype(
        [
            ("episode", "<i8"),  # number of the episode in the run
            ("seed", "<i8"),  # seed of the episode's scene
            ("sequence", "<i8"),  # number of the row in the run
            ("time_ns", "<i8"),  # at the observation: wall clock, or a simulator's time since the reset
            ("monotonic_ns", "<i8"),  # monotonic clock, which is never set
            ("action", "<f4", (action_dim,)),  # executed physical action
            ("previous_action", "<f4", (action_dim,)),  # executed in the step before; NaN: as its row says
            ("intended_action", "<f4", (action_dim,)),  # physical action that the agent intended
            ("reward", "<f4"),
            ("terminated", "?"),
            ("truncated", "?"),
            ("success", "?"),
            ("takeover", "?"),  # whether the operator moved the robot
            *((f"obs.{name}", box.dtype.newbyteorder("<"), box.shape) for name, box in boxes.items()),
        ]
    )


def make_row(dtype: np.dtype, obs: Mapping[str, np.ndarray], **values) -> np.ndarray:
    """Returns one row () with the current time; fields that are not given are zero, `previous_action` NaN.

    Raises:
        RobotError: an observation has another type than its space declares.
    """
    row = np.zeros((), dtype)
    row["time_ns"], row["monotonic_ns"] = time.time_ns(), time.monotonic_ns()
    row["previous_action"] = np.nan
    for name, value in values.items():
        row[name] = value
    for field in dtype.names or ():
        if field.startswith("obs."):
            value, target = np.asarray(obs[field[4:]]), row[field]
            if not np.can_cast(value.dtype, target.dtype, "same_kind"):
                raise RobotError(
                    f"the robot's observation {field[4:]!r} is {value.dtype}, but its space is {target.dtype}"
                )
            target[...] = value
    return row


def to_episode(rows: Sequence[np.ndarray] | np.ndarray) -> Episode:
    """Returns the episode of T+1 rows; an episode that did not terminate counts as truncated."""

    def column(name: str) -> np.ndarray:
        return np.stack([row[name] for row in rows])

    names = [name for name in rows[0].dtype.names or () if name.startswith("obs.")]
    action, known_later = column("action")[1:], column("previous_action")[2:]
    action[:-1] = np.where(np.isnan(known_later), action[:-1], known_later)
    terminated, success = bool(rows[-1]["terminated"]), column("success")
    return Episode(
        obs={name[4:]: column(name) for name in names},
        action=action,
        reward=column("reward")[1:],
        terminated=terminated,
        truncated=not terminated,
        success=bool(success.any()),
        infos={
            "intended_action": column("intended_action"),
            "takeover": column("takeover"),
            "success": success,
            "time_s": column("time_ns") / 1e9,
            "monotonic_s": column("monotonic_ns") / 1e9,
            "sequence": column("sequence"),
        },
    )
