"""Chooses the messages of a bag that make up each step of an episode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from o2o.core.errors import DataError
from o2o.data.formats.bag_index import BagIndex
from o2o.data.formats.lazy_array import ReadBlock

MAX_TICKS = 10**8  # of one bag
HELD_INTERVALS = 5  # a value that is held for more of its topic's intervals is worth a warning


@dataclass(frozen=True)
class Ticks:
    """The times of the steps of an episode, and the messages of each.

    Attributes:
        times: (T,) int64 nanoseconds.
        obs: name -> (T,) number of the newest message not later than the time.
        action: (T,) number of the command of each step, of each topic that is part of the action.
        reward: (T,) number of the newest reward not later than the end of each step, -1 before the first;
            None without rewards.
        hz: control rate in Hz.
    """

    times: np.ndarray
    obs: Mapping[str, np.ndarray]
    action: list[np.ndarray]
    reward: np.ndarray | None
    hz: float


def choose(
    obs: Mapping[str, np.ndarray],
    action: Sequence[np.ndarray],
    reward: np.ndarray | None,
    index: BagIndex,
) -> Ticks:
    """Chooses the messages of each step; a value holds until the next message of its topic.

    The first step is at the first time at which each topic has a message; the last one is not later than the
    last command or reward. With a rate, steps are that far apart, and the action of a step is the command in
    force just after it: half an interval of the commands, or half a step if that is shorter. For the command
    that answers an observation comes a little later, and the times of messages jitter. Without a rate, each
    command of the first topic makes a step at its own time.

    Args:
        obs: name -> (N,) increasing int64 nanoseconds of the messages; N is at least 1, here and below.
        action: (N,) those of the commands, of each topic that is part of the action.
        reward: (N,) those of the rewards; None without rewards. None need be there before the first step.
        index: the bag; its request states the control rate in Hz, None: that of the commands.
    Raises:
        DataError: there are less than two steps, or more than the budget holds.
    """
    hz, label = index.request.control_hz, str(index.path)
    topics = [*obs.values(), *action]
    start = max(int(times[0]) for times in topics)
    if hz is None:
        times, period = action[0][np.searchsorted(action[0], start) :], _own_period(action[0], label)
    else:
        ends = [*action, *([] if reward is None else [reward])]
        times, period = _grid(start, max(int(one[-1]) for one in ends), hz, index, len(topics)), 1e9 / hz
    if len(times) < 2:
        last = max(int(one[-1]) for one in action)
        raise DataError(
            f"{label} has {len(times)} steps: from {(last - start) / 1e9:.3f} s before the last command on, "
            "every topic has had a message; wanted two steps"
        )
    commands = [_newest(one, times + _lead(one, period)) for one in action]
    if hz is None:
        commands[0] = np.arange(len(action[0]) - len(times), len(action[0]))
    rewards = None if reward is None else _newest(reward, times + round(period))
    rows = {name: _newest(stamps, times) for name, stamps in obs.items()}
    return Ticks(times, rows, commands, rewards, round(1e9 / period, 3))


def _lead(action: np.ndarray, period: float) -> int:
    """Returns for how many nanoseconds after a step a command may come that belongs to it."""
    interval = float(np.median(np.diff(action))) if len(action) > 1 else period
    return int(min(interval, period) / 2)


def _own_period(action: np.ndarray, label: str) -> float:
    """Returns the median interval of the commands in nanoseconds."""
    period = float(np.median(np.diff(action))) if len(action) > 1 else 0.0
    if period < 1000:
        raise DataError(
            f"{label}: {len(action)} messages of the action have no rate; state one: --dataset.control-hz"
        )
    return period


def _grid(start: int, end: int, hz: float, index: BagIndex, num_topics: int) -> np.ndarray:
    """Returns times from `start` up to `end`, both included, at a rate."""
    num = int((end - start) * hz / 1e9 + 1e-6) + 1 if end >= start else 0
    what = f"{num} steps at {hz:g} Hz, as its messages take {(end - start) / 1e9:.0f} s"
    index.request.check_budget(index.held_bytes, index.path, ReadBlock(8 * num * (num_topics + 4), what))
    if num > MAX_TICKS:
        raise DataError(f"{index.path} would have {what}; wanted at most {MAX_TICKS}")
    return start + np.round(np.arange(num) * (1e9 / hz)).astype(np.int64)


def _newest(stamps: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Returns the number of the newest message not later than each time; -1 if there is none."""
    return np.searchsorted(stamps, times, side="right") - 1


def longest_hold(stamps: np.ndarray, rows: np.ndarray, times: np.ndarray) -> float:
    """Returns for how many seconds a value is held past what its topic's rate explains; 0 if it is not."""
    if len(stamps) < 2:
        return 0.0
    age = float((times - stamps[rows]).max())
    return age / 1e9 if age > HELD_INTERVALS * float(np.median(np.diff(stamps))) else 0.0
