"""Decides which columns and cameras of a LeRobot dataset are observations, actions and rewards."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from o2o.core.errors import DataError, UsageError
from o2o.core.plugins import not_found
from o2o.data.formats import lerobot_meta
from o2o.data.formats.lazy_array import ReadRequest
from o2o.data.formats.parquet import Table

OBS_PREFIXES = (
    "observation",
    "observations",
    "obs",
    "state",
    "states",
)  # first part of an observation's name
ACTION, REWARD = ("action", "actions"), ("next.reward", "reward", "rewards")
DONE, SUCCESS = ("next.done", "done"), ("next.success", "success")
ENDS = ("next.terminated", "next.truncated")  # both, or neither counts
TAKEOVER = ("complementary_info.is_intervention", "is_intervention")
INDEX_COLUMNS = ("episode_index", "frame_index", "index", "task_index", "timestamp")

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Layout:
    """The columns and cameras that are read; the name of a missing column is empty.

    Attributes:
        obs: model name -> column or camera.
        action: columns that are concatenated to the action.
        reward: column of the reward for the frame's action.
        done: column that is 1 at the last frame of an episode.
        ends: columns that are 1 at the frame of the last action of an episode, where the task ended and where
            the episode was cut off; none where one of them is missing.
        success: column that is 1 where the task succeeded.
        takeover: column that is 1 where a human gave the action.
    """

    obs: Mapping[str, str]
    action: list[str]
    reward: str
    done: str
    success: str
    takeover: str
    ends: tuple[str, ...] = ()

    def columns(self, table: Table) -> list[str]:
        """Returns the numeric columns that are read, each once."""
        names = [*self.obs.values(), *self.action, self.reward, self.done, self.success, self.takeover]
        names += self.ends
        return list(dict.fromkeys(name for name in names if name in table.columns_of("number")))


def resolve_layout(
    table: Table, info: Mapping, request: ReadRequest, path: Path, names: Mapping[str, str]
) -> Layout:
    """Returns the requested columns and cameras, or the format's defaults.

    Args:
        names: column or camera -> name by which its observation is known, where that is another, in the order
            of the observations.

    Raises:
        UsageError: a requested name is not in the dataset.
        DataError: there are no observations or no actions.
    """
    numbers, images = table.columns_of("number"), table.columns_of("image")
    images += [name for name in lerobot_meta.camera_shapes(info) if name not in table.kinds]
    default = [name for name in numbers if re.split(r"[./]", name)[0] in OBS_PREFIXES] + images
    order = {name: place for place, name in enumerate(names)}
    available = sorted(
        [*numbers, *images] if request.obs else default, key=lambda name: order.get(name, len(order))
    )
    inside = {names.get(name, name): name for name in available}
    obs = {name: inside[known] for name, known in request.resolve_names(inside, path).items()}
    if not obs:
        raise DataError(
            f"{path} has no observations; name them with --dataset.obs, from {', '.join(numbers)}"
        )

    def first_present(names: tuple[str, ...]) -> str:
        return next((name for name in names if name in numbers), "")

    parts = [name for name in numbers if name.startswith(("action.", "actions."))]
    action = (
        [name.strip() for name in request.action.split(",")] if request.action else [first_present(ACTION)]
    )
    action = parts if action == [""] else action
    if not action:
        raise DataError(f"{path} has no actions; name them with --dataset.action, from {', '.join(numbers)}")
    for what, name in [*(("action", name) for name in action), ("reward", request.reward)]:
        if name not in ("", *numbers):
            raise UsageError(f"{path}: {not_found(what, name, numbers)}")
    layout = Layout(
        obs,
        action,
        reward=request.reward or first_present(REWARD),
        done=first_present(DONE),
        success=first_present(SUCCESS),
        takeover=first_present(TAKEOVER),
        ends=ENDS if all(name in numbers for name in ENDS) else (),
    )
    if len(action) > 1:
        logger.info("%s: the action is %s, concatenated", path, " + ".join(action))
    if not layout.reward:
        logger.warning("%s has no rewards: all are read as 0; add them with `o2o data relabel`", path)
    more = [name for name in numbers if name not in (*layout.columns(table), *INDEX_COLUMNS)]
    if more:
        logger.info("%s: --dataset.obs can also name %s", path, ", ".join(more))
    return layout
