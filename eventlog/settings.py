"""Settings of a topic, with their limits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from eventlog.errors import SettingError

Durability = Literal["sync", "interval", "os"]
DURABILITIES: tuple[Durability, ...] = ("sync", "interval", "os")
COMPRESSIONS = ("none", "zstd")
SEGMENT_MS_MAX = 2**62

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_LIMITS: dict[str, tuple[int, int]] = {
    "interval_ms": (1, 3_600_000),
    "segment_size_bytes_max": (1 * KIB, 2 * GIB - 1),
    "segment_ms": (1, SEGMENT_MS_MAX),
    "batch_size_bytes_max": (256, 1 * GIB),
    "index_interval_bytes": (0, 1 * GIB),
    "index_size_bytes_max": (24, 1 * GIB),
    "preallocation_bytes_max": (0, 1 * GIB),
    "compression_level": (1, 19),
    "compression_size_bytes_min": (0, 1 * GIB),
    "gather_us": (0, 10_000),
}


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """What a topic is kept like. Every field may differ from topic to topic.

    Attributes:
        durability: what ``append`` waits for, unless a call says otherwise. ``"sync"``: an fdatasync
            that covers it, so it survives power loss. ``"interval"``: the page cache; an fdatasync
            follows within ``interval_ms``, which is what a power cut can take back. ``"os"``: the
            page cache; a power cut can take back what the operating system had not written. All
            three survive the kill of the process.
        interval_ms: see ``durability``; 1 .. 3,600,000 ms.
        segment_size_bytes_max: a segment is closed before it would grow past this; 1 KiB .. 2 GiB-1.
        segment_ms: ... or once a record is so much younger than the segment's first, in record time.
        batch_size_bytes_max: largest batch (one call of ``append_many``), encoded; 256 B .. 1 GiB.
        index_interval_bytes: bytes of log between two index entries (Kafka's index.interval.bytes).
        index_size_bytes_max: largest index file (Kafka's segment.index.bytes).
        preallocation_bytes_max: largest step in which room is reserved ahead of the writes; 0: none.
        compression: ``"none"`` or ``"zstd"``.
        compression_level: of zstd, 1 .. 19.
        compression_size_bytes_min: batches smaller than this are left uncompressed.
        gather_us: longest time that an fdatasync waits for other writers to join it, microseconds.
    """

    durability: Durability = "sync"
    interval_ms: int = 1_000
    segment_size_bytes_max: int = 1 * GIB
    segment_ms: int = 7 * 24 * 3_600_000
    batch_size_bytes_max: int = 16 * MIB
    index_interval_bytes: int = 4 * KIB
    index_size_bytes_max: int = 10 * MIB
    preallocation_bytes_max: int = 64 * MIB
    compression: Literal["none", "zstd"] = "none"
    compression_level: int = 1
    compression_size_bytes_min: int = 4 * KIB
    gather_us: int = 50

    def __post_init__(self) -> None:
        if self.durability not in DURABILITIES:
            raise _outside("durability", self.durability, f"one of {', '.join(DURABILITIES)}")
        if self.compression not in COMPRESSIONS:
            raise _outside("compression", self.compression, f"one of {', '.join(COMPRESSIONS)}")
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise _outside(name, value, f"a whole number from {least:,} to {most:,}")

    def changed(self, **changes: Any) -> TopicSettings:
        """These settings with some changed.

        Raises:
            SettingError: an unknown name, or a value outside its limits.
        """
        for name in changes:
            if name not in SETTING_NAMES:
                raise SettingError(
                    f"there is no setting {name!r}",
                    hint=f"Known are: {', '.join(sorted(SETTING_NAMES))}",
                    setting=name,
                    value=changes[name],
                )
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """All of them by name."""
        return asdict(self)


SETTING_NAMES = frozenset(field.name for field in fields(TopicSettings))


def _outside(name: str, value: object, limits: str) -> SettingError:
    return SettingError(
        f"setting {name} is {value!r}", hint=f"It has to be {limits}", setting=name, value=value
    )


def check_durability(durability: str) -> Durability:
    """The argument, if it is one of the three.

    Raises:
        SettingError: it is not.
    """
    for known in DURABILITIES:
        if durability == known:
            return known
    raise _outside("durability", durability, f"one of {', '.join(DURABILITIES)}")
