"""The journal of a real server is full: it says so, drops nothing, and goes on by itself once Firestore is back."""

from __future__ import annotations

from pathlib import Path

import pytest

from samvad import limits
from tests.crash.server import Answer
from tests.outage.load import metrics, until_ready_says
from tests.outage.support import history, serving
from tests.support import wait_until_async

pytestmark = [pytest.mark.anyio, pytest.mark.crash]
REFUSED_WANTED = 5


async def test_a_full_journal(tmp_path: Path) -> None:
    """503 with Retry-After; what was acknowledged is read meanwhile, and is in Firestore after; nothing else is."""
    path = "/api/session/asha/history"
    async with serving(tmp_path, "--journal-mib", "1") as (server, connection, proxy, store):

        async def say(content: str) -> Answer:
            return await connection.post(path, {"role": "user", "content": content})

        (await say("first")).check()
        proxy.fault = "refused"
        said, refused = ["first"], 0
        while refused < REFUSED_WANTED:
            content = f"{len(said)}".ljust(limits.CONTENT_BYTES_MAX // 2, "x")
            answer = await say(content)
            if answer.status == 200:
                assert answer.json["durability"] == "journaled"
                said.append(content)
                assert len(said) < 40, "1 MiB does not hold so much"
                continue
            refused += 1
            assert (answer.status, answer.json["code"]) == (503, "overloaded")
            assert int(answer.headers["retry-after"]) >= 1
        assert len(said) > 10
        await until_ready_says(server, {"store": "down"})
        known = (await connection.get("/api/session/asha/profile")).check()
        assert [message["content"] for message in known["profile"]["conversationHistory"]] == said
        assert (await metrics(server))["samvad_journal_bytes"] <= 1024 * 1024

        proxy.fault = None

        async def room() -> bool:
            return (await say("last")).status == 200

        await wait_until_async(room, "there is room again")
        wanted = [*said, "last"]

        async def arrived() -> bool:
            return (await metrics(server))["samvad_journal_entries_waiting"] == 0

        await wait_until_async(arrived, "all is in Firestore")
        assert await history(store, "asha") == wanted
