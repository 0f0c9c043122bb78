"""One step of a robot as one row of fixed size: what the journal writes and episodes are built from.

Row 0 of an episode is what was seen after the reset, its action and reward are zero; row t+1 holds
`action[t]`, what it earned, and the observation that followed.
"""

import time
from collections.abc import Mapping, Sequence

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from o2o.core.episode import Episode
from o2o.core.errors import RobotError
from o2o.data.formats import minari_spaces


def leaves(space: gymnasium.Space) -> dict[str, tuple[str, Box]]:
    """Flat name, as of `spec.as_dict` -> (place in a Minari episode, box), of an observation space."""
    flat = {}
    for name, (place, box) in minari_spaces.flatten_space(space, "_index_{}").items():
        assert isinstance(box, Box), box  # `Guard` lets no other robot in
        flat[name] = place, box
    return flat


def row_type(boxes: Mapping[str, Box], action_dim: int) -> np.dtype:
    """What a row holds, for observations of these names."""
    return np.dtype(
        [
            ("episode", "<i8"),  # its number in the run
            ("seed", "<i8"),  # of its scene
            ("sequence", "<i8"),  # of the row in the run
            (
                "time_ns",
                "<i8",
            ),  # wall clock at the observation; a simulator's own since the reset
            ("monotonic_ns", "<i8"),  # a clock that nobody sets
            ("action", "<f4", (action_dim,)),  # as executed, physical
            ("intended_action", "<f4", (action_dim,)),  # as commanded, before the guard
            ("reward", "<f4"),
            ("terminated", "?"),
            ("truncated", "?"),
            ("success", "?"),
            ("takeover", "?"),  # a human moved the robot
            *((f"obs.{name}", box.dtype.newbyteorder("<"), box.shape) for name, box in boxes.items()),
        ]
    )


def row(kind: np.dtype, obs: Mapping[str, np.ndarray], **values) -> np.ndarray:
    """() one row of now; what is not given is zero.

    Raises:
        RobotError: an observation of a type that its space does not promise.
    """
    one = np.zeros((), kind)
    one["time_ns"], one["monotonic_ns"] = time.time_ns(), time.monotonic_ns()
    for name, value in values.items():
        one[name] = value
    for field in kind.names or ():
        if field.startswith("obs."):
            seen, place = np.asarray(obs[field[4:]]), one[field]
            if not np.can_cast(seen.dtype, place.dtype, "same_kind"):
                raise RobotError(
                    f"the robot's observation {field[4:]!r} is {seen.dtype}, its space promises {place.dtype}"
                )
            place[...] = seen
    return one


def to_episode(rows: Sequence[np.ndarray] | np.ndarray) -> Episode:
    """The episode of T+1 rows; one that has not ended counts as truncated."""

    def column(name: str) -> np.ndarray:
        return np.stack([one[name] for one in rows])

    names = [name for name in rows[0].dtype.names or () if name.startswith("obs.")]
    terminated, success = bool(rows[-1]["terminated"]), column("success")
    return Episode(
        obs={name[4:]: column(name) for name in names},
        action=column("action")[1:],
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
