"""Makes texts that a file may hold safe to print on one line of a terminal."""

import re

MAX_WORD, MAX_LINE = 400, 3000  # characters of a word, and of a line, that is printed whole


def printable(text: str) -> str:
    """Returns a text with escapes in place of line breaks and control characters; it may quote a file."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def shorten(text: str) -> str:
    """Returns a text without the middle of what is too long to read, such as a value of 5000 letters."""
    text = re.sub(rf"\S{{{MAX_WORD + 1},}}", lambda match: f"{match[0][:150]}...{match[0][-50:]}", text)
    return text if len(text) <= MAX_LINE else f"{text[: MAX_LINE - 500]} ... {text[-500:]}"
