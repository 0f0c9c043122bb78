"""Keeps the command line that the user typed, and runs modules that are programs of their own."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from o2o.core.errors import O2OError
from o2o.core.text import printable

_typed: ContextVar[tuple[str, ...]] = ContextVar("typed", default=())


@contextmanager
def typed(words: Sequence[str]) -> Iterator[None]:
    """Has `typed_words` return these words in the block."""
    token = _typed.set(tuple(words))
    try:
        yield
    finally:
        _typed.reset(token)


def typed_words() -> tuple[str, ...]:
    """Returns the words after `o2o` that the user typed; empty where Python code runs without a command."""
    return _typed.get()


def run_program(run: Callable[[], None]) -> int:
    """Runs a program beside `o2o`; returns its exit code: 0, that of its error, or 130 after Ctrl-C."""
    try:
        run()
        return 0
    except O2OError as error:
        print(f"o2o: error: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("o2o: interrupted", file=sys.stderr)
        return 130
