"""A user far past their limit: `python -m benchmarks.noise URL USER TOKEN CONNECTIONS`, until its input ends.

On every connection the next request follows the last answer at once: a state, or a message of 60 KiB. What is closed is
opened again. It comes from an address of its own, says when it is there, begins when it is told a line, and says in the
end how often it was answered with what.
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


def requests(user: str, token: str) -> tuple[bytes, bytes]:
    """What it asks for."""
    head = (
        f"HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nauthorization: Bearer {token}\r\n"
    )
    body = json.dumps({"role": "user", "content": "x" * BODY_BYTES})
    get = f"GET /api/session/{user}/state {head}\r\n"
    post = f"POST /api/session/{user}/history {head}content-length: {len(body)}\r\n\r\n{body}"
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

    def __init__(self, url: str, user: str, token: str) -> None:
        self._where = urlsplit(url)
        self.requests = requests(user, token)
        self.answered: Counter[str] = Counter()
        self._opened = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    def count(self, status: str) -> None:
        """Take in an answer."""
        self.answered[status] += 1

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
    url, user, token, connections = sys.argv[1:]
    noise = Noise(url, user, token)
    print("here", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for _ in range(int(connections)):
        noise.open_one()
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(noise.answered), flush=True)
    os._exit(0)  # the connections go as they stand


if __name__ == "__main__":
    os.nice(19)  # who measures comes first
    asyncio.run(main())
