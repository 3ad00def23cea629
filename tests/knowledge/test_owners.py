"""A user's documents are found by that user alone, and leave no byte behind when the user is erased."""

from __future__ import annotations

from pathlib import Path

import pytest

from samvad import open_samvad
from samvad.errors import Forbidden, NotFound
from samvad.types import Principal, trusted

pytestmark = pytest.mark.anyio
SECRET = "quaggaxylophone"
TEXT = f"My {SECRET} account is number 4471. The {SECRET} code is at the bank."


async def test_others_see_nothing_of_a_users_document(database_path: Path) -> None:
    """Neither by search, list, answer, prompt nor id; nor does it weigh on what others find."""
    async with open_samvad(f"sqlite:///{database_path}") as samvad:
        kb = samvad.knowledge
        await kb.add_text("Accounts", "An account is opened at the bank. The account has a number.")
        before = await kb.search("account number at the bank")
        mine = (await kb.add_text(f"Note {SECRET}", TEXT, user_id="asha")).document
        assert await kb.search("account number at the bank") == before
        owner = kb.acting_as(Principal("default", "asha"))
        for one in (owner.search(SECRET), kb.search(SECRET, user_id="asha")):
            assert [hit.doc.id for hit in await one] == [mine.id]
        assert (await owner.answer(f"What number is my {SECRET} account?")).answered
        for other in (kb, kb.acting_as(Principal("default", "bala")), kb.acting_as(trusted("elsewhere"))):
            assert all(hit.doc.id != mine.id for hit in await other.search(SECRET))
            assert SECRET not in repr(await other.list_documents())
            assert SECRET not in repr((await other.answer(f"my {SECRET} account")).citations)
            assert SECRET not in await other.for_chat(SECRET)
            with pytest.raises(NotFound):
                await other.get(mine.id)
            with pytest.raises(NotFound):
                await other.delete(mine.id)
        with pytest.raises(Forbidden):
            await kb.acting_as(Principal("default", "bala")).search(SECRET, user_id="asha")
        with pytest.raises(Forbidden):
            await owner.add_text("All", "For all of us.", owner="tenant")


async def test_erasing_a_user_leaves_no_byte(database_path: Path) -> None:
    """Not in the documents' file, its log, nor in any index."""
    async with open_samvad(f"sqlite:///{database_path}") as samvad:
        kb = samvad.knowledge
        await kb.add_text("Accounts", "An account is opened at the bank.")
        for number in range(20):
            await kb.add_text(f"Note {number} {SECRET}", f"{number} {TEXT}", user_id="asha")
        assert await kb.search(SECRET, user_id="asha")
        assert any(SECRET.encode() in path.read_bytes() for path in files(database_path))
        await samvad.clear_user_data("asha")
        assert [path.name for path in files(database_path) if SECRET.encode() in path.read_bytes()] == []
        assert await kb.search(SECRET, user_id="asha") == []
        assert await kb.search("account")
    assert [path.name for path in files(database_path) if SECRET.encode() in path.read_bytes()] == []


async def test_a_document_that_is_removed_leaves_no_byte(database_path: Path) -> None:
    """Its words go from the tables of the index as well."""
    async with open_samvad(f"sqlite:///{database_path}") as samvad:
        kept = (await samvad.knowledge.add_text("Accounts", "An account is opened at the bank.")).document
        gone = (await samvad.knowledge.add_text("Note", TEXT)).document
        await samvad.knowledge.delete(gone.id)
        assert [hit.doc.id for hit in await samvad.knowledge.search("account")] == [kept.id]
        assert [path.name for path in files(database_path) if SECRET.encode() in path.read_bytes()] == []


def files(database_path: Path) -> list[Path]:
    """All files beside the database."""
    return [path for path in database_path.parent.rglob("*") if path.is_file()]
