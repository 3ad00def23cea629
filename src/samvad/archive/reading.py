"""A user's record, sessions and history as a store has them, in the pieces of which exports and archives are made."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import msgspec

from samvad.clock import rfc3339
from samvad.records import StoredInterruption, StoredMessage, StoredSession, UserKey, UserRecord
from samvad.stores.base import Store

INTERRUPTIONS_MAX: Final = 10_000  # of one session
_raw = msgspec.Raw


async def head_of(store: Store, user: UserKey) -> UserRecord:
    """A user's record without messages and sessions."""
    return await store.load(user, window=0, open_after_ms=1 << 62, sessions_max=0)


def user_fields(user_id: str, head: UserRecord) -> dict[str, Any]:
    """State and preferences of a record, with their times, as JSON."""
    fields: dict[str, Any] = {"userId": user_id}
    if head.state is not None:
        fields |= {
            "state": _raw(head.state.body),
            "stateVersion": head.state.version,
            "stateUpdatedAt": rfc3339(head.state.updated_ms),
        }
    if head.profile is not None:
        fields |= {
            "preferences": _raw(head.profile.preferences),
            "createdAt": rfc3339(head.profile.created_ms),
            "lastUpdated": rfc3339(head.profile.updated_ms),
        }
    return fields


async def session_fields(
    store: Store, tenant: str, session: StoredSession, held: Iterable[StoredInterruption] = ()
) -> dict[str, Any]:
    """One session with its interruptions, as JSON; `held` are those that memory has, which are newer."""
    fields: dict[str, Any] = {
        "id": session.id,
        "createdAt": rfc3339(session.created_ms),
        "lastActivity": rfc3339(session.active_ms),
        "fields": _raw(session.body),
    }
    if session.ended_ms is not None:
        fields["endedAt"] = rfc3339(session.ended_ms)
    found = {kept.id: kept for kept in await store.interruptions(tenant, session.id, INTERRUPTIONS_MAX)}
    found |= {kept.id: kept for kept in held}
    if found:
        fields["interruptions"] = [
            {"id": kept.id, "at": rfc3339(kept.at_ms), "fields": _raw(kept.body)} for kept in found.values()
        ]
    return fields


async def history_pages(
    store: Store, user: UserKey, seq_max: int, *, messages_max: int, bytes_max: int
) -> AsyncIterator[list[StoredMessage]]:
    """The user's messages up to `seq_max` in order, in pieces of bounded size."""
    after = 0
    has_more = True
    while has_more and after < seq_max:
        messages, has_more = await store.page(
            user, after=after, before=seq_max + 1, limit=messages_max, bytes_max=bytes_max
        )
        if messages:
            after = messages[-1].seq
            yield messages
