"""Keeps the command line that the user typed, for the metadata of the runs that it starts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

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
