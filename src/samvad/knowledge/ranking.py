"""How well a passage answers a query: pure functions over words and their rarity.

Two steps. BM25 over the terms (`first_score`) picks some dozens of passages; `rank` orders these by what costs more
to know: how much of the query stands in one sentence, or two that follow each other, and how much of it is there in
pieces of words (sequences of four letters, which find inflected, compounded and misspelt words). The weights were
chosen on the first half of XQuAD's articles and reported on the second.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from samvad.knowledge.romanised import sound_key
from samvad.knowledge.sentences import sentences
from samvad.knowledge.words import plain_words, term_of, terms, words

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
    """The terms of a passage, field by field."""

    title: list[str]
    headings: list[str]
    body: list[str]
    sound: list[str]

    def columns(self) -> tuple[str, str, str, str]:
        """As FTS5 takes them."""
        return " ".join(self.title), " ".join(self.headings), " ".join(self.body), " ".join(self.sound)


def field_terms(title: str, headings: Sequence[str], text: str) -> Fields:
    """What is indexed of a passage."""
    sounds = [] if text.isascii() else _sounds(text)
    if not title.isascii():
        sounds += _sounds(title)
    return Fields(terms(title), terms(" ".join(headings)), terms(text), sounds)


def _sounds(text: str) -> list[str]:
    return [
        key for word in plain_words(text) if not word.isascii() and term_of(word) and (key := sound_key(word))
    ]


class Sentence(NamedTuple):
    """A sentence of a passage: its place in the passage's text, and its terms."""

    start: int
    end: int
    terms: frozenset[str]


class Prepared(NamedTuple):
    """A passage made ready for ranking."""

    counts: Counter[str]  # how often each term stands in the text
    length: int  # terms
    title: frozenset[str]
    headings: frozenset[str]
    sentences: tuple[Sentence, ...]
    plain: str  # the normalised words, each between two underscores


class QueryTerm(NamedTuple):
    """A term of a query: the terms that count as it, each with its share (1.0: the same), and its rarity."""

    term: str
    variants: dict[str, float]
    idf: float


def prepare(title: str, headings: Sequence[str], text: str, *, sounds: bool) -> Prepared:
    """Make a passage ready for ranking; with `sounds` its words are found by their sound as well."""
    found = words(text)
    counts = Counter(word.term for word in found if word.term)
    length = sum(counts.values())
    parts = []
    at = 0
    for start, end in sentences(text):
        held = set()
        while at < len(found) and found[at].start < end:
            word = found[at]
            if word.term:
                held.add(word.term)
                if sounds and (key := _key(text[word.start : word.end])):
                    held.add(key)
                    counts[key] += 1
            at += 1
        parts.append(Sentence(start, end, frozenset(held)))
    above = " ".join((title, *headings))
    return Prepared(
        counts,
        length,
        frozenset((*terms(title), *(_sounds(title) if sounds else ()))),
        frozenset(terms(" ".join(headings))),
        tuple(parts),
        "_" + "_".join((*plain_words(text), *plain_words(above))) + "_",
    )


def _key(word: str) -> str:
    return "" if word.isascii() else sound_key(word)


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


def rank(text: str, query: Sequence[QueryTerm], passages: Sequence[Prepared], average: float) -> list[float]:
    """The rank of each passage, 0 to 1: what the query shares with the passage, its sentences, and in pieces."""
    whole = sum(one.idf for one in query) or 1.0
    pieces = piece_scores(text, passages)
    weights = Weights(query)
    found = []
    for passage, in_pieces in zip(passages, pieces, strict=True):
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


def query_pieces(text: str) -> list[str]:
    """The pieces of a query's words."""
    found: dict[str, None] = {}
    for word in plain_words(text):
        word = f"_{word}_"
        for at in range(max(1, len(word) - PIECE_CHARS + 1)):
            found[word[at : at + PIECE_CHARS]] = None
    return list(found)


def piece_scores(text: str, passages: Sequence[Prepared]) -> list[float]:
    """BM25 over pieces of words, among these passages alone, in shares of the query's rarity."""
    wanted = query_pieces(text)
    counts = [[passage.plain.count(piece) for piece in wanted] for passage in passages]
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
