"""What can still be saved or read where the files of a database, or its disk, are not as they should be.

Where they were changed beneath the writer, its connection has the files open that it wrote, whatever became of their
names, until its process ends. So all that was acknowledged is in reach of it unless somebody wrote into these files.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from urllib.parse import quote

import apsw

from samvad.errors import SetupError
from samvad.private_files import make_private, sync_path
from samvad.stores.sqlite_guard import FileGuard, Lost

_BUSY_MS = 5_000


def rescued_path(database: Path) -> Path:
    """Where the whole content is put: beside the database."""
    return database.with_name(database.name + ".rescued")


def on_a_disk_that_is_read_only(database: Path, error: apsw.Error) -> apsw.Connection:
    """A connection for looking where the index of the log cannot be made; SetupError where that is not safe.

    A kernel that meets errors of a disk makes it read-only. A database that was closed in good order has no log, and
    there nobody can write one: so it can be read as it is (https://sqlite.org/wal.html#readonly).
    """
    log = database.with_name(database.name + "-wal")
    if os.statvfs(database.parent).f_flag & os.ST_RDONLY and not _anything_at(log):
        uri = f"file:{quote(str(database.absolute()))}?immutable=1"
        return apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    raise SetupError(
        f"Cannot open the database {database}: to read its log, SQLite writes beside it, and this user may not; run "
        f"this as the server's user, or copy {database.name} and {log.name} to where it may."
    ) from error


def rescue(connection: apsw.Connection, guard: FileGuard, lost: Lost) -> tuple[bool, str]:
    """Save all there is; whether that worked, and what an operator is to do. In the writer's thread; takes its time.

    Where only the log was taken away, it is folded into the database as if nothing had happened. Otherwise everything
    is copied to a file of its own, which is looked through before it gets its name.
    """
    name = guard.path.name
    try:
        if lost.kind == "log" and not _anything_at(guard.log_path) and _folded(connection):
            return True, f"All that was acknowledged is in {name}: restart the server."
        if lost.kind != "content":
            if lost.kind == "database":  # it may go on under another name, and is to be whole there
                with contextlib.suppress(apsw.Error):
                    _folded(connection)
            copy_whole(connection, guard.path)
            _drop_log(guard)
            return True, (
                f"All that was acknowledged is in {rescued_path(guard.path)}: stop the server, see that there is no "
                f"{name}, {name}-wal and {name}-shm, rename it to {name}, and start again."
            )
    except (apsw.Error, OSError) as error:
        return False, (
            f"Nothing could be saved ({type(error).__name__}: {error}). The files are open in process {os.getpid()} "
            f"alone: copy {name} and {name}-wal from /proc/{os.getpid()}/fd before it ends, or restore a backup."
        )
    return False, (
        f"Stop the server, put {name}, {name}-wal and {name}-shm aside (they no longer belong together), and restore "
        "a backup."
    )


def _anything_at(log: Path) -> bool:
    try:
        return log.stat().st_size > 0
    except FileNotFoundError:
        return False


def _folded(connection: apsw.Connection) -> bool:
    connection.set_busy_timeout(_BUSY_MS)
    frames, folded = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_FULL)
    return bool(frames == folded)


def copy_whole(connection: apsw.Connection, database: Path) -> None:
    """Copy what a connection reads to `rescued_path(database)`, looked through and on the disk. apsw.Error, OSError."""
    whole = rescued_path(database)
    part = whole.with_name(whole.name + ".part")
    part.parent.mkdir(
        mode=0o700, parents=True, exist_ok=True
    )  # it may have been removed with all that was in it
    part.unlink(missing_ok=True)
    make_private(part)
    try:
        with contextlib.closing(apsw.Connection(str(part))) as copy:
            with copy.backup("main", connection, "main") as backup:
                backup.step(-1)
            copy.pragma("journal_mode", "delete")
            if (found := copy.execute("PRAGMA quick_check(1)").get) != "ok":
                raise apsw.CorruptError(f"what was read of it is damaged: {found}")
        sync_path(part)
        part.replace(whole)
        sync_path(whole.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _drop_log(guard: FileGuard) -> None:
    beside = guard.path.resolve()  # a link may lead elsewhere now: then the log stays where its database is
    if guard.log_is_ours() and guard.log_path == beside.with_name(beside.name + "-wal"):
        # All of it is in the copy. Left there, it would be folded into whatever database has the name next.
        guard.log_path.unlink(missing_ok=True)
