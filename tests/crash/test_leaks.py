"""Opening and closing again and again leaves nothing behind: no descriptor, no thread, no task, no file.

The idea is datasette's: 50 cycles, and at most 2 descriptors more. The first cycles are not counted: they import
modules and start the event loop's own threads.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2
import pytest

from samvad.errors import StoreLocked
from samvad.http.app import create_app
from samvad.runtime import Options, Samvad, open_samvad
from samvad.stores.sqlite import SQLiteStore

pytestmark = pytest.mark.anyio

CYCLES = 50
WARM_UP_CYCLES = 5
MORE_MAX = 2


def descriptors() -> int:
    """How many files, sockets and pipes this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def threads() -> int:
    """How many threads the kernel runs for this process."""
    return len(list(Path("/proc/self/task").iterdir()))


def services() -> int:
    """How many services are still in memory."""
    gc.collect()
    return sum(type(each) is Samvad for each in gc.get_objects())


async def check(cycle: Callable[[int], Awaitable[None]]) -> None:
    """Run the cycles and compare what is left with what there was."""
    for number in range(WARM_UP_CYCLES):
        await cycle(number)
    before = descriptors(), threads(), len(asyncio.all_tasks()), services()
    for number in range(WARM_UP_CYCLES, WARM_UP_CYCLES + CYCLES):
        await cycle(number)
    after = descriptors(), threads(), len(asyncio.all_tasks()), services()
    named = [thread.name for thread in threading.enumerate()]
    assert after[0] - before[0] <= MORE_MAX, f"{before[0]} descriptors became {after[0]}"
    assert after[1] - before[1] <= MORE_MAX, f"{before[1]} threads became {after[1]}: {named}"
    assert after[2] == before[2], f"{before[2]} tasks became {after[2]}"
    assert after[3] <= before[3], f"{after[3]} closed services are still in memory"
    assert not [name for name in named if name.startswith("samvad")], named


@pytest.fixture(params=["sqlite", "memory"])
def url(request: pytest.FixtureRequest, database_path: Path) -> str:
    """The stores that need nothing outside this process."""
    return "memory://" if request.param == "memory" else f"sqlite:///{database_path}"


async def use(samvad: Samvad, number: int) -> None:
    """Write, read from memory and from the store, at once."""
    await asyncio.gather(
        *(samvad.append_to_user_history(f"user_{n}", "user", f"Hello {number}") for n in range(5)),
        samvad.save_user_state("user_1", {"cycle": number}),
        samvad.save_session("session_1", "user_1"),
    )
    await asyncio.gather(*(samvad.get_user_sessions(f"user_{n}") for n in range(10)), samvad.get_stats())


async def test_the_library(url: str) -> None:
    """50 times `async with open_samvad(…)`."""

    async def cycle(number: int) -> None:
        async with open_samvad(url) as samvad:
            await use(samvad, number)

    await check(cycle)


async def test_the_sync_face(url: str) -> None:
    """50 times `with open_samvad(…)`, which brings an event loop of its own."""

    def script(number: int) -> None:
        with open_samvad(url) as samvad:
            samvad.append_to_user_history("user_1", "user", f"Hello {number}")
            assert samvad.get_user_profile("user_1").history_length

    async def cycle(number: int) -> None:
        script(number)

    await check(cycle)


async def test_the_application(url: str) -> None:
    """50 times the application's lifespan, with requests in between."""

    async def cycle(number: int) -> None:
        app = create_app(open_samvad(url))
        said: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        heard: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        lifespan = asyncio.create_task(app({"type": "lifespan"}, said.get, heard.put))
        await said.put({"type": "lifespan.startup"})
        assert (await heard.get())["type"] == "lifespan.startup.complete"
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://samvad.test") as client:
            message = {"role": "user", "content": f"Hello {number}"}
            headers = {"Idempotency-Key": f"key {number}"}
            for _ in range(2):
                answer = await client.post("/api/session/user_1/history", json=message, headers=headers)
                assert answer.status_code == 200, answer.text
            assert (await client.get("/api/session/user_1/profile")).status_code == 200
            assert (await client.get("/metrics")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
        await said.put({"type": "lifespan.shutdown"})
        assert (await heard.get())["type"] == "lifespan.shutdown.complete"
        await lifespan

    await check(cycle)


async def test_what_cannot_be_opened(database_path: Path) -> None:
    """50 times a database that somebody else has: the refusal leaves nothing behind either."""
    async with open_samvad(f"sqlite:///{database_path}"):

        async def cycle(number: int) -> None:
            store = SQLiteStore(database_path)
            samvad = Samvad(store, options=Options())
            with pytest.raises(StoreLocked):
                await samvad.open()
            named = [thread.name for thread in threading.enumerate() if "sqlite-read" in thread.name]
            assert len(named) <= 2, named

        before = descriptors(), threads()
        for number in range(CYCLES):
            await cycle(number)
        gc.collect()
        assert descriptors() - before[0] <= MORE_MAX
        assert threads() - before[1] <= MORE_MAX


async def test_the_log_file_does_not_outlive_a_close(database_path: Path) -> None:
    """After a close in good order the log is folded into the database: one file to copy, beside its lock."""
    for number in range(3):
        async with open_samvad(f"sqlite:///{database_path}") as samvad:
            await use(samvad, number)
    assert {path.name for path in database_path.parent.iterdir()} == {"samvad.db", "samvad.db.lock"}
