"""Which columns and cameras of a LeRobot recording are read, and as what."""

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

SEEN = ("observation", "observations", "obs", "state", "states")  # how names of observations begin
ACTION, REWARD = ("action", "actions"), ("next.reward", "reward", "rewards")
DONE, SUCCESS = ("next.done", "done"), ("next.success", "success")
TAKEOVER = ("complementary_info.is_intervention", "is_intervention")
MARKS = ("episode_index", "frame_index", "index", "task_index", "timestamp")

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class Layout:
    """What is read; names of columns are empty where there is none.

    Attributes:
        obs: name for the model -> column or camera.
        action: columns that are joined.
        reward: earned by the action of a frame.
        done: whether the episode ended with it.
        success: whether the task was done by it.
        takeover: whether a human gave it.
    """

    obs: Mapping[str, str]
    action: list[str]
    reward: str
    done: str
    success: str
    takeover: str

    def columns(self, table: Table) -> list[str]:
        own = [*self.obs.values(), *self.action, self.reward, self.done, self.success, self.takeover]
        return list(dict.fromkeys(name for name in own if name in table.named("number")))


def choose(table: Table, info: Mapping, wanted: ReadRequest, path: Path) -> Layout:
    """The columns and cameras that are asked for, or the format's own.

    Raises:
        UsageError: one is asked for that is not there.
        DataError: there are no observations or no actions.
    """
    numbers, images = table.named("number"), table.named("picture")
    images += [name for name in lerobot_meta.cameras(info) if name not in table.kinds]
    shown = [name for name in numbers if re.split(r"[./]", name)[0] in SEEN] + images
    obs = wanted.pick([*numbers, *images] if wanted.obs else shown, path)
    if not obs:
        raise DataError(f"{path} has no observations; --dataset.obs names them, of {', '.join(numbers)}")

    def one(names: tuple[str, ...]) -> str:
        return next((name for name in names if name in numbers), "")

    parts = [name for name in numbers if name.startswith(("action.", "actions."))]
    action = [name.strip() for name in wanted.action.split(",")] if wanted.action else [one(ACTION)]
    action = parts if action == [""] else action
    if not action:
        raise DataError(f"{path} has no actions; --dataset.action names them, of {', '.join(numbers)}")
    for what, name in [*(("action", name) for name in action), ("reward", wanted.reward)]:
        if name not in ("", *numbers):
            raise UsageError(f"{path}: {not_found(what, name, numbers)}")
    layout = Layout(obs, action, wanted.reward or one(REWARD), one(DONE), one(SUCCESS), one(TAKEOVER))
    if len(action) > 1:
        logger.info("%s: actions are %s, joined", path, " + ".join(action))
    if not layout.reward:
        logger.warning("%s has no rewards: all are zero, until `o2o data relabel` gives them", path)
    more = [name for name in numbers if name not in (*layout.columns(table), *MARKS)]
    if more:
        logger.info("%s: --dataset.obs can also name %s", path, ", ".join(more))
    return layout
