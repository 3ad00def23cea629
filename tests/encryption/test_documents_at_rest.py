"""The knowledge base at rest: no file and no record holds a word of a document, its title, its tags or its index."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from samvad import open_samvad
from samvad.clock import SystemClock
from samvad.errors import NotFound, SetupError, Unreadable
from samvad.knowledge import copies
from samvad.knowledge.embedders.openai import OpenAIEmbedder
from samvad.knowledge.engine import Engine
from samvad.knowledge.left_indexes import index_directory
from samvad.knowledge.opening import documents_path
from samvad.knowledge.records import Filter, Scope
from samvad.stores.data_key_file import DataKeyFile
from samvad.stores.data_keys import DataKeys
from samvad.stores.encrypting import data_keys_around, keys_file
from samvad.stores.master_keys import master_keys
from samvad.stores.urls import store_from_url
from samvad.testing.embeddings import FakeEmbeddings
from samvad.types import trusted
from tests.encryption.test_at_rest import new_key
from tests.firestore.raw import everything, google_client
from tests.firestore.support import emulator
from tests.knowledge.lists import stored

pytestmark = pytest.mark.anyio

TITLE, CATEGORY, TAG = "Quokkaloans", "zebracategory", "ocelottag"
SOURCE, FILENAME, NOTE = "https://narwhal.example/page", "pangolin.txt", "axolotlnote"
RARE = "xylophonist"  # a word of the text that stands in the lexicon alone
TEXT = f"# Wombatheading\n\nA {RARE} pays seven percent for a housing loan at the Capybara branch. आधार कोयलपत्र चाहिए।"
CANARIES = (
    TITLE, CATEGORY, TAG, "Kinkajou", "narwhal", "pangolin", NOTE, RARE, "Wombatheading", "Capybara",
    "seven percent", "कोयलपत्र",
)  # fmt: skip


def standing_in(data: bytes) -> list[str]:
    """Which of the canaries stand in some bytes, in their letters or in small ones, as UTF-8 or escaped."""
    lower = data.lower()
    return [
        each
        for each in CANARIES
        if any(form in lower for form in (each.lower().encode(), each.encode("unicode_escape").lower()))
    ]


def found_in(folder: Path) -> dict[str, list[str]]:
    """What stands in which file."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.name: words for path in files if (words := standing_in(path.read_bytes()))}


async def add(samvad: Any, document_id: str = "loans", user: str | None = None, text: str = TEXT) -> None:
    """A document with a canary wherever there is room for one."""
    await samvad.knowledge.add_text(
        TITLE,
        text,
        id=document_id,
        category=CATEGORY,
        tags=[TAG],
        source=None if user else f"{SOURCE}/{document_id}",
        filename=FILENAME,
        metadata={"note": NOTE},
        user_id=user,
    )


async def asked(samvad: Any, user: str | None = None) -> list[str]:
    """The ids that are found by a rare word and with all filters."""
    hits = await samvad.knowledge.search(
        RARE, category=CATEGORY, tags=[TAG], language="en", user_id=user, max_results=10
    )
    return sorted(hit.doc.id for hit in hits)


