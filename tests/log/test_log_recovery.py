"""The recovery table of docs/FORMAT.md, case by case, on damage done by hand.

Each test builds a store of a few small segments, does to its files what the case says, and opens it: what is
kept, what is reported, what is refused, what is left alone. `after_reboot` means that no control page of
this boot tells how far the log was written, as after a power cut.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from log_support import (
    abandon,
    after_reboot,
    batch_positions,
    contents,
    flip,
    forget_recovery_point,
    partition_directory,
    scratch,
    segments,
    truncate,
    values,
)

import eventlog
from eventlog.errors import CorruptionError, EventLogError, StorageError
from eventlog.log.checkpoints import CLEAN_SHUTDOWN

BATCHES, EACH = 18, 3
VALUES = [b"%03d" % n + b"v" * 37 for n in range(BATCHES * EACH)]
SETTINGS: dict[str, Any] = {
    "segment_size_bytes_max": 1024,
    "index_interval_bytes": 100,
    "preallocation_bytes_max": 0,
}


def write(store: Path, **settings: Any) -> eventlog.EventLog:
    """A store left open, with 18 batches of three records in four segments."""
    log = eventlog.open(store)
    topic = log.topic("t", **SETTINGS | settings)
    for first in range(0, len(VALUES), EACH):
        topic.append_many(VALUES[first : first + EACH], timestamps_ms=range(first, first + EACH))
    return log


def closed_store(root: Path, **settings: Any) -> Path:
    write(root / "store", **settings).close()
    return root / "store"


def killed_store(root: Path, **settings: Any) -> Path:
    """The process was killed; the machine stayed up."""
    abandon(write(root / "store", **settings))
    return root / "store"


def cut_off_store(root: Path, **settings: Any) -> Path:
    """The machine lost power; nothing but the recovery point 0 says what had been durable."""
    log = write(root / "before", **settings)
    store = after_reboot(root / "before", root / "store")
    abandon(log)
    forget_recovery_point(store)
    return store


def active(store: Path) -> Path:
    return segments(store)[-1]


def last_batch(store: Path) -> tuple[int, int]:
    """Where the last batch of the active segment begins and ends."""
    first, end = batch_positions(active(store))[-2:]
    return first, end


def offset_at(log_file: Path, position: int) -> int:
    """Of the first record of the batch that begins there."""
    return int(log_file.stem) + EACH * batch_positions(log_file).index(position)


@dataclass(frozen=True)
class Mended:
    """Damage that opening mends."""

    name: str
    make: Callable[[Path], Path]
    damage: Callable[[Path], object] = lambda store: None
    lost_batches: int = 0
    """how many of the last ones are gone"""
    is_cut: bool = False
    """are bytes kept aside? All from the last whole batch on, but for zeros at the end"""

    @property
    def case(self) -> str:
        return self.name.split()[0]


@dataclass(frozen=True)
class Refused:
    """Damage that no crash explains: nothing is touched, and reading goes up to it."""

    name: str
    make: Callable[[Path], Path]
    damage: Callable[[Path], tuple[Path, int, int]]
    """does it and tells (path, position, offset) that the error has to name"""
    known: dict[str, Any] = field(default_factory=dict)

    @property
    def case(self) -> str:
        return self.name.split()[0]


def cut_inside(into: int) -> Callable[[Path], None]:
    """Cut the active file so many bytes into its last batch."""
    return lambda store: truncate(active(store), last_batch(store)[0] + into)


def overwrite(store: Path, into: int, data: bytes) -> None:
    with active(store).open("r+b") as file:
        file.seek(last_batch(store)[0] + into)
        file.write(data)


def add(data: bytes) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        with active(store).open("ab") as file:
            file.write(data)

    return damage


def remove(pattern: str) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        for path in partition_directory(store).glob(pattern):
            path.unlink()

    return damage


def zero_the_active_file(store: Path) -> None:
    path = active(store)
    path.write_bytes(bytes(path.stat().st_size))


def fill_meta_with_nonsense(store: Path) -> None:
    (store / "meta").mkdir(exist_ok=True)
    for name in ("data.mdb", "lock.mdb"):
        (store / "meta" / name).write_bytes(b"\xff" * 9999)


def tear_the_last_but_one(store: Path) -> None:
    """A page in the middle of what was not synced did not reach the disk; the one behind it did."""
    position = batch_positions(active(store))[-3]
    with active(store).open("r+b") as file:
        file.seek(position + 70)
        file.write(bytes(60))


MENDED = [
    Mended("C-A", closed_store),
    Mended("C-B killed", killed_store),
    Mended("C-B power cut", cut_off_store),
    Mended(
        "C-B a whole batch behind an empty recovery point",
        cut_off_store,
        lambda store: (store / "log" / "recovery-point-offset-checkpoint").unlink(),
    ),
    Mended(
        "C-B nothing but whole batches",
        cut_off_store,
        lambda store: truncate(active(store), last_batch(store)[0]),
        lost_batches=1,
    ),
    Mended("C-C short", cut_off_store, cut_inside(100), 1, is_cut=True),
    Mended("C-C short by one byte", cut_off_store, cut_inside(183), 1, is_cut=True),
    Mended("C-C short in the header", cut_off_store, cut_inside(30), 1, is_cut=True),
    Mended(
        "C-C one byte",
        cut_off_store,
        lambda store: (cut_inside(0)(store), add(b"\x01")(store)),
        1,
        is_cut=True,
    ),
    Mended(
        "C-C zeros inside",
        cut_off_store,
        lambda store: overwrite(store, 64, bytes(40)),
        1,
        is_cut=True,
    ),
    Mended(
        "C-C zeros at the end",
        cut_off_store,
        lambda store: overwrite(store, 100, bytes(200)),
        1,
        is_cut=True,
    ),
    Mended(
        "C-C CRC",
        cut_off_store,
        lambda store: flip(active(store), last_batch(store)[1] - 9),
        1,
        is_cut=True,
    ),
    Mended("C-C garbage behind", cut_off_store, add(b"\xde\xad" * 50), is_cut=True),
    Mended("C-C garbage behind, killed", killed_store, add(b"\xde\xad" * 50), is_cut=True),
    Mended("C-C garbage behind, clean", closed_store, add(b"\xde\xad" * 50), is_cut=True),
    Mended("C-C torn, then a whole one", cut_off_store, tear_the_last_but_one, 2, is_cut=True),
    Mended(
        "C-C old bytes show again",
        cut_off_store,
        lambda store: add(active(store).read_bytes()[:100])(store),
        is_cut=True,
    ),
    Mended("C-E no index", closed_store, remove("*.index")),
    Mended("C-E no time index", closed_store, remove("*.timeindex")),
    Mended(
        "C-E no index of the active segment",
        closed_store,
        lambda store: active(store).with_suffix(".index").unlink(),
    ),
    Mended(
        "C-E short index",
        closed_store,
        lambda store: truncate(segments(store)[0].with_suffix(".index"), 8),
    ),
    Mended(
        "C-E index backwards",
        closed_store,
        lambda store: (
            segments(store)[0]
            .with_suffix(".index")
            .write_bytes(segments(store)[0].with_suffix(".index").read_bytes()[::-1])
        ),
    ),
    Mended("C-F killed", lambda root: killed_store(root, preallocation_bytes_max=4096)),
    Mended("C-F power cut", lambda root: cut_off_store(root, preallocation_bytes_max=4096)),
    Mended("C-F nothing but zeros", cut_off_store, zero_the_active_file, 3),
    Mended("C-F more zeros than were reserved", cut_off_store, add(bytes(100_000))),
    Mended(
        "C-H no meta", closed_store, lambda store: shutil.rmtree(store / "meta", ignore_errors=True)
    ),
    Mended(
        "C-H meta full of nonsense",
        killed_store,
        fill_meta_with_nonsense,
    ),
]


@pytest.fixture
def root() -> Iterator[Path]:
    with scratch() as directory:
        yield directory


@pytest.mark.guarantee("G-07")
@pytest.mark.guarantee("G-08")
@pytest.mark.guarantee("G-15")
@pytest.mark.parametrize("mended", MENDED, ids=lambda mended: mended.name)
def test_recovery(root: Path, mended: Mended) -> None:
    store = mended.make(root)
    mended.damage(store)
    kept = VALUES[: len(VALUES) - EACH * mended.lost_batches]
    before = contents(store / "log")
    rest = active(store).read_bytes()
    position = sum(size for size in batch_sizes(rest, len(kept) - int(active(store).stem)))

    with eventlog.open(store, read_only=True) as reader:
        assert values(reader.topic("t")) == kept
    # The control page is shared memory: who waits and wakes is noted there.
    assert contents(store / "log") == before, "a reader changes nothing"

    log = eventlog.open(store)
    assert values(log.topic("t")) == kept
    assert log.topic("t").log_end_offset() == len(kept)
    reports = [report for report in log.recovery if report.topic == "t"]
    if mended.case != "C-H":  # the log does not even look at meta/
        (report,) = [each for each in reports if each.case == mended.case][:1]
        assert report.partition == 0
        if mended.case in ("C-A", "C-B", "C-C", "C-F"):
            report = reports[-1]
            place = (report.path, report.position, report.offset)
            assert place == (str(active(store)), position, len(kept))
    assert active(store).stat().st_size == position
    if mended.is_cut:
        (aside,) = (store / "cut").rglob("*.bytes")
        assert aside.read_bytes() == rest[position:].rstrip(b"\0") != b""
        assert str(aside) in reports[-1].detail
    else:
        assert not (store / "cut").exists()

    # A second time, after another crash: the same answer, and nothing left to do.
    abandon(log)
    log = eventlog.open(store)
    assert {report.case for report in log.recovery} <= {"C-B"}
    assert values(log.topic("t")) == kept

    # Writing goes on where it ended.
    assert log.topic("t").append(b"on").offset == len(kept)
    log.close()
    with eventlog.open(store) as log:
        assert {report.case for report in log.recovery} == {"C-A"}
        assert values(log.topic("t")) == [*kept, b"on"]


def batch_sizes(data: bytes, records: int) -> Iterator[int]:
    """Of as many batches as hold so many records."""
    position = 0
    for _ in range(0, records, EACH):
        size = int.from_bytes(data[position + 8 : position + 12], "big") + 12
        yield size
        position += size


# -- refused --------------------------------------------------------------------------------------


def flip_in(segment: int, batch: int, into: int = 80) -> Callable[[Path], tuple[Path, int, int]]:
    """One bit in one batch (both counted as in a list); the error names the batch's beginning."""

    def damage(store: Path) -> tuple[Path, int, int]:
        path = segments(store)[segment]
        position = batch_positions(path)[:-1][batch]
        offset = offset_at(path, position)
        flip(path, position + into)
        return path, position, offset

    return damage


