"""Computes CRC-32C (Castagnoli), the checksum of tfrecord files, without a compiled extension.

Source: RFC 3720, appendix B.4; the tests compare with its values.
"""

from functools import cache

import numpy as np

POLYNOMIAL = 0x82F63B78  # reflected
LANE_BYTES, LANES = 256, 4096  # a block has LANES lanes of LANE_BYTES bytes, computed in parallel
SHORT_BYTES = 64  # below this length a loop over the bytes is faster


def crc32c(data: bytes) -> int:
    """Returns the CRC-32C of the data."""
    state, block = 0xFFFFFFFF, LANE_BYTES * LANES
    for start in range(0, len(data), block):
        stop = min(start + block, len(data))
        state = (_update_bytewise if stop - start < SHORT_BYTES else _update_parallel)(
            data, start, stop, state
        )
    return state ^ 0xFFFFFFFF


def _update_bytewise(data: bytes, start: int, stop: int, state: int) -> int:
    table = _byte_table()
    for byte in data[start:stop]:
        state = table[(state ^ byte) & 255] ^ state >> 8
    return state


def _update_parallel(data: bytes, start: int, stop: int, state: int) -> int:
    """Returns the register after these bytes.

    The previous register is XORed into the first four bytes. A register of zeros does not change over
    leading zeros, so the data are padded at the front to whole lanes.
    """
    lanes = 1
    while lanes * LANE_BYTES < stop - start:
        lanes *= 2
    padded = np.zeros(lanes * LANE_BYTES, np.uint8)
    inside = padded[len(padded) - (stop - start) :]
    inside[:] = np.frombuffer(data, np.uint8, stop - start, start)
    inside[:4] ^= np.frombuffer(state.to_bytes(4, "little"), np.uint8)
    first, second = _half_tables()
    crc = np.zeros(lanes, np.uint32)
    for word in np.ascontiguousarray(padded.view("<u4").reshape(lanes, -1).T):
        crc ^= word
        crc = first[crc & 0xFFFF] ^ second[crc >> 16]
    num_bytes = LANE_BYTES
    while len(crc) > 1:  # the left register of each pair is advanced over the bytes of the right lane
        crc = crc[1::2] ^ _look_up(_zeros_table(num_bytes), crc[0::2])
        num_bytes *= 2
    return int(crc[0])


def _advance(register: np.ndarray, num_bytes: int) -> np.ndarray:
    """Returns the registers after `num_bytes` zero bytes."""
    for _ in range(8 * num_bytes):
        register = register >> 1 ^ np.where(register & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    return register


@cache
def _byte_table() -> list[int]:
    return _advance(np.arange(256, dtype=np.uint32), 1).tolist()


@cache
def _half_tables() -> tuple[np.ndarray, np.ndarray]:
    """Returns the tables that advance the low and the high half of a register by four zero bytes."""
    both = np.arange(2**16, dtype=np.uint32)
    return _advance(both, 4), _advance(both, 2)


@cache
def _zeros_table(num_bytes: int) -> np.ndarray:
    """Returns the (4, 256) table that advances each byte of a register over `num_bytes` zeros.

    `num_bytes` is `LANE_BYTES` times a power of two.
    """
    registers = np.arange(256, dtype=np.uint32) << np.uint32(8) * np.arange(4, dtype=np.uint32)[:, None]
    if num_bytes == LANE_BYTES:
        return _advance(registers, num_bytes)
    half = _zeros_table(num_bytes // 2)
    return _look_up(half, half)


def _look_up(table: np.ndarray, register: np.ndarray) -> np.ndarray:
    """Advances registers by the (4, 256) table of their bytes."""
    low = table[0][register & 255] ^ table[1][register >> 8 & 255]
    return low ^ table[2][register >> 16 & 255] ^ table[3][register >> 24]
