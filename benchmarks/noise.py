"""A user far past their limit: `python -m benchmarks.noise URL TOKEN CONNECTIONS`, until its input ends.

On every connection the next request follows the last answer at once: a state, or a message of 60 KiB. What is closed is
opened again. It comes from an address of its own, says when it is past its limit on every connection, and in the end
how often it was answered with what.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

ADDRESS = "127.0.0.2"
BODY_BYTES = 60_000


def requests(token: str) -> tuple[bytes, bytes]:
    """What it asks for."""
    head = (
        f"HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nauthorization: Bearer {token}\r\n"
    )
    body = json.dumps({"role": "user", "content": "x" * BODY_BYTES})
    get = f"GET /api/session/noisy/state {head}\r\n"
    post = f"POST /api/session/noisy/history {head}content-length: {len(body)}\r\n\r\n{body}"
    return get.encode(), post.encode()


class Hammer(asyncio.Protocol):
    """One connection."""

    def __init__(self, noise: Noise, turn: int) -> None:
        self._noise = noise
        self._turn = turn
        self._read = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._turn += 1
        self._transport.write(self._noise.requests[self._turn % 2])

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, found, body = self._read.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.find(b"content-length: ")
        length = int(head[at + 16 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(body) >= length:
            self._read = b""
            self._noise.count(head[9:12].decode())
            self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        self._noise.answered["connections closed"] += 1
        self._noise.open_one()


class Noise:
    """All of its connections."""

    def __init__(self, url: str, token: str, connections: int) -> None:
        self._where = urlsplit(url)
        self.requests = requests(token)
        self.answered: Counter[str] = Counter()
        self._connections = connections
        self._opened = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    def count(self, status: str) -> None:
        """Take in an answer."""
        self.answered[status] += 1
        if status == "429" and self.answered[status] == self._connections:
            print("past the limit", flush=True)

    def open_one(self) -> None:
        """Open another connection."""
        self._opened += 1
        task = asyncio.get_running_loop().create_task(self._open(self._opened))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, turn: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.create_connection(
                    lambda: Hammer(self, turn),
                    self._where.hostname,
                    self._where.port,
                    local_addr=(ADDRESS, 0),
                )
            except OSError:
                await asyncio.sleep(0.1)
            else:
                return


async def main() -> None:
    """Hammer until standard input ends."""
    url, token, connections = sys.argv[1], sys.argv[2], int(sys.argv[3])
    noise = Noise(url, token, connections)
    for _ in range(connections):
        noise.open_one()
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(noise.answered), flush=True)
    os._exit(0)  # the connections go as they stand


if __name__ == "__main__":
    os.nice(19)  # who measures comes first
    asyncio.run(main())
