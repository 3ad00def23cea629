"""google-adk's ``DatabaseSessionService`` on SQLite through SQLAlchemy and aiosqlite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from google.adk.events.event import Event
from google.adk.sessions.database_session_service import DatabaseSessionService
from google.adk.sessions.schemas.v1 import StorageEvent
from google.adk.sessions.session import Session

from benchmarks.peers.adk import AdkEngine


class AdkDatabase(AdkEngine):
    """The service as documented: a ``sqlite+aiosqlite`` URL and nothing else set."""

    _service: DatabaseSessionService

    def _create_service(self, path: Path) -> DatabaseSessionService:
        return DatabaseSessionService(f"sqlite+aiosqlite:///{path}")

    async def _insert(self, session: Session, events: Sequence[Event]) -> None:
        async with self._service.database_session_factory() as rows:
            rows.add_all([StorageEvent.from_event(session, event) for event in events])
            await rows.commit()

    async def close(self) -> None:
        """Dispose of the connection pool."""
        await self._service.close()


ENGINE = AdkDatabase
