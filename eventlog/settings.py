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
    "retention_ms": (-1, 2**62),
    "retention_size_bytes": (-1, 2**62),
    "retention_count": (-1, 2**62),
    "min_compaction_lag_ms": (0, 2**62),
    "max_compaction_lag_ms": (-1, 2**62),
    "delete_retention_ms": (0, 2**62),
    "compaction_map_size_bytes": (4 * KIB, 8 * GIB),
}
CLEANUP_POLICIES = ("none", "delete", "compact", "compact,delete")


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
        cleanup_policy: ``"none"``: everything is kept. ``"delete"``: whole segments go, by the three
            settings below. ``"compact"``: of each key the last record is kept, and a record without a
            key is refused. ``"compact,delete"``: both.
        retention_ms: a segment goes once its youngest record is older; -1: not for its age.
        retention_size_bytes: the oldest segments go while at least so much remains; -1: not for size.
        retention_count: the oldest segments go while at least so many offsets remain; -1: not for that.
        retention_waits_for_groups: nothing goes that a consumer group has not committed past.
        min_cleanable_dirty_ratio: compact once this share of the sealed bytes is new since the last
            time; 0 .. 1.
        min_compaction_lag_ms: records younger than this are left alone.
        max_compaction_lag_ms: compact, whatever the ratio, once a record that is new since the last time
            is older; -1: never.
        delete_retention_ms: a tombstone stays for so long after it was compacted the first time, so that
            readers see it.
        compaction_map_size_bytes: memory for the keys of one compaction, 4 KiB .. 8 GiB; 24 bytes a key. If
            there are more, the rest waits for the next time.
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
    cleanup_policy: Literal["none", "delete", "compact", "compact,delete"] = "none"
    retention_ms: int = -1
    retention_size_bytes: int = -1
    retention_count: int = -1
    retention_waits_for_groups: bool = False
    min_cleanable_dirty_ratio: float = 0.5
    min_compaction_lag_ms: int = 0
    max_compaction_lag_ms: int = -1
    delete_retention_ms: int = 24 * 3_600_000
    compaction_map_size_bytes: int = 64 * MIB

    def __post_init__(self) -> None:
        if self.durability not in DURABILITIES:
            raise _outside("durability", self.durability, f"one of {', '.join(DURABILITIES)}")
        if self.compression not in COMPRESSIONS:
            raise _outside("compression", self.compression, f"one of {', '.join(COMPRESSIONS)}")
        if self.cleanup_policy not in CLEANUP_POLICIES:
            raise _outside(
                "cleanup_policy", self.cleanup_policy, f"one of {'; '.join(CLEANUP_POLICIES)}"
            )
        if type(self.retention_waits_for_groups) is not bool:
            raise _outside(
                "retention_waits_for_groups", self.retention_waits_for_groups, "True or False"
            )
        ratio = self.min_cleanable_dirty_ratio
        if type(ratio) not in (int, float) or not 0 <= ratio <= 1:
            raise _outside("min_cleanable_dirty_ratio", ratio, "a number from 0 to 1")
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

    @property
    def deletes(self) -> bool:
        """Whether old segments go."""
        return "delete" in self.cleanup_policy

    @property
    def compacts(self) -> bool:
        """Whether only the last record of each key is kept."""
        return "compact" in self.cleanup_policy

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