def known_durable(
    damage: Callable[[Path], tuple[Path, int, int]],
) -> Callable[[Path], tuple[Path, int, int]]:
    """Damage, with the whole log below the recovery point."""

    def both(store: Path) -> tuple[Path, int, int]:
        place = damage(store)
        forget_recovery_point(store, len(VALUES))
        return place

    return both


def cut_the_active(into: int, batch: int = -1) -> Callable[[Path], tuple[Path, int, int]]:
    def damage(store: Path) -> tuple[Path, int, int]:
        path = active(store)
        position = batch_positions(path)[:-1][batch]
        offset = offset_at(path, position)
        truncate(path, position + into)
        return path, position, offset

    return damage


def cut_a_sealed(into: int) -> Callable[[Path], tuple[Path, int, int]]:
    """Into its last batch; 0 leaves whole batches only."""

    def damage(store: Path) -> tuple[Path, int, int]:
        path = segments(store)[1]
        position = batch_positions(path)[-2]
        offset = offset_at(path, position)
        truncate(path, position + into)
        if into == 0:  # then it is what should follow that is missing
            return path.with_name(f"{offset:020d}.log"), 0, offset
        return path, position, offset

    return damage


def zeros_in_a_sealed(store: Path) -> tuple[Path, int, int]:
    path = segments(store)[1]
    position, end = batch_positions(path)[-2:]
    offset = offset_at(path, position)
    with path.open("r+b") as file:
        file.seek(position)
        file.write(bytes(end - position))
    return path, position, offset


