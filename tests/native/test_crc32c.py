"""CRC-32C: every route that this machine has, against crcmod and so against each other."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import crcmod.predefined
import pytest

from eventlog._native import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Iterator

crcmod_crc32c = crcmod.predefined.mkCrcFun("crc-32c")

LENGTHS = range(1101)
ALIGNMENT = 64


def route_names() -> Iterator[str]:
    route = 0
    while (name := lib.el_crc32c_route_name(route)) != ffi.NULL:
        yield ffi.string(name).decode()
        route += 1


ROUTES = list(route_names())


def crc_by(route: int, data: Any, size: int) -> int:
    available = ffi.new("int32_t *")
    crc: int = lib.el_crc32c_route(route, data, size, available)
    assert available[0] == 1
    return crc


def aligned(size: int) -> tuple[Any, Any]:
    """(what keeps the memory alive, a 64-byte aligned pointer to ``size`` bytes of it)"""
    memory = ffi.new("char[]", size + ALIGNMENT)
    misaligned_by = int(ffi.cast("uintptr_t", memory)) % ALIGNMENT
    return memory, memory + (ALIGNMENT - misaligned_by)


@pytest.fixture(params=range(len(ROUTES)), ids=ROUTES)
def route(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    available = ffi.new("int32_t *")
    lib.el_crc32c_route(number, b"", 0, available)
    if not available[0]:
        pytest.skip(f"this processor has no {ROUTES[number]}")
    return number


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0x00000000),
        (b"123456789", 0xE3069283),  # the check value of the CRC catalogue
        (bytes(32), 0x8A9136AA),  # RFC 3720, B.4, this and the next three
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_published_values(route: int, data: bytes, crc: int) -> None:
    assert crc_by(route, data, len(data)) == crc


def test_every_small_length_at_every_alignment(route: int) -> None:
    data = random.Random(1).randbytes(LENGTHS[-1])
    expected = [0]
    for at in range(len(data)):
        expected.append(crcmod_crc32c(data[at : at + 1], expected[-1]))
    assert expected[-1] == crcmod_crc32c(data)
    _memory, begin = aligned(len(data) + 16)
    for shift in range(16):
        ffi.memmove(begin + shift, data, len(data))
        for length in LENGTHS:
            assert crc_by(route, begin + shift, length) == expected[length], (shift, length)


def test_lengths_around_every_change_of_method(route: int) -> None:
    """Blocks of 24 to 3072 bytes, chunks of 64, folds of 512 and 1024: one byte more, one less."""
    data = random.Random(2).randbytes(16_384)
    for middle in [*range(1024, 4096, 64), *range(4096, 16_384, 512), 3072, 6144, 9216, 12_288]:
        for length in range(middle - 5, middle + 6):
            assert crc_by(route, data, length) == crcmod_crc32c(data[:length]), length


@pytest.mark.parametrize("seed", range(6))
def test_large_random_buffers(route: int, seed: int) -> None:
    rng = random.Random(seed)
    size = rng.randrange(50_000, 400_000)
    shift = rng.randrange(64)
    data = rng.randbytes(size)
    _memory, begin = aligned(size + shift)
    ffi.memmove(begin + shift, data, size)
    assert crc_by(route, begin + shift, size) == crcmod_crc32c(data)


def test_bytes_around_do_not_matter(route: int) -> None:
    """Routes that read past the end or before the beginning would see the other surroundings."""
    for length in (1, 3, 7, 63, 64, 65, 127, 200, 1023, 1030, 3080):
        data = random.Random(length).randbytes(length)
        crcs = set()
        for around in (b"\x00" * 64, b"\xff" * 64):
            memory = ffi.from_buffer(around + data + around)
            crcs.add(crc_by(route, memory + 64, length))
        assert crcs == {crcmod_crc32c(data)}


def test_the_route_in_use_is_the_last_that_is_available() -> None:
    available = ffi.new("int32_t *")
    names = []
    for number, name in enumerate(ROUTES):
        lib.el_crc32c_route(number, b"", 0, available)
        if available[0]:
            names.append(name)
    assert names[0] == "table"
    assert ffi.string(lib.el_crc32c_route_name(-1)).decode() == names[-1]
    data = random.Random(3).randbytes(1000)
    assert lib.el_crc32c_of(data, len(data)) == crcmod_crc32c(data)


@pytest.mark.parametrize("number", [-2, -1, len(ROUTES), 1000])
def test_a_route_that_does_not_exist_is_not_available(number: int) -> None:
    available = ffi.new("int32_t *", 1)
    assert lib.el_crc32c_route(number, b"abc", 3, available) == 0
    assert available[0] == 0
