"""What the SQLite store reads: plain functions over one connection, each of one consistent snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from samvad.records import (
    Erasure,
    Stats,
    StoredInterruption,
    StoredMessage,
    StoredProfile,
    StoredReceipt,
    StoredSession,
    StoredState,
    UserKey,
    UserRecord,
    Version,
    message_of_line,
    user_hash,
)
from samvad.stores import sqlite_history as history

_HEAD = """
    SELECT user_no, epoch, revision, seq, preferences, profile_created_ms, profile_updated_ms,
           trimmed, states.body, states.updated_ms, states.version
    FROM users LEFT JOIN states USING (user_no) WHERE tenant = ? AND user_id = ?
"""
_ERASURE = "SELECT epoch, erased_ms, replica, number FROM erasures WHERE user_hash = ?"
_USER_NO = "SELECT user_no FROM users WHERE tenant = ? AND user_id = ?"
_OPEN_SESSIONS = """
    SELECT session_id, body, created_ms, active_ms, ended_ms FROM sessions
    WHERE user_no = ? AND active_ms > ? AND ended_ms IS NULL ORDER BY active_ms DESC, session_id LIMIT ?
"""
_ALL_SESSIONS = """
    SELECT session_id, body, created_ms, active_ms, ended_ms FROM sessions
    WHERE user_no = ? ORDER BY active_ms DESC, session_id
"""
_SESSION = """
    SELECT users.user_id, body, created_ms, active_ms, ended_ms
    FROM sessions JOIN users USING (user_no) WHERE sessions.tenant = ? AND session_id = ?
"""
_INTERRUPTIONS = """
    SELECT id, session_id, at_ms, body FROM interruptions
    WHERE tenant = ? AND session_id = ? ORDER BY at_ms DESC, id DESC LIMIT ?
"""
_INTERRUPTIONS_BEFORE = """
    SELECT count(*) FROM interruptions
    WHERE at_ms < ? AND user_no = (SELECT user_no FROM users WHERE tenant = ? AND user_id = ?)
"""
_NEWEST_MS = """
    SELECT max(at_ms) FROM (
        SELECT max(profile_updated_ms) AS at_ms FROM users UNION ALL SELECT max(updated_ms) FROM recent
        UNION ALL SELECT max(updated_ms) FROM states UNION ALL SELECT max(active_ms) FROM sessions)
