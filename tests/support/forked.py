"""Starts Python commands as processes that are forked from one interpreter, which has imported torch already.

Such a process is a real one, with a pid, signals, a terminal and an exit code, but it starts in 0.1 s and not
in 3 s. Its modules are those of a fresh interpreter that has imported them. It is not for tests of the start
itself: of what is imported, how long that takes, and of settings that torch reads when it is imported.
"""

import atexit
import contextlib
import fcntl
import os
import runpy
import subprocess
import sys
import termios
import threading
import traceback
from multiprocessing import get_context, reduction
from typing import Any

_server = get_context("forkserver")
_server.set_forkserver_preload(
    ["gymnasium", "matplotlib.pyplot", "minari", "mujoco", "torch._dynamo", "torch.utils.tensorboard", "tyro"]
    + [f"o2o.training.{name}" for name in ("evaluate", "finetune", "learner_main", "pretrain")]
)
PIPE, STDOUT, TimeoutExpired = subprocess.PIPE, subprocess.STDOUT, subprocess.TimeoutExpired
STANDARD = {"stdin": "r", "stdout": "w", "stderr": "w"}


class Popen(subprocess.Popen):
    """A `subprocess.Popen` of `[sys.executable, "-m", MODULE, ...]` or `[sys.executable, "-c", CODE, ...]`.

    With `start_new_session`, a terminal at standard input becomes that of the process.
    """

    def _execute_child(
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, gid, gids, uid, umask,
        start_new_session, *rest,
    ):  # fmt: skip
        words = [str(word) for word in args]
        assert words[0] == sys.executable and not shell, words
        given = {0: p2cread, 1: c2pwrite, 2: errwrite}
        files = {number: number if own == -1 else own for number, own in given.items()}
        files |= {number: number for number in pass_fds}
        job: dict[str, Any] = {
            "words": words[1:], "cwd": str(cwd or os.getcwd()), "env": dict(env or os.environ),
            "files": {number: _File(own) for number, own in files.items()}, "session": start_new_session,
        }  # fmt: skip
        self._process = _server.Process(target=_become, args=(job,), daemon=True)
        self._process.start()
        self.pid, self._child_created = self._process.pid, True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def _internal_poll(self, *_, **__):
        if self.returncode is None:
            self.returncode = self._process.exitcode
        return self.returncode

    def _wait(self, timeout):
        self._process.join(timeout)
        if self._internal_poll() is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode


def run(words: list, **options) -> subprocess.CompletedProcess:
    """`subprocess.run(words, capture_output=True)`, in a forked process."""
    with Popen(words, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(words, process.returncode, out, err)


class _File:
    """Passes an open file on to the forked process, where it unpickles as its number there."""

    def __init__(self, number: int):
        self.number = number

    def __reduce__(self):
        return _detach, (reduction.DupFd(self.number),)


def _detach(file) -> int:
    return file.detach()


def _become(job: dict[str, Any]) -> None:
    """Turns the forked process into the command, and ends it as an interpreter ends."""
    if job["session"]:
        os.setsid()
    _take_files(job["files"], unbuffered="-u" in job["words"])
    if job["session"] and os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    code = _run(job["words"])
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _take_files(files: dict[int, int], unbuffered: bool) -> None:
    """Gives the received files the numbers that the command knows them by."""
    high = {number: fcntl.fcntl(own, fcntl.F_DUPFD, 1000) for number, own in files.items()}
    for own in files.values():
        os.close(own)
    for number, own in high.items():
        os.dup2(own, number)
        os.close(own)
    for number, (name, mode) in enumerate(STANDARD.items()):
        buffering = 1 if os.isatty(number) or name == "stderr" else -1
        stream = open(number, mode, buffering, encoding="utf-8", closefd=False)  # noqa: SIM115
        if mode == "w":
            stream.reconfigure(write_through=unbuffered, errors="backslashreplace" if number == 2 else None)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _run(words: list[str]) -> int:
    """Runs `-m MODULE WORDS` or `-c CODE WORDS` as the main program; returns its exit code."""
    kind, what, *rest = words[next(i for i, word in enumerate(words) if word in ("-m", "-c")) :]
    sys.argv = [kind, *rest]
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            main = type(sys)("__main__")
            sys.modules["__main__"] = main
            exec(compile(what, "<string>", "exec"), main.__dict__)
        return 0
    except SystemExit as end:
        if isinstance(end.code, int) or end.code is None:
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
