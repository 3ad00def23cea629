"""Markdown (CommonMark with tables) as readable text: no markup, headings known, code kept as it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samvad.knowledge.structure import Extracted, TextBuilder, joined

if TYPE_CHECKING:
    from markdown_it.token import Token


def extract_markdown(source: str) -> Extracted:
    """The text of a Markdown document. Raw HTML in it is left out: it is markup, and hides text from readers."""
    from markdown_it import MarkdownIt

    source = _without_front_matter(source)
    tokens = MarkdownIt("commonmark", {"maxNesting": 60}).enable(["table", "strikethrough"]).parse(source)
    builder = TextBuilder()
    level = 0
    prefixes: list[str | int] = []  # of the lists that we are in: a number is the next one to give
    first_of_item = False
    row: list[str] | None = None
    title: str | None = None
    for token in tokens:
        kind = token.type
        if kind == "heading_open":
            level = int(token.tag[1:])
        elif kind == "bullet_list_open":
            prefixes.append("-")
        elif kind == "ordered_list_open":
            prefixes.append(int(token.attrGet("start") or 1))
        elif kind in ("bullet_list_close", "ordered_list_close"):
            prefixes.pop()
        elif kind == "list_item_open":
            first_of_item = True
        elif kind == "tr_open":
            row = []
        elif kind == "tr_close" and row is not None:
            builder.inline(joined(row), tight=True)
            row = None
        elif kind in ("fence", "code_block"):
            builder.block(token.content)
        elif kind == "inline":
            text = _inline(token)
            if level:
                builder.heading(text, level)
                title = title or (text if level == 1 else None)
                level = 0
            elif row is not None:
                row.append(text)
            elif prefixes and first_of_item:
                mark = prefixes[-1]
                if isinstance(mark, int):
                    prefixes[-1] = mark + 1
                builder.inline(f"{mark}. {text}" if isinstance(mark, int) else f"- {text}", tight=True)
                first_of_item = False
            else:
                builder.inline(text)
    return builder.done(title=title)


def _inline(token: Token) -> str:
    parts: list[str] = []
    for child in token.children or ():
        if child.type in ("text", "code_inline"):
            parts.append(child.content)
        elif child.type == "softbreak":
            parts.append(" ")
        elif child.type == "hardbreak":
            parts.append("\n")
        elif child.type == "image":
            parts.append(child.content)
    return "".join(parts)


def _without_front_matter(source: str) -> str:
    """Without the block of settings (YAML, TOML) that generators of web sites put at the top."""
    for fence in ("---", "+++"):
        if source.startswith(fence + "\n"):
            end = source.find(f"\n{fence}\n", len(fence))
            if end >= 0:
                return source[end + len(fence) + 2 :]
    return source
