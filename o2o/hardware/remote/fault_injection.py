"""FaultInjector of a robot and of the way to it, drawn from a seed: what a rehearsal should survive."""

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from o2o.core.config import at_least, at_most
from o2o.core.errors import UsageError


@dataclass(frozen=True)
class FaultConfig:
    """What goes wrong, by itself, while a robot is served. Zeros: nothing.

    Attributes:
        seed: of all draws; each kind of fault has its own stream.
        latency_ms: that each observation and each command takes longer.
        jitter_ms: mean of a random further delay of each (exponential); messages may overtake each other.
        drop: share of observations and of commands that never arrive.
        duplicate: share that arrives twice, the second time a jitter later.
        camera_ms: age of the pictures on top of their own: a slow camera.
        camera_freeze_s: no new picture comes from so many seconds on; 0: never.
        noise: standard deviation added to observations that are no pictures, in their units.
        stuck_joint: entry of the action that moves nothing, counted from 0; -1: none. The driver does not
            notice and reports the action as executed.
        disconnect_s: mean time between lost connections; 0: never.
        gone_s: how long nobody can connect after one.
        e_stop_s: mean time between presses of the e-stop; 0: never. It latches until it is cleared.
    """

    seed: int = 0
    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    drop: float = 0.0
    duplicate: float = 0.0
    camera_ms: float = 0.0
    camera_freeze_s: float = 0.0
    noise: float = 0.0
    stuck_joint: int = -1
    disconnect_s: float = 0.0
    gone_s: float = 0.5
    e_stop_s: float = 0.0

    def __post_init__(self):
        times = ("latency_ms", "jitter_ms", "camera_ms", "camera_freeze_s", "disconnect_s", "gone_s")
        at_least(self, seed=0, drop=0, duplicate=0, noise=0, e_stop_s=0, stuck_joint=-1)
        at_least(self, **dict.fromkeys(times, 0))
        at_most(self, drop=1, duplicate=1, **dict.fromkeys(times, 1e6))


class FaultInjector:
    """Draws the faults of one `FaultConfig`. Times are those of `time.monotonic`, s."""

    def __init__(self, config: FaultConfig, now_s: float | None = None):
        self.config = config
        kinds = ("observe", "done", "act", "noise", "disconnect", "e-stop")
        seeds = np.random.SeedSequence(config.seed).spawn(len(kinds))
        self._rng = {kind: np.random.default_rng(seed) for kind, seed in zip(kinds, seeds, strict=True)}
        self._begin_s = time.monotonic() if now_s is None else now_s
        self._due = {
            "disconnect": self._begin_s + self._gap("disconnect", config.disconnect_s),
            "e-stop": self._begin_s + self._gap("e-stop", config.e_stop_s),
        }
        self._pictures: deque[tuple[float, dict[str, np.ndarray]]] = deque(maxlen=4096)

    def delays(self, kind: str) -> list[float]:
        """When the copies of one message arrive, s from now; empty: it is lost.

        Args:
            kind: `observe`, `done` or `act`; see `o2o.hardware.remote.protocol`.
        """
        lost, twice, *jitter = self._rng[kind].random(4)  # always four: one fault does not shift the others
        late = [self.config.latency_ms / 1e3 - self.config.jitter_ms / 1e3 * np.log1p(-j) for j in jitter]
        if lost < self.config.drop:
            return []
        if twice >= self.config.duplicate:
            return [late[0]]
        return [late[0], late[0] + late[1] - self.config.latency_ms / 1e3]

    def observe(
        self, obs: dict[str, np.ndarray], measured_s: float, now_s: float
    ) -> tuple[dict[str, np.ndarray], float]:
        """(observation, when its oldest part was measured) as a noisy sensor and a bad camera tell it."""
        seen = {name: self._noisy(value) for name, value in obs.items()}
        pictures = {name: value for name, value in obs.items() if value.dtype == np.uint8 and value.ndim >= 2}
        if not pictures or not (self.config.camera_ms or self.config.camera_freeze_s):
            return seen, measured_s
        if not self._frozen(now_s) or not self._pictures:
            self._pictures.append((measured_s, pictures))
        wanted_s = measured_s - self.config.camera_ms / 1e3
        while len(self._pictures) > 1 and self._pictures[1][0] <= wanted_s:
            self._pictures.popleft()
        taken_s, old = self._pictures[0]
        return seen | old, min(measured_s, taken_s)

    def moved(self, action: np.ndarray, held: np.ndarray) -> np.ndarray:
        """(A,) what reaches the motors of an action, the stuck entry being that of `held`.

        Raises:
            UsageError: the action has no such entry.
        """
        joint = self.config.stuck_joint
        if joint < 0:
            return action
        if joint >= len(action):
            raise UsageError(
                f"--faults.stuck-joint is {joint}, the action has entries 0 to {len(action) - 1}"
            )
        action = action.copy()
        action[joint] = held[joint]
        return action

    def happens(self, what: str, now_s: float) -> bool:
        """Whether a `disconnect` or an `e-stop` is due; the next one is then drawn."""
        if now_s < self._due[what]:
            return False
        mean_s = self.config.disconnect_s if what == "disconnect" else self.config.e_stop_s
        self._due[what] = now_s + self._gap(what, mean_s)
        return True

    def _gap(self, what: str, mean_s: float) -> float:
        return float(self._rng[what].exponential(mean_s)) if mean_s else np.inf

    def _frozen(self, now_s: float) -> bool:
        return bool(self.config.camera_freeze_s) and now_s - self._begin_s >= self.config.camera_freeze_s

    def _noisy(self, value: np.ndarray) -> np.ndarray:
        if not self.config.noise or value.dtype.kind != "f":
            return value
        return (value + self._rng["noise"].normal(0, self.config.noise, value.shape)).astype(value.dtype)


class DelayedSender:
    """Delivers things later, in a thread of its own, in the order in which they fall due."""

    def __init__(self, name: str):
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._count, self._changed, self._open = itertools.count(), threading.Condition(), True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, delay_s: float, deliver: Callable[[], object]) -> None:
        """Calls `deliver` after a delay."""
        with self._changed:
            heapq.heappush(self._heap, (time.monotonic() + delay_s, next(self._count), deliver))
            self._changed.notify()

    def close(self) -> None:
        """Forgets what was not delivered yet."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._open and (not self._heap or self._heap[0][0] > time.monotonic()):
                    left = self._heap[0][0] - time.monotonic() if self._heap else None
                    self._changed.wait(None if left is None else max(0.0, left))
                if not self._open:
                    return
                _, _, deliver = heapq.heappop(self._heap)
            deliver()
