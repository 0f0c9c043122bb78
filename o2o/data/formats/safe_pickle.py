"""What a pickle holds, found without running it: numpy arrays and plain containers, all else refused by name.

A pickle is a program. Python's own reader calls whatever that program names; this one knows the few names
that numpy's arrays need and does their work itself, so that there is nothing to call. Large arrays are not
read: they are known by their place in the file. What is built is bounded by the size of the file.
"""

import io
import logging
import math
import os
import pickletools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from o2o.core.errors import DataError
from o2o.data.formats.errors import reason

logger = logging.getLogger("o2o")

NUM_STEPS = 10**7  # of the program, each of which may make an object; a list of numbers takes one per number
IN_FILE_BYTES = 4096  # from here on bytes stay in the file
TYPES = re.compile(r"[<>=|]?[biufSU][1-9]\d{0,5}")  # of entries; no objects, no records, no dates
KEYS = (str, bytes, int, float, type(None))  # hashed without descending

NAMES = frozenset(
    [
        *["numpy.ndarray", "numpy.dtype", "numpy._core.multiarray.scalar"],
        *["numpy._core.multiarray._reconstruct", "numpy._core.numeric._frombuffer"],
        "_codecs.encode",  # bytes, in old protocols
        "collections.OrderedDict",
    ]
)
CODES = {code.code: code for code in pickletools.opcodes}
MARK = object()

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = {  # steps whose argument is the value
    *["INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"],
    *["STRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"],
}
LENGTHS = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8, "BINSTRING": 4}


@dataclass(frozen=True)
class Name:
    """What a pickle asks for by name."""

    name: str


@dataclass(frozen=True)
class FileSlice:
    """Bytes that stayed in the file."""

    start: int
    length: int


@dataclass
class Type:
    """The type of an array's entries, while its byte order may still come."""

    dtype: np.dtype


@dataclass
class Array:
    """An array; its content comes after it was named."""

    value: "np.ndarray | Stored | None" = None


@dataclass(frozen=True)
class Stored:
    """An array whose rows are read from the file when they are asked for."""

    path: Path
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype
    by_column: bool = False

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key) -> np.ndarray:
        try:
            order = "F" if self.by_column else "C"
            whole = np.memmap(self.path, self.dtype, "r", self.start, self.shape, order)
            return np.array(whole[key])
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} has changed since it was opened: {error}") from error


def load(path: Path) -> Any:
    """What the pickle in a file holds: `Array`, numbers, text, and lists, tuples, dicts of such.

    Raises:
        DataError: it asks for anything else, is cut off or broken, or takes more than `NUM_STEPS` steps.
    """
    try:
        with open(path, "rb") as file:
            return _Machine(path, file).run()
    except (OSError, ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError) as error:
        raise DataError(f"{path} is no readable pickle: {reason(error, path)}") from error


class _File:
    """A file of which no more is asked than it has, so that a false length costs nothing."""

    def __init__(self, file: io.BufferedReader):
        self.file, self.size = file, os.fstat(file.fileno()).st_size

    def read(self, num: int) -> bytes:
        return self.file.read(min(num, self.left))

    def readline(self) -> bytes:
        return self.file.readline()

    @property
    def left(self) -> int:
        return self.size - self.file.tell()


