"""The embedded store: one SQLite file, one writer thread that commits in groups, readers beside it.

What `commit` acknowledges is on the disk (WAL with synchronous=FULL: SQLite fsyncs the log before COMMIT
returns; https://sqlite.org/pragma.html#pragma_synchronous). Groups form by themselves: what waits while
one group is being synced becomes the next, so one caller has the latency of one commit and a hundred
callers share one.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import IO, Final, TypeVar

import apsw

from samvad.clock import Clock, SystemClock
from samvad.errors import DatabaseReplaced, SetupError, ShuttingDown, StoreLocked, StoreUnavailable
from samvad.meters import SyncMeter
from samvad.private_files import make_private
from samvad.records import (
    Commit,
    Committed,
    Stats,
    StoredInterruption,
    StoredMessage,
    StoredReceipt,
    StoredSession,
    UserKey,
    UserRecord,
)
from samvad.stores import sqlite_carrying as carrying
from samvad.stores import sqlite_reads as reads
from samvad.stores.base import Capabilities, HealthReport, awaited, not_open
from samvad.stores.carrying import KeysFound, Life, OwnedReceipt, StoredErasure
from samvad.stores.sqlite_guard import SET_PROBE, FileGuard
from samvad.stores.sqlite_rescue import on_a_disk_that_is_read_only, rescued_path
from samvad.stores.sqlite_thread import Done, WriterThread, reason
from samvad.stores.sqlite_writes import BUSY_MS, fold

APPLICATION_ID: Final = 0x53_4D_56_44  # "SMVD", in the file's header
_READERS: Final = 2
_PROBE_AFTER_S: Final = 5.0
_CACHE_KIB: Final = 16 * 1024
_READER_CACHE_KIB: Final = 4 * 1024

_T = TypeVar("_T")


def _migrations() -> list[str]:
    folder = resources.files("samvad.stores.sqlite_migrations")
    scripts = sorted(
        (f for f in folder.iterdir() if re.match(r"\d{4}_.*\.sql$", f.name)), key=lambda f: f.name
    )
    return [script.read_text() for script in scripts]


class SQLiteStore:
    """Conversations in one SQLite file.

    `vfs` names an apsw VFS (for tests of disk faults); `wal_pages_max` is the number of 4 KiB pages after
    which the log is folded into the database, `recent_bytes_max` how much may have been said before it is gathered
    user by user (see `sqlite_history`); `readonly` opens beside a running server, for looking only.
    """

    name = "sqlite"
    capabilities = Capabilities(durable=True, shared=False)

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Clock | None = None,
        vfs: str | None = None,
        wal_pages_max: int = 4_000,
        recent_bytes_max: int = 1024 * 1024,
        synchronous: str = "FULL",
        readonly: bool = False,
    ) -> None:
        self.path = Path(path)
        self._clock = clock or SystemClock()
        self._vfs = vfs
        self._wal_pages_max = wal_pages_max
        self._recent_bytes_max = recent_bytes_max
        self._synchronous = synchronous
        self.readonly = readonly
        self._writer: WriterThread | None = None
        self._guard: FileGuard | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._local = threading.local()
        self._reader_connections: list[apsw.Connection] = []
        self._lock_file: IO[str] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False
        self._reading = 0

    # --- life ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="samvad-sqlite-read")
        try:
            if self.readonly:
                if not self.path.exists():
                    raise SetupError(f"There is no database at {self.path}.")
                await self._read(self._check_current)
                return
            connection, guard = await self._loop.run_in_executor(self._readers, self._open_writer)
        except BaseException:
            await self.close()
            raise
        self._guard = guard
        self._writer = WriterThread(
            connection, guard, self._clock, self._wal_pages_max, self._recent_bytes_max
        )

    async def close(self) -> None:
        self._closing = True
        loop = asyncio.get_running_loop()
        if self._writer is not None:
            writer, self._writer = self._writer, None
            await writer.stop()
        if self._readers is not None:
            await loop.run_in_executor(None, self._readers.shutdown)
            self._readers = None
        for connection in self._reader_connections:
            with contextlib.suppress(
                apsw.Error
            ):  # the last one to close checkpoints, which a bad disk refuses
                if self._guard is not None and self._guard.lost is not None:
                    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
                connection.close()
        self._reader_connections.clear()
        if self._guard is not None:
            self._guard.close()
            self._guard = None
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def _lock(self) -> None:
        """Hold `PATH.lock` for as long as the store is open; the kernel lets go of it however the process ends."""
        real = self.path.resolve()  # whichever link it was reached by
        path = real.with_name(real.name + ".lock")
        make_private(path)
        lock_file = path.open("a+")
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock_file.seek(0)
            holder = lock_file.read(32).strip() or "unknown"
            lock_file.close()
            raise StoreLocked(
                f"The database {self.path} is in use by process {holder}; stop it, or choose another --store."
            ) from None
        lock_file.truncate(0)
        lock_file.write(f"{os.getpid()}\n")
        lock_file.flush()
        self._lock_file = lock_file

    def _open_writer(self) -> tuple[apsw.Connection, FileGuard]:
        try:
            # Conversations are for this user of the machine alone; SQLite gives its log the same rights.
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock()
            if (rescued := rescued_path(self.path)).exists():
                raise SetupError(
                    f"{rescued} holds all that was acknowledged when {self.path.name} was changed beneath a running "
                    f"server: see that there is no {self.path.name}, {self.path.name}-wal and {self.path.name}-shm, "
                    f"rename it to {self.path.name}, and start again; or move it away to go on without it."
                )
            make_private(self.path)
        except OSError as error:
            raise SetupError(f"Cannot open the database {self.path}: {error.strerror or error}.") from error
        connection = None
        try:
            connection = self._connect(_CACHE_KIB)
            self._check_ours(connection)
            connection.pragma("journal_mode", "wal")
            connection.pragma("synchronous", self._synchronous)
            connection.pragma("secure_delete", True)  # what is deleted is overwritten with zeros
            connection.pragma("foreign_keys", False)
            connection.pragma("journal_size_limit", 16 * 1024 * 1024)
            self._migrate(connection)
            return connection, FileGuard(connection, self.path)
        except BaseException as error:
            if connection is not None:
                with contextlib.suppress(apsw.Error):
                    connection.close()
            if isinstance(error, apsw.BusyError):
                raise StoreLocked(
                    f"The database {self.path} is locked by another program; close it and start again."
                ) from error
            if isinstance(error, apsw.Error | OSError):
                raise SetupError(f"Cannot open the database {self.path}: {error}.") from error
            raise

    def _connect(self, cache_kib: int) -> apsw.Connection:
        connection = apsw.Connection(str(self.path), vfs=self._vfs)
        connection.set_busy_timeout(BUSY_MS)
        try:
            connection.pragma("cache_size", -cache_kib)  # the first look into the file
        except (apsw.CantOpenError, apsw.ReadOnlyError) as error:
            connection.close()
            if not self.readonly:
                raise
            return on_a_disk_that_is_read_only(self.path, error)
        except apsw.NotADBError as error:
            connection.close()
            raise SetupError(f"{self.path} is not a SQLite database; choose another --store.") from error
        return connection

    def _check_ours(self, connection: apsw.Connection) -> None:
        application_id = connection.pragma("application_id")
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
        version = connection.pragma("user_version")
        if tables and application_id != APPLICATION_ID:
            raise SetupError(f"{self.path} is a database of another program; choose another --store.")
        if version > len(_migrations()):
            raise SetupError(
                f"{self.path} was written by a newer Samvad (schema {version}); update this one."
            )

    def _check_current(self, connection: apsw.Connection) -> None:
        self._check_ours(connection)
        version = connection.pragma("user_version")
        if version < len(_migrations()):
            raise SetupError(
                f"{self.path} was written by an older Samvad (schema {version}); start the server on it once."
            )

    def _migrate(self, connection: apsw.Connection) -> None:
        scripts = _migrations()
        connection.execute("BEGIN IMMEDIATE")
        try:
            done = connection.pragma("user_version")
            for script in scripts[done:]:
                connection.execute(script)
            if done < len(scripts):
                connection.pragma("application_id", APPLICATION_ID)
                connection.pragma("user_version", len(scripts))
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(apsw.Error):
                connection.execute("ROLLBACK")
            raise

    # --- writing ---------------------------------------------------------------------------------------

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        return awaited(self.submit, commit)

    def submit(self, commit: Commit, done: Done) -> None:
        """As `commit`, without a future: `done` is called on the event loop, in a later turn of it."""
        if self._writer is not None:
            self._writer.submit(commit, done)
        elif self._loop is not None:
            self._loop.call_soon(done, ShuttingDown())
        else:
            raise not_open()

    @property
    def commits_queued(self) -> int:
        """How many commits wait for the disk."""
        return self._writer.queued if self._writer is not None else 0

    @property
    def commits_written(self) -> int:
        """How many commits have been written since the store was opened."""
        return self._writer.commits_written if self._writer is not None else 0

    @property
    def groups_written(self) -> int:
        """How many transactions they took."""
        return self._writer.groups.sizes.count if self._writer is not None else 0

    @property
    def groups(self) -> SyncMeter | None:
        """The transactions' sizes and how long they took; None while the store is not open."""
        return self._writer.groups if self._writer is not None else None

    @property
    def replaced(self) -> bool:
        """Whether the files were changed beneath the store, so that it acknowledges nothing until it is opened anew."""
        return self._writer is not None and self._writer.replaced is not None

    @property
    def reads_queued(self) -> int:
        """How many reads wait for a reader."""
        return max(0, self._reading - _READERS)

    async def _on_writer(self, work: Callable[[apsw.Connection], _T]) -> _T:
        if self._writer is None:
            raise ShuttingDown
        return await self._writer.run(work)

    # --- reading ---------------------------------------------------------------------------------------

    async def _read(self, work: Callable[[apsw.Connection], _T]) -> _T:
        assert self._loop is not None and self._readers is not None, "open the store first"
        if self._writer is not None and self._writer.replaced is not None:
            raise self._writer.replaced
        self._reading += 1
        try:
            return await self._loop.run_in_executor(self._readers, self._with_reader, work)
        except (apsw.Error, OSError, DatabaseReplaced) as error:
            if self._writer is not None:
                await self._writer.run(lambda connection: None)  # looks at the files, and says what it saw
            if isinstance(error, DatabaseReplaced):
                raise
            raise StoreUnavailable(f"The database cannot be read ({reason(error)}).") from error
        except RuntimeError as error:
            if self._closing:
                raise ShuttingDown from error
            raise
        finally:
            self._reading -= 1

    def _with_reader(self, work: Callable[[apsw.Connection], _T]) -> _T:
        connection: apsw.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._connect(_READER_CACHE_KIB)
            connection.pragma("query_only", True)
            self._local.connection = connection
            self._reader_connections.append(connection)
        result = work(connection)
        if self._guard is not None and self._guard.moved() is not None:  # what was read may be another's
            raise DatabaseReplaced
        return result

    async def load(self, user: UserKey, *, window: int, open_after_ms: int, sessions_max: int) -> UserRecord:
        return await self._read(lambda c: reads.load(c, user, window, open_after_ms, sessions_max))

    async def page(
        self, user: UserKey, *, after: int | None, before: int | None, limit: int, bytes_max: int
    ) -> tuple[list[StoredMessage], bool]:
        return await self._read(lambda c: reads.page(c, user, after, before, limit, bytes_max))

    async def session(self, tenant: str, session_id: str) -> StoredSession | None:
        return await self._read(lambda c: reads.session(c, tenant, session_id))

    async def sessions(self, user: UserKey, *, open_after_ms: int | None) -> list[StoredSession]:
        return await self._read(lambda c: reads.sessions(c, user, open_after_ms))

    async def interruptions(self, tenant: str, session_id: str, limit: int) -> list[StoredInterruption]:
        return await self._read(lambda c: reads.interruptions(c, tenant, session_id, limit))

    async def interruptions_before(self, user: UserKey, before_ms: int) -> int:
        return await self._read(lambda c: reads.interruptions_before(c, user, before_ms))

    async def newest_ms(self) -> int | None:
        return await self._read(reads.newest_ms)

    async def receipt(self, key: bytes) -> StoredReceipt | None:
        return await self._read(lambda c: reads.receipt(c, key))

    async def stats(self, tenant: str, *, active_after_ms: int, open_after_ms: int) -> Stats:
        return await self._read(lambda c: reads.stats(c, tenant, active_after_ms, open_after_ms))

    async def users(self, tenant: str, *, after: str, limit: int) -> list[str]:
        return await self._read(lambda c: reads.users(c, tenant, after, limit))

    # --- carrying to another store ---------------------------------------------------------------------

    async def keys(self, *, after: str = "", limit: int) -> KeysFound:
        return await self._read(lambda c: carrying.keys(c, after, limit))

    async def lives(self, *, before: int | None, limit: int) -> list[Life]:
        """Users, those who began last first; `before`: who began before the one of that number."""
        return await self._read(lambda c: carrying.lives(c, before, limit))

    async def newest_lives(self, *, limit: int) -> list[Life]:
        """The `limit` users who began last, and as many of those who wrote last."""
        return await self._read(lambda c: carrying.newest_lives(c, limit))

    async def erasures(self, *, after: bytes = b"", limit: int) -> list[StoredErasure]:
        return await self._read(lambda c: carrying.erasures(c, after, limit))

    async def keep_erasures(self, erasures: Sequence[StoredErasure]) -> None:
        await self._on_writer(lambda c: carrying.keep_erasures(c, erasures))

    async def receipts(self, *, after: bytes = b"", limit: int) -> list[OwnedReceipt]:
        return await self._read(lambda c: carrying.receipts(c, after, limit))

    async def keep_receipts(self, receipts: Sequence[OwnedReceipt]) -> None:
        await self._on_writer(lambda c: carrying.keep_receipts(c, receipts))

    # --- upkeep ----------------------------------------------------------------------------------------

    async def expire(self, *, receipts_before_ms: int) -> int:
        def work(connection: apsw.Connection) -> int:
            connection.execute("DELETE FROM receipts WHERE at_ms < ?", (receipts_before_ms,))
            return connection.changes()

        return await self._on_writer(work)

    async def fold(self) -> None:
        """Fold the log into the database and empty it, so that what was erased is in neither."""
        guard = self._guard
        if guard is None:
            raise ShuttingDown
        if not await self._on_writer(lambda connection: fold(connection, guard)):
            raise StoreUnavailable(
                "A reader keeps the log from being emptied; try again when it has finished."
            )

    async def check(self) -> HealthReport:
        writer, guard = self._writer, self._guard
        if writer is None or guard is None:
            return HealthReport(False, "closed")
        if writer.replaced is not None:
            assert writer.fault is not None
            return HealthReport(False, *writer.fault)
        if writer.fault is not None or self._clock.monotonic_s() - writer.written_s > _PROBE_AFTER_S:
            try:
                await writer.run(lambda c: c.execute(SET_PROBE, (guard.mark,)))
            except StoreUnavailable as error:
                writer.fault = writer.fault or (error.message, self._clock.now_ms())
            except ShuttingDown:
                return HealthReport(False, "closed")
            else:
                writer.fault = None
                writer.written_s = self._clock.monotonic_s()
        return HealthReport(True) if writer.fault is None else HealthReport(False, *writer.fault)
