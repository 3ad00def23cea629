"""Documents out of files and pages: what becomes of bytes before they are a text with a title."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator
from pathlib import PurePath
from typing import NamedTuple

from samvad import limits
from samvad.errors import InvalidRequest, Overloaded
from samvad.knowledge.extracting import DocumentType, extract, kind_of
from samvad.knowledge.places import Places
from samvad.knowledge.records import HeadingAt
from samvad.knowledge.structure import Extracted, one_line


class Read(NamedTuple):
    """A document that was read: its text, and what it says about itself."""

    title: str
    text: str
    headings: list[HeadingAt]
    language: str | None


class Uploads:
    """How many bytes of files are in memory at once: who comes when there is no room is told to come again."""

    def __init__(self, bytes_max: int = limits.UPLOADS_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._places = Places(bytes_max, limits.DOCUMENTS_READ_EACH_MAX)

    @contextlib.contextmanager
    def room(self, size: int, who: Hashable | None = None) -> Iterator[None]:
        """Room for a file of `size` bytes while it is received and read; Overloaded where there is none.

        `who` is the person who sends it, None a program: files are read two at a time, and nobody has all the turns.
        """
        if self._bytes + size > self._bytes_max:
            raise Overloaded("Other files are being read; send this one again soon.")
        with self._places.place(who):
            self._bytes += size
            try:
                yield
            finally:
                self._bytes -= size


async def read_document(data: bytes, kind: DocumentType, *, name: str, charset: str | None = None) -> Read:
    """A document's text in a process of its own where that is wise; `name` is its title where it names none."""
    taken = await extract(data, kind, charset=charset)
    title = one_line(taken.title or "")[: limits.TITLE_CHARS_MAX].strip()
    return Read(title or name, taken.text, _headings(taken), taken.language)


def kind_of_file(filename: str, data: bytes, kind: str | None) -> DocumentType:
    """The kind of a file; InvalidRequest where it cannot be told."""
    found = kind_of(filename, None, data) if kind is None else kind
    if found not in ("text", "markdown", "html", "pdf"):
        raise InvalidRequest("its kind is not known; .txt, .md, .html and .pdf files are taken")
    return found  # type: ignore[return-value]


def name_of_file(filename: str) -> str:
    """What a file is called where nothing else gives it a title: its name without the ending."""
    return PurePath(filename).stem.strip() or filename


def _headings(taken: Extracted) -> list[HeadingAt]:
    return [
        HeadingAt(each.start, each.end, each.level, taken.text[each.start : each.end].strip("# \n"))
        for each in taken.headings
    ]


__all__ = ["Read", "Uploads", "kind_of_file", "name_of_file", "read_document"]
