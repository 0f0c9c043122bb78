"""Runs the learner of a fleet in a process of its own, which `o2o learner serve` starts and restarts.

    python -m o2o.training.fleet_learner

The first line of standard input is the job, as JSON; when standard input ends, the gateway's process is gone
and the learner ends with a checkpoint. Everything else goes through the fleet's folder: episodes come from
its ledger, in the order of their arrival, and weights and state are files (`o2o.fleet.state_files`).
"""

import hashlib
import sys
import time
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from o2o.agent.agent import Agent
from o2o.agent.agent_config import FROM_CHECKPOINT, read_config
from o2o.core import checkpoint, trust
from o2o.core.checkpoint import load_meta
from o2o.core.compute import WORTH_COMPILING, should_compile, tune
from o2o.core.config import from_dict, to_dict
from o2o.core.episode import Episode
from o2o.core.errors import DivergedError, O2OError
from o2o.core.run_log import RunLog
from o2o.core.text import count
from o2o.data import moved_recording, training_data
from o2o.data.finished_episodes import FinishedEpisodes
from o2o.fleet.ledger import Ledger
from o2o.fleet.state_files import (
    LearnerState,
    WeightsInfo,
    latest_weights,
    read_state,
    write_state,
    write_weights,
)
from o2o.training.learner import Learner, learner_lock, load_latest
from o2o.training.learner_config import LearningConfig
from o2o.training.learner_main import Inbox, LearnerLoop, log_to_stderr
from o2o.training.shared_weights import all_finite
from o2o.training.weight_file import encode

PUBLISH_EVERY_S = 5.0  # between two versions of the weights, which every robot fetches
BEAT_EVERY_S = 2.0  # between two signs of life in the learner's state
REFRESH_S = 0.2  # between two looks at the ledger while updates are pending


class FleetFolder:
    """The files of a fleet as a learner's loop needs them: commands in, weights and reports out.

    Attributes:
        num_episodes: episodes in the ledger.
        order: `stop` once the learner is to end.
    """

    def __init__(self, folder: Path, ledger: Ledger, learner: Learner, inbox: Inbox, log: RunLog, start: int):
        """
        Args:
            start: gradient steps of the weights that the fleet started with.
        """
        self._folder, self._ledger, self._learner = folder, ledger, learner
        self._inbox, self._log, self._start = inbox, log, start
        self.num_episodes, self.order = len(ledger.entries), ""
        self._refreshed_s = self._said_s = 0.0
        self._updates_per_s, self._logged = 0.0, learner.num_episodes
        latest = latest_weights(folder)
        self._number = latest.number if latest else 0

    def poll(self, wait_s: float = 0.0) -> None:
        """Looks for new episodes and for the end; waits up to `wait_s` for either."""
        end_s = time.monotonic() + wait_s
        while True:
            self._inbox.poll(min(REFRESH_S, wait_s))
            self.order = "stop" if self._inbox.order else ""
            if time.monotonic() - self._refreshed_s >= REFRESH_S:
                self._ledger.refresh()
                self._refreshed_s = time.monotonic()
            has_new = len(self._ledger.entries) > self.num_episodes
            self.num_episodes = len(self._ledger.entries)
            if time.monotonic() - self._said_s >= BEAT_EVERY_S:
                self.write_state()
            if has_new or self.order or time.monotonic() >= end_s:
                return

    def write(
        self, tensors: dict[str, Tensor], num_updates: int, num_episodes: int, pending_updates: int
    ) -> None:
        """Publishes weights.

        Raises:
            DivergedError: they are not finite, and are not published.
        """
        if not all_finite(tensors):
            updates = count(num_updates, "update")
            raise DivergedError(f"the weights after {updates} are not finite; they are not used")
        threshold = self._learner.ood_threshold
        self._number += 1
        info = WeightsInfo(
            self._number, num_updates, num_episodes, pending_updates, "", "", threshold and to_dict(threshold)
        )
        data, info = encode(tensors, info)
        write_weights(self._folder, replace(info, sha256=hashlib.sha256(data).hexdigest()), data)
        self._log_episodes()  # a checkpoint comes after weights, and what is logged beyond one is removed
        self.write_state()

    def send(self, **report) -> None:
        """Writes a line, or metrics, to the log of the fleet."""
        if "line" in report:
            self._log.line(report["line"])
        if "metrics" in report:
            metrics, number = report["metrics"], report["num_episodes"]
            self._updates_per_s = metrics.get("updates_per_s", 0.0)
            state = self.write_state()
            more = {"updates_per_step": state.updates_per_step, "dropped_updates": state.dropped_updates}
            self._log.write(number, "learner", metrics | more)

    def write_state(self, failure: str = "") -> LearnerState:
        """Writes the learner's state for the gateway, and returns it."""
        learner, monitor = self._learner, self._learner.monitor
        steps = sum(entry.steps for entry in self._ledger.entries[: learner.num_episodes])
        state = LearnerState(
            learner.agent.penalty_weight, to_dict(learner.action_range), learner.num_episodes,
            learner.agent.num_updates, int(learner.pending_updates), int(learner.dropped_updates),
            (learner.agent.num_updates - self._start) / max(steps, 1), self._updates_per_s,
            monitor.num_rollbacks, failure, time.time(),
        )  # fmt: skip
        write_state(self._folder / "learner.json", state)
        self._said_s = time.monotonic()
        return state

    def _log_episodes(self) -> None:
        """Logs the episodes that were taken since the last call."""
        for entry in self._ledger.entries[self._logged : self._learner.num_episodes]:
            outcome = {"length": entry.steps, "return": entry.episode_return, "success": float(entry.success)}
            self._log.write(entry.number + 1, "online", outcome | {"weights": entry.weights})
        self._logged = self._learner.num_episodes


