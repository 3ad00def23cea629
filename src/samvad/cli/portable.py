"""A store as lines of JSON: what `samvad export` writes and `samvad import` takes in.

A user is one `user` line, then `sessions` and `messages` lines of bounded size, then an `end` line with the
counts of what came before it. The first line of a file names its format, the last one its totals:

    {"type":"samvad","version":1,"exportedAt":"…"}
    {"type":"user","userId":"user_456","state":{…},"stateVersion":3,"stateUpdatedAt":"…","preferences":{…},…}
    {"type":"sessions","userId":"user_456","sessions":[{"id":"…","createdAt":"…","fields":{…}},…]}
    {"type":"messages","userId":"user_456","messages":[{"seq":1,"id":"…","role":"user",…},…]}
    {"type":"end","userId":"user_456","sessions":1,"messages":2}
    {"type":"done","users":1,"sessions":1,"messages":2}
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from samvad.archive import reading
from samvad.archive.reading import head_of, session_fields, user_fields
from samvad.records import UserKey, UserRecord
from samvad.stores.base import Store

VERSION: Final = 1
KINDS: Final = frozenset({"samvad", "user", "sessions", "messages", "end", "done"})
SESSIONS_PER_LINE: Final = 100
MESSAGES_PER_LINE: Final = 500
BYTES_PER_LINE: Final = 1024 * 1024
_encode = msgspec.json.encode


def user_line(user_id: str, head: UserRecord) -> dict[str, Any]:
    """The `user` line of a record."""
    return {"type": "user", **user_fields(user_id, head)}


async def history_pages(store: Store, user: UserKey, seq_max: int) -> AsyncIterator[list[msgspec.Raw]]:
    """The user's messages up to `seq_max` in order, as they are stored, in pieces of bounded size."""
    async for messages in reading.history_pages(
        store, user, seq_max, messages_max=MESSAGES_PER_LINE, bytes_max=BYTES_PER_LINE
    ):
        yield [msgspec.Raw(message.body) for message in messages]


async def lines_of(store: Store, user: UserKey) -> AsyncIterator[tuple[bytes, int, int]]:
    """The lines of one user, each with how many sessions and messages it holds; none if the user is not there.

    The last line is `end`, and is left out where the user was erased meanwhile: then none of it counts.
    """
    head = await head_of(store, user)
    if head.version.revision == 0:
        return
    yield _line(user_line(user.user_id, head)), 0, 0
    sessions = await store.sessions(user, open_after_ms=None)
    for start in range(0, len(sessions), SESSIONS_PER_LINE):
        some = [
            await session_fields(store, user.tenant, s) for s in sessions[start : start + SESSIONS_PER_LINE]
        ]
        yield _line({"type": "sessions", "userId": user.user_id, "sessions": some}), len(some), 0
    count = 0
    async for messages in history_pages(store, user, head.seq):
        count += len(messages)
        yield _line({"type": "messages", "userId": user.user_id, "messages": messages}), 0, len(messages)
    if (await head_of(store, user)).version.epoch == head.version.epoch:
        end = {"type": "end", "userId": user.user_id, "sessions": len(sessions), "messages": count}
        yield _line(end), 0, 0


def _line(fields: dict[str, Any]) -> bytes:
    return _encode(fields) + b"\n"
