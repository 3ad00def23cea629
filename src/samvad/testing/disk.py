# ruff: noqa: N802 (the methods carry the names of sqlite3_vfs and sqlite3_io_methods)
"""A disk under SQLite that records what is asked of it, and fails on demand.

`RecordingDisk` is an apsw VFS over the platform's own. It performs every operation for real and appends it
to `log` once done; `samvad.testing.powerloss` turns a prefix of that log into the disks that could be found
after the power went at that moment. Readers in other threads work as usual: apsw hands the shared memory of
WAL to the base VFS, and it is not recorded because it never survives.

    disk = RecordingDisk()
    connection = apsw.Connection(path, vfs=disk.name)
    connection.execute("INSERT …")
    acknowledged_at = disk.moment
    disk.fail("sync", apsw.IOError, files=("wal",), times=1)
    disk.capacity_bytes = 1 << 20
    disk.heal()

What counts as synced follows SQLite's `os_unix.c`: `xSync` covers the one file, and the directory too where
the file was opened for creation as a journal or WAL and this is its first sync; `xDelete` covers it when
asked to. Memory-mapped access (`PRAGMA mmap_size`) is inert through apsw: no write escapes the log.

One thing differs from a real fault. SQLite ignores the failure of an automatic checkpoint, the commit before
it being durable; apsw raises it from that commit all the same. So a fault on the database file
(`files=("db",)`) makes commits that are kept look refused: the ambiguous answer every caller must bear.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import apsw

FileKind = Literal["db", "wal", "journal"]
FaultKind = Literal["open", "read", "write", "truncate", "sync", "delete"]

_KIND_BY_FLAG: tuple[tuple[int, FileKind], ...] = (
    (apsw.SQLITE_OPEN_MAIN_DB, "db"),
    (apsw.SQLITE_OPEN_WAL, "wal"),
    (apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL, "journal"),
)
_EXTENDED_RESULT: dict[FaultKind, int] = {
    "open": apsw.SQLITE_CANTOPEN,
    "read": apsw.SQLITE_IOERR_READ,
    "write": apsw.SQLITE_IOERR_WRITE,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "delete": apsw.SQLITE_IOERR_DELETE,
}
_names = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Existing:
    """A file that was there, durable, before it was first opened through this disk."""

    file: int
    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Created:
    """An empty file and its name in the directory; the name is not durable before a `directory` sync."""

    file: int
    name: str


@dataclass(frozen=True, slots=True)
class Written:
    """`data` at `offset` bytes into the file."""

    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncated:
    """The file set to `size_bytes`."""

    file: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Synced:
    """A sync that came back: it covers what was logged before it began, which is `log[:covers]`."""

    file: int
    covers: int
    directory: bool


@dataclass(frozen=True, slots=True)
class SyncFailed:
    """A sync that failed. The kernel may have dropped the dirty pages of `log[:covers]`.

    No later sync of this file makes those writes durable (LWN 752063, "PostgreSQL's fsync() surprise").
    """

    file: int
    covers: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """A name removed; durable at once where SQLite asked for the directory to be synced."""

    name: str
    synced: bool


Operation = Existing | Created | Written | Truncated | Synced | SyncFailed | Deleted


@dataclass(slots=True)
class Fault:
    """One kind of failure, while it is switched on. `after` and `times` count operations that match."""

    operation: FaultKind
    error: type[apsw.Error]
    files: frozenset[str]
    after: int
    times: int | None
    partial: bool
    fired: int = 0

    def due(self, operation: FaultKind, kind: str) -> bool:
        """Whether this operation must fail; counts it."""
        if operation != self.operation or kind not in self.files:
            return False
        if self.after > 0:
            self.after -= 1
            return False
        if self.times is not None and self.fired >= self.times:
            return False
        self.fired += 1
        return True


class RecordingDisk(apsw.VFS):
    """The log of one disk, and its faults. Safe to call from any number of threads.

    Keep a reference for as long as connections use it. `name` is what `apsw.Connection(path, vfs=…)` takes.
    """

    def __init__(self, *, really_sync: bool = True) -> None:
        """`really_sync=False` spares the real fsync where only the log matters."""
        self.name = f"samvad-recording-{next(_names)}"
        super().__init__(self.name, "")
        self.log: list[Operation] = []
        #: Bytes all files may hold together; a write that needs more raises `apsw.FullError`. None: no bound.
        self.capacity_bytes: int | None = None
        #: Seconds each sync takes beyond the real one: a slow disk. Other threads run meanwhile, so that an
        #: acknowledgement that does not wait for the sync shows up in the log before it.
        self.sync_delay_s: float = 0.0
        self.really_sync = really_sync
        self._faults: list[Fault] = []
        self._lock = threading.RLock()
        self._file_by_name: dict[str, int] = {}
        self._size_bytes: dict[int, int] = {}
        self._file_ids = itertools.count()

    @property
    def moment(self) -> int:
        """The present, as an index into `log`: what is acknowledged now must survive from here on."""
        return len(self.log)

    @property
    def used_bytes(self) -> int:
        """Bytes in all files that exist by name."""
        with self._lock:
            return sum(self._size_bytes[file] for file in self._file_by_name.values())

    def fail(
        self,
        operation: FaultKind,
        error: type[apsw.Error] = apsw.IOError,
        *,
        files: Iterable[FileKind] = ("db", "wal", "journal"),
        after: int = 0,
        times: int | None = None,
        partial: bool = False,
    ) -> Fault:
        """From now on, `operation` raises `error`, until `heal()`.

        `after`: so many matching operations still succeed first. `times`: so many fail, then no more (None:
        all). `partial`: a failing write leaves its first half on the disk, as a full disk may. The fault that
        comes back counts in `fired` how often it struck.
        """
        fault = Fault(operation, error, frozenset(files), after, times, partial)
        with self._lock:
            self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """End every fault, the bound of the capacity and the slowness."""
        with self._lock:
            self._faults.clear()
        self.capacity_bytes = None
        self.sync_delay_s = 0.0

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        """Open for real; log the file if it is new, or its contents if this disk had not seen it."""
        kind = next((kind for flag, kind in _KIND_BY_FLAG if flags[0] & flag), None)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if kind is None or path is None:
            return apsw.VFSFile("", name, flags)
        self._check("open", kind)
        with self._lock:
            existed = Path(path).exists()
            if not existed:
                self._file_by_name.pop(path, None)
            opened = _RecordingFile(self, kind, name, flags)
            file = self._file_by_name.get(path)
            if file is None:
                file = self._file_by_name[path] = next(self._file_ids)
                base = Path(path).name
                if existed:
                    # Through the VFS: closing another descriptor of the file would drop its POSIX locks.
                    data = opened.contents()
                    self._size_bytes[file] = len(data)
                    self.log.append(Existing(file, base, data))
                else:
                    self._size_bytes[file] = 0
                    self.log.append(Created(file, base))
            opened.file = file
        return opened

    def xDelete(self, filename: str, syncdir: bool) -> None:
        """Delete for real, then log."""
        self._check("delete", _kind_of_name(filename))
        with self._lock:
            super().xDelete(filename, syncdir)
            self._file_by_name.pop(filename, None)
            self.log.append(Deleted(Path(filename).name, bool(syncdir)))

    def _due(self, operation: FaultKind, kind: str) -> Fault | None:
        if not self._faults:
            return None
        with self._lock:
            return next((fault for fault in self._faults if fault.due(operation, kind)), None)

    def _check(self, operation: FaultKind, kind: str) -> None:
        fault = self._due(operation, kind)
        if fault is not None:
            raise _error(fault)

    def _wrote(self, file: int, offset: int, data: bytes) -> None:
        with self._lock:
            self._size_bytes[file] = max(self._size_bytes[file], offset + len(data))
            self.log.append(Written(file, offset, data))

    def _room_for(self, file: int, end: int) -> bool:
        if self.capacity_bytes is None:
            return True
        with self._lock:
            more = end - self._size_bytes[file]
            return more <= 0 or self.used_bytes + more <= self.capacity_bytes


class _RecordingFile(apsw.VFSFile):
    """One open file of a `RecordingDisk`. Logs after the fact: a sync covers only writes that were done."""

    def __init__(
        self, disk: RecordingDisk, kind: FileKind, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        super().__init__("", name, flags)
        self.disk = disk
        self.kind = kind
        self.file = -1
        # os_unix.c: UNIXFILE_DIRSYNC is for journals and WALs opened for creation; the first sync clears it.
        self.directory_sync_due = kind != "db" and bool(flags[0] & apsw.SQLITE_OPEN_CREATE)

    def contents(self) -> bytes:
        """The whole file as it is."""
        size_bytes = super().xFileSize()
        return super().xRead(size_bytes, 0) if size_bytes else b""

    def xRead(self, amount: int, offset: int) -> bytes:
        """Read for real."""
        if self.disk._faults:
            self.disk._check("read", self.kind)
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes | memoryview, offset: int) -> None:
        """Write for real, then log."""
        copy = bytes(data)
        fault = self.disk._due("write", self.kind)
        if fault is not None:
            if fault.partial and len(copy) > 1:
                half = copy[: len(copy) // 2]
                super().xWrite(half, offset)
                self.disk._wrote(self.file, offset, half)
            raise _error(fault)
        if not self.disk._room_for(self.file, offset + len(copy)):
            raise apsw.FullError("the simulated disk is full")
        super().xWrite(copy, offset)
        self.disk._wrote(self.file, offset, copy)

    def xTruncate(self, newsize: int) -> None:
        """Truncate for real, then log."""
        self.disk._check("truncate", self.kind)
        super().xTruncate(newsize)
        with self.disk._lock:
            self.disk._size_bytes[self.file] = newsize
            self.disk.log.append(Truncated(self.file, newsize))

    def xSync(self, flags: int) -> None:
        """Sync for real (unless the disk was told not to), then log."""
        covers = self.disk.moment
        if self.disk.sync_delay_s > 0:
            time.sleep(self.disk.sync_delay_s)
        fault = self.disk._due("sync", self.kind)
        if fault is not None:
            self.disk.log.append(SyncFailed(self.file, covers))
            raise _error(fault)
        if self.disk.really_sync:
            super().xSync(flags)
        self.disk.log.append(Synced(self.file, covers, self.directory_sync_due))
        self.directory_sync_due = False


def _error(fault: Fault) -> apsw.Error:
    error = fault.error(f"simulated fault: {fault.operation}")
    if fault.error is apsw.IOError:
        error.extendedresult = _EXTENDED_RESULT[fault.operation]  # type: ignore[attr-defined]
    return error


def _kind_of_name(filename: str) -> FileKind:
    if filename.endswith("-wal"):
        return "wal"
    return "journal" if "-journal" in filename else "db"
