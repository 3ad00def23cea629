"""A user's documents are found by that user alone, and leave no byte behind when the user is erased."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from samvad import open_samvad
from samvad.errors import Forbidden, NotFound
from samvad.knowledge.embedders.openai import OpenAIEmbedder
from samvad.testing.embeddings import FakeEmbeddings
from samvad.types import Principal, trusted
from tests.firestore.support import emulator

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


async def test_vectors_and_questions_leave_no_byte_either(database_path: Path) -> None:
    """Nor in Firestore's place of them: see test_embedding; here, the files of SQLite and of the indexes."""
    number = 0.123456789
    needle = array("f", [number] * 4).tobytes()
    async with FakeEmbeddings(lambda text: [number] * 16 if SECRET in text else [1.0] + [0.0] * 15) as fake:
        embedder = OpenAIEmbedder(model="m", languages=None, base_url=fake.base_url)
        async with open_samvad(
            f"sqlite:///{database_path}", embedder=embedder, keep_questions="store"
        ) as samvad:
            kb = samvad.knowledge
            await kb.add_text("Accounts", "An account is opened at the bank.")
            for each in range(20):
                await kb.add_text(f"Note {each}", f"{each} {TEXT}", user_id="asha", id=f"note-{each}")
            await kb.embed(user_id="asha")
            await kb.answer(f"Who discovered the moons of {SECRET}?", user_id="asha", min_confidence=1.0)
            await kb.core.statistics.flush()
            assert (await kb.stats(user_id="asha"))["unfound"]
            assert [path.name for path in files(database_path) if needle in path.read_bytes()]
            await kb.delete("note-3", user_id="asha")
            assert await kb.search(SECRET, user_id="asha", max_results=9)
            await samvad.clear_user_data("asha")
            for wanted in (SECRET.encode(), needle, b"note-4"):
                assert [path.name for path in files(database_path) if wanted in path.read_bytes()] == []
            assert await kb.search("account")
            assert SECRET not in repr(await kb.stats()) + repr(await kb.stats(user_id="asha"))
        for wanted in (SECRET.encode(), needle, b"note-4"):
            assert [path.name for path in files(database_path) if wanted in path.read_bytes()] == []


async def test_nothing_of_a_user_is_left_in_firestore(monkeypatch: pytest.MonkeyPatch) -> None:
    """No document of any collection holds a byte of theirs: texts, vectors, questions."""
    running = emulator()
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", running.host)
    project = running.new_project()
    async with FakeEmbeddings(lambda text: [0.123456789] * 16) as fake:
        embedder = OpenAIEmbedder(model="m", languages=None, base_url=fake.base_url)
        async with open_samvad(f"firestore://{project}", embedder=embedder, keep_questions="store") as samvad:
            kb = samvad.knowledge
            await kb.add_text(f"Note {SECRET}", TEXT, user_id="asha", id="note-1")
            await kb.embed(user_id="asha")
            await kb.answer(f"Who discovered the moons of {SECRET}?", user_id="asha", min_confidence=1.0)
            await kb.core.statistics.flush()
            needle = array("f", [0.123456789] * 4).tobytes()
            before = await everything(running.host, project)
            assert needle in before and SECRET.encode() in before and b"note-1" in before
            await samvad.clear_user_data("asha")
            after = await everything(running.host, project)
            assert not [each for each in (needle, SECRET.encode(), b"note-1", b"asha") if each in after]


async def everything(host: str, project: str) -> bytes:
    """All fields of all documents below the collections of the knowledge base, as they are kept."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.firestore import AsyncClient

    monitored = ("knowledge_base", "knowledge_vectors", "knowledge_statistics", "chunks")
    client = AsyncClient(project=project, credentials=AnonymousCredentials())  # type: ignore[no-untyped-call]
    found = b""
    for name in monitored:
        async for each in client.collection_group(name).stream():
            found += each.reference.path.encode()
            for value in (each.to_dict() or {}).values():
                found += value if isinstance(value, bytes) else repr(value).encode()
    assert host
    return found


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
