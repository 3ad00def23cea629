"""Documents in a SQLite file of their own, beside the database of conversations.

Of its own, so that a long document never stands in an append's way, and so that what is erased can be cleaned out
of the file (secure_delete, and the log folded in and emptied) without touching the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import apsw
import msgspec

from samvad.errors import DatabaseReplaced, SetupError, StoreUnavailable, Unreadable
from samvad.knowledge import sqlite_beside
from samvad.knowledge.records import (
    Document,
    DocumentPage,
    Filter,
    HeadingAt,
    Scope,
    StoredDocument,
)
from samvad.knowledge.sql import filter_sql
from samvad.knowledge.sqlite_beside import BesideDocuments
from samvad.knowledge.store import cursor_after, parse_cursor, unreadable_document
from samvad.open_files import behind, identity
from samvad.private_files import make_private
from samvad.stores.sqlite_rescue import copy_whole, rescued_path

_log = logging.getLogger(__name__)
LAYOUT: Final = 2
_SCHEMA: Final = """
CREATE TABLE documents (
    no INTEGER PRIMARY KEY, tenant TEXT NOT NULL, user TEXT NOT NULL, id TEXT NOT NULL,
    revision INTEGER NOT NULL, added_at TEXT NOT NULL, checksum TEXT NOT NULL, title TEXT NOT NULL, source TEXT,
    category TEXT, language TEXT, tags TEXT NOT NULL, body BLOB NOT NULL, headings BLOB NOT NULL, text TEXT NOT NULL,
    UNIQUE (tenant, user, id)
);
CREATE INDEX documents_source ON documents (tenant, user, source) WHERE source IS NOT NULL;
CREATE INDEX documents_checksum ON documents (tenant, user, checksum);
CREATE INDEX documents_added ON documents (tenant, user, added_at, id);
CREATE TABLE revision (id INTEGER PRIMARY KEY CHECK (id = 1), last INTEGER NOT NULL);
INSERT INTO revision VALUES (1, 0);
"""
_PUT: Final = """
INSERT INTO documents (tenant, user, id, revision, added_at, checksum, title, source, category, language, tags, body,
                       headings, text)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (tenant, user, id) DO UPDATE SET revision = excluded.revision, added_at = excluded.added_at,
    checksum = excluded.checksum, title = excluded.title, source = excluded.source, category = excluded.category,
    language = excluded.language, tags = excluded.tags, body = excluded.body, headings = excluded.headings,
    text = excluded.text