def lose(which: int, *, with_indexes: bool = True) -> Callable[[Path], tuple[Path, int, int]]:
    def damage(store: Path) -> tuple[Path, int, int]:
        path = segments(store)[which]
        path.unlink()
        if with_indexes:
            for suffix in (".index", ".timeindex"):
                path.with_suffix(suffix).unlink()
        return path, 0, int(path.stem)

    return damage


def lose_the_newest(store: Path) -> tuple[Path, int, int]:
    _, _, offset = lose(-1)(store)
    return active(store), active(store).stat().st_size, offset


def lose_all(store: Path) -> tuple[Path, int, int]:
    for path in segments(store):
        path.unlink()
    return partition_directory(store) / f"{0:020d}.log", 0, 0


REFUSED = [
    Refused("C-D rot in a sealed segment, power cut", cut_off_store, flip_in(1, 1)),
    Refused("C-D rot in a sealed segment, killed", killed_store, flip_in(1, 1)),
    Refused("C-D rot in the first batch of all", cut_off_store, flip_in(0, 0)),
    Refused("C-D rot in the last batch of a sealed segment", cut_off_store, flip_in(2, -1)),
    Refused("C-D rot in the active segment, killed", killed_store, flip_in(-1, 0)),
    Refused("C-D rot in the last batch, killed", killed_store, flip_in(-1, -1)),
    Refused("C-D rot below the recovery point", cut_off_store, known_durable(flip_in(-1, -1))),
    Refused("C-D torn below the recovery point", cut_off_store, known_durable(cut_the_active(100))),
    Refused(
        "C-D whole batches gone below the recovery point",
        cut_off_store,
        known_durable(cut_the_active(0)),
    ),
    Refused("C-D torn while the machine stayed up", killed_store, cut_the_active(100)),
    Refused(
        "C-D whole batches gone while the machine stayed up", killed_store, cut_the_active(0, -2)
    ),
    Refused("C-D torn after a clean close", closed_store, cut_the_active(100)),
    Refused("C-D whole batches gone after a clean close", closed_store, cut_the_active(0)),
    Refused("C-D a sealed segment torn", cut_off_store, cut_a_sealed(100)),
    Refused("C-D a sealed segment ends in zeros", cut_off_store, zeros_in_a_sealed),
    Refused("C-D a base offset that leaps", cut_off_store, flip_in(1, 1, into=5)),
    Refused("C-D a base offset that goes back", cut_off_store, flip_in(1, 1, into=7)),
    Refused(
        "C-D the last base offset of a sealed segment leaps", cut_off_store, flip_in(1, -1, into=3)
    ),
    Refused("C-J whole batches gone from a sealed segment", cut_off_store, cut_a_sealed(0)),
    Refused("C-J a middle segment missing, clean", closed_store, lose(1)),
    Refused("C-J a middle segment missing, power cut", cut_off_store, lose(2)),
    Refused(
        "C-J a middle segment missing, its indexes left", killed_store, lose(1, with_indexes=False)
    ),
    Refused("C-J the first segment missing, clean", closed_store, lose(0)),
    Refused("C-J the first segment missing, power cut", cut_off_store, lose(0)),
    Refused("C-D the newest segment missing, clean", closed_store, lose_the_newest),
    Refused("C-D the newest segment missing, killed", killed_store, lose_the_newest),
    Refused("C-J all segments missing", closed_store, lose_all),
]


