"""One scope's index: passages and their words in one SQLite file (FTS5), made from documents and remade at will.

A scope (everyone's, a tenant's, a user's) has a file of its own: what is in one can neither be found nor weigh on
ranks elsewhere, and erasing a user is removing a file. https://sqlite.org/fts5.html
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import apsw
import msgspec

from samvad.knowledge.memory_file import MemoryFile
from samvad.knowledge.passages import passages
from samvad.knowledge.queries import Plan
from samvad.knowledge.ranking import field_terms
from samvad.knowledge.records import Document, Filter, StoredDocument
from samvad.knowledge.romanised import KEY_MARK
from samvad.knowledge.sql import filter_sql
from samvad.knowledge.standing_aside import stand_aside
from samvad.private_files import make_private

LAYOUT: Final = 3  # of the tables and of the words in them: a file of another layout is made anew
_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE documents (
    no INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, revision INTEGER NOT NULL, category TEXT, language TEXT,
    tags TEXT NOT NULL, body BLOB NOT NULL
);
CREATE TABLE passages (
    no INTEGER PRIMARY KEY, document INTEGER NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL,
    headings TEXT NOT NULL, sentences TEXT NOT NULL, text TEXT NOT NULL, terms TEXT NOT NULL
);
CREATE INDEX passages_document ON passages (document);
CREATE INDEX passages_no ON passages (no, document);
CREATE INDEX documents_filter ON documents (no, category, language, tags);
CREATE VIRTUAL TABLE words USING fts5 (
    title, headings, body, sound, content = '', tokenize = "unicode61 remove_diacritics 0 categories 'L* N* Co Mn Mc'"
);
CREATE VIRTUAL TABLE vocabulary USING fts5vocab (words, row);
INSERT INTO words (words, rank) VALUES ('secure-delete', 1);
INSERT INTO words (words, rank) VALUES ('rank', 'bm25(2.0, 1.5, 1.0, 0.7)');
"""
_ADD: Final = "INSERT INTO words (rowid, title, headings, body, sound) VALUES (?, ?, ?, ?, ?)"
_ADD_PASSAGE: Final = (
    'INSERT INTO passages (no, document, start, "end", headings, sentences, text, terms) '
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_REMOVE: Final = (
    "INSERT INTO words (words, rowid, title, headings, body, sound) VALUES ('delete', ?, ?, ?, ?, ?)"
)
_json = msgspec.json.Encoder()
_headings = msgspec.json.Decoder(tuple[str, ...]).decode
_places = msgspec.json.Decoder(tuple[tuple[int, int], ...]).decode
_CACHE_KIB: Final = 16 * 1024
_DOCUMENTS_KEPT: Final = 2_000
_SPELLINGS_MAX: Final = 1_000
_STEPS_BETWEEN: Final = 100  # of SQLite, about 10 µs, between two offers of the core


class Row(NamedTuple):
    """A passage as the index keeps it."""

    no: int
    document: int
    start: int
    end: int
    headings: tuple[str, ...]
    sentences: tuple[tuple[int, int], ...]  # their places in `text`
    text: str
    terms: str  # those of the text, a line a sentence


class ScopeIndex:
    """The index of one scope. Not shared between threads. `path` None keeps it in memory."""

    def __init__(self, path: Path | None, *, readonly: bool = False) -> None:
        self.path = path
        self._frequencies: dict[str, int] = {}
        self._documents: dict[int, Document] = {}
        self.changes = 0
        self._memory: MemoryFile | None = None  # what the connection is to, where that was loaded
        if path is not None and not readonly:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._connection = self._opened(readonly)

    def _opened(self, readonly: bool) -> apsw.Connection:
        if self.path is None:
            connection = apsw.Connection(":memory:")
        elif readonly:
            connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)
        else:
            with contextlib.suppress(OSError):  # SQLite says what is wrong
                make_private(self.path)
            connection = apsw.Connection(str(self.path))
        _prepare(connection)
        if readonly:
            return connection
        # Whatever is lost with the power is made anew from the documents.
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "off")
        try:
            layout = connection.pragma("user_version")
        except apsw.Error:
            layout = -1
        if layout != LAYOUT:
            if layout != 0:
                connection.close()
                remove_files(self.path)
                return self._opened(readonly)
            with connection:
                connection.execute(_SCHEMA)
                connection.pragma("user_version", LAYOUT)
        return connection

    @contextlib.contextmanager
    def dumped(self) -> Iterator[MemoryFile]:
        """All of the index, for `load`: what it is in itself where it was loaded, else a copy. OSError: no room."""
        if self._memory is not None:
            yield self._memory
            return
        copy = MemoryFile()
        try:
            copy.become(self._connection)
            yield copy
        finally:
            copy.close()

    def load(self, memory: MemoryFile) -> bool:
        """Become what was dumped, and take it over; false where that is no index of this layout."""
        connection = memory.connect()
        try:
            _prepare(connection)
            if connection.pragma("user_version") != LAYOUT:
                connection.close()
                return False
        except apsw.Error:
            connection.close()
            return False
        self.close()
        self._connection, self._memory = connection, memory
        self._changed()
        return True

    def copy_from(self, other: ScopeIndex) -> None:
        """Become what another index is."""
        with self._connection.backup("main", other._connection, "main") as backup:
            backup.step()
        self._changed()

    def close(self) -> None:
        """Let the file go."""
        with contextlib.suppress(apsw.Error):
            self._connection.close()
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    # --- changing --------------------------------------------------------------------------------------

    def put(self, documents: Iterable[StoredDocument]) -> None:
        """Index documents, each instead of what was there of it, in one transaction."""
        with self._connection:
            for stored in documents:
                self._remove(stored.document.id)
                self._put(stored)
        self._changed()

    def _put(self, stored: StoredDocument) -> None:
        document = stored.document
        pieces = passages(stored.text, stored.headings)
        document = msgspec.structs.replace(document, passages=len(pieces))
        execute = self._connection.execute
        execute(
            "INSERT INTO documents (id, revision, category, language, tags, body) VALUES (?, ?, ?, ?, ?, ?)",
            (
                document.id,
                stored.revision,
                document.category,
                (document.language or "").partition("-")[0].lower() or None,
                json.dumps(document.tags, ensure_ascii=False),
                msgspec.json.encode(document),
            ),
        )
        number = self._connection.last_insert_rowid()
        first = 1 + (execute("SELECT max(no) FROM passages").get or 0)
        rows, words, tokens = [], [], 0
        for no, piece in enumerate(pieces, first):
            start, end, headings, sentences = piece
            text = stored.text[start:end]
            places = [(begin - start, stop - start) for begin, stop in sentences]
            fields, length = field_terms(document.title, headings, text, places)
            tokens += length
            above, below = _json.encode(headings).decode(), _json.encode(places).decode()
            rows.append((no, number, start, end, above, below, text, fields.body))
            words.append((no, *fields))
        self._connection.executemany(_ADD_PASSAGE, rows)
        self._connection.executemany(_ADD, words)
        self._count(len(pieces), tokens)

    def _count(self, passages: int, tokens: int) -> None:
        for name, value in (("passages", passages), ("tokens", tokens)):
            self._connection.execute(
                "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                (name, value),
            )

    def remove(self, ids: Sequence[str]) -> None:
        """Forget documents; nothing of their words is left in the tables of the index."""
        with self._connection:
            for document_id in ids:
                self._remove(document_id)
        if self.path is not None:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._changed()

    def _remove(self, document_id: str) -> None:
        row = self._connection.execute(
            "SELECT no, body FROM documents WHERE id = ?", (document_id,)
        ).fetchone()
        if row is None:
            return
        number, body = row
        document = msgspec.json.decode(body, type=Document)
        removed, tokens = self.rows("document = ?", (number,)), 0
        for passage in removed:
            fields, length = field_terms(document.title, passage.headings, passage.text, passage.sentences)
            tokens += length
            self._connection.execute(_REMOVE, (passage.no, *fields))
        self._connection.execute("DELETE FROM passages WHERE document = ?", (number,))
        self._connection.execute("DELETE FROM documents WHERE no = ?", (number,))
        self._count(-len(removed), -tokens)

    def _changed(self) -> None:
        self.changes += 1
        self._frequencies.clear()
        self._documents.clear()

    def revisions(self) -> dict[str, int]:
        """The documents that are indexed, and the revision of each."""
        return dict(self._connection.execute("SELECT id, revision FROM documents"))

    # --- asking ----------------------------------------------------------------------------------------

    def size(self) -> tuple[int, int]:
        """How many passages there are, and how many words in them."""
        found = dict(self._connection.execute("SELECT name, value FROM meta"))
        return int(found.get("passages", 0)), int(found.get("tokens", 0))

    def frequency(self, term: str) -> int:
        """In how many passages a term stands."""
        known = self._frequencies.get(term)
        if known is None:
            row = self._connection.execute("SELECT doc FROM vocabulary WHERE term = ?", (term,)).fetchone()
            known = self._frequencies[term] = row[0] if row else 0
        return known

    def spellings(self, term: str, prefix_chars: int) -> list[tuple[str, int]]:
        """Terms that begin as this one does, and in how many passages each stands."""
        prefix = term[:prefix_chars]
        found = self._connection.execute(
            "SELECT term, doc FROM vocabulary WHERE term >= ? AND term < ? LIMIT ?",
            (prefix, prefix + "\U0010ffff", _SPELLINGS_MAX),
        )
        return [
            (word, count) for word, count in found if not word.startswith(KEY_MARK) or term[0] == KEY_MARK
        ]

    def candidates(self, plan: Plan, limit: int, rows_max: int, condition: Filter) -> list[int]:
        """The numbers of the passages that a plan names, the best first by FTS5's own BM25.

        Not many more than `limit`, and never more than `rows_max` of them are weighed for a lookup.
        """
        there = [term for term in plan.any_of if self.frequency(term)]
        found = dict.fromkeys(self._matching(_any_of(there), limit, rows_max, condition)) if there else {}
        if plan.above:
            match = f"{{title headings}} : ({_any_of(plan.above)})"
            found |= dict.fromkeys(self._matching(match, limit, rows_max, condition))
        most = len(found) + limit
        for words in plan.together:
            match = " AND ".join(f"({_any_of(variants)})" for variants in words)
            found |= dict.fromkeys(self._matching(match, limit, rows_max, condition))
            if len(found) >= most:
                break
        return list(found)

    def _matching(self, match: str, limit: int, rows_max: int, condition: Filter) -> list[int]:
        where, values = _where(condition)
        sql = (
            f"SELECT no FROM (SELECT rowid AS no, rank AS score FROM words WHERE words MATCH ? {where} LIMIT ?) "  # noqa: S608
            "ORDER BY score LIMIT ?"
        )
        return [no for (no,) in self._connection.execute(sql, (match, *values, rows_max, limit))]

    def rows(self, condition: str, values: Sequence[object]) -> list[Row]:
        """Passages by a condition in SQL that stands in this code."""
        found = self._connection.execute(
            f'SELECT no, document, start, "end", headings, sentences, text, terms FROM passages WHERE {condition}',  # noqa: S608
            tuple(values),
        )
        return [
            Row(no, document, start, end, _headings(headings), _places(sentences), text, terms)
            for no, document, start, end, headings, sentences, text, terms in found
        ]

    def fetch(self, numbers: Sequence[int]) -> list[Row]:
        """Passages by number, in the order of the numbers."""
        marks = ", ".join("?" * len(numbers))
        by_no = {row.no: row for row in self.rows(f"no IN ({marks})", numbers)}
        return [by_no[no] for no in numbers if no in by_no]

    def document(self, number: int) -> Document:
        """A document by its number in this index."""
        known = self._documents.get(number)
        if known is None:
            if len(self._documents) > _DOCUMENTS_KEPT:
                self._documents.clear()
            body = self._connection.execute("SELECT body FROM documents WHERE no = ?", (number,)).get
            known = self._documents[number] = msgspec.json.decode(body, type=Document)
        return known

    def admitted(self, condition: Filter) -> set[str] | None:
        """The ids of the documents that meet the condition; None where all do."""
        where, values = filter_sql(condition)
        if not where:
            return None
        return {
            name
            for (name,) in self._connection.execute(f"SELECT id FROM documents WHERE {where}", values)  # noqa: S608
        }


