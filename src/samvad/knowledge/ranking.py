"""How well a passage answers a query: pure functions over words and their rarity.

Two steps. BM25 over the terms (`first_score`) picks some dozens of passages; `rank` orders these by what costs more
to know: how much of the query stands in one sentence, or two that follow each other, and how much of it is there in
pieces of words (sequences of four letters, which find inflected, compounded and misspelt words). The weights were
chosen on the first half of XQuAD's articles and reported on the second.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from samvad.knowledge.romanised import sound_key
from samvad.knowledge.standing_aside import stand_aside
from samvad.knowledge.words import KEPT_WORDS, plain_words, raw_words, term_of, terms

K1: Final = 1.1
B: Final = 0.55
TITLE_WEIGHT: Final = 1.0
HEADINGS_WEIGHT: Final = 1.0
COVERED: Final = 1.0
SENTENCE: Final = 3.5
TWO_SENTENCES: Final = 3.3
PIECES: Final = 4.0
PIECE_CHARS: Final = 4
_PIECE_K1: Final = 1.2
_PIECE_B: Final = 0.7
MOST: Final = (K1 + 1) + COVERED + SENTENCE + TWO_SENTENCES + PIECES * (_PIECE_K1 + 1)


class Fields(NamedTuple):
    """The terms of a passage as FTS5 takes them, with spaces between; of the body, a sentence a line."""

    title: str
    headings: str
    body: str
    sound: str


def field_terms(
    title: str, headings: Sequence[str], text: str, places: Sequence[tuple[int, int]]
) -> tuple[Fields, int]:
    """What is indexed of a passage with its sentences, and how many terms the body has."""
    sounds: list[str] = []
    lines = []
    length = 0
    for start, end in places:
        raw = raw_words(text[start:end])
        found = list(filter(None, map(term_of, raw)))
        length += len(found)
        lines.append(" ".join(found))
        sounds += filter(None, map(_key, raw))
    if not title.isascii():
        sounds += _sounds(raw_words(title))
    above = " ".join(terms(" ".join(headings))) if headings else ""
    return Fields(" ".join(terms(title)), above, "\n".join(lines), " ".join(sounds)), length


def _sounds(raw: Sequence[str]) -> list[str]:
    return list(filter(None, map(_key, raw)))


@functools.lru_cache(maxsize=KEPT_WORDS)
def _key(word: str) -> str:
    """How a word sounds, where it is one in another script than Latin and says something."""
    return "" if word.isascii() or not term_of(word) else sound_key(word)


class Sentence(NamedTuple):
    """A sentence of a passage: its place in the passage's text, and its terms."""

    start: int
    end: int
    terms: frozenset[str]


class Prepared:
    """A passage made ready for ranking, out of its text, its sentences' places, and the terms that were indexed.

    With `sounds` its words are found by how they sound as well. What only `rank` asks for is made when it asks.
    """

    def __init__(
        self,
        title: str,
        headings: Sequence[str],
        text: str,
        places: Sequence[tuple[int, int]],
        body: str,
        *,
        sounds: bool,
    ) -> None:
        found = body.split()
        self.length = len(found)
        self._text = " ".join((text, title, *headings))
        self._body = body
        self._places = places
        self._heard = sounds
        self._keys: list[list[str]] = []  # of each sentence; text in ASCII has none
        if sounds and not text.isascii():
            self._keys = [_sounds(raw_words(text[start:end])) for start, end in places]
        for keys in self._keys:
            found += keys
        self.counts = Counter(found)  # how often each term stands in the text
        self.title = frozenset((*terms(title), *(_sounds(raw_words(title)) if sounds else ())))
        self.headings = frozenset(terms(" ".join(headings))) if headings else frozenset[str]()

    @functools.cached_property
    def sentences(self) -> tuple[Sentence, ...]:
        """The sentences, with their terms."""
        lines = [line.split() for line in self._body.split("\n")]
        for line, keys in zip(lines, self._keys, strict=False):
            line += keys
        return tuple(
            Sentence(start, end, frozenset(line))
            for (start, end), line in zip(self._places, lines, strict=True)
        )

    @functools.cached_property
    def plain(self) -> str:
        """The words of text, title and headings as `piece_words` gives them, each between two underscores."""
        return "_" + "_".join(piece_words(self._text, sounds=self._heard)) + "_"


class QueryTerm(NamedTuple):
    """A term of a query: the terms that count as it, each with its share (1.0: the same), and its rarity."""

    term: str
    variants: dict[str, float]
    idf: float


