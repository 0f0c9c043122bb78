"""Reads the true motion of the arm, as recorded beside it."""

from pathlib import Path

import numpy as np

# time went on; an action began; it was stopped; on the way home; send() of its driver was called
TICK, ACTION, HOLD, HOMING, SENT = range(5)
ROW = np.dtype([("time_s", "f8"), ("what", "i8"), ("place", "f8", 3), ("action", "f8", 4)])
TICK_S = 0.02  # of the arm
PERIOD_S = 0.1  # of a decision; the arm moves in four of its five ticks
MEAN_S = 2 * PERIOD_S  # that speeds are means of
REST_MM, REST_S = 0.1, 0.1  # that it may still move in so long a time to count as at rest
LATE_S = 0.03  # between two ticks: the simulation was late, and goes faster than the clock to catch up


class ArmTrace:
    """Rows of `ROW`: `time_s` by `time.monotonic`, one clock for all processes of a machine; `place` in m."""

    def __init__(self, rows: np.ndarray):
        self.rows = rows
        self.moves = rows[(rows["what"] == TICK) | (rows["what"] == HOMING)]

    @classmethod
    def read(cls, path: Path, last: int = 0) -> "ArmTrace":
        """All that a witness has written so far, or the last rows of it; nothing if it has not begun."""
        if not path.exists():
            return cls(np.empty(0, ROW))
        with path.open("rb") as file:
            size = path.stat().st_size // ROW.itemsize
            file.seek(max(0, size - last) * ROW.itemsize if last else 0)
            data = file.read()
        return cls(np.frombuffer(data[: len(data) // ROW.itemsize * ROW.itemsize], ROW))

    def place(self, when_s: float) -> np.ndarray:
        """(3,) m, where the arm was, between two ticks on the straight line."""
        return at([when_s], self.moves["time_s"], self.moves["place"])[0]

    def mm_s(self, when_s: float, over_s: float = 0.04) -> float:
        """How fast it was over the time before."""
        return float(1e3 * np.linalg.norm(self.place(when_s) - self.place(when_s - over_s)) / over_s)

    def moved_mm(self, begin_s: float, end_s: float) -> float:
        """Farthest from where it was at the beginning."""
        moves = self.moves
        inside = moves["place"][(moves["time_s"] > begin_s) & (moves["time_s"] < end_s)]
        places = np.concatenate([inside, self.place(end_s)[None]])
        return float(1e3 * np.linalg.norm(places - self.place(begin_s), axis=1).max())

    def span_mm(self, begin_s: float, end_s: float) -> np.ndarray:
        """(3,) from the lowest to the highest place along each axis."""
        times = self.moves["time_s"]
        return 1e3 * np.ptp(self.moves["place"][(times > begin_s) & (times < end_s)], axis=0)

    def speeds(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (when, s; how fast along each axis, mm/s): means over two periods before, where in time.

        A simulation whose process had to wait for the processor makes up for it faster than the clock, and
        tells nothing of the arm: times with a late tick in or shortly before them are left out.
        """
        times, places = self.moves["time_s"], 1e3 * self.moves["place"]
        if not len(times):
            return times, places
        known_s = times - MEAN_S - PERIOD_S
        late = np.concatenate([[0], np.cumsum(np.diff(times) > LATE_S)])
        in_time = (known_s >= times[0]) & (late == np.interp(known_s, times, late))
        return times[in_time], ((places - at(times - MEAN_S, times, places)) / MEAN_S)[in_time]

    def fastest_mm_s(self) -> float:
        """Returns how fast the arm was at most along one axis, mm/s."""
        return float(np.abs(self.speeds()[1]).max(initial=0))

    def hardest_mm_s2(self) -> float:
        """Returns how hard the arm sped up at most along one axis, from two periods to the next two.

        How it slows down does not count: it stops by itself where no further action comes.
        """
        times, speeds = self.speeds()
        before = at(times - MEAN_S, times, speeds)
        more = np.minimum(np.abs(speeds - before), np.abs(speeds)) * (speeds * (speeds - before) > 0)
        known = np.isin(np.round((times - MEAN_S) / TICK_S), np.round(times / TICK_S))
        return float((more[known] / MEAN_S).max(initial=0))

    def beyond_mm(self, corners: np.ndarray) -> float:
        """Returns how far the arm was at most outside of a box (2, 3) of m, along one axis; mm."""
        low, high = corners
        places = self.moves["place"]
        return float(1e3 * np.maximum(places - high, low - places).max(initial=0))

    def rest_s(self, since_s: float) -> float:
        """When it came to rest; infinite if it did not."""
        times = self.moves["time_s"]
        for when_s in times[(times >= since_s) & (times < times[-1] - REST_S)]:
            if self.moved_mm(when_s, when_s + REST_S) < REST_MM:
                return float(when_s)
        return float("inf")

    def first_s(self, what: int, since_s: float) -> float:
        """When something happened next; infinite if it did not."""
        found = self.rows["time_s"][(self.rows["what"] == what) & (self.rows["time_s"] >= since_s)]
        return float(found[0]) if len(found) else float("inf")

    def actions(
        self, begin_s: float = -np.inf, end_s: float = np.inf, moving: bool | None = None
    ) -> np.ndarray:
        """Rows of the actions that began in between: all, those that move the arm, or those that hold it."""
        rows = self.rows[self.rows["what"] == ACTION]
        rows = rows[(rows["time_s"] >= begin_s) & (rows["time_s"] < end_s)]
        moves = np.abs(rows["action"][:, :3]).max(1, initial=0) > 0
        return rows if moving is None else rows[moves == moving]

    def sends(self, begin_s: float = -np.inf, end_s: float = np.inf) -> np.ndarray:
        """Rows of the calls of the driver's `send()` that began in between."""
        rows = self.rows[self.rows["what"] == SENT]
        return rows[(rows["time_s"] >= begin_s) & (rows["time_s"] < end_s)]

    def episodes(self) -> list[np.ndarray]:
        """Rows of the actions of each episode; between two the arm goes home."""
        home = np.cumsum(np.diff(self.rows["what"] == HOMING, prepend=False) & (self.rows["what"] == HOMING))
        acts = self.rows["what"] == ACTION
        return [self.rows[acts & (home == number)] for number in np.unique(home[acts])]


def at(when_s, times_s: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the values (n, 3) at other times, between two on the straight line."""
    return np.stack([np.interp(when_s, times_s, values[:, axis]) for axis in range(3)], 1)
