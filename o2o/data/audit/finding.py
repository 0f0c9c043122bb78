"""Defines a finding: a property of a recording, its severity and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

MAX_LISTED = 5  # examples that a line lists


@dataclass(frozen=True)
class Finding:
    """A property of a recording that the user should know of.

    Attributes:
        severity: `error` if training would suffer, `warning` if it may, `note` if it may be intended.
        message: what was found.
        advice: a flag or a command that helps, or what to check; empty if there is nothing to do.
    """

    severity: Literal["error", "warning", "note"]
    message: str
    advice: str = ""

    @property
    def text(self) -> str:
        return f"{self.message}; {self.advice}" if self.advice else self.message


def error(message: str, advice: str = "") -> Finding:
    return Finding("error", message, advice)


def warning(message: str, advice: str = "") -> Finding:
    return Finding("warning", message, advice)


def note(message: str, advice: str = "") -> Finding:
    return Finding("note", message, advice)


def list_first(items: Iterable) -> str:
    """Lists the first items, followed by dots if there are more."""
    texts = [str(item) for item in items]
    return ", ".join([*texts[:MAX_LISTED], *(["..."] if len(texts) > MAX_LISTED else [])])
