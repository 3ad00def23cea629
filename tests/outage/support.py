"""A server before Firestore with a proxy in between, and what Firestore really has, asked past both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from samvad.records import UserKey
from samvad.testing.proxy import FaultProxy
from tests.crash.server import Connection, Server
from tests.firestore.support import emulator, open_store


@contextlib.asynccontextmanager
async def serving(directory: Path, *flags: str) -> AsyncIterator[tuple[Server, Connection, FaultProxy, Any]]:
    """A server, a connection to it, the proxy behind it, and Firestore past both."""
    async with FaultProxy("127.0.0.1", emulator().port) as proxy:
        project = emulator().new_project()
        environment = {"FIRESTORE_EMULATOR_HOST": proxy.address}
        store = await open_store(project)
        with Server(
            directory, "--store", f"firestore://{project}", *flags, environment=environment
        ) as server:
            await asyncio.to_thread(server.start)
            async with await Connection.open(server.port) as connection:
                yield server, connection, proxy, store
        await store.close()


async def history(store: Any, user: str) -> list[str]:
    """All that was said by a user, oldest first; its seq have no hole, and say so in the messages as well."""
    found: list[Any] = []
    more = True
    while more:
        page, more = await store.page(
            UserKey("default", user), after=len(found), before=None, limit=1_000, bytes_max=1 << 40
        )
        found += page
    bodies = [msgspec.json.decode(message.body) for message in found]
    assert [message.seq for message in found] == list(range(1, len(found) + 1))
    assert [body["seq"] for body in bodies] == list(range(1, len(found) + 1))
    return [body["content"] for body in bodies]