"""
_APPLIED = "SELECT replica, number FROM applied WHERE user_no = ?"
_SEQ_END = 1 << 62


@contextmanager
def _snapshot(connection: apsw.Connection) -> Iterator[None]:
    with connection:
        yield


def load(
    connection: apsw.Connection, user: UserKey, window: int, open_after_ms: int, sessions_max: int
) -> UserRecord:
    """See Store.load."""
    with _snapshot(connection):
        head = connection.execute(_HEAD, user).fetchone()
        if head is None:
            after, *erased = connection.execute(_ERASURE, (user_hash(user),)).fetchone() or (0, *Erasure())
            return UserRecord(Version(after, 0), erased=Erasure(*erased))
        user_no, epoch, revision, seq, preferences, created_ms, updated_ms, trimmed, *kept = head
        state, state_ms, state_version = kept
        newest = history.newest(connection, user_no)
        if newest is not None:
            revision, seq = max(revision, newest[0]), max(seq, newest[1])
            updated_ms = None if updated_ms is None else max(updated_ms, newest[2])
        last = list(history.backwards(connection, user_no, seq - window, seq + 1))
        sessions = [
            StoredSession(session_id, user.user_id, body, created, active, ended)
            for session_id, body, created, active, ended in connection.execute(
                _OPEN_SESSIONS, (user_no, open_after_ms, sessions_max + 1)
            )
        ]
        applied = {str(replica): int(number) for replica, number in connection.execute(_APPLIED, (user_no,))}
        erased = connection.execute(_ERASURE, (user_hash(user),)).fetchone() if epoch else None
    return UserRecord(
        version=Version(epoch, revision),
        seq=seq,
        state=None if state is None else StoredState(state, state_ms, state_version),
        profile=None if created_ms is None else StoredProfile(preferences, created_ms, updated_ms),
        early=tuple([message_of_line(*line) for line in reversed(last)]),
        sessions={session.id: session for session in sessions[:sessions_max]},
        sessions_complete=len(sessions) <= sessions_max,
        applied=applied,
        erased=Erasure(*erased[1:]) if erased else Erasure(),
        trimmed=trimmed,
    )


def page(
    connection: apsw.Connection,
    user: UserKey,
    after: int | None,
    before: int | None,
    limit: int,
    bytes_max: int,
) -> tuple[list[StoredMessage], bool]:
    """See Store.page."""
    with _snapshot(connection):
        user_no = connection.execute(_USER_NO, user).get
        if user_no is None:
            return [], False
        lines = history.backwards if after is None else history.forwards
        low, high = (0 if after is None else after), (_SEQ_END if before is None else before)
        messages: list[StoredMessage] = []
        size = 0
        has_more = False
        for seq, body in lines(connection, user_no, low, high):
            if len(messages) == limit or (messages and size + len(body) > bytes_max):
                has_more = True
                break
            size += len(body)
            messages.append(message_of_line(seq, body))
    if after is None:
        messages.reverse()
    return messages, has_more


def session(connection: apsw.Connection, tenant: str, session_id: str) -> StoredSession | None:
    """See Store.session."""
    row = connection.execute(_SESSION, (tenant, session_id)).fetchone()
    return None if row is None else StoredSession(session_id, *row)


def sessions(connection: apsw.Connection, user: UserKey, open_after_ms: int | None) -> list[StoredSession]:
    """See Store.sessions."""
    with _snapshot(connection):
        user_no = connection.execute(_USER_NO, user).get
        if user_no is None:
            return []
        if open_after_ms is None:
            rows = connection.execute(_ALL_SESSIONS, (user_no,))
        else:
            rows = connection.execute(_OPEN_SESSIONS, (user_no, open_after_ms, -1))
        return [StoredSession(row[0], user.user_id, *row[1:]) for row in rows]


def interruptions(
    connection: apsw.Connection, tenant: str, session_id: str, limit: int
) -> list[StoredInterruption]:
    """See Store.interruptions."""
    rows = connection.execute(_INTERRUPTIONS, (tenant, session_id, limit))
    return [StoredInterruption(*row) for row in rows]


def interruptions_before(connection: apsw.Connection, user: UserKey, before_ms: int) -> int:
    """See Retaining.interruptions_before."""
    count: int = connection.execute(_INTERRUPTIONS_BEFORE, (before_ms, *user)).get
    return count


def newest_ms(connection: apsw.Connection) -> int | None:
    """See Retaining.newest_ms."""
    newest: int | None = connection.execute(_NEWEST_MS).get
    return newest


def receipt(connection: apsw.Connection, key: bytes) -> StoredReceipt | None:
    """See Store.receipt."""
    row = connection.execute(
        "SELECT fingerprint, at_ms, answer FROM receipts WHERE key = ?", (key,)
    ).fetchone()
    return None if row is None else StoredReceipt(key, *row)


def stats(connection: apsw.Connection, tenant: str, active_after_ms: int, open_after_ms: int) -> Stats:
    """See Store.stats."""
    with _snapshot(connection):

        def count(sql: str, *values: object) -> int:
            return int(connection.execute(sql, values).get)

        return Stats(
            active_users=count(
                """SELECT count(*) FROM (
                       SELECT user_no FROM states WHERE updated_ms > ?
                       UNION SELECT user_no FROM sessions WHERE ended_ms IS NULL AND active_ms > ?
                   ) JOIN users USING (user_no) WHERE tenant = ?""",
                active_after_ms,
                active_after_ms,
                tenant,
            ),
            active_sessions=count(
                "SELECT count(*) FROM sessions WHERE ended_ms IS NULL AND active_ms > ? AND tenant = ?",
                open_after_ms,
                tenant,
            ),
            total_profiles=count(
                "SELECT count(*) FROM users WHERE tenant = ? AND profile_created_ms IS NOT NULL", tenant
            ),
            total_interruptions=count("SELECT count(*) FROM interruptions WHERE tenant = ?", tenant),
            total_messages=count(
                """SELECT coalesce(sum(seq - trimmed), 0) + coalesce((
                       SELECT sum(last_seq - first_seq + 1) FROM recent JOIN users USING (user_no) WHERE tenant = ?1
                   ), 0) FROM users WHERE tenant = ?1""",
                tenant,
            ),
            total_users=count("SELECT count(*) FROM users WHERE tenant = ?", tenant),
        )


def users(connection: apsw.Connection, tenant: str, after: str, limit: int) -> list[str]:
    """See Store.users."""
    rows = connection.execute(
        "SELECT user_id FROM users WHERE tenant = ? AND user_id > ? ORDER BY user_id LIMIT ?",
        (tenant, after, limit),
    )
    return [row[0] for row in rows]
