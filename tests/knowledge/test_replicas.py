"""Replicas over one Firestore: each follows what the others change, and what was removed leaves no note for ever."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from samvad import Samvad, limits, open_samvad
from samvad.knowledge.records import Document, Scope, StoredDocument, Vectors
from samvad.knowledge.store_firestore import FirestoreKnowledgeStore
from samvad.testing.clock import VirtualClock
from tests.firestore.raw import everything
from tests.firestore.support import emulator, open_store
from tests.support import wait_until_async

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


async def test_an_index_of_who_was_erased_elsewhere_goes_before_anybody_searches(
    url: str, tmp_path: Path
) -> None:
    """Erased while this replica was down: its start removes the file. While it runs: hearing of it does."""

    def replica(name: str, *, listen: bool = True) -> Samvad:
        return open_samvad(url, journal_dir=tmp_path / name / "journal", listen=listen)

    def left() -> int:
        return len({path.name.partition(".")[0] for path in tmp_path.glob("here/knowledge-index/user-*")})

    async def is_left(number: int) -> bool:
        return left() == number

    async with replica("elsewhere") as elsewhere:
        async with replica("here") as here:
            for user in ("asha", "bala", "chitra"):
                await here.append_to_user_history(user, "user", "hello")
                await here.knowledge.add_text("Note", "My locker is number seven.", user_id=user)
                assert len(await found(here, "locker", user)) == 1
        assert left() == 3
        await elsewhere.clear_user_data("asha")
        assert left() == 3
        async with replica("here", listen=False) as here:
            await wait_until_async(lambda: is_left(2), "the start has removed the index of who was erased")
            assert not here.knowledge_is_open
        async with replica("here") as here:
            await elsewhere.clear_user_data("bala")
            await wait_until_async(lambda: is_left(1), "and hearing of it, that of who was erased then")
            assert not here.knowledge_is_open
            assert len(await found(here, "locker", "chitra")) == 1


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


async def test_vectors_that_come_while_a_user_is_erased_go_too() -> None:
    """Another replica keeps them as long as it sees the document: those that come behind the look for them as well."""
    one = await open_store()
    other = await open_store(one.project)
    here, there = [FirestoreKnowledgeStore(each.client, each.names, VirtualClock()) for each in (one, other)]
    scope = Scope("default", "asha")
    document = Document(
        id="note",
        title="Note",
        type="text",
        content_length=5,
        added_at="2025-01-10T10:00:00Z",
        updated_at="2025-01-10T10:00:00Z",
        checksum="c",
        owner="user",
        user_id="asha",
    )
    await here.marks.mark_all()
    await here.put(StoredDocument(scope=scope, document=document, text="Text."))
    query = one.client.query
    kept: list[bool] = []

    async def then_more(parent: str, wanted: Any, deadline: float) -> Any:
        found = await query(parent, wanted, deadline)
        if wanted.from_[0].collection_id == "knowledge_vectors":
            vectors = Vectors("note", "space", "c", "Note", 1, ((0, 5),), b"\0\0\0\0")
            kept.append(await there.put_vectors(scope, vectors))
        return found

    one.client.query = then_more
    assert await here.erase(scope) == 1
    assert kept == [True, False]
    left = everything(one.project)
    # Beside the note a mark, as something was written while it went on: the next erasing looks again.
    names = {path.rpartition("/")[0] for path in left if not path.startswith("knowledge_base/%x")}
    assert names == {"knowledge_scopes"}
    await one.close()
    await other.close()


def stands_in(folder: Path, word: bytes) -> bool:
    """Whether a word stands in one of the files, which may go meanwhile."""
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if word in path.read_bytes():
                return True
    return False


@pytest.mark.parametrize("searched", [True, False])
async def test_an_erased_user_leaves_the_index_of_another_replica(
    url: str, tmp_path: Path, searched: bool
) -> None:
    """Their words stand in files beside each process that was asked, in this run or before: nobody need ask again."""
    here, there = tmp_path / "here", tmp_path / "there"

    def replica(folder: Path) -> Samvad:
        return open_samvad(url, journal_dir=folder / "journal")

    async def is_silent(folder: Path) -> bool:
        return not stands_in(folder, b"quokka")

    async with replica(here) as one:
        await one.knowledge.add_text("Note", "My locker is number quokka.", id="note", user_id="asha")
        await one.knowledge.add_text("Note", "My locker is number eight.", id="note", user_id="bala")
        async with replica(there) as other:
            assert await found(other, "locker", "asha") == ["note"]
        async with replica(there) as other:
            assert await found(other, "locker", "asha" if searched else "bala") == ["note"]
            assert not await is_silent(there)
            await one.clear_user_data("asha")
            await wait_until_async(lambda: is_silent(here), "the replica that erased is silent")
            await wait_until_async(lambda: is_silent(there), "the other one is silent")
            for each in (one, other):
                assert await found(each, "locker", "asha") == []
                assert await found(each, "locker", "bala") == ["note"]
