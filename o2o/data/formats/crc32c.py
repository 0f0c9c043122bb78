"""The checksum of tfrecord files, CRC-32C (Castagnoli), without a compiled extension.

Source: RFC 3720, appendix B.4, which also gives the values that the tests compare with.
"""

from functools import cache

import numpy as np

POLYNOMIAL = 0x82F63B78  # reflected
WIDTH, LANES = 256, 4096  # a piece is so many lanes of so many bytes, reckoned side by side
SHORT = 64  # bytes that are faster one by one


def crc32c(data: bytes) -> int:
    state, piece = 0xFFFFFFFF, WIDTH * LANES
    for start in range(0, len(data), piece):
        stop = min(start + piece, len(data))
        state = (_one_by_one if stop - start < SHORT else _side_by_side)(data, start, stop, state)
    return state ^ 0xFFFFFFFF


def _one_by_one(data: bytes, start: int, stop: int, state: int) -> int:
    table = _bytes_table()
    for byte in data[start:stop]:
        state = table[(state ^ byte) & 255] ^ state >> 8
    return state


def _side_by_side(data: bytes, start: int, stop: int, state: int) -> int:
    """The register after these bytes.

    What it held before is the same as a change of the first four bytes, and a register of zeros stays so
    over leading zeros: so the lanes are filled up in front.
    """
    lanes = 1
    while lanes * WIDTH < stop - start:
        lanes *= 2
    padded = np.zeros(lanes * WIDTH, np.uint8)
    inside = padded[len(padded) - (stop - start) :]
    inside[:] = np.frombuffer(data, np.uint8, stop - start, start)
    inside[:4] ^= np.frombuffer(state.to_bytes(4, "little"), np.uint8)
    first, second = _halves()
    crc = np.zeros(lanes, np.uint32)
    for word in np.ascontiguousarray(padded.view("<u4").reshape(lanes, -1).T):
        crc ^= word
        crc = first[crc & 0xFFFF] ^ second[crc >> 16]
    num_bytes = WIDTH
    while len(crc) > 1:  # of two neighbours the left register runs on over the right one's bytes
        crc = crc[1::2] ^ _look_up(_over_zeros(num_bytes), crc[0::2])
        num_bytes *= 2
    return int(crc[0])


def _run(register: np.ndarray, num_bytes: int) -> np.ndarray:
    """Registers after so many zeros."""
    for _ in range(8 * num_bytes):
        register = register >> 1 ^ np.where(register & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    return register


@cache
def _bytes_table() -> list[int]:
    return _run(np.arange(256, dtype=np.uint32), 1).tolist()


@cache
def _halves() -> tuple[np.ndarray, np.ndarray]:
    """What becomes of the first two and the last two bytes of a register of four, four bytes on."""
    both = np.arange(2**16, dtype=np.uint32)
    return _run(both, 4), _run(both, 2)


@cache
def _over_zeros(num_bytes: int) -> np.ndarray:
    """(4, 256) what becomes of each byte of a register over so many zeros, a power of two from `WIDTH` on."""
    registers = np.arange(256, dtype=np.uint32) << np.uint32(8) * np.arange(4, dtype=np.uint32)[:, None]
    if num_bytes == WIDTH:
        return _run(registers, num_bytes)
    half = _over_zeros(num_bytes // 2)
    return _look_up(half, half)


def _look_up(table: np.ndarray, register: np.ndarray) -> np.ndarray:
    """Registers by the (4, 256) table of their bytes."""
    low = table[0][register & 255] ^ table[1][register >> 8 & 255]
    return low ^ table[2][register >> 16 & 255] ^ table[3][register >> 24]
