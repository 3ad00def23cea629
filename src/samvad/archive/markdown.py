"""What people wrote, as Markdown that shows it and does nothing: no markup, link, picture or HTML of it takes effect.

Hindi and right-to-left text stays as it is: each line of it is a paragraph to the rules of direction, so that nothing
in it turns round what stands before or behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_AT_ONCE_CHARS: Final = 16 * 1024  # that are escaped in one step: a longer one would hold up other threads
_ANYWHERE = re.compile(r"[\\`*_\[\]<>&~|$@{}]|:(?=//)|(?<=www)\.", re.IGNORECASE)
_AT_START = re.compile(r"([#+\-=:])|([0-9]{1,9})([.)])")
# Characters that a terminal obeys: shown as their pictures (U+2400 and on), those beyond ASCII as U+FFFD.
_CONTROL: Final = (
    {c: 0x2400 + c for c in range(0x20) if c != 0x09}
    | {0x7F: 0x2421}
    | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
)
# In one line with what is ours, what changes the direction is shown and not done, and so are other line breaks.
_INLINE: Final = {
    c: f"\\u{c:04x}"
    for c in (*range(0xA0), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
    if c < 0x20 or c > 0x7E
}


def visible(text: str) -> str:
    """The text without characters that a terminal obeys; tabs and what is printed stay."""
    return text.translate(_CONTROL)


def inline(text: str) -> str:
    """A name within a line: escaped, in one line, and with a direction of its own."""
    return f"\u2068{_escaped(text.translate(_INLINE))}\u2069"


def _escaped(text: str) -> str:
    return _ANYWHERE.sub(r"\\\g<0>", text)


def line(text: str) -> str:
    """One line, escaped."""
    rest = text.lstrip(" \t")
    indent = "\u00a0" * len(text[: len(text) - len(rest)].replace("\t", "    "))
    start = _AT_START.match(rest)
    if start is None:
        head = ""
    elif start[1]:
        head, rest = f"\\{start[1]}", rest[1:]
    else:
        head, rest = f"{start[2]}\\{start[3]}", rest[start.end() :]
    pieces = [
        _escaped(visible(rest[begin : begin + _AT_ONCE_CHARS]))
        for begin in range(0, len(rest), _AT_ONCE_CHARS)
    ]
    return indent + head + "".join(pieces)


def lines(text: str) -> Iterator[str]:
    """The lines of a text, each of them escaped and ending where it did; an empty one ends a paragraph."""
    given = text.splitlines()
    for number, each in enumerate(given):
        if not each.strip():
            yield ""
            continue
        more = number + 1 < len(given) and bool(given[number + 1].strip())
        yield line(each) + ("\\" if more else "")


def quoted(text: str) -> Iterator[str]:
    """The lines of a text as a quotation; what follows stands behind an empty line."""
    for each in lines(text):
        yield f"> {each}" if each else ">"


def fenced(text: str, language: str) -> str:
    """A text that is shown as it is; no line of it can end the block."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible_lines(text)}\n{fence}"


def visible_lines(text: str) -> str:
    """As `visible`, with its line breaks."""
    return "\n".join(visible(each) for each in text.split("\n"))