def _prepare(connection: apsw.Connection) -> None:
    connection.set_busy_timeout(5_000)
    connection.set_progress_handler(stand_aside, _STEPS_BETWEEN)
    connection.pragma("cache_size", -_CACHE_KIB)
    connection.pragma("temp_store", 2)  # in memory: what is sorted is on no disk
    if not connection.readonly("main"):
        connection.pragma("secure_delete", True)


def _any_of(terms: Sequence[str]) -> str:
    return " OR ".join(f'"{term}"' for term in terms)


def _where(condition: Filter) -> tuple[str, tuple[str, ...]]:
    where, values = filter_sql(condition)
    if not where:
        return "", ()
    # Row by row, out of two small indexes: a query looks at few rows, a category may hold most of them.
    document = "(SELECT document FROM passages INDEXED BY passages_no WHERE passages.no = words.rowid)"
    inner = f"SELECT 1 FROM documents INDEXED BY documents_filter WHERE documents.no = {document} AND {where}"  # noqa: S608
    return f"AND EXISTS ({inner})", values


def is_current(path: Path) -> bool:
    """Whether a file is an index of this layout, and can be read."""
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return bool(connection.pragma("user_version") == LAYOUT)
        finally:
            connection.close()
    except apsw.Error:
        return False


def remove_files(path: Path | None) -> None:
    """Remove an index's files, those beside it included."""
    if path is not None:
        for name in (path.name, path.name + "-wal", path.name + "-shm", path.name + "-journal"):
            path.with_name(name).unlink(missing_ok=True)
