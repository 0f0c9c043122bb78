"""Injects seeded faults into a served robot and its network, to test a run before it meets real ones."""

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
    """Faults that happen at random while a robot is served; zero turns a fault off.

    Attributes:
        seed: Seed of all random draws; each kind of fault has its own stream.
        latency_ms: Additional delay of each observation and each command, in milliseconds.
        jitter_ms: Mean of a further random delay of each message (exponential), in milliseconds; messages
            may overtake each other.
        drop: Fraction of observations and of commands that are lost.
        duplicate: Fraction of messages that arrive twice, the second time one jitter later.
        camera_delay_ms: Additional age of camera images, in milliseconds: a slow camera.
        camera_freeze_s: Seconds after which the cameras repeat their last image; 0: never.
        noise: Standard deviation of Gaussian noise on observations other than images, in their units.
        stuck_joint: Entry of the action that moves nothing, counted from 0; -1: none. The driver does not
            notice and reports the action as executed.
        disconnect_s: Mean time between lost connections, in seconds; 0: never.
        outage_s: Seconds after a lost connection during which no client can connect.
        e_stop_s: Mean time between presses of the e-stop, in seconds; 0: never. It latches until a person
            clears it.
    """

    seed: int = 0
    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    drop: float = 0.0
    duplicate: float = 0.0
    camera_delay_ms: float = 0.0
    camera_freeze_s: float = 0.0
    noise: float = 0.0
    stuck_joint: int = -1
    disconnect_s: float = 0.0
    outage_s: float = 0.5
    e_stop_s: float = 0.0

    def __post_init__(self):
        times = ("latency_ms", "jitter_ms", "camera_delay_ms", "camera_freeze_s", "disconnect_s", "outage_s")
        at_least(self, seed=0, drop=0, duplicate=0, noise=0, e_stop_s=0, stuck_joint=-1)
        at_least(self, **dict.fromkeys(times, 0))
        at_most(self, drop=1, duplicate=1, **dict.fromkeys(times, 1e6))


class FaultInjector:
    """Draws the faults of a `FaultConfig`. Times are those of `time.monotonic`, s."""

    def __init__(self, config: FaultConfig, now_s: float | None = None):
        self.config = config
        kinds = ("observe", "done", "act", "noise", "disconnect", "e-stop")
        seeds = np.random.SeedSequence(config.seed).spawn(len(kinds))
        self._rng = {kind: np.random.default_rng(seed) for kind, seed in zip(kinds, seeds, strict=True)}
        self._begin_s = time.monotonic() if now_s is None else now_s
        self._due_s = {
            "disconnect": self._begin_s + self._draw_interval("disconnect", config.disconnect_s),
            "e-stop": self._begin_s + self._draw_interval("e-stop", config.e_stop_s),
        }
        self._images: deque[tuple[float, dict[str, np.ndarray]]] = deque(maxlen=4096)

    def message_delays(self, kind: str) -> list[float]:
        """Returns the delays of the copies of one message, s; empty if it is lost.

        Args:
            kind: `observe`, `done` or `act`; see `o2o.hardware.remote.protocol`.
        """
        drop, duplicate, *jitter = self._rng[kind].random(4)  # always four: no fault shifts the others' draws
        delays = [self.config.latency_ms / 1e3 - self.config.jitter_ms / 1e3 * np.log1p(-j) for j in jitter]
        if drop < self.config.drop:
            return []
        if duplicate >= self.config.duplicate:
            return [delays[0]]
        return [delays[0], delays[0] + delays[1] - self.config.latency_ms / 1e3]

    def degrade_obs(
        self, obs: dict[str, np.ndarray], measured_s: float, now_s: float
    ) -> tuple[dict[str, np.ndarray], float]:
        """Returns (observation, when its oldest part was measured) with sensor noise and camera faults.

        Args:
            obs: observation by name, as the robot measured it.
            measured_s: when its oldest part was measured, s.
            now_s: the current time, s.
        """
        noisy = {name: self._add_noise(value) for name, value in obs.items()}
        images = {name: value for name, value in obs.items() if value.dtype == np.uint8 and value.ndim >= 2}
        if not images or not (self.config.camera_delay_ms or self.config.camera_freeze_s):
            return noisy, measured_s
        if not self._cameras_frozen(now_s) or not self._images:
            self._images.append((measured_s, images))
        wanted_s = measured_s - self.config.camera_delay_ms / 1e3
        while len(self._images) > 1 and self._images[1][0] <= wanted_s:
            self._images.popleft()
        taken_s, delayed = self._images[0]
        return noisy | delayed, min(measured_s, taken_s)

    def apply_stuck_joint(self, action: np.ndarray, hold: np.ndarray) -> np.ndarray:
        """Returns (A,) the action that reaches the motors, with the stuck entry taken from `hold`.

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
        action[joint] = hold[joint]
        return action

    def is_due(self, event: str, now_s: float) -> bool:
        """Returns whether a `disconnect` or an `e-stop` is due; if so, draws the time of the next one."""
        if now_s < self._due_s[event]:
            return False
        mean_s = self.config.disconnect_s if event == "disconnect" else self.config.e_stop_s
        self._due_s[event] = now_s + self._draw_interval(event, mean_s)
        return True

    def _draw_interval(self, event: str, mean_s: float) -> float:
        return float(self._rng[event].exponential(mean_s)) if mean_s else np.inf

    def _cameras_frozen(self, now_s: float) -> bool:
        return bool(self.config.camera_freeze_s) and now_s - self._begin_s >= self.config.camera_freeze_s

    def _add_noise(self, value: np.ndarray) -> np.ndarray:
        if not self.config.noise or value.dtype.kind != "f":
            return value
        return (value + self._rng["noise"].normal(0, self.config.noise, value.shape)).astype(value.dtype)


class DelayedSender:
    """Calls functions after a delay, in its own thread, in the order in which they fall due."""

    def __init__(self, name: str):
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._count, self._changed, self._open = itertools.count(), threading.Condition(), True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def send_after(self, delay_s: float, send: Callable[[], object]) -> None:
        """Calls `send` after `delay_s`."""
        with self._changed:
            heapq.heappush(self._heap, (time.monotonic() + delay_s, next(self._count), send))
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread and discards what was not sent yet."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._open and (not self._heap or self._heap[0][0] > time.monotonic()):
                    left_s = self._heap[0][0] - time.monotonic() if self._heap else None
                    self._changed.wait(None if left_s is None else max(0.0, left_s))
                if not self._open:
                    return
                _, _, send = heapq.heappop(self._heap)
            send()
