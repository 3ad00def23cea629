"""Google's real client against the fake server: how tests make a provider and read a session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from samvad.live.providers import base
from samvad.live.providers.base import Context, Event, Turn
from samvad.live.providers.line import Redial
from samvad.live.providers.line_session import LineSession
from samvad.live.providers.vertex import VertexAILiveService
from samvad.testing.gemini import FakeGeminiLive

MODES = ("vertex", "gemini")
WAIT_S = 60.0
QUICK = partial(Redial, first_wait_s=0.01, last_wait_s=0.05)

E = TypeVar("E")


def make_service(fake: FakeGeminiLive, mode: str, **options: Any) -> VertexAILiveService:
    """The provider, which comes to the fake server and does not wait long."""
    from google.oauth2.credentials import Credentials

    who: dict[str, Any] = (
        {"project": "demo-project", "credentials": Credentials(token="x")}  # type: ignore[no-untyped-call]
        if mode == "vertex"
        else {"api_key": "no-real-key"}
    )
    http_options = fake.http_options()
    del http_options["api_version"]
    settings: dict[str, Any] = {"redial": QUICK, "http_options": http_options, **options}
    return VertexAILiveService(mode=mode, **who, **settings)  # type: ignore[arg-type]


class Talk:
    """A conversation as a turn loop has it: what was said and heard is kept, events are read to a condition."""

    def __init__(self) -> None:
        self.kept: list[Turn] = []
        self.events: list[Event] = []
        self.handle: base.Resumable | None = None
        self.session: LineSession
        self._reader: AsyncIterator[Event]
        self._half = ""

    async def begin(self, service: VertexAILiveService, **options: Any) -> None:
        """Open a session."""
        given = {"user_id": "asha", "session_id": "s-1", "history": lambda: self.kept, **options}
        self.session = await service.open(Context(**given))
        self._reader = self.session.events()

    async def until(self, kind: type[E], condition: Callable[[E], bool] = lambda _: True) -> E:
        """Read on to the next event of that kind."""
        async with asyncio.timeout(WAIT_S):
            async for event in self._reader:
                self._note(event)
                if isinstance(event, kind) and condition(event):
                    return event
        raise AssertionError(f"the session has ended before a {kind.__name__}: {self.events[-5:]}")

    async def rest(self) -> list[Event]:
        """Read all that is left; the session must end."""
        async with asyncio.timeout(WAIT_S):
            async for event in self._reader:
                self._note(event)
        return self.events

    async def ask(self, text: str, note: str | None = None) -> str:
        """A written turn and the whole answer, both kept as a turn loop keeps them."""
        self.kept.append(Turn(role="user", text=text))
        await self.session.send_text(text, note=note)
        await self.until(base.TurnDone)
        return self.kept[-1].text

    def _note(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case base.Transcript(role="user", text=text) if text:
                if not self.kept or self.kept[-1].role != "user" or self._half:
                    self.kept.append(Turn(role="user", text=""))
                self.kept[-1] = Turn(role="user", text=self.kept[-1].text + text)
            case base.Transcript(text=text) | base.Delta(text=text):
                self._half += text
            case base.TurnDone() | base.Failed():
                if self._half:
                    self.kept.append(Turn(role="assistant", text=self._half))
                self._half = ""
            case base.Resumable():
                self.handle = event

    def of(self, kind: type[E]) -> list[E]:
        """All events of that kind so far."""
        return [event for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def talking(
    fake: FakeGeminiLive, mode: str, *, service: Any = None, **options: Any
) -> AsyncIterator[Talk]:
    """A conversation with the fake, ended at last."""
    made = service or make_service(fake, mode)
    talk = Talk()
    await talk.begin(made, **options)
    try:
        yield talk
    finally:
        await talk.session.close()
        if service is None:
            await made.close()


def said(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    """Turns as the fake's memory has them."""
    return [("model" if turn.role == "assistant" else "user", turn.text) for turn in turns]
