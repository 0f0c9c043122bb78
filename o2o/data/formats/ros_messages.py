"""Decodes ROS messages: parses their definitions as text, and reads the wanted fields of a message."""

import re
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from o2o.core.errors import DataError

NUMBERS = {
    **{"bool": "u1", "byte": "u1", "char": "u1", "int8": "i1", "uint8": "u1"},
    **{"int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8"},
    **{"float32": "f4", "float64": "f8"},
}
ROS1_NUMBERS = NUMBERS | {"byte": "i1"}
TIMES = ("time", "duration")  # of ROS 1, of two numbers
TEXT = "string"
HIDDEN = (  # types whose numbers are no observations
    *("std_msgs/Header", "std_msgs/MultiArrayLayout"),
    *("builtin_interfaces/Time", "builtin_interfaces/Duration"),
)
STAMP = "int32 sec\nuint32 nanosec"
FIELD = re.compile(r"([\w/]+)(<=\d+)?(\[(<=)?(\d{0,9})\])?\s+([A-Za-z]\w*)(?![^\s=])\s*(=?)")
VARIABLE = -1  # count of an array whose message states its length
MAX_DEPTH, MAX_STEPS = 20, 5000  # messages in messages, and fields of a message with all that are in it
MAX_DEFINITION = 2**20  # characters
CDR_ENDIAN = {0: ">", 1: "<"}  # second byte of a message -> byte order, of plain CDR


@dataclass(frozen=True)
class Step:
    """A field of a message in the order of its bytes, with the fields of messages in it in its place.

    Attributes:
        path: names from the message down, joined by dots.
        dtype: NumPy's name of the numbers; `string`; or empty for an array of messages.
        count: numbers, texts or messages; 1 for a field that is no array; `VARIABLE`: the message states it.
        inner: fields of each message of an array of messages.
        is_hidden: whether it is part of a header or the like.
    """

    path: str
    dtype: str
    count: int
    inner: tuple["Step", ...] = ()
    is_hidden: bool = False


@dataclass(frozen=True)
class _Field:
    name: str
    type: str
    count: int


@dataclass
class MessageType:
    """A type of messages.

    Attributes:
        name: such as `sensor_msgs/JointState`.
        is_ros1: serialized as in ROS 1, else as in ROS 2 (CDR).
        steps: fields in the order of their bytes.
    """

    name: str
    is_ros1: bool
    steps: tuple[Step, ...]
    numbers: dict[str, Step] = field(init=False)

    def __post_init__(self):
        self.numbers = {s.path: s for s in self.steps if s.dtype not in ("", TEXT) and not s.is_hidden}

    def read(self, data: bytes, wanted: Collection[str]) -> dict[str, np.ndarray | bytes]:
        """Reads fields of a message.

        Args:
            data: the serialized message.
            wanted: paths of numbers or texts.
        Returns:
            path -> numbers, (count,) of the field's type; or the bytes of texts, each after its length.
        Raises:
            DataError: the message is shorter than its definition or its own lengths say.
        """
        cursor, found = _Cursor(data, self.is_ros1), {}
        left = set(wanted)
        for step in self.steps:
            if not left:
                break
            value = cursor.read(step, step.path in left)
            if step.path in left:
                left.discard(step.path)
                found[step.path] = value
        return found


def texts_of(value: np.ndarray | bytes, is_ros1: bool) -> tuple[str, ...]:
    """Returns the texts of a field that `MessageType.read` returned, of a message in little-endian order."""
    data, texts, position = bytes(value), [], 0
    while position < len(data):
        position += 0 if is_ros1 else -position % 4
        (length,) = struct.unpack_from("<I", data, position)
        texts.append(data[position + 4 : position + 4 + length].rstrip(b"\0").decode("utf-8", "replace"))
        position += 4 + length
    return tuple(texts)


class _Cursor:
    """Reads one field of a message after the other."""

    def __init__(self, data: bytes, is_ros1: bool):
        self._data, self._is_ros1 = data, is_ros1
        self._start = self._position = 0 if is_ros1 else 4
        self._endian = "<"
        if not is_ros1:
            if len(data) < 4 or data[1] not in CDR_ENDIAN:
                raise DataError(f"a message begins with {data[:4].hex(' ')}, wanted the header of plain CDR")
            self._endian = CDR_ENDIAN[data[1]]

    def read(self, step: Step, keep: bool = False) -> np.ndarray | bytes:
        """Reads or passes a field."""
        count = step.count if step.count >= 0 else self._count(step)
        if not step.dtype:
            for _ in range(count if step.inner else 0):
                for inner in step.inner:
                    self.read(inner)
            return b""
        if step.dtype == TEXT:
            return self._texts(count, step.path, keep)
        size = int(step.dtype[1])
        if count:
            self._align(size)
        begin, self._position = self._position, self._position + count * size
        self._check_end(step.path)
        return np.frombuffer(self._data, self._endian + step.dtype, count, begin) if keep else b""

    def _count(self, step: Step) -> int:
        count = self._length(step.path)
        if count > len(self._data):
            raise DataError(f"a message of {len(self._data)} bytes states {count} values of {step.path!r}")
        return count

    def _length(self, path: str) -> int:
        self._align(4)
        self._position += 4
        self._check_end(path)
        return struct.unpack_from(self._endian + "I", self._data, self._position - 4)[0]

    def _texts(self, count: int, path: str, keep: bool) -> bytes:
        if count:
            self._align(4)
        begin = self._position
        for _ in range(count):
            length = self._length(path)
            self._position += length
            self._check_end(path)
        return self._data[begin : self._position] if keep else b""

    def _align(self, size: int) -> None:
        if not self._is_ros1:
            self._position += (self._start - self._position) % size

    def _check_end(self, path: str) -> None:
        if self._position > len(self._data):
            raise DataError(f"a message ends after {len(self._data)} bytes, within {path!r}")


