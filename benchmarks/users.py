"""Users of a server who speak at a rate: what an append takes, with time to spare between two of them.

`wrk` sends as fast as it is answered, and measures the queue. Here everybody has a schedule.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from benchmarks.measure import Sample, Unavailable

USERS = 50
MESSAGES_PER_S = 200
READ_EVERY = 8  # appends of a user
ANSWER_S_MAX = 20.0
TEXT = "What documents do I need for a home loan, and how long does it take until I hear from you?"
_HEAD_END = b"\r\n\r\n"


class Connection:
    """One HTTP/1.1 connection to a server on this machine, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def close(self) -> None:
        """Let it go."""
        self._writer.close()

    async def request(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Ask and read the whole answer: status and body."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
        if data:
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        self._writer.write(f"{head}\r\n".encode() + data)
        answer = await self._reader.readuntil(_HEAD_END)
        length = answer.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]
        return int(answer.split(b" ", 2)[1]), await self._reader.readexactly(int(length))


async def append_latencies_s(
    port: int, texts: list[str], *, users: int, per_s: float, seconds: float
) -> list[float]:
    """What each append took, `users` together sending `per_s` of them a second; Unavailable if one failed."""
    took_s: list[float] = []
    interval_s = users / per_s

    async def user(number: int) -> None:
        connection = await Connection.open(port)
        due_s = time.perf_counter() + interval_s * number / users
        ends_s = due_s + seconds
        turn = number
        while due_s < ends_s:
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            turn += 1
            body = {"role": "user", "content": texts[turn % len(texts)]}
            began_s = time.perf_counter()
            status, answer = await connection.request("POST", f"/api/session/user-{number}/history", body)
            took_s.append(time.perf_counter() - began_s)
            if status != 200:
                raise Unavailable(f"an append was answered {status}: {answer[:200]!r}")
            due_s = max(due_s + interval_s, time.perf_counter() - interval_s)
        connection.close()

    await asyncio.gather(*[user(number) for number in range(users)])
    return took_s


@dataclass
class Phase(Sample):
    """What was answered in one stretch of time; the latencies are those of appends."""

    statuses: Counter[int] = field(default_factory=Counter)
    durabilities: Counter[str] = field(default_factory=Counter)
    reads: int = 0
    reads_degraded: int = 0


class Load:
    """50 users of a server, each on a connection of their own, together 200 messages a second.

    They remember all that they were told, and `wrong` says what did not fit to it.
    """

    def __init__(self, port: int, users: int = USERS, messages_per_s: float = MESSAGES_PER_S) -> None:
        self.port = port
        self.names = [f"user-{number}@example.com" for number in range(users)]
        self.said: dict[str, list[str]] = {name: [] for name in self.names}
        self.phases: dict[str, Phase] = {}
        self.phase = "normal"
        self.degraded: bool | None = None  # what every read must say; None while that changes
        self.wrong: list[str] = []
        self._interval_s = users / messages_per_s
        self._heard = asyncio.Event()
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
        """Wait until so many more were acknowledged; TimeoutError where that takes too long."""
        wanted = self.acknowledged + messages
        async with asyncio.timeout(timeout_s):
            while self.acknowledged < wanted:
                self._heard.clear()
                await self._heard.wait()

    async def _talk(self, name: str, delay_s: float) -> None:
        connection = await Connection.open(self.port)
        due_s = time.perf_counter() + delay_s
        while not self._stopping:
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            due_s = max(due_s + self._interval_s, time.perf_counter() - 1.0)
            async with asyncio.timeout(ANSWER_S_MAX):
                await self._say(connection, name)
                if len(self.said[name]) % READ_EVERY == 0:
                    await self._read(connection, name)
        connection.close()

    async def _say(self, connection: Connection, name: str) -> None:
        content = f"{len(self.said[name])}: {TEXT}"
        phase = self.phases.setdefault(self.phase, Phase())
        began_s = time.perf_counter()
        status, answer = await connection.request(
            "POST", f"/api/session/{name}/history", {"role": "user", "content": content}
        )
        phase.latencies_s.append(time.perf_counter() - began_s)
        phase.statuses[status] += 1
        if status != 200:
            self.wrong.append(f"{self.phase}: an append was answered {status}: {answer[:200]!r}")
            return
        told = json.loads(answer)
        self.said[name].append(content)
        self._heard.set()
        phase.durabilities[told["durability"]] += 1
        if told["seq"] != len(self.said[name]):
            self.wrong.append(f"{self.phase}: seq {told['seq']} for message {len(self.said[name])}")

    async def _read(self, connection: Connection, name: str) -> None:
        phase, wanted = self.phases.setdefault(self.phase, Phase()), self.degraded
        status, answer = await connection.request("GET", f"/api/session/{name}/profile")
        if status != 200:
            self.wrong.append(f"{self.phase}: a read was answered {status}: {answer[:200]!r}")
            return
        told = json.loads(answer)
        degraded = told.get("degraded", False)
        phase.reads += 1
        phase.reads_degraded += degraded
        read = [message["content"] for message in told["profile"]["conversationHistory"]]
        if read != self.said[name][-100:]:
            self.wrong.append(f"{self.phase}: {name} was read otherwise than it was written")
        if wanted is not None and wanted == self.degraded != degraded:
            self.wrong.append(f'{self.phase}: a read said "degraded":{degraded}')


async def metrics(port: int) -> dict[str, float]:
    """What GET /metrics says, by name (and labels, as they stand there)."""
    connection = await Connection.open(port)
    _, answer = await connection.request("GET", "/metrics")
    connection.close()
    found = {}
    for line in answer.decode().splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found