def rarity(frequency: int, passages: int) -> float:
    """BM25's inverse document frequency, never negative (Robertson and Zaragoza 2009, in Lucene's form)."""
    return math.log(1.0 + (passages - frequency + 0.5) / (frequency + 0.5))


def first_score(query: Sequence[QueryTerm], passage: Prepared, average_terms: float) -> tuple[float, float]:
    """BM25 over the fields, and the share of the query that is there, both in shares of the query's rarity."""
    length = K1 * (1 - B + B * passage.length / max(1.0, average_terms))
    total = covered = whole = 0.0
    for one in query:
        whole += one.idf
        tf = best = 0.0
        for variant, share in one.variants.items():
            count = (
                passage.counts.get(variant, 0)
                + TITLE_WEIGHT * (variant in passage.title)
                + HEADINGS_WEIGHT * (variant in passage.headings)
            )
            if count:
                tf += share * count
                best = max(best, share)
        if tf:
            total += one.idf * tf * (K1 + 1) / (tf + length)
            covered += one.idf * best
    return (total / whole, covered / whole) if whole else (0.0, 0.0)


class Weights:
    """The query's terms by what counts as them, to be added up over many sentences."""

    def __init__(self, query: Sequence[QueryTerm]) -> None:
        self._worth: dict[str, float] = {}  # of a term or variant: its share of its query term's rarity
        self._of: dict[str, int] = {}
        for number, one in enumerate(query):
            for variant, share in one.variants.items():
                if share * one.idf > self._worth.get(variant, -1.0):
                    self._worth[variant] = share * one.idf
                    self._of[variant] = number
        self._keys = frozenset(self._worth)
        self._single = len(self._keys) == len(query)

    def held(self, there: frozenset[str]) -> float:
        """The rarity of the query's terms that stand among these."""
        common = self._keys & there
        if not common:
            return 0.0
        worth = self._worth
        if self._single or len(common) == 1:
            return sum([worth[term] for term in common])
        best: dict[int, float] = {}
        for term in common:
            number = self._of[term]
            best[number] = max(best.get(number, 0.0), worth[term])
        return sum(best.values())


def rank(
    wanted: Sequence[str], query: Sequence[QueryTerm], passages: Sequence[Prepared], average: float
) -> list[float]:
    """The rank of each passage, 0 to 1: what the query shares with the passage, its sentences, and in pieces."""
    whole = sum(one.idf for one in query) or 1.0
    pieces = piece_scores(wanted, passages)
    weights = Weights(query)
    found = []
    for passage, in_pieces in zip(passages, pieces, strict=True):
        stand_aside()
        bm25, covered = first_score(query, passage, average)
        one = two = 0.0
        before: frozenset[str] = frozenset()
        for sentence in passage.sentences:
            alone = weights.held(sentence.terms)
            if alone > one:
                one = alone
            together = weights.held(sentence.terms | before)
            if together > two:
                two = together
            before = sentence.terms
        total = bm25 + COVERED * covered + PIECES * in_pieces
        total += (SENTENCE * one + TWO_SENTENCES * two) / whole
        found.append(min(1.0, total / MOST))
    return found


def piece_words(text: str, *, sounds: bool) -> list[str]:
    """The words whose pieces are compared: normalised, or with `sounds` as they sound, whatever their script."""
    words = plain_words(text)
    return [sound_key(word)[1:] or word for word in words] if sounds else words


def query_pieces(text: str, *, sounds: bool) -> list[str]:
    """The pieces of a query's words."""
    found: dict[str, None] = {}
    for word in piece_words(text, sounds=sounds):
        word = f"_{word}_"
        for at in range(max(1, len(word) - PIECE_CHARS + 1)):
            found[word[at : at + PIECE_CHARS]] = None
    return list(found)


def piece_scores(wanted: Sequence[str], passages: Sequence[Prepared]) -> list[float]:
    """BM25 over pieces of words, among these passages alone, in shares of the query's rarity."""
    counts = []
    for passage in passages:
        stand_aside()
        counts.append([passage.plain.count(piece) for piece in wanted])
    number = len(passages)
    idf = []
    for at in range(len(wanted)):
        frequency = sum(1 for row in counts if row[at])
        idf.append(rarity(frequency, number) if frequency else 0.0)
    whole = sum(idf) or 1.0
    average = sum(len(passage.plain) for passage in passages) / number if number else 1.0
    scores = []
    for passage, row in zip(passages, counts, strict=True):
        length = _PIECE_K1 * (1 - _PIECE_B + _PIECE_B * len(passage.plain) / average)
        total = sum(
            rare * count * (_PIECE_K1 + 1) / (count + length)
            for rare, count in zip(idf, row, strict=True)
            if count
        )
        scores.append(total / whole)
    return scores
