"""What is asked is counted, bounded, and nobody else's business."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from samvad import Samvad, limits, open_samvad
from samvad.errors import Forbidden, StoreUnavailable
from samvad.knowledge.records import Scope
from samvad.types import Principal, trusted
from tests.firestore.support import emulator
from tests.http.support import START_MS, Api, HandClock

pytestmark = pytest.mark.anyio
RATE = "The interest rate of a home loan is 8.5 percent a year. You need proof of income."
SECRET = "quaggaxylophone"


@pytest.fixture(params=["memory", "sqlite", "firestore"])
def url(request: pytest.FixtureRequest, database_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each store."""
    if request.param == "firestore":
        running = emulator()
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", running.host)
        return f"firestore://{running.new_project()}"
    return "memory://" if request.param == "memory" else f"sqlite:///{database_path}"


@pytest.fixture(params=["memory", "store"])
async def samvad(request: pytest.FixtureRequest) -> AsyncIterator[Samvad]:
    """The service over the memory store, on a clock that stands still; questions in memory, and in the store."""
    async with open_samvad("memory://", clock=HandClock(), keep_questions=request.param) as found:
        yield found


async def ask(kb: Any, **more: Any) -> None:
    """Two searches and two questions, one of each in vain."""
    await kb.search("home loan", **more)
    await kb.search("zebra", **more)
    await kb.answer("What is the interest rate of a home loan?", **more)
    await kb.answer("Who  discovered the moons of\nNeptune?", **more)


async def test_what_is_asked_is_counted_and_kept(url: str) -> None:
    """On every store, over a restart."""
    async with open_samvad(url, keep_questions="store") as samvad:
        loan = (await samvad.knowledge.add_text("Home loan", RATE)).document
        await samvad.knowledge.add_text("Hours", "The branch is open from 10 to 4.")
        await ask(samvad.knowledge)
        first = await samvad.knowledge.stats()
    if url == "memory://":
        found = first
    else:
        async with open_samvad(url, keep_questions="store") as samvad:
            assert await samvad.knowledge.stats() == first
            await ask(samvad.knowledge)
            found = await samvad.knowledge.stats()
    times = 1 if url == "memory://" else 2
    assert found["mostCited"] == [
        {"documentId": loan.id, "title": "Home loan", "cited": times, "found": times}
    ]
    assert {(each["query"], each["count"]) for each in found["unfound"]} == {
        ("zebra", times),
        ("Who discovered the moons of Neptune?", times),
    }
    numbers = ("searches", "foundNothing", "questions", "unanswered")
    assert [found[name] for name in numbers] == [2 * times, times, 2 * times, times]
    assert (found["documents"], found["since"]) == (2, first["since"])


async def test_a_users_questions_are_that_users(samvad: Samvad) -> None:
    """Told with their id alone, and to them alone; the tenant's numbers count them in."""
    kb = samvad.knowledge
    await kb.add_text(f"Note {SECRET}", f"My {SECRET} is at the bank.", user_id="asha", id="mine")
    await kb.search(f"{SECRET} bank", user_id="asha")
    await kb.answer(f"Where is the {SECRET} of Neptune's moons?", user_id="asha")
    found = await kb.stats()
    assert (found["searches"], found["questions"], found["unanswered"]) == (1, 1, 1)
    assert found["unfound"] == [] and found["mostCited"] == []
    asha = kb.acting_as(Principal("default", "asha"))
    for mine in (await kb.stats(user_id="asha"), await asha.stats()):
        assert [each["documentId"] for each in mine["mostCited"]] == ["mine"]
        assert len(mine["unfound"]) == 1 and "searches" not in mine
    for other in (kb.acting_as(Principal("default", "bala")), kb.acting_as(trusted("elsewhere"))):
        assert SECRET not in repr(await other.stats())
    with pytest.raises(Forbidden):
        await kb.acting_as(Principal("default", "bala")).stats(user_id="asha")
    await asha.clear_stats()
    assert SECRET not in repr(await asha.stats())


async def test_everyones_documents_are_counted_for_their_owner(samvad: Samvad) -> None:
    """Another tenant learns nothing of how often they are cited."""
    kb = samvad.knowledge
    await kb.add_text("Home loan", RATE, owner="everyone", id="all")
    elsewhere = kb.acting_as(trusted("elsewhere"))
    await ask(elsewhere)
    assert [each["cited"] for each in (await kb.stats())["mostCited"]] == [1]
    assert (await elsewhere.stats())["mostCited"] == []
    assert (await elsewhere.stats())["searches"] == 2
    assert (await kb.stats())["searches"] == 0


