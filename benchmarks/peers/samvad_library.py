"""Samvad through its library: the service that the server runs, in this process, on a SQLite file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from benchmarks.peers.engine import Engine, Message
from samvad import open_samvad

BATCH_MAX = 100
"""The most messages that one ``append_many`` takes (CONTRACT, History)."""


class SamvadLibrary(Engine):
    """A pair is one ``append_many`` of two messages, a load is ``get_user_profile``."""

    distribution = "samvad-sessions"
    note = "through `open_samvad`, defaults throughout; a session here is a user; loads come from its memory"

    async def open(self, path: Path) -> None:
        """Open the service on the file."""
        self._stack = AsyncExitStack()
        self._samvad = await self._stack.enter_async_context(open_samvad(f"sqlite:///{path}"))

    async def append_pair(self, session_id: str, user_text: str, assistant_text: str) -> None:
        """Append both, all or none; keep how durable the answer says they are."""
        appended = await self._samvad.append_many(
            session_id,
            [{"role": "user", "content": user_text}, {"role": "assistant", "content": assistant_text}],
        )
        self._answered = appended[-1].durability

    async def append_one(self, session_id: str, text: str) -> None:
        """Append one message of the user's."""
        await self._samvad.append_to_user_history(session_id, "user", text)

    async def load(self, session_id: str) -> Any:
        """Give the ``Profile``."""
        return await self._samvad.get_user_profile(session_id)

    async def fill(self, session_id: str, messages: Sequence[Message]) -> None:
        """Append in batches."""
        for start in range(0, len(messages), BATCH_MAX):
            batch = messages[start : start + BATCH_MAX]
            await self._samvad.append_many(
                session_id, [{"role": role, "content": text} for role, text in batch]
            )

    def texts(self, loaded: Any) -> list[str]:
        """Read ``content``."""
        return [message.content for message in loaded.conversation_history]

    async def close(self) -> None:
        """Close the service; what was acknowledged is in the file."""
        await self._stack.aclose()

    def durability(self, path: Path) -> str:
        """As the SQLite store documents, and what the last append's answer said."""
        return f"WAL, FULL, groups as they come; answered `{self._answered}`"


ENGINE = SamvadLibrary
