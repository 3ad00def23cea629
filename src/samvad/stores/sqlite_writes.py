"""What the SQLite store writes: one group of commits as one transaction.

A commit that must be refused (another version, a message that is there, another user's session) is found
out before anything of it is written, so that the others of its group are not touched by it.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import Any, Final

import apsw

from samvad.errors import MessageExists, SamvadError, SessionTaken, StaleVersion
from samvad.records import (
    Change,
    Commit,
    Committed,
    Erased,
    InterruptionAdded,
    InterruptionsRemoved,
    MessagesAdded,
    ProfileSet,
    ReceiptKept,
    Removed,
    SessionRemoved,
    SessionSet,
    SessionTouched,
    StateSet,
    UserKey,
    Version,
    only_receipts,
    removed_answer,
    seq_of_made_id,
    stored_message,
    user_hash,
)

_HEADS_MAX: Final = 50_000
BUSY_MS: Final = 5_000
_FOLD_BUSY_MS: Final = 50

_INSERT_MESSAGE = "INSERT INTO messages (user_no, seq, at_ms, given_id, body) VALUES (?, ?, ?, ?, ?)"
_INSERT_USER = (
    "INSERT INTO users (tenant, user_id, epoch, revision, seq) VALUES (?, ?, ?, 0, 0) RETURNING user_no"
)
_UPDATE_HEAD = """
    UPDATE users SET revision = ?, seq = ?,
        profile_updated_ms = max(profile_updated_ms, coalesce(?, profile_updated_ms)) WHERE user_no = ?
"""
_SET_PROFILE = (
    "UPDATE users SET preferences = ?, profile_created_ms = ?, profile_updated_ms = ? WHERE user_no = ?"
)
_SET_STATE = "INSERT OR REPLACE INTO states (user_no, body, updated_ms, version) VALUES (?, ?, ?, ?)"
_SET_SESSION = """
    INSERT OR REPLACE INTO sessions (tenant, session_id, user_no, created_ms, active_ms, ended_ms, body)
    VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_SET_RECEIPT = (
    "INSERT OR REPLACE INTO receipts (key, fingerprint, at_ms, user_hash, answer) VALUES (?, ?, ?, ?, ?)"
)
_SET_INTERRUPTION = """
    INSERT OR REPLACE INTO interruptions (user_no, tenant, session_id, id, at_ms, body)
    SELECT user_no, tenant, session_id, ?, ?, ? FROM sessions WHERE tenant = ? AND session_id = ? AND user_no = ?
"""
_SET_ERASURE = (
    "INSERT OR REPLACE INTO erasures (user_hash, epoch, erased_ms, replica, number) VALUES (?, ?, ?, ?, ?)"
)
_SET_APPLIED = "INSERT OR REPLACE INTO applied (user_no, replica, number) VALUES (?, ?, ?)"


def fold(connection: apsw.Connection, busy_ms: int = _FOLD_BUSY_MS) -> bool:
    """Fold the log into the database and empty it, so that older copies of what was erased are in neither.

    SQLite does not sync the emptying: after a power failure the old log could be back. The small commit that
    follows is synced, and the emptying with it. False where a reader still looks at the log (nobody waits for
    that one for long): then it is to be tried again.
    """
    connection.set_busy_timeout(busy_ms)
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        connection.execute("INSERT OR REPLACE INTO probe (id, at_ms) VALUES (1, 0)")
    except apsw.Error:
        return False
    finally:
        connection.set_busy_timeout(BUSY_MS)
    return True


class _Head:
    """What the writer knows of a user: it is the only writer, so this is what the database says too."""

    __slots__ = ("epoch", "moved", "revision", "seq", "updated_ms", "user_no")

    def __init__(self, user_no: int | None, epoch: int, revision: int, seq: int) -> None:
        self.user_no = user_no
        self.epoch = epoch
        self.revision = revision
        self.seq = seq
        self.updated_ms: int | None = None
        self.moved = False


