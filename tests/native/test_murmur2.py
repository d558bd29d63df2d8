"""The hash of Kafka's default partitioner."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog._native import lib


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # from Kafka's own UtilsTest
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_as_kafka_has_it(data: bytes, expected: int) -> None:
    assert lib.el_murmur2(data, len(data)) == expected % 2**32


def murmur2(data: bytes) -> int:
    factor, mask = 0x5BD1E995, 2**32 - 1
    result = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * factor & mask
        result = result * factor & mask ^ (word ^ word >> 24) * factor & mask
    if data[whole:]:
        result = (result ^ int.from_bytes(data[whole:], "little")) * factor & mask
    result = (result ^ result >> 13) * factor & mask
    return result ^ result >> 15


@given(st.binary(max_size=40))
@settings(deadline=None, max_examples=100)
def test_murmur2_of_any_bytes(data: bytes) -> None:
    assert lib.el_murmur2(data, len(data)) == murmur2(data)
