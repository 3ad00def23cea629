"""Where the SQLite store keeps what was said: `recent` in the order of saying, `history` user by user.

A commit adds one row to `recent`, where rows of all users stand one behind the other: a group of commits touches
a few pages, whoever they are of. Now and then `gather` moves all of it to `history`, a run of messages a row, so
that each user's page is written once for all they have said meanwhile. Readers look at both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import apsw

from samvad.records import StoredMessage, message_of_line

RUN_BYTES_MAX: Final = 16 * 1024  # of a row of `history`; one commit's messages are never parted

_ADD_RECENT = """
    INSERT INTO recent (user_no, revision, first_seq, last_seq, updated_ms, body) VALUES (?, ?, ?, ?, ?, ?)
"""
_NEWEST = """
    SELECT revision, last_seq, updated_ms FROM recent WHERE user_no = ? ORDER BY place DESC LIMIT 1
"""
_ALL_RECENT = """
    SELECT user_no, revision, first_seq, last_seq, updated_ms, body FROM recent ORDER BY place
"""
_RECENT_OF = """
    SELECT user_no, revision, first_seq, last_seq, updated_ms, body FROM recent WHERE user_no = ? ORDER BY place
"""
_ADD_HISTORY = "INSERT INTO history (user_no, first_seq, last_seq, body) VALUES (?, ?, ?, ?)"
_MOVE_HEAD = """
    UPDATE users SET revision = max(revision, ?), seq = ?,
        profile_updated_ms = max(profile_updated_ms, ?) WHERE user_no = ?
"""
_RECENT_BEFORE = """
    SELECT first_seq, body FROM recent WHERE user_no = ? AND first_seq < ? AND last_seq > ? ORDER BY place DESC
"""
_HISTORY_BEFORE = """
    SELECT first_seq, body FROM history
    WHERE user_no = ? AND first_seq < ? AND last_seq > ? ORDER BY first_seq DESC
"""
_RECENT_AFTER = """
    SELECT first_seq, body FROM recent WHERE user_no = ? AND first_seq < ? AND last_seq > ? ORDER BY place
"""
_HISTORY_AFTER = """
    SELECT first_seq, body FROM history
    WHERE user_no = ?1 AND first_seq < ?2 AND last_seq > ?3 AND first_seq >= coalesce(
        (SELECT max(first_seq) FROM history WHERE user_no = ?1 AND first_seq <= ?3 + 1), 0)
    ORDER BY first_seq
"""
_REMOVED = """
    SELECT coalesce(sum(last_seq - first_seq + 1), 0) FROM (
        SELECT first_seq, last_seq FROM recent WHERE user_no = ?1
        UNION ALL SELECT first_seq, last_seq FROM history WHERE user_no = ?1)
"""


@contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """One transaction, all or nothing. SQLite may have ended it by itself where it failed."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(apsw.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


RecentRow = tuple[int, int, int, int, int, bytes]  # user_no, revision, first_seq, last_seq, updated_ms, body


def joined(lines: list[bytes]) -> bytes:
    """Messages as one value: JSON holds no line break, so that a line is a message."""
    return b"\n".join(lines)


def add(connection: apsw.Connection, rows: list[RecentRow]) -> None:
    """Append what a group of commits said."""
    connection.executemany(_ADD_RECENT, rows)


def newest(connection: apsw.Connection, user_no: int) -> tuple[int, int, int] | None:
    """The revision, last seq and time of what a user said last, if that is not in `history` yet."""
    row: tuple[int, int, int] | None = connection.execute(_NEWEST, (user_no,)).fetchone()
    return row


def set_updated(connection: apsw.Connection, user_no: int | None, updated_ms: int) -> None:
    """Let a user's rows of `recent` claim no later time than this."""
    connection.execute(
        "UPDATE recent SET updated_ms = min(updated_ms, ?) WHERE user_no = ?", (updated_ms, user_no)
    )


def _bytes(body: Any) -> bytes:
    return body if isinstance(body, bytes) else str(body).encode()  # text: somebody else's hand


def _lines(body: Any) -> list[bytes]:
    return _bytes(body).split(b"\n")


def backwards(connection: apsw.Connection, user_no: int, low: int, high: int) -> Iterator[tuple[int, bytes]]:
    """The seq and body of a user's messages with low < seq < high, from the last to the first."""
    for sql in (_RECENT_BEFORE, _HISTORY_BEFORE):
        for first_seq, body in connection.execute(sql, (user_no, high, low)):
            lines = _lines(body)
            for place in range(min(len(lines), high - first_seq) - 1, max(0, low + 1 - first_seq) - 1, -1):
                yield first_seq + place, lines[place]


