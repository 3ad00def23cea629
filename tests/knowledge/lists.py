"""Lists of queries with the documents that answer them, and FTS5 as it comes to compare with.

`documents.tsv`: id, language, title, text. `short_hindi.tsv`: query, ids of the documents (`article:` those of XQuAD),
kind. `romanised*.tsv`: query, id of the Hindi document, id of the English one (`-`: there is none). The words of
`romanised.tsv` were known when the dictionary of `samvad.knowledge.lexicon` was written; `romanised_held_out.tsv` was
written after it, and nothing was changed for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import apsw

from samvad.knowledge.engine import Engine
from samvad.knowledge.records import Document, Filter, Scope, StoredDocument

DATA: Final = Path(__file__).parent / "data"
SCOPE: Final = Scope("default")
SHORT_RECALL_MIN: Final = 0.9
Search = Callable[[str], Sequence[str]]


class Asked(NamedTuple):
    """A query and the documents that should be among the first five."""

    query: str
    wanted: frozenset[str]
    kind: str


def rows(name: str) -> list[list[str]]:
    """The lines of a list, as their columns."""
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line]


def stored(name: str, title: str, text: str, language: str) -> StoredDocument:
    """A document as the index takes it."""
    document = Document(
        id=name,
        title=title,
        type="text",
        content_length=len(text),
        added_at="",
        updated_at="",
        checksum="",
        language=language,
    )
    return StoredDocument(scope=SCOPE, document=document, text=text)


def documents() -> list[StoredDocument]:
    """The documents of the lists."""
    return [stored(name, title, text, language) for name, language, title, text in rows("documents.tsv")]


def short_hindi(*, articles: bool = False) -> list[Asked]:
    """Queries of one or two Hindi words; with `articles` also those that XQuAD's passages answer."""
    found = [Asked(query, frozenset(wanted.split()), kind) for query, wanted, kind in rows("short_hindi.tsv")]
    return [one for one in found if articles or not any(w.startswith("article:") for w in one.wanted)]


def romanised(name: str, language: str) -> list[Asked]:
    """Queries in romanised Hindi, with the Hindi (`hi`) or the English (`en`) document that answers each."""
    column = 1 if language == "hi" else 2
    return [Asked(row[0], frozenset({row[column]}), "romanised") for row in rows(name) if row[column] != "-"]


def of(name: str) -> str:
    """What a list names: the article of a passage of XQuAD, else the document itself."""
    return name.partition("#")[0]


def recall(asked: Sequence[Asked], search: Search, count: int = 5) -> float:
    """The share of the wanted documents that are among the first `count`; a list is never asked for more than fit."""
    shares = []
    for one in asked:
        found = {of(name) for name in search(one.query)[:count]}
        shares.append(len(found & one.wanted) / min(count, len(one.wanted)))
    return sum(shares) / len(shares)


def ours(documents: Sequence[StoredDocument]) -> Search:
    """The search engine over these documents, in memory."""
    engine = Engine(None)
    engine.put(documents)
    return lambda query: [hit.doc.id for hit in engine.search(query, [SCOPE], Filter(), 5)]


def plain(documents: Sequence[StoredDocument], count: int = 5) -> Search:
    """FTS5 over these documents as it comes: its default tokenizer (unicode61), any of the words, its BM25."""
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE VIRTUAL TABLE words USING fts5 (title, body)")
    connection.executemany(
        "INSERT INTO words (rowid, title, body) VALUES (?, ?, ?)",
        [(number, each.document.title, each.text) for number, each in enumerate(documents)],
    )

    def search(query: str) -> list[str]:
        words = " OR ".join(f'"{word}"' for word in re.findall(r'[^\s"]+', query))
        sql = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?"
        return [documents[number].document.id for (number,) in connection.execute(sql, (words, count))]

    return search
