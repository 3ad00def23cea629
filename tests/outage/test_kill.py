"""kill -9 with Firestore down, a restart with it down, killed again, Firestore back: all acknowledged is there."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from samvad.records import UserKey
from samvad.testing.proxy import FaultProxy
from tests.crash.server import Connection, ConnectionLost, Server
from tests.firestore.support import emulator, open_store
from tests.journaled.support import in_order
from tests.outage.load import metrics
from tests.outage.support import history
from tests.support import short_and_long, wait_until_async

pytestmark = [pytest.mark.anyio, pytest.mark.crash]
CHAINS = 2  # servers at once, each with a directory and a project of its own
USERS = ("asha@example.com", "उपयोगकर्ता")


class Chain:
    """One data directory through many lives."""

    def __init__(self, server: Server, proxy: FaultProxy, store: Any, seed: int) -> None:
        self.server = server
        self.proxy = proxy
        self.store = store
        self.chance = random.Random(seed)
        self.sent: dict[str, list[str]] = {user: [] for user in USERS}
        self.acknowledged: dict[str, list[str]] = {user: [] for user in USERS}
        self.keys: set[str] = set()
        self.kills = 0

    async def life(self, acknowledgements: int) -> None:
        """Talk until so many writes were acknowledged, and kill the server while others are under way."""
        target = sum(map(len, self.acknowledged.values())) + acknowledgements
        talking = [asyncio.create_task(self._talk(user, target)) for user in USERS]
        await asyncio.wait(talking, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(self.server.kill)
        self.kills += 1
        await asyncio.gather(*talking)

    async def _talk(self, user: str, target: int) -> None:
        try:
            async with await Connection.open(self.server.port) as connection:
                while sum(map(len, self.acknowledged.values())) < target:
                    content = f"message {len(self.sent[user])}"
                    self.sent[user].append(content)
                    body = {"role": "user", "content": content}
                    answer = await connection.post(f"/api/session/{quote(user, safe='')}/history", body)
                    assert answer.check()["durability"] == "journaled"
                    self.acknowledged[user].append(content)
                    if self.chance.random() < 0.2:
                        key = f"k{len(self.sent[user])}"
                        answer = await connection.post(
                            f"/api/session/{quote(user, safe='')}/state", {key: content}
                        )
                        if user == USERS[0] and answer.check():
                            self.keys.add(key)
        except ConnectionLost:
            return

    async def cycle(self) -> None:
        """The server runs; at the end it runs again, with all in Firestore."""
        self.proxy.fault = self.chance.choice(["refused", "hung"])
        await self.life(self.chance.randrange(1, 40))
        await asyncio.to_thread(self.server.start)
        await self.life(self.chance.randrange(1, 40))
        self.proxy.fault = None
        await asyncio.to_thread(self.server.start)

        async def drained() -> bool:
            return (await metrics(self.server))["samvad_journal_entries_waiting"] == 0

        await wait_until_async(drained, "everything is in Firestore", timeout_s=60)
        for user in USERS:
            found = await history(self.store, user)
            assert in_order(self.acknowledged[user], found)  # each once, in the order of the answers
            assert in_order(found, self.sent[user])  # and nothing that was not said, or twice
        record = await self.store.load(
            UserKey("default", USERS[0]), window=1, open_after_ms=0, sessions_max=1
        )
        kept = record.state.body.decode() if record.state is not None else ""
        assert all(f'"{key}":' in kept for key in self.keys)


@pytest.mark.parametrize("cycles", short_and_long(20, 500))
async def test_killed_twice_in_an_outage(tmp_path: Path, cycles: int) -> None:
    """20 cycles (500 in soak) of two kills each, with appends and merges under way: 0 lost, 0 doubled."""

    async def chain(number: int) -> int:
        async with FaultProxy("127.0.0.1", emulator().port) as proxy:
            project = emulator().new_project()
            store = await open_store(project)
            environment = {"FIRESTORE_EMULATOR_HOST": proxy.address}
            directory = tmp_path / str(number)
            with Server(directory, "--store", f"firestore://{project}", environment=environment) as server:
                await asyncio.to_thread(server.start)
                links = Chain(server, proxy, store, number)
                for _ in range(cycles // CHAINS):
                    await links.cycle()
            await store.close()
            assert all(links.acknowledged.values()) and links.keys
            return links.kills

    assert sum(await asyncio.gather(*[chain(number) for number in range(CHAINS)])) == 2 * cycles
