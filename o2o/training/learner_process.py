"""Controls the async learner from the robot's process, which never waits for it.

Numbers and short texts go through pipes as lines of JSON. Episodes go through the disk, where they are
complete before the learner hears of them. Weights go through shared memory (`o2o.training.shared_weights`).
Only the learner writes checkpoints. The robot's process takes new weights between two episodes only: a belief
or a warm start that old weights made within an episode would be meaningless to new ones.
"""

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from o2o.agent.agent import Agent
from o2o.agent.agent_config import AgentConfig
from o2o.core import child_process, errors, trust
from o2o.core.config import from_dict, to_dict
from o2o.core.episode import Episode
from o2o.core.errors import O2OError
from o2o.core.operating_system import require_unix
from o2o.core.run_log import RunLog
from o2o.core.text import count
from o2o.data.online_dataset import OnlineDataset
from o2o.training.learner import acting_weights, load_acting_weights
from o2o.training.learner_config import LearnerConfig
from o2o.training.safe_start import ActionRange
from o2o.training.shared_weights import SharedWeights, all_finite
from o2o.training.uncertainty_guard import OodThreshold

MAX_RESTARTS = 3
POLL_S = 0.2
CLOSE_S = 20.0  # for the last checkpoint of a learner whose robot failed

logger = logging.getLogger("o2o")


