"""What the two session services of google-adk have in common."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.adk.events.event import Event
from google.adk.sessions.base_session_service import BaseSessionService, GetSessionConfig
from google.adk.sessions.session import Session
from google.genai import types

from benchmarks.peers.engine import WINDOW, Engine, Message

APP = "benchmark"
RECENT = GetSessionConfig(num_recent_events=WINDOW)


class AdkEngine(Engine):
    """A pair is two ``append_event`` on a session kept between turns, a load is ``get_session``.

    ADK's own runner loads the whole session before each turn; keeping it is the kinder choice. After an
    error the kept session is dropped and loaded again, since ADK refuses one that has gone stale.
    """

    distribution = "google-adk"
    note = (
        "the session object is kept between turns (its runner loads it each turn); a pair is two "
        "`append_event`, two commits; a load is `get_session` with `num_recent_events=100`"
    )
    _service: BaseSessionService

    def _create_service(self, path: Path) -> BaseSessionService:
        raise NotImplementedError

    async def _insert(self, session: Session, events: Sequence[Event]) -> None:
        raise NotImplementedError

    async def open(self, path: Path) -> None:
        """Open the service."""
        self._path = path
        self._service = self._create_service(path)
        self._sessions: dict[str, Session] = {}

    async def _session(self, session_id: str) -> Session:
        session = self._sessions.get(session_id)
        if session is None:
            session = await self.load(session_id)
            if session is None:
                session = await self._service.create_session(
                    app_name=APP, user_id=session_id, session_id=session_id
                )
            self._sessions[session_id] = session
        return session

    async def append_pair(self, session_id: str, user_text: str, assistant_text: str) -> None:
        """Append two events, as a runner does in a turn."""
        session = await self._session(session_id)
        try:
            await self._service.append_event(session, _event("user", user_text))
            await self._service.append_event(session, _event("assistant", assistant_text))
        except BaseException:
            del self._sessions[session_id]
            raise

    async def load(self, session_id: str) -> Any:
        """Give a ``Session``, or ``None`` when there is none."""
        return await self._service.get_session(
            app_name=APP, user_id=session_id, session_id=session_id, config=RECENT
        )

    async def fill(self, session_id: str, messages: Sequence[Message]) -> None:
        """Create the session, then put the rows into ADK's own table in one transaction."""
        session = await self._session(session_id)
        begin = time.time() - len(messages) * 0.001 - 1
        events = [_event(role, text, begin + index * 0.001) for index, (role, text) in enumerate(messages)]
        await self._insert(session, events)
        self._sessions[session_id] = await self.load(session_id)

    def texts(self, loaded: Any) -> list[str]:
        """Read the text of each event's one part."""
        return [event.content.parts[0].text for event in loaded.events] if loaded is not None else []


def _event(role: str, text: str, timestamp: float | None = None) -> Event:
    content = types.Content(role="user" if role == "user" else "model", parts=[types.Part(text=text)])
    event = Event(author=role, invocation_id="benchmark", content=content)
    if timestamp is not None:
        event.timestamp = timestamp
    return event