@pytest.mark.guarantee("G-14")
@pytest.mark.guarantee("G-15")
@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused.name)
def test_recovery_refuses(root: Path, refused: Refused) -> None:
    store = refused.make(root)
    path, position, offset = refused.damage(store)
    before = segment_files(store)

    for _ in range(3):  # nothing that an attempt does changes the answer of the next
        with pytest.raises(CorruptionError, match=r"nothing was changed.*read_only=True") as caught:
            eventlog.open(store)
        error = caught.value
        assert (error.case, error.path, error.position, error.offset) == (
            refused.case,
            str(path),
            position,
            offset,
        )
        assert error.fields["topic"] == "t"
        assert segment_files(store) == before
    assert not (store / "cut").exists()

    for _ in range(2):
        with eventlog.open(store, read_only=True) as log:
            topic = log.topic("t")
            read: list[Any] = []
            with pytest.raises(CorruptionError):
                read.extend(topic.read())
            first = topic.log_start_offset()
            assert [record.value for record in read] == VALUES[first : max(offset, first)]
            with pytest.raises(CorruptionError):
                values(topic)
            with pytest.raises(CorruptionError):
                list(topic.read(start_time_ms=offset))
            for start in range(first, offset):
                assert values(topic, start=start, end=offset) == VALUES[start:offset]
    assert segment_files(store) == before


def segment_files(store: Path) -> dict[str, bytes]:
    """All that the log consists of; not what a writer notes while it looks."""
    return contents(partition_directory(store))


