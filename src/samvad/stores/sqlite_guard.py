"""Whether the files of a database still are those that are open, looked at before anything is acknowledged.

SQLite goes on writing to a file whose name was taken away or given to another, and all of that is gone with the
process. Who does it: an operator who removes, replaces or copies over `samvad.db` or its log beneath a running
server; or a second SQLite library in this process, whose locks ours does not see, so that the last to close folds
the log and deletes it (https://sqlite.org/howtocorrupt.html, sections 2.2.1 and 4; sections 1.3 and 1.4 for copies
and logs of another database).

Three things are compared, a few microseconds a group:

- the device and inode behind both names, with those found when they were opened;
- the size and time of the database, with those after our own last checkpoint: between two of them nobody writes to it.
  Where they differ, the row `probe` tells: it holds a mark that is new with each checkpoint. Another program may fold
  the log, which keeps the mark; an older copy has an older one;
- the salts at the head of the log, with those of the frame written last: a log that was emptied or exchanged in its
  place would not be read beyond the head (https://sqlite.org/fileformat2.html#wal_file_format).
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Final, Literal, NamedTuple
from urllib.parse import quote

import apsw

from samvad.errors import StoreUnavailable
from samvad.open_files import NOTHING, behind, identity

Kind = Literal["log", "database", "content"]
SET_PROBE: Final = "INSERT OR REPLACE INTO probe (id, at_ms) VALUES (1, ?)"
_WAL_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24
_SALTS_AT: Final = 16  # in the log's header: two numbers of four bytes
_SALTS_AT_IN_FRAME: Final = 8
_SALTS_BYTES: Final = 8
_UNREADABLE: Final = -1


class Lost(NamedTuple):
    """What was found: `kind` says of what the files no longer are those that are open, `what` in words.

    `log`: the log is gone, or another; the database is ours. `database`: that name is gone, or another file's.
    `content`: something was written into a file of ours, and what it says is worth nothing.
    """

    kind: Kind
    what: str


class FileGuard:
    """Knows the files of one open connection in WAL mode. `look` and `checkpoint` are for the writer's thread alone.

    A database that is no regular file (a VFS of its own) is not guarded, and a log that is none neither.
    """

    def __init__(self, connection: apsw.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path.absolute()  # by the name given: a link that leads elsewhere now is noticed too
        self.log_path = Path(connection.filename_wal)
        self.lost: Lost | None = None
        self.pages = 0  # in the log, as the last commit left it
        self._looked_at_pages = 0
        self._page_bytes: int = connection.pragma("page_size")
        self._database = identity(self.path)
        self._log_descriptor = -1
        self._log: tuple[int, int] | None = None
        if self._database is not None and identity(self.log_path) is not None:
            # Locks are on the database and the index of the log: the log itself may be opened beside SQLite.
            self._log_descriptor = os.open(self.log_path, os.O_RDONLY | os.O_CLOEXEC)
            found = os.fstat(self._log_descriptor)
            self._log = (found.st_dev, found.st_ino)
        self._salts = b""
        self._marks = {self._mark_on_disk()} if self._database is not None else set()
        self.mark = 0
        self._written = _size_and_time(self.path)
        with contextlib.suppress(apsw.Error, StoreUnavailable):  # on a full disk a server may still read
            self.renew()
            if self._database is not None and not self._marks.isdisjoint((None, _UNREADABLE)):
                # It is new, or of an earlier version: from now on it can be told from others.
                self.checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def close(self) -> None:
        """Let go of the log."""
        if self._log_descriptor >= 0:
            os.close(self._log_descriptor)
            self._log_descriptor = -1

    def moved(self) -> Lost | None:
        """Whether another file, or none, is behind one of the names. Any thread; OSError where that cannot be seen."""
        return self._moved()[0]

    def _moved(self) -> tuple[Lost | None, tuple[int, int]]:
        """As `moved`, and size and time of the database, which cost nothing more."""
        if self._database is None:
            return None, NOTHING
        what, found = behind(self.path, self._database)
        if what is not None:
            return Lost("database", what), found
        if self._log is not None:
            what, _ = behind(self.log_path, self._log)
        return None if what is None else Lost("log", what), found

    def log_is_ours(self) -> bool:
        """Whether the log that is open is the one under its name."""
        return self._log is not None and identity(self.log_path) == self._log

    def look(self) -> Lost | None:
        """What is lost, if anything is; remembered once found. StoreUnavailable where it cannot be known now."""
        if self.lost is None and self._database is not None:
            try:
                lost, found = self._moved()
                if lost is None and found != self._written:
                    lost = self._database_written()
                self.lost = lost or self._log_written()
            except OSError as error:
                why = error.strerror or type(error).__name__
                raise StoreUnavailable(
                    f"The database's files cannot be looked at ({why}); nothing was acknowledged."
                ) from error
        return self.lost

    def renew(self) -> None:
        """Make a new mark: within a transaction before a checkpoint, or as one of its own."""
        self.mark = secrets.randbits(62)
        self._marks.add(self.mark)
        self._connection.execute(SET_PROBE, (self.mark,))

    def checkpoint(self, mode: int) -> bool:
        """Fold the log into the database; whether all of it. apsw.Error where that fails, else as `look`.

        Nothing is folded into what is no longer ours.
        """
        if self.look() is not None:
            return False
        try:
            frames, folded = self._connection.wal_checkpoint(mode=mode)
        finally:
            self._written = _size_and_time(self.path)
        if mode == apsw.SQLITE_CHECKPOINT_TRUNCATE:
            self.pages = self._looked_at_pages = 0  # emptied: the head is written with the next frame
        if frames == folded:
            self._marks = {self.mark}
        return bool(frames == folded)

    def _database_written(self) -> Lost | None:
        """Whether somebody wrote over the database who did not fold our log into it."""
        found = _size_and_time(self.path)
        mark = self._mark_on_disk()
        if _size_and_time(self.path) != found:
            raise StoreUnavailable("Another program is writing to the database; nothing was acknowledged.")
        if mark in self._marks:
            self._written = found
            return None
        return Lost("content", f"{self.path.name} was written over")

    def _mark_on_disk(self) -> int | None:
        """The mark in the database without its log; None where there is none."""
        try:
            # By the same library, so that no lock of ours is lost when it closes.
            with contextlib.closing(
                apsw.Connection(
                    f"file:{quote(str(self.path))}?immutable=1",
                    flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
                )
            ) as beside:
                if not beside.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'probe'").get:
                    return None
                mark: int | None = beside.execute("SELECT at_ms FROM probe").get
                return mark
        except apsw.Error:
            return _UNREADABLE

    def _log_written(self) -> Lost | None:
        """Whether the log no longer begins with the head that its last frame belongs to."""
        if self._log is None or self.pages == self._looked_at_pages:
            return None
        self._looked_at_pages = self.pages
        salts = os.pread(self._log_descriptor, _SALTS_BYTES, _SALTS_AT)
        if salts == self._salts:
            return None
        self._salts = salts  # begun anew by SQLite, or not by SQLite: it knows how many frames there are now
        try:
            frames, _ = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        except apsw.Error as error:
            raise StoreUnavailable(
                "The database's log cannot be looked at; nothing was acknowledged."
            ) from error
        last = _WAL_HEADER_BYTES + (frames - 1) * (self._page_bytes + _FRAME_HEADER_BYTES)
        if not frames or (
            salts and os.pread(self._log_descriptor, _SALTS_BYTES, last + _SALTS_AT_IN_FRAME) == salts
        ):
            return None
        return Lost("content", f"{self.log_path.name} was written over")

    def look_closely(self) -> Lost | None:
        """As `look`, where writing failed: also at a log to which nothing was added."""
        self._salts, self._looked_at_pages = b"", -1
        return self.look()


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return NOTHING
    return found.st_size, found.st_mtime_ns
