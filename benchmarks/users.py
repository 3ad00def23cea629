"""Users of a server who speak at a rate: what an append takes, with time to spare between two of them.

`wrk` sends as fast as it is answered, and measures the queue. Here everybody has a schedule.
"""

from __future__ import annotations

import asyncio
import json
import time

from benchmarks.measure import Unavailable

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
