"""The master key is rotated as the guide says, beside a server under load; both are killed in the middle, and go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from tests.carry.support import call, killed_above
from tests.crash.server import Connection, ConnectionLost, Server
from tests.support import wait_until_async

pytestmark = [pytest.mark.anyio, pytest.mark.crash]

USERS = 400
TALKERS = 4


class Load:
    """Talkers who append to users old and new; `acknowledged` holds what they were told is stored, in order."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, list[str]] = {}
        self._number = 0

    async def begin(self, port: int) -> None:
        """A message of each user, so that each has a key."""
        async with await Connection.open(port) as connection:
            operations = []
            for number in range(USERS):
                user, said = f"u{number}", f"first {number}"
                operations.append({"op": "append", "userId": user, "role": "user", "content": said})
                self.acknowledged[user] = [said]
            answer = (await connection.post("/api/session/batch", {"operations": operations})).check()
            assert all(each["success"] for each in answer["results"]), answer

    @contextlib.asynccontextmanager
    async def on(self, port: int) -> AsyncIterator[None]:
        """Talk to the server of this port meanwhile; that it dies is no fault of theirs."""
        over = asyncio.Event()
        talkers = [asyncio.create_task(self._talk(port, over, each)) for each in range(TALKERS)]
        try:
            yield
        finally:
            over.set()
            await asyncio.gather(*talkers)

    async def _talk(self, port: int, over: asyncio.Event, talker: int) -> None:
        with contextlib.suppress(ConnectionLost):
            async with await Connection.open(port) as connection:
                while not over.is_set():
                    self._number += 1
                    user = f"new {self._number}" if self._number % 3 == 0 else f"u{self._number % USERS}"
                    said = f"{talker} {self._number}"
                    body = {"role": "user", "content": said}
                    answer = await connection.post(f"/api/session/{user.replace(' ', '%20')}/history", body)
                    assert answer.check()["durability"] == "stored"
                    self.acknowledged.setdefault(user, []).append(said)


async def read(port: int, user: str) -> list[str]:
    """What a user's history says."""
    async with await Connection.open(port) as connection:
        page = (await connection.get(f"/api/session/{user.replace(' ', '%20')}/history?limit=100")).check()
    return [message["content"] for message in page["messages"]]


async def test_rotating_beside_a_server_survives_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was acknowledged is read with the new master key alone; the old one is of no use any more."""
    monkeypatch.chdir(tmp_path)
    for name in ("master", "next"):
        (tmp_path / name).write_bytes(os.urandom(32))
    rotate = ("encryption", "rotate", "--data-dir", str(tmp_path / "data"))
    load = Load()

    def given(*names: str) -> None:
        monkeypatch.setenv("SAMVAD_MASTER_KEY", ",".join(f"file:{tmp_path / name}" for name in names))

    def keys() -> dict[bytes, bytes]:
        with contextlib.closing(
            apsw.Connection(str(tmp_path / "data/samvad.db.keys"), flags=apsw.SQLITE_OPEN_READONLY)
        ) as there:
            there.set_busy_timeout(10_000)
            return dict(there.execute("SELECT name, value FROM keys WHERE length(name) = 32"))

    with Server(tmp_path / "data") as server:
        given("master")
        server.start()
        await load.begin(server.port)
        server.stop()
        before = keys()
        assert len(before) == USERS

        def moved() -> int:
            now = keys()
            return sum(now[name] != value for name, value in before.items())

        given("next", "master")
        server.start()
        async with load.on(server.port):
            first = await asyncio.to_thread(killed_above, tmp_path, 0, moved, *rotate)
            assert 0 < first < USERS, "in the middle"
            server.kill()
        server.start()
        async with load.on(server.port):
            second = await asyncio.to_thread(killed_above, tmp_path, first, moved, *rotate)
            assert first < second < USERS, "in the middle"
            told = await asyncio.to_thread(call, *rotate)
            assert "keys wrapped anew" in told
            assert moved() == USERS
            after = len(load.acknowledged)

            async def more() -> bool:
                return len(load.acknowledged) > after

            await wait_until_async(more, "new users begin after the rotation as well")
        server.stop()
        status = await asyncio.to_thread(call, "encryption", "status", "--data-dir", str(tmp_path / "data"))
        assert "wrapped with the first master key" in status
        given("next")
        server.start()
        for user, said in load.acknowledged.items():
            found = await read(server.port, user)
            assert [each for each in found if each in said] == said, user
        server.stop()
    given("master")
    assert "which is not given" in await asyncio.to_thread(
        lambda: call("stats", "--data-dir", "data", code=2)
    )
