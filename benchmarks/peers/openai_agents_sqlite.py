"""openai-agents' ``SQLiteSession``: one object a session, all in one file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.memory.sqlite_session import SQLiteSession

from benchmarks.peers.engine import WINDOW, Engine, Message

SESSIONS_OPEN_MAX = 64
"""Each open session holds a connection for every thread of asyncio's pool, so not too many at once."""

THREADS = 16


class OpenAIAgentsSQLite(Engine):
    """A pair is one ``add_items`` of two items, a load is ``get_items(limit=100)``."""

    distribution = "openai-agents"
    note = "one `SQLiteSession` object a session, kept between turns; a pair is one `add_items`, one commit"

    async def open(self, path: Path) -> None:
        """Remember the file; each session opens its own connections."""
        self._path = path
        self._sessions: dict[str, SQLiteSession] = {}

    def _session(self, session_id: str) -> SQLiteSession:
        session = self._sessions.get(session_id)
        if session is None:
            if len(self._sessions) >= SESSIONS_OPEN_MAX:
                self._sessions.pop(next(iter(self._sessions))).close()
            session = self._sessions[session_id] = SQLiteSession(session_id, self._path)
        return session

    async def append_pair(self, session_id: str, user_text: str, assistant_text: str) -> None:
        """Add two items in one commit."""
        await self.fill(session_id, (("user", user_text), ("assistant", assistant_text)))

    async def load(self, session_id: str) -> Any:
        """Give a list of dicts."""
        return await self._session(session_id).get_items(limit=WINDOW)

    async def fill(self, session_id: str, messages: Sequence[Message]) -> None:
        """Add all items in one commit."""
        items: list[Any] = [{"role": role, "content": text} for role, text in messages]
        await self._session(session_id).add_items(items)

    async def warm(self, session_id: str) -> None:
        """Load from several threads at once: each thread's first call on a session opens a connection."""
        await asyncio.gather(*(self.load(session_id) for _ in range(THREADS)))

    def texts(self, loaded: Any) -> list[str]:
        """Read ``content``."""
        return [item["content"] for item in loaded]

    async def close(self) -> None:
        """Close every session's connections."""
        for session in self._sessions.values():
            session.close()


ENGINE = OpenAIAgentsSQLite