def run(job: dict, inbox: Inbox) -> None:
    """Learns from the episodes of a fleet until ordered to end.

    Args:
        job: `config`, `agent`, `folder`, `max_pending_updates`, `metadata` and `trust`, as plain data.
        inbox: says when to end.
    Raises:
        O2OError: the recordings are missing, the training diverged, or the disk is full.
    """
    trust.give(*job["trust"])
    config, folder = from_dict(LearningConfig, job["config"]), Path(job["folder"])
    tune(config)
    with learner_lock(folder, print), RunLog(folder, resume=True) as log:
        inbox.poll()
        if inbox.order and checkpoint.exists(folder / "checkpoint"):
            return  # the gateway has ended while another learner had the lock
        tensors, meta, resumed = load_latest(folder, folder / "start")
        agent_config = read_config(job["agent"]) if job["agent"] else FROM_CHECKPOINT
        compile_updates = should_compile(config, config.expected_updates(meta["dataset"]))
        # a killed learner learns again at once, and compiles after as many updates as make it worth the time
        compile_after = 0 if config.compile == "yes" else WORTH_COMPILING
        agent = Agent.from_state(tensors, meta, config.device, agent_config, compile_updates, compile_after)
        ledger = Ledger(folder)
        learner = Learner(config, folder, agent, tensors, meta, ledger.entries, job["max_pending_updates"])
        learner.calibrate(log.line)

        def read(number: int) -> Episode:
            return FinishedEpisodes(folder / "online").read_without_infos(number)

        dataset = meta["dataset"]
        if config.dataset and not dataset.get("earlier"):
            dataset = moved_recording.locate(dataset, config.dataset)
        metadata = job["metadata"] | {"dataset": training_data.from_folder(dataset, folder)}
        learner.begin(tensors, meta, resumed, metadata, read)
        log.rewind("online", learner.num_episodes if resumed else -1)
        start = load_meta(folder / "start")["num_updates"]
        fleet = FleetFolder(folder, ledger, learner, inbox, log, start)
        LearnerLoop(learner, read, fleet, fleet, fleet, PUBLISH_EVERY_S, throttled=True).run()


def main() -> int:
    log_to_stderr()
    inbox = Inbox()
    job = inbox.read_job()
    if not job:
        return 0
    try:
        run(job, inbox)
        return 0
    except O2OError as error:
        record_failure(Path(job["folder"]), str(error))
        return error.exit_code


def record_failure(folder: Path, reason: str) -> None:
    """Writes into the learner's state why it has ended."""
    state = read_state(folder / "learner.json", LearnerState) or LearnerState(0.0, {})
    write_state(folder / "learner.json", replace(state, failure=reason))


if __name__ == "__main__":
    sys.exit(main())
