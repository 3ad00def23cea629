"""What an operator sees: /readyz and /metrics of a service behind a journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from samvad.errors import TooLarge
from samvad.http.app import create_app
from samvad.stores.memory import MemoryStore
from tests.http.support import Api
from tests.journaled.faulty import FaultyStore
from tests.journaled.support import abandon, contents, drained, opened, service, store_of
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio
HISTORY = "/api/session/asha/history"
HELLO = {"role": "user", "content": "hello"}


async def value(api: Api, name: str) -> float:
    """One measure of GET /metrics."""
    answer = await api.get("/metrics")
    lines = [line.split() for line in answer.body.decode().splitlines()]
    found = [float(words[1]) for words in lines if words and words[0] == name]
    assert len(found) == 1, name
    return found[0]


async def test_damage_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A flipped byte: the log and /metrics say so, the bytes are set aside, and all that is whole goes to the store."""
    store = MemoryStore()
    await store.open()
    inner = FaultyStore(store)
    samvad = await service(inner, tmp_path / "j").open()
    inner.down = True
    for content in ("one", "two CANARY", "three"):
        await samvad.append_to_user_history("asha", "user", content)
    await abandon(samvad)
    [path] = [path for path in (tmp_path / "j").glob("*.journal") if b"CANARY" in path.read_bytes()]
    path.write_bytes(path.read_bytes().replace(b"CANARY", b"CANARx"))
    inner.down = False
    async with opened(inner, tmp_path / "j") as again:
        await drained(again)
        assert await contents(store, "asha") == ["one", "three"]
        assert await value(Api(again, create_app(again)), "samvad_journal_damages") == 1
    [told] = [record for record in caplog.records if "damaged" in record.message]
    assert (told.levelname, told.__dict__["entries_lost_max"], told.__dict__["set_aside"]) == (
        "ERROR",
        1,
        True,
    )
    assert any(b"CANARx" in kept.read_bytes() for kept in (tmp_path / "j" / "damaged").iterdir())
    assert "CANAR" not in caplog.text


async def test_degraded_and_back(tmp_path: Path) -> None:
    """Ready; degraded with the store down while the journal takes writes; 503 where it is full; ready again."""
    store = MemoryStore()
    await store.open()
    inner = FaultyStore(store)
    async with opened(inner, tmp_path / "j", bytes_max=20_000, segment_bytes=10_000) as samvad:
        api = Api(samvad, create_app(samvad))
        await api.ok("POST", HISTORY, HELLO)
        await drained(samvad)
        ready = await api.ok("GET", "/readyz")
        assert (ready["status"], ready["store"], ready["durability"]) == ("ready", "up", "journaled")
        assert (await value(api, "samvad_breaker_open"), await value(api, "samvad_store_up")) == (0, 1)
        commits = await value(api, "samvad_flush_commits_total")
        assert commits >= 1
        inner.down = True
        assert (await api.ok("POST", HISTORY, HELLO))["durability"] == "journaled"

        async def is_open() -> bool:
            return store_of(samvad).breaker.is_open

        await wait_until_async(is_open, "the breaker opens")
        degraded = await api.ok("GET", "/readyz")
        assert (degraded["status"], degraded["store"]) == ("degraded", "down")
        assert (await api.ok("GET", "/api/session/asha/profile"))["degraded"] is True
        assert (await value(api, "samvad_breaker_open"), await value(api, "samvad_store_up")) == (1, 0)
        assert await value(api, "samvad_journal_entries_waiting") == 1
        assert await value(api, "samvad_journal_bytes") > 50
        while (answer := await api.post(HISTORY, {**HELLO, "content": "x" * 1_000})).status == 200:
            pass
        assert (answer.status, answer.json["code"]) == (503, "overloaded")
        for _ in range(20):  # until not even the smallest entry has room
            await api.post(HISTORY, HELLO)
        inner.down = False
        await drained(samvad)
        assert (await api.ok("GET", "/readyz"))["status"] == "ready"
        assert await value(api, "samvad_flush_commits_total") > commits
        assert await value(api, "samvad_journal_entries_waiting") == 0
        inner.refuse = lambda commit: TooLarge()

        async def taken() -> bool:
            return (await api.post(HISTORY, HELLO)).status == 200

        await wait_until_async(taken, "there is room again")

        async def parked() -> bool:
            return await value(api, "samvad_lanes_parked") == 1

        await wait_until_async(parked, "the parked lane can be seen")
