"""Words texts for a terminal: counts with their nouns, and texts of a file that are safe to print."""

import re

MAX_WORD, MAX_LINE = 400, 3000  # characters of a word, and of a line, that is printed whole


def printable(text: str) -> str:
    """Returns a text with escapes in place of line breaks and control characters; it may quote a file."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def shorten(text: str) -> str:
    """Returns a text without the middle of what is too long to read, such as a value of 5000 letters."""
    text = re.sub(rf"\S{{{MAX_WORD + 1},}}", lambda match: f"{match[0][:150]}...{match[0][-50:]}", text)
    return text if len(text) <= MAX_LINE else f"{text[: MAX_LINE - 500]} ... {text[-500:]}"


def count(number: int, noun: str) -> str:
    """Returns a number with a noun in the singular or the plural, such as `1 episode` and `2 episodes`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
