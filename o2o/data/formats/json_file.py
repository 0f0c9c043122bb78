"""Reads JSON files of unknown origin within a memory budget."""

import json
from pathlib import Path
from typing import Any

from o2o.core.files import open_regular
from o2o.data.formats.lazy_array import ReadBlock, ReadRequest

OBJECT_BYTES = {b"[": 72, b"{": 232, b",": 40, b'"': 30}  # of memory in Python for each of these characters


def read_json(path: Path, request: ReadRequest) -> Any:
    """Returns the content of a JSON file.

    Raises:
        DataError: it takes more memory than the budget.
        OSError: it is missing or no regular file.
        ValueError: it is not JSON.
    """
    return json.loads(read_text_bytes(path, request))


def read_text_bytes(path: Path, request: ReadRequest) -> bytes:
    """Returns the bytes of a file of JSON or of JSON lines, whose objects fit the budget.

    Raises:
        DataError: they do not.
        OSError: it is missing or no regular file.
    """
    with open_regular(path) as file:
        file.seek(0, 2)
        request.check_budget(0, path, ReadBlock(file.tell(), "its text"))
        file.seek(0)
        data = file.read()
    check_text(data, path, request)
    return data


def check_text(data: bytes, label: Path | str, request: ReadRequest) -> None:
    """Checks that the budget holds the objects of a JSON text.

    Raises:
        DataError: it does not.
    """
    text = len(data) * (2 if data.isascii() else 5)  # a single wide character makes all of them wide
    objects = sum(size * data.count(character) for character, size in OBJECT_BYTES.items())
    request.check_budget(0, label, ReadBlock(text + objects, "the objects of its JSON text"))
