"""Compressing and decompressing the records of a batch, by Kafka's codecs.

zstd is written; gzip, snappy and lz4 are read where their library is there. A codec's output is
bounded: a damaged or hostile batch cannot make the process grow without limit.

python-zstandard was chosen over libzstd from C: it is a wheel on every platform, gives up the GIL, and
costs one copy more of the compressed bytes, which measured as noise beside the compression itself.
"""

from __future__ import annotations

import threading
import zlib

import zstandard

from eventlog.errors import CompressionUnavailableError, CorruptionError

ZSTD = 4
CODECS = {0: "none", 1: "gzip", 2: "snappy", 3: "lz4", ZSTD: "zstd"}
DECOMPRESSED_SIZE_BYTES_MAX = 256 * 1024 * 1024
WINDOW_SIZE_BYTES_MAX = 128 * 1024 * 1024

_XERIAL_BLOCK_SIZE = 32 * 1024
_XERIAL = b"\x82SNAPPY\x00"
_local = threading.local()  # zstandard's objects may not be used by two threads at once


def compress_zstd(data: memoryview | bytes, level: int) -> bytes:
    """One zstd frame with its content size."""
    compressors = _local.__dict__.setdefault("compressors", {})
    if level not in compressors:
        compressors[level] = zstandard.ZstdCompressor(level=level)
    result: bytes = compressors[level].compress(data)
    return result


def compress(codec: int, data: bytes, level: int) -> bytes:
    """Records compressed as Kafka's readers take them; ``level``: of zstd.

    Raises:
        CompressionUnavailableError: the codec's library is not installed.
    """
    if codec == ZSTD:
        return compress_zstd(data, level)
    return _COMPRESS[codec](data)


def decompress(codec: int, data: bytes) -> bytes:
    """The records of a batch, decompressed.

    Raises:
        CompressionUnavailableError: the codec's library is not installed.
        CorruptionError: not what the codec wrote, or larger than 256 MiB.
    """
    try:
        result = _DECOMPRESS[codec](data)
    except (CompressionUnavailableError, CorruptionError, MemoryError):
        raise
    except Exception as error:  # each library has errors of its own
        raise CorruptionError(
            f"a batch cannot be decompressed ({CODECS[codec]}): {error}"
        ) from error
    if len(result) > DECOMPRESSED_SIZE_BYTES_MAX:
        raise _too_large()
    return result


def _too_large() -> CorruptionError:
    return CorruptionError(
        f"a batch decompresses to more than {DECOMPRESSED_SIZE_BYTES_MAX:,} bytes"
    )


def _zstd(data: bytes) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_SIZE_BYTES_MAX)
    parameters = zstandard.get_frame_parameters(data)
    known = parameters.content_size
    if known in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
        return _bounded(decompressor.decompressobj().decompress, data)
    if known > DECOMPRESSED_SIZE_BYTES_MAX:
        raise _too_large()
    return decompressor.decompress(data)


def _bounded(feed: object, data: bytes, step: int = 64 * 1024) -> bytes:
    out = bytearray()
    for start in range(0, len(data), step):
        out += feed(data[start : start + step])  # type: ignore[operator]
        if len(out) > DECOMPRESSED_SIZE_BYTES_MAX:
            raise _too_large()
    return bytes(out)


def _gzip(data: bytes) -> bytes:
    inflater = zlib.decompressobj(wbits=31)
    out = inflater.decompress(data, DECOMPRESSED_SIZE_BYTES_MAX + 1)
    if len(out) <= DECOMPRESSED_SIZE_BYTES_MAX and not inflater.eof:
        raise ValueError("the gzip stream ends too early")
    return out


def _to_gzip(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=31)
    return deflater.compress(data) + deflater.flush()


def _to_snappy(data: bytes) -> bytes:
    try:
        import cramjam
    except ImportError:
        raise _unavailable("snappy") from None
    out = bytearray(_XERIAL + b"\0\0\0\1\0\0\0\1")
    for start in range(0, len(data), _XERIAL_BLOCK_SIZE):
        block = bytes(cramjam.snappy.compress_raw(data[start : start + _XERIAL_BLOCK_SIZE]))
        out += len(block).to_bytes(4, "big") + block
    return bytes(out)


def _to_lz4(data: bytes) -> bytes:
    try:
        import lz4.frame
    except ImportError:
        raise _unavailable("lz4") from None
    # Java's reader refuses blocks that depend on each other.
    result: bytes = lz4.frame.compress(data, block_linked=False)
    return result


def _snappy(data: bytes) -> bytes:
    try:
        import cramjam
    except ImportError:
        raise _unavailable("snappy") from None

    def raw(block: bytes) -> bytes:
        if cramjam.snappy.decompress_raw_len(block) > DECOMPRESSED_SIZE_BYTES_MAX:
            raise _too_large()
        return bytes(cramjam.snappy.decompress_raw(block))

    if not data.startswith(_XERIAL):
        return raw(data)
    out = bytearray()
    position = 16
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        out += raw(data[position + 4 : position + 4 + size])
        position += 4 + size
        if len(out) > DECOMPRESSED_SIZE_BYTES_MAX:
            raise _too_large()
    return bytes(out)


def _lz4(data: bytes) -> bytes:
    try:
        import lz4.frame
    except ImportError:
        raise _unavailable("lz4") from None
    return _bounded(lz4.frame.LZ4FrameDecompressor().decompress, data)


def _unavailable(codec: str) -> CompressionUnavailableError:
    return CompressionUnavailableError(
        f"a batch is compressed with {codec}, and its library is not installed",
        hint=f'pip install "eventlog-engine[{codec}]"',
        codec=codec,
    )


_DECOMPRESS = {1: _gzip, 2: _snappy, 3: _lz4, ZSTD: _zstd}
_COMPRESS = {1: _to_gzip, 2: _to_snappy, 3: _to_lz4}
