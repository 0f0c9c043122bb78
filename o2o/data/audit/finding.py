"""What is wrong with a recording or worth knowing, how bad it is, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

FEW = 5  # examples that a line lists


@dataclass(frozen=True)
class Finding:
    """
    Attributes:
        severity: `error` where learning would suffer, `warning` where it may, `note` where all can be well.
        about: what was found.
        advice: a flag, a command or a look that helps; empty where nothing need be done.
    """

    severity: Literal["error", "warning", "note"]
    about: str
    advice: str = ""

    @property
    def text(self) -> str:
        return f"{self.about}; {self.advice}" if self.advice else self.about


def error(about: str, advice: str = "") -> Finding:
    return Finding("error", about, advice)


def warning(about: str, advice: str = "") -> Finding:
    return Finding("warning", about, advice)


def note(about: str, advice: str = "") -> Finding:
    return Finding("note", about, advice)


def few(items: Iterable) -> str:
    """The first items, and dots where there are more."""
    texts = [str(item) for item in items]
    return ", ".join([*texts[:FEW], *(["..."] if len(texts) > FEW else [])])
