"""Stores whole episodes, samples windows of them by priority, and mixes offline and online data."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from o2o.core import memory
from o2o.core.config import from_dict
from o2o.core.episode import Batch, Episode
from o2o.core.errors import DivergedError, UsageError
from o2o.core.memory import format_bytes
from o2o.core.seeding import restore_generator
from o2o.core.spec import Spec, is_image
from o2o.data.replay_config import ReplayConfig
from o2o.data.sum_tree import SumTree

PRIORITY_MIN, PRIORITY_MAX = 1e-6, 1e4  # FOWM
INITIAL_BYTES = 2**28  # allocated at first for online data; pages that are never written take no memory
MIN_LEAF = 1e-250  # lower bound of a leaf that was sampled often
MAX_ROWS = 2**40  # a handle is the lap of the ring buffer, times this, plus the row
ALL = slice(None)
STEP, TERMINATED, NEXT_KNOWN, REWARD_KNOWN = 1, 2, 4, 8  # bits of a row's flags

Allocate = Callable[[tuple[int, ...], type], np.ndarray]  # returns an array of a shape and type

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class ReplayState:
    """State of a replay buffer but its episodes, for a checkpoint.

    Attributes:
        head: row after the latest episode.
        lap: how often the rows were begun anew.
        steps: number of stored steps.
        top: highest leaf of the sum tree; None if outdated.
        generator: state of numpy's generator.
    """

    head: int
    lap: int
    steps: int
    top: float | None
    generator: dict[str, Any]


def row_bytes(spec: Spec, config: ReplayConfig) -> tuple[int, int]:
    """Returns the bytes of one row: (its observations, everything else that is stored for it)."""
    obs = sum(int(np.prod(s)) * (1 if is_image(s) else 4) for s in spec.obs.values())
    # 16: reward 4, steps left 2, flags 1, sum tree 8.6
    return obs, 4 * spec.action_dim + 16 + 2 * config.full_windows


class Replay:
    """Stores whole episodes in flat arrays and samples windows that start at any step, by its priority.

    An episode of T steps takes T + 1 rows, one for each observation. Its last row is no step: a window that
    reaches it stays there, which pads the window with the last observation and zeros.
    """

    def __init__(
        self, spec: Spec, capacity: int, seed: int, config: ReplayConfig, online: bool = False,
        allocate: Allocate = memory.allocate,
    ):  # fmt: skip
        """Allocates an empty buffer.

        Args:
            spec: observations and actions of the transformed episodes.
            capacity: maximum number of rows; to keep a whole dataset, the sum of `len(episode) + 1`.
            seed: seed of the sampling.
            config: how windows are sampled; its `capacity` is for the caller to pass on.
            online: whether the episodes are the robot's own, which marks the batches; memory then grows
                with the episodes, and otherwise all of `capacity` is allocated at once.
            allocate: allocates the arrays of observations, which may lie in files.
        """
        self.spec, self.capacity, self.config, self.online = spec, capacity, config, online
        self._rng = np.random.default_rng(seed)
        self._episodes: deque[tuple[int, int]] = deque()  # (first row, number of rows), oldest first
        self._head = self._lap = self._num_steps = 0
        self._num_used = 0  # rows that were ever written
        self._num_added = 0  # episodes
        self._first_handles: np.ndarray | None = None  # handles of the episodes' first rows; None: outdated
        self._returns: np.ndarray | None = None  # sum of each episode's rewards; None: outdated
        num_bytes, rows = sum(row_bytes(spec, config)), capacity
        if online:
            rows = min(capacity, max(INITIAL_BYTES // num_bytes, 1))
            limit = format_bytes(capacity * num_bytes)
            logger.info("online episodes take up to %s of memory, as they come (%d rows)", limit, capacity)
        self._allocate = allocate
        self._obs = {
            name: allocate((rows, *shape), np.uint8 if is_image(shape) else np.float32)
            for name, shape in spec.obs.items()
        }
        self._action = np.empty((rows, spec.action_dim), np.float32)
        self._reward = np.empty(rows, np.float32)
        self._steps_left = np.empty(rows, np.uint16)  # steps to the end of the episode, at most 65535
        # steps since the start of the episode, at most 65535
        self._age = np.empty(rows if config.full_windows else 0, np.uint16)
        self._flags = np.empty(rows, np.uint8)
        self._tree = SumTree(rows)
        self._max_leaf: float | None = 1.0  # None: outdated

    def __len__(self) -> int:
        """Returns the number of steps that a window can start at."""
        return self._num_steps

    @property
    def num_episodes(self) -> int:
        return len(self._episodes)

    def add(self, episode: Episode) -> None:
        """Stores a transformed episode, with the highest priority of all stored steps.

        Raises:
            UsageError: the episode does not fit into the capacity.
            ValueError: the episode does not fit the spec.
        """
        self._check(episode)
        num_steps = len(episode)
        rows = num_steps + 1
        if rows > self.capacity:
            raise UsageError(
                f"an episode of {num_steps} steps does not fit into a replay buffer of {self.capacity} rows"
            )
        span = self._take_rows(rows)
        start = span.start
        for name, value in episode.obs.items():
            self._obs[name][span] = value
        self._action[span][:-1], self._action[span.stop - 1] = episode.action, 0
        self._reward[span][:-1], self._reward[span.stop - 1] = episode.reward, 0
        self._steps_left[span] = np.minimum(np.arange(num_steps, -1, -1), 65535)
        if self.config.full_windows:
            self._age[span] = np.minimum(np.arange(rows), 65535)
        flags = self._flags[span]
        always = STEP | REWARD_KNOWN * episode.reward_known
        flags[:-1], flags[-1] = always | NEXT_KNOWN, 0
        flags[-2] = always | TERMINATED * episode.terminated | NEXT_KNOWN * episode.last_obs_known
        if self.config.visits:
            self._max_leaf = 1.0  # the leaf of a step that was never sampled
        if self._max_leaf is None:
            self._max_leaf = float(self._tree.leaves[: self._num_used].max()) or 1.0
        self._tree.fill(start, start + num_steps, self._max_leaf)

    def skip(self, num_steps: int) -> None:
        """Counts an episode without storing it, which episodes that are added later have to overwrite.

        The buffer is then the same as if it had been added. It is overwritten once those after it fill
        `capacity` rows.
        """
        self._take_rows(num_steps + 1)

    def episode(self, number: int) -> Episode:
        """Returns the `number`-th oldest episode as it was added, except `success`, which is not stored."""
        start, rows = self._episodes[number]
        steps, last = slice(start, start + rows - 1), self._flags[start + rows - 2]
        terminated = bool(last & TERMINATED)
        return Episode(
            {name: value[start : start + rows].copy() for name, value in self._obs.items()},
            self._action[steps].copy(),
            self._reward[steps].copy(),
            terminated,
            truncated=not terminated,
            last_obs_known=bool(last & NEXT_KNOWN),
            reward_known=bool(last & REWARD_KNOWN),
        )

    def actions(self) -> Iterator[np.ndarray]:
        """Yields the (T, A) actions of each episode, oldest first, as views."""
        for start, rows in self._episodes:
            yield self._action[start : start + rows - 1]

    def rewards(self) -> Iterator[np.ndarray]:
        """Yields the (T,) rewards of each episode, oldest first, as views."""
        for start, rows in self._episodes:
            yield self._reward[start : start + rows - 1]

    def sample(self, batch_size: int, T: int, rows: slice = ALL) -> Batch:
        """Returns windows of T steps, sampled with replacement; importance weights are at most 1.

        Args:
            batch_size: number of windows that are sampled.
            T: steps of a window.
            rows: those of the sampled windows that are read and returned.
        Raises:
            UsageError: the buffer is empty.
        """
        sampled, start, weight = self._sample(batch_size, T)
        return self._read(sampled[rows], start[rows], (weight / weight.max())[rows], T)

    def peek(self, batch_size: int, T: int, number: int) -> Iterator[Batch]:
        """Yields batches as `sample` draws them, after which sampling continues as if none had been drawn."""
        state = self.state()
        for _ in range(number):
            yield self.sample(batch_size, T)
        self.load_state(*state)

    def sample_unscaled(self, batch_size: int, T: int) -> Batch:
        """Returns windows as `sample` does, but with unscaled weights (N p)^-weight_exponent."""
        return self._read(*self._sample(batch_size, T), T)

    def _sample(self, batch_size: int, T: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the sampled rows (B,), the first rows of their windows (B,) and unscaled weights (B,)."""
        if not self._num_steps:
            raise UsageError("the replay buffer is empty; there is nothing to learn from")
        sampled = self._tree.sample(self._rng.random(batch_size))  # (B,)
        start = self._window_start(sampled, T) if self.config.full_windows else sampled
        relative_p = self._tree.get(sampled) * (self._num_steps / self._tree.total)  # N p
        weight = relative_p**-self.config.weight_exponent
        if self.config.visits:
            self._count_visits(sampled)
        return sampled, start, weight.astype(np.float32)

    def _read(self, sampled: np.ndarray, start: np.ndarray, weight: np.ndarray, T: int) -> Batch:
        """Returns the windows of T steps that begin at rows `start` (B,), with their weights (B,)."""
        offset = np.arange(T + 1)[:, None]
        rows = start + np.minimum(offset, self._steps_left[start].astype(np.int64))  # (T+1, B)
        flags = self._flags[rows[:-1]]  # (T, B)
        handle = self._handle(sampled)
        number = self._episode_number(handle)
        return Batch(
            obs={name: torch.from_numpy(value.take(rows, 0)) for name, value in self._obs.items()},
            action=torch.from_numpy(self._action.take(rows[:-1], 0)),
            reward=torch.from_numpy(self._reward.take(rows[:-1])),
            terminated=torch.from_numpy(flags & TERMINATED != 0),
            valid=torch.from_numpy(flags & STEP != 0),
            next_valid=torch.from_numpy(flags & NEXT_KNOWN != 0),
            weight=torch.from_numpy(weight),
            index=torch.from_numpy(handle),
            online=torch.full((len(sampled),), self.online),
            episode=torch.from_numpy(number),
            reward_known=torch.from_numpy(flags[0] & REWARD_KNOWN != 0),
            episode_return=torch.from_numpy(self._episode_returns()[number - self._num_dropped]),
        )

    def update_priority(self, batch: Batch, priority: Tensor | np.ndarray) -> None:
        """Sets new priorities of sampled windows; windows whose episode was dropped since are skipped.

        Args:
            batch: sampled batch; its `index` is read.
            priority: (B,) not negative; clipped to 1e-6 and 1e4 (FOWM adds the 1e-6).
        Raises:
            DivergedError: a priority is not finite.
        """
        self.update_handles(batch.index.cpu().numpy(), _as_array(priority))

    def update_handles(self, handle: np.ndarray, priority: np.ndarray) -> None:
        """Sets new priorities of the steps with these handles; see `update_priority`."""
        if not np.isfinite(priority).all():
            raise DivergedError("a replay priority is not finite: the losses have diverged")
        if self.config.visits:
            return
        row = handle % MAX_ROWS
        stored = (row < self._num_used) & (self._lap_of(row) == handle // MAX_ROWS)
        row, priority = row[stored], priority[stored]
        stored = self._tree.get(row) > 0  # 0: dropped, but not yet overwritten
        leaf = np.clip(priority[stored], PRIORITY_MIN, PRIORITY_MAX) ** self.config.priority_exponent
        self._tree.set(row[stored], leaf)
        self._max_leaf = None

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        """Returns (arrays, plain data for JSON) of everything but the episodes themselves."""
        used = self._tree.leaves[: self._num_used].copy()
        meta = {"head": self._head, "lap": self._lap, "steps": self._num_steps, "top": self._max_leaf}
        return {"leaf": used}, meta | {"generator": self._rng.bit_generator.state}

    def load_state(self, arrays: dict[str, np.ndarray], meta: dict) -> None:
        """Restores a state, after the same episodes were added in the same order, so that sampling continues.

        Raises:
            UsageError: other episodes were added, or it is no such state.
        """
        state = from_dict(ReplayState, meta)
        have = {"head": self._head, "lap": self._lap, "steps": self._num_steps}
        want = {name: getattr(state, name) for name in have}
        leaf, current = arrays.get("leaf"), self._tree.leaves[: self._num_used]
        if have != want or leaf is None or leaf.shape != current.shape:
            raise UsageError(f"the episodes are not those of the saved replay buffer: {have}, wanted {want}")
        # zero for rows that no window starts at, which the same episodes make the same rows
        if leaf.dtype != current.dtype or not np.array_equal(leaf > 0, current > 0) or not (leaf >= 0).all():
            raise UsageError("the priorities of the saved replay buffer are not those of its steps")
        if state.top is not None and not 0 < state.top < np.inf:
            raise UsageError(
                f"the highest priority of the saved replay buffer is {state.top}, wanted above 0"
            )
        restore_generator(self._rng, state.generator)
        self._tree.set(np.arange(len(leaf)), leaf)
        self._max_leaf = state.top

    def _count_visits(self, sampled: np.ndarray) -> None:
        """Lowers the leaves of sampled steps to exp(-times / visits). Source: Robine et al. 2023 (TWM)."""
        row, times = np.unique(sampled, return_counts=True)
        leaf = self._tree.get(row) * np.exp(-times / self.config.visits)
        self._tree.set(row, np.maximum(leaf, MIN_LEAF))

    def _window_start(self, row: np.ndarray, T: int) -> np.ndarray:
        """Returns the first rows of windows of T steps that contain these rows at a random position.

        A window that would cross an end of its episode is moved inside; in an episode of fewer than T steps
        it starts at the first step.
        """
        position = self._rng.integers(T, size=len(row))
        missing = T - self._steps_left[row].astype(np.int64)  # steps that a window starting here would lack
        return row - np.minimum(np.maximum(position, missing), self._age[row])

    def _lap_of(self, row: np.ndarray) -> np.ndarray:
        """Returns the lap of the ring buffer in which a row was written."""
        return self._lap - (row >= self._head)

    def _handle(self, row: np.ndarray) -> np.ndarray:
        """Returns identifiers of rows that hold until a row is overwritten; later writes are larger."""
        return self._lap_of(row) * MAX_ROWS + row

    def _episode_number(self, handle: np.ndarray) -> np.ndarray:
        """Returns the (B,) numbers of the episodes of these rows, counted in the order they were added."""
        if self._first_handles is None:
            self._first_handles = self._handle(np.array([start for start, _ in self._episodes]))
        return self._num_dropped + np.searchsorted(self._first_handles, handle, "right") - 1

    @property
    def _num_dropped(self) -> int:
        return self._num_added - len(self._episodes)

    def _episode_returns(self) -> np.ndarray:
        """Returns the sum of the rewards of each stored episode, oldest first, float32."""
        if self._returns is None:
            self._returns = np.array([rewards.sum() for rewards in self.rewards()], np.float32)
        return self._returns

    def _take_rows(self, rows: int) -> slice:
        """Gives the next rows to an episode, and returns them; what they hold is not set."""
        start = self._make_room(rows)
        self._episodes.append((start, rows))
        self._head = start + rows
        self._num_used = max(self._num_used, self._head)
        self._num_steps += rows - 1
        self._num_added, self._first_handles, self._returns = self._num_added + 1, None, None
        return slice(start, start + rows)

    def _make_room(self, rows: int) -> int:
        """Frees this many consecutive rows and returns the first of them."""
        if self._head + rows > self.capacity:
            self._drop_episodes(self._head, self.capacity)
            self._head, self._lap = 0, self._lap + 1
        self._drop_episodes(self._head, self._head + rows)
        needed = self._head + rows
        if needed > len(self._reward):
            self._grow(min(self.capacity, max(needed, len(self._reward) * 3 // 2)))
        return self._head

    def _drop_episodes(self, low: int, high: int) -> None:
        """Drops the oldest episodes as long as they start within rows low to high."""
        while self._episodes and low <= self._episodes[0][0] < high:
            start, rows = self._episodes.popleft()
            self._tree.fill(start, start + rows, 0.0)
            self._num_steps -= rows - 1
            self._max_leaf = None

    def _grow(self, rows: int) -> None:
        def larger(old: np.ndarray, allocate: Allocate = np.empty) -> np.ndarray:
            new = allocate((rows, *old.shape[1:]), old.dtype.type)
            new[: len(old)] = old
            return new

        for name in self._obs:
            self._obs[name] = larger(self._obs[name], self._allocate)
        self._action, self._reward = larger(self._action), larger(self._reward)
        self._steps_left, self._flags = larger(self._steps_left), larger(self._flags)
        if self.config.full_windows:
            self._age = larger(self._age)
        self._tree.resize(rows)

    def _check(self, episode: Episode) -> None:
        have = {name: value.shape[1:] for name, value in episode.obs.items()}
        want = dict(self.spec.obs)
        if have != want or episode.action.shape[1] != self.spec.action_dim or not len(episode):
            raise ValueError(
                f"episode with observations {have} and actions {episode.action.shape}, "
                f"wanted {want} and (T, {self.spec.action_dim})"
            )


def online_ratio(
    num_offline: int, num_online: int, max_ratio: float, max_online_oversampling: float
) -> float:
    """Returns the fraction of a batch that is online data; it grows with the number of online steps.

    A fixed half from the first episode on would sample its few steps hundreds of times as often as recorded
    ones: a few hundred steps are overfitted, and one bad episode outweighs the recordings.

    Args:
        num_offline: number of recorded steps.
        num_online: number of the robot's online steps.
        max_ratio: maximum of the returned fraction, 0 to 1.
        max_online_oversampling: how many times as often as a recorded step an online step is sampled at most,
            in the mean over all of them; 0: no limit.
    """
    if not max_online_oversampling or not num_offline or not num_online:
        return max_ratio
    weighted = max_online_oversampling * num_online
    return min(max_ratio, weighted / (num_offline + weighted))


class MixedReplay:
    """Samples batches of which one part is offline data and the rest online data.

    Attributes:
        offline_ratio: fraction of offline windows in a batch, as long as there is online data; FOWM uses 0.5.
        max_online_oversampling: see `online_ratio`; with it `offline_ratio` is reached once there are enough
            online steps.
        last_offline_ratio: fraction of offline windows in the last batch.
    """

    def __init__(
        self,
        offline: Replay,
        online: Replay,
        offline_ratio: float,
        max_online_oversampling: float = 0.0,
    ):
        if not 0 <= offline_ratio <= 1:
            raise UsageError(f"--offline-ratio is {offline_ratio:g}, wanted between 0 and 1")
        if not 0 <= max_online_oversampling < np.inf:
            raise UsageError(
                f"--max-online-oversampling is {max_online_oversampling:g}, wanted at least 0 (0: no limit)"
            )
        self.offline, self.online = offline, online
        self.offline_ratio, self.max_online_oversampling = offline_ratio, max_online_oversampling
        self.last_offline_ratio = 1.0

    def __len__(self) -> int:
        return len(self.offline) + len(self.online)

    def sample(self, batch_size: int, T: int) -> Batch:
        """Returns offline windows followed by online windows; importance weights are at most 1 over all.

        `int(offline_ratio * batch_size)` windows are offline, or more while `max_online_oversampling` limits
        the online ones. At least one window is online unless `offline_ratio` is 1, because data that are
        never sampled are not learned from at all.
        """
        num = self._num_offline(batch_size)
        self.last_offline_ratio = num / batch_size
        sizes = ((self.offline, num), (self.online, batch_size - num))
        parts = [replay.sample_unscaled(n, T) for replay, n in sizes if n]
        batch = parts[0] if len(parts) == 1 else _join(*parts)
        return replace(batch, weight=batch.weight / batch.weight.max())

    def _num_offline(self, batch_size: int) -> int:
        """Returns the number of offline windows in a batch."""
        if not len(self.online):
            return batch_size
        if not len(self.offline):
            return 0
        num, max_ratio = int(self.offline_ratio * batch_size), 1 - self.offline_ratio
        ratio = online_ratio(len(self.offline), len(self.online), max_ratio, self.max_online_oversampling)
        return num if ratio == max_ratio else max(num, batch_size - max(1, int(ratio * batch_size)))

    def update_priority(self, batch: Batch, priority: Tensor | np.ndarray) -> None:
        """Sets (B,) new priorities, each in the buffer that its window was sampled from."""
        handle, priority, online = batch.index.cpu().numpy(), _as_array(priority), batch.online.cpu().numpy()
        self.offline.update_handles(handle[~online], priority[~online])
        self.online.update_handles(handle[online], priority[online])


def _as_array(priority: Tensor | np.ndarray) -> np.ndarray:
    return torch.as_tensor(priority).detach().cpu().double().numpy()


def _join(left: Batch, right: Batch) -> Batch:
    """Concatenates two batches along the batch axis."""
    obs = {name: torch.cat([value, right.obs[name]], 1) for name, value in left.obs.items()}
    others = {
        name: torch.cat([value, getattr(right, name)], min(value.ndim - 1, 1))
        for name, value in vars(left).items()
        if name != "obs"
    }
    return Batch(obs=obs, **others)
