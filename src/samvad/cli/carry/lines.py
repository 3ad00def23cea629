"""The lines of a backup, which are also what goes from store to store when one is migrated.

A backup is a text file of JSON lines. JSON that callers gave stands in it as it was stored, byte for byte:

    {"type":"samvad-backup","version":1,"madeAt":"…","by":"0.1.0","engine":"sqlite","onlyErasures":false,
     "sealed":false}
    {"type":"user","tenant":"default","userId":"asha","epoch":0,"seq":2,"state":[{…},1736528400000,3],"profile":[…]}
    {"type":"sessions","sessions":[["phone",{…},createdMs,activeMs,endedMs or null,[["i-1",atMs,{…}],…]],…]}
    {"type":"messages","messages":[[1,atMs,false,{…}],…]}
    {"type":"end","sessions":1,"interruptions":1,"messages":2,"sha256":"…"}
    {"type":"documents","documents":[["default","asha",0,{…},[[0,5,1,"Loans"],…],"text","sha256"]]}
    {"type":"receipts","receipts":[…]}
    {"type":"erasures","erasures":[["hash of the user's id",2,erasedMs],…]}
    {"type":"done","users":1,…,"sha256":"…"}

`end` proves one user: the SHA-256 is over state, profile, sessions and messages, however they are cut into lines.
`done` proves the file: its SHA-256 is over all bytes in front of it. Erasures come last, so that whoever was erased
while the backup was made is in them.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from samvad.records import (
    StoredInterruption,
    StoredMessage,
    StoredProfile,
    StoredSession,
    StoredState,
    UserKey,
    stored_message,
)

FORMAT: Final = "samvad-backup"
VERSION: Final = 1
BEGINNING: Final = b'{"type":"samvad-backup",'
ENDING: Final = b'{"type":"done",'

Raw = msgspec.Raw
Body = tuple[Raw, int, int]
InterruptionPart = tuple[str, int, Raw]
SessionPart = tuple[str, Raw, int, int, int | None, list[InterruptionPart]]
MessagePart = tuple[int, int, bool, Raw]


class HeadLine(msgspec.Struct, tag=FORMAT, rename="camel"):
    """The first line: what this file is. `sealed`: whether the store had keys; older files do not say (None)."""

    version: int
    made_at: str = ""
    by: str = ""
    engine: str = ""
    only_erasures: bool = False
    sealed: bool | None = None


class UserLine(msgspec.Struct, tag="user", rename="camel"):
    """A user begins: `state` is body, time and version; `profile` is preferences and the two times.

    `trimmed` is the last seq that retention removed: the messages begin behind it.
    """

    tenant: str
    user_id: str
    epoch: int
    seq: int
    state: Body | None = None
    profile: Body | None = None
    trimmed: int = 0

    @property
    def key(self) -> UserKey:
        """Whose lines follow."""
        return UserKey(self.tenant, self.user_id)

    def stored_state(self) -> StoredState | None:
        """The state."""
        return None if self.state is None else StoredState(bytes(self.state[0]), *self.state[1:])

    def stored_profile(self) -> StoredProfile | None:
        """The profile."""
        return None if self.profile is None else StoredProfile(bytes(self.profile[0]), *self.profile[1:])


class SessionsLine(msgspec.Struct, tag="sessions"):
    """Some sessions of the user, in the order of their ids, each with its recorded interruptions."""

    sessions: list[SessionPart]

    def stored(self, user: UserKey) -> list[tuple[StoredSession, list[StoredInterruption]]]:
        """The sessions and interruptions."""
        return [
            (
                StoredSession(session_id, user.user_id, bytes(body), created_ms, active_ms, ended_ms),
                [StoredInterruption(each, session_id, at_ms, bytes(b)) for each, at_ms, b in interruptions],
            )
            for session_id, body, created_ms, active_ms, ended_ms, interruptions in self.sessions
        ]


class MessagesLine(msgspec.Struct, tag="messages"):
    """Some messages of the user, in order."""

    messages: list[MessagePart]

    def stored(self) -> list[StoredMessage]:
        """The messages."""
        return [stored_message(seq, at_ms, given, bytes(body)) for seq, at_ms, given, body in self.messages]


class EndLine(msgspec.Struct, tag="end"):
    """The user ends: how much it was, and the checksum over it."""

    sessions: int
    interruptions: int
    messages: int
    sha256: str


class ReceiptsLine(msgspec.Struct, tag="receipts"):
    """Kept answers: the owner's hash, epoch, key, fingerprint (hexadecimal), time, and the answer (base64)."""

    receipts: list[tuple[str, int, str, str, int, bytes | None]]


class DocumentsLine(msgspec.Struct, tag="documents"):
    """Documents of the knowledge base: whose (tenant and user, or None), the epoch of the user's life, the record, the
    headings, the text, and the SHA-256 over all of it.
    """

    documents: list[tuple[str | None, str | None, int, Raw, list[tuple[int, int, int, str]], str, str]]


class ErasuresLine(msgspec.Struct, tag="erasures"):
    """What is left of erased users: the hash (hexadecimal), the epoch of the next life, and when."""

    erasures: list[tuple[str, int, int]]


class DoneLine(msgspec.Struct, tag="done"):
    """The last line: totals, and the SHA-256 of all bytes in front of it."""

    users: int = 0
    sessions: int = 0
    interruptions: int = 0
    messages: int = 0
    documents: int = 0
    receipts: int = 0
    erasures: int = 0
    sha256: str = ""


UserLines = UserLine | SessionsLine | MessagesLine | EndLine
Line = HeadLine | UserLines | DocumentsLine | ReceiptsLine | ErasuresLine | DoneLine

encode: Final = msgspec.json.encode
decode: Final = msgspec.json.Decoder(Line).decode


def raw(body: bytes) -> Raw:
    """JSON as it was stored; a line break, which only white space between its parts can be, is made a space."""
    return Raw(body.replace(b"\r", b" ").replace(b"\n", b" "))


class Digest:
    """The checksum and counts of one user, from the lines in their order, however these are cut."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.sessions = 0
        self.interruptions = 0
        self.messages = 0

    def add(self, line: UserLines) -> None:
        """Take in a line."""
        if isinstance(line, UserLine):
            self._hash.update(encode((line.tenant, line.user_id, line.epoch, line.state, line.profile)))
            if line.trimmed:
                self._hash.update(encode(line.trimmed))
        elif isinstance(line, SessionsLine):
            self.sessions += len(line.sessions)
            for session in line.sessions:
                self.interruptions += len(session[5])
                self._hash.update(encode(session))
        elif isinstance(line, MessagesLine):
            self.messages += len(line.messages)
            for message in line.messages:
                self._hash.update(encode(message))

    def end(self) -> EndLine:
        """The `end` line."""
        return EndLine(self.sessions, self.interruptions, self.messages, self._hash.hexdigest())
