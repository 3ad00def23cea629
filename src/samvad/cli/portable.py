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

from samvad.clock import rfc3339
from samvad.records import StoredSession, UserKey, UserRecord
from samvad.stores.base import Store

VERSION: Final = 1
KINDS: Final = frozenset({"samvad", "user", "sessions", "messages", "end", "done"})
SESSIONS_PER_LINE: Final = 100
MESSAGES_PER_LINE: Final = 500
BYTES_PER_LINE: Final = 1024 * 1024
_INTERRUPTIONS_MAX: Final = 10_000  # of one session
_raw = msgspec.Raw
_encode = msgspec.json.encode


async def head_of(store: Store, user: UserKey) -> UserRecord:
    """A user's record without messages and sessions."""
    return await store.load(user, window=0, open_after_ms=1 << 62, sessions_max=0)


def user_line(user_id: str, head: UserRecord) -> dict[str, Any]:
    """The `user` line of a record."""
    line: dict[str, Any] = {"type": "user", "userId": user_id}
    if head.state is not None:
        line |= {
            "state": _raw(head.state.body),
            "stateVersion": head.state.version,
            "stateUpdatedAt": rfc3339(head.state.updated_ms),
        }
    if head.profile is not None:
        line |= {
            "preferences": _raw(head.profile.preferences),
            "createdAt": rfc3339(head.profile.created_ms),
            "lastUpdated": rfc3339(head.profile.updated_ms),
        }
    return line


async def session_fields(store: Store, tenant: str, session: StoredSession) -> dict[str, Any]:
    """One session of a `sessions` line."""
    fields: dict[str, Any] = {
        "id": session.id,
        "createdAt": rfc3339(session.created_ms),
        "lastActivity": rfc3339(session.active_ms),
        "fields": _raw(session.body),
    }
    if session.ended_ms is not None:
        fields["endedAt"] = rfc3339(session.ended_ms)
    interruptions = await store.interruptions(tenant, session.id, _INTERRUPTIONS_MAX)
    if interruptions:
        fields["interruptions"] = [
            {"id": kept.id, "at": rfc3339(kept.at_ms), "fields": _raw(kept.body)} for kept in interruptions
        ]
    return fields


async def history_pages(store: Store, user: UserKey, seq_max: int) -> AsyncIterator[list[msgspec.Raw]]:
    """The user's messages up to `seq_max` in order, as they are stored, in pieces of bounded size."""
    after = 0
    has_more = True
    while has_more and after < seq_max:
        messages, has_more = await store.page(
            user, after=after, before=seq_max + 1, limit=MESSAGES_PER_LINE, bytes_max=BYTES_PER_LINE
        )
        if messages:
            after = messages[-1].seq
            yield [_raw(message.body) for message in messages]


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
