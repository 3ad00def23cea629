"""What an engine is to the benchmark: one small class, and the list of them.

An engine is opened on one SQLite file, holds many sessions, and does three things: append a user's and an
assistant's message durably, give the last 100 messages, and (outside the measured time) fill a session
quickly by whatever way is its fastest.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from benchmarks.measure import Unavailable

Message = tuple[str, str]
"""A role (``user`` or ``assistant``) and a text."""

WINDOW = 100
"""How many messages one load asks for."""

ENGINES = {
    "samvad": "samvad_library",
    "openai-agents SQLiteSession": "openai_agents_sqlite",
    "google-adk DatabaseSessionService": "adk_database",
    "google-adk SqliteSessionService": "adk_sqlite",
    "langgraph AsyncSqliteSaver": "langgraph_sqlite",
    "plain group commit (apsw)": "plain_group_commit",
}
"""The name in the report → the module here that holds its ``ENGINE`` class."""

OURS = "samvad"
FLOOR = "plain group commit (apsw)"
"""Not a peer but the floor: SQLite and a queue, without any rule about conversations."""

SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")


class Engine(ABC):
    """One library, opened on one file.

    ``window`` is the most messages the caller wants kept per session, ``None`` for all of them. Only an
    engine that stores a session's history as one value has a use for it.
    """

    distribution: str
    """The installed distribution whose version is reported."""
    note: str = ""
    """How its interface was used, where there was a choice."""

    def __init__(self, window: int | None = None) -> None:
        self.window = window

    @abstractmethod
    async def open(self, path: Path) -> None:
        """Open the database file, creating it when it is not there."""

    @abstractmethod
    async def append_pair(self, session_id: str, user_text: str, assistant_text: str) -> None:
        """Append a user's and an assistant's message; return when the library calls them saved."""

    @abstractmethod
    async def load(self, session_id: str) -> Any:
        """Give the last :data:`WINDOW` messages as the library gives them."""

    @abstractmethod
    async def fill(self, session_id: str, messages: Sequence[Message]) -> None:
        """Put messages into a session that has none, the quickest way. Not measured."""

    async def warm(self, session_id: str) -> None:
        """Make a filled session as ready as one in use is. Not measured."""
        await self.load(session_id)

    @abstractmethod
    def texts(self, loaded: Any) -> list[str]:
        """Give the texts in what :meth:`load` gave, oldest first."""

    @abstractmethod
    async def close(self) -> None:
        """Close the file and let go of threads."""

    def durability(self, path: Path) -> str:
        """Say how SQLite commits here. Called while the engine is open.

        Right for a library that sets no ``synchronous`` of its own and uses the standard library's SQLite:
        the journal mode is a property of the file, the rest is that SQLite's default.
        """
        connection = sqlite3.connect(path)
        try:
            journal = connection.execute("PRAGMA journal_mode").fetchone()[0]
            synchronous = connection.execute("PRAGMA synchronous").fetchone()[0]
        finally:
            connection.close()
        return f"{'WAL' if journal == 'wal' else f'rollback journal ({journal})'}, {SYNCHRONOUS[synchronous]}"


def create(name: str, window: int | None = None) -> Engine:
    """Make the engine called ``name`` in :data:`ENGINES`; :class:`Unavailable` when it is not installed."""
    try:
        module = importlib.import_module(f"benchmarks.peers.{ENGINES[name]}")
    except ImportError as error:
        raise Unavailable(f"{name}: {error}") from error
    return cast(Engine, module.ENGINE(window))


def version(engine: Engine) -> str:
    """Give the installed version of the engine's distribution, or nothing when it is not installed as one."""
    try:
        return importlib.metadata.version(engine.distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
