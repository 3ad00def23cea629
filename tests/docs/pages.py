"""The pages of the documentation, taken apart: code blocks, headings, links, tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.support import REPOSITORY

_FENCE = re.compile(r"( *)(`{3,})\s*(.*)")
_LINK = re.compile(r"(?<!!)\[(?:[^\]\[]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?\)")


class Block(NamedTuple):
    """One fenced code block: its language, marks (`skip`, `file`, `output`…), text, and first line's number."""

    language: str
    marks: dict[str, str]
    text: str
    line: int


class Page(NamedTuple):
    """One Markdown file."""

    path: Path
    blocks: tuple[Block, ...]
    prose: tuple[tuple[int, str], ...]  # the lines outside of blocks, with their numbers

    @property
    def name(self) -> str:
        """The path from the repository's root."""
        return self.path.relative_to(REPOSITORY).as_posix()

    def headings(self) -> Iterator[str]:
        """The text of each heading, in order."""
        for _, line in self.prose:
            if found := re.match(r"#{1,6} +(.*?)\s*$", line):
                yield found[1]

    def anchors(self) -> set[str]:
        """What a link may name behind `#`, as GitHub and most renderers make it of the headings."""
        found: set[str] = set()
        for heading in self.headings():
            slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
            number = 0
            while (unique := slug if not number else f"{slug}-{number}") in found:
                number += 1
            found.add(unique)
        return found

    def links(self) -> Iterator[tuple[int, str]]:
        """The target of each link, with its line."""
        for number, line in self.prose:
            for found in _LINK.finditer(re.sub(r"`[^`]*`", "", line)):
                yield number, found[1]

    def rows(self, first_header: str) -> list[dict[str, str]]:
        """The rows of every table whose first column has that header, by column."""
        rows: list[dict[str, str]] = []
        names: list[str] = []
        for _, line in self.prose:
            if not line.startswith("|"):
                names = []
                continue
            cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
            if not names:
                names = cells
            elif names[0] == first_header and not re.fullmatch(r":?-+:?", cells[0]):
                rows.append(dict(zip(names, cells, strict=True)))
        return rows

    def text(self) -> str:
        """The whole file."""
        return self.path.read_text(encoding="utf-8")


def read_page(path: Path) -> Page:
    """A Markdown file, taken apart."""
    blocks: list[Block] = []
    prose: list[tuple[int, str]] = []
    fence: tuple[int, str, str, int] | None = None
    inside: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if fence is None:
            if found := _FENCE.match(line):
                fence = (len(found[1]), found[2], found[3], number + 1)
                inside = []
            else:
                prose.append((number, line))
        elif line.strip() == fence[1]:
            blocks.append(_block(fence[2], inside, fence[3]))
            fence = None
        else:
            inside.append(line[fence[0] :] if line[: fence[0]].isspace() else line)
    assert fence is None, f"{path.name}: the block at line {fence and fence[3] - 1} has no end"
    return Page(path, tuple(blocks), tuple(prose))


def _block(info: str, lines: list[str], line: int) -> Block:
    language, _, rest = info.partition(" ")
    marks: dict[str, str] = {}
    for mark in re.finditer(r'(\w+)(?:=("[^"]*"|\S+))?', rest):
        marks[mark[1]] = (mark[2] or "").strip('"')
    return Block(language, marks, "\n".join(lines) + "\n", line)


@cache
def all_pages() -> tuple[Page, ...]:
    """Every page: what lies at the repository's root, and all of docs/."""
    roots = [REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
    return tuple(read_page(path) for path in (*roots, *sorted((REPOSITORY / "docs").rglob("*.md"))))


def page(name: str) -> Page:
    """The page of that path, from the repository's root."""
    return next(page for page in all_pages() if page.name == name)
