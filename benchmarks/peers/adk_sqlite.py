"""google-adk's ``SqliteSessionService``: aiosqlite, a new connection each call."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from google.adk.events.event import Event
from google.adk.sessions.session import Session
from google.adk.sessions.sqlite_session_service import SqliteSessionService

from benchmarks.peers.adk import APP, AdkEngine

INSERT = (
    "INSERT INTO events (id, app_name, user_id, session_id, invocation_id, timestamp, event_data)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)


class AdkSqlite(AdkEngine):
    """The service as documented."""

    _service: SqliteSessionService

    def _create_service(self, path: Path) -> SqliteSessionService:
        return SqliteSessionService(str(path))

    async def _insert(self, session: Session, events: Sequence[Event]) -> None:
        rows = [
            (
                e.id,
                APP,
                session.user_id,
                session.id,
                e.invocation_id,
                e.timestamp,
                e.model_dump_json(exclude_none=True),
            )
            for e in events
        ]
        with closing(sqlite3.connect(self._path)) as connection, connection:
            connection.executemany(INSERT, rows)

    async def close(self) -> None:
        """Nothing stays open between calls on a file; close what there is."""
        await self._service.close()


ENGINE = AdkSqlite
