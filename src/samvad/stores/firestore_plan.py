"""From commits to one atomic batch of writes: pure rules over a head and a few facts that were read.

A plan takes commits one by one. One that must be refused (another version, a message that is there, another
user's session) raises before it leaves a trace, so that the others of its batch are not touched by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from samvad.errors import MessageExists, SessionTaken, StaleVersion
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
    StoredProfile,
    StoredReceipt,
    StoredSession,
    Trimmed,
    UserKey,
    Version,
    only_receipts,
    removed_answer,
    user_hash,
)
from samvad.stores import firestore_documents as documents
from samvad.stores import firestore_head as heads
from samvad.stores import firestore_names as names_of
from samvad.stores.firestore_head import Head, ListedSession
from samvad.stores.firestore_history import Segment
from samvad.stores.firestore_names import Names


class Facts:
    """What must be known beside the head.

    `sessions` are documents by id (None: there is none), `foreign` the ids that belong to other users who are
    there; a session that is in neither is taken for new, and the batch fails if it is not. `interruptions` are
    names of documents by session id, `old_interruptions` by the moment that they are older than; `ids` tells where
    messages of some ids stand in sealed segments. `segments` are those in front of where the history is to begin, and
    `cut` what is said in those of them that go in part, by name.
    """

    def __init__(self) -> None:
        self.sessions: dict[str, Any] = {}
        self.foreign: set[str] = set()
        self.interruptions: dict[str, list[str]] = {}
        self.ids: dict[str, int] = {}
        self.old_interruptions: dict[int, list[str]] = {}
        self.segments: list[Segment] = []
        self.cut: dict[str, list[StoredMessage]] = {}


class Batch(NamedTuple):
    """What a plan comes to.

    `writes` must be done all at once; `head_at` is which of them is the head's. `staged` are segments that are
    written beforehand where all would be too much for one request: their content, and what makes it count.
    """

    writes: list[Any]
    head_at: int | None
    head: Head
    segments: list[tuple[Any, Any]]


class Plan:
    """Commits of one user upon a head. `session_lag_ms` is by how much a session's document may lag behind."""

    def __init__(self, names: Names, user: UserKey, head: Head, facts: Facts, session_lag_ms: int) -> None:
        self._names = names
        self._user = user
        self._facts = facts
        self._lag_ms = session_lag_ms
        self._life = names_of.life(user, head.epoch)
        # By name: the fields to write and which of them (None: all); None to delete.
        self._writes: dict[str, tuple[documents.Fields, list[str] | None] | None] = {}
        self._keeps_receipts = False
        self._answered_ms = 0  # when the newest answer was given that is kept
        self._stamped: set[str] = set()  # these say at which revision they were written
        # By name: the update time of the document that is replaced; None where there must be none.
        self._conditions: dict[str, Any] = {}
        self._sessions: dict[str, StoredSession | None] = {}
        self._interruptions: dict[str, set[str]] = {}
        self._recorded: dict[str, int] = {}  # by name: when, of interruptions that this batch writes
        self.before = head
        self.head = head

    # --- one commit ------------------------------------------------------------------------------------

    def take(self, commit: Commit) -> Committed:
        """Add a commit to the batch; StaleVersion, MessageExists or SessionTaken where it must not be."""
        head, origin = self.head, commit.origin
        if origin is not None and head.applied.get(origin.replica, (-1, 0))[0] >= origin.number:
            return Committed(Version(head.epoch, head.revision), head.seq)
        if commit.expected != Version(head.epoch, head.revision) and not only_receipts(commit):
            raise StaleVersion
        self._refuse(commit.changes)
        removed = NOTHING_REMOVED
        moves = False
        for change in commit.changes:
            if isinstance(change, ReceiptKept):
                self._receipt(change.receipt, removed)
            else:
                moves = True
                removed = self._add(change, removed)
        revision = self.head.revision + (commit.steps if moves else 0)
        applied = self.head.applied
        if origin is not None and revision:
            applied = {**applied, origin.replica: (origin.number, revision)}
            while len(applied) > heads.REPLICAS_MAX:
                del applied[min(applied, key=lambda replica: applied[replica][1])]
        if moves or applied is not self.head.applied:
            self._change(revision=revision, applied=applied)
        return Committed(Version(self.head.epoch, self.head.revision), self.head.seq, removed)

    def _change(self, **fields: Any) -> None:
        self.head = msgspec.structs.replace(self.head, **fields)

    def _refuse(self, changes: Iterable[Change]) -> None:
        last_seq = self.head.seq
        for change in changes:
            if isinstance(change, Erased):
                raise ValueError("an erasing is committed by itself")
            if isinstance(change, Trimmed):
                last_seq = max(last_seq, change.before_seq - 1)
            elif isinstance(change, MessagesAdded):
                if change.messages[0].seq != last_seq + 1:
                    raise StaleVersion
                if change.unproven:
                    known = {message.id: message.seq for message in self.head.tail}
                    for message_id in change.unproven:
                        seq = known.get(message_id) or self._facts.ids.get(message_id)
                        if seq is not None and seq > self.head.trimmed:
                            raise MessageExists(message_id, seq)
            elif isinstance(change, SessionSet) and self._is_foreign(change.session.id):
                raise SessionTaken

    def _add(self, change: Change, removed: Removed) -> Removed:
        if isinstance(change, MessagesAdded):
            self._messages(change.messages)
        elif isinstance(change, StateSet):
            fields = documents.state_fields(self._user, self.head.epoch, change.state)
            self._set(self._names.state(self._user), fields, stamped=True)
            self._change(state_ms=change.state.updated_ms, older_state=None)
        elif isinstance(change, ProfileSet):
            self._change(profile=change.profile)
        elif isinstance(change, SessionSet):
            self._set_session(change.session)
        elif isinstance(change, SessionTouched):
            self._touch(change.session_id, change.active_ms)
        elif isinstance(change, SessionRemoved):
            if self._is_ours(change.session_id):
                removed = self._forget_interruptions(change.session_id, removed)
                self._writes[self._session_name(change.session_id)] = None
                self._sessions[change.session_id] = None
                self._unlist(change.session_id)
                removed = removed._replace(sessions=removed.sessions + 1)
        elif isinstance(change, InterruptionAdded):
            kept = change.interruption
            if self._is_ours(kept.session_id):
                name = self._names.interruption(self._user.tenant, kept.session_id, kept.id)
                self._set(name, documents.interruption_fields(self._user, self._life, kept))
                self._interruptions_of(kept.session_id).add(name)
                self._recorded[name] = kept.at_ms
                self._change(interrupted=True)
        elif isinstance(change, InterruptionsRemoved) and self._is_ours(change.session_id):
            removed = self._forget_interruptions(change.session_id, removed)
        elif isinstance(change, Trimmed):
            removed = self._trim(change.before_seq, removed)
        elif isinstance(change, InterruptionsTrimmed):
            removed = self._trim_interruptions(change.before_ms, removed)
        return removed

    def _trim(self, before_seq: int, removed: Removed) -> Removed:
        """The tail's part now; the segments' when the batch is made."""
        head, last = self.head, before_seq - 1
        if last <= head.trimmed:
            return removed
        count = min(last, head.seq) - head.trimmed
        tail = tuple([message for message in head.tail if message.seq > last])
        self._change(trimmed=last, seq=max(head.seq, last), tail=tail)
        return removed._replace(messages=removed.messages + count)

    def _trim_interruptions(self, before_ms: int, removed: Removed) -> Removed:
        stored = self._facts.old_interruptions.get(before_ms, ())
        old = {
            name for name in stored if name not in self._recorded and self._writes.get(name, ()) is not None
        }
        old |= {name for name, at_ms in self._recorded.items() if at_ms < before_ms}
        for name in old:
            self._writes[name] = None
            self._recorded.pop(name, None)
        for names in self._interruptions.values():
            names -= old
        return removed._replace(interruptions=removed.interruptions + len(old))

    def _messages(self, messages: tuple[StoredMessage, ...]) -> None:
        profile = self.head.profile
        if profile is not None:
            updated_ms = max(profile.updated_ms, *(message.at_ms for message in messages))
            profile = StoredProfile(profile.preferences, profile.created_ms, updated_ms)
        self._change(seq=messages[-1].seq, tail=self.head.tail + messages, profile=profile)

    def _receipt(self, receipt: StoredReceipt, removed: Removed) -> None:
        if receipt.answer == b"":
            receipt = msgspec.structs.replace(receipt, answer=removed_answer(removed, receipt.at_ms))
        hashed_life = names_of.hashed_life(self._user, self.head.epoch)
        self._keeps_receipts = True
        if receipt.answer is not None:
            self._answered_ms = max(self._answered_ms, receipt.at_ms, 1)
        self._set(self._names.receipt(receipt.key), documents.receipt_fields(hashed_life, receipt))

    def _set(self, name: str, fields: documents.Fields, *, stamped: bool = False) -> None:
        self._writes[name] = (fields, None)
        if stamped:
            self._stamped.add(name)

    # --- sessions --------------------------------------------------------------------------------------

    def _session_name(self, session_id: str) -> str:
        return self._names.session(self._user.tenant, session_id)

    def _document(self, session_id: str) -> Any:
        return self._facts.sessions.get(session_id)

    def _is_ours(self, session_id: str) -> bool:
        if session_id in self._sessions:
            return self._sessions[session_id] is not None
        if session_id in self.head.sessions:
            return True
        document = self._document(session_id)
        return document is not None and document.fields["life"].string_value == self._life

    def _is_foreign(self, session_id: str) -> bool:
        return session_id in self._facts.foreign and session_id not in self._sessions

    def _stored(self, session_id: str) -> StoredSession | None:
        """A session of ours, if its document was read or is being written."""
        if session_id in self._sessions:
            return self._sessions[session_id]
        document = self._document(session_id)
        return None if document is None else documents.session_from(document)

    def _set_session(self, session: StoredSession) -> None:
        name = self._session_name(session.id)
        if session.id not in self._sessions and not self._is_ours(session.id):
            document = self._document(session.id)  # of a life that is over, if it is there
            self._conditions[name] = None if document is None else document.update_time
        self._set(name, documents.session_fields(self._user, self._life, session), stamped=True)
        self._sessions[session.id] = session
        if session.ended_ms is None:
            self._list(session.id, ListedSession(session.active_ms, session.active_ms))
        else:
            self._unlist(session.id)
            self._change(ended=True)

    def _touch(self, session_id: str, active_ms: int) -> None:
        if not self._is_ours(session_id):
            return
        listed = self.head.sessions.get(session_id)
        if listed is not None and 0 <= active_ms - listed.written_ms <= self._lag_ms:
            self._list(session_id, ListedSession(active_ms, listed.written_ms))
            return
        self._write_active(session_id, active_ms)
        stored = self._stored(session_id)
        if listed is not None or (stored is not None and stored.ended_ms is None):
            self._list(session_id, ListedSession(active_ms, active_ms))

    def _write_active(self, session_id: str, active_ms: int) -> None:
        name = self._session_name(session_id)
        session = self._sessions.get(session_id)
        if session is None:
            self._writes[name] = ({"activeMs": active_ms}, ["activeMs", "revision"])
            self._stamped.add(name)
        else:  # it is being written whole
            session = msgspec.structs.replace(session, active_ms=active_ms)
            self._sessions[session_id] = session
            self._set(name, documents.session_fields(self._user, self._life, session), stamped=True)

    def _list(self, session_id: str, listed: ListedSession) -> None:
        sessions = {**self.head.sessions, session_id: listed}
        more = self.head.sessions_more
        if len(sessions) > heads.SESSIONS_LISTED_MAX:
            oldest = min(sessions, key=lambda name: sessions[name].active_ms)
            gone = sessions.pop(oldest)
            more = True
            if gone.active_ms != gone.written_ms:
                self._write_active(oldest, gone.active_ms)
        self._change(sessions=sessions, sessions_more=more)

    def _unlist(self, session_id: str) -> None:
        if session_id in self.head.sessions:
            sessions = {name: each for name, each in self.head.sessions.items() if name != session_id}
            self._change(sessions=sessions)

    def _interruptions_of(self, session_id: str) -> set[str]:
        stored = self._facts.interruptions.get(session_id, ())
        there = {name for name in stored if self._writes.get(name, ()) is not None}
        return self._interruptions.setdefault(session_id, there)

    def _forget_interruptions(self, session_id: str, removed: Removed) -> Removed:
        gone = self._interruptions_of(session_id)
        for name in gone:
            self._writes[name] = None
            self._recorded.pop(name, None)
        count = len(gone)
        gone.clear()
        return removed._replace(interruptions=removed.interruptions + count)

    # --- the batch -------------------------------------------------------------------------------------

    def batch(self, token: str) -> Batch:
        """All writes of the commits taken; those of the head carry `token`, by which they are known later."""
        writes: list[Any] = []
        segments: list[tuple[Any, Any]] = []
        head_at = None
        before = self.before
        # A receipt may hold what was said: it, too, must belong to the life that goes on.
        if self.head is not before or (self._keeps_receipts and before.there):
            if self.head.older and self.head.older_state is not None:
                fields = documents.state_fields(self._user, self.head.epoch, self.head.older_state)
                self._set(self._names.state(self._user), fields, stamped=True)
            if self.head.trimmed > before.trimmed:
                self._trim_segments()
            segments = self._seal()
            tokens = (*before.tokens, (self.head.revision, token))[-heads.TOKENS_MAX :]
            answered = self.head.answered or self._answered_ms > 0
            self._change(tokens=tokens, older=False, older_state=None, erasure_time=None, answered=answered)
            head_at = 0
            writes.append(heads.head_write(self._names.head(self._user), self._user, before, self.head))
            if before.update_time is None:
                writes.append(self._guard(before))
        elif self._answered_ms:  # nobody's head can tell of it
            mark = self._names.stray_receipts(user_hash(self._user))
            writes.append(documents.at_least_write(mark, "atMs", self._answered_ms))
        for name, content in self._writes.items():
            if content is None:
                write = documents.delete_write(name)
            else:
                fields, mask = content
                stamp = {"revision": self.head.revision} if name in self._stamped else {}
                write = documents.set_write(name, fields | stamp, mask)
            if name in self._conditions:
                condition = self._conditions[name]
                if condition is None:
                    documents.only_if_absent(write)
                else:
                    documents.only_if_unchanged(write, condition)
            writes.append(write)
        return Batch(writes, head_at, self.head, segments)

    def _guard(self, before: Head) -> Any:
        """A user who is not there must not come back into a life that was ended meanwhile: look at the erasure."""
        name = self._names.erasure(self._user)
        if before.erasure_time is None:
            return documents.only_if_absent(documents.delete_write(name))
        write = documents.set_write(name, {"rebornEpoch": before.epoch}, ["rebornEpoch"])
        return documents.only_if_unchanged(write, before.erasure_time)

    def _trim_segments(self) -> None:
        """Remove the segments in front of where the history begins; of one that goes in part, write the rest anew."""
        last = self.head.trimmed
        listed = list(self.head.segments)
        for segment in self._facts.segments:
            if segment.first > last:
                continue
            self._writes[segment.name] = None
            known_by = segment.name.rsplit("/", 1)[1].split("-", 1)[1]
            rest: list[str] = []
            if segment.last > last:
                messages = [m for m in self._facts.cut[segment.name] if m.seq > last]
                packed = documents.packed_messages(messages)
                rest = [documents.segment_name(messages, packed)]
                fields = documents.segment_content(self.head.epoch, packed)
                fields |= documents.segment_place(self.head.epoch, messages)
                self._set(self._names.segment(self._user, self.head.epoch, rest[0]), fields)
            if known_by in listed:
                at = listed.index(known_by)
                listed[at : at + 1] = rest
        more = self.head.segments_more and bool(listed) and documents.first_seq(listed[0]) > last + 1
        self._change(segments=tuple(listed), segments_more=more)

    def _seal(self) -> list[tuple[Any, Any]]:
        runs, count = heads.sealed_runs(self.head.tail)
        if not runs:
            return []
        writes = []
        listed = list(self.head.segments)
        for run in runs:
            packed = documents.packed_messages(run)
            segment = documents.segment_name(run, packed)
            listed.append(segment)
            name = self._names.segment(self._user, self.head.epoch, segment)
            where = documents.segment_place(self.head.epoch, run)
            content = documents.set_write(name, documents.segment_content(self.head.epoch, packed))
            writes.append((content, documents.set_write(name, where, list(where))))
        self._change(
            tail=self.head.tail[count:],
            segments=tuple(listed[-heads.SEGMENTS_LISTED_MAX :]),
            segments_more=self.head.segments_more or len(listed) > heads.SEGMENTS_LISTED_MAX,
        )
        return writes