@pytest.mark.guarantee("G-15")
@pytest.mark.parametrize("durability", ["sync", "os"])
def test_recovery_by_reach(root: Path, durability: str) -> None:
    """C-C or C-D: a partition that promises sync has never more than 8 MiB and two batches unsynced. What
    lies further apart proves that the bad batch was durable; under os nothing does."""
    large = {
        "durability": durability,
        "segment_size_bytes_max": 64 << 20,
        "batch_size_bytes_max": 1 << 20,
        "index_interval_bytes": 4096,
    }
    log = write(root / "before", **large)
    for n in range(24):
        log.topic("t").append(b"%02d" % n + bytes(999_000) + b"end", durability="os")
    store = after_reboot(root / "before", root / "store")
    abandon(log)
    forget_recovery_point(store)
    path = active(store)
    positions = batch_positions(path)
    reach = (8 << 20) + 2 * (1 << 20)
    near = next(p for p in positions if positions[-1] - p <= reach)
    far = positions[positions.index(near) - 3]
    flip(path, near + 100)
    offset = len(VALUES) + positions.index(near)  # they are much younger: the segment was rolled
    with eventlog.open(store) as log:
        assert [report.case for report in log.recovery] == ["C-C"]
        assert log.topic("t").log_end_offset() == offset
    store = after_reboot(root / "before", root / "again")
    forget_recovery_point(store)
    flip(active(store), far + 100)
    if durability == "os":
        eventlog.open(store).close()
    else:
        with pytest.raises(CorruptionError, match="C-D"):
            eventlog.open(store)


@pytest.mark.guarantee("G-07")
def test_recovery_at_every_truncation_point(root: Path) -> None:
    """C-B, C-C, C-F: whatever length the active file was left with, what is whole is kept, and no more."""
    log = eventlog.open(root / "before")
    topic = log.topic("t", preallocation_bytes_max=0)
    for n in range(3):
        topic.append_many([b"%d" % n] * 2, keys=b"k")
    model = after_reboot(root / "before", root / "model")
    abandon(log)
    forget_recovery_point(model)
    data, positions = active(model).read_bytes(), batch_positions(active(model))
    for size in range(positions[-1] + 1):
        store = after_reboot(model, root / "store")
        truncate(active(store), size)
        whole = sum(position <= size for position in positions) - 1
        expected = [b"%d" % n for n in range(whole) for _ in range(2)]
        with eventlog.open(store, read_only=True) as reader:
            assert values(reader.topic("t")) == expected
        with eventlog.open(store) as log:
            rest = data[positions[whole] : size]
            case = "C-C" if rest.strip(b"\0") else "C-F" if rest else "C-B"
            assert [report.case for report in log.recovery] == [case]
            assert values(log.topic("t")) == expected
            assert log.topic("t").append(b"on").offset == 2 * whole
        with eventlog.open(store) as log:
            assert values(log.topic("t")) == [*expected, b"on"]
        shutil.rmtree(store)


@pytest.mark.guarantee("G-14")
@pytest.mark.guarantee("G-26")
@pytest.mark.parametrize("make", [closed_store, cut_off_store])
def test_a_flipped_bit_anywhere_is_never_other_data(
    root: Path, make: Callable[[Path], Path], rng: random.Random
) -> None:
    """In any byte of any file, metadata too: the same records, or an error; never others, never fewer,
    never a quiet end. (As far as it was known to be durable: the recovery point is at the end here.)"""
    model = make(root)
    forget_recovery_point(model, len(VALUES)) if make is cut_off_store else None
    flip_and_look(root, model, rng, places_max=12)


@pytest.mark.deep
@pytest.mark.parametrize("make", [closed_store, cut_off_store])
def test_every_byte_flipped(root: Path, make: Callable[[Path], Path], rng: random.Random) -> None:
    model = make(root)
    forget_recovery_point(model, len(VALUES)) if make is cut_off_store else None
    flip_and_look(root, model, rng, places_max=10**9)


