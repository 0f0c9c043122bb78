"""Parses pickles without executing them: numpy arrays and plain containers; everything else is refused.

A pickle is a program. Python's own reader calls every function that the program names; this parser knows the
few names that numpy's arrays need and implements them itself, so nothing is ever called. Large arrays are
not read: their position in the file is kept. The size of the result is bounded by the size of the file.
"""

import io
import logging
import math
import os
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from o2o.core.errors import DataError
from o2o.core.files import open_regular
from o2o.data.formats.column import ColumnBase
from o2o.data.formats.errors import describe_read_error
from o2o.data.formats.lazy_array import READ_ALL, ReadBlock, ReadRequest

logger = logging.getLogger("o2o")

MAX_OPCODES = 10**7  # each may create an object; a list of numbers takes one per number
OPCODE_BYTES = 100  # of memory that an opcode takes at most, with its places on the stack and in the memo
TEXT_COPIES = 6  # of text while it is decoded and encoded; a single wide character makes all of them wide
OPCODES_AT_ONCE = 1000  # whose memory is counted at once
LINE_BYTES = 2**20  # longest line of text in protocol 0
IN_FILE_BYTES = 4096  # longer byte strings stay in the file
DTYPES = re.compile(r"[<>=|]?[biufSU][1-9]\d{0,5}")  # no objects, no records, no dates
KEY_TYPES = (str, bytes, int, float, type(None))  # hashed without recursion

ALLOWED_GLOBALS = frozenset(
    [
        *["numpy.ndarray", "numpy.dtype", "numpy._core.multiarray.scalar"],
        *["numpy._core.multiarray._reconstruct", "numpy._core.numeric._frombuffer"],
        "_codecs.encode",  # byte strings in old protocols
        "collections.OrderedDict",
    ]
)
OPCODES = {code.code: code for code in pickletools.opcodes}
MARK = object()

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = {  # opcodes whose argument is the value
    *["INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"],
    *["STRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"],
}
LENGTHS = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8, "BINSTRING": 4}


@dataclass(frozen=True)
class Global:
    """A function or class that the pickle refers to by name."""

    name: str


@dataclass(frozen=True)
class FileSlice:
    """A byte string that stays in the file."""

    start: int
    length: int


@dataclass
class ParsedDtype:
    """The dtype of an array; a later opcode may set its byte order."""

    dtype: np.dtype


@dataclass
class ParsedArray:
    """An array; a later opcode sets its content."""

    value: "np.ndarray | StoredArray | None" = None


@dataclass(frozen=True)
class StoredArray(ColumnBase):
    """An array whose rows are read from the file when they are indexed."""

    path: Path
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool = False

    def __getitem__(self, key) -> np.ndarray:
        try:
            order = "F" if self.fortran_order else "C"
            whole = np.memmap(self.path, self.dtype, "r", self.start, self.shape, order)
            return np.array(whole[key])
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} has changed since it was opened: {error}") from error


def load(path: Path, request: ReadRequest = READ_ALL) -> Any:
    """Parses a pickle file to `ParsedArray`, numbers, text, and lists, tuples and dicts of these.

    Args:
        path: pickle file.
        request: its memory budget limits the objects and the text; large arrays stay in the file.
    Raises:
        DataError: the pickle needs anything else, is truncated or broken, or has more than `MAX_OPCODES`
            opcodes or more than the budget holds.
    """
    try:
        with open_regular(path) as file:
            return _Parser(path, file, request).run()
    except (OSError, ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError) as error:
        raise DataError(f"{path} is not a readable pickle: {describe_read_error(error, path)}") from error


class _BoundedFile:
    """A file that never reads more than is left, nor text for which `take` finds no memory."""

    def __init__(self, file: io.BufferedReader, take: Callable[[int], None]):
        self.file, self.size, self.take = file, os.fstat(file.fileno()).st_size, take

    def read(self, num: int) -> bytes:
        num = min(num, self.left)
        self.take(TEXT_COPIES * num)
        return self.file.read(num)

    def readline(self) -> bytes:
        line = self.file.readline(LINE_BYTES)
        if len(line) == LINE_BYTES:
            raise ValueError(f"it has a line of more than {LINE_BYTES} bytes")
        self.take(TEXT_COPIES * len(line))
        return line

    @property
    def left(self) -> int:
        return self.size - self.file.tell()


