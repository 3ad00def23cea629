"""A server under the load of `benchmarks.users`, asked how it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import users
from tests.crash.server import Answer, Connection, Server
from tests.support import wait_until_async


async def ask(server: Server, path: str) -> Answer:
    """GET, on a connection of its own."""
    async with await Connection.open(server.port) as connection:
        return await connection.get(path)


async def metrics(server: Server) -> dict[str, float]:
    """What GET /metrics says, by name (and labels, as they stand there)."""
    return await users.metrics(server.port)


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
