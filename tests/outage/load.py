"""Users who talk to a real server over HTTP, at a rate, and remember all that they were told."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.server import Answer, Connection, Server
from tests.support import wait_until_async

USERS = 50
MESSAGES_PER_S = 200
READ_EVERY = 8  # appends of a user
TEXT = "What documents do I need for a home loan, and how long does it take until I hear from you?"


@dataclass
class Phase:
    """What was answered in one stretch of time."""

    append_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    durabilities: Counter[str] = field(default_factory=Counter)
    reads: int = 0
    reads_degraded: int = 0

    def quantile_ms(self, share: float) -> float:
        """The latency of an append, in milliseconds, that this share of them did not exceed."""
        ordered = sorted(self.append_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


class Load:
    """50 users on a server, each on a connection of their own, together 200 messages a second."""

    def __init__(self, server: Server, users: int = USERS, messages_per_s: float = MESSAGES_PER_S) -> None:
        self.server = server
        self.names = [f"user-{number}@example.com" for number in range(users)]
        self.said: dict[str, list[str]] = {name: [] for name in self.names}
        self.phases: dict[str, Phase] = {}
        self.phase = "normal"
        self.degraded: bool | None = None  # what every read must say; None while that changes
        self.wrong: list[str] = []
        self._interval_s = users / messages_per_s
        self._stopping = False

    @property
    def acknowledged(self) -> int:
        """How many messages were acknowledged."""
        return sum(map(len, self.said.values()))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The users talk for as long as this is open."""
        async with asyncio.TaskGroup() as group:
            for number, name in enumerate(self.names):
                group.create_task(self._talk(name, number / len(self.names) * self._interval_s))
            yield
            self._stopping = True

    async def more(self, messages: int, timeout_s: float = 120.0) -> None:
        """Wait until so many more were acknowledged."""
        wanted = self.acknowledged + messages

        async def reached() -> bool:
            return self.acknowledged >= wanted

        await wait_until_async(reached, f"{messages} more messages are acknowledged", timeout_s)

    async def _talk(self, name: str, delay_s: float) -> None:
        due_s = time.perf_counter() + delay_s
        async with await Connection.open(self.server.port) as connection:
            while not self._stopping:
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                due_s = max(due_s + self._interval_s, time.perf_counter() - 1.0)
                await self._say(connection, name)
                if len(self.said[name]) % READ_EVERY == 0:
                    await self._read(connection, name)

    async def _say(self, connection: Connection, name: str) -> None:
        content = f"{len(self.said[name])}: {TEXT}"
        phase = self.phases.setdefault(self.phase, Phase())
        began_s = time.perf_counter()
        answer = await connection.post(f"/api/session/{name}/history", {"role": "user", "content": content})
        phase.append_s.append(time.perf_counter() - began_s)
        phase.statuses[answer.status] += 1
        if answer.status != 200:
            self.wrong.append(f"{self.phase}: an append was answered {answer.status}: {answer.body[:200]!r}")
            return
        told = answer.json
        self.said[name].append(content)
        phase.durabilities[told["durability"]] += 1
        if told["seq"] != len(self.said[name]):
            self.wrong.append(f"{self.phase}: seq {told['seq']} for message {len(self.said[name])}")

    async def _read(self, connection: Connection, name: str) -> None:
        phase, wanted = self.phases.setdefault(self.phase, Phase()), self.degraded
        answer = await connection.get(f"/api/session/{name}/profile")
        if answer.status != 200:
            self.wrong.append(f"{self.phase}: a read was answered {answer.status}: {answer.body[:200]!r}")
            return
        degraded = answer.json.get("degraded", False)
        phase.reads += 1
        phase.reads_degraded += degraded
        read = [message["content"] for message in answer.json["profile"]["conversationHistory"]]
        if read != self.said[name][-100:]:
            self.wrong.append(f"{self.phase}: {name} was read otherwise than it was written")
        if wanted is not None and wanted == self.degraded != degraded:
            self.wrong.append(f'{self.phase}: a read said "degraded":{degraded}')


async def ask(server: Server, path: str) -> Answer:
    """GET, on a connection of its own."""
    async with await Connection.open(server.port) as connection:
        return await connection.get(path)


async def metrics(server: Server) -> dict[str, float]:
    """The measures of GET /metrics that have no labels."""
    found = {}
    for line in (await ask(server, "/metrics")).body.decode().splitlines():
        name, _, value = line.partition(" ")
        if not line.startswith("#") and "{" not in name:
            found[name] = float(value)
    return found


async def until_ready_says(server: Server, wanted: dict[str, Any], timeout_s: float = 60.0) -> None:
    """Wait until GET /readyz says so."""

    async def says() -> bool:
        answer = (await ask(server, "/readyz")).json
        return all(answer[name] == value for name, value in wanted.items())

    await wait_until_async(says, f"/readyz says {wanted}", timeout_s)


def resident_mib(server: Server) -> float:
    """The memory of the server's process."""
    pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20
