"""A document's text with its structure: what extraction gives and splitting reads. Offsets count characters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import msgspec

_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\n{3,}")
# Control characters other than tab and newline, and the marks that only say which way or where to break.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufffe]"
)


class Heading(msgspec.Struct, frozen=True, array_like=True):
    """A heading within a text: where it starts and ends, and its level (1 is the highest)."""

    start: int
    end: int
    level: int


class Extracted(msgspec.Struct, frozen=True):
    """A document as readable text.

    `headings` are in the order of the text. `page_starts` holds the offset at which each page begins; empty
    where there are no pages. `language` is a short code if the document names one (`hi`).
    """

    text: str
    title: str | None = None
    language: str | None = None
    headings: tuple[Heading, ...] = ()
    page_starts: tuple[int, ...] = ()


def clean(text: str) -> str:
    """Text without control and invisible formatting characters; joiners stay, since Indic spelling needs them."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n\n")
    return _CONTROLS.sub("", text)


def one_line(text: str) -> str:
    """Text with every run of white space as one space."""
    return " ".join(clean(text).split())


def has_words(text: str) -> bool:
    """Whether there is anything in a text that could be searched for: a letter or a digit of any script."""
    return any(unicodedata.category(character)[0] in "LN" for character in text)


class TextBuilder:
    """Puts blocks together into one text, a blank line between two, and remembers where the headings stand."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._headings: list[Heading] = []
        self._page_starts: list[int] = []
        self._page_begins = False

    def block(self, text: str, *, tight: bool = False) -> None:
        """A paragraph, list item or row; `tight` puts it on the line after the last one."""
        text = _BLANK_LINES.sub("\n\n", clean(text)).strip("\n")
        text = "\n".join(line.rstrip() for line in text.split("\n")).strip()
        if not text:
            return
        if self._length:
            self._add("\n" if tight else "\n\n")
        if self._page_begins:
            self._page_starts.append(self._length)
            self._page_begins = False
        self._add(text)

    def inline(self, text: str, *, tight: bool = False) -> None:
        """A block whose white space means nothing (HTML, Markdown): every run of it becomes one space."""
        lines = (_SPACES.sub(" ", line).strip() for line in text.split("\n"))
        self.block("\n".join(lines), tight=tight)

    def heading(self, text: str, level: int) -> None:
        """A heading of level 1 (the highest) to 6."""
        text = one_line(text)
        if not text:
            return
        self.block(text)
        self._headings.append(Heading(self._length - len(text), self._length, level))

    def page(self) -> None:
        """What comes next stands on a new page."""
        if self._page_begins:  # a page without text begins where the next one does
            self._page_starts.append(self._length)
        self._page_begins = True

    @property
    def length(self) -> int:
        """How many characters there are by now."""
        return self._length

    def done(self, *, title: str | None = None, language: str | None = None) -> Extracted:
        """All of it; the title is the first heading where none is given."""
        if self._page_begins:
            self._page_starts.append(self._length)
            self._page_begins = False
        text = "".join(self._parts)
        title = one_line(title or "") or None
        if title is None and self._headings:
            first = self._headings[0]
            title = text[first.start : first.end]
        return Extracted(text, title, language, tuple(self._headings), tuple(self._page_starts))

    def _add(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)


def short_language(tag: str | None) -> str | None:
    """The short code of a language tag (BCP 47): `hi-IN` is `hi`; None for what is no tag."""
    found = re.match(r"([A-Za-z]{2,3})(?:[-_]|$)", (tag or "").strip())
    return found.group(1).lower() if found else None


def joined(parts: Iterable[str]) -> str:
    """Cells of a row as text: those that are not empty, a bar between two."""
    return " | ".join(part for part in (one_line(part) for part in parts) if part)
