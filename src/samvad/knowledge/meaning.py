"""Passages by meaning: vectors in memory, the nearest of them by exact search, fused with what words have found.

Runs in the search engine's process. Exact search is one product of a matrix: for 10,000 passages of 768 dimensions a
few milliseconds on one core. Rankings are fused by reciprocal rank (Cormack, Clarke and Buettcher, SIGIR 2009), which
needs no scores that could be compared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from samvad import limits
from samvad.knowledge.records import Filter, Hit, QueryVector, Scope, Vectors

if TYPE_CHECKING:
    from samvad.knowledge.engine import Engine, Found
    from samvad.knowledge.index import ScopeIndex

CANDIDATES: Final = 16  # of each ranking
RANK_CONSTANT: Final = 60  # of the paper
_GROW: Final = 2
_DEAD_SHARE: Final = 0.25


class Near(NamedTuple):
    """A passage by its document and the place where it begins, and how near it is: the cosine."""

    cosine: float
    scope: Scope
    document_id: str
    start: int


class _Matrix:
    """The vectors of one scope in one space, rows of a matrix that grows; what is removed leaves a gap for a while."""

    def __init__(self, space: str, dimensions: int) -> None:
        import numpy

        self.space = space
        self.dimensions = dimensions
        self._numpy: Any = numpy
        self._rows: Any = numpy.zeros((64, dimensions), dtype=numpy.float32)
        self._owner: Any = numpy.full(
            64, -1, dtype=numpy.int32
        )  # of each row the document's number, -1 for none
        self._starts: Any = numpy.zeros(64, dtype=numpy.int64)
        self._used = 0
        self._dead = 0
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []

    @property
    def bytes(self) -> int:
        """Of memory."""
        return int(self._rows.nbytes)

    def put(self, vectors: Vectors) -> None:
        """Take a document's vectors instead of those there were."""
        numpy = self._numpy
        self.remove(vectors.document_id)
        rows = numpy.frombuffer(vectors.data, dtype="<f4").reshape(-1, self.dimensions)
        lengths = numpy.linalg.norm(rows, axis=1, keepdims=True)
        good = (lengths > 0) & numpy.isfinite(lengths)
        rows = numpy.where(good, rows / numpy.where(good, lengths, 1), 0)
        end = self._used + len(rows)
        if end > len(self._rows):
            self._resize(max(end, len(self._rows) * _GROW))
        number = self._numbers[vectors.document_id] = len(self._names)
        self._names.append(vectors.document_id)
        self._rows[self._used : end] = rows
        self._owner[self._used : end] = number
        self._starts[self._used : end] = [start for start, _ in vectors.spans]
        self._used = end

    def remove(self, document_id: str) -> None:
        """Forget a document's vectors; the numbers are overwritten at once."""
        number = self._numbers.pop(document_id, None)
        if number is None:
            return
        gone = self._owner[: self._used] == number
        self._rows[: self._used][gone] = 0
        self._owner[: self._used][gone] = -1
        self._dead += int(gone.sum())
        if self._dead > 64 and self._dead > self._used * _DEAD_SHARE:
            self._compact()

    def _compact(self) -> None:
        kept = self._owner[: self._used] >= 0
        count = int(kept.sum())
        for array in (self._rows, self._owner, self._starts):
            array[:count] = array[: self._used][kept]
        self._rows[count:] = 0
        self._owner[count:] = -1
        self._used, self._dead = count, 0

    def _resize(self, size: int) -> None:
        numpy = self._numpy
        rows = numpy.zeros((size, self.dimensions), dtype=numpy.float32)
        owner = numpy.full(size, -1, dtype=numpy.int32)
        starts = numpy.zeros(size, dtype=numpy.int64)
        for new, old in ((rows, self._rows), (owner, self._owner), (starts, self._starts)):
            new[: self._used] = old[: self._used]
        self._rows, self._owner, self._starts = rows, owner, starts

    def nearest(self, query: Any, limit: int, admitted: set[str] | None) -> list[tuple[float, str, int]]:
        """The nearest passages of the documents that are admitted (None: of all)."""
        numpy = self._numpy
        owner = self._owner[: self._used]
        cosines = self._rows[: self._used] @ query
        if admitted is None:
            cosines = numpy.where(owner >= 0, cosines, -2.0)
        else:
            may = numpy.zeros(len(self._names) + 1, dtype=bool)  # the last is what -1 means
            may[[self._numbers[name] for name in admitted if name in self._numbers]] = True
            cosines = numpy.where(may[owner], cosines, -2.0)
        count = min(limit, len(cosines))
        best = numpy.argpartition(-cosines, count - 1)[:count] if count else []
        best = [row for row in best if cosines[row] > -2.0]
        found = [(float(cosines[row]), self._names[owner[row]], int(self._starts[row])) for row in best]
        found.sort(key=lambda one: (-one[0], one[1], one[2]))
        return found


