"""The only store of experience: windows of whole episodes, drawn by priority."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from o2o.core.config import at_least
from o2o.core.episode import Batch, Episode
from o2o.core.errors import DivergedError, UsageError
from o2o.core.memory import allocate as by_room
from o2o.core.memory import size
from o2o.core.spec import Spec, is_image
from o2o.data.sum_tree import SumTree

PRIORITY_MIN, PRIORITY_MAX = 1e-6, 1e4  # FOWM
ROOM_BYTES = 2**28  # taken at first; what is not written to costs no memory
RAREST = 1e-250  # of a leaf that was drawn often
MAX_ROWS = 2**40  # a handle is how often the ring had gone round, times this, plus the row
STEP, TERMINATED, NEXT_KNOWN = 1, 2, 4  # bits of a row

Allocate = Callable[[tuple[int, ...], type], np.ndarray]  # an array of a shape and type

logger = logging.getLogger("o2o")


@dataclass(frozen=True)
class ReplayConfig:
    """How windows are drawn.

    Attributes:
        priority_exponent: 0 draws uniformly, 1 in proportion to the priority. FOWM: 0.6.
        weight_exponent: 1 undoes the bias of drawing by priority, 0 leaves it. FOWM: 0.4.
        capacity: most observations kept of what the robot did itself; an episode of T steps takes
            T + 1. The oldest episodes go first. FOWM: 1,000,000, cut to the length of the run. Memory is
            taken as they come, and a file where that would take more than half of what is free.
        full_windows: a drawn step lies anywhere in its window, and a window that would run over an end of
            its episode moves inwards; sequence models want it. Both ends are then drawn more often: the
            last steps as by DreamerV2's `prioritize_ends`, and the first ones, where every trial begins.
        visits: draws of a start after which it is drawn e times more rarely, so that new steps are learned
            from as often as old ones; priorities then do not count. 0: off. TWM: 20.
    """

    priority_exponent: float = 0.6
    weight_exponent: float = 0.4
    capacity: int = 1_000_000
    full_windows: bool = False
    visits: float = 0.0

    def __post_init__(self):
        at_least(self, priority_exponent=0, visits=0, weight_exponent=0, capacity=2)


def row_bytes(spec: Spec, config: ReplayConfig) -> tuple[int, int]:
    """What one row takes: (its observations, all else that a replay keeps of it)."""
    obs = sum(int(np.prod(s)) * (1 if is_image(s) else 4) for s in spec.obs.values())
    return obs, 4 * spec.action_dim + 16 + 2 * config.full_windows  # 16: reward, left, bits, 8.6 of the tree


class Replay:
    """Whole episodes in flat arrays; windows start at any step, in proportion to its priority.

    An episode of T steps takes T + 1 rows, one an observation. Its last row is no step: a window that
    reaches it stays there, which pads the window with the last observation and zeros.
    """

    def __init__(
        self, spec: Spec, capacity: int, seed: int, config: ReplayConfig, online: bool = False,
        allocate: Allocate = by_room,
    ):  # fmt: skip
        """
        Args:
            spec: what the episodes look like on the model's side.
            capacity: most rows; for data that must all stay, the sum of `len(episode) + 1`.
            seed: of the draws.
            config: how windows are drawn; its `capacity` is for the caller to pass on.
            online: mark of the batches: whether this robot did it itself; memory then grows with what
                it does, and is otherwise taken for all of `capacity` at once.
            allocate: makes the arrays of observations, which may lie in files.
        """
        self.spec, self.capacity, self.config, self.online = spec, capacity, config, online
        self._rng = np.random.default_rng(seed)
        self._episodes: deque[tuple[int, int]] = deque()  # first row, rows; the oldest first
        self._head = self._lap = self._num_steps = 0
        self._written = 0  # rows that have ever been written
        self._num_added = 0  # episodes
        self._begins: np.ndarray | None = None  # handles of the episodes' first rows; None: not known
        num_bytes, rows = sum(row_bytes(spec, config)), capacity
        if online:
            rows = min(capacity, max(ROOM_BYTES // num_bytes, 1))
            bound = size(capacity * num_bytes)
            logger.info("the robot's own episodes take up to %s, as they come (%d rows)", bound, capacity)
        self._allocate = allocate
        self._obs = {
            name: allocate((rows, *shape), np.uint8 if is_image(shape) else np.float32)
            for name, shape in spec.obs.items()
        }
        self._action = np.empty((rows, spec.action_dim), np.float32)
        self._reward = np.empty(rows, np.float32)
        self._left = np.empty(rows, np.uint16)  # steps to the end of the episode, at most 65535
        self._age = np.empty(rows if config.full_windows else 0, np.uint16)  # steps since its start, likewise
        self._bits = np.empty(rows, np.uint8)
        self._tree = SumTree(rows)
        self._top: float | None = 1.0  # largest leaf; None: not known

    def __len__(self) -> int:
        """Number of steps that a window can start at."""
        return self._num_steps

    @property
    def num_episodes(self) -> int:
        return len(self._episodes)

    def add(self, episode: Episode) -> None:
        """Stores an episode as the model sees it, with the highest priority that there is.

        Raises:
            UsageError: it does not fit into the capacity.
            ValueError: it does not fit the spec.
        """
        self._check(episode)
        steps = len(episode)
        rows = steps + 1
        if rows > self.capacity:
            raise UsageError(f"{steps} steps does not fit into a replay of {self.capacity} rows")
        start = self._make_room(rows)
        span = slice(start, start + rows)
        for name, value in episode.obs.items():
            self._obs[name][span] = value
        self._action[span][:-1], self._action[span.stop - 1] = episode.action, 0
        self._reward[span][:-1], self._reward[span.stop - 1] = episode.reward, 0
        self._left[span] = np.minimum(np.arange(steps, -1, -1), 65535)
        if self.config.full_windows:
            self._age[span] = np.minimum(np.arange(rows), 65535)
        bits = self._bits[span]
        bits[:-1], bits[-1] = STEP | NEXT_KNOWN, 0
        bits[-2] = STEP | TERMINATED * episode.terminated | NEXT_KNOWN * episode.last_obs_known
        if self.config.visits:
            self._top = 1.0  # never drawn
        if self._top is None:
            self._top = float(self._tree.leaves[: self._written].max()) or 1.0
        self._tree.fill(start, start + steps, self._top)
        self._episodes.append((start, rows))
        self._head = start + rows
        self._written = max(self._written, self._head)
        self._num_steps += steps
        self._num_added, self._begins = self._num_added + 1, None

    def episode(self, number: int) -> Episode:
        """The `number`-th oldest episode, as it was added, but for `success`, which is not kept."""
        start, rows = self._episodes[number]
        steps, last = slice(start, start + rows - 1), self._bits[start + rows - 2]
        terminated = bool(last & TERMINATED)
        return Episode(
            {name: value[start : start + rows].copy() for name, value in self._obs.items()},
            self._action[steps].copy(),
            self._reward[steps].copy(),
            terminated,
            truncated=not terminated,
            last_obs_known=bool(last & NEXT_KNOWN),
        )

    def actions(self) -> Iterator[np.ndarray]:
        """(T, A) of each episode, the oldest first, as they lie in the replay."""
        for start, rows in self._episodes:
            yield self._action[start : start + rows - 1]

    def sample(self, batch_size: int, T: int) -> Batch:
        """Windows of T steps, with replacement; weights are at most 1.

        Raises:
            UsageError: nothing is stored yet.
        """
        batch = self.draw(batch_size, T)
        return replace(batch, weight=batch.weight / batch.weight.max())

    def draw(self, batch_size: int, T: int) -> Batch:
        """As `sample`, with the weights (N p)^-weight_exponent as they are."""
        if not self._num_steps:
            raise UsageError("the replay is empty; nothing can be learned from it yet")
        drawn = self._tree.sample(self._rng.random(batch_size))  # (B,)
        start = self._around(drawn, T) if self.config.full_windows else drawn
        offset = np.arange(T + 1)[:, None]
        rows = start + np.minimum(offset, self._left[start].astype(np.int64))  # (T+1, B)
        bits = self._bits[rows[:-1]]  # (T, B)
        share = self._tree.get(drawn) * (self._num_steps / self._tree.total)  # N p
        weight = share**-self.config.weight_exponent
        if self.config.visits:
            self._count(drawn)
        handle = self._handle(drawn)
        return Batch(
            obs={name: torch.from_numpy(value.take(rows, 0)) for name, value in self._obs.items()},
            action=torch.from_numpy(self._action.take(rows[:-1], 0)),
            reward=torch.from_numpy(self._reward.take(rows[:-1])),
            terminated=torch.from_numpy(bits & TERMINATED != 0),
            valid=torch.from_numpy(bits & STEP != 0),
            next_valid=torch.from_numpy(bits & NEXT_KNOWN != 0),
            weight=torch.from_numpy(weight.astype(np.float32)),
            index=torch.from_numpy(handle),
            online=torch.full((batch_size,), self.online),
            episode=torch.from_numpy(self._number(handle)),
        )

    def update_priority(self, batch: Batch, priority: Tensor | np.ndarray) -> None:
        """New priorities for windows that were drawn; those that have been forgotten since are skipped.

        Args:
            batch: as drawn; its `index` is read.
            priority: (B,) not negative; kept within 1e-6 and 1e4 (FOWM adds the 1e-6).
        Raises:
            DivergedError: a priority is not finite.
        """
        self._update(batch.index.cpu().numpy(), _as_array(priority))

    def _update(self, handle: np.ndarray, value: np.ndarray) -> None:
        if not np.isfinite(value).all():
            raise DivergedError("a priority for replay is not finite: the losses have diverged")
        if self.config.visits:
            return
        row = handle % MAX_ROWS
        live = (row < self._written) & (self._generation(row) == handle // MAX_ROWS)
        row, value = row[live], value[live]
        live = self._tree.get(row) > 0  # given up, but not yet written over
        leaf = np.clip(value[live], PRIORITY_MIN, PRIORITY_MAX) ** self.config.priority_exponent
        self._tree.set(row[live], leaf)
        self._top = None

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        """(arrays, plain data for JSON): all but the episodes themselves."""
        used = self._tree.leaves[: self._written].copy()
        meta = {"head": self._head, "lap": self._lap, "steps": self._num_steps, "top": self._top}
        return {"leaf": used}, meta | {"generator": self._rng.bit_generator.state}

    def load_state(self, arrays: dict[str, np.ndarray], meta: dict) -> None:
        """Goes on as if never stopped, after the same episodes were added in the same order.

        Raises:
            UsageError: other episodes were added.
        """
        have = {"head": self._head, "lap": self._lap, "steps": self._num_steps}
        want = {name: meta[name] for name in have}
        leaf = np.asarray(arrays["leaf"])
        if have != want or len(leaf) != self._written:
            raise UsageError(f"the episodes are not those of the saved replay: {have}, wanted {want}")
        self._tree.set(np.arange(len(leaf)), leaf)
        self._top = meta["top"]
        self._rng.bit_generator.state = meta["generator"]

    def _count(self, drawn: np.ndarray) -> None:
        """Makes starts that were drawn rarer: a leaf is exp(-times / visits). Source: Robine et al. 2023."""
        row, times = np.unique(drawn, return_counts=True)
        leaf = self._tree.get(row) * np.exp(-times / self.config.visits)
        self._tree.set(row, np.maximum(leaf, RAREST))

    def _around(self, row: np.ndarray, T: int) -> np.ndarray:
        """First rows of windows of T steps that hold these rows, each anywhere in its window.

        At its ends an episode moves its windows inwards; one that is too short has them begin where it does.
        """
        place = self._rng.integers(T, size=len(row))
        lacking = T - self._left[row].astype(np.int64)  # steps that a window from there on would want
        return row - np.minimum(np.maximum(place, lacking), self._age[row])

    def _generation(self, row: np.ndarray) -> np.ndarray:
        """How often the ring had gone round when this row was written."""
        return self._lap - (row >= self._head)

    def _handle(self, row: np.ndarray) -> np.ndarray:
        """What names a row until it is written over; the later it was written, the larger."""
        return self._generation(row) * MAX_ROWS + row

    def _number(self, handle: np.ndarray) -> np.ndarray:
        """(B,) of the episodes that these rows are in, counted as they were added."""
        if self._begins is None:
            self._begins = self._handle(np.array([start for start, _ in self._episodes]))
        forgotten = self._num_added - len(self._episodes)
        return forgotten + np.searchsorted(self._begins, handle, "right") - 1

    def _make_room(self, rows: int) -> int:
        """The first of so many free rows."""
        if self._head + rows > self.capacity:
            self._give_up(self._head, self.capacity)
            self._head, self._lap = 0, self._lap + 1
        self._give_up(self._head, self._head + rows)
        need = self._head + rows
        if need > len(self._reward):
            self._grow(min(self.capacity, max(need, len(self._reward) * 3 // 2)))
        return self._head

    def _give_up(self, low: int, high: int) -> None:
        """Forgets the oldest episodes as long as they begin within rows low to high."""
        while self._episodes and low <= self._episodes[0][0] < high:
            start, rows = self._episodes.popleft()
            self._tree.fill(start, start + rows, 0.0)
            self._num_steps -= rows - 1
            self._top = None

    def _grow(self, rows: int) -> None:
        def larger(old: np.ndarray, allocate: Allocate = np.empty) -> np.ndarray:
            new = allocate((rows, *old.shape[1:]), old.dtype.type)
            new[: len(old)] = old
            return new

        for name in self._obs:
            self._obs[name] = larger(self._obs[name], self._allocate)
        self._action, self._reward = larger(self._action), larger(self._reward)
        self._left, self._bits = larger(self._left), larger(self._bits)
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


def online_share(offline: int, online: int, most: float, max_online_oversampling: float) -> float:
    """The share of a batch that is the robot's own: it grows with what the robot has done.

    A fixed half from the first episode on would draw its few steps hundreds of times as often as recorded
    ones: a few hundred steps are learned by heart, and one bad episode outweighs the recordings.

    Args:
        offline: recorded steps.
        online: steps of the robot's own.
        most: the share at most, 0 to 1.
        max_online_oversampling: an own step is drawn, in the mean over all of them, at most so many times as
        often as a
            recorded one; 0: no bound.
    """
    if not max_online_oversampling or not offline or not online:
        return most
    return min(most, max_online_oversampling * online / (offline + max_online_oversampling * online))


class Mix:
    """Batches of which a part is offline data and the rest the robot's own.

    Attributes:
        ratio: share of offline windows, as long as there are online ones; FOWM: 0.5.
        max_online_oversampling: see `online_share`; with it `ratio` is the share that is left in the end.
        realised_ratio: share of offline windows in the last batch.
    """

    def __init__(self, offline: Replay, online: Replay, ratio: float, max_online_oversampling: float = 0.0):
        if not 0 <= ratio <= 1:
            raise UsageError(f"the offline share of a batch is {ratio:g}, wanted between 0 and 1")
        if not 0 <= max_online_oversampling < np.inf:
            raise UsageError(
                f"--max-online-oversampling is {max_online_oversampling:g}, "
                "wanted a number from 0 up (0: no bound)"
            )
        self.offline, self.online, self.ratio, self.max_online_oversampling = (
            offline,
            online,
            ratio,
            max_online_oversampling,
        )
        self.realised_ratio = 1.0

    def __len__(self) -> int:
        return len(self.offline) + len(self.online)

    def sample(self, batch_size: int, T: int) -> Batch:
        """Offline windows, then online ones; weights at most 1 over all.

        `int(ratio * batch_size)` are offline, or more while `max_online_oversampling` bounds the online
        ones. One of those is always there unless `ratio` is 1, for what is never drawn is not learned from
        at all.
        """
        num = self._num_offline(batch_size)
        self.realised_ratio = num / batch_size
        parts = [r.draw(n, T) for r, n in ((self.offline, num), (self.online, batch_size - num)) if n]
        batch = parts[0] if len(parts) == 1 else _join(*parts)
        return replace(batch, weight=batch.weight / batch.weight.max())

    def _num_offline(self, batch_size: int) -> int:
        """Offline windows in a batch."""
        if not len(self.online):
            return batch_size
        if not len(self.offline):
            return 0
        num, most = int(self.ratio * batch_size), 1 - self.ratio
        share = online_share(len(self.offline), len(self.online), most, self.max_online_oversampling)
        return num if share == most else max(num, batch_size - max(1, int(share * batch_size)))

    def update_priority(self, batch: Batch, priority: Tensor | np.ndarray) -> None:
        """(B,) new priorities, each to the replay that its window came from."""
        handle, value, online = batch.index.cpu().numpy(), _as_array(priority), batch.online.cpu().numpy()
        self.offline._update(handle[~online], value[~online])
        self.online._update(handle[online], value[online])


def _as_array(priority: Tensor | np.ndarray) -> np.ndarray:
    return torch.as_tensor(priority).detach().cpu().double().numpy()


def _join(left: Batch, right: Batch) -> Batch:
    """Two batches side by side along the batch axis."""
    obs = {name: torch.cat([value, right.obs[name]], 1) for name, value in left.obs.items()}
    rest = {
        name: torch.cat([value, getattr(right, name)], min(value.ndim - 1, 1))
        for name, value in vars(left).items()
        if name != "obs"
    }
    return Batch(obs=obs, **rest)
