"""What the SQLite store writes: one group of commits as one transaction.

A commit that must be refused (another version, a message that is there, another user's session) is found
out before anything of it is written, so that the others of its group are not touched by it.
"""

from __future__ import annotations

from typing import Any, Final

import apsw

from samvad.errors import MessageExists, SamvadError, SessionTaken, StaleVersion, StoreUnavailable
from samvad.records import (
    NOTHING_REMOVED,
    Change,
    Commit,
    Committed,
    Erased,
    InterruptionAdded,
    InterruptionsRemoved,
    InterruptionsTrimmed,
    MessagesAdded,
    ProfileSet,
    ReceiptKept,
    Removed,
    SessionRemoved,
    SessionSet,
    SessionTouched,
    StateSet,
    StoredMessage,
    Trimmed,
    UserKey,
    Version,
    line_of_message,
    only_receipts,
    removed_answer,
    seq_of_made_id,
    user_hash,
)
from samvad.stores import sqlite_history as history
from samvad.stores.sqlite_guard import SET_PROBE, FileGuard

_HEADS_MAX: Final = 50_000
_ROW_BYTES: Final = 40  # of a row of `recent`, beside its messages
BUSY_MS: Final = 5_000
_FOLD_BUSY_MS: Final = 50

_INSERT_GIVEN_ID = "INSERT INTO given_ids (user_no, id, seq) VALUES (?, ?, ?)"
_INSERT_USER = (
    "INSERT INTO users (tenant, user_id, epoch, revision, seq) VALUES (?, ?, ?, 0, 0) RETURNING user_no"
)
_SET_REVISION = "UPDATE users SET revision = ? WHERE user_no = ?"
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


def fold(connection: apsw.Connection, guard: FileGuard, busy_ms: int = _FOLD_BUSY_MS) -> bool:
    """Fold the log into the database and empty it, so that older copies of what was erased are in neither.

    SQLite does not sync the emptying: after a power failure the old log could be back. The small commit that
    follows is synced, and the emptying with it. False where a reader still looks at the log (nobody waits for
    that one for long): then it is to be tried again.
    """
    connection.set_busy_timeout(busy_ms)
    try:
        if not guard.checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE):
            return False
        connection.execute(SET_PROBE, (guard.mark,))
    except (apsw.Error, StoreUnavailable):
        return False
    finally:
        connection.set_busy_timeout(BUSY_MS)
    return True


class _Head:
    """What the writer knows of a user: it is the only writer, so this is what the database says too."""

    __slots__ = ("moved", "seq", "updated_ms", "user_no", "version")

    def __init__(self, user_no: int | None, version: Version, seq: int, updated_ms: int) -> None:
        self.user_no = user_no
        self.version = version
        self.seq = seq
        self.updated_ms = updated_ms
        self.moved = False


