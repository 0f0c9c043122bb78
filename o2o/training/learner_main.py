"""Runs the async learner in a process of its own, which `learner_process` starts and controls.

    python -m o2o.training.learner_main REPORTS WEIGHTS

Commands come on standard input, and reports go to file descriptor REPORTS, one line of JSON each. Weights go
through the shared memory of file descriptor WEIGHTS (see `o2o.training.shared_weights`), episodes through the
disk. When standard input ends, the robot's process is gone: the learner then makes its pending updates,
writes a checkpoint and ends.
"""

import contextlib
import json
import logging
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from torch import Tensor

from o2o.agent.agent import Agent
from o2o.agent.agent_config import FROM_CHECKPOINT, read_config
from o2o.core import trust
from o2o.core.compute import tune
from o2o.core.config import from_dict, to_dict
from o2o.core.episode import Episode
from o2o.core.errors import O2OError
from o2o.data.finished_episodes import FinishedEpisodes
from o2o.training.learner import Learner, acting_weights, learner_lock, load_latest
from o2o.training.learner_config import LearnerConfig
from o2o.training.shared_weights import SharedWeights

NICE = 10  # of 19: the robot's process has priority
PUBLISH_EVERY_S = 1.0  # between two versions of the weights while updates are pending
POLL_S = 1.0  # wait for the next command, at a time
MAX_AT_ONCE = 100  # episodes that are added before a checkpoint that is due is written


class Inbox:
    """Reads commands from standard input."""

    def __init__(self) -> None:
        self.num_episodes = 0  # finished episodes on disk
        self.order = ""  # `finish`: make the pending updates, then end; `stop`: end now
        self.metadata: dict | None = None
        self._buffer, self._ended = b"", False
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "order", "stop"))

    def read_job(self) -> dict:
        """Returns the first line, which holds the config; empty if the input ends before it."""
        while b"\n" not in self._buffer and not self._ended:
            self._read()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line or b"{}")

    def poll(self, wait_s: float = 0.0) -> None:
        """Reads the commands that have come; waits up to `wait_s` for the first of them."""
        if not self._ended and select.select([0], [], [], wait_s)[0]:
            self._read()
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            command = json.loads(line)
            self.num_episodes = max(self.num_episodes, command.get("num_episodes", 0))
            self.metadata = command.get("metadata", self.metadata)
            self.order = command.get("order", self.order)
        if self._ended:
            self.order = self.order or "finish"

    def _read(self) -> None:
        data = os.read(0, 2**16)
        self._buffer, self._ended = self._buffer + data, not data


class Outbox:
    """Sends reports to the robot's process; drops them once that process is gone."""

    def __init__(self, handle: int):
        self.handle = handle

    def send(self, **report) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self.handle, json.dumps(report).encode() + b"\n")


class Commands(Protocol):
    """Says what the loop is to do; see `Inbox`."""

    num_episodes: int
    order: str

    def poll(self, wait_s: float = 0.0) -> None: ...


class Reports(Protocol):
    """Takes lines for the log, and metrics; see `Outbox`."""

    def send(self, **report) -> None: ...


class WeightWriter(Protocol):
    """Takes each version of the weights; see `SharedWeights`."""

    def write(
        self, tensors: dict[str, Tensor], num_updates: int, num_episodes: int, pending_updates: int
    ) -> object: ...