def flip_and_look(root: Path, model: Path, rng: random.Random, places_max: int) -> None:
    flipped = root / "flipped"
    for name, data in contents(model).items():
        for place in rng.sample(range(len(data)), min(len(data), places_max)):
            shutil.copytree(model, flipped)
            flip(flipped / name, place, bit := rng.randrange(8))
            for read_only in (True, False):
                try:
                    with eventlog.open(flipped, read_only=read_only) as log:
                        check_reading(log.topic("t"))
                except EventLogError:
                    pass  # refused
                except BaseException as error:
                    error.add_note(f"bit {bit} of byte {place} of {name}, read_only={read_only}")
                    raise
            shutil.rmtree(flipped)


def check_reading(topic: Any) -> None:
    read: list[Any] = []
    try:
        for chunk in topic.read_batches(take="tuples", batch_count=5):
            read += chunk
        is_whole = True
    except CorruptionError:
        is_whole = False
    assert [row[3] for row in read] == VALUES[: len(read)]
    assert [row[0] for row in read] == [row[1] for row in read] == list(range(len(read)))
    assert not is_whole or len(read) == len(VALUES)
    for stamp in range(0, len(VALUES) + 2, 7):
        with contextlib.suppress(CorruptionError):
            assert topic.offset_for_time(stamp) == min(stamp, len(VALUES))
            assert values(topic, start=min(stamp, len(VALUES))) == VALUES[stamp:]


@pytest.mark.guarantee("G-14")
@pytest.mark.parametrize("count", [-1, 0, 1, 2, 4, 9, 10_001, 2**40])
def test_a_damaged_number_of_partitions_is_refused(root: Path, count: int) -> None:
    """Fewer would hide records, more would send keys elsewhere, and very many would fill the disk."""
    with eventlog.open(root) as log:
        topic = log.topic("t", partitions=3)
        for number in range(3):
            topic.append(b"%d" % number, partition=number)
    good = (root / "topics.json").read_text()
    (root / "topics.json").write_text(good.replace('"partitions": 3', f'"partitions": {count}'))
    before = contents(root / "log")
    for read_only in (True, False):
        with pytest.raises(StorageError, match=r"'t' has .*topics.json.*backup"):
            eventlog.open(root, read_only=read_only)
    assert contents(root / "log") == before
    (root / "topics.json").unlink()
    with eventlog.open(root) as log:
        assert [values(log.topic("t"), number) for number in range(3)] == [[b"0"], [b"1"], [b"2"]]


def test_a_directory_that_only_looks_like_a_partition(root: Path) -> None:
    eventlog.open(root).close()
    (root / "log" / "backup-20261121").mkdir()
    with pytest.raises(StorageError, match=r"'backup' has 20261122 partitions"):
        eventlog.open(root)
    (root / "log" / "backup-20261121").rmdir()
    eventlog.open(root).close()


def test_a_clean_marker_is_gone_as_soon_as_the_store_is_open(root: Path) -> None:
    store = closed_store(root)
    assert (store / "log" / CLEAN_SHUTDOWN).exists()
    with eventlog.open(store, read_only=True):
        assert (store / "log" / CLEAN_SHUTDOWN).exists()
    with eventlog.open(store):
        assert not (store / "log" / CLEAN_SHUTDOWN).exists()
    assert (store / "log" / CLEAN_SHUTDOWN).exists()


@pytest.mark.guarantee("G-10")
def test_what_a_crash_left_under_temporary_names_is_removed(root: Path) -> None:
    store = killed_store(root)
    directory = partition_directory(store)
    for name in ("00000000000000000048.log.tmp", "00000000000000000000.index.tmp"):
        (directory / name).write_bytes(b"half")
    (directory / "00000000000000000048.index").write_bytes(b"")
    (directory / "00000000000000000048.timeindex").write_bytes(b"")
    with eventlog.open(store) as log:
        assert values(log.topic("t")) == VALUES
    assert not list(directory.glob("*.tmp"))
    assert not list(directory.glob("*48.*"))


def test_a_store_whose_every_derived_thing_is_gone(root: Path) -> None:
    """Only the segments are left: topics are found by their directories."""
    store = closed_store(root)
    for name in ("meta", "run"):
        shutil.rmtree(store / name, ignore_errors=True)
    (store / "topics.json").unlink()
    for path in (store / "log").iterdir():
        if path.is_file():
            path.unlink()
    for path in partition_directory(store).iterdir():
        if path.suffix != ".log":
            path.unlink()
    with eventlog.open(store) as log:
        assert log.topics() == ["t"]
        assert values(log.topic("t")) == VALUES
        assert log.topic("t").append(b"on").offset == len(VALUES)
