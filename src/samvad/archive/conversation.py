"""`conversation.md` and the Markdown of documents: what is kept, to be read by a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from samvad.archive.markdown import fenced, inline, line, lines, quoted
from samvad.knowledge.records import StoredDocument
from samvad.records import StoredMessage

_SPEAKERS: Final = {"user": "You", "assistant": "Assistant", "system": "System", "tool": "Tool"}
_SHOWN: Final = frozenset(
    {
        "seq", "id", "role", "content", "timestamp", "sessionId", "name", "interrupted", "unheardText",
        "contentLength", "contentChars", "contentKept", "unreadable",
    }
)  # fmt: skip
_decode = msgspec.json.decode


class Conversation:
    """Writes a history message by message; a heading stands where the day or the session changes."""

    def __init__(self, user_id: str) -> None:
        self._user_id = user_id
        self._day = ""
        self._session: str | None = None

    def head(self) -> bytes:
        """What stands in front."""
        return (
            f"# The conversation of {inline(self._user_id)}\n\n"
            "Everything that is kept of what was said, from the first message to the last. Times are UTC.\n"
        ).encode()

    def written(self, messages: Iterable[StoredMessage]) -> Iterator[bytes]:
        """The next messages."""
        for message in messages:
            yield "".join(f"{each}\n" for each in self._message(_decode(message.body))).encode()

    def _message(self, fields: dict[str, Any]) -> Iterator[str]:
        day, _, clock = str(fields.get("timestamp", "")).partition("T")
        session = fields.get("sessionId")
        if day != self._day:
            yield f"\n## {line(day)}"
            self._session = None
        if session != self._session and session is not None:
            yield f"\n### Session {inline(str(session))}"
        elif session != self._session:
            yield "\n### Without a session"
        self._day, self._session = day, session
        role = str(fields.get("role"))
        speaker = _SPEAKERS.get(role) or inline(role)
        if fields.get("name"):
            speaker += f" ({inline(str(fields['name']))})"
        yield f"\n**{speaker}**, {line(clock.partition('.')[0])}, message {fields.get('seq')}\n"
        content = fields.get("content")
        if isinstance(content, str) and content:
            yield from quoted(content)
        elif fields.get("unreadable") is True:
            yield "(What was said is damaged, and cannot be read any more.)"
        else:
            chars, size = fields.get("contentChars"), fields.get("contentLength")
            length = f"{chars} characters" if isinstance(chars, int) else f"{size} bytes"
            yield f"(What was said is not kept: {length}.)"
        if fields.get("interrupted"):
            yield "\nCut off here." + (" Not heard any more:\n" if fields.get("unheardText") else "")
        if isinstance(fields.get("unheardText"), str):
            yield from quoted(fields["unheardText"])
        more = {name: value for name, value in fields.items() if name not in _SHOWN}
        if more:
            yield "\nKept with it:\n"
            yield fenced(msgspec.json.format(msgspec.json.encode(more), indent=2).decode(), "json")


def document_page(stored: StoredDocument) -> Iterator[bytes]:
    """A document of the knowledge base as Markdown: title, what is known of it, and its text under its headings."""
    document = stored.document
    yield f"# {inline(document.title)}\n\n".encode()
    known = msgspec.to_builtins(document)
    yield fenced(msgspec.json.format(msgspec.json.encode(known), indent=2).decode(), "json").encode()
    yield b"\n\n"
    place = 0
    for heading in stored.headings:
        if heading.start < place:
            continue
        yield from _paragraphs(stored.text[place : heading.start])
        level = "#" * min(6, max(1, heading.level) + 1)
        yield f"\n{level} {inline(heading.text)}\n\n".encode()
        place = heading.end
    yield from _paragraphs(stored.text[place:])


def _paragraphs(text: str) -> Iterator[bytes]:
    for each in lines(text.strip("\n")):
        yield f"{each}\n".encode()
    if text:
        yield b"\n"
