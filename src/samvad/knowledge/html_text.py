"""HTML as readable text: what a reader sees of the page's own content, with its headings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from samvad.knowledge.structure import Extracted, TextBuilder, joined, one_line, short_language

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Never text of the page: code, other documents, controls.
_SKIPPED = _names(
    "script style noscript template iframe object embed svg math canvas audio video head button select "
    "option input textarea dialog datalist"
)
# Around the page's content: menus, banners, legal notes. Read only where there is nothing else.
_AROUND = _names("nav footer aside")
_AROUND_ROLES = _names("navigation banner contentinfo complementary search menu")
_BLOCKS = _names(
    "address article aside blockquote body center dd details div dl dt fieldset figcaption figure footer form "
    "header hr html legend li main nav ol p section summary table tbody tfoot thead ul caption"
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_HIDDEN_STYLE = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?![.\d]*[1-9])|opacity\s*:\s*0(?:\.0+)?\s*(?:;|$)"
)
_MAIN_SHARE_MIN = 0.25  # a <main> or <article> with less of the page's text than this is not its content
_WHITE = re.compile(r"\s+")


def extract_html(source: str) -> Extracted:
    """The text of an HTML page. What is hidden from readers (CSS in place, `hidden`, comments) is left out."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(source)
    body = tree.body or tree.root
    html = tree.css_first("html")
    language = short_language(html.attributes.get("lang") if html is not None else None)
    title = _title(tree.css_first("title"), tree.css_first("meta[property='og:title']"))
    builder = TextBuilder()
    if body is not None:
        whole = _Walk(around=False).read(body)
        builder = whole
        content = tree.css_first("main") or tree.css_first("[role=main]") or _only(tree.css("article"))
        if content is not None:
            part = _Walk(around=False).read(content)
            if part.length >= whole.length * _MAIN_SHARE_MIN:
                builder = part
        if not builder.length:
            builder = _Walk(around=True).read(body)
    return builder.done(title=title, language=language)


def _only(nodes: list[LexborNode]) -> LexborNode | None:
    return nodes[0] if len(nodes) == 1 else None


def _title(title: LexborNode | None, named: LexborNode | None) -> str | None:
    text = one_line(title.text()) if title is not None else ""
    if not text and named is not None:
        text = one_line(named.attributes.get("content") or "")
    return text or None


def _is_hidden(node: LexborNode) -> bool:
    attributes = node.attributes
    if not attributes:
        return False
    if "hidden" in attributes or attributes.get("aria-hidden") == "true":
        return True
    return _HIDDEN_STYLE.search((attributes.get("style") or "").lower()) is not None


class _Walk:
    """One walk over a tree, without recursion: pages may be nested as deeply as an attacker likes."""

    def __init__(self, *, around: bool) -> None:
        self._around = around
        self._builder = TextBuilder()
        self._inline: list[str] = []
        self._mark: str | None = None  # of the list item that begins
        self._row: list[str] | None = None
        self._lists: list[int | None] = []
        self._pre = 0

    def read(self, top: LexborNode) -> TextBuilder:
        """The text below a node."""
        stack: list[tuple[LexborNode, bool]] = [(top, False)]
        while stack:
            node, leaving = stack.pop()
            if leaving:
                self._leave(node.tag or "")
                continue
            if node.is_text_node:
                self._text(node.text_content or "")
                continue
            if not node.is_element_node or self._skips(node):
                continue
            self._enter(node)
            stack.append((node, True))
            children = []
            child = node.first_child
            while child is not None:
                children.append(child)
                child = child.next
            stack.extend((child, False) for child in reversed(children))
        self._flush()
        return self._builder

    def _skips(self, node: LexborNode) -> bool:
        tag = node.tag or ""
        if tag in _SKIPPED or _is_hidden(node):
            return True
        if self._around:
            return False
        return tag in _AROUND or (node.attributes.get("role") or "") in _AROUND_ROLES

    def _text(self, text: str) -> None:
        self._inline.append(text if self._pre else _WHITE.sub(" ", text))

    def _enter(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if tag == "br":
            self._inline.append("\n")
        elif tag == "img":
            self._inline.append(" " + (node.attributes.get("alt") or "") + " ")
        elif tag == "pre":
            self._flush()
            self._pre += 1
        elif tag == "tr":
            self._flush()
            self._row = []
        elif tag in ("ul", "ol"):
            self._flush()
            start = node.attributes.get("start") or "1"
            self._lists.append(int(start) if tag == "ol" and start.isdecimal() and len(start) < 9 else None)
        elif tag == "li":
            self._flush()
            number = self._lists[-1] if self._lists else None
            self._mark = "- " if number is None else f"{number}. "
            if number is not None:
                self._lists[-1] = number + 1
        elif self._row is None and (tag in _BLOCKS or tag in _HEADINGS):
            self._flush()
        elif tag in _BLOCKS:
            self._inline.append(" ")

    def _leave(self, tag: str) -> None:
        if tag in ("td", "th") and self._row is not None:
            self._row.append("".join(self._inline))
            self._inline.clear()
        elif tag == "tr":
            row, self._row = self._row, None
            if row:
                self._builder.inline(joined(row), tight=True)
            self._inline.clear()
        elif tag in _HEADINGS and self._row is None:
            text, self._inline = "".join(self._inline), []
            self._builder.heading(text, _HEADINGS[tag])
        elif tag == "pre":
            self._flush()
            self._pre -= 1
        elif tag in ("ul", "ol"):
            self._flush()
            if self._lists:
                self._lists.pop()
        elif self._row is None and tag in _BLOCKS:
            self._flush()

    def _flush(self) -> None:
        text = "".join(self._inline)
        self._inline.clear()
        if self._row is not None:
            self._row.append(text)
            return
        if not text.strip():
            return
        mark, self._mark = self._mark, None
        if self._pre:
            self._builder.block(text)
        elif mark is not None:
            self._builder.inline(mark + text.strip(), tight=True)
        else:
            self._builder.inline(text)
