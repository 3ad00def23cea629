"""kill -9 of replicas while a user is erased: what was acknowledged before is nowhere, once the erasing is answered."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from samvad.testing.proxy import FaultProxy
from tests.crash.server import Connection, ConnectionLost, Server
from tests.firestore.raw import everything
from tests.firestore.support import emulator
from tests.outage.load import metrics
from tests.support import wait_until_async

pytestmark = [pytest.mark.anyio, pytest.mark.crash]
CANARY = re.compile(r"canary-(\d+)-")
SETTLED_S = 60.0


class Replicas:
    """Two servers on one Firestore, a proxy before each; canaries are known by their numbers alone."""

    def __init__(self, servers: list[Server], proxies: list[FaultProxy], project: str, seed: int) -> None:
        self.servers = servers
        self.proxies = proxies
        self.project = project
        self.chance = random.Random(seed)
        self.sent = 0
        self.acknowledged: set[int] = set()
        self.kills = 0
        self.changing = [asyncio.Lock() for _ in servers]  # one starts or ends it at a time

    async def start(self, number: int) -> None:
        """See that a server runs."""
        async with self.changing[number]:
            if not self.servers[number].is_running:
                await asyncio.to_thread(self.servers[number].start)

    async def talk(self, home: int) -> None:
        """Say this and that to one server, until it is gone."""
        with contextlib.suppress(ConnectionLost):
            async with await Connection.open(self.servers[home].port) as connection:
                for turn in range(self.chance.randrange(5, 40)):
                    number, self.sent = self.sent, self.sent + 1
                    text = f"canary-{number}-"
                    kind = self.chance.choice(["history", "history", "state", "create", "keyed"])
                    headers = {"Idempotency-Key": f"k{number}"} if kind == "keyed" else {}
                    path, body = f"/api/session/asha/{kind}", {"role": "user", "content": text}
                    if kind == "state":
                        body = {f"k{number}": text}
                    elif kind == "create":
                        path = "/api/session/create"
                        body = {"sessionId": f"s-{turn % 5}", "userId": "asha", f"k{number}": text}
                    elif kind == "keyed":
                        path = "/api/session/asha/history"
                    answer = await connection.request("POST", path, body, headers)
                    if answer.status == 200:
                        self.acknowledged.add(number)

    async def erase(self, home: int) -> bool:
        """Ask for the erasing, as long as nobody answers; whether it is done, and not still on its way."""
        while True:
            with contextlib.suppress(ConnectionLost):
                async with await Connection.open(self.servers[home].port) as connection:
                    answer = await connection.post("/api/session/refresh", {"userId": "asha"})
                    if answer.status in (200, 202):
                        return answer.status == 200
            await self.start(home)  # it was killed

    async def kill(self, victim: int, moment: int) -> None:
        """SIGKILL after so many turns of the event loop."""
        for _ in range(moment):
            await asyncio.sleep(0)
        async with self.changing[victim]:
            await asyncio.to_thread(self.servers[victim].kill)
        self.kills += 1

    async def cycle(self) -> None:
        """Words, an erasing with a kill in the middle, words again; then nothing of before is anywhere."""
        home, victim = self.chance.randrange(2), self.chance.randrange(2)
        self.proxies[victim].fault = self.chance.choice([None, "refused"])
        await asyncio.gather(self.talk(0), self.talk(1))
        before = set(self.acknowledged)
        racing = [asyncio.create_task(self.talk(number)) for number in (0, 1)]
        erasing = asyncio.create_task(self.erase(home))
        await self.kill(victim, self.chance.randrange(400))
        await asyncio.gather(*racing)
        await erasing
        self.proxies[victim].fault = None
        await asyncio.gather(self.start(0), self.start(1))
        await wait_until_async(self.drained, "everything is in Firestore", timeout_s=SETTLED_S)
        while not await self.erase(home):  # 202: it was on its way; now it is done
            pass
        fresh = self.sent
        await asyncio.gather(self.talk(0), self.talk(1))
        await wait_until_async(self.drained, "everything is in Firestore", timeout_s=SETTLED_S)
        told = before | {number for number in self.acknowledged if number < fresh}

        async def gone() -> bool:
            return not self.places(told)

        await wait_until_async(gone, f"nothing is left: {self.places(told)}", timeout_s=SETTLED_S)
        kept = self.in_documents()
        assert {number for number in self.acknowledged if number >= fresh} <= kept, "a new life is not erased"
        for server in self.servers:
            async with await Connection.open(server.port) as connection:
                for path in ("asha/profile", "asha/state", "user/asha/active", "asha/history?limit=100"):
                    answer = await connection.get(f"/api/session/{path}")
                    assert not told & canaries(answer.body.decode())

    async def drained(self) -> bool:
        """Whether nothing waits in any journal."""
        return all([(await metrics(s))["samvad_journal_entries_waiting"] == 0 for s in self.servers])

    def in_documents(self) -> set[int]:
        """Canaries in any document."""
        return canaries(repr(everything(self.project)))

    def places(self, told: set[int]) -> dict[str, set[int]]:
        """Which of these canaries are where."""
        found = {"documents": self.in_documents()}
        for number, server in enumerate(self.servers):
            files = [path for path in server.data_dir.rglob("*") if path.is_file()]
            with contextlib.suppress(FileNotFoundError):
                found[f"files of {number}"] = set().union(
                    *[canaries(path.read_bytes().decode(errors="replace")) for path in files]
                )
            found[f"log of {number}"] = canaries("\n".join(server.log))
        return {where: each & told for where, each in found.items() if each & told}


def canaries(text: str) -> set[int]:
    """The numbers in a text."""
    return {int(number) for number in CANARY.findall(text)}


@contextlib.asynccontextmanager
async def replicas(directory: Path, seed: int) -> AsyncIterator[Replicas]:
    """Two of them, running."""
    async with contextlib.AsyncExitStack() as stack:
        project = emulator().new_project()
        proxies: list[FaultProxy] = []
        servers: list[Server] = []
        for number in (0, 1):
            proxy = await stack.enter_async_context(FaultProxy("127.0.0.1", emulator().port))
            environment: dict[str, Any] = {"FIRESTORE_EMULATOR_HOST": proxy.address}
            flags = ("--store", f"firestore://{project}", "--log-level", "debug")
            server = Server(directory / str(number), *flags, environment=environment)
            servers.append(stack.enter_context(server))
            proxies.append(proxy)
        await asyncio.gather(*[asyncio.to_thread(server.start) for server in servers])
        yield Replicas(servers, proxies, project, seed)


async def test_killed_while_erasing(tmp_path: Path) -> None:
    """Two kills."""
    async with replicas(tmp_path, 1) as both:
        for _ in range(2):
            await both.cycle()


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
async def test_killed_while_erasing_soak(tmp_path: Path, seed: int) -> None:
    """Fifty kills, ten in a row."""
    async with replicas(tmp_path, seed) as both:
        for _ in range(10):
            await both.cycle()
        assert both.kills == 10
