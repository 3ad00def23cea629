"""Plain documents as a small knowledge base: a folder of text and Markdown, read at the start, quoted word for word.

Passages are ranked by BM25 (Robertson and Zaragoza 2009) over stemmed words; an answer is the sentences of the best
passage that hold words of the question.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from samvad.errors import SetupError
from samvad.live.providers.extractive import Citation, Extract
from samvad.live.topic import LITTLE_WORDS

_SUFFIXES: Final = frozenset({".txt", ".md", ".markdown"})
_FILES_MAX: Final = 1_000
_FILE_BYTES_MAX: Final = 4 * 1024 * 1024
_PASSAGE_CHARS: Final = 900
_ANSWER_SENTENCES_MAX: Final = 4
_SHARE_MIN: Final = 0.5  # of the question's words that a passage must hold
_K1, _B = 1.2, 0.75
_WORD: Final = re.compile(r"[^\W_](?:[\w\u0300-\u036f\u0900-\u0963\u0966-\u0dff\u200c\u200d]*)")
_SENTENCE: Final = re.compile(r"[^.!?।॥\n]+(?:[.!?](?=\d)[^.!?।॥\n]*)*[.!?।॥]*")
_HEADING: Final = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


class _Passage(NamedTuple):
    title: str
    document_id: str
    start: int
    text: str
    terms: Counter[str]
    length: int


class Documents:
    """Documents in memory. `texts` are (id, title, text)."""

    def __init__(self, texts: Iterable[tuple[str, str, str]]) -> None:
        self._titles: list[str] = []
        self._passages: list[_Passage] = []
        self._having: Counter[str] = Counter()
        for document_id, title, text in texts:
            self._titles.append(title)
            for start, piece in _pieces(text):
                terms = Counter(_terms(f"{title} {piece}"))
                self._passages.append(
                    _Passage(title, document_id, start, piece, terms, max(sum(terms.values()), 1))
                )
                self._having.update(terms.keys())
        lengths = [passage.length for passage in self._passages]
        self._mean_length = sum(lengths) / len(lengths) if lengths else 1.0

    async def titles(self, *, tenant: str, user_id: str) -> Sequence[str]:
        """What the documents are called."""
        return self._titles

    async def extract(self, query: str, *, tenant: str, user_id: str, language: str | None) -> Extract | None:
        """The sentences of the best passage that answer a question; None where none holds half of its words."""
        wanted = set(_terms(query))
        if not wanted:
            return None
        scored = [(self._score(passage, wanted), passage) for passage in self._passages]
        score, best = max(scored, key=lambda pair: pair[0], default=(0.0, None))
        if best is None or score <= 0 or sum([t in best.terms for t in wanted]) < _SHARE_MIN * len(wanted):
            return None
        return _answer(best, wanted)

    def _score(self, passage: _Passage, wanted: set[str]) -> float:
        score, count = 0.0, len(self._passages)
        for term in wanted:
            frequency = passage.terms[term]
            if frequency:
                having = self._having[term]
                rarity = math.log(1 + (count - having + 0.5) / (having + 0.5))
                norm = _K1 * (1 - _B + _B * passage.length / self._mean_length)
                score += rarity * frequency * (_K1 + 1) / (frequency + norm)
        return score


def _answer(passage: _Passage, wanted: set[str]) -> Extract | None:
    found = [
        match
        for match in _SENTENCE.finditer(passage.text)
        if match.group().strip(" *-\t") and not match.group().startswith("#")
    ]
    if not found:
        return None
    hits = [sum([term in wanted for term in _terms(match.group())]) for match in found]
    if not any(hits):
        first = 0
    else:
        first = max(range(len(found)), key=lambda at: hits[at])
    chosen = found[first : first + _ANSWER_SENTENCES_MAX]
    start, end = chosen[0].start(), chosen[-1].end()
    text = " ".join([" ".join(match.group().split()) for match in chosen])
    return Extract(
        text, [Citation(passage.title, passage.document_id, passage.start + start, passage.start + end)]
    )


def _pieces(text: str) -> Iterable[tuple[int, str]]:
    """The passages of a text, at empty lines: (where it starts, text)."""
    start = 0
    while start < len(text):
        end = min(start + _PASSAGE_CHARS, len(text))
        if end < len(text):
            at = max(text.rfind("\n\n", start + 1, end), text.rfind("\n#", start + 1, end))
            if at <= start:
                at = max(text.rfind(mark, start + 1, end) + 1 for mark in (". ", "। ", "\n", " "))
            end = at if at > start else end
        if text[start:end].strip():
            yield start, text[start:end]
        start = end


_stemmers: dict[str, Any] = {}


def _terms(text: str) -> list[str]:
    if not _stemmers:
        import snowballstemmer

        _stemmers["en"] = snowballstemmer.stemmer("english")
        _stemmers["hi"] = snowballstemmer.stemmer("hindi")
    words = [match.group().casefold() for match in _WORD.finditer(text)]
    kept = [word for word in words if word not in LITTLE_WORDS]
    return [_stemmers["en" if word.isascii() else "hi"].stemWord(word) for word in kept]


def read_folder(folder: Path) -> Documents:
    """The text and Markdown files of a folder and those below it. SetupError where it cannot be read."""
    if not folder.is_dir():
        raise SetupError(f"{folder} is not a folder of documents.")
    texts = []
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if len(files) > _FILES_MAX:
        raise SetupError(f"{folder} holds more than {_FILES_MAX} documents.")
    for path in files:
        try:
            if path.stat().st_size > _FILE_BYTES_MAX:
                raise SetupError(f"{path} is larger than {_FILE_BYTES_MAX} bytes.")
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise SetupError(f"Cannot read {path}: {error.strerror}.") from error
        except UnicodeDecodeError:
            raise SetupError(f"{path} is not UTF-8 text.") from None
        heading = _HEADING.search(text) if path.suffix.lower() != ".txt" else None
        title = heading.group(1) if heading else path.stem.replace("_", " ").replace("-", " ")
        texts.append((path.relative_to(folder).as_posix(), title, text))
    return Documents(texts)
