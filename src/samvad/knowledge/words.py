"""From text to terms: the same for what is indexed and for what is asked.

A word is a run of letters, digits and marks, so that a Devanagari syllable is never taken apart at its vowel
sign. Normalising removes what is written in several ways for the same word: compatibility forms (NFKC), case,
joiners (क्‍ष), nukta (ज़/ज), chandrabindu (हाँ/हां), a nasal consonant where an anusvara may stand (हिन्दी/हिंदी), and
which digits are used. Then words are reduced to stems (Snowball) and the commonest are left out.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any, Final, NamedTuple

from samvad.knowledge.stopwords import STOP_WORDS

# Letters and digits, the marks of the scripts in use (whole Brahmic blocks but for the dandas U+0964 and U+0965), and
# the joiners, which stand within words. \w holds _ as well, which is taken out of the text before.
_WORD: Final = re.compile(
    r"[\w\u0300-\u036f\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
    r"\u0e00-\u0eff\u1000-\u109f\u200c\u200d]+"
)
_EAST_ASIAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_DEVANAGARI = re.compile(r"[\u0900-\u097f]")
_DROPPED = dict.fromkeys(map(ord, "\u200c\u200d\u00ad\u093c\u09bc\u0a3c\u0abc\u0b3c"))
_TABLE: Final = {
    **_DROPPED,
    0x0901: "\u0902",  # chandrabindu: anusvara
    **{0x0966 + digit: str(digit) for digit in range(10)},
}
# A nasal consonant before a stop of its own place of articulation may as well be written as anusvara; न is also written
# before those of other places and before sibilants (डेन्गू, पेन्शन).
_NASALS: Final = re.compile(r"ङ्(?=[क-घ])|ञ्(?=[च-झ])|ण्(?=[ट-ढ])|न्(?=[क-घच-झट-ढत-धप-भश-स])|म्(?=[प-भ])")
_OTHER_DIGITS = re.compile(r"[^\D0-9]")
KEPT_WORDS: Final = 50_000  # by each of the caches: some 15 MB
WORD_CHARS_MAX: Final = 64


class Word(NamedTuple):
    """One word of a text: its term (empty for a stop word) and where it stands in the text as it was given."""

    term: str
    start: int
    end: int


@functools.lru_cache(maxsize=KEPT_WORDS)
def normalise(word: str) -> str:
    """One spelling for all ways of writing a word (idempotent)."""
    if word.isascii():
        return word.lower()
    text = unicodedata.normalize("NFKC", word).lower().translate(_TABLE)
    text = _NASALS.sub("\u0902", text)
    if _OTHER_DIGITS.search(text):
        text = "".join(
            str(unicodedata.digit(c)) if not c.isascii() and unicodedata.category(c) == "Nd" else c
            for c in text
        )
    # Accents of Latin, Greek and Cyrillic letters do not tell words apart for those who ask.
    if not _DEVANAGARI.search(text):
        text = "".join(c for c in unicodedata.normalize("NFD", text) if not "\u0300" <= c <= "\u036f")
        text = unicodedata.normalize("NFC", text)
    return text


@functools.cache
def _stemmer(language: str) -> Any:
    if language == "hindi":
        from snowballstemmer.hindi_stemmer import HindiStemmer as Stemmer
    else:
        from snowballstemmer.english_stemmer import EnglishStemmer as Stemmer
    return Stemmer()


@functools.lru_cache(maxsize=KEPT_WORDS)
def term_of(word: str) -> str:
    """The term under which a word is found: normalised and stemmed; empty for a stop word."""
    text = normalise(word)
    if not text or text in STOP_WORDS:
        return ""
    return stem(text[:WORD_CHARS_MAX])


def stem(text: str) -> str:
    """The stem of a normalised word, by its script: Hindi for Devanagari, English for plain Latin."""
    if text.isascii():
        if text.isalpha() and len(text) > 2:
            return str(_stemmer("english").stemWord(text)) or text
        return text
    if len(text) > 2 and _DEVANAGARI.search(text):
        stemmed = str(_stemmer("hindi").stemWord(text))
        if len(stemmed) > 3 and stemmed[-1] in "ाेो":  # Snowball keeps it in short words: गाना, गाने, but गानों
            stemmed = stemmed[:-1]
        return stemmed if len(stemmed) > 1 else text
    return text


def raw_words(text: str) -> list[str]:
    """The words of a text as they stand there, in their order; of scripts without spaces, each letter."""
    found = _WORD.findall(text.replace("_", " "))
    if text.isascii() or not _EAST_ASIAN.search(text):
        return found
    split: list[str] = []
    for word in found:
        split += word if _EAST_ASIAN.search(word) else (word,)
    return split


def words(text: str) -> list[Word]:
    """All words of a text, with their places in it."""
    found = []
    at = 0
    for word in raw_words(text):
        at = text.index(word, at)
        found.append(Word(term_of(word), at, at + len(word)))
        at += len(word)
    return found


def terms(text: str) -> list[str]:
    """The terms of a text in their order, without stop words."""
    return list(filter(None, map(term_of, raw_words(text))))


def all_terms(text: str) -> list[str]:
    """As `terms`, with stop words as they are where nothing else is left: one may ask for those too."""
    return terms(text) or [stem(word) for word in plain_words(text)]


def plain_words(text: str) -> list[str]:
    """The words of a text, normalised but not stemmed, stop words included."""
    return list(filter(None, map(normalise, raw_words(text))))
