"""Reading users and what is beside them from a store, as lines. Each user is of one moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from samvad.archive.reading import INTERRUPTIONS_MAX, head_of
from samvad.cli.carry import lines
from samvad.cli.carry.lines import (
    Digest,
    EndLine,
    MessagesLine,
    SessionPart,
    SessionsLine,
    UserLine,
    UserLines,
)
from samvad.cli.portable import BYTES_PER_LINE, MESSAGES_PER_LINE, SESSIONS_PER_LINE
from samvad.errors import StoreUnavailable
from samvad.records import StoredInterruption, StoredMessage, StoredSession, UserKey, UserRecord

KEYS_PER_PAGE: Final = 500
_WINDOW: Final = 100  # messages that come with a user's head: most users have no more
_LOOKS_MAX: Final = 20  # at a user who is being written to


class Moved(Exception):
    """While a user's messages were read, the oldest of them were trimmed: all of it is to be read again."""


Store = Any  # one that is a Store, and offers what stores/carrying asks for


async def keys_of(store: Store) -> AsyncIterator[list[UserKey]]:
    """Everyone in a store, some at a time."""
    after: str | None = ""
    while after is not None:
        keys, after = await store.keys(after=after, limit=KEYS_PER_PAGE)
        if keys:
            yield keys


async def user_lines(store: Store, user: UserKey) -> AsyncIterator[UserLines]:
    """The lines of one user; none if there is no such user, and no `end` if the user was erased meanwhile.

    State, profile and sessions are of one moment: they are read again where the user was written to in between.
    Messages are those up to that moment; they do not change, but may be trimmed while they are read (Moved).
    """
    for _ in range(_LOOKS_MAX):
        head = await store.load(user, window=_WINDOW, open_after_ms=1 << 62, sessions_max=0)
        if head.version.revision == 0:
            return
        parts = [
            _session(session, await store.interruptions(user.tenant, session.id, INTERRUPTIONS_MAX))
            for session in await store.sessions(user, open_after_ms=None)
        ]
        if (await head_of(store, user)).version == head.version:
            break
    else:
        raise StoreUnavailable(f"The user {user.user_id!r} is written to all the time; try again later.")
    digest = Digest()
    first: list[UserLines] = [_user(user, head)]
    first += _session_lines(sorted(parts, key=lambda part: part[0]))
    for each in first:
        digest.add(each)
        yield each
    if head.seq - head.trimmed <= len(head.window) <= _WINDOW:
        line = _messages(head.window)
        digest.add(line)
        if head.window:
            yield line
        yield digest.end()  # all of it was of one moment
        return
    after = head.trimmed
    while after < head.seq:
        messages, _ = await store.page(
            user, after=after, before=head.seq + 1, limit=MESSAGES_PER_LINE, bytes_max=BYTES_PER_LINE
        )
        if not messages:
            break  # erased, or trimmed
        after = messages[-1].seq
        line = _messages(messages)
        digest.add(line)
        yield line
    now = await head_of(store, user)
    if now.version.epoch == head.version.epoch:
        if now.trimmed != head.trimmed:
            raise Moved
        yield digest.end()


def _messages(messages: Iterable[StoredMessage]) -> MessagesLine:
    return MessagesLine([(m.seq, m.at_ms, m.given, lines.raw(m.body)) for m in messages])


def _user(user: UserKey, head: UserRecord) -> UserLine:
    state, profile = head.state, head.profile
    return UserLine(
        user.tenant,
        user.user_id,
        head.version.epoch,
        head.seq,
        None if state is None else (lines.raw(state.body), state.updated_ms, state.version),
        None if profile is None else (lines.raw(profile.preferences), profile.created_ms, profile.updated_ms),
        head.trimmed,
    )


def _session(session: StoredSession, interruptions: list[StoredInterruption]) -> SessionPart:
    return (
        session.id,
        lines.raw(session.body),
        session.created_ms,
        session.active_ms,
        session.ended_ms,
        sorted((each.id, each.at_ms, lines.raw(each.body)) for each in interruptions),
    )


def _session_lines(parts: list[SessionPart]) -> list[SessionsLine]:
    """Sessions in lines of bounded number and size."""
    found: list[SessionsLine] = []
    size = 0
    for part in parts:
        part_size = len(lines.encode(part))
        size += part_size
        if not found or len(found[-1].sessions) == SESSIONS_PER_LINE or size > BYTES_PER_LINE:
            found.append(SessionsLine([]))
            size = part_size
        found[-1].sessions.append(part)
    return found


async def digest_of(store: Store, user: UserKey) -> EndLine | None:
    """What a store has of a user, as counts and a checksum; None if there is no such user."""
    async for line in user_lines(store, user):
        if isinstance(line, EndLine):
            return line
    return None
