"""Makes texts that a file may hold safe to print on one line of a terminal."""


def printable(text: str) -> str:
    """Returns a text with escapes in place of line breaks and control characters; it may quote a file."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