class Meaning:
    """The vectors of several scopes; beyond the bound of memory, those of a scope are not taken."""

    def __init__(self, bytes_max: int = limits.VECTORS_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._matrices: dict[Scope, _Matrix] = {}

    def put(self, scope: Scope, several: Sequence[Vectors]) -> None:
        """Take vectors. Those of another space than the last take the place of all there were in the scope."""
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the other cores are for others
        for vectors in several:
            matrix = self._matrices.get(scope)
            if matrix is None or (matrix.space, matrix.dimensions) != (vectors.space, vectors.dimensions):
                matrix = self._matrices[scope] = _Matrix(vectors.space, vectors.dimensions)
            others = sum(each.bytes for each in self._matrices.values())
            if others + len(vectors.data) > self._bytes_max:
                continue
            matrix.put(vectors)

    def forget(self, scope: Scope, ids: Sequence[str] | None = None) -> None:
        """Forget documents of a scope, or all of it."""
        if ids is None:
            self._matrices.pop(scope, None)
        elif (matrix := self._matrices.get(scope)) is not None:
            for document_id in ids:
                matrix.remove(document_id)

    def nearest(
        self, vector: QueryVector, indexes: Sequence[tuple[Scope, ScopeIndex]], condition: Filter, limit: int
    ) -> list[Near]:
        """The nearest passages of these scopes, nearest first; vectors of another space do not count."""
        found: list[Near] = []
        for scope, index in indexes:
            matrix = self._matrices.get(scope)
            if matrix is None or matrix.space != vector.space or len(vector.data) != 4 * matrix.dimensions:
                continue
            query = matrix._numpy.frombuffer(vector.data, dtype="<f4")
            length = float(matrix._numpy.linalg.norm(query))
            if not 0 < length < float("inf"):
                continue
            admitted = index.admitted(condition)
            for cosine, name, start in matrix.nearest(query / length, limit, admitted):
                found.append(Near(cosine, scope, name, start))
        found.sort(key=lambda one: (-one.cosine, one.document_id, one.start))
        return found[:limit]


def search(
    engine: Engine,
    meaning: Meaning,
    query: str,
    scopes: Sequence[Scope],
    condition: Filter,
    limit: int,
    vector: QueryVector,
) -> list[Hit]:
    """The best passages by words and by meaning, best first.

    A score is the share of the best possible: 1 where both rankings put the passage first.
    """
    from samvad.knowledge.engine import hit

    count = max(CANDIDATES, limit)
    by_words = engine.find(query, scopes, condition, count)
    indexes = engine._indexes(scopes)
    near = meaning.nearest(vector, indexes, condition, count)
    if not near:
        return [hit(one) for one in by_words[:limit]]
    shares: dict[tuple[Scope, str, int], float] = {}
    places: dict[tuple[Scope, str, int], Found | Near] = {}
    for rank, by_meaning in enumerate(near, 1):
        place = (by_meaning.scope, by_meaning.document_id, by_meaning.start)
        shares[place] = 1 / (RANK_CONSTANT + rank)
        places[place] = by_meaning
    for rank, by_word in enumerate(by_words, 1):
        place = (by_word.scope, by_word.document.id, by_word.row.start)
        shares[place] = shares.get(place, 0.0) + 1 / (RANK_CONSTANT + rank)
        places[place] = by_word
    best = 2 / (RANK_CONSTANT + 1)
    hits: list[Hit] = []
    by_scope = dict(indexes)
    for place in sorted(shares, key=lambda each: (-shares[each], each[1], each[2])):
        one = places[place]
        found = _hit(by_scope[place[0]], one) if isinstance(one, Near) else hit(one)
        if found is not None:
            hits.append(_scored(found, shares[place] / best))
        if len(hits) == limit:
            break
    return hits


def _hit(index: ScopeIndex, near: Near) -> Hit | None:
    """A passage as callers see it; None where it is not in the index as it was embedded."""
    from samvad.knowledge.records import PassageFound

    condition = "document = (SELECT no FROM documents WHERE id = ?) AND start = ?"
    for row in index.rows(condition, (near.document_id, near.start)):
        passage = PassageFound(text=row.text, start=row.start, end=row.end, headings=row.headings)
        return Hit(doc=index.document(row.document), score=0.0, passage=passage)
    return None


def _scored(found: Hit, score: float) -> Hit:
    return Hit(doc=found.doc, score=round(min(score, 1.0), 4), passage=found.passage)
