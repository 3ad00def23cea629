"""Wrapped keys in a small SQLite file of their own: `samvad.db.keys` beside `samvad.db`.

What waits while one transaction is being synced is the next one. The rollback journal, not a log, so that no older
copy of a page with a destroyed key stays in a file; what is deleted is overwritten with zeros. Several processes may
have it open: each change is made only where the value is still what was read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import apsw

from samvad.clock import SystemClock
from samvad.errors import SetupError, StoreUnavailable
from samvad.private_files import make_private
from samvad.stores.base import not_open
from samvad.stores.data_key_store import NOTHING, DataKeyEntry

_BUSY_MS = 10_000
_T = TypeVar("_T")
_CHANGED = """
    INSERT INTO changed VALUES (1, ?) ON CONFLICT DO UPDATE SET at_ms = max(at_ms, excluded.at_ms)
"""
_Swap = tuple[bytes, DataKeyEntry | None, bytes | None, bool]

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS keys (
        name BLOB PRIMARY KEY, value BLOB NOT NULL, erasing INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS keys_erasing ON keys (name) WHERE erasing;
    CREATE TABLE IF NOT EXISTS changed (id INTEGER PRIMARY KEY CHECK (id = 1), at_ms INTEGER NOT NULL);
"""


class DataKeyFile:
    """A file of keys; `readonly` for those who look beside a running server."""

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self.path = path
        self._clock = SystemClock()
        self._readonly = readonly
        self._thread: ThreadPoolExecutor | None = None
        self._connection: apsw.Connection | None = None
        self._waiting: list[tuple[_Swap, asyncio.Future[bool]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the file; SetupError where that cannot be."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="samvad-keys")
        try:
            await self._run(self._open)
        except StoreUnavailable as error:
            await self.close()
            if isinstance(error.__cause__, apsw.NotADBError | apsw.CorruptError):
                raise SetupError(
                    f"{self.path} is damaged, or is no file of keys: put back the copy that belongs to this database; "
                    "without its keys nothing that is encrypted can be read."
                ) from error
            raise SetupError(f"Cannot open the keys {self.path}: {error.message}") from error
        except OSError as error:
            await self.close()
            raise SetupError(f"Cannot open the keys {self.path}: {error.strerror}.") from error

    def _open(self) -> None:
        if self._readonly:
            if not self.path.exists():
                raise FileNotFoundError(2, "there is no such file, without which nothing can be read")
        else:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            make_private(self.path)
        connection = self._connection = apsw.Connection(str(self.path))
        connection.set_busy_timeout(_BUSY_MS)
        if self._readonly:
            connection.pragma("query_only", True)
            connection.pragma("schema_version")  # the first look into the file
            return
        connection.pragma("journal_mode", "delete")
        connection.pragma("synchronous", "EXTRA")  # the removal of the rollback journal is synced as well
        connection.pragma("secure_delete", True)
        connection.execute(_SCHEMA)

    async def close(self) -> None:
        """See DataKeyStore."""
        if self._writing is not None:
            await self._writing
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def _run(self, work: Callable[[], _T]) -> _T:
        if self._thread is None:
            raise not_open()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except apsw.Error as error:
            raise StoreUnavailable(f"The keys cannot be read or written ({type(error).__name__}).") from error

    def _execute(self, sql: str, values: tuple[Any, ...] = ()) -> list[Any]:
        assert self._connection is not None
        return list(self._connection.execute(sql, values))

    async def get(self, name: bytes) -> DataKeyEntry | None:
        """See DataKeyStore."""
        rows = await self._run(
            lambda: self._execute("SELECT value, erasing FROM keys WHERE name = ?", (name,))
        )
        return DataKeyEntry(rows[0][0], bool(rows[0][1])) if rows else None

    async def changed_ms(self) -> int | None:
        """When a key was made or destroyed last (ms since 1970); None where that is not known."""

        def work() -> int | None:
            if not self._execute("SELECT 1 FROM sqlite_schema WHERE name = 'changed'"):
                return None
            rows = self._execute("SELECT at_ms FROM changed")
            return rows[0][0] if rows else None

        return await self._run(work)

    async def accept(self) -> None:
        """Take it that whatever has no key here now was destroyed."""
        await self._run(lambda: self._execute(_CHANGED, (self._clock.now_ms(),)))

    async def scan(
        self, *, after: bytes = b"", limit: int, erasing: bool = False
    ) -> list[tuple[bytes, DataKeyEntry]]:
        """See DataKeyStore."""
        only = "AND erasing" if erasing else ""
        sql = f"SELECT name, value, erasing FROM keys WHERE name > ? {only} ORDER BY name LIMIT ?"  # noqa: S608
        rows = await self._run(lambda: self._execute(sql, (after, limit)))
        return [(name, DataKeyEntry(value, bool(flag))) for name, value, flag in rows]

    async def swap(
        self, name: bytes, old: DataKeyEntry | None, value: bytes | None, erasing: bool = False
    ) -> DataKeyEntry | None:
        """See DataKeyStore. Those that wait at one time share one transaction."""
        if self._readonly:
            raise StoreUnavailable("The keys were opened for looking only.")
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(((name, old, value, erasing), future))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        if not await future:
            return None
        return NOTHING if value is None else DataKeyEntry(value, erasing)

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                results = await self._run(lambda: self._swap([swap for swap, _ in group]))  # noqa: B023
            except Exception as error:  # the top of the task: told to all who wait
                for _, future in group:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(group, results, strict=True):
                if not future.done():
                    future.set_result(result)
        self._writing = None

    def _swap(self, swaps: list[_Swap]) -> list[bool]:
        connection = self._connection
        assert connection is not None
        results = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            for name, old, value, erasing in swaps:
                if old is None:
                    connection.execute(
                        "INSERT OR IGNORE INTO keys (name, value, erasing) VALUES (?, ?, ?)",
                        (name, value, erasing),
                    )
                elif value is None:
                    connection.execute(
                        "DELETE FROM keys WHERE name = ? AND value = ? AND erasing = ?", (name, *old[:2])
                    )
                else:
                    connection.execute(
                        "UPDATE keys SET value = ?, erasing = ? WHERE name = ? AND value = ? AND erasing = ?",
                        (value, erasing, name, *old[:2]),
                    )
                results.append(connection.changes() > 0)
            if any(results):
                connection.execute(_CHANGED, (self._clock.now_ms(),))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return results
