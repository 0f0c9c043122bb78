"""Reads the true motion of the arm, as recorded beside it."""

from pathlib import Path

import numpy as np

TICK, ACTION, HOLD, HOMING = range(4)  # time went on; an action began; it was stopped; on the way home
ROW = np.dtype([("time_s", "f8"), ("what", "i8"), ("place", "f8", 3), ("action", "f8", 4)])
TICK_S = 0.02  # of the arm
REST_MM, REST_S = 0.1, 0.1  # that it may still move in so long a time to count as at rest


class ArmTrace:
    """Rows of `ROW`: `time_s` by `time.monotonic`, one clock for all processes of a machine; `place` in m."""

    def __init__(self, rows: np.ndarray):
        self.rows = rows
        self.moves = rows[(rows["what"] == TICK) | (rows["what"] == HOMING)]

    @classmethod
    def read(cls, path: Path, last: int = 0) -> "ArmTrace":
        """All that a witness has written so far, or the last rows of it."""
        with path.open("rb") as file:
            size = path.stat().st_size // ROW.itemsize
            file.seek(max(0, size - last) * ROW.itemsize if last else 0)
            data = file.read()
        return cls(np.frombuffer(data[: len(data) // ROW.itemsize * ROW.itemsize], ROW))

    def place(self, when_s: float) -> np.ndarray:
        """(3,) m, where the arm was, between two ticks on the straight line."""
        moves = self.moves
        return np.array([np.interp(when_s, moves["time_s"], moves["place"][:, i]) for i in range(3)])

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

    def episodes(self) -> list[np.ndarray]:
        """Rows of the actions of each episode; between two the arm goes home."""
        home = np.cumsum(np.diff(self.rows["what"] == HOMING, prepend=False) & (self.rows["what"] == HOMING))
        acts = self.rows["what"] == ACTION
        return [self.rows[acts & (home == number)] for number in np.unique(home[acts])]
