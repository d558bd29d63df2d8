"""Consecutive numbers as bytes, a block at a time: no Python object for each of them."""

from __future__ import annotations

import sys
from array import array
from functools import lru_cache

_BLOCK = 256
_RAMP = array("q", range(4096))


@lru_cache(maxsize=2 * _BLOCK)
def _steps(count: int, size_bytes: int) -> tuple[int, int]:
    """Two numbers of ``count`` digits of that size: all ones; and 0, 1, 2, ... from the left.

    ``first * ones + steps`` is then ``count`` numbers in a row from ``first``.
    """
    ones = steps = 0
    for digit in range(count):
        ones = ones << 8 * size_bytes | 1
        steps = steps << 8 * size_bytes | digit
    return ones, steps


def consecutive(first: int, count: int, size_bytes: int) -> bytes:
    """``first``, ``first + 1``, ...: ``count`` numbers of ``size_bytes``, big-endian, end to end."""
    whole = count - count % _BLOCK
    blocks = [_block(first + at, _BLOCK, size_bytes) for at in range(0, whole, _BLOCK)]
    if count > whole:
        blocks.append(_block(first + whole, count - whole, size_bytes))
    return b"".join(blocks)


def _block(first: int, count: int, size_bytes: int) -> bytes:
    ones, steps = _steps(count, size_bytes)
    return (first * ones + steps).to_bytes(size_bytes * count, "big")


def ascending(first: int, count: int) -> array[int]:
    """``first``, ``first + 1``, ...: ``count`` numbers as ``array("q")``."""
    if first >= 0 and first + count <= len(_RAMP):
        return _RAMP[first : first + count]
    numbers = array("q", consecutive(first, count, 8))
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