def short_name(name: str) -> str:
    """Returns `sensor_msgs/Image` for `sensor_msgs/msg/Image`."""
    parts = name.split("/")
    return f"{parts[0]}/{parts[-1]}"


def parse(name: str, text: str, is_ros1: bool) -> MessageType:
    """Parses a definition with those of the messages in it, as bags hold them.

    Args:
        name: type of the message.
        text: definitions, separated by lines of `=`, each but the first after a line `MSG: TYPE`.
        is_ros1: see `MessageType`.
    Raises:
        DataError: a line is no field, a type is not defined, or there are too many fields.
    """
    if len(text) > MAX_DEFINITION:
        raise DataError(f"the definition of {name} has {len(text)} characters")
    types: dict[str, list[_Field]] = {}
    if not is_ros1:
        for stamp in ("Time", "Duration"):
            types[f"builtin_interfaces/{stamp}"] = _parse_fields(STAMP.splitlines(), "builtin_interfaces")
    root = current = short_name(name)
    for number, section in enumerate(re.split(r"^={3,}\s*$", text, flags=re.MULTILINE)):
        lines = [line for line in section.splitlines() if line.strip()]
        if number and lines and lines[0].startswith("MSG:"):
            current = short_name(lines.pop(0).removeprefix("MSG:").strip())
        types[current] = _parse_fields(lines, current.partition("/")[0])
    compiler = _Compiler(types, is_ros1)
    return MessageType(root, is_ros1, tuple(compiler.compile(root, "", 0, False)))


def _parse_fields(lines: Iterable[str], package: str) -> list[_Field]:
    fields = []
    for line in lines:
        stripped = line.partition("#")[0].strip()
        if not stripped:
            continue
        match = FIELD.match(stripped)
        if match is None:
            raise DataError(f"the definition of a message of {package} has the line {stripped[:60]!r}")
        kind, _, array, is_bound, size, name, is_constant = match.groups()
        if is_constant:
            continue
        count = 1 if array is None else int(size) if size and not is_bound else VARIABLE
        fields.append(_Field(name, _full_type(kind, package), count))
    return fields


def _full_type(kind: str, package: str) -> str:
    if kind in NUMBERS or kind in TIMES or kind in (TEXT, "wstring"):
        return kind
    if "/" in kind:
        return short_name(kind)
    return "std_msgs/Header" if kind == "Header" else f"{package}/{kind}"


class _Compiler:
    """Puts the fields of messages in the place of the fields that have their type."""

    def __init__(self, types: Mapping[str, list[_Field]], is_ros1: bool):
        self._types, self._numbers = types, ROS1_NUMBERS if is_ros1 else NUMBERS
        self._is_ros1, self._num_steps = is_ros1, 0

    def compile(self, kind: str, prefix: str, depth: int, is_hidden: bool) -> list[Step]:
        """Returns the fields of a type of messages."""
        if kind not in self._types:
            raise DataError(f"the type {kind} is not defined in the bag")
        if depth > MAX_DEPTH:
            raise DataError(f"{kind} holds messages in messages more than {MAX_DEPTH} deep")
        steps: list[Step] = []
        hidden = is_hidden or kind in HIDDEN
        for one in self._types[kind]:
            steps += self._field(one, f"{prefix}{one.name}", depth, hidden) if one.count else []
        if not self._types[kind] and not self._is_ros1:
            return [Step(f"{prefix}structure_needs_at_least_one_member", "u1", 1, (), True)]
        return steps

    def _field(self, one: _Field, path: str, depth: int, is_hidden: bool) -> list[Step]:
        self._num_steps += 1
        if self._num_steps > MAX_STEPS:
            raise DataError(f"a message has more than {MAX_STEPS} fields")
        if one.type in self._numbers:
            return [Step(path, self._numbers[one.type], one.count, (), is_hidden)]
        if one.type in TIMES:
            num = one.count * 2 if one.count > 0 else VARIABLE
            step = Step(path, "u4", num if one.count > 0 else 2, (), True)
            return [step] if one.count > 0 else [Step(path, "", VARIABLE, (step,), True)]
        if one.type == TEXT:
            return [Step(path, TEXT, one.count)]
        if one.type == "wstring":
            raise DataError(f"{path!r} is a wstring, which is not supported")
        if one.count == 1:
            return self.compile(one.type, f"{path}.", depth + 1, is_hidden)
        inner = self.compile(one.type, f"{path}.", depth + 1, True)
        return [Step(path, "", one.count, tuple(inner))]