class AsyncLearner:
    """Starts the learner's process, reports episodes to it, takes its weights, and restarts it if it dies.

    It is an `OnlineLearner`.
    """

    up_to_date = False

    def __init__(
        self, config: LearnerConfig, folder: Path, agent: Agent, agent_config: AgentConfig,
        source: Path | None, compile: bool,
    ):  # fmt: skip
        """Starts the process and returns when it has read the recordings.

        Args:
            folder: run folder.
            agent: agent that acts; its weights are replaced.
            agent_config: the agent's config, or `FROM_CHECKPOINT`.
            source: checkpoint to start from, or the folder of its run, unless `folder` has a later one.
            compile: compile the learner's updates with torch.
        Raises:
            UsageError: this is Windows.
            O2OError: the learner failed, for example because the recordings are missing.
        """
        require_unix("--learner async", "--learner sync")
        self.config, self.agent, self.failure = config, agent, None
        self.action_range: ActionRange | None = None
        self.ood_threshold: OodThreshold | None = None
        names = LearnerConfig.__dataclass_fields__.keys() - {"trust"}
        self._job = {
            "config": {name: value for name, value in to_dict(config).items() if name in names},
            "folder": str(folder), "source": str(source), "compile": compile,
            "agent": to_dict(agent_config) if agent_config.model else None, "trust": trust.given(),
        }  # fmt: skip
        self.weights = SharedWeights(acting_weights(agent))
        self._metadata: dict | None = None
        self._num_episodes = self._num_restarts = self._rejected = 0
        self._lines: list[str] = []
        self._metrics: list[tuple[int, dict[str, float]]] = []
        self._start()
        try:
            while not self._ready:
                self._receive(POLL_S)
                if self._is_dead():
                    raise self._death_error()
        except BaseException:
            self.process.kill()  # it has nothing to save yet
            self.close()
            raise

    @property
    def stops_run(self) -> bool:
        """Whether the robot is to stop after the episode."""
        return self.failure is not None and self.config.on_learner_failure == "stop"

    def begin(self, metadata: dict, online_dataset: OnlineDataset, log: RunLog) -> int:
        """Starts or continues the run; returns the number of episodes that the robot has done."""
        self._metadata, self._num_episodes = metadata, len(online_dataset)
        self._send({"metadata": metadata, "num_episodes": len(online_dataset)})
        self._write_log(log)
        return len(online_dataset)

    def episode_done(self, number: int, episode: Episode) -> tuple[dict[str, float], str]:
        """Reports an episode that is on disk.

        Returns:
            (no metrics, a note for the progress line).
        """
        self._num_episodes = number
        self._send({"num_episodes": number})
        version = self.weights.peek()
        if version is None:
            return {}, ""
        return {}, f"learner at {count(version.num_updates, 'update')}, {version.pending_updates} pending"

    def between_episodes(self, log: RunLog) -> None:
        """Restarts the learner if it died, and takes its latest weights; never waits."""
        self._receive(0)
        self._write_log(log)
        if not self.failure and self._is_dead():
            self._restart(log)
        self._take_latest(log)

    def finish(self, log: RunLog, stopped: Callable[[], bool], show: Callable[[str], object]) -> None:
        """Waits for the pending updates, unless `stopped`, and takes the last weights."""
        order = ""
        while not self.failure:
            wanted = "stop" if stopped() else "finish"
            if wanted != order:
                order = wanted
                self._send({"order": order})
            self._receive(POLL_S)
            self._write_log(log)
            dead, version = self._is_dead(), self.weights.peek()
            pending = version.pending_updates if version else 0
            if dead and self._ended and (order == "stop" or not pending):
                break
            if dead:
                self._restart(log)
                order = ""
            elif version and pending:
                show(f"waiting for the learner: {count(version.num_updates, 'update')}, {pending} pending")
        self._write_log(log)
        self._take_latest(log)

    def close(self) -> None:
        """Lets the learner write a checkpoint and end, without waiting long; may be called twice."""
        self._stop_process()
        if self.weights.handle >= 0:
            os.close(self.weights.handle)
            self.weights.handle = -1

    # ---- the process

    def _start(self) -> None:
        self._reader, writer = os.pipe()
        handle = self.weights.handle
        command, environment = child_process.command("o2o.training.learner_main", str(writer), str(handle))
        self.process = subprocess.Popen(
            command, env=environment,
            stdin=subprocess.PIPE, stdout=2, bufsize=0, pass_fds=(writer, handle),
            start_new_session=True,  # a terminal's Ctrl-C goes to the robot's process, which passes it on
        )  # fmt: skip
        os.close(writer)
        self._buffer, self._closed = b"", False
        self._ready = self._ended = False
        self._error: O2OError | None = None
        self._send(self._job | {"acting": self._metadata is not None})
        if self._metadata is not None:
            self._send({"metadata": self._metadata, "num_episodes": self._num_episodes})
        assert self.process.stdin is not None
        os.set_blocking(
            self.process.stdin.fileno(), False
        )  # later lines are short: written whole or not at all

    def _stop_process(self) -> None:
        """Orders the process to stop and closes its pipes."""
        stdin = self.process.stdin
        if stdin is None or stdin.closed:
            return
        self._send({"order": "stop"})
        stdin.close()
        try:
            self.process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            logger.warning(
                "the learner (process %d) is still running and will end by itself", self.process.pid
            )
        os.close(self._reader)
        self._closed = True

    def _is_dead(self) -> bool:
        """Whether the process has ended; if so, all its reports have been received."""
        if self.process.poll() is None:
            return False
        while not self._closed:
            self._receive(POLL_S)
        return True

    def _death_error(self) -> O2OError:
        """Returns the error that ended the process."""
        code = self.process.returncode or 0
        name = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return self._error or O2OError(f"the learner ended unexpectedly ({name})")

    def _restart(self, log: RunLog) -> None:
        """Restarts a dead learner from the last checkpoint, or records that learning has stopped."""
        error = self._death_error()
        self._write_log(log)
        self._stop_process()
        continues = self.config.on_learner_failure == "continue"
        if continues and self._num_restarts < MAX_RESTARTS:
            self._num_restarts += 1
            restart = f"restarted from the last checkpoint (restart {self._num_restarts} of {MAX_RESTARTS})"
            log.line(f"{error}; the learner is {restart}; {self._acting_with()}")
            self._start()
            return
        self.failure = error
        if continues:
            log.line(
                f"{error}; the learner is not restarted again; {self._acting_with()}, episodes are stored"
            )

    # ---- commands and reports

    def _send(self, command: dict) -> None:
        """Sends a command; one that a full pipe drops is made up for by the totals in a later one."""
        if self.process.stdin and not self.process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(json.dumps(command).encode() + b"\n")

    def _receive(self, wait_s: float) -> None:
        """Receives the learner's reports; waits up to `wait_s` for the first of them."""
        if self._closed or not select.select([self._reader], [], [], wait_s)[0]:
            return
        data = os.read(self._reader, 2**16)
        self._closed = not data
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            report = json.loads(line)
            if "action_range" in report:
                self.action_range = from_dict(ActionRange, report["action_range"])
            if "ood_threshold" in report:
                self.ood_threshold = from_dict(OodThreshold, report["ood_threshold"])
            if "penalty_weight" in report and not self.agent.penalty_weight_known:
                self.agent.set_penalty_weight(report["penalty_weight"])
            self._ready = self._ready or "penalty_weight" in report
            if "line" in report:
                self._lines.append(report["line"])
            if "metrics" in report:
                self._metrics.append((report["num_episodes"], report["metrics"]))
            if "error" in report:
                self._error = getattr(errors, report["kind"], O2OError)(report["error"])
            self._ended = self._ended or "ended" in report

    def _write_log(self, log: RunLog) -> None:
        """Writes the learner's lines and metrics to the log."""
        for text in self._lines:
            log.line(text)
        for number, metrics in self._metrics:
            log.write(number, "learner", metrics)
        self._lines.clear()
        self._metrics.clear()

    def _take_latest(self, log: RunLog) -> None:
        """Takes the latest weights over, unless they are older than the acting ones, or not finite."""
        version = self.weights.peek()
        if (
            version is None
            or version.num_updates <= self.agent.num_updates
            or version.number == self._rejected
        ):
            return  # a restarted learner has to catch up first
        latest = self.weights.read()
        if latest is None:
            return
        version, tensors = latest
        if not all_finite(tensors):
            self._rejected = version.number
            log.line(f"weights {version} are not finite; {self._acting_with()}")
            return
        load_acting_weights(self.agent, tensors, version.num_updates)
        log.line(f"now acting with weights {version}, trained on {count(version.num_episodes, 'episode')}")

    def _acting_with(self) -> str:
        return f"the robot continues with the weights of {self.agent.num_updates} updates"
