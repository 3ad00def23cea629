"""How well a passage answers a query: pure functions over terms and their rarity.

The weights were chosen on the first half of XQuAD's articles (see benchmarks/knowledge.py) and reported on the
second.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from samvad.knowledge.romanised import sound_key
from samvad.knowledge.words import Word, plain_words, term_of, terms, words

K1: Final = 1.1
B: Final = 0.55
TITLE_WEIGHT: Final = 1.0
HEADINGS_WEIGHT: Final = 1.0
SOUND_WEIGHT: Final = 0.7
PAIR_WEIGHT: Final = 0.35
COVERAGE_POWER: Final = 0.5


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
    sounds = [
        key for word in plain_words(text) if not word.isascii() and term_of(word) and (key := sound_key(word))
    ]
    if title and not title.isascii():
        sounds += [key for word in plain_words(title) if not word.isascii() and (key := sound_key(word))]
    return Fields(terms(title), terms(" ".join(headings)), terms(text), sounds)


class Prepared(NamedTuple):
    """A passage made ready for ranking: its words with their places, and the terms of its other fields."""

    words: list[Word]
    body: list[str]
    title: frozenset[str]
    headings: frozenset[str]
    sounds: frozenset[str]


class QueryTerm(NamedTuple):
    """A term of a query: the terms that count as it, each with its share (1.0: the same), and its rarity."""

    term: str
    variants: dict[str, float]
    idf: float


def prepare(title: str, headings: Sequence[str], text: str, *, sounds: bool) -> Prepared:
    """Make a passage ready for ranking."""
    found = words(text)
    return Prepared(
        found,
        [word.term for word in found if word.term],
        frozenset(terms(title)),
        frozenset(terms(" ".join(headings))),
        frozenset(
            key
            for word in (*plain_words(text), *plain_words(title))
            if not word.isascii() and (key := sound_key(word))
        )
        if sounds
        else frozenset(),
    )


def rarity(frequency: int, passages: int) -> float:
    """BM25's inverse document frequency, never negative (Robertson and Zaragoza 2009, in Lucene's form)."""
    return math.log(1.0 + (passages - frequency + 0.5) / (frequency + 0.5))


def score(query: Sequence[QueryTerm], passage: Prepared, average_terms: float) -> float:
    """The rank of a passage: BM25 over its fields, pairs of neighbouring words, and how much is covered."""
    body = passage.body
    length = K1 * (1 - B + B * len(body) / max(1.0, average_terms))
    counts: dict[str, int] = {}
    for term in body:
        counts[term] = counts.get(term, 0) + 1
    total = covered = whole = 0.0
    for one in query:
        tf = 0.0
        for variant, share in one.variants.items():
            tf += share * (
                counts.get(variant, 0)
                + TITLE_WEIGHT * (variant in passage.title)
                + HEADINGS_WEIGHT * (variant in passage.headings)
                + (variant in passage.sounds)
            )
        whole += one.idf
        if tf:
            total += one.idf * tf * (K1 + 1) / (tf + length)
            covered += one.idf * min(1.0, max((share for v, share in one.variants.items()), default=1.0))
    if not whole:
        return 0.0
    total += PAIR_WEIGHT * pairs(query, body)
    return total * math.pow(covered / whole, COVERAGE_POWER)


def ideal(query: Sequence[QueryTerm]) -> float:
    """The score that no passage can exceed: every term said over and over, in the order of the query."""
    most = sum(one.idf for one in query) * (K1 + 1)
    return most + PAIR_WEIGHT * sum(min(first.idf, second.idf) for first, second in itertools.pairwise(query))


def pairs(query: Sequence[QueryTerm], body: Sequence[str]) -> float:
    """The rarity of neighbouring query terms that are neighbours in the text as well."""
    if len(query) < 2:
        return 0.0
    wanted = [(first, second, min(first.idf, second.idf)) for first, second in itertools.pairwise(query)]
    places: dict[str, list[int]] = {}
    for at, term in enumerate(body):
        places.setdefault(term, []).append(at)
    total = 0.0
    for first, second, idf in wanted:
        ones = [at for variant in first.variants for at in places.get(variant, ())]
        others = {at for variant in second.variants for at in places.get(variant, ())}
        if any(at + 1 in others or at + 2 in others or at - 1 in others for at in ones):
            total += idf
    return total