async def test_what_is_kept_is_bounded(samvad: Samvad) -> None:
    """So many questions, so many characters of each, so many days."""
    kb, clock = samvad.knowledge, samvad.core.clock
    assert isinstance(clock, HandClock)
    await kb.search("x" * limits.QUERY_CHARS_MAX)
    for number in range(limits.UNFOUND_MAX):
        clock.advance(1)
        await kb.search(f"zebra {number}")
        if number % 50 == 0:
            await kb.core.statistics.flush()
    found = (await kb.stats(limit=limits.UNFOUND_MAX))["unfound"]
    assert len(found) == limits.UNFOUND_MAX
    assert found[0]["query"] == f"zebra {limits.UNFOUND_MAX - 1}"
    assert "x" not in {each["query"][0] for each in found}
    clock.advance(limits.UNFOUND_DAYS_MAX * 24 * 3600 + 10)
    assert (await kb.stats())["unfound"] == []
    await kb.search("y" * limits.QUERY_CHARS_MAX)
    assert [len(each["query"]) for each in (await kb.stats())["unfound"]] == [limits.UNFOUND_CHARS_MAX]
    assert (await kb.stats())["since"].startswith("2025-01-10") and START_MS


async def test_a_document_that_is_gone_is_not_told(samvad: Samvad) -> None:
    """Removed, or cleared: nothing is told of it any more."""
    kb = samvad.knowledge
    await kb.add_text("Home loan", RATE, id="loan")
    await ask(kb)
    await kb.delete("loan")
    assert (await kb.stats())["mostCited"] == []
    await kb.add_text("Home loan", RATE, id="loan")
    await ask(kb)
    await kb.core.statistics.flush()
    await kb.delete("loan")
    assert (await kb.stats())["mostCited"] == []
    await kb.clear()
    assert (await kb.stats())["searches"] == 0


async def test_nothing_is_kept_where_that_is_not_wanted() -> None:
    """Numbers alone."""
    async with open_samvad("memory://", keep_questions="no") as samvad:
        await ask(samvad.knowledge)
        found = await samvad.knowledge.stats()
        assert (found["foundNothing"], found["unfound"]) == (2, [])


async def test_a_store_that_is_down_delays_nobody(samvad: Samvad, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers wait for it; a user's questions do not: they may be erased before it is back."""
    kb = samvad.knowledge
    store = kb.core.shelf.store

    async def down(*arguments: Any) -> None:
        raise StoreUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(store, "change_statistics", down)
        await kb.search("zebra")
        await kb.search(SECRET, user_id="asha")
        for _ in range(3):
            await kb.core.statistics.flush()
    assert (await kb.stats())["searches"] == 2
    if samvad.options.keep_questions == "store":
        assert SECRET not in repr(await kb.stats(user_id="asha"))


async def test_what_is_asked_is_on_no_disk(database_path: Path) -> None:
    """Not even of a question that found nothing, as long as the operator does not say so."""
    async with open_samvad(f"sqlite:///{database_path}") as samvad:
        await samvad.knowledge.add_text("Home loan", RATE)
        await samvad.knowledge.search(SECRET)
        await samvad.knowledge.search(SECRET, user_id="asha")
        assert SECRET in repr(await samvad.knowledge.stats())
        await samvad.clear_user_data("asha")
        assert SECRET not in repr(await samvad.knowledge.stats(user_id="asha"))
    files = [path for path in database_path.parent.rglob("*") if path.is_file()]
    assert [path.name for path in files if SECRET.encode() in path.read_bytes()] == []


async def test_questions_that_arrive_after_their_user_was_erased_are_dropped(samvad: Samvad) -> None:
    """Whether it was done here or heard of from elsewhere."""
    kb = samvad.knowledge
    await kb.search(SECRET, user_id="asha")
    await samvad.clear_user_data("asha")
    await kb.core.statistics.flush()
    assert await kb.core.shelf.store.statistics(Scope("default", "asha")) is None


async def test_over_http(samvad: Samvad) -> None:
    """The route, and the one that forgets."""
    api = Api(samvad)
    await api.ok("POST", "/api/knowledge/add-text", {"title": "Home loan", "content": RATE})
    await api.ok("POST", "/api/knowledge/answer", {"query": "What is the interest rate of a home loan?"})
    await api.ok("POST", "/api/knowledge/search", {"query": "zebra", "userId": "asha"})
    stats = (await api.ok("GET", "/api/knowledge/stats"))["stats"]
    assert (stats["questions"], stats["mostCited"][0]["cited"], stats["unfound"]) == (1, 1, [])
    mine = (await api.ok("GET", "/api/knowledge/stats", query="userId=asha&limit=5"))["stats"]
    assert [each["query"] for each in mine["unfound"]] == ["zebra"]
    await api.ok("DELETE", "/api/knowledge/stats")
    assert (await api.ok("GET", "/api/knowledge/stats"))["stats"]["questions"] == 0
    await api.refused(400, "invalid_request", "GET", "/api/knowledge/stats", query="limit=0")
