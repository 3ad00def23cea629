"""What an archive of a user looks like: the names of its members, and the manifest that proves them.

    README.md            what this is, for the person
    user.json            state and preferences, with their times
    sessions.json        an array, each session with its interruptions on a line of its own, in the order of ids
    history.jsonl        a message on each line, in order, as the API gives them
    conversation.md      the same, to be read
    documents/00001.json a document of the knowledge base that is this user's own; .md is the same, to be read
    questions.json       what was counted and kept of this user's searches
    audit.jsonl          who did what with the data of this user, and when
    manifest.json        format, whose, when, counts, and the SHA-256 of every member in front of it
    signature.json       the last one: who made it (see signing); not in archives of whoever has no key

No name is made of anything that a person chose. Version 1 is what stands here; a reader refuses any other.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

FORMAT: Final = "samvad-user-archive"
VERSION: Final = 1

README: Final = "README.md"
USER: Final = "user.json"
SESSIONS: Final = "sessions.json"
HISTORY: Final = "history.jsonl"
CONVERSATION: Final = "conversation.md"
QUESTIONS: Final = "questions.json"
AUDIT: Final = "audit.jsonl"
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "signature.json"
FIXED: Final = (README, USER, SESSIONS, HISTORY, CONVERSATION, QUESTIONS, AUDIT)
DOCUMENT: Final = re.compile(r"documents/[0-9]{5,7}\.(?:json|md)", re.ASCII)

_Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_Count = Annotated[int, Meta(ge=0, le=1 << 53)]


def document_name(number: int, kind: str) -> str:
    """The member of the document that is the `number`th, from 1; `kind` is json or md."""
    return f"documents/{number:05}.{kind}"


class Member(msgspec.Struct, frozen=True):
    """One member: its name, how long it is, and its SHA-256 (hexadecimal)."""

    name: str
    bytes: _Count
    sha256: _Sha256


class Counts(msgspec.Struct, rename="camel"):
    """How much an archive holds."""

    messages: _Count = 0
    sessions: _Count = 0
    interruptions: _Count = 0
    documents: _Count = 0
    audit_entries: _Count = 0


class Kept(msgspec.Struct, frozen=True):
    """A kind of data about the person that is not a member: what it is, where it is, and for how long."""

    what: str
    where: str
    until: str


class Manifest(msgspec.Struct, kw_only=True, rename="camel"):
    """`manifest.json`. `complete` is false where `missing` says what could not be looked into.

    `trimmed` is the last seq that retention removed: the messages begin behind it.
    """

    format: str
    version: int
    exported_at: str
    by: str
    engine: str
    tenant: str
    user_id: str
    epoch: _Count
    counts: Counts
    trimmed: _Count = 0
    complete: bool
    missing: list[str]
    also_kept: list[Kept]
    members: list[Member]


class UserPart(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True):
    """`user.json`; state and preferences are JSON objects as they were saved, or empty where there are none."""

    user_id: str
    state: msgspec.Raw = msgspec.Raw()
    state_version: int | None = None
    state_updated_at: str | None = None
    preferences: msgspec.Raw = msgspec.Raw()
    created_at: str | None = None
    last_updated: str | None = None


class InterruptionPart(msgspec.Struct):
    """A recorded interruption in `sessions.json`."""

    id: str
    at: str
    fields: msgspec.Raw


class SessionPart(msgspec.Struct, kw_only=True, rename="camel"):
    """A session in `sessions.json`; `fields` is what the application gave."""

    id: str
    created_at: str
    last_activity: str
    fields: msgspec.Raw
    ended_at: str | None = None
    interruptions: list[InterruptionPart] = []


class DocumentPart(msgspec.Struct, kw_only=True):
    """A member of `documents`: the record, the headings (start, end, level, words), the text, a SHA-256 of all."""

    document: msgspec.Raw
    headings: list[tuple[int, int, int, str]]
    text: str
    sha256: _Sha256


def pretty(value: Any) -> bytes:
    """JSON to be read."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def compact(value: bytes | msgspec.Raw) -> bytes:
    """JSON as stores keep it: the same, without white space between its parts."""
    return msgspec.json.format(bytes(value), indent=-1)
