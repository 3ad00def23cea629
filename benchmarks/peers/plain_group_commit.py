"""The floor under a durable append: SQLite through apsw, one writer thread that commits what is waiting.

No users, no rules, no window, no cache: a queue, a transaction a group, an fsync a transaction.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec

from benchmarks.peers.engine import SYNCHRONOUS, WINDOW, Engine, Message

SCHEMA = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=FULL;
CREATE TABLE IF NOT EXISTS message (
    user TEXT, seq INTEGER, body BLOB, PRIMARY KEY (user, seq)
) WITHOUT ROWID;
"""
GROUP_MAX = 1000
Row = tuple[str, int, bytes]
Waiting = tuple[list[Row], "asyncio.Future[None]"]


class PlainGroupCommit(Engine):
    """A pair is two rows that wait for their group's commit, a load is one query on the event loop's thread."""

    distribution = "apsw"
    note = "not a peer: a queue and a writer thread, the floor for any design on SQLite"

    async def open(self, path: Path) -> None:
        """Open a connection for the writer thread and one for reading."""
        self._loop = asyncio.get_running_loop()
        self._writer = apsw.Connection(str(path))
        self._writer.execute(SCHEMA).fetchall()
        self._reader = apsw.Connection(str(path))
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._last_seq: dict[str, int] = {}
        self._thread = threading.Thread(target=self._write, name="plain-writer")
        self._thread.start()

    async def append_pair(self, session_id: str, user_text: str, assistant_text: str) -> None:
        """Append both in one transaction."""
        await self.fill(session_id, (("user", user_text), ("assistant", assistant_text)))

    async def append_one(self, session_id: str, text: str) -> None:
        """Append one message of the user's."""
        await self.fill(session_id, (("user", text),))

    async def fill(self, session_id: str, messages: Sequence[Message]) -> None:
        """Hand rows to the writer; return when they are committed."""
        seq = self._last_seq.get(session_id)
        if seq is None:
            found = self._reader.execute(
                "SELECT max(seq) FROM message WHERE user = ?", (session_id,)
            ).fetchone()
            seq = (found[0] if found else None) or 0
        self._last_seq[session_id] = seq + len(messages)
        rows = [
            (session_id, seq + place, msgspec.json.encode({"role": role, "content": text}))
            for place, (role, text) in enumerate(messages, 1)
        ]
        done = self._loop.create_future()
        self._queue.put((rows, done))
        await done

    def _write(self) -> None:
        """Commit whatever waits, then whatever came meanwhile, until told to stop. Runs in its own thread."""
        stop = False
        while not stop and (first := self._queue.get()) is not None:
            group = [first]
            while len(group) < GROUP_MAX and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    stop = True
                    break
                group.append(following)
            with self._writer:
                for rows, _ in group:
                    self._writer.executemany("INSERT INTO message VALUES (?, ?, ?)", rows)
            self._loop.call_soon_threadsafe(_acknowledge, [done for _, done in group])

    async def load(self, session_id: str) -> Any:
        """Give a list of dicts."""
        query = "SELECT body FROM message WHERE user = ? ORDER BY seq DESC LIMIT ?"
        bodies = self._reader.execute(query, (session_id, WINDOW)).fetchall()
        return [msgspec.json.decode(body) for (body,) in reversed(bodies)]

    def texts(self, loaded: Any) -> list[str]:
        """Read ``content``."""
        return [message["content"] for message in loaded]

    async def close(self) -> None:
        """Let the writer finish, then close both connections."""
        self._queue.put(None)
        self._thread.join()
        self._reader.close()
        self._writer.close()

    def durability(self, path: Path) -> str:
        """Read it from the writer's own connection."""
        return f"WAL, {SYNCHRONOUS[self._writer.pragma('synchronous')]}, groups as they come"


def _acknowledge(group: list[asyncio.Future[None]]) -> None:
    for done in group:
        if not done.done():
            done.set_result(None)


ENGINE = PlainGroupCommit
