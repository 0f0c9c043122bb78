"""Delivers a robot's finished episodes to its learner and fetches weights, in a thread that never delays it.

The robot's own online dataset is the spool: an episode waits there until the gateway has acknowledged it, and
stays there afterwards. Which episode comes next is what the gateway's ledger says when the robot joins.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from o2o.core.errors import O2OError
from o2o.data.finished_episodes import episode_path
from o2o.fleet.client import GatewayClient, UnreachableError
from o2o.fleet.messages import Facts, Refused, Report

POLL_S = 2.0  # between two questions for new weights
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 10.0  # after a failure; it doubles with each
LAST_REPORT_S = 5.0  # for the report of a run that has ended
FINAL = (401, 404, 405, 409, 426)  # statuses that no repetition changes
UNREADABLE = 422


@dataclass(frozen=True)
class Weights:
    """The file of a version of the weights, and its ETag."""

    data: bytes
    etag: str


class Spool:
    """Delivers episodes in their order, each until it is acknowledged.

    Attributes:
        delivered: number of episodes that the gateway has acknowledged or refused, in their order.
        last_number: number in the fleet of the episode that was acknowledged last; -1 before the first.
        failure: why nothing more is delivered; None while it is.
    """

    def __init__(self, client: GatewayClient, folder: Path, delivered: int, facts: Callable[[int], Facts]):
        """
        Args:
            client: connection to the gateway, which the thread alone uses once it is started.
            folder: `RUN/online` of the robot.
            delivered: number of episodes that the gateway has already.
            facts: returns the facts of an episode by its number.
        """
        self._client, self._folder, self._facts = client, folder, facts
        self.delivered, self.last_number = delivered, -1
        self.failure: O2OError | None = None
        self._finished, self._acting = delivered, 0
        self._sizes: list[int] = []  # of the episodes that wait
        self._lines: list[str] = []
        self._latest: Weights | None = None
        self._etag = ""
        self._changed, self._closing = threading.Condition(), False
        self._is_last = self._said_last = False  # whether the next report is the last one, and was sent
        self._due_s = {self._deliver: 0.0, self._fetch: 0.0}
        self._wait_s = dict.fromkeys(self._due_s, 0.0)  # after the last failure of each; 0: it succeeded
        self._thread = threading.Thread(target=self._run, name="o2o spool", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def add(self, num_finished: int) -> None:
        """Sets how many episodes are finished on disk."""
        with self._changed:
            new = range(self._finished, num_finished)
            self._sizes += [episode_path(self._folder, number).stat().st_size for number in new]
            self._finished = max(self._finished, num_finished)
            if not self._wait_s[self._deliver]:  # else the next attempt is not earlier for it
                self._due_s[self._deliver] = 0.0
            self._changed.notify_all()

    def set_acting(self, num_updates: int) -> None:
        """Sets which weights act, for the status page."""
        self._acting = num_updates

    @property
    def waiting(self) -> int:
        """Number of finished episodes that are not delivered."""
        return len(self._sizes)

    @property
    def waiting_bytes(self) -> int:
        """Size of the finished episodes that are not delivered."""
        with self._changed:
            return sum(self._sizes)

    def take_weights(self) -> Weights | None:
        """Returns the latest weights that came since the last call, if any did."""
        with self._changed:
            latest, self._latest = self._latest, None
            return latest

    def take_lines(self) -> list[str]:
        """Returns lines for the log since the last call."""
        with self._changed:
            lines, self._lines = self._lines, []
            return lines

    def wait(self, seconds: float) -> None:
        """Waits until something changed, at most for some time."""
        with self._changed:
            self._changed.wait(seconds)

    def report_end(self) -> None:
        """Tells the gateway that the run has ended, if all is delivered; waits a while for the answer."""
        with self._changed:
            if self._sizes or self.failure:
                return
            self._is_last, self._due_s[self._fetch] = True, 0.0
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._said_last or self.failure, LAST_REPORT_S)

    def close(self) -> None:
        """Ends the thread, without waiting long; what is not delivered stays on disk."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(FIRST_WAIT_S)

    def _run(self) -> None:
        while not (self._closing or self.failure):
            for task in (self._deliver, self._fetch):
                if time.monotonic() >= self._due_s[task]:
                    wait_s = self._attempt(task)
                    with self._changed:
                        self._due_s[task] = time.monotonic() + wait_s
            with self._changed:
                left_s = min(self._due_s.values()) - time.monotonic()
                if left_s > 0 and not self._closing:
                    self._changed.wait(left_s)
        self._client.close()

    def _attempt(self, task: Callable[[], float]) -> float:
        """Returns how long to wait before the next attempt, s."""
        try:
            wait_s = task()
        except Refused as refusal:
            if refusal.status in FINAL:
                self._log(f"{refusal}; nothing more is delivered, episodes are stored")
                self.failure = refusal
                return LONGEST_WAIT_S
            return self._fail(task, str(refusal), refusal.retry_after_s)
        except UnreachableError as error:
            return self._fail(task, str(error))
        except OSError as error:
            return self._fail(task, f"episode {self.delivered} cannot be read: {error.strerror}")
        if self._wait_s[task]:
            self._wait_s[task] = 0.0
            if not any(self._wait_s.values()):
                self._log("the learner takes episodes and gives weights again")
        return wait_s

    def _fail(self, task: Callable[[], float], reason: str, retry_after_s: float = 0.0) -> float:
        if not any(self._wait_s.values()):
            self._log(f"{reason}; the robot continues and stores its episodes, and tries again")
        wait_s = self._wait_s[task]
        self._wait_s[task] = min(max(2 * wait_s, FIRST_WAIT_S), LONGEST_WAIT_S)
        return max(self._wait_s[task], retry_after_s)

    def _deliver(self) -> float:
        if not self._sizes:
            return POLL_S
        number = self.delivered
        try:
            path = episode_path(self._folder, number)
            last_number = self._client.deliver(number, path, self._facts(number))
        except Refused as refusal:
            if refusal.status != UNREADABLE:
                raise
            self._log(f"{refusal}; episode {number + 1} is left out")
            last_number = self.last_number
        with self._changed:
            self.delivered, self.last_number = number + 1, last_number
            del self._sizes[0]
            self._changed.notify_all()
        return 0.0

    def _fetch(self) -> float:
        is_last = self._is_last
        report = Report(self._finished, self.waiting, self.waiting_bytes, self._acting, is_last)
        answer = self._client.weights(self._etag, report)
        with self._changed:
            if answer:
                self._latest, self._etag = Weights(*answer), answer[1]
            self._said_last = is_last
            self._changed.notify_all()
        return POLL_S

    def _log(self, text: str) -> None:
        with self._changed:
            self._lines.append(text)
            self._changed.notify_all()
