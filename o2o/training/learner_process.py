"""A learner in a process of its own, as seen by the process that moves the robot and never waits for it.

Only numbers and short texts go through the pipes, as lines of JSON; episodes go through the disk, where they
are before the learner hears of them; weights go through shared memory (`o2o.training.shared_weights`). The
learner alone writes checkpoints. The robot takes new weights between two episodes only: a belief or a warm
start that old weights made within an episode would mean nothing to new ones.
"""

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from o2o.agent.agent import Agent, AgentConfig
from o2o.core import errors
from o2o.core.config import from_dict, to_dict
from o2o.core.episode import Episode
from o2o.core.errors import O2OError
from o2o.core.run_log import RunLog
from o2o.data.online_dataset import OnlineDataset
from o2o.training.learner import ACTING, LearnerConfig, acting
from o2o.training.safe_start import ActionRange
from o2o.training.shared_weights import Weights, all_finite
from o2o.training.uncertainty_guard import Limit

RESTARTS = 3
POLL_S = 0.2
LEAVE_S = 20.0  # for the last checkpoint of a learner whose robot failed

logger = logging.getLogger("o2o")


class AsyncLearner:
    """Starts the learner, tells it of episodes, takes its weights, and outlives it.

    Attributes:
        current: what acts has learned from every episode.
        lost: why nothing is learned any more; None as long as something is.
        action_range: where recorded actions lie.
        limit: from where on a decision is unsure; None where nobody asks.
    """

    current = False

    def __init__(
        self, config: LearnerConfig, folder: Path, agent: Agent, chosen: AgentConfig,
        source: Path | None, compile: bool,
    ):  # fmt: skip
        """Starts it and returns when it has read the recordings.

        Args:
            folder: of the run.
            agent: what acts; it takes the weights over.
            chosen: the agent's config, or `FROM_CHECKPOINT`.
            source: the checkpoint to begin with, or the folder of its run, unless `folder` has a later one.
            compile: let torch's compiler make its updates faster.
        Raises:
            O2OError: what the learner says, the recordings are gone for example.
        """
        self.config, self.agent, self.lost = config, agent, None
        self.action_range: ActionRange | None = None
        self.limit: Limit | None = None
        fields = LearnerConfig.__dataclass_fields__
        self._job = {
            "config": {name: value for name, value in to_dict(config).items() if name in fields},
            "folder": str(folder), "source": str(source), "compile": compile,
            "agent": to_dict(chosen) if chosen.model else None,
        }  # fmt: skip
        self.weights = Weights(acting(agent))
        self._facts: dict | None = None
        self._episodes = self._restarts = self._refused = 0
        self._lines: list[str] = []
        self._reports: list[tuple[int, dict[str, float]]] = []
        self._start()
        try:
            while not self._ready:
                self._listen(POLL_S)
                if self._dead():
                    raise self._why()
        except BaseException:
            self.process.kill()  # there is nothing yet that it could finish
            self.close()
            raise

    def begin(self, facts: dict, own: OnlineDataset, log: RunLog) -> int:
        """Takes up the run; how many episodes the robot has done."""
        self._facts, self._episodes = facts, len(own)
        self._pipe({"facts": facts, "episodes": len(own)})
        self._pass_on(log)
        return len(own)

    def episode_done(self, number: int, episode: Episode) -> tuple[dict[str, float], str]:
        """Tells of the `number`-th episode, which is on the disk; (no metrics, a word for the progress)."""
        self._episodes = number
        self._pipe({"episodes": number})
        version = self.weights.peek()
        return {}, "" if version is None else f"learner at {version.updates} updates, owes {version.owed}"

    def swap(self, log: RunLog) -> None:
        """Sees to the learner and takes its newest weights over. Never waits; only between episodes."""
        self._listen(0)
        self._pass_on(log)
        if not self.lost and self._dead():
            self._revive(log)
        self._take_newest(log)

    def finish(self, log: RunLog, stopped: Callable[[], bool], show: Callable[[str], object]) -> None:
        """Waits until the learner has done what it owes; less, if `stopped`. Then takes its last weights."""
        order = ""
        while not self.lost:
            wanted = "stop" if stopped() else "finish"
            if wanted != order:
                order = wanted
                self._pipe({"order": order})
            self._listen(POLL_S)
            self._pass_on(log)
            dead, version = self._dead(), self.weights.peek()
            owed = version.owed if version else 0
            if dead and self._ended and (order == "stop" or not owed):
                break
            if dead:
                self._revive(log)
                order = ""
            elif version and owed:
                show(f"the learner finishes: {version.updates} updates, {owed} to go")
        self._pass_on(log)
        self._take_newest(log)

    def close(self) -> None:
        """Lets the learner write a checkpoint and end, or leaves it to do so; twice is harmless."""
        self._leave()
        if self.weights.handle >= 0:
            os.close(self.weights.handle)
            self.weights.handle = -1

    # ---- the process

    def _start(self) -> None:
        self._reader, writer = os.pipe()
        handle = self.weights.handle
        self.process = subprocess.Popen(
            [sys.executable, "-m", "o2o.training.learner_main", str(writer), str(handle)],
            stdin=subprocess.PIPE, stdout=2, bufsize=0, pass_fds=(writer, handle),
            start_new_session=True,  # a terminal's Ctrl-C is for the robot's process, which passes it on
        )  # fmt: skip
        os.close(writer)
        self._rest, self._closed = b"", False
        self._ready = self._ended = False
        self._error: O2OError | None = None
        self._pipe(self._job | {"acting": self._facts is not None})
        if self._facts is not None:
            self._pipe({"facts": self._facts, "episodes": self._episodes})
        assert self.process.stdin is not None
        os.set_blocking(self.process.stdin.fileno(), False)  # later lines are short: all of one or nothing

    def _leave(self) -> None:
        """Parts with the process."""
        stdin = self.process.stdin
        if stdin is None or stdin.closed:
            return
        self._pipe({"order": "stop"})
        stdin.close()
        try:
            self.process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            logger.warning("the learner (process %d) ends by itself later", self.process.pid)
        os.close(self._reader)
        self._closed = True

    def _dead(self) -> bool:
        """Whether it has ended; if so, all that it said is taken in."""
        if self.process.poll() is None:
            return False
        while not self._closed:
            self._listen(POLL_S)
        return True

    def _why(self) -> O2OError:
        """Why the learner is dead."""
        code = self.process.returncode or 0
        name = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return self._error or O2OError(f"the learner ended unexpectedly ({name})")

    def _revive(self, log: RunLog) -> None:
        """Starts a dead learner again from the last checkpoint, or puts up with its loss."""
        error = self._why()
        self._pass_on(log)
        self._leave()
        if self.config.on_learner_failure == "continue" and self._restarts < RESTARTS:
            self._restarts += 1
            again = f"started again from the last checkpoint, {self._restarts} of {RESTARTS} times"
            log.line(f"{error}; the learner is {again}; {self._kept()}")
            self._start()
            return
        self.lost = error
        if self.config.on_learner_failure == "continue":
            log.line(f"{error}; the learner is not started again; {self._kept()}, its episodes are kept")

    # ---- what goes through the pipes

    def _pipe(self, what: dict) -> None:
        """Tells the learner; nobody waits for a full pipe, for a later line says how many in all again."""
        if self.process.stdin and not self.process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(json.dumps(what).encode() + b"\n")

    def _listen(self, wait_s: float) -> None:
        """Takes in what the learner has said; waits so long for the first of it."""
        if self._closed or not select.select([self._reader], [], [], wait_s)[0]:
            return
        data = os.read(self._reader, 2**16)
        self._closed = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "envelope" in said:
                self.action_range = from_dict(ActionRange, said["envelope"])
            if "limit" in said:
                self.limit = from_dict(Limit, said["limit"])
            if "price" in said and not self.agent.penalty_weight_known:
                self.agent.set_penalty_weight(said["price"])
            self._ready = self._ready or "price" in said
            if "line" in said:
                self._lines.append(said["line"])
            if "metrics" in said:
                self._reports.append((said["episodes"], said["metrics"]))
            if "error" in said:
                self._error = getattr(errors, said["kind"], O2OError)(said["error"])
            self._ended = self._ended or "ended" in said

    def _pass_on(self, log: RunLog) -> None:
        """What the learner has said goes into the log."""
        for text in self._lines:
            log.line(text)
        for number, metrics in self._reports:
            log.write(number, "learner", metrics)
        self._lines.clear()
        self._reports.clear()

    def _take_newest(self, log: RunLog) -> None:
        """Acts with the newest weights from now on, unless they are older than those that act, or spoilt."""
        version = self.weights.peek()
        if version is None or version.updates <= self.agent.num_updates or version.number == self._refused:
            return  # a learner that was started again has to catch up first
        got = self.weights.get()
        if got is None:
            return
        version, tensors = got
        if not all_finite(tensors):
            self._refused = version.number
            log.line(f"weights {version} are not finite; {self._kept()}")
            return
        for part in ACTING:
            own = {name: tensors[f"{part}.{name}"] for name in self.agent.parts[part].state_dict()}
            self.agent.parts[part].load_state_dict(own)
        self.agent.num_updates = version.updates
        log.line(f"weights {version} act from now on; learned from {version.episodes} episodes")

    def _kept(self) -> str:
        return f"the robot goes on with the weights of {self.agent.num_updates} updates"
