"""A real server before Firestore, seen from outside: what it says while Firestore is down, large users, strange ids."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from samvad import limits
from tests.crash.server import Connection, Server
from tests.outage.load import metrics, until_ready_says
from tests.outage.support import history, serving
from tests.support import loudly_skip, wait_until_async

pytestmark = [pytest.mark.anyio, pytest.mark.crash]
HINDI = "उपयोगकर्ता"
IDS = ("asha@example.com", HINDI, "x" * limits.ID_BYTES_MAX, "__x__", "a.b", "100%")
MESSAGE = {"role": "user", "content": "What documents do I need?"}


async def drained(server: Server) -> None:
    """Wait until nothing waits for Firestore."""

    async def empty() -> bool:
        return (await metrics(server))["samvad_journal_entries_waiting"] == 0

    await wait_until_async(empty, "all is in Firestore")


async def test_degradation(tmp_path: Path) -> None:
    """Contract, section 3, with Firestore cut off: answers, /readyz, /metrics; and all of it back to normal after."""
    async with serving(tmp_path) as (server, connection, proxy, store):
        base = "/api/session/asha"
        for path, body in (
            (f"{base}/history", MESSAGE),
            (f"{base}/state", {"language": "hi"}),
            ("/api/session/create", {"sessionId": "phone", "userId": "asha"}),
            ("/api/session/ravi/history", MESSAGE),
        ):
            (await connection.post(path, body)).check()
        ready = (await connection.get("/readyz")).check()
        assert (ready["status"], ready["store"]) == ("ready", "up")
        await drained(server)
        healthy = await metrics(server)
        assert (healthy["samvad_store_up"], healthy["samvad_breaker_open"]) == (1, 0)

        proxy.fault = "refused"
        assert (await connection.post(f"{base}/history", MESSAGE)).check()["durability"] == "journaled"
        await until_ready_says(server, {"status": "degraded", "store": "down"})
        down = await metrics(server)
        assert (down["samvad_store_up"], down["samvad_breaker_open"]) == (0, 1)
        assert down["samvad_journal_entries_waiting"] == 1 and down["samvad_journal_bytes"] > 0
        for path in ("/state", "/profile", "/history"):
            known = (await connection.get(base + path)).check()
            assert known["degraded"] is True, path
        for path in ("/state", "/profile", "/history"):
            unknown = await connection.get(f"/api/session/nobody{path}")
            assert unknown.status == 503 and "retry-after" in unknown.headers, path
        assert (await connection.get("/api/session/stats")).status == 503
        new = await connection.post("/api/session/nobody/history", MESSAGE)
        assert new.check()["durability"] == "journaled"
        answer = await connection.post("/api/session/refresh", {"userId": "ravi"})
        assert (answer.status, answer.json["success"], answer.json["pending"]) == (202, True, True)
        empty = (await connection.get("/api/session/ravi/profile")).check()["profile"]
        assert (empty["historyLength"], empty["conversationHistory"]) == (0, [])
        assert (await connection.get("/api/session/ravi/state")).status == 404
        assert (await connection.get("/healthz")).check()["status"] == "alive"

        proxy.fault = None
        await until_ready_says(server, {"status": "ready", "store": "up"})
        await drained(server)
        for path in ("/state", "/profile", "/history"):
            assert "degraded" not in (await connection.get(base + path)).check()
        assert await history(store, "asha") == [MESSAGE["content"]] * 2
        assert await history(store, "nobody") == [MESSAGE["content"]]
        assert await history(store, "ravi") == []
        back = await metrics(server)
        assert (back["samvad_store_up"], back["samvad_breaker_open"], back["samvad_breaker_openings_total"]) == (
            1, 0, down["samvad_breaker_openings_total"],
        )  # fmt: skip


async def test_waiting_for_the_store(tmp_path: Path) -> None:
    """With --durability store nothing is acknowledged that Firestore does not have: `stored`, or 503."""
    async with serving(tmp_path, "--durability", "store") as (_, connection, proxy, store):
        answer = await connection.post("/api/session/asha/history", MESSAGE)
        assert answer.check()["durability"] == "stored"
        assert await history(store, "asha") == [MESSAGE["content"]]
        proxy.fault = "refused"
        refused = await connection.post("/api/session/asha/history", MESSAGE)
        assert refused.status == 503 and "retry-after" in refused.headers


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory on a file system in memory."""
    if "tmpfs /dev/shm" not in Path("/proc/mounts").read_text():
        loudly_skip("there is no tmpfs at /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


async def test_a_journal_in_memory_says_so(in_memory: Path) -> None:
    """On a file system that ends with the machine no answer says `journaled`."""
    async with serving(in_memory) as (server, connection, _, _store):
        answer = await connection.post("/api/session/asha/history", MESSAGE)
        assert answer.check()["durability"] == "memory"
        assert "tmpfs" in server.told()


async def test_ids_and_sizes(tmp_path: Path) -> None:
    """Ids are data, whatever they look like, and 100 messages of 64 KiB are a profile; read back after a restart."""
    large = ["x" * (limits.CONTENT_BYTES_MAX - len(str(n))) + str(n) for n in range(100)]
    async with serving(tmp_path) as (server, connection, _, store):
        for user in IDS:
            base = f"/api/session/{quote(user, safe='')}"
            (await connection.post(f"{base}/history", {**MESSAGE, "content": f"I am {user}"})).check()
            (await connection.post(f"{base}/state", {"name": user})).check()
        for content in large:
            (await connection.post("/api/session/large/history", {**MESSAGE, "content": content})).check()
        refused = await connection.post("/api/session/a%2Fb/history", MESSAGE)
        assert (refused.status, refused.json["success"]) == (400, False)
        await drained(server)
        for user in IDS:
            assert await history(store, user) == [f"I am {user}"]
        assert await history(store, "large") == large
        assert await asyncio.to_thread(server.stop) == 0
        await asyncio.to_thread(server.start)
        async with await Connection.open(server.port) as again:
            for user in IDS:
                base = f"/api/session/{quote(user, safe='')}"
                assert (await again.get(f"{base}/state")).check()["state"]["name"] == user
                profile = (await again.get(f"{base}/profile")).check()["profile"]
                assert [m["content"] for m in profile["conversationHistory"]] == [f"I am {user}"]
            profile = (await again.get("/api/session/large/profile")).check()["profile"]
            assert [m["content"] for m in profile["conversationHistory"]] == large
