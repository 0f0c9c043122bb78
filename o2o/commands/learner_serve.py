"""Runs `o2o learner serve`: a gateway that takes the episodes of robots, and the learner that they go to."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import fields
from pathlib import Path

from o2o.commands.learner_serve_config import LearnerServeConfig
from o2o.core import checkpoint, child_process, trust
from o2o.core.checkpoint import META
from o2o.core.config import to_dict
from o2o.core.errors import O2OError, UsageError
from o2o.core.files import read_bytes
from o2o.core.output_lock import LOCK, lock_folder
from o2o.core.run_checkpoint import RUN_INFO
from o2o.core.run_folder import (
    check_resumable,
    checkpoint_folder,
    read_run_info,
    stop_requested,
    write_run_info,
)
from o2o.fleet.gateway import Gateway
from o2o.fleet.http_server import GatewayServer
from o2o.fleet.state_files import LearnerState, read_state
from o2o.hardware.remote import protocol
from o2o.hardware.remote.tls import server_context
from o2o.training.learner_config import RESUMABLE_FIELDS as LEARNING_FIELDS
from o2o.training.learner_config import LearningConfig

COMMAND, START = "learner serve", "start"
RESUMABLE_FIELDS = {  # fields that may change when a fleet is continued
    *("host", "port", "token_file", "cert", "key", "checkpoint", "out", "max_pending_updates", "max_backlog"),
    *LEARNING_FIELDS,
}
POLL_S = 0.2
CLOSE_S = 180.0  # for the last checkpoint, also of a learner that is compiling
MAX_RESTARTS = 5  # of a learner that dies again before it has made an update
RESTART_S = 1.0


def serve(config: LearnerServeConfig) -> None:
    """Serves until Ctrl-C or SIGTERM. The learner is restarted when it dies, but not when it fails.

    Raises:
        UsageError: an invalid checkpoint, folder, token, certificate or address.
        RobotError: the port cannot be used.
        O2OError: the learner failed, for example because the recordings are missing.
    """
    token = protocol.read_token(config.token_file)
    tls = server_context(config.cert, config.key) if config.cert and config.key else None
    if not token and config.host not in protocol.LOOPBACK:
        raise UsageError(f"serving at {config.host} lets other machines send episodes: add --token-file FILE")
    protocol.warn_if_unencrypted(config.host, tls, "--cert FILE and --key FILE")
    with stop_requested() as stopped, _fleet_folder(config) as folder:
        gateway = Gateway(folder, token, config.max_backlog)
        with closing(GatewayServer(gateway.handle, config.host, config.port, tls)) as server:
            scheme = "https" if tls else "http"
            print(
                f"serving the learner in {folder} at {scheme}://{config.host}:{server.port}; Ctrl-C ends",
                flush=True,
            )
            with closing(LearnerProcess(learner_job(config, folder))) as process:
                while not stopped():
                    process.restart_if_dead()
                    time.sleep(POLL_S)
    process.check_ended()
    print(f"the learner has ended with a checkpoint in {folder}", flush=True)


def learner_job(config: LearnerServeConfig, folder: Path) -> dict:
    """Returns the job of `o2o.training.fleet_learner.run` as plain data."""
    names = {field.name for field in fields(LearningConfig)} - {"trust"}
    meta = checkpoint.load_meta(folder / START)
    return {
        "config": {name: value for name, value in to_dict(config).items() if name in names},
        "agent": to_dict(config.agent) if config.agent.model else None,
        "folder": str(folder.resolve()), "max_pending_updates": config.max_pending_updates,
        "metadata": _metadata(meta), "trust": trust.given(),
    }  # fmt: skip


def _metadata(meta: dict) -> dict:
    names = {"robot": {}, "preset": "", "plan": True}
    task = {"task": meta["task"]} if meta.get("task") else {}
    return {name: meta.get(name, default) for name, default in names.items()} | task


class LearnerProcess:
    """Runs the learner in a process of its own, and starts it again when it is killed."""

    def __init__(self, job: dict):
        self._job, self._folder = job, Path(job["folder"])
        self._restarts, self._updates = 0, -1
        self._start()

    def restart_if_dead(self) -> None:
        """Starts the learner again if it was killed.

        Raises:
            O2OError: it failed, or is killed again and again.
        """
        code = self._process.poll()
        if code is None:
            return
        state = read_state(self._folder / "learner.json", LearnerState)
        if code > 0 and state and state.failure:
            raise failure(code, state.failure)
        updates = state.num_updates if state else -1
        self._restarts = 1 if updates > self._updates else self._restarts + 1
        self._updates = max(updates, self._updates)
        if self._restarts > MAX_RESTARTS:
            raise O2OError(f"the learner ended {MAX_RESTARTS} times without an update ({_ending(code)})")
        print(
            f"the learner ended unexpectedly ({_ending(code)}); it is restarted from its last checkpoint",
            flush=True,
        )
        time.sleep(RESTART_S)
        self._close_input()
        self._start()

    def close(self) -> None:
        """Lets the learner write a checkpoint and end."""
        self._close_input()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check_ended(self) -> None:
        """Checks that the learner, which is closed, has written its last checkpoint.

        Raises:
            O2OError: it failed or was killed instead.
        """
        code = self._process.returncode
        state = read_state(self._folder / "learner.json", LearnerState)
        if code > 0 and state and state.failure:
            raise failure(code, state.failure)
        if code:
            raise O2OError(
                f"the learner ended without a last checkpoint ({_ending(code)}); the same command continues "
                f"from the one before, and from the episodes in {self._folder}"
            )

    def _start(self) -> None:
        command, environment = child_process.command("o2o.training.fleet_learner")
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C goes to this process, which passes it on
        )  # fmt: skip
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(self._job).encode() + b"\n")
            self._process.stdin.flush()

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def failure(code: int, reason: str) -> O2OError:
    """Returns the error of a learner that ended with an exit code."""
    error = O2OError(reason)
    error.exit_code = code
    return error


@contextmanager
def _fleet_folder(config: LearnerServeConfig) -> Iterator[Path]:
    """Yields the folder of the fleet, locked, with the checkpoint that its robots start from.

    Raises:
        UsageError: it is the folder of something else, or of a fleet with other settings.
    """
    if config.out is None:
        raise UsageError("no folder given: add --out FLEET, which is continued if it exists")
    source = checkpoint_folder(config.checkpoint)
    folder = config.out
    with lock_folder(folder):
        if (folder / RUN_INFO).exists():
            info = read_run_info(folder)
            if info["command"] != COMMAND:
                raise UsageError(f"{folder} is a run of `o2o {info['command']}`; give another --out")
            check_resumable(info["config"], config, RESUMABLE_FIELDS)
        elif {path.name for path in folder.iterdir()} - {LOCK, START, f".{START}.partial"}:
            raise UsageError(f"{folder} is not empty, and no folder of `o2o {COMMAND}`; give another --out")
        if not checkpoint.exists(folder / START):
            checkpoint.link(source, folder / START)
        if read_bytes(folder / START / META) != read_bytes(source / META):
            raise UsageError(f"{folder} began with another checkpoint than {source}; give another --out")
        meta = checkpoint.load_meta(folder / START)
        write_run_info(folder, COMMAND, config, _metadata(meta) | {"dataset": meta["dataset"]})
        yield folder
