"""The events of a session on their way to the turn loop: never lost, and bounded in bytes of audio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from samvad import limits
from samvad.live.providers.base import Audio, Event

AUDIO_BYTES_MAX: Final = limits.LIVE_PROVIDER_SPOKEN_BYTES_MAX  # 87 s of speech at 24 kHz


class Outbox:
    """Whoever makes events puts them in at once and then waits for room; one reader takes them out."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._audio_bytes = 0
        self._finished = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def put(self, event: Event) -> None:
        """Add one; after `finish` it is dropped."""
        if self._finished:
            return
        self._events.append(event)
        if isinstance(event, Audio):
            self._audio_bytes += len(event.data)
            if self._audio_bytes > AUDIO_BYTES_MAX:
                self._room.clear()
        self._changed.set()

    async def room(self) -> None:
        """Wait until the reader has caught up far enough."""
        await self._room.wait()

    def drop_audio(self) -> None:
        """Forget the speech that nobody has taken yet: it will not be heard any more."""
        self._events = deque(event for event in self._events if not isinstance(event, Audio))
        self._audio_bytes = 0
        self._room.set()

    def finish(self) -> None:
        """No more will come."""
        self._finished = True
        self._room.set()
        self._changed.set()

    async def events(self) -> AsyncIterator[Event]:
        """All of them, in order, until `finish`."""
        while True:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, Audio):
                    self._audio_bytes -= len(event.data)
                    if self._audio_bytes <= AUDIO_BYTES_MAX:
                        self._room.set()
                yield event
            if self._finished:
                return
            self._changed.clear()
            await self._changed.wait()
