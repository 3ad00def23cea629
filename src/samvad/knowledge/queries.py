"""A query taken apart: which terms to look for, what may stand in their place, and how rare each is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from samvad.knowledge.lexicon import translations
from samvad.knowledge.ranking import QueryTerm, rarity
from samvad.knowledge.romanised import is_function_word, looks_romanised, sound_key
from samvad.knowledge.words import all_terms, plain_words, term_of

QUERY_TERMS_MAX: Final = 64
_SPELLINGS_MAX: Final = 3
_SPELLING_CHARS_MIN: Final = 4
COMMON_SHARE: Final = 0.5  # of the passages: a word in more of them tells nothing
TOGETHER_MAX: Final = 5
SOUND_SHARE: Final = 0.8
SPELLING_SHARE: Final = 0.6


class Vocabulary(Protocol):
    """What is known of the words that may be found."""

    def frequency(self, term: str) -> int:
        """In how many passages a term stands."""
        ...

    def spellings(self, term: str, prefix_chars: int) -> list[tuple[str, int]]:
        """Terms that begin as this one does, and in how many passages each stands."""
        ...

    def size(self) -> tuple[int, int]:
        """How many passages there are, and how many words in them."""
        ...


class Plan(NamedTuple):
    """How to gather candidates: passages with any of these terms, and those that hold several words at once.

    `together` is tried in turn, until enough was found: each is a conjunction of words, each word any of its variants.
    `above` are terms too common to weigh all that holds them: looked for in titles and headings first.
    """

    any_of: list[str]
    together: list[list[list[str]]]
    above: list[str]


class Query(NamedTuple):
    """A query ready to be looked for."""

    text: str
    terms: tuple[QueryTerm, ...]
    sounds: bool  # whether words are also to be looked for by their sound

    def plan(self, vocabulary: Vocabulary, rows_max: int) -> Plan:
        """What to look up: the rarest terms, while they name no more rows than `rows_max`.

        Common words tell little one by one, and looking them up costs the most. What they tell together is asked for
        as conjunctions, of many words first.
        """
        found: list[tuple[int, str]] = []
        words: list[tuple[int, list[str]]] = []
        for one in self.terms:
            there = [(frequency, v) for v in one.variants if (frequency := vocabulary.frequency(v))]
            if there:
                found += there
                words.append((sum(frequency for frequency, _ in there), [v for _, v in there]))
        found.sort()
        chosen: list[str] = []
        rows = 0
        for frequency, term in found:
            if chosen and rows + frequency > rows_max:
                break
            chosen.append(term)
            rows += frequency
        words.sort()
        above = words[0][1] if words and words[0][0] > rows_max else []
        if len(chosen) == len(found):
            return Plan(chosen, [], above)
        passages, _ = vocabulary.size()
        telling = [variants for frequency, variants in words if frequency < COMMON_SHARE * passages]
        most = min(TOGETHER_MAX, len(telling))
        return Plan(chosen, [telling[:number] for number in range(most, 1, -1)], above)


def parse(text: str, vocabulary: Vocabulary) -> Query:
    """Take a query apart for the words that there are."""
    words = plain_words(text)
    romanised = looks_romanised(words) or _are_heard(words, vocabulary)
    sounds = False
    passages, _ = vocabulary.size()
    found: dict[str, QueryTerm] = {}
    by_term = {term_of(word): word for word in words}
    for term in all_terms(text)[:QUERY_TERMS_MAX]:
        if term in found:
            continue
        word = by_term.get(term, term)
        variants = {term: 1.0}
        frequency = vocabulary.frequency(term)
        latin = word.isascii() and word.isalpha()
        if latin and romanised and is_function_word(word):
            continue
        key = sound_key(word) if latin and (romanised or not frequency) else ""
        if key and (count := vocabulary.frequency(key)):
            variants[key] = SOUND_SHARE
            frequency += count
            sounds = True
        if latin and romanised:
            for other, share in translations(word).items():
                if other not in variants and (count := vocabulary.frequency(other)):
                    variants[other] = share
                    frequency += count
        if not frequency and len(term) >= _SPELLING_CHARS_MIN:
            for other, count in _near(term, vocabulary.spellings(term, 2 if len(term) < 5 else 3)):
                variants[other] = SPELLING_SHARE
                frequency += count
        found[term] = QueryTerm(term, variants, rarity(min(frequency, passages), passages))
    return Query(text, tuple(found.values()), sounds)


def _are_heard(words: Sequence[str], vocabulary: Vocabulary) -> bool:
    """Whether half of the words, in Latin letters, stand nowhere as they are written but somewhere as they sound."""
    telling = [word for word in words if term_of(word)]
    heard = [
        word
        for word in telling
        if word.isascii()
        and word.isalpha()
        and not vocabulary.frequency(term_of(word))
        and (key := sound_key(word))
        and vocabulary.frequency(key)
    ]
    return 2 * len(heard) >= max(1, len(telling))


def _near(term: str, spellings: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Those of the spellings that may be the same word mistyped: one edit, or two in a long word; nearest first."""
    allowed = 1 if len(term) < 8 else 2
    letters = set(term)
    near = [
        (edits, -count, other)
        for other, count in spellings
        if abs(len(other) - len(term)) <= allowed
        and len(letters.symmetric_difference(other)) <= 2 * allowed  # more than that many edits can change
        and (edits := _edits(term, other, allowed)) <= allowed
    ]
    near.sort()
    return [(other, -count) for _, count, other in near[:_SPELLINGS_MAX]]


def _edits(one: str, other: str, most: int) -> int:
    """The Damerau-Levenshtein distance (optimal string alignment), or more than `most` where it is larger."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        following = [i]
        for j, b in enumerate(other, 1):
            cost = min(row[j] + 1, following[-1] + 1, row[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            following.append(cost)
        if min(following) > most:
            return most + 1
        before, row = row, following
    return row[-1]
