"""LeRobot recordings, v2.1 and v3.0: parquet tables with one row a frame, and videos beside them.

Source: github.com/huggingface/lerobot, `lerobot_dataset.py`. Files of others drift from it: names are taken
from the tables, files are found by looking, and what disagrees is told.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from o2o.core.episode import Episode
from o2o.core.errors import DataError
from o2o.data.formats import lerobot_images, lerobot_layout, lerobot_meta, parquet
from o2o.data.formats.lazy_array import ALL, ReadRequest, take
from o2o.data.formats.lerobot_images import Images, Rows
from o2o.data.formats.lerobot_layout import MARKS, Layout
from o2o.data.formats.parquet import Table
from o2o.data.formats.recording import Recording, fingerprint

NAME = "LeRobot"

logger = logging.getLogger("o2o")


def recognise(path: Path) -> bool:
    """Whether it is a folder with `meta/info.json`, be it broken, or with `meta` and tables."""
    try:
        if (path / "meta" / "info.json").is_file():
            return True
        return (path / "meta").is_dir() and any((path / "data").rglob("*.parquet"))
    except OSError:
        return False


def read(path: Path, wanted: ReadRequest = ALL) -> Recording:
    """The episodes of a recording's folder, in the order of their numbers.

    An episode of L frames gives L observations and L - 1 actions and rewards: what the last action led to
    was not recorded. The last step is kept, as terminated with `last_obs_known=False`, where `next.done` says
    that the episode ended and `next.success` that it did in success (without that column: a last reward of 1
    among rewards of 0 and 1): then nothing comes after it, and its reward is the one that counts.

    Observations are the columns called `observation.*` or `state`, and all cameras; other columns can be
    asked for. Actions are `action` or `actions`, else the columns `action.*` joined; `wanted.action` may be
    several names with commas between. Images stay in their files; a camera of which files are missing is left
    out unless it is asked for. Time stamps, numbers of tasks and interventions of a human go to the infos.

    Raises:
        UsageError: a name that is asked for is not there, or pyarrow or PyAV is not installed.
        DataError: broken, over the budget, or in disagreement with itself.
    """
    info = lerobot_meta.info(path)
    table = parquet.table(_tables(path))
    layout = lerobot_layout.choose(table, info, wanted, path)
    values = _values(table, layout, wanted, path)
    rows, meta = _rows(table, values, path), lerobot_meta.episodes(path)
    lerobot_meta.compare({number: len(some) for number, some in rows.items()}, info, meta, path)
    images: dict[str, Images] = {}
    for name, inside in layout.obs.items():
        if inside in table.named("picture"):
            images[name] = lerobot_images.of_column(table, inside, rows, path)
        elif inside not in values:
            found = lerobot_images.of_videos(path, inside, info, rows, values, meta, bool(wanted.obs))
            images |= {name: found} if found else {}
    episodes = _episodes(layout, values, images, rows, path)
    fps = lerobot_meta.rate(info)
    if fps is None:
        logger.warning(
            "%s: meta/info.json says fps %r, so the control rate is unknown", path, info.get("fps")
        )
    return Recording(episodes, path, path.absolute().name, fingerprint(path), control_hz=fps)


def _tables(path: Path) -> list[Path]:
    folder = path / "data" if (path / "data").is_dir() else path
    files = [file for file in sorted(folder.rglob("*.parquet")) if path / "meta" not in file.parents]
    if not files:
        raise DataError(f"{path} has no parquet files in {folder}")
    return files


def _values(table: Table, layout: Layout, wanted: ReadRequest, path: Path) -> dict[str, np.ndarray]:
    """Column -> (N, *shape) float32; marks (N,) float64."""
    marks = [name for name in MARKS if name in table.named("number")]
    kinds = dict.fromkeys(layout.columns(table), np.float32) | dict.fromkeys(marks, np.float64)
    columns = {name: (table.shape_of(name), kind) for name, kind in kinds.items()}
    row_bytes = sum(np.dtype(kind).itemsize * math.prod(shape) for shape, kind in columns.values())
    wanted.claim(len(table) * row_bytes, path)
    values = table.numbers(columns)
    return values | {name: _scalars(values[name], name, path) for name in marks}


def _scalars(value: np.ndarray, name: str, path: Path) -> np.ndarray:
    """(N,) of (N,) or (N, 1).

    Raises:
        DataError: several numbers a row, or one that is not finite.
    """
    if value.size != len(value):
        raise DataError(f"{path}: {name!r} has rows of shape {value.shape[1:]}, wanted one number")
    value = value.reshape(len(value))
    if not np.isfinite(value).all():
        row = int(np.flatnonzero(~np.isfinite(value))[0])
        raise DataError(f"{path}: {name!r} is not finite (NaN or infinite) in row {row}")
    return value


def _flags(value: np.ndarray, name: str, path: Path) -> np.ndarray:
    """(N,) bool of (N,) or (N, 1) that is 0 or 1.

    Raises:
        DataError: it is anything else.
    """
    value = _scalars(value, name, path)
    wrong = np.flatnonzero((value != 0) & (value != 1))
    if len(wrong):
        raise DataError(f"{path}: {name!r} is {value[wrong[0]]:g} in row {wrong[0]}, wanted 0 or 1")
    return value.astype(bool)


def _rows(table: Table, values: Mapping[str, np.ndarray], path: Path) -> Rows:
    """
    Raises:
        DataError: a frame is there twice.
    """
    count = np.arange(len(table), dtype=np.float64)
    frame = values.get("frame_index", values.get("index", count))
    episode = values.get("episode_index")
    if episode is None:
        logger.warning(
            "%s has no episode_index: an episode ends with its file, or where frames count anew", path
        )
        begins = np.isin(count, table.begins)
        begins[1:] |= np.diff(frame) < 0
        episode = np.cumsum(begins) - 1.0
    order = np.lexsort((frame, episode))
    steps = np.where(np.diff(episode[order]) == 0, np.diff(frame[order]), 1)
    odd = np.flatnonzero(steps != 1)
    if (steps == 0).any():
        row = order[int((steps == 0).argmax())]
        raise DataError(f"{path} has frame {frame[row]:g} of episode {episode[row]:g} twice")
    if len(odd):
        row = order[odd[0]]
        logger.warning(
            "%s lacks frames in %d places, first after frame %g of episode %g: one action seems to lead over "
            "the gap", path, len(odd), frame[row], episode[row],
        )  # fmt: skip
    numbers, starts = np.unique(episode[order], return_index=True)
    return dict(zip(numbers.astype(int).tolist(), np.split(order, starts[1:]), strict=True))


def _episodes(
    layout: Layout, values: Mapping[str, np.ndarray], images: Mapping[str, Images], rows: Rows, path: Path
) -> list[Episode]:
    names = [name for name, inside in layout.obs.items() if name in images or inside in values]
    if not names:
        raise DataError(
            f"{path} has no observations whose files are there, of {', '.join(layout.obs.values())}"
        )
    num = sum(map(len, rows.values()))
    reward = (
        _scalars(values[layout.reward], layout.reward, path) if layout.reward else np.zeros(num, np.float32)
    )
    done, success, takeover = (
        _flags(values[name], name, path) if name else None
        for name in (layout.done, layout.success, layout.takeover)
    )
    won = _won(reward) if success is None else success
    episodes, num_lost = [], 0
    for number, some in rows.items():
        terminated = bool(done is not None and done[some[-1]] and won[some[-1]])
        steps = len(some) if terminated else len(some) - 1
        if not steps:
            continue
        obs = {n: images[n][number] if n in images else _part(values[layout.obs[n]], some) for n in names}
        infos = {}
        if "timestamp" in values:
            infos["time_s"] = values["timestamp"][some]
        if "task_index" in values:
            infos["task_index"] = values["task_index"][some].astype(np.int64)
        if terminated:  # a stand-in for what the last step led to
            stay = np.append(np.arange(steps), steps - 1)
            obs = {name: take(value, stay) for name, value in obs.items()}
            infos = {name: value[stay] for name, value in infos.items()}
            if "time_s" in infos and steps > 1:
                infos["time_s"][-1] += np.median(np.diff(infos["time_s"][:-1]))
        if takeover is not None:
            infos["takeover"] = np.append(False, takeover[some[:steps]])
        parts = [_part(values[name], some[:steps]).reshape(steps, -1) for name in layout.action]
        earned = reward[some]
        num_lost += not terminated and bool(earned[-1]) and not earned[:-1].any()
        episode = Episode(
            obs=obs,
            action=parts[0] if len(parts) == 1 else np.concatenate(parts, 1),
            reward=earned[:steps],
            terminated=terminated,
            truncated=not terminated,
            last_obs_known=not terminated,
            success=None if success is None else bool(success[some].any()),
            infos=infos,
        )
        episodes.append(episode.check(f"{path} episode {number}"))
    _say(episodes, len(rows), num_lost, path)
    return episodes


def _say(episodes: list[Episode], num: int, num_lost: int, path: Path) -> None:
    """What a person should know of them.

    Raises:
        DataError: there are none.
    """
    if not episodes:
        raise DataError(f"{path} has no episode of two frames or more")
    if len(episodes) < num:
        logger.info("%s: %d episodes of a single frame show no action's effect", path, num - len(episodes))
    if num_lost:
        logger.warning(
            "%s: %d episodes have their only reward at their last frame, whose step is dropped; it is kept "
            "where 'next.done' and 'next.success' say that the episode ended in success", path, num_lost,
        )  # fmt: skip
    tasks = {
        int(task) for e in episodes if "task_index" in e.infos for task in np.unique(e.infos["task_index"])
    }
    if tasks:
        logger.info("%s: %d tasks, by the numbers in infos/task_index", path, len(tasks))


def _won(reward: np.ndarray) -> np.ndarray:
    """(N,) whether a reward says that the task was done; none does unless all are 0 or 1."""
    return (reward == 1) & bool(np.isin(reward, (0, 1)).all())


def _part(value: np.ndarray, some: np.ndarray) -> np.ndarray:
    """(L, *shape) float32 of these rows, (L, 1) of numbers; memory is shared where they lie in one piece."""
    whole = len(some) > 0 and bool((np.diff(some) == 1).all())
    part = value[some[0] : some[-1] + 1] if whole else value[some]
    return part.astype(np.float32, copy=False).reshape(len(some), *(part.shape[1:] or (1,)))
