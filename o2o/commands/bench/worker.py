"""Processes of `o2o bench`: each contender has one of its own, and is asleep until it is asked.

Plain must run under torch's own settings, while o2o tunes its process: so they cannot share one.
"""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable

from o2o.core.errors import O2OError


class Worker:
    """The parent's end of one contender. The job `repeat` does another one until the next message.

    Attributes:
        name: for messages.
    """

    def __init__(self, name: str, kind: type, *args):
        """
        Args:
            kind: the class whose methods can be asked for; made in the process from `args`.
        """
        self.name, context = name, multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, kind, *args), name=name)
        self._process.start()
        theirs.close()

    def ask(self, job: str, *args):
        """What the contender's method `job` returns."""
        self.tell(job, *args)
        return self.hear()

    def tell(self, job: str, *args) -> None:
        self._pipe.send((job, args))

    def hear(self):
        """The next answer; the first one says that the contender is ready.

        Raises:
            O2OError: what the contender raised, or that its process is gone.
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


def serve(pipe, kind: type, *args) -> None:
    """Answers until the other end is closed."""
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


def _repeat(job: Callable[[], object], asked: Callable[[], bool]) -> int:
    """Does a job until there is another message; how often."""
    num_calls = 0
    while not num_calls or not asked():
        job()
        num_calls += 1
    return num_calls