class GroupWriter:
    """Writes groups of commits over the one connection that may write. Lives in the writer's thread."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._heads: OrderedDict[UserKey, _Head] = OrderedDict()
        self._messages: list[tuple[int, int, int, str | None, bytes]] = []
        self._moved: list[_Head] = []
        self._erased = False
        self.fold_owed = False  # something was erased, and a reader kept the log from being emptied

    def write(self, commits: list[Commit]) -> list[Committed | SamvadError]:
        """One transaction; an answer for each commit. An apsw.Error means that none of them was written."""
        connection = self._connection
        results: list[Committed | SamvadError] = []
        self._erased = False
        try:
            connection.execute("BEGIN IMMEDIATE")
            for commit in commits:
                try:
                    results.append(self._one(commit))
                except (StaleVersion, MessageExists, SessionTaken) as refusal:
                    results.append(refusal)
            self._flush()
            connection.execute("COMMIT")
        except BaseException:
            self._forget()
            with contextlib.suppress(apsw.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            raise
        while len(self._heads) > _HEADS_MAX:
            self._heads.popitem(last=False)
        if self._erased:
            self.fold_owed = not fold(connection)
        return results

    def _forget(self) -> None:
        self._heads.clear()
        self._messages.clear()
        self._moved.clear()

    def _flush(self) -> None:
        """Write out the rows that were gathered: many at once are cheaper than one by one."""
        connection = self._connection
        if self._messages:
            connection.executemany(_INSERT_MESSAGE, self._messages)
            self._messages.clear()
        if self._moved:
            connection.executemany(
                _UPDATE_HEAD,
                [(head.revision, head.seq, head.updated_ms, head.user_no) for head in self._moved],
            )
            for head in self._moved:
                head.moved = False
            self._moved.clear()

    def _head(self, user: UserKey) -> _Head:
        head = self._heads.get(user)
        if head is not None:
            self._heads.move_to_end(user)
            return head
        row = self._connection.execute(
            "SELECT user_no, epoch, revision, seq FROM users WHERE tenant = ? AND user_id = ?", user
        ).fetchone()
        if row is None:
            epoch = self._connection.execute(
                "SELECT epoch FROM erasures WHERE user_hash = ?", (user_hash(user),)
            ).get
            row = (None, epoch or 0, 0, 0)
        head = self._heads[user] = _Head(*row)
        return head

    def _one(self, commit: Commit) -> Committed:
        user, changes, origin = commit.user, commit.changes, commit.origin
        head = self._head(user)
        if origin is not None and head.user_no is not None:
            done = self._connection.execute(
                "SELECT number FROM applied WHERE user_no = ? AND replica = ?", (head.user_no, origin.replica)
            ).get
            if done is not None and done >= origin.number:
                return Committed(Version(head.epoch, head.revision), head.seq)
        if commit.expected != (head.epoch, head.revision) and not only_receipts(commit):
            raise StaleVersion
        self._refuse(user, head, changes)
        removed = Removed()
        moves = False
        for change in changes:
            if isinstance(change, ReceiptKept):
                self._receipt(user, change, removed)
                continue
            if isinstance(change, Erased):
                removed = self._erase(user, head, change, origin or ("", -1))
                continue
            moves = True
            if head.user_no is None:
                head.user_no = self._connection.execute(_INSERT_USER, (*user, head.epoch)).get
            if isinstance(change, MessagesAdded):
                user_no = head.user_no
                self._messages += [
                    (user_no, m.seq, m.at_ms, m.id if m.given else None, m.body) for m in change.messages
                ]
                head.seq = change.messages[-1].seq
                head.updated_ms = max(head.updated_ms or 0, *(m.at_ms for m in change.messages))
            else:
                removed = self._write(user, head, change, removed)
        if moves:
            head.revision += commit.steps
            if not head.moved:
                head.moved = True
                self._moved.append(head)
        if origin is not None and head.user_no is not None:
            self._connection.execute(_SET_APPLIED, (head.user_no, *origin))
        return Committed(Version(head.epoch, head.revision), head.seq, removed)

    def _refuse(self, user: UserKey, head: _Head, changes: tuple[Change, ...]) -> None:
        """Raise what speaks against these changes, before any of them is written."""
        for change in changes:
            if isinstance(change, MessagesAdded):
                if change.messages[0].seq != head.seq + 1:
                    raise StaleVersion
                if change.unproven and head.user_no is not None:
                    if self._messages:
                        self._flush()
                    for message_id in change.unproven:
                        seq = self._seq_of(head, message_id)
                        if seq is not None:
                            raise MessageExists(message_id, seq)
            elif isinstance(change, SessionSet):
                owner = self._connection.execute(
                    "SELECT user_no FROM sessions WHERE tenant = ? AND session_id = ?",
                    (user.tenant, change.session.id),
                ).get
                if owner is not None and owner != head.user_no:
                    raise SessionTaken

    def _seq_of(self, head: _Head, message_id: str) -> int | None:
        """Where a message of this id stands in the user's history, if it does."""
        given: int | None = self._connection.execute(
            "SELECT seq FROM messages WHERE user_no = ? AND given_id = ?", (head.user_no, message_id)
        ).get
        seq = seq_of_made_id(message_id)
        if given is not None or seq is None:
            return given
        body = self._connection.execute(
            "SELECT body FROM messages WHERE user_no = ? AND seq = ? AND given_id IS NULL",
            (head.user_no, seq),
        ).get
        return seq if body is not None and stored_message(seq, 0, False, body).id == message_id else None

    def _write(self, user: UserKey, head: _Head, change: Change, removed: Removed) -> Removed:
        execute = self._connection.execute
        if isinstance(change, StateSet):
            state = change.state
            execute(_SET_STATE, (head.user_no, state.body, state.updated_ms, state.version))
        elif isinstance(change, ProfileSet):
            profile = change.profile
            execute(_SET_PROFILE, (profile.preferences, profile.created_ms, profile.updated_ms, head.user_no))
            head.updated_ms = profile.updated_ms
        elif isinstance(change, SessionSet):
            s = change.session
            execute(
                _SET_SESSION, (user.tenant, s.id, head.user_no, s.created_ms, s.active_ms, s.ended_ms, s.body)
            )
        elif isinstance(change, SessionTouched):
            execute(
                "UPDATE sessions SET active_ms = ? WHERE tenant = ? AND session_id = ? AND user_no = ?",
                (change.active_ms, user.tenant, change.session_id, head.user_no),
            )
        elif isinstance(change, SessionRemoved):
            execute(
                "DELETE FROM sessions WHERE tenant = ? AND session_id = ? AND user_no = ?",
                (user.tenant, change.session_id, head.user_no),
            )
            sessions = self._connection.changes()
            removed = self._forget_interruptions(user, head, change.session_id, removed)
            removed = removed._replace(sessions=removed.sessions + sessions)
        elif isinstance(change, InterruptionAdded):
            kept = change.interruption
            execute(
                _SET_INTERRUPTION,
                (kept.id, kept.at_ms, kept.body, user.tenant, kept.session_id, head.user_no),
            )
        elif isinstance(change, InterruptionsRemoved):
            removed = self._forget_interruptions(user, head, change.session_id, removed)
        return removed

    def _forget_interruptions(self, user: UserKey, head: _Head, session_id: str, removed: Removed) -> Removed:
        self._connection.execute(
            "DELETE FROM interruptions WHERE tenant = ? AND session_id = ? AND user_no = ?",
            (user.tenant, session_id, head.user_no),
        )
        return removed._replace(interruptions=removed.interruptions + self._connection.changes())

    def _receipt(self, user: UserKey, change: ReceiptKept, removed: Removed) -> None:
        receipt = change.receipt
        answer = receipt.answer if receipt.answer != b"" else removed_answer(removed)
        self._connection.execute(
            _SET_RECEIPT, (receipt.key, receipt.fingerprint, receipt.at_ms, user_hash(user), answer)
        )

    def _erase(self, user: UserKey, head: _Head, change: Erased, origin: tuple[str, int]) -> Removed:
        self._flush()  # what was appended in this group goes too
        self._erased = True

        def delete(sql: str, value: Any) -> int:
            self._connection.execute(sql, (value,))
            return self._connection.changes()

        user_no = head.user_no
        profile = self._connection.execute(
            "SELECT profile_created_ms IS NOT NULL FROM users WHERE user_no = ?", (user_no,)
        ).get
        removed = Removed(
            state=delete("DELETE FROM states WHERE user_no = ?", user_no) > 0,
            profile=bool(profile),
            sessions=delete("DELETE FROM sessions WHERE user_no = ?", user_no),
            messages=delete("DELETE FROM messages WHERE user_no = ?", user_no),
            interruptions=delete("DELETE FROM interruptions WHERE user_no = ?", user_no),
        )
        delete("DELETE FROM applied WHERE user_no = ?", user_no)
        delete("UPDATE receipts SET answer = NULL WHERE user_hash = ?", user_hash(user))
        delete("DELETE FROM users WHERE user_no = ?", user_no)
        head.user_no, head.epoch, head.revision, head.seq, head.updated_ms = None, head.epoch + 1, 0, 0, None
        self._connection.execute(_SET_ERASURE, (user_hash(user), head.epoch, change.at_ms, *origin))
        return removed
