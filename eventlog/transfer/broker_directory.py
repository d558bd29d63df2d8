"""A directory with partition directories in it: a broker's log.dirs, or a copy of one.

A new partition directory is made under a temporary name and then takes its place. The temporary names
are of the form that brokers give to what they are about to delete: a broker that is started after an
interruption deletes them, and it does not start beside names of any other form.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from eventlog._native import check, lib, os_error, path_bytes
from eventlog.errors import LockedError
from eventlog.log import checkpoints
from eventlog.log.topics_file import partition_directories

INTERNAL_TOPICS = frozenset(
    {"__cluster_metadata", "__consumer_offsets", "__share_group_state", "__transaction_state"}
)
_NAME_LENGTH_MAX = 255
_NEW, _FORMER = "eventlog-new", "eventlog-former"  # where Kafka has a random UUID
_TEMPORARY = re.compile(rf"(?P<name>.+)\.(?P<kind>{_NEW}|{_FORMER})-delete")


class BrokerDirectory:
    """See above. Not thread-safe.

    Attributes:
        path: of the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def is_of_broker(self) -> bool:
        """Does a broker own it?"""
        return (self.path / checkpoints.META_PROPERTIES).is_file()

    @property
    def was_stopped_cleanly(self) -> bool:
        """Did the broker that owns it say so?"""
        return (self.path / checkpoints.CLEAN_SHUTDOWN).exists()

    @contextmanager
    def locked(self, *, to_change: bool) -> Iterator[None]:
        """No broker starts on it meanwhile.

        Args:
            to_change: False: others may do so too, as long as no broker runs.

        Raises:
            LockedError: a broker runs on it.
            StorageError: the lock cannot be taken.
        """
        path = self.path / ".lock"
        if not path.exists():
            yield
            return
        try:
            with path.open("r+b" if to_change else "rb") as file:
                how = fcntl.LOCK_EX if to_change else fcntl.LOCK_SH
                try:
                    fcntl.lockf(file, how | fcntl.LOCK_NB)  # as Java does it
                except (BlockingIOError, PermissionError) as error:
                    raise LockedError(
                        f"a broker runs on {self.path}", hint="Stop it first", path=str(self.path)
                    ) from error
                yield
        except OSError as error:
            raise os_error(error.errno or 0, str(path), "cannot lock the directory") from error

    # -- partitions -----------------------------------------------------------------------------

    def partitions(self) -> dict[tuple[str, int], Path]:
        """Directories of the partitions by topic and number."""
        return {
            (topic, number): path
            for topic, number, path in sorted(partition_directories(self.path))
        }

    def partition(self, name: str) -> Path:
        """Directory of a partition, whether it is there or not."""
        return self.path / name

    def has_records(self, name: str) -> bool:
        """Is there anything in the segments of a partition?"""
        return any(path.stat().st_size for path in self.partition(name).glob("*.log"))

    # -- making new ones ------------------------------------------------------------------------

    def make(self) -> None:
        """Make the directory itself where it is missing."""
        for directory in reversed([self.path, *self.path.parents]):
            if not directory.exists():
                check(lib.el_file_mkdir(path_bytes(directory)))

    def mend(self) -> None:
        """End what an interrupted call began: each partition is as it was, or as it was to become."""
        for path in sorted(self.path.iterdir()) if self.path.is_dir() else ():
            found = _TEMPORARY.fullmatch(path.name)
            if found is None or not path.is_dir():
                continue
            place = self.partition(found["name"])
            if found["kind"] == _FORMER and not place.exists():
                check(lib.el_file_rename(path_bytes(path), path_bytes(place)))
            else:
                shutil.rmtree(path)

    def stage(self, name: str) -> Path:
        """An empty directory from which a partition's new one is made."""
        path = self._temporary(name, _NEW)
        check(lib.el_file_mkdir(path_bytes(path)))
        return path

    def put(self, name: str) -> None:
        """Let the staged directory, which has to be durable, take the place of the partition's."""
        place, former = self.partition(name), self._temporary(name, _FORMER)
        if place.exists():
            check(lib.el_file_rename(path_bytes(place), path_bytes(former)))
        check(lib.el_file_rename(path_bytes(self._temporary(name, _NEW)), path_bytes(place)))
        shutil.rmtree(former, ignore_errors=True)

    def unstage(self, names: Iterable[str], *, is_new: bool) -> None:
        """Forget staged directories that were not put in place, and the directory itself if it is new."""
        for name in names:
            shutil.rmtree(self._temporary(name, _NEW), ignore_errors=True)
        if is_new:
            with suppress(OSError):  # not empty: some were put in place
                self.path.rmdir()

    def _temporary(self, name: str, kind: str) -> Path:
        return self.path / f"{name}.{kind}-delete"

    # -- checkpoints ----------------------------------------------------------------------------

    def offsets(self, checkpoint: str) -> checkpoints.Offsets:
        """What one of the broker's checkpoint files says."""
        return checkpoints.read_offsets(self.path / checkpoint)

    def change_offsets(
        self,
        checkpoint: str,
        places: Collection[tuple[str, int]],
        offsets: Mapping[tuple[str, int], int],
    ) -> None:
        """Set lines of a checkpoint file; those of ``places`` that get none are taken out."""
        former = self.offsets(checkpoint)
        kept = {place: offset for place, offset in former.items() if place not in places}
        changed = {**kept, **offsets}
        if changed != former or not (self.path / checkpoint).exists():
            checkpoints.write_offsets(self.path / checkpoint, changed)


def is_too_long(name: str) -> bool:
    """Would the temporary name of a partition's directory be too long for a file name?"""
    return len(os.fsencode(f"{name}.{_FORMER}-delete")) > _NAME_LENGTH_MAX