"""
_LISTED: Final = "body, id, added_at, tenant, user"
_T = TypeVar("_T")
_headings = msgspec.msgpack.Decoder(tuple[HeadingAt, ...])
_document = msgspec.json.Decoder(Document)


class SQLiteKnowledgeStore(BesideDocuments):
    """Documents in one SQLite file; one thread of its own works on it."""

    name = "sqlite"
    shared = False

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self.path = path
        self._readonly = readonly
        self._connection: apsw.Connection | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._files: list[tuple[Path, tuple[int, int]]] = []
        self._told = False

    async def open(self) -> None:
        if self._thread is not None:
            return
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="samvad-knowledge")
        await self._run(lambda connection: None)

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _run(self, work: Callable[[apsw.Connection], _T]) -> _T:
        if self._thread is None:
            raise SetupError("Open the knowledge base first.")

        def job() -> _T:
            if self._connection is None:
                self._connection = self._opened()
                self._know_files(self._connection)
            self._look(self._connection)
            result = work(self._connection)
            self._look(self._connection)  # before it is told to anybody
            return result

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, job)
        except (apsw.Error, OSError) as error:
            raise StoreUnavailable(
                f"The documents' database cannot be used ({type(error).__name__}); nothing was changed."
            ) from error

    def _know_files(self, connection: apsw.Connection) -> None:
        paths = (self.path.absolute(), Path(connection.filename_wal)) if not self._readonly else ()
        self._files = [(path, known) for path in paths if (known := identity(path)) is not None]

    def _look(self, connection: apsw.Connection) -> None:
        """DatabaseReplaced where the files no longer are those that are open: what is written there is lost.

        Where the database was taken away, what it held is saved beside it; where only its log was, closing folds it in.
        """
        for path, known in self._files:
            what, _ = behind(path, known)
            if what is None:
                continue
            if not self._told:
                self._told = True
                _log.error("%s beneath the server: no documents are taken any more, restart it", what)
                if path == self.path.absolute():
                    with contextlib.suppress(apsw.Error, OSError):
                        copy_whole(connection, self.path)
                        _log.warning("all documents are in %s", rescued_path(self.path))
            raise DatabaseReplaced(
                f"{what} beneath the server; nothing was changed, and nothing is until it is restarted. Its operator "
                "finds in its log what was saved."
            )

    def _opened(self) -> apsw.Connection:
        if self._readonly and not self.path.exists():
            connection = apsw.Connection(":memory:")
        elif self._readonly:
            return apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)
        else:
            with contextlib.suppress(OSError):  # SQLite says what is wrong
                make_private(self.path)
            connection = apsw.Connection(str(self.path))
        connection.set_busy_timeout(5_000)
        connection.pragma("secure_delete", True)
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full")
        layout = connection.pragma("user_version")
        if layout > LAYOUT:
            raise SetupError(f"{self.path} was written by a newer Samvad (layout {layout}); update this one.")
        if layout < LAYOUT:
            with connection:
                if layout == 0:
                    connection.execute(_SCHEMA)
                connection.execute(sqlite_beside.SCHEMA)
                connection.pragma("user_version", LAYOUT)
        return connection

    # --- writing ---------------------------------------------------------------------------------------

    async def put(self, stored: StoredDocument) -> int:
        document = stored.document

        def work(connection: apsw.Connection) -> int:
            with connection:
                connection.execute("UPDATE revision SET last = last + 1")
                revision = int(connection.execute("SELECT last FROM revision").get)
                connection.execute(
                    _PUT,
                    (
                        *_key(stored.scope),
                        document.id,
                        revision,
                        document.added_at,
                        document.checksum,
                        document.title,
                        document.source,
                        document.category,
                        (document.language or "").partition("-")[0].lower() or None,
                        msgspec.json.encode(document.tags).decode(),
                        msgspec.json.encode(document),
                        msgspec.msgpack.encode(stored.headings),
                        stored.text,
                    ),
                )
            return revision

        return await self._run(work)

    async def remove(self, scope: Scope, document_id: str) -> bool:
        def work(connection: apsw.Connection) -> bool:
            with connection:
                connection.execute(
                    "DELETE FROM documents WHERE tenant = ? AND user = ? AND id = ?",
                    (*_key(scope), document_id),
                )
                there = connection.changes() > 0
            _fold(connection)
            return there

        return await self._run(work)

    async def erase(self, scope: Scope) -> int:
        def work(connection: apsw.Connection) -> int:
            with connection:
                connection.execute("DELETE FROM documents WHERE tenant = ? AND user = ?", _key(scope))
                count = connection.changes()
                connection.execute("DELETE FROM statistics WHERE tenant = ? AND user = ?", _key(scope))
            _fold(connection)
            return count

        return await self._run(work)

    # --- reading ---------------------------------------------------------------------------------------

    async def get(self, scope: Scope, document_id: str) -> StoredDocument | None:
        def work(connection: apsw.Connection) -> StoredDocument | None:
            row = connection.execute(
                "SELECT body, headings, text, revision FROM documents WHERE tenant = ? AND user = ? AND id = ?",
                (*_key(scope), document_id),
            ).fetchone()
            if row is None:
                return None
            body, headings, text, revision = row
            try:
                return StoredDocument(
                    scope=scope,
                    document=_document.decode(body),
                    text=text,
                    headings=_headings.decode(headings),
                    revision=revision,
                )
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise Unreadable from None

        return await self._run(work)

    async def same(self, scope: Scope, document: Document) -> Document | None:
        def work(connection: apsw.Connection) -> Document | None:
            if document.source is not None:
                sql, values = "source = ?", (document.source,)
            else:
                sql = "source IS NULL AND checksum = ? AND title = ?"
                values = (document.checksum, document.title)  # type: ignore[assignment]
            row = connection.execute(
                f"SELECT {_LISTED} FROM documents WHERE tenant = ? AND user = ? AND {sql} LIMIT 1",  # noqa: S608
                (*_key(scope), *values),
            ).fetchone()
            return None if row is None else _decoded(*row)

        return await self._run(work)

    async def scopes(self, known: Iterable[Scope]) -> tuple[list[Scope], int]:
        rows = await self._run(lambda c: list(c.execute("SELECT DISTINCT tenant, user FROM documents")))
        return [Scope(tenant or None, user or None) for tenant, user in rows], 0

    async def revisions(self, scope: Scope) -> dict[str, int]:
        return await self._run(
            lambda connection: dict(
                connection.execute(
                    "SELECT id, revision FROM documents WHERE tenant = ? AND user = ?", _key(scope)
                )
            )
        )

    async def list(
        self, scopes: Sequence[Scope], condition: Filter, *, limit: int, cursor: str | None
    ) -> DocumentPage:
        where, values = _where(scopes, condition)
        behind = None if cursor is None else parse_cursor(cursor)

        def work(connection: apsw.Connection) -> DocumentPage:
            count = connection.execute(f"SELECT count(*) FROM documents WHERE {where}", values).get  # noqa: S608
            further = " AND (added_at, id) < (?, ?)" if behind else ""
            found = [
                _decoded(*row)
                for row in connection.execute(
                    f"SELECT {_LISTED} FROM documents WHERE {where}{further} "  # noqa: S608
                    "ORDER BY added_at DESC, id DESC LIMIT ?",
                    (*values, *(behind or ()), limit + 1),
                )
            ]
            page = tuple(found[:limit])
            more = cursor_after(page[-1]) if len(found) > limit else None
            return DocumentPage(documents=page, count=count, next_cursor=more)

        return await self._run(work)

    async def changed(self, scopes: Sequence[Scope]) -> Sequence[Scope]:
        return ()


def _decoded(body: bytes, document_id: str, added_at: str, tenant: str, user: str) -> Document:
    """A document without its text; marked where it is damaged."""
    scope = Scope(tenant or None, user or None)
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        document = _document.decode(body)
        if (document.id, document.owner, document.user_id) == (document_id, scope.ownership, scope.user):
            return document
    return unreadable_document(document_id, added_at, scope.ownership, scope.user)


def _key(scope: Scope) -> tuple[str, str]:
    return scope.tenant or "", scope.user or ""


def _where(scopes: Sequence[Scope], condition: Filter) -> tuple[str, tuple[str, ...]]:
    values = [part for scope in scopes for part in _key(scope)]
    parts = ["(tenant, user) IN (VALUES " + ", ".join(["(?, ?)"] * len(scopes)) + ")"]
    where, further = filter_sql(condition)
    return " AND ".join([*parts, where] if where else parts), (*values, *further)


def _fold(connection: apsw.Connection) -> None:
    """Fold the log into the file and empty it: what was removed is in neither."""
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