class GroupWriter:
    """Writes groups of commits over the one connection that may write. Lives in the writer's thread."""

    def __init__(self, connection: apsw.Connection, guard: FileGuard) -> None:
        self._connection = connection
        self._guard = guard
        self._heads: dict[UserKey, _Head] = {}
        self._recent: list[history.RecentRow] = []
        self._given: dict[tuple[int, str], int] = {}
        self._moved: list[_Head] = []
        self._erased = False
        self.fold_owed = False  # something was erased, and a reader kept the log from being emptied
        self.recent_bytes = 0  # about how much has been said since the last gathering

    def write(self, commits: list[Commit]) -> list[Committed | SamvadError]:
        """One transaction; an answer for each commit. An apsw.Error means that none of them was written."""
        results: list[Committed | SamvadError] = []
        self._erased = False
        try:
            with history.transaction(self._connection):
                for commit in commits:
                    try:
                        results.append(self._one(commit))
                    except (StaleVersion, MessageExists, SessionTaken) as refusal:
                        results.append(refusal)
                self._flush()
                if self._erased:
                    self._guard.renew()
        except BaseException:
            self._forget()
            raise
        while (
            len(self._heads) > _HEADS_MAX
        ):  # who came first goes first, and is read again with the next commit
            del self._heads[next(iter(self._heads))]
        if self._erased:
            self.fold_owed = not fold(self._connection, self._guard)
        return results

    def gather(self) -> None:
        """Put what was said lately where each user's history is. An apsw.Error means that nothing has changed."""
        self.recent_bytes = 0  # also where it fails: then it is tried again after as much again
        history.gather(self._connection)

    def _forget(self) -> None:
        self._heads.clear()
        self._recent.clear()
        self._given.clear()
        self._moved.clear()

    def _flush(self) -> None:
        """Write out the rows that were gathered: many at once are cheaper than one by one."""
        connection = self._connection
        if self._recent:
            history.add(connection, self._recent)
            self.recent_bytes += sum([len(row[-1]) + _ROW_BYTES for row in self._recent])
            self._recent.clear()
        if self._given:
            connection.executemany(_INSERT_GIVEN_ID, [(*key, seq) for key, seq in self._given.items()])
            self._given.clear()
        if self._moved:
            connection.executemany(
                _SET_REVISION, [(head.version.revision, head.user_no) for head in self._moved]
            )
            for head in self._moved:
                head.moved = False
            self._moved.clear()

    def _head(self, user: UserKey) -> _Head:
        head = self._heads.get(user)
        if head is not None:
            return head
        row = self._connection.execute(
            "SELECT user_no, epoch, revision, seq, profile_updated_ms FROM users WHERE tenant = ? AND user_id = ?",
            user,
        ).fetchone()
        if row is None:
            epoch = self._connection.execute(
                "SELECT epoch FROM erasures WHERE user_hash = ?", (user_hash(user),)
            ).get
            head = _Head(None, Version(epoch or 0, 0), 0, 0)
        else:
            user_no, epoch, revision, seq, updated_ms = row
            newest = history.newest(self._connection, user_no) or (0, 0, 0)
            version = Version(epoch, max(revision, newest[0]))
            head = _Head(user_no, version, max(seq, newest[1]), max(updated_ms or 0, newest[2]))
        self._heads[user] = head
        return head

    def _one(self, commit: Commit) -> Committed:
        user, changes, origin = commit.user, commit.changes, commit.origin
        head = self._head(user)
        if origin is not None and head.user_no is not None:
            done = self._connection.execute(
                "SELECT number FROM applied WHERE user_no = ? AND replica = ?", (head.user_no, origin.replica)
            ).get
            if done is not None and done >= origin.number:
                return Committed(head.version, head.seq)
        if commit.expected != head.version and not only_receipts(commit):
            raise StaleVersion
        self._refuse(user, head, changes)
        removed = NOTHING_REMOVED
        moves = said = False
        for change in changes:
            if isinstance(change, MessagesAdded):
                self._say(self._numbered(user, head), change.messages, head.version.revision + commit.steps)
                moves = said = True
            elif isinstance(change, ReceiptKept):
                self._receipt(user, change, removed)
            elif isinstance(change, Erased):
                removed = self._erase(user, head, change, origin or ("", -1))
                moves = said = False
            else:
                removed = self._write(user, self._numbered(user, head), change, removed)
                moves = True
        if moves:
            head.version = Version(head.version.epoch, head.version.revision + commit.steps)
            if not said and not head.moved:
                head.moved = True
                self._moved.append(head)
        if origin is not None and head.user_no is not None:
            self._connection.execute(_SET_APPLIED, (head.user_no, *origin))
        return Committed(head.version, head.seq, removed)

    def _numbered(self, user: UserKey, head: _Head) -> _Head:
        if head.user_no is None:
            head.user_no = self._connection.execute(_INSERT_USER, (*user, head.version.epoch)).get
        return head

    def _say(self, head: _Head, messages: tuple[StoredMessage, ...], revision: int) -> None:
        """Take messages in; the row that holds them tells the user's new revision as well."""
        user_no = head.user_no
        assert user_no is not None
        first_seq = head.seq + 1
        lines: list[bytes] = []
        for message in messages:
            if message.given:
                self._given[user_no, message.id] = message.seq
            lines.append(line_of_message(message) if message.given else message.body)
            if message.at_ms > head.updated_ms:
                head.updated_ms = message.at_ms
        head.seq += len(lines)
        row = (user_no, revision, first_seq, head.seq, head.updated_ms, history.joined(lines))
        self._recent.append(row)

    def _refuse(self, user: UserKey, head: _Head, changes: tuple[Change, ...]) -> None:
        """Raise what speaks against these changes, before any of them is written."""
        seq = head.seq
        for change in changes:
            if isinstance(change, Trimmed):
                seq = max(seq, change.before_seq - 1)
            elif isinstance(change, MessagesAdded):
                if change.messages[0].seq != seq + 1:
                    raise StaleVersion
                if change.unproven and head.user_no is not None:
                    for message_id in change.unproven:
                        place = self._seq_of(head, message_id)
                        if place is not None:
                            raise MessageExists(message_id, place)
            elif isinstance(change, SessionSet):
                owner = self._connection.execute(
                    "SELECT user_no FROM sessions WHERE tenant = ? AND session_id = ?",
                    (user.tenant, change.session.id),
                ).get
                if owner is not None and owner != head.user_no:
                    raise SessionTaken

    def _seq_of(self, head: _Head, message_id: str) -> int | None:
        """Where a message of this id stands in the user's history, if it does."""
        assert head.user_no is not None
        given = self._given.get((head.user_no, message_id))
        if given is None:
            given = self._connection.execute(
                "SELECT seq FROM given_ids WHERE user_no = ? AND id = ?", (head.user_no, message_id)
            ).get
        seq = seq_of_made_id(message_id)
        if given is not None or seq is None:
            return given
        self._flush()
        there = history.at(self._connection, head.user_no, seq)
        return seq if there is not None and there.id == message_id else None

    def _write(self, user: UserKey, head: _Head, change: Change, removed: Removed) -> Removed:
        execute = self._connection.execute
        if isinstance(change, StateSet):
            state = change.state
            execute(_SET_STATE, (head.user_no, state.body, state.updated_ms, state.version))
        elif isinstance(change, ProfileSet):
            profile = change.profile
            if profile.updated_ms < head.updated_ms:  # it counts, whatever was said before it
                self._flush()
                history.set_updated(self._connection, head.user_no, profile.updated_ms)
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
        elif isinstance(change, Trimmed):
            removed = removed._replace(messages=removed.messages + self._trim(head, change.before_seq))
        elif isinstance(change, InterruptionsTrimmed):
            execute(
                "DELETE FROM interruptions WHERE user_no = ? AND at_ms < ?", (head.user_no, change.before_ms)
            )
            removed = removed._replace(interruptions=removed.interruptions + self._connection.changes())
        return removed

    def _trim(self, head: _Head, before_seq: int) -> int:
        assert head.user_no is not None
        self._flush()  # what was appended in this group is looked through as well
        head.seq = max(head.seq, before_seq - 1)
        return history.trim(self._connection, head.user_no, before_seq)

    def _forget_interruptions(self, user: UserKey, head: _Head, session_id: str, removed: Removed) -> Removed:
        self._connection.execute(
            "DELETE FROM interruptions WHERE tenant = ? AND session_id = ? AND user_no = ?",
            (user.tenant, session_id, head.user_no),
        )
        return removed._replace(interruptions=removed.interruptions + self._connection.changes())

    def _receipt(self, user: UserKey, change: ReceiptKept, removed: Removed) -> None:
        receipt = change.receipt
        answer = receipt.answer if receipt.answer != b"" else removed_answer(removed, receipt.at_ms)
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
            messages=history.remove(self._connection, user_no),
            interruptions=delete("DELETE FROM interruptions WHERE user_no = ?", user_no),
        )
        delete("DELETE FROM applied WHERE user_no = ?", user_no)
        delete("UPDATE receipts SET answer = NULL WHERE user_hash = ?", user_hash(user))
        delete("DELETE FROM users WHERE user_no = ?", user_no)
        epoch = head.version.epoch + 1
        head.user_no, head.version, head.seq, head.updated_ms = None, Version(epoch, 0), 0, 0
        self._connection.execute(_SET_ERASURE, (user_hash(user), epoch, change.at_ms, *origin))
        return removed