class Base:
    """A place for a knowledge base: its engine's files, or Firestore's records and the files beside them."""

    def __init__(self, engine: str, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.running = emulator() if engine == "firestore" else None
        self.project = self.running.new_project() if self.running is not None else ""
        self.path = folder / "samvad.db"

    def open(self, key: str | None, **more: Any) -> Any:
        """The service over it."""
        if self.running is None:
            return open_samvad(f"sqlite:///{self.path}", master_key=key, **more)
        url = f"firestore://{self.project}"
        store = store_from_url(url, SystemClock(), emulator_host=self.running.host)
        journal = self.folder / "journal"
        return open_samvad(url, store=store, journal_dir=journal, master_key=key, **more)

    def leaks(self) -> dict[str, list[str]]:
        """Which canaries stand in which file or record."""
        found = found_in(self.folder)
        if self.running is not None:
            for name, fields in everything(self.project).items():
                if words := [each for part in _bytes_of([name, fields]) for each in standing_in(part)]:
                    found[name] = words
        return found


def _bytes_of(value: Any) -> Iterator[bytes]:
    """All bytes and texts within."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        for one in value:
            yield from _bytes_of(one)
    else:
        yield value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture(params=["sqlite", "firestore"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Base:
    """An empty place on each engine."""
    folder = tmp_path / "data"
    folder.mkdir()
    return Base(request.param, folder)


def vector(text: str) -> list[float]:
    """Something to stand for a text."""
    return [float(len(text)), float(text.count("a")), 1.0]


async def settled(samvad: Any) -> None:
    """Wait until all vectors are made and loaded."""
    work = samvad.knowledge.core.shelf.embedding
    await work.settle()
    await work.loaded()
    await work.settle()


async def test_nothing_of_a_document_stands_in_clear(base: Base) -> None:
    """Added, embedded, searched, answered from, counted, started again, removed, erased: no word in any file."""
    key = new_key()
    async with FakeEmbeddings(vector) as fake:

        def embedder() -> OpenAIEmbedder:
            return OpenAIEmbedder(base_url=fake.base_url, model="m", languages=None)

        async with base.open(key, embedder=embedder(), keep_questions="store") as samvad:
            await add(samvad)
            await add(samvad, "private", "asha")
            await add(samvad, "rates")
            await settled(samvad)
            assert await asked(samvad, "asha") == ["loans", "private", "rates"]
            assert (await samvad.knowledge.answer(f"What does a {RARE} pay for a housing loan?")).answered
            assert await samvad.knowledge.search("Kinkajou?", tags=["no such"]) == []
            await samvad.knowledge.core.statistics.flush()
            assert base.leaks() == {}
            await samvad.knowledge.delete("rates")
        assert base.leaks() == {}
        async with base.open(key, embedder=embedder()) as samvad:
            assert await asked(samvad, "asha") == ["loans", "private"]
            kept = await samvad.knowledge.get("loans")
            assert kept.text == TEXT and kept.headings[0].text == "Wombatheading"
            document = kept.document
            assert (document.title, document.category, document.tags) == (TITLE, CATEGORY, (TAG,))
            assert (document.source, document.filename) == (f"{SOURCE}/loans", FILENAME)
            assert document.metadata == {"note": NOTE}
            page = await samvad.knowledge.list_documents(tags=[TAG], category=CATEGORY, user_id="asha")
            assert [each.id for each in page.documents] == ["private", "loans"] and page.count == 2
            assert (await samvad.knowledge.list_documents(tags=["other"])).count == 0
            assert (await samvad.knowledge.stats())["mostCited"][0]["title"] == TITLE
            await samvad.clear_user_data("asha")
            assert await asked(samvad, "asha") == ["loans"]
            await samvad.knowledge.clear()
        assert base.leaks() == {}


async def test_without_encryption_the_canaries_are_found(base: Base) -> None:
    """Or the test above would prove nothing: in the documents and in the index."""
    async with base.open(None) as samvad:
        await add(samvad)
        assert await asked(samvad) == ["loans"]
    where = base.leaks()
    assert {each for words in where.values() for each in words} == set(CANARIES) - {"Kinkajou"}
    assert any(name.startswith("tenant-") and RARE.lower() in words for name, words in where.items())


async def test_the_same_source_or_words_are_the_same_document(base: Base) -> None:
    """Though neither stands in the store: added again nothing changes, changed it is another version."""
    async with base.open(new_key()) as samvad:
        kb = samvad.knowledge
        first = await kb.add_text("Page", "Ten to four.", source=SOURCE)
        assert (await kb.add_text("Page", "Ten to four.", source=SOURCE)).changed is False
        again = await kb.add_text("Page", "Ten to five.", source=SOURCE)
        assert (again.document.id, again.document.version, again.created) == (first.document.id, 2, False)
        words = await kb.add_text("Words", "Ten to six.")
        assert (await kb.add_text("Words", "Ten to six.")).document == words.document
        assert (await kb.add_text("Words", "Ten to seven.")).created
        other = await kb.add_text("Page", "Ten to five.", source=SOURCE, user_id="asha")
        assert other.created and other.document.id != first.document.id


async def test_an_erased_users_copies_are_silent(tmp_path: Path) -> None:
    """Database and sealed indexes as they were, with the keys as they are: the tenant's can be read, the user's not."""
    base, key = Base("sqlite", tmp_path / "data"), new_key()
    copy = Base("sqlite", tmp_path / "copy")
    base.folder.mkdir()
    async with base.open(key) as samvad:
        await add(samvad)
        await add(samvad, "private", "asha")
        assert await asked(samvad, "asha") == ["loans", "private"]
    assert len(list(index_directory(base.path).glob("*.sealed"))) == 2
    shutil.copytree(base.folder, copy.folder)
    async with base.open(key) as samvad:
        await samvad.clear_user_data("asha")
        await samvad.knowledge.clear()
        assert await asked(samvad, "asha") == []
    shutil.copy(keys_file(base.path), keys_file(copy.path))
    async with copy.open(key) as samvad:
        assert await asked(samvad, "asha") == ["loans"]
        with pytest.raises(Unreadable, match="key"):
            await samvad.knowledge.get("private", user_id="asha")
        listed = {d.id: d for d in (await samvad.knowledge.list_documents(user_id="asha")).documents}
        assert (listed["private"].unreadable, listed["private"].title) == (True, "")
        assert (listed["loans"].unreadable, listed["loans"].title) == (False, TITLE)
        await samvad.clear_user_data("asha")  # what cannot be read can be erased
        with pytest.raises(NotFound):
            await samvad.knowledge.get("private", user_id="asha")
        await add(samvad, "private", "asha")
        assert await asked(samvad, "asha") == ["loans", "private"]


async def test_a_removal_that_was_cut_off_is_finished(base: Base) -> None:
    """The process ends when the key is destroyed and nothing else: the next one removes the documents, no user."""
    key = new_key()
    async with base.open(key) as samvad:
        await samvad.save_user_state("asha", {"kept": True})
        await add(samvad, "private", "asha")
        store = samvad.knowledge.core.shelf.store
        inner_erase = store.inner.erase

        async def dies(scope: Scope) -> int:
            raise RuntimeError("the power fails")

        store.inner.erase = dies
        with pytest.raises(RuntimeError):
            await samvad.knowledge.clear(user_id="asha")
        store.inner.erase = inner_erase
    async with base.open(key) as samvad:
        with pytest.raises(NotFound):
            await samvad.knowledge.get("private", user_id="asha")
        assert (await samvad.get_user_state("asha")).state == {"kept": True}
        await add(samvad, "private", "asha")
        assert await asked(samvad, "asha") == ["private"]
        assert await data_keys_around(samvad.store).erasing() == []


async def test_it_is_turned_on_over_plain_documents(base: Base) -> None:
    """What was there is readable, the plain index goes at once; new ones are sealed; then all are, and only then."""
    key = new_key()
    async with base.open(None) as samvad:
        await add(samvad, "old")
        await add(samvad, "old-private", "asha")
        assert await asked(samvad, "asha") == ["old", "old-private"]
    async with base.open(key) as samvad:
        assert await asked(samvad, "asha") == ["old", "old-private"]
        assert found_in(base.folder / "knowledge-index") == found_in(index_directory(base.path)) == {}
        await add(samvad, "new")
        assert await asked(samvad, "asha") == ["new", "old", "old-private"]
        assert base.leaks() != {}
        store = samvad.knowledge.core.shelf.store
        known = [Scope("default"), Scope("default", "asha")]
        assert await store.seal_plain(known, lambda done: None) == (2, 1)
        assert await store.seal_plain(known, lambda done: None) == (0, 3)
    assert base.leaks() == {}
    async with base.open(key) as samvad:
        assert await asked(samvad, "asha") == ["new", "old", "old-private"]
        assert data_keys_around(samvad.store).documents_strict
    with pytest.raises(SetupError, match="SAMVAD_MASTER_KEY"):
        await base.open(None).open()


async def test_plain_documents_are_not_believed_where_all_was_sealed(base: Base) -> None:
    """Somebody writes into the store what was never sealed: it is marked, and found by nobody."""
    key = new_key()
    async with base.open(key) as samvad:
        await add(samvad)
        store = samvad.knowledge.core.shelf.store
        kept = await samvad.knowledge.get("loans")
        forged = msgspec.structs.replace(kept.document, id="forged")
        await store.inner.put(msgspec.structs.replace(kept, document=forged))
    async with base.open(key) as samvad:
        assert await asked(samvad) == ["loans"]
        with pytest.raises(Unreadable):
            await samvad.knowledge.get("forged")
        marked = [d.id for d in (await samvad.knowledge.list_documents()).documents if d.unreadable]
        assert marked == ["forged"]


def spoil(path: Path, sql: str, values: tuple[Any, ...] = ()) -> None:
    """Change the documents' database behind everybody's back; the index's copies are lost."""
    with apsw.Connection(str(documents_path(path))) as connection:
        connection.execute(sql, values)
    shutil.rmtree(index_directory(path), ignore_errors=True)


SPOILED = {
    "a-bit": "text = substr(text, 1, 80) || 'AAAA' || substr(text, 85)",
    "cut-off": "text = substr(text, 1, length(text) - 40)",
    "no-base64": "text = '%%%'",
    "others-text": "text = (SELECT text FROM documents WHERE id = 'a')",
    "others-record": "body = (SELECT body FROM documents WHERE id = 'a')",
    "others-all": "(body, text) = (SELECT body, text FROM documents WHERE id = 'a')",
    "owners-all": "(body, text) = (SELECT body, text FROM documents WHERE id = 'c')",
    "clear-field": """body = CAST(replace(CAST(body AS TEXT), '"contentLength":1', '"contentLength":2') AS BLOB)""",
    "renamed": "body = CAST(replace((SELECT CAST(body AS TEXT) FROM documents WHERE id = 'a'), "
    """'"id":"a"', '"id":"renamed"') AS BLOB)""",
    "no-record": "body = x'ffff'",
    "no-seal": "body = CAST(replace(CAST(body AS TEXT), 'samvad.sealed', 'samvad.other') AS BLOB)",
    "vectorless": "headings = x'ffff'",
}  # fmt: skip
TEXT_ALONE = (
    "a-bit",
    "cut-off",
    "no-base64",
    "others-text",
    "vectorless",
)  # seen where the text is read, not in a list


async def test_what_was_altered_is_refused_and_the_others_are_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Marked in the list, told in the log and counted; it can be removed, and added again."""
    base, key = Base("sqlite", tmp_path), new_key()
    async with base.open(key) as samvad:
        for name in ("a", *SPOILED):
            await add(samvad, name)
        await add(samvad, "c", "asha")
    for name, change in SPOILED.items():
        spoil(base.path, f"UPDATE documents SET {change} WHERE id = '{name}'")
    async with base.open(key) as samvad:
        assert await asked(samvad) == ["a"]
        assert await asked(samvad, "asha") == ["a", "c"]
        listed = {d.id: d for d in (await samvad.knowledge.list_documents()).documents}
        assert set(listed) == {"a", *SPOILED}
        for name in SPOILED:
            assert listed[name].unreadable is (name not in TEXT_ALONE), name
            with pytest.raises(Unreadable):
                await samvad.knowledge.get(name)
        assert listed["a"].title == TITLE and not listed["a"].unreadable
        assert (await samvad.knowledge.list_documents(tags=[TAG])).count == 1 + len(TEXT_ALONE)
        assert samvad.knowledge.core.shelf.unreadable == {Scope("default"): len(SPOILED)}
        assert "cannot be read" in caplog.text
        await samvad.knowledge.delete("no-record")
        for name in ("no-record", "a-bit"):
            await add(samvad, name)
        assert await asked(samvad) == ["a", "a-bit", "no-record"]
        assert not (await samvad.knowledge.get("a-bit")).document.unreadable


async def test_a_text_cannot_be_set_back_alone(tmp_path: Path) -> None:
    """The text of an earlier version under the record of a later one."""
    base, key = Base("sqlite", tmp_path), new_key()
    async with base.open(key) as samvad:
        await samvad.knowledge.add_text("Hours", "Ten to four.", id="hours")
    with apsw.Connection(str(documents_path(base.path))) as connection:
        before = connection.execute("SELECT text FROM documents").get
    async with base.open(key) as samvad:
        await samvad.knowledge.add_text("Hours", "Ten to five.", id="hours")
    spoil(base.path, "UPDATE documents SET text = ?", (before,))
    async with base.open(key) as samvad:
        with pytest.raises(Unreadable):
            await samvad.knowledge.get("hours")


async def test_another_tenants_document_is_not_believed(tmp_path: Path) -> None:
    """Moved as it is, with its id, from one tenant to another and to everyone."""
    base, key = Base("sqlite", tmp_path), new_key()
    async with base.open(key) as samvad:
        for tenant in ("one", "two"):
            kb = samvad.knowledge.acting_as(trusted(tenant))
            await kb.add_text(tenant, f"A secret of {tenant}.", id="same")
    spoil(
        base.path,
        "UPDATE documents SET (body, text) = (SELECT body, text FROM documents WHERE tenant = 'one') "
        "WHERE tenant = 'two'",
    )
    async with base.open(key) as samvad:
        kb = samvad.knowledge.acting_as(trusted("two"))
        with pytest.raises(Unreadable):
            await kb.get("same")
        assert await kb.search("secret") == []
        assert len(await samvad.knowledge.acting_as(trusted("one")).search("secret")) == 1


async def test_altered_in_firestore(tmp_path: Path) -> None:
    """A chunk of the text, or the record itself: that one is refused, the others are found."""
    base, key = Base("firestore", tmp_path), new_key()
    async with base.open(key) as samvad:
        for name in ("a", "b", "c"):
            await add(samvad, name)
        assert await samvad.store.drain(20) == 0
    await asyncio.to_thread(_alter, base.project)
    shutil.rmtree(base.folder / "knowledge-index")
    async with base.open(key) as samvad:
        assert await asked(samvad) == ["a"]
        listed = {d.id: d.unreadable for d in (await samvad.knowledge.list_documents()).documents}
        assert listed == {"a": False, "b": False, "c": True}
        for name in ("b", "c"):
            with pytest.raises(Unreadable):
                await samvad.knowledge.get(name)
            await samvad.knowledge.delete(name)


def _alter(project: str) -> None:
    with google_client(project) as client:
        chunks = client.collection("knowledge_base").document("b").collection("chunks")
        chunk = next(iter(chunks.list_documents()))
        text = chunk.get().to_dict()["text"]
        chunk.update({"text": text[:60] + bytes([text[60] ^ 1]) + text[61:]})
        client.collection("knowledge_base").document("c").update({"body": b"\xff\xff"})


async def test_a_sealed_index_is_taken_up_again(tmp_path: Path) -> None:
    """Without reading one document."""
    base, key = Base("sqlite", tmp_path), new_key()
    async with base.open(key) as samvad:
        await add(samvad)
        assert await asked(samvad) == ["loans"]
    async with base.open(key) as samvad:
        store = samvad.knowledge.core.shelf.store

        async def refused(scope: Scope, document_id: str) -> Any:
            raise AssertionError("nothing is to be read")

        store.get = refused
        assert await asked(samvad) == ["loans"]


def test_an_index_that_was_altered_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off, altered, another owner's, of another key, or its pieces exchanged: it is not there."""
    monkeypatch.setattr("samvad.knowledge.copies._PIECE_BYTES", 1 << 15)
    here, there, key = Scope("default"), Scope("default", "asha"), os.urandom(32)

    def engine() -> Engine:
        found = Engine(tmp_path, sealed=True)
        found.unlock(here, key)
        found.unlock(there, key)
        return found

    one = engine()
    private = msgspec.structs.replace(stored("private", TITLE, TEXT, "en"), scope=there)
    one.put([stored("loans", TITLE, TEXT * 200, "en"), private])
    one.close()
    place, other = one.path(here), one.path(there)
    assert place is not None and other is not None
    whole, piece = place.read_bytes(), (1 << 15) + 28
    assert len(whole) > 3 * piece, "several pieces"
    head = whole[:31]
    one = engine()
    assert set(one.revisions(here)) == {"loans"} and one.find(RARE, [here], Filter(), 3)
    for spoiled in (
        whole[:-1],
        whole[: 31 + piece],
        head,
        b"",
        whole[:60] + bytes([whole[60] ^ 1]) + whole[61:],
        head + whole[31 + piece : 31 + 2 * piece] + whole[31 : 31 + piece] + whole[31 + 2 * piece :],
        other.read_bytes(),
    ):
        place.write_bytes(spoiled)
        assert not copies.read(place, key, lambda piece: None)
        assert engine().revisions(here) == {}
    place.write_bytes(whole)
    assert copies.read(place, key, lambda piece: None)
    assert set(engine().revisions(here)) == {"loans"}
    two = Engine(tmp_path, sealed=True)
    two.unlock(here, os.urandom(32))
    assert two.revisions(here) == {}


def test_an_index_leaves_with_its_documents(tmp_path: Path) -> None:
    """A copy that holds what was removed is removed; where files may only be read, nothing is written."""
    scope, key = Scope("default"), os.urandom(32)
    one = Engine(tmp_path, sealed=True)
    one.unlock(scope, key)
    one.put([stored("a", TITLE, TEXT, "en"), stored("b", TITLE, TEXT, "en")])
    one.close()
    looking = Engine(tmp_path, sealed=True, readonly=True)
    looking.unlock(scope, key)
    looking.remove(scope, ["a"])
    looking.put([stored("c", TITLE, TEXT, "en")])
    assert set(looking.revisions(scope)) == {"b", "c"}
    looking.close()
    one = Engine(tmp_path, sealed=True)
    one.unlock(scope, key)
    assert set(one.revisions(scope)) == {"a", "b"}
    one.remove(scope, ["a"])
    assert list(tmp_path.iterdir()) == []
    one.close()
    assert len(list(tmp_path.iterdir())) == 1
    one = Engine(tmp_path, sealed=True)
    one.unlock(scope, key)
    one.drop(scope)
    assert list(tmp_path.iterdir()) == []


async def test_rotation_covers_the_keys_of_documents(tmp_path: Path) -> None:
    """Wrapped anew with the others; then the old master key is of no use, and everything reads as before."""
    base, old, new = Base("sqlite", tmp_path), new_key(), new_key()
    async with base.open(old) as samvad:
        await add(samvad)
        await add(samvad, "private", "asha")
        assert await asked(samvad, "asha") == ["loans", "private"]
    keys = DataKeys(DataKeyFile(keys_file(base.path)), master_keys(f"{new},{old}"))
    await keys.open()
    assert await keys.rewrap() == (2, 0)
    await keys.close()
    async with base.open(new) as samvad:
        assert data_keys_around(samvad.store).documents_strict
        assert await asked(samvad, "asha") == ["loans", "private"]
        assert (await samvad.knowledge.get("private", user_id="asha")).text == TEXT


async def test_a_damaged_document_keeps_no_other_from_its_vectors(tmp_path: Path) -> None:
    """It is passed over; those behind it get theirs, and no service is waited for in vain."""
    base, key = Base("sqlite", tmp_path), new_key()
    async with base.open(key) as samvad:
        await add(samvad, "a")
        await add(samvad, "b")
    spoil(base.path, f"UPDATE documents SET {SPOILED['a-bit']} WHERE id = 'a'")
    async with FakeEmbeddings(vector) as fake:
        embedder = OpenAIEmbedder(base_url=fake.base_url, model="m", languages=None)
        async with base.open(key, embedder=embedder) as samvad, asyncio.timeout(30):
            assert await asked(samvad) == ["b"]
            await settled(samvad)
            shelf = samvad.knowledge.core.shelf
            assert await shelf.store.embedded(Scope("default"), embedder.space) == {"b"}
