"""Where sentences end: at `. ? ! ।` and at empty lines, but not within abbreviations, decimals and quotes."""

from __future__ import annotations

import re
from typing import Final

# It begins with one class of characters, so that a text is scanned for these fast.
_END: Final = re.compile(
    r"[.?!।॥؟。！？\n]"
    r"(?:(?<=\n)(?:[ \t]*\n)+|(?<=\n)(?=\s*(?:[-*•]|\d+[.)])\s)"
    r"|(?<!\n)[.?!।॥؟。！？]*[\"'”’»)\]]*(?=\s|$)|(?<=[।॥。！？]))"
)
_SHORT: Final = """
mr mrs ms dr prof sr jr st vs etc e.g i.e eg ie cf al fig figs no nos vol pp p ed eds inc ltd co corp dept est approx
gen gov sen rep lt col capt sgt rev hon pres jan feb mar apr jun jul aug sep sept oct nov dec u.s u.k u.n a.m p.m b.c
a.d d.c ph.d rs art sec ch डॉ श्री प्रो सं रु कि मि पं
"""
_ABBREVIATIONS: Final = frozenset(_SHORT.split())
_BEFORE_WORD = re.compile(r"[\s(\[\"'“‘«]")
_WORD_CHARS_MAX: Final = 24  # what is longer is no abbreviation
_SINGLE_LETTER = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")


def sentences(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """The places (start, end) of the sentences of a text, or of a part of it, without the white space around."""
    stop = len(text) if end is None else end
    found: list[tuple[int, int]] = []
    begun = start
    for match in _END.finditer(text, start, stop):
        at = match.end()
        if at <= begun or (match.group().startswith(".") and _goes_on(text, begun, match.start(), at)):
            continue
        _add(found, text, begun, at)
        begun = at
    _add(found, text, begun, stop)
    return found


def _add(found: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    stripped = piece.strip()
    if stripped:
        start += len(piece) - len(piece.lstrip())
        found.append((start, start + len(stripped)))


def _goes_on(text: str, begun: int, dot: int, at: int) -> bool:
    """Whether a full stop belongs to an abbreviation, an initial or a number, and the sentence goes on."""
    word = _BEFORE_WORD.split(text[max(begun, dot - _WORD_CHARS_MAX) : dot])[-1]
    after = text[at : at + 3].lstrip()
    if not after:
        return False
    if after[0].islower():
        return True
    lowered = word.lower()
    if lowered in _ABBREVIATIONS:
        return True
    if len(word) <= 5 and _SINGLE_LETTER.fullmatch(word) and word.isascii():
        return word != "I"
    # A number at the beginning is that of a list's item: "1. Apply".
    return word.isdigit() and len(word) <= 2 and text[begun:dot].strip() == word
