"""What stands beside the documents in their SQLite file: vectors of their passages, and what was asked of them.

Triggers of the database drop a document's vectors in the transaction that removes or rewrites it, whoever does that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from samvad.knowledge.records import Scope, Vectors

if TYPE_CHECKING:
    import apsw

_T = TypeVar("_T")
SCHEMA: Final = """
CREATE TABLE vectors (
    no INTEGER PRIMARY KEY, tenant TEXT NOT NULL, user TEXT NOT NULL, id TEXT NOT NULL, space TEXT NOT NULL,
    checksum TEXT NOT NULL, title TEXT NOT NULL, dimensions INTEGER NOT NULL, spans BLOB NOT NULL, data BLOB NOT NULL,
    UNIQUE (tenant, user, id)
);
CREATE TRIGGER vectors_removed AFTER DELETE ON documents BEGIN
    DELETE FROM vectors WHERE tenant = OLD.tenant AND user = OLD.user AND id = OLD.id;
END;
CREATE TRIGGER vectors_outdated AFTER UPDATE ON documents
    WHEN OLD.checksum <> NEW.checksum OR OLD.title <> NEW.title BEGIN
    DELETE FROM vectors WHERE tenant = OLD.tenant AND user = OLD.user AND id = OLD.id;
END;
CREATE TABLE statistics (
    tenant TEXT NOT NULL, user TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (tenant, user)
);
"""
_PUT: Final = """
INSERT OR REPLACE INTO vectors (tenant, user, id, space, checksum, title, dimensions, spans, data)
SELECT tenant, user, id, ?, checksum, title, ?, ?, ? FROM documents
WHERE tenant = ? AND user = ? AND id = ? AND checksum = ? AND title = ?
"""
_spans = msgspec.msgpack.Decoder(tuple[tuple[int, int], ...])


class BesideDocuments:
    """The part of the SQLite store that is not of documents; `_run` is the store's."""

    async def _run(self, work: Callable[[apsw.Connection], _T]) -> _T:
        raise NotImplementedError

    async def put_vectors(self, scope: Scope, vectors: Vectors) -> bool:
        values = (
            vectors.space,
            vectors.dimensions,
            msgspec.msgpack.encode(vectors.spans),
            vectors.data,
            *_key(scope),
            vectors.document_id,
            vectors.checksum,
            vectors.title,
        )

        def work(connection: apsw.Connection) -> bool:
            with connection:
                connection.execute(_PUT, values)
            return bool(connection.changes())

        return await self._run(work)

    async def get_vectors(self, scope: Scope, document_id: str, space: str) -> Vectors | None:
        def work(connection: apsw.Connection) -> Vectors | None:
            if not _there(connection):
                return None
            row = connection.execute(
                "SELECT checksum, title, dimensions, spans, data FROM vectors "
                "WHERE tenant = ? AND user = ? AND id = ? AND space = ?",
                (*_key(scope), document_id, space),
            ).fetchone()
            if row is None:
                return None
            checksum, title, dimensions, spans, data = row
            return Vectors(document_id, space, checksum, title, dimensions, _spans.decode(spans), data)

        return await self._run(work)

    async def embedded(self, scope: Scope, space: str) -> set[str]:
        def work(connection: apsw.Connection) -> set[str]:
            if not _there(connection):
                return set()
            found = connection.execute(
                "SELECT id FROM vectors WHERE tenant = ? AND user = ? AND space = ?", (*_key(scope), space)
            )
            return {document_id for (document_id,) in found}

        return await self._run(work)

    async def statistics(self, scope: Scope) -> bytes | None:
        return await self._run(lambda connection: _statistics(connection, scope))

    async def change_statistics(self, scope: Scope, change: Callable[[bytes | None], bytes | None]) -> None:
        def work(connection: apsw.Connection) -> None:
            with connection:
                body = change(_statistics(connection, scope))
                if body is None:
                    connection.execute("DELETE FROM statistics WHERE tenant = ? AND user = ?", _key(scope))
                else:
                    connection.execute("REPLACE INTO statistics VALUES (?, ?, ?)", (*_key(scope), body))

        await self._run(work)


def _there(connection: apsw.Connection) -> bool:
    """Whether the tables are there: a file of an older layout may be open for reading only."""
    return bool(connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'vectors'").get)


def _statistics(connection: apsw.Connection, scope: Scope) -> bytes | None:
    if not _there(connection):
        return None
    row: Any = connection.execute(
        "SELECT body FROM statistics WHERE tenant = ? AND user = ?", _key(scope)
    ).fetchone()
    return None if row is None else bytes(row[0])


def _key(scope: Scope) -> tuple[str, str]:
    return scope.tenant or "", scope.user or ""
