"""Reads integers of variable length, as protocol buffers and Thrift write them: seven bits a byte."""


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns an unsigned integer (at most 70 bits) at a position, and the position after it.

    Raises:
        IndexError: the data end within the integer.
        ValueError: the integer is too long.
    """
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"an integer at byte {at} is too long")
