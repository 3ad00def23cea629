"""The search engine over the indexes of several scopes: candidates, ranking, fusion.

Synchronous, for one thread. The knowledge base runs it in a process of its own (see remote.py), so that a search
never holds up an append; tools and benchmarks use it as it is.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from samvad.knowledge.copies import SUFFIX, Copies
from samvad.knowledge.index import Row, ScopeIndex, is_current, remove_files
from samvad.knowledge.queries import Query, parse
from samvad.knowledge.ranking import Prepared, first_score, query_pieces, rank
from samvad.knowledge.records import Document, Filter, Hit, PassageFound, Scope, StoredDocument
from samvad.knowledge.standing_aside import stand_aside

CANDIDATES: Final = 24  # of each scope, by FTS5's own order
RANKED: Final = 16  # of them all together
RANKED_SHARE: Final = 0.4  # of the best one's first score: what has less never came out first
RANKED_MIN: Final = 8
CANDIDATE_ROWS_MAX: Final = 2_000  # weighed for one lookup
_OPEN_MAX: Final = 64
_PREPARED_MAX: Final = 512


class Found(NamedTuple):
    """A passage that was found, with what is known of it."""

    score: float  # 0 to 1
    scope: Scope
    document: Document
    row: Row
    prepared: Prepared


class _Together:
    """The words of several scopes as one vocabulary."""

    def __init__(self, indexes: Sequence[ScopeIndex]) -> None:
        self._indexes = indexes

    def frequency(self, term: str) -> int:
        return sum(index.frequency(term) for index in self._indexes)

    def spellings(self, term: str, prefix_chars: int) -> list[tuple[str, int]]:
        return [one for index in self._indexes for one in index.spellings(term, prefix_chars)]

    def size(self) -> tuple[int, int]:
        sizes = [index.size() for index in self._indexes]
        return sum(passages for passages, _ in sizes), sum(tokens for _, tokens in sizes)


class Engine:
    """Indexes below one directory (None: in memory), one a scope, opened when they are needed.

    `sealed`: they are in memory, and the directory holds sealed copies of those whose key was given (`unlock`).
    """

    def __init__(self, directory: Path | None, *, readonly: bool = False, sealed: bool = False) -> None:
        self._directory = directory
        self._readonly = readonly
        self._copies = Copies() if sealed and directory is not None else None
        self._open: OrderedDict[Scope, ScopeIndex] = OrderedDict()
        self._prepared: OrderedDict[tuple[Scope, int, int, bool], Prepared] = OrderedDict()
        if self._copies is not None and directory is not None and not readonly:
            for path in directory.glob("*.db"):  # from before encryption was on: it is in clear
                remove_files(path)
            for path in directory.glob(f"*{SUFFIX}.*"):  # what an earlier process did not write to its end
                path.unlink(missing_ok=True)

    def unlock(self, scope: Scope, key: bytes) -> None:
        """The key of a scope's sealed copy. Where there is such a copy, and nothing in memory, that is the index."""
        path = self.path(scope)
        if self._copies is None or path is None:
            return
        self._copies.unlock(path, key)
        there = self._open.get(scope)
        if there is not None and not there.revisions():
            del self._open[scope]

    def close(self) -> None:
        """Let all files go."""
        for scope, index in self._open.items():
            if self._copies is not None and not self._readonly:
                self._copies.keep(self.path(scope), index)
            index.close()
        self._open.clear()
        self._prepared.clear()

    def path(self, scope: Scope) -> Path | None:
        """The file of a scope: its name says nothing of whose it is."""
        if self._directory is None:
            return None
        suffix = ".db" if self._copies is None else SUFFIX
        if scope.tenant is None:
            return self._directory / f"everyone{suffix}"
        kind = "tenant" if scope.user is None else "user"
        parts = "\0".join((scope.tenant, scope.user or ""))
        return self._directory / f"{kind}-{hashlib.sha256(parts.encode()).hexdigest()[:32]}{suffix}"

    def _index(self, scope: Scope, *, make: bool) -> ScopeIndex | None:
        index = self._open.get(scope)
        if index is not None:
            self._open.move_to_end(scope)
            return index
        path = self.path(scope)
        if self._copies is not None:
            return self._from_copy(scope, path, make=make)
        if not make and (path is None or not path.exists()):
            return None
        if self._readonly and path is not None and not is_current(path):
            return None
        index = ScopeIndex(path, readonly=self._readonly)
        self._open[scope] = index
        if path is not None and len(self._open) > _OPEN_MAX:
            self._open.popitem(last=False)[1].close()
        return index

    def _from_copy(self, scope: Scope, path: Path | None, *, make: bool) -> ScopeIndex | None:
        assert self._copies is not None
        index = self._copies.index(path)
        if index is None and not make:
            return None
        index = self._open[scope] = index or ScopeIndex(None)
        if len(self._open) > _OPEN_MAX:
            oldest = next(iter(self._open))
            if self._copies.keep(
                self.path(oldest), self._open[oldest]
            ):  # else memory is the only place it is in
                self._open.pop(oldest).close()
        return index

    # --- changing --------------------------------------------------------------------------------------

    def put(self, documents: Sequence[StoredDocument]) -> None:
        """Index documents, each instead of what was there of it."""
        by_scope: dict[Scope, list[StoredDocument]] = {}
        for stored in documents:
            by_scope.setdefault(stored.scope, []).append(stored)
        for scope, group in by_scope.items():
            index = self._to_change(scope)
            index.put(group)
            if self._copies is not None and not self._readonly:
                self._copies.keep_if_grown(self.path(scope), index)
        self._prepared.clear()

    def _to_change(self, scope: Scope) -> ScopeIndex:
        """The index of a scope; where files may only be read, a copy of it in memory, which goes with the process."""
        index = self._index(scope, make=not self._readonly)
        if index is None or (self._readonly and index.path is not None):
            copy = ScopeIndex(None)
            if index is not None:
                copy.copy_from(index)
                index.close()
            index = self._open[scope] = copy
        return index

    def remove(self, scope: Scope, ids: Sequence[str]) -> None:
        """Forget documents of a scope."""
        index = self._index(scope, make=False)
        if index is not None:
            self._to_change(scope).remove(ids)
            if self._copies is not None and not self._readonly:
                self._copies.drop(self.path(scope))  # it holds what was removed
        self._prepared.clear()

    def drop(self, scope: Scope) -> None:
        """Forget a whole scope, files and all."""
        index = self._open.pop(scope, None)
        if index is not None:
            index.close()
        if self._copies is None:
            remove_files(self.path(scope))
        elif not self._readonly:
            self._copies.drop(self.path(scope), key=True)
        self._prepared.clear()

    def revisions(self, scope: Scope) -> dict[str, int]:
        """The documents of a scope that are indexed, and the revision of each."""
        index = self._index(scope, make=False)
        return {} if index is None else index.revisions()

    # --- asking ----------------------------------------------------------------------------------------

    def _indexes(self, scopes: Sequence[Scope]) -> list[tuple[Scope, ScopeIndex]]:
        found = [(scope, self._index(scope, make=False)) for scope in scopes]
        return [(scope, index) for scope, index in found if index is not None]

    def find(self, query: str, scopes: Sequence[Scope], condition: Filter, limit: int) -> list[Found]:
        """The best passages for a query, best first; at most `limit`."""
        return self.find_parsed(query, scopes, condition, limit)[1]

    def find_parsed(
        self, query: str, scopes: Sequence[Scope], condition: Filter, limit: int
    ) -> tuple[Query, list[Found]]:
        """As `find`, with the query taken apart."""
        indexes = self._indexes(scopes)
        parsed = parse(query, _Together([index for _, index in indexes]))
        return parsed, self.look_for(parsed, indexes, condition, limit)

    def look_for(
        self, query: Query, indexes: Sequence[tuple[Scope, ScopeIndex]], condition: Filter, limit: int
    ) -> list[Found]:
        """The best passages for a query that was taken apart."""
        together = _Together([index for _, index in indexes])
        passages, tokens = together.size()
        if not query.terms or not passages:
            return []
        average = tokens / passages
        gathered: list[tuple[float, Scope, Document, Row, Prepared]] = []
        plan = query.plan(together, CANDIDATE_ROWS_MAX)
        for scope, index in indexes:
            numbers = index.candidates(plan, max(CANDIDATES, limit), CANDIDATE_ROWS_MAX, condition)
            for row in index.fetch(numbers):
                stand_aside()
                document = index.document(row.document)
                prepared = self._prepare(scope, index, row, document, query.sounds)
                gathered.append(
                    (sum(first_score(query.terms, prepared, average)), scope, document, row, prepared)
                )
        gathered.sort(key=lambda one: (-one[0], one[2].id, one[3].start))
        del gathered[max(RANKED, limit) :]
        if len(gathered) > limit:
            least = RANKED_SHARE * gathered[0][0]
            worth = sum(one[0] >= least for one in gathered)
            del gathered[max(worth, limit, RANKED_MIN) :]
        wanted = query_pieces(query.text, sounds=query.sounds)
        scores = rank(wanted, query.terms, [one[4] for one in gathered], average)
        found = [
            Found(score, scope, document, row, prepared)
            for score, (_, scope, document, row, prepared) in zip(scores, gathered, strict=True)
        ]
        found.sort(key=lambda one: (-one.score, one.document.id, one.row.start))
        return found[:limit]

    def _prepare(
        self, scope: Scope, index: ScopeIndex, row: Row, document: Document, sounds: bool
    ) -> Prepared:
        key = (scope, index.changes, row.no, sounds)
        known = self._prepared.get(key)
        if known is None:
            known = Prepared(document.title, row.headings, row.text, row.sentences, row.terms, sounds=sounds)
            self._prepared[key] = known
            if len(self._prepared) > _PREPARED_MAX:
                self._prepared.popitem(last=False)
        return known

    def search(self, query: str, scopes: Sequence[Scope], condition: Filter, limit: int) -> list[Hit]:
        """As `find`, as callers see it."""
        return [hit(one) for one in self.find(query, scopes, condition, limit)]


def hit(found: Found) -> Hit:
    """A passage as callers see it."""
    row = found.row
    return Hit(
        doc=found.document,
        score=round(found.score, 4),
        passage=PassageFound(text=row.text, start=row.start, end=row.end, headings=row.headings),
    )
