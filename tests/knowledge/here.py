"""The search engine in the process of the test: the same engine and requests, without a process for each store.

For tests that are about something else, and open many stores.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from samvad.errors import ShuttingDown
from samvad.knowledge.engine import Engine
from samvad.knowledge.meaning import Meaning
from samvad.knowledge.remote import RemoteEngine
from samvad.knowledge.worker import Answer, Request, carry_out

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(Request).decode


class EngineHere(RemoteEngine):
    """Carries requests out where they are asked."""

    _engine: Engine | None = None
    _meaning: Meaning

    async def _exchange(self, request: Request) -> Answer:
        async with self._turn:
            engine = await self._started()
            result = carry_out(engine, self._meaning, _decode(_encode(request)))
            return Answer(msgspec.Raw(_encode(result)))

    async def _started(self) -> Any:
        if self._closed:
            raise ShuttingDown
        if self._engine is None:
            self._engine = Engine(self._directory, readonly=self._readonly, sealed=self._sealed)
            self._meaning = Meaning()
            self.starts += 1
        return self._engine

    async def _end(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()


@pytest.fixture
def engine_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services that are opened in this process search in it."""
    monkeypatch.setattr("samvad.knowledge.opening.RemoteEngine", EngineHere)
