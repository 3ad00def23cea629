"""Replicas over one Firestore: each follows what the others change, and what was removed leaves no note for ever."""

from __future__ import annotations

import pytest

from samvad import Samvad, limits, open_samvad
from samvad.testing.clock import VirtualClock
from tests.firestore.raw import everything
from tests.firestore.support import emulator

pytestmark = pytest.mark.anyio


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database of the emulator."""
    running = emulator()
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", running.host)
    return f"firestore://{running.new_project()}"


async def found(samvad: Samvad, words: str, user_id: str | None = None) -> list[str]:
    """The ids that a search finds."""
    hits = await samvad.knowledge.search(words, max_results=10, user_id=user_id)
    return sorted(hit.doc.id for hit in hits)


async def test_a_replica_follows_the_others(url: str) -> None:
    """Added, changed, removed, erased elsewhere: found so here after the stated time, also if a list heard it first."""
    clock = VirtualClock()
    async with open_samvad(url, clock=clock) as one, open_samvad(url, clock=clock) as other:
        await one.knowledge.add_text("Hours", "The branch opens at ten.", id="hours")
        await one.knowledge.add_text("Note", "My locker is number seven.", id="note", user_id="asha")
        assert await found(other, "branch") == ["hours"]
        assert await found(other, "locker", "asha") == ["note"]
        await one.knowledge.add_text("Rates", "A loan costs nine percent.", id="rates")
        await one.knowledge.add_text("Hours", "The kiosk opens at eleven.", id="hours")
        clock.advance(limits.KNOWLEDGE_STALE_S_MAX)
        assert (
            await other.knowledge.list_documents()
        ).count == 2  # the store has heard; the index must as well
        assert await found(other, "loan") == ["rates"]
        assert await found(other, "branch") == []
        assert await found(other, "kiosk") == ["hours"]
        await one.knowledge.delete("rates")
        await one.clear_user_data("asha")
        clock.advance(limits.KNOWLEDGE_STALE_S_MAX)
        assert await found(other, "loan") == []
        assert await found(other, "locker", "asha") == []


async def test_notes_of_removals_go_away(url: str) -> None:
    """A replica that slept for longer than they are kept still forgets what was removed meanwhile."""
    clock = VirtualClock()
    async with open_samvad(url, clock=clock) as one, open_samvad(url, clock=clock) as sleeper:
        for name in ("first", "second", "third"):
            await one.knowledge.add_text(name, f"The {name} quagga.", id=name)
        assert await found(sleeper, "quagga") == ["first", "second", "third"]
        await one.knowledge.delete("first")
        await one.knowledge.delete("second")
        await one.knowledge.add_text("second", "The second quagga, again.", id="second")
        clock.advance(limits.REMOVAL_NOTE_KEPT_S + 1)
        assert await found(one, "quagga") == ["second", "third"]
        kept = [path for path in everything(url.removeprefix("firestore://")) if "knowledge_base" in path]
        assert [path for path in kept if "first" in path] == []
        assert sum("second" in path for path in kept) >= 1
        assert await found(sleeper, "quagga") == ["second", "third"]