class _Machine:
    """Python's stack machine, with nothing on it that runs."""

    def __init__(self, path: Path, raw: io.BufferedReader):
        self.path, self.raw, self.file = path, raw, _File(raw)
        self.source = cast(IO[bytes], self.file)  # what pickletools uses of one
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.num_encoded = 0  # bytes made of text

    def run(self) -> Any:
        for _ in range(NUM_STEPS):
            byte = self.raw.read(1)
            if not byte:
                raise ValueError("it is cut off")
            code = CODES.get(byte.decode("latin-1"))
            if code is None:
                raise ValueError(f"{byte!r} is no step of a pickle")
            if code.name == "STOP":
                if self.file.left:
                    logger.warning("%s: %d bytes behind the pickle are not read", self.path, self.file.left)
                return self.stack.pop()
            if code.name in LENGTHS:
                self.stack.append(self.content(code.name))
            else:
                self.step(code.name, code.arg.reader(self.source) if code.arg is not None else None)
        raise ValueError(f"more than {NUM_STEPS:,} steps; wanted arrays, not lists of single numbers")

    def step(self, code: str, argument: Any) -> None:
        stack = self.stack
        match code:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(MARK)
            case "POP":
                stack.pop()
            case "POP_MARK":
                self.marked()
            case "DUP":
                stack.append(stack[-1])
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_TUPLE":
                stack.append({"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}[code]())
            case "LIST" | "TUPLE":
                items = self.marked()
                stack.append(items if code == "LIST" else tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self.last(int(code[-1]))))
            case "DICT":
                stack.append(_filled({}, self.marked()))
            case "APPEND" | "APPENDS":
                items = self.last(1) if code == "APPEND" else self.marked()
                _list(stack[-1]).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self.last(2) if code == "SETITEM" else self.marked()
                _filled(stack[-1], items)
            case "MEMOIZE" | "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[len(self.memo) if argument is None else argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(self.name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(self.name(*self.last(2)))
            case "REDUCE":
                function, arguments = self.last(2)
                stack.append(self.called(function, arguments))
            case "BUILD":
                (state,) = self.last(1)
                self.built(stack[-1], state)
            case "NEWOBJ" | "NEWOBJ_EX":
                raise self.refused(_shown(self.last(2 if code == "NEWOBJ" else 3)[0]))
            case "OBJ":
                raise self.refused(_shown(self.marked()[0]))
            case "INST":
                raise self.refused(argument.replace(" ", "."))
            case _ if code in CONSTANTS:
                stack.append(CONSTANTS[code])
            case _ if code in VALUES:
                stack.append(argument)
            case _:  # persistent ids, extension codes, buffers outside of the file, sets
                raise self.refused(f"the step {code}")

    def last(self, num: int) -> list:
        if len(self.stack) < num:
            raise ValueError("it takes more than it has")
        items = self.stack[-num:]
        del self.stack[-num:]
        return items

    def marked(self) -> list:
        """What lies above the last mark."""
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is MARK:
                items = self.stack[place + 1 :]
                del self.stack[place:]
                return items
        raise ValueError("it takes back to a mark that is not there")

    def content(self, code: str) -> "bytes | str | FileSlice":
        """Bytes of a stated length; Python 2 kept them as text."""
        length = int.from_bytes(self.file.read(LENGTHS[code]), "little")
        if length > self.file.left:
            raise ValueError(f"it is cut off: {length} bytes are announced, {self.file.left} are left")
        if length >= IN_FILE_BYTES:
            start = self.raw.tell()
            self.raw.seek(start + length)
            return FileSlice(start, length)
        value = self.file.read(length)
        return value.decode("latin-1") if code == "BINSTRING" else value

    def name(self, module: Any, name: Any) -> Name:
        asked = f"{module}.{name}".replace("numpy.core.", "numpy._core.", 1)
        if asked not in NAMES:
            raise self.refused(f"{module}.{name}")
        return Name(asked)

    def refused(self, what: str) -> DataError:
        shown = what if what.isprintable() else repr(what)
        return DataError(
            f"{self.path}: {shown[:100]} refused; a pickle may hold numpy arrays, numbers, text and plain "
            "containers only, for it can run any program"
        )

    def called(self, function: Any, arguments: Any) -> Any:
        match (function.name if isinstance(function, Name) else None), arguments:
            case "numpy._core.multiarray._reconstruct", (Name(name="numpy.ndarray"), *_):
                return Array()
            case "numpy._core.numeric._frombuffer", (content, Type(dtype=dtype), tuple() as shape, order):
                return Array(self.array(content, dtype, shape, order == "F"))
            case "numpy.dtype", (str() | bytes() as text, *_):
                return Type(self.dtype(text if isinstance(text, str) else text.decode("latin-1")))
            case "numpy._core.multiarray.scalar", (Type(dtype=dtype), content):
                return np.frombuffer(_bytes(content), dtype, 1)[0]
            case "_codecs.encode", (str() as text, "latin1" | "latin-1"):
                self.num_encoded += len(text)
                if self.num_encoded > self.file.size:
                    raise ValueError("it makes more bytes than the file has")
                return text.encode("latin-1")
            case "collections.OrderedDict", ():
                return {}
        raise self.refused(f"a call of {_shown(function)} with {_shown(arguments)}")

    def built(self, target: Any, state: Any) -> None:
        match target, state:
            case Type(), (_, "<" | ">" | "=" | "|" as order, None, None, None, *_):
                target.dtype = target.dtype.newbyteorder(order) if order in "<>" else target.dtype
            case Array(), (_, tuple() as shape, Type(dtype=dtype), by_column, content):
                target.value = self.array(content, dtype, shape, bool(by_column))
            case _:
                raise self.refused(f"a state of {_shown(state)} for {_shown(target)}")

    def dtype(self, text: str) -> np.dtype:
        if not TYPES.fullmatch(text):
            raise self.refused(f"numpy.dtype({text!r})")
        return np.dtype(text)

    def array(self, content: Any, dtype: np.dtype, shape: tuple, by_column: bool) -> "np.ndarray | Stored":
        if not all(type(num) is int and num >= 0 for num in shape):
            raise ValueError("an array has a shape that is none")
        length = content.length if isinstance(content, FileSlice) else len(_bytes(content))
        if math.prod(shape) * dtype.itemsize != length:
            raise ValueError(f"an array of {shape} {dtype} is given {length} bytes")
        if isinstance(content, FileSlice):
            return Stored(self.path, content.start, shape, dtype, by_column)
        return np.ndarray(shape, dtype, _bytes(content), order="F" if by_column else "C")


def _bytes(content: Any) -> bytes:
    """Of an array; Python 2 kept them as text."""
    if isinstance(content, str):
        return content.encode("latin-1")
    if not isinstance(content, bytes):
        raise ValueError(f"{_shown(content)} stands where bytes of an array should")
    return content


def _list(target: Any) -> list:
    if type(target) is not list:
        raise ValueError(f"it appends to {_shown(target)}")
    return target


def _filled(target: Any, items: list) -> dict:
    """A dict with keys and values in turn."""
    if type(target) is not dict or len(items) % 2:
        raise ValueError(f"it puts {len(items)} keys and values into {_shown(target)}")
    for key in items[::2]:
        if not isinstance(key, KEYS):
            raise ValueError(f"a key is {_shown(key)}")
    target.update(zip(items[::2], items[1::2], strict=True))
    return target


def _shown(thing: Any) -> str:
    """A few words, however large or tangled it is."""
    return thing.name if isinstance(thing, Name) else f"a {type(thing).__name__}"