class _Parser:
    """The stack machine of pickle, without any calls."""

    def __init__(self, path: Path, raw: io.BufferedReader, request: ReadRequest):
        self.path, self.raw, self.request = path, raw, request
        self.file = _BoundedFile(raw, self.take)
        self.num_bytes = 0  # bytes of memory that were taken
        self.source = cast(IO[bytes], self.file)  # pickletools uses `read` and `readline` only
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.num_encoded = 0  # bytes encoded from text

    def take(self, num_bytes: int) -> None:
        """Counts memory, before it is taken.

        Raises:
            DataError: the budget does not hold it.
        """
        self.num_bytes += num_bytes
        self.request.check_budget(0, self.path, ReadBlock(self.num_bytes, "the objects of the pickle"))

    def run(self) -> Any:
        for number in range(MAX_OPCODES):
            if number % OPCODES_AT_ONCE == 0:
                self.take(OPCODES_AT_ONCE * OPCODE_BYTES)
            byte = self.raw.read(1)
            if not byte:
                raise ValueError("it is truncated")
            code = OPCODES.get(byte.decode("latin-1"))
            if code is None:
                raise ValueError(f"{byte!r} is not a pickle opcode")
            if code.name == "STOP":
                if self.file.left:
                    logger.warning("%s: %d bytes after the pickle are not read", self.path, self.file.left)
                return self.stack.pop()
            if code.name in LENGTHS:
                self.stack.append(self.read_bytes(code.name))
            else:
                self.execute(code.name, code.arg.reader(self.source) if code.arg is not None else None)
        raise ValueError(
            f"it has more than {MAX_OPCODES:,} opcodes; wanted arrays, not lists of single numbers"
        )

    def execute(self, code: str, argument: Any) -> None:
        stack = self.stack
        match code:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(MARK)
            case "POP":
                stack.pop()
            case "POP_MARK":
                self.pop_to_mark()
            case "DUP":
                stack.append(stack[-1])
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_TUPLE":
                stack.append({"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}[code]())
            case "LIST" | "TUPLE":
                items = self.pop_to_mark()
                stack.append(items if code == "LIST" else tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self.pop_last(int(code[-1]))))
            case "DICT":
                stack.append(_update_dict({}, self.pop_to_mark()))
            case "APPEND" | "APPENDS":
                items = self.pop_last(1) if code == "APPEND" else self.pop_to_mark()
                _as_list(stack[-1]).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self.pop_last(2) if code == "SETITEM" else self.pop_to_mark()
                _update_dict(stack[-1], items)
            case "MEMOIZE" | "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[len(self.memo) if argument is None else argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(self.find_global(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(self.find_global(*self.pop_last(2)))
            case "REDUCE":
                function, arguments = self.pop_last(2)
                stack.append(self.call(function, arguments))
            case "BUILD":
                (state,) = self.pop_last(1)
                self.build(stack[-1], state)
            case "NEWOBJ" | "NEWOBJ_EX":
                raise self.refused(_describe(self.pop_last(2 if code == "NEWOBJ" else 3)[0]))
            case "OBJ":
                raise self.refused(_describe(self.pop_to_mark()[0]))
            case "INST":
                raise self.refused(argument.replace(" ", "."))
            case _ if code in CONSTANTS:
                stack.append(CONSTANTS[code])
            case _ if code in VALUES:
                stack.append(argument)
            case _:  # persistent ids, extension codes, buffers outside of the file, sets
                raise self.refused(f"the opcode {code}")

    def pop_last(self, num: int) -> list:
        if len(self.stack) < num:
            raise ValueError("it pops more items than the stack has")
        items = self.stack[-num:]
        del self.stack[-num:]
        return items

    def pop_to_mark(self) -> list:
        """Pops the items above the last mark, and the mark."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise ValueError("it pops to a mark that does not exist")

    def read_bytes(self, code: str) -> "bytes | str | FileSlice":
        """Reads a byte string of stated length; Python 2 stored it as text."""
        length = int.from_bytes(self.file.read(LENGTHS[code]), "little")
        if length > self.file.left:
            raise ValueError(f"it is truncated: it states {length} bytes, {self.file.left} are left")
        if length >= IN_FILE_BYTES:
            start = self.raw.tell()
            self.raw.seek(start + length)
            return FileSlice(start, length)
        value = self.file.read(length)
        return value.decode("latin-1") if code == "BINSTRING" else value

    def find_global(self, module: Any, name: Any) -> Global:
        full_name = f"{module}.{name}".replace("numpy.core.", "numpy._core.", 1)
        if full_name not in ALLOWED_GLOBALS:
            raise self.refused(f"{module}.{name}")
        return Global(full_name)

    def refused(self, what: str) -> DataError:
        shown = what if what.isprintable() else repr(what)
        return DataError(
            f"{self.path}: {shown[:100]} refused; only numpy arrays, numbers, text and plain containers are "
            "read from a pickle, since it can run any program"
        )

    def call(self, function: Any, arguments: Any) -> Any:
        """Returns what numpy would return; refuses every other call."""
        match (function.name if isinstance(function, Global) else None), arguments:
            case "numpy._core.multiarray._reconstruct", (Global(name="numpy.ndarray"), *_):
                return ParsedArray()
            case "numpy._core.numeric._frombuffer", (
                content,
                ParsedDtype(dtype=dtype),
                tuple() as shape,
                order,
            ):
                return ParsedArray(self.array(content, dtype, shape, order == "F"))
            case "numpy.dtype", (str() | bytes() as text, *_):
                return ParsedDtype(self.dtype(text if isinstance(text, str) else text.decode("latin-1")))
            case "numpy._core.multiarray.scalar", (ParsedDtype(dtype=dtype), content):
                return np.frombuffer(_bytes(content), dtype, 1)[0]
            case "_codecs.encode", (str() as text, "latin1" | "latin-1"):
                self.num_encoded += len(text)
                if self.num_encoded > self.file.size:
                    raise ValueError("it creates more bytes than the file has")
                return text.encode("latin-1")
            case "collections.OrderedDict", ():
                return {}
        raise self.refused(f"a call of {_describe(function)} with {_describe(arguments)}")

    def build(self, target: Any, state: Any) -> None:
        """Sets the state of an array or dtype; refuses every other object."""
        match target, state:
            case ParsedDtype(), (_, "<" | ">" | "=" | "|" as order, None, None, None, *_):
                target.dtype = target.dtype.newbyteorder(order) if order in "<>" else target.dtype
            case ParsedArray(), (_, tuple() as shape, ParsedDtype(dtype=dtype), fortran_order, content):
                target.value = self.array(content, dtype, shape, bool(fortran_order))
            case _:
                raise self.refused(f"a state of {_describe(state)} for {_describe(target)}")

    def dtype(self, text: str) -> np.dtype:
        if not DTYPES.fullmatch(text):
            raise self.refused(f"numpy.dtype({text!r})")
        return np.dtype(text)

    def array(
        self, content: Any, dtype: np.dtype, shape: tuple, fortran_order: bool
    ) -> "np.ndarray | StoredArray":
        if not all(type(num) is int and num >= 0 for num in shape):
            raise ValueError("an array has an invalid shape")
        length = content.length if isinstance(content, FileSlice) else len(_bytes(content))
        if math.prod(shape) * dtype.itemsize != length:
            raise ValueError(f"an array of shape {shape} and dtype {dtype} has {length} bytes")
        if isinstance(content, FileSlice):
            return StoredArray(self.path, content.start, shape, dtype, fortran_order)
        return np.ndarray(shape, dtype, _bytes(content), order="F" if fortran_order else "C")


def _bytes(content: Any) -> bytes:
    """Returns the bytes of an array; Python 2 stored them as text."""
    if isinstance(content, str):
        return content.encode("latin-1")
    if not isinstance(content, bytes):
        raise ValueError(f"the content of an array is {_describe(content)}, wanted bytes")
    return content


def _as_list(target: Any) -> list:
    if type(target) is not list:
        raise ValueError(f"it appends to {_describe(target)}")
    return target


def _update_dict(target: Any, items: list) -> dict:
    """Adds alternating keys and values to a dict."""
    if type(target) is not dict or len(items) % 2:
        raise ValueError(f"it puts {len(items)} keys and values into {_describe(target)}")
    for key in items[::2]:
        if not isinstance(key, KEY_TYPES):
            raise ValueError(f"a key is {_describe(key)}")
    target.update(zip(items[::2], items[1::2], strict=True))
    return target


def _describe(value: Any) -> str:
    """Describes a value of any size in a few words, for errors."""
    return value.name if isinstance(value, Global) else f"a {type(value).__name__}"