def forwards(connection: apsw.Connection, user_no: int, low: int, high: int) -> Iterator[tuple[int, bytes]]:
    """The seq and body of a user's messages with low < seq < high, from the first to the last."""
    for sql in (_HISTORY_AFTER, _RECENT_AFTER):
        for first_seq, body in connection.execute(sql, (user_no, high, low)):
            lines = _lines(body)
            for place in range(max(0, low + 1 - first_seq), min(len(lines), high - first_seq)):
                yield first_seq + place, lines[place]


def at(connection: apsw.Connection, user_no: int, seq: int) -> StoredMessage | None:
    """The message at a place of a user's history."""
    for _, body in backwards(connection, user_no, seq - 1, seq + 1):
        return message_of_line(seq, body)
    return None


def remove(connection: apsw.Connection, user_no: int | None) -> int:
    """Remove all that a user said; returns how many messages that were."""
    removed: int = connection.execute(_REMOVED, (user_no,)).get
    connection.execute("DELETE FROM recent WHERE user_no = ?", (user_no,))
    connection.execute("DELETE FROM history WHERE user_no = ?", (user_no,))
    connection.execute("DELETE FROM given_ids WHERE user_no = ?", (user_no,))
    return removed


def trim(connection: apsw.Connection, user_no: int, before_seq: int) -> int:
    """Remove what a user said in front of `before_seq`, and the ids of it; returns how many messages that were.

    It is part of a transaction, with all that was said written out. The user's head is brought up to date first, for
    the row that tells it may go.
    """
    _move(connection, connection.execute(_RECENT_OF, (user_no,)))
    connection.execute("DELETE FROM recent WHERE user_no = ?", (user_no,))
    removed = 0
    cut: tuple[int, int] | None = None
    rows = connection.execute(
        "SELECT first_seq, last_seq FROM history WHERE user_no = ? AND first_seq < ? ORDER BY first_seq",
        (user_no, before_seq),
    )
    for first_seq, last_seq in rows:
        removed += min(last_seq, before_seq - 1) - first_seq + 1
        if last_seq >= before_seq:
            cut = first_seq, last_seq
    if cut is not None:
        first_seq, last_seq = cut
        body = connection.execute(
            "SELECT body FROM history WHERE user_no = ? AND first_seq = ?", (user_no, first_seq)
        ).get
        kept = _lines(body)[before_seq - first_seq :]
        connection.execute(_ADD_HISTORY, (user_no, before_seq, last_seq, joined(kept)))
    connection.execute("DELETE FROM history WHERE user_no = ? AND first_seq < ?", (user_no, before_seq))
    connection.execute("DELETE FROM given_ids WHERE user_no = ? AND seq < ?", (user_no, before_seq))
    connection.execute(
        "UPDATE users SET trimmed = max(trimmed, ?1), seq = max(seq, ?1) WHERE user_no = ?2",
        (before_seq - 1, user_no),
    )
    return removed


def gather(connection: apsw.Connection) -> None:
    """Move all of `recent` to `history` in one transaction, and each user's head along."""
    with transaction(connection):
        _move(connection, connection.execute(_ALL_RECENT))
        connection.execute("DELETE FROM recent")


def _move(connection: apsw.Connection, recent: Any) -> None:
    """Put rows of `recent` into `history`, and each user's head along."""
    runs: list[tuple[int, int, int, bytes]] = []
    heads: list[tuple[int, int, int, int]] = []
    said: defaultdict[int, list[RecentRow]] = defaultdict(list)
    for row in recent:
        said[row[0]].append(row)
    for user_no, rows in sorted(said.items()):
        runs += _runs(user_no, rows)
        _, revision, _, last_seq, updated_ms, _ = rows[-1]
        heads.append((revision, last_seq, updated_ms, user_no))
    connection.executemany(_ADD_HISTORY, runs)
    connection.executemany(_MOVE_HEAD, heads)


def _runs(user_no: int, rows: list[RecentRow]) -> Iterator[tuple[int, int, int, bytes]]:
    """One user's rows as rows of `history`."""
    bodies: list[bytes] = []
    size = start = end = 0
    for _, _, first_seq, last_seq, _, kept in rows:
        body = _bytes(kept)
        if bodies and size + len(body) > RUN_BYTES_MAX:
            yield user_no, start, end, b"\n".join(bodies)
            bodies, size = [], 0
        if not bodies:
            start = first_seq
        bodies.append(body)
        size += len(body) + 1
        end = last_seq
    yield user_no, start, end, b"\n".join(bodies)
