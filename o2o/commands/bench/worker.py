"""Runs each contender of `o2o bench` in its own process, which sleeps until it gets a job.

Plain PyTorch must run under torch's default settings, while o2o changes those of its process, so they cannot
share one.
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator

from o2o.core.errors import O2OError


class Worker:
    """The parent's side of one contender. The job `repeat` repeats another job until the next message.

    Attributes:
        name: name of the contender, for error messages.
    """

    def __init__(self, name: str, kind: type, *args):
        """
        Args:
            kind: class whose methods are the jobs; it is built in the process from `args`.
        """
        self.name, context = name, multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, kind, *args), name=name)
        with _safe_import_path():
            self._process.start()
        theirs.close()

    def ask(self, job: str, *args):
        """Runs the contender's method `job` and returns its result."""
        self.send(job, *args)
        return self.receive()

    def send(self, job: str, *args) -> None:
        self._pipe.send((job, args))

    def receive(self):
        """Returns the next answer; the first one means that the contender is ready.

        Raises:
            O2OError: the contender raised it, or its process ended.
        """
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise O2OError(f"the process {self.name!r} of the benchmark ended before its answer") from None
        if isinstance(answer, O2OError):
            raise answer
        return answer

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error) -> None:
        self._pipe.close()
        self._process.join(10)
        self._process.terminate()
        self._process.join()


@contextlib.contextmanager
def _safe_import_path() -> Iterator[None]:
    """Keeps the current folder off the import path of a process that the block starts.

    Such a process is `python -c`, which would import from the current folder until it has its parent's
    path; the folder can be a run that somebody else made.
    """
    before = os.environ.get("PYTHONSAFEPATH", "")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        os.environ["PYTHONSAFEPATH"] = before


def serve(pipe, kind: type, *args) -> None:
    """Runs jobs until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes the pipe
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            contender = kind(*args)
            pipe.send(None)
            while True:
                job, values = pipe.recv()
                if job == "repeat":
                    pipe.send(_repeat(getattr(contender, *values), pipe.poll))
                else:
                    pipe.send(getattr(contender, job)(*values))
        except O2OError as error:
            pipe.send(error)


def _repeat(job: Callable[[], object], interrupted: Callable[[], bool]) -> int:
    """Repeats a job until there is another message; returns the number of calls."""
    num_calls = 0
    while not num_calls or not interrupted():
        job()
        num_calls += 1
    return num_calls
