"""Documents into passages: by heading, then 800 to 1,200 characters, at the ends of sentences.

Every passage is one piece of the document as it stands there, so that a citation can be shown in place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from samvad.knowledge.records import HeadingAt
from samvad.knowledge.sentences import sentences

CHARS_MIN: Final = 800
CHARS_MAX: Final = 1_200
OVERLAP_CHARS_MAX: Final = 240
_MARKDOWN_HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t#]*$", re.MULTILINE)
_SPACE = re.compile(r"\s")


class Passage(NamedTuple):
    """A piece of a document: `text[start:end]` under `headings` (outermost first), and where its sentences stand."""

    start: int
    end: int
    headings: tuple[str, ...]
    sentences: tuple[tuple[int, int], ...]


def markdown_headings(text: str) -> list[HeadingAt]:
    """The headings of a text that marks them as Markdown does (`## So`)."""
    return [
        HeadingAt(match.start(), match.end(), len(match.group(1)), match.group(2))
        for match in _MARKDOWN_HEADING.finditer(text)
    ]


def passages(text: str, headings: Sequence[HeadingAt] = ()) -> list[Passage]:
    """The passages of a document in their order; together they hold every sentence of it."""
    found: list[Passage] = []
    for start, end, above in _sections(text, headings):
        found += [
            Passage(units[0][0], units[-1][1], above, tuple(units)) for units in _pieces(text, start, end)
        ]
    return found


def _sections(text: str, headings: Sequence[HeadingAt]) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    above: list[tuple[int, str]] = []
    begun = 0
    for heading in headings:
        yield begun, heading.start, tuple(title for _, title in above)
        above = [(level, title) for level, title in above if level < heading.level]
        above.append((heading.level, heading.text))
        begun = heading.end
    yield begun, len(text), tuple(title for _, title in above)


def _pieces(text: str, start: int, end: int) -> Iterator[list[tuple[int, int]]]:
    """A section as pieces of whole sentences, each beginning with the last sentence of the one before."""
    units = [unit for sentence in sentences(text, start, end) for unit in _bounded(text, *sentence)]
    if not units:
        return
    if units[-1][1] - units[0][0] <= CHARS_MAX:
        yield units
        return
    first = 0
    while True:
        last = first
        while last + 1 < len(units) and units[last + 1][1] - units[first][0] <= CHARS_MAX:
            last += 1
            rest = units[-1][1] - units[last][0]
            full = units[last][1] - units[first][0] >= CHARS_MIN
            # A paragraph's end is a better place than the next sentence's.
            if full and rest > CHARS_MIN and "\n\n" in text[units[last][1] : units[last + 1][0]]:
                break
        yield units[first : last + 1]
        if last + 1 >= len(units):
            return
        following = last + 1
        # Overlap: the sentence before, if it is short, so that "it" and "there" still say what they mean.
        if last > first and units[last][1] - units[last][0] <= OVERLAP_CHARS_MAX:
            following = last
        first = following


def _bounded(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """A sentence, in several parts where it is longer than a passage may be (cut at white space)."""
    while end - start > CHARS_MAX:
        cut = start + CHARS_MAX
        for match in _SPACE.finditer(text, start + CHARS_MIN, cut):
            cut = match.start()
        # Never within a syllable: a mark or a joiner stays with the letter in front of it.
        while cut < end and not text[cut].isspace() and not text[cut].isalnum() and cut > start + CHARS_MIN:
            cut -= 1
        yield start, cut
        start = cut
        while start < end and text[start].isspace():
            start += 1
    if end > start:
        yield start, end