class LearnerLoop:
    """Adds episodes as they come, learns, and publishes weights, metrics and checkpoints."""

    def __init__(
        self,
        learner: Learner,
        read: Callable[[int], Episode],
        weights: WeightWriter,
        inbox: Commands,
        outbox: Reports,
        publish_every_s: float = PUBLISH_EVERY_S,
        throttled: bool = False,
    ):
        """
        Args:
            learner: learner that has begun.
            read: reads an online episode by its number.
            weights: takes each version of the weights.
            inbox: says how many episodes are finished, and when to end.
            outbox: takes lines for the log, and metrics.
            publish_every_s: time between two versions of the weights while updates are pending, s.
            throttled: whether that is the least time between any two; else there is also a version whenever
                episodes come and whenever no update is pending.
        """
        self.learner, self.read, self.weights = learner, read, weights
        self.inbox, self.outbox, self._publish_every_s = inbox, outbox, publish_every_s
        self._throttled, self._published = throttled, (-1, -1)  # updates and episodes of the last version
        self._metrics: Mapping[str, Tensor] = {}
        self._published_s = time.monotonic()
        self._started: tuple[int, float] | None = None  # updates and time when episodes were last added

    def run(self) -> None:
        """Learns until ordered to end."""
        learner, inbox = self.learner, self.inbox
        self._publish_weights()
        while inbox.order != "stop":
            inbox.poll()
            if learner.num_episodes < inbox.num_episodes:
                self._report()
                self._add_episodes(MAX_AT_ONCE)
            elif learner.pending_updates >= 1:
                self._metrics = learner.learn()
                if self._publish_due:
                    self._publish_weights()
            else:
                self._report()
                if self._published != self._state and self._publish_due:
                    self._publish_weights()
                if inbox.order:
                    break
                inbox.poll(POLL_S)
        self._add_episodes()  # those that came together with the order to stop
        self._publish_weights()
        learner.save_checkpoint()

    def _add_episodes(self, most: float = math.inf) -> None:
        learner = self.learner
        end = learner.num_episodes + most
        while learner.num_episodes < min(self.inbox.num_episodes, end):
            rollback = learner.add(self.read(learner.num_episodes))
            if rollback:
                self.outbox.send(line=rollback)
                self._publish_weights()
        self._started = learner.agent.num_updates, time.monotonic()

    def _report(self) -> None:
        """Publishes weights, metrics and a due checkpoint, once for each time that episodes were added."""
        if self._started is None:
            return
        (updates, since_s), self._started = self._started, None
        learner = self.learner
        rate = (learner.agent.num_updates - updates) / max(time.monotonic() - since_s, 1e-9)
        if not self._throttled or learner.checkpoint_due or self._publish_due:
            metrics = self._publish_weights()
        else:
            metrics = learner.finite(self._metrics)
        progress = {"updates": learner.agent.num_updates, "pending_updates": learner.pending_updates}
        progress["weight_rejections"] = learner.num_rejections
        if learner.checkpoint_due:
            learner.save_checkpoint()
            self.outbox.send(**threshold_report(learner))
        metrics = metrics | progress | {"updates_per_s": rate}
        self.outbox.send(metrics=metrics, num_episodes=learner.num_episodes)

    @property
    def _state(self) -> tuple[int, int]:
        return self.learner.agent.num_updates, self.learner.num_episodes

    @property
    def _publish_due(self) -> bool:
        return time.monotonic() - self._published_s > self._publish_every_s

    def _publish_weights(self) -> dict[str, float]:
        """Publishes the weights, or those of the last checkpoint if these are unfit to act.

        The robot's process ignores weights older than the ones it acts with.

        Returns:
            The metrics of the last update.
        Raises:
            DivergedError: a metric is not finite, or the weights were unfit too often.
        """
        learner = self.learner
        metrics = learner.finite(self._metrics)
        rejection = learner.reject_unfit_weights()
        if rejection:
            self.outbox.send(line=rejection)
        weights, pending = acting_weights(learner.agent), int(learner.pending_updates)
        self.weights.write(weights, learner.agent.num_updates, learner.num_episodes, pending)
        self._published, self._published_s = self._state, time.monotonic()
        return metrics


def threshold_report(learner: Learner) -> dict:
    """Returns the current OOD threshold for a report; empty where it is not used."""
    return {"ood_threshold": to_dict(learner.ood_threshold)} if learner.ood_threshold else {}


def serve(inbox: Inbox, outbox: Outbox, handle: int) -> None:
    """Runs the job that the first line describes, from reading the recordings to the last checkpoint."""
    job = inbox.read_job()
    if not job:
        return
    trust.give(*job["trust"])  # what the robot's process was permitted to run
    config, folder = from_dict(LearnerConfig, job["config"]), Path(job["folder"])
    if job["acting"]:
        os.nice(NICE)
    tune(replace(config, threads=config.learner_threads))
    agent_config = read_config(job["agent"]) if job["agent"] else FROM_CHECKPOINT

    def log_line(text: str) -> None:
        outbox.send(line=text)

    def read(number: int) -> Episode:
        return FinishedEpisodes(folder / "online").read_without_infos(number)

    with learner_lock(folder, log_line):
        tensors, meta, resumed = load_latest(folder, Path(job["source"]))
        agent = Agent.from_state(tensors, meta, config.device, agent_config, job["compile"])
        learner = Learner(config, folder, agent, tensors, meta)
        weights = SharedWeights(acting_weights(agent), handle)
        learner.calibrate(log_line)
        outbox.send(
            penalty_weight=agent.penalty_weight,
            action_range=to_dict(learner.action_range),
            **threshold_report(learner),
        )
        if not job["acting"]:
            os.nice(NICE)
        while inbox.metadata is None and not inbox.order:
            inbox.poll(POLL_S)
        if inbox.metadata is None:  # the robot's process ended before the robot was ready
            return
        learner.begin(tensors, meta, resumed, inbox.metadata, read)
        LearnerLoop(learner, read, weights, inbox, outbox).run()


def log_to_stderr() -> None:
    """Writes the log of a learner's process to standard error, where the robot's process writes its own."""
    logger, handler = logging.getLogger("o2o"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("o2o: learner: %(message)s"))
    logger.addHandler(handler)


def main() -> int:
    log_to_stderr()
    inbox, outbox = Inbox(), Outbox(int(sys.argv[1]))
    try:
        serve(inbox, outbox, int(sys.argv[2]))
        outbox.send(ended=True)
        return 0
    except O2OError as error:
        outbox.send(error=str(error), kind=type(error).__name__)
        return error.exit_code
    except Exception as error:
        outbox.send(error=f"{type(error).__name__}: {error}", kind="O2OError")
        raise


if __name__ == "__main__":
    sys.exit(main())
