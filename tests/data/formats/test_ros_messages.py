"""Tests the decoder of ROS messages: definitions, byte orders, and messages and definitions that lie."""

import struct
import time

import numpy as np
import pytest

from o2o.core.errors import DataError
from o2o.data.formats.ros_messages import VARIABLE, Step, parse, texts_of

LITTLE, BIG = b"\0\1\0\0", b"\0\0\0\0"
SEPARATOR = "=" * 80


def test_fields_of_messages_in_a_message_take_its_place():
    text = f"Pose pose\nuint8 last\n{SEPARATOR}\nMSG: a/Pose\nfloat64 x 1.5\nfloat64 y # meters\n"
    kind = parse("a/msg/Stamped", text, is_ros1=False)
    assert kind.name == "a/Stamped"
    assert kind.steps == (Step("pose.x", "f8", 1), Step("pose.y", "f8", 1), Step("last", "u1", 1))
    found = kind.read(LITTLE + struct.pack("<2dB", 1, 2, 3), ["pose.y", "last"])
    assert {path: value.tolist() for path, value in found.items()} == {"pose.y": [2.0], "last": [3]}


def test_constants_and_bounds_are_no_fields():
    text = 'int8 UP=1\nstring NAME = "a # b"\nstring<=5 note "x=y"\nint16[<=3] few\nint16[3] xyz\nint8[0] no'
    steps = parse("a/A", text, is_ros1=False).steps
    assert [(step.path, step.count) for step in steps] == [("note", 1), ("few", VARIABLE), ("xyz", 3)]


@pytest.mark.parametrize(("head", "order"), [(LITTLE, "<"), (BIG, ">")])
def test_numbers_are_aligned_in_both_byte_orders(head, order):
    kind = parse("a/A", "uint8 a\nfloat64 b\nuint16[] c\nfloat64[] none\nint64 d", is_ros1=False)
    data = head + struct.pack(f"{order}B7xdI2HI4xq", 1, 2.5, 2, 3, 4, 0, -5)
    found = kind.read(data, ["a", "b", "c", "none", "d"])
    assert {p: v.tolist() for p, v in found.items()} == {
        "a": [1],
        "b": [2.5],
        "c": [3, 4],
        "none": [],
        "d": [-5],
    }


def test_ros1_has_no_padding_and_its_own_types():
    text = "Header header\nbyte a\ntime b\nstring[] c\nfloat64 d\n" + (
        f"{SEPARATOR}\nMSG: std_msgs/Header\nuint32 seq\ntime stamp\nstring frame_id"
    )
    kind = parse("a/A", text, is_ros1=True)
    data = struct.pack("<3II2sbII", 1, 2, 3, 2, b"ab", -1, 4, 5)
    data += struct.pack("<II1sI2sd", 2, 1, b"x", 2, b"yz", 0.5)
    found = kind.read(data, ["a", "c", "d"])
    assert (found["a"].tolist(), found["d"].tolist()) == ([-1], [0.5])
    assert texts_of(found["c"], True) == ("x", "yz")
    assert list(kind.numbers) == ["a", "d"]  # a header and times are no observations


def test_arrays_of_messages_are_passed():
    text = f"Item[] items\nfloat32 last\n{SEPARATOR}\nMSG: a/Item\nstring name\nuint16 value"
    kind = parse("a/A", text, is_ros1=False)
    data = LITTLE + struct.pack("<II2sHI3sxH2xf", 2, 2, b"x\0", 7, 3, b"yz\0", 8, 1.5)
    assert kind.read(data, ["last"])["last"].tolist() == [1.5]
    assert list(kind.numbers) == ["last"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("float64", "has the line 'float64'"),
        ("import os; x y", "has the line"),
        ("float64[99999999999] x", "has the line"),
        ("Other x", "the type a/Other is not defined in the bag"),
        ("A x", "messages in messages more than 20 deep"),
        ("A[] x", "messages in messages more than 20 deep"),
        ("wstring x", "'x' is a wstring, which is not supported"),
        ("x" * 2**21, "has 2097152 characters"),
    ],
)
def test_definition_that_is_none_is_refused(text, message):
    with pytest.raises(DataError, match=message) as caught:
        parse("a/A", text, is_ros1=False)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_definition_that_doubles_its_fields_is_refused_at_once():
    parts = [f"T{i + 1} x\nT{i + 1} y\n{SEPARATOR}\nMSG: a/T{i + 1}\n" for i in range(19)]
    begin = time.monotonic()
    with pytest.raises(DataError, match="more than 5000 fields"):
        parse("a/T0", "".join(parts) + "uint8 z", is_ros1=True)
    with pytest.raises(DataError, match="more than 5000 fields"):
        parse("a/T0", "".join(parts) + "", is_ros1=True)  # of nothing
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("text", "data", "message"),
    [
        ("float64 x", LITTLE + bytes(7), "ends after 11 bytes, within 'x'"),
        ("float64[] x", LITTLE + struct.pack("<I", 2**32 - 1), "states 4294967295 values of 'x'"),
        ("float64[] x", LITTLE + struct.pack("<I", 8) + bytes(20), "ends after 28 bytes, within 'x'"),
        ("string[] a\nint8 x", LITTLE + struct.pack("<II", 2, 100), "within 'a'"),
        (f"E[999999999] a\nint8 x\n{SEPARATOR}\nMSG: a/E\nuint8 b", LITTLE + bytes(9), "within 'a.b'"),
        ("int8 x", b"\0\7\0\0\1", "begins with 00 07 00 00, wanted the header of plain CDR"),
        ("int8 x", b"", "wanted the header of plain CDR"),
    ],
)
def test_message_that_lies_about_its_length_is_refused(text, data, message):
    kind = parse("a/A", text, is_ros1=False)
    with pytest.raises(DataError, match=message):
        kind.read(data, ["x"])


def test_messages_of_nothing_take_no_time():
    kind = parse("a/A", f"E[] a\nE[999999999] b\nint8 x\n{SEPARATOR}\nMSG: a/E\n", is_ros1=True)
    assert kind.read(struct.pack("<Ib", 4, 5), ["x"])["x"].tolist() == [5]


def test_text_is_never_run():
    kind = parse("a/A", "float64 class\nint8 lambda", is_ros1=False)
    assert isinstance(kind.read(LITTLE + struct.pack("<db", 1, 2), ["lambda"])["lambda"], np.ndarray)
