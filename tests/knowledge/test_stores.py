"""The same documents and questions give the same results on every store."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import apsw
import pytest

from samvad import open_samvad
from samvad.knowledge.engine import Engine
from samvad.knowledge.records import Filter, Scope
from tests.firestore.support import emulator
from tests.knowledge.lists import stored

pytestmark = pytest.mark.anyio
TEXTS = {
    "Home loan": "The interest rate of a home loan is 8.5 percent a year. Bring proof of income.",
    "गृह ऋण": "गृह ऋण की ब्याज दर ८.५ प्रतिशत है। आय का प्रमाण लाएँ।",
    "Hours": "The branch is open from 10 to 4. It is closed on Sunday.",
    "किसान क्रेडिट कार्ड": "किसान क्रेडिट कार्ड से खेती के लिए कर्ज मिलता है। ज़मीन के कागज़ चाहिए।",
}
QUERIES = ("interest of home loans", "byaj dar kya hai", "जमीन के कागज", "When is the branch closed?", "हिन्दी")


async def outcome(url: str) -> list[Any]:
    """What each query finds and answers, and what is left after a change and a removal."""
    async with open_samvad(url) as samvad:
        kb = samvad.knowledge
        for number, (title, text) in enumerate(TEXTS.items()):
            await kb.add_text(title, text, id=f"doc-{number}", tags=[f"t{number}"])
        await kb.add_text("Hours", "The branch is open from 9 to 5. It is closed on Monday.", id="doc-2")
        await kb.delete("doc-3")
        found: list[Any] = []
        for query in QUERIES:
            hits = await kb.search(query, max_results=10)
            found.append([(hit.doc.id, hit.score, hit.passage.start, hit.passage.text) for hit in hits])
            answer = await kb.answer(query)
            found.append((answer.answered, answer.confidence, answer.answer))
        page = await kb.list_documents()
        found.append(sorted((each.id, each.version, each.checksum) for each in page.documents))
        return found


async def test_sqlite_is_as_memory(database_path: Path) -> None:
    """The same passages, scores, answers and versions."""
    found = await outcome("memory://")
    assert found[0][0][0] == "doc-0" and found[2][0][0] == "doc-1"
    assert await outcome(f"sqlite:///{database_path}") == found


async def test_firestore_is_as_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, from documents in Firestore and an index here."""
    running = emulator()
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", running.host)
    assert await outcome(f"firestore://{running.new_project()}") == await outcome("memory://")


async def test_an_index_that_was_lost_is_made_anew(database_path: Path) -> None:
    """After a restart everything is found, whatever became of the index."""
    url = f"sqlite:///{database_path}"
    first = await outcome(url)
    for path in database_path.parent.rglob("tenant-*.db*"):
        path.unlink()
    async with open_samvad(url) as samvad:
        hits = await samvad.knowledge.search(QUERIES[0], max_results=10)
        assert [(hit.doc.id, hit.score, hit.passage.start, hit.passage.text) for hit in hits] == first[0]


@pytest.mark.parametrize("state", ["missing", "older", "behind"])
def test_reading_alone_finds_what_no_index_holds(tmp_path: Path, state: str) -> None:
    """A command that may only read finds everything, though the index is missing, of another layout, or late."""
    scope, condition = Scope("default"), Filter()
    first, second = (
        stored(f"doc-{n}", "Hours", f"The branch {n} is open from 10 to 4.", "en") for n in (1, 2)
    )
    if state != "missing":
        writer = Engine(tmp_path)
        writer.put([first])
        writer.close()
    if state == "older":
        with contextlib.closing(apsw.Connection(str(next(tmp_path.glob("*.db"))))) as connection:
            connection.pragma("user_version", 1)
            connection.execute("DROP TABLE passages")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.db")}
    reader = Engine(tmp_path, readonly=True)
    there = reader.revisions(scope)
    assert list(there) == (["doc-1"] if state == "behind" else [])
    reader.put([each for each in (first, second) if each.document.id not in there])
    found = reader.search("branch hours", [scope], condition, 5)
    assert sorted(hit.doc.id for hit in found) == ["doc-1", "doc-2"]
    reader.remove(scope, ["doc-1"])
    assert [hit.doc.id for hit in reader.search("branch hours", [scope], condition, 5)] == ["doc-2"]
    reader.close()
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.db")} == before
