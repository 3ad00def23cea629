"""GET /:userId/export: the archive of a user, sent while it is made, and never one that only looks whole."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from samvad import limits
from samvad.archive import making
from samvad.http.app import create_app
from samvad.runtime import open_samvad
from samvad.stores.memory import MemoryStore
from tests.archive.support import ASHA, CANARY, members, populate
from tests.auth.world import bearing, world
from tests.http.support import Api, opened, serving
from tests.journaled.faulty import FaultyStore
from tests.support import wait_until

pytestmark = pytest.mark.anyio
PATH = f"/api/session/{ASHA}/export"


async def test_it_is_the_archive_of_that_user() -> None:
    """A ZIP to be saved, with everything of the user's and nothing of others; memory's interruptions are in it."""
    async with opened() as api:
        await populate(api.samvad)
        await populate(api.samvad, "bala", mark=CANARY)
        api.samvad.interruptions.push("phone", ASHA, type="BARGE_IN", full_text="a b", heard_text="a")
        answer = await api.get(PATH)
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/zip"
        assert answer.headers["content-disposition"] == 'attachment; filename="samvad-archive.zip"'
        assert answer.headers["cache-control"] == "no-store"
        found = members(answer.body)
        assert CANARY.encode() not in b"".join([answer.body, *found.values()])
        assert json.loads(found["manifest.json"])["counts"]["interruptions"] == 2
        history = await api.ok("GET", f"/api/session/{ASHA}/history")
        assert [json.loads(line) for line in found["history.jsonl"].splitlines()] == history["messages"]


async def test_what_is_not_there_and_what_cannot_be_asked() -> None:
    """404 for nobody, 400 for what is no id and for a query; HEAD has no body."""
    async with opened() as api:
        await api.refused(404, "not_found", "GET", PATH)
        await api.refused(400, "invalid_id", "GET", "/api/session/%20/export")
        await populate(api.samvad)
        await api.refused(400, "invalid_request", "GET", PATH, query="a=b")
        head = await api("HEAD", PATH)
        assert (head.status, head.body, head.headers["content-type"]) == (200, b"", "application/zip")
        assert (await api.get(PATH)).status == 200


async def test_so_many_at_once() -> None:
    """One of a user, and four in all; who is refused asks again. None is counted once it is over."""
    async with opened() as api:
        names = [f"u{number}" for number in range(limits.EXPORTS_AT_ONCE_MAX + 1)]
        for name in names:
            await api.say(name, "hello")
        before = api.app._exports
        before.add(making.UserKey("default", "u0"))
        refused = await api.refused(503, "overloaded", "GET", "/api/session/u0/export")
        assert refused.headers["retry-after"]
        before |= {making.UserKey("default", name) for name in names[1:-1]}
        await api.refused(503, "overloaded", "GET", f"/api/session/{names[-1]}/export")
        before.clear()
        left: list[set[Any]] = []

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            async def sending(message: Any) -> None:
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    left.append(set(before))
                await send(message)

            await api.app(scope, receive, sending)

        watching = Api(api.samvad, watched)
        for name in names:
            for method in ("GET", "HEAD"):
                assert (await watching(method, f"/api/session/{name}/export")).status == 200
        assert left == [set()] * 2 * len(names), "who has it all may ask again at once"
        assert not before


async def test_a_store_that_is_down_is_503(tmp_path: Path) -> None:
    """Before the first byte, though memory has the user."""
    store = FaultyStore(MemoryStore())
    async with open_samvad("memory://", store=store, journal_dir=tmp_path) as samvad:  # type: ignore[arg-type]
        api = Api(samvad)
        await api.say(ASHA, "hello")
        assert members((await api.get(PATH)).body)
        store.down = True
        await api.say(ASHA, "hello")
        answer = await api.refused(503, "store_unavailable", "GET", PATH)
        assert answer.headers["retry-after"]
        store.down = False


class Fails(MemoryStore):
    """Gives the beginning of a history, and then nothing more."""

    pages = 0

    async def page(self, *args: Any, **more: Any) -> Any:
        """As often as it was told."""
        from samvad.errors import StoreUnavailable

        self.pages -= 1
        if self.pages < 0:
            raise StoreUnavailable
        return await super().page(*args, **more)


async def test_one_that_cannot_be_finished_breaks_off() -> None:
    """The client sees a body without an end, and no program takes it for a ZIP."""
    store = Fails()
    samvad = open_samvad("memory://", store=store)  # type: ignore[arg-type]
    app, filled = create_app(samvad), threading.Event()

    async def fill() -> None:
        for _ in range(4):
            await samvad.append_many(ASHA, [{"role": "user", "content": "x" * 20_000}] * 50)
        filled.set()

    samvad.after_open.append(fill)
    store.pages = 3
    with serving(app=app) as port:
        wait_until(filled.is_set, "there is a history")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET %b HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" % PATH.encode())
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert not answer.endswith(b"0\r\n\r\n"), "the body has an end"
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(answer.partition(b"\r\n\r\n")[2]))
    assert not app._exports


async def test_who_may_have_it() -> None:
    """The user, and a program with all three scopes; it is noted who had it."""
    async with world() as here:
        path = "/api/session/user_asha/export"
        records: list[Any] = []
        here.api.app.on_access.append(records.append)
        token = here.token("user_asha")
        key, weak = here.key("users", "sessions", "knowledge"), here.key("users", "sessions")
        await here.auth.refresh()
        for good in (token, key):
            answer = await here.api.get(path, headers=bearing(good))
            assert members(answer.body)["history.jsonl"].count(b"\n") == 1
            assert (records[-1].route, records[-1].status, records[-1].params) == (
                "exportUser", 200, ("user_asha",)
            )  # fmt: skip
        for bad in (weak, here.token("user_bala"), here.token("user_asha", session="session_asha")):
            await here.api.refused(403, "forbidden", "GET", path, headers=bearing(bad))
