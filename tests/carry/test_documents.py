"""The knowledge base is carried with the rest: into a backup, out of it, and from store to store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from samvad.knowledge.carrying import checksum, every_document
from samvad.records import UserKey
from samvad.runtime import open_samvad
from tests.carry.support import Place, call, make, place, store_at
from tests.knowledge.here import engine_here

__all__ = ["engine_here", "place"]
pytestmark = pytest.mark.usefixtures("engine_here")

LONG = "# Loans\n\nWhat documents do I need for a home loan? आधार और पैन।\n\n" * 5_000
ENGINES = [("sqlite", "firestore"), ("firestore", "sqlite"), ("sqlite", "sqlite")]


async def add(url: str, *titles: str) -> None:
    """Documents of the tenant, and one of a user who is known and of one who has said nothing."""
    async with open_samvad(url) as samvad:
        for title in titles:
            await samvad.knowledge.add_text(title, f"{title}: what documents do I need?", tags=["a", "b"])
        await samvad.knowledge.add_text("Long", LONG, type="markdown", metadata={"n": [1, 2.5, None]})
        for user in ("asha", "silent"):
            await samvad.knowledge.add_text(f"Of {user}", f"Only {user} reads this.", user_id=user)


async def documents(url: str) -> dict[tuple[str | None, str], str]:
    """The checksum of every document, by user and title."""
    async with store_at(url) as store:
        found = [each async for each in every_document(store, [UserKey("default", "asha")])]
    return {(each.scope.user, each.document.title): checksum(each) for each in found}


@pytest.mark.parametrize(("old", "new"), ENGINES)
def test_documents_are_in_backups_and_migrations(place: Place, old: str, new: str) -> None:
    """Each as it was, by a checksum over record, headings and text; repeated, nothing changes."""
    source = place.url(old, "old")
    make(source, ("asha",), 1)
    asyncio.run(add(source, "Loans", "Cards"))
    wanted = asyncio.run(documents(source))
    assert set(wanted) == {
        (None, "Loans"), (None, "Cards"), (None, "Long"), ("asha", "Of asha"), ("silent", "Of silent"),
    }  # fmt: skip
    assert "5 documents" in call("backup", "all.backup", "--store", source)
    restored, migrated = place.url(new, "restored"), place.url(new, "migrated")
    for _ in range(2):
        assert "documents  5" in call("restore", "all.backup", "--store", restored)
        assert asyncio.run(documents(restored)) == wanted
        assert "documents  5" in call("migrate", source, migrated)
        assert asyncio.run(documents(migrated)) == wanted


def test_documents_of_an_erased_user_do_not_come_back(place: Place) -> None:
    """Erased after the backup: the others' are restored."""
    old, new = place.url("sqlite", "old"), place.url("sqlite", "new")
    make(old, ("asha",), 1)
    asyncio.run(add(old, "Loans"))
    call("backup", "all.backup", "--store", old)
    Path("gone.txt").write_text("asha\n")
    call("restore", "all.backup", "--store", new, "--erased", "gone.txt")
    assert {user for user, _ in asyncio.run(documents(new))} == {None, "silent"}
    with open_samvad(old) as samvad:
        samvad.clear_user_data("asha")
    call("restore", "all.backup", "--store", old)
    assert {user for user, _ in asyncio.run(documents(old))} == {None, "silent"}


def test_another_document_of_the_same_id_is_left_alone(place: Place) -> None:
    """Nothing is overwritten, and one sentence says which it is."""
    old, new = place.url("sqlite", "old"), place.url("sqlite", "new")
    make(old, ("asha",), 1)
    make(new, ("ravi",), 1)

    async def one(url: str, text: str) -> None:
        async with open_samvad(url) as samvad:
            await samvad.knowledge.add_text("Loans", text, id="loans")

    asyncio.run(one(old, "What documents do I need?"))
    asyncio.run(one(new, "What does it cost?"))
    before = asyncio.run(documents(new))
    call("backup", "all.backup", "--store", old)
    assert "'loans'" in call("restore", "all.backup", "--store", new, code=2)
    assert asyncio.run(documents(new)) == before
