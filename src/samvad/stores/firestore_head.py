"""The head: the one document that every commit of a user goes through, and all that is to be known at once.

It holds the version, the newest messages (the tail), where the sealed segments begin, the open sessions and
when they were last used, and which commits were applied. A flush of messages alone is one write of it; so is
the activity of a session, whose own document may lag behind by a bounded time.

It also says what a life never had, so that an erasing need not look for it: ended sessions, interruptions, answers.
That stands with the token of the newest write, as whoever writes without knowing of it (an earlier version, beside
this one while it is being replaced) puts a token of its own there: what is not said is not known.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import msgspec

from samvad.records import Erasure, StoredMessage, StoredProfile, StoredState, UserKey
from samvad.stores import firestore_documents as documents
from samvad.stores.firestore_documents import Fields

LAYOUT: Final = 2
TAIL_MESSAGES_MAX: Final = 100
TAIL_BYTES_MAX: Final = 256 * 1024
SEGMENT_MESSAGES_MAX: Final = 100
SEGMENT_BYTES_MAX: Final = 512 * 1024
SEGMENTS_LISTED_MAX: Final = 64
SESSIONS_LISTED_MAX: Final = 64
REPLICAS_MAX: Final = 16
TOKENS_MAX: Final = 16
_OVERHEAD_BYTES: Final = 2_000
_NEVER: Final = Erasure()


class Torn(Exception):
    """What was read belongs to another moment than the head: it is to be read again."""


class ListedSession(msgspec.Struct, frozen=True, gc=False):
    """When an open session was last used, and what its own document says of that (`written_ms`)."""

    active_ms: int
    written_ms: int


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """A user's head. A new one is made for each commit; none is ever altered.

    A user that is not there has a head with `revision` 0. `update_time` is None where there is no document;
    `erasure_time` is then that of the erasures document, if there is one. `older` is true of a document (or a
    state without one) of the older layout: the next write replaces it. `ended`, `interrupted` and `answered` are
    whether there may be sessions that have ended, interruptions, and receipts with an answer: once true, or not known,
    they stay so for this life.
    """

    epoch: int
    revision: int = 0
    seq: int = 0
    update_time: Any = None
    erasure_time: Any = None
    older: bool = False
    older_state: StoredState | None = None
    profile: StoredProfile | None = None
    state_ms: int | None = None
    tail: tuple[StoredMessage, ...] = ()
    segments: tuple[str, ...] = ()
    segments_more: bool = False
    sessions: dict[str, ListedSession] = msgspec.field(default_factory=dict)
    sessions_more: bool = False
    ended: bool = True
    interrupted: bool = True
    answered: bool = True
    applied: dict[str, tuple[int, int]] = msgspec.field(default_factory=dict)  # number, at which revision
    tokens: tuple[tuple[int, str], ...] = ()  # revision after the write, its token
    erased: Erasure = _NEVER  # the one that ended the life before
    trimmed: int = 0  # the last seq that was trimmed: the history begins behind it

    @property
    def there(self) -> bool:
        """Whether the user has anything."""
        return self.revision > 0

    @property
    def lists_all_sessions(self) -> bool:
        """Whether no session of this life has a document but those that are listed here."""
        return not (self.sessions_more or self.ended)

    @property
    def tail_first(self) -> int:
        """The seq of the first message that is in the head (one past the last where none is)."""
        return self.seq - len(self.tail) + 1

    @property
    def size_bytes(self) -> int:
        """About how much memory this takes."""
        size = _OVERHEAD_BYTES + sum(len(message.body) + 300 for message in self.tail)
        size += 100 * (len(self.sessions) + len(self.segments))
        return size + (len(self.profile.preferences) if self.profile else 0)

    def active_ms(self) -> int | None:
        """When the user was last heard of, by a state or an open session."""
        times = [listed.active_ms for listed in self.sessions.values()]
        if self.state_ms is not None:
            times.append(self.state_ms)
        return max(times, default=None)

    def wrote(self, tokens: Collection[str]) -> str | None:
        """Which of these tokens is that of a write that was applied, if one is."""
        return next((token for _, token in self.tokens if token in tokens), None)

    def remembers(self, revision: int) -> bool:
        """Whether every write after `revision` is still known by its token."""
        return len(self.tokens) < TOKENS_MAX or self.tokens[0][0] <= revision


def erasure_from(document: Any) -> Erasure:
    """The erasing that a document of `erasures` tells of; what an earlier version wrote says only when it was."""
    fields = documents.fields_of(document)
    return Erasure(fields.get("erasedMs") or 0, fields.get("replica") or "", fields.get("number", -1))


def absent(epoch: int, erasure_time: Any, older_state: StoredState | None, erased: Erasure = _NEVER) -> Head:
    """The head of a user without a document; a state of the older layout may be there all the same."""
    if older_state is None:
        return Head(
            epoch=epoch,
            erasure_time=erasure_time,
            erased=erased,
            ended=False,
            interrupted=False,
            answered=False,
        )
    return Head(
        epoch=epoch,
        revision=1,
        erasure_time=erasure_time,
        erased=erased,
        older=True,
        older_state=older_state,
        state_ms=older_state.updated_ms,
    )


def of_moment(document: Any, head: Head) -> Any:
    """The document, if the head can be of the same moment; else Torn."""
    if document is None or document.fields["revision"].integer_value > head.revision:
        raise Torn
    return document


def head_from(user: UserKey, document: Any) -> Head:
    """A head from its document, of this layout or the older one."""
    if "layout" not in document.fields:
        return _older(user, document)
    get = document.fields
    tail = get["tail"].map_value.fields
    fields = {
        name: documents.from_value(get[name])
        for name in ("segments", "sessions", "applied", "tokens", "stateMs", "erased")
        if name in get
    }
    profile = None
    if get["hasProfile"].boolean_value:
        profile = StoredProfile(
            get["preferences"].bytes_value, get["createdMs"].integer_value, get["updatedMs"].integer_value
        )
    messages = [
        documents.unpacked_message(int(name[1:]), packed.bytes_value) for name, packed in tail.items()
    ]
    messages.sort(key=lambda message: message.seq)
    tokens = fields.get("tokens") or [{}]
    return Head(
        epoch=get["epoch"].integer_value,
        revision=get["revision"].integer_value,
        seq=get["seq"].integer_value,
        update_time=document.update_time,
        profile=profile,
        state_ms=fields.get("stateMs"),
        tail=tuple(messages),
        segments=tuple(fields.get("segments") or ()),
        segments_more=get["segmentsMore"].boolean_value,
        trimmed=get["trimmed"].integer_value if "trimmed" in get else 0,
        sessions={name[1:]: ListedSession(*times) for name, times in (fields.get("sessions") or {}).items()},
        sessions_more=get["sessionsMore"].boolean_value,
        ended=tokens[-1].get("ended", True),
        interrupted=tokens[-1].get("interrupted", True),
        answered=tokens[-1].get("answered", True),
        applied={each["replica"]: (each["number"], each["revision"]) for each in fields.get("applied") or ()},
        tokens=tuple((each["revision"], each["token"]) for each in fields.get("tokens") or ()),
        erased=Erasure(**fields["erased"]) if "erased" in fields else _NEVER,
    )


def _older(user: UserKey, document: Any) -> Head:
    fields = documents.fields_of(document)
    created_ms = documents.older_time_ms(fields.get("createdAt"))
    updated_ms = documents.older_time_ms(fields.get("lastUpdated"))
    if created_ms is None:
        created_ms = document.create_time.ToMilliseconds()
    messages = documents.older_messages(user, fields.get("conversationHistory"), created_ms)
    times = [created_ms, updated_ms or 0, *(message.at_ms for message in messages)]
    preferences = fields.get("preferences")
    profile = StoredProfile(
        documents.as_json(preferences if isinstance(preferences, dict) else {}),
        created_ms,
        max(times) if updated_ms is None else updated_ms,
    )
    return Head(
        epoch=0,
        revision=1,
        seq=len(messages),
        update_time=document.update_time,
        older=True,
        profile=profile,
        tail=messages,
    )


def sealed_runs(tail: tuple[StoredMessage, ...]) -> tuple[list[tuple[StoredMessage, ...]], int]:
    """The runs that a tail must hand over to segments of their own, and how many messages that are."""
    runs: list[tuple[StoredMessage, ...]] = []
    start = 0
    left_bytes = sum(len(message.body) for message in tail)
    while len(tail) - start > TAIL_MESSAGES_MAX or (left_bytes > TAIL_BYTES_MAX and start < len(tail)):
        end, run_bytes = start, 0
        while end < len(tail) and end - start < SEGMENT_MESSAGES_MAX:
            run_bytes += len(tail[end].body)
            if run_bytes > SEGMENT_BYTES_MAX and end > start:
                break
            end += 1
        runs.append(tail[start:end])
        left_bytes -= sum(len(message.body) for message in tail[start:end])
        start = end
    return runs, start


def head_fields(user: UserKey, head: Head) -> Fields:
    """All fields of a head's document, but for the tail."""
    profile = head.profile
    tokens: list[Fields] = [{"revision": revision, "token": token} for revision, token in head.tokens]
    if tokens:
        tokens[-1] |= {"ended": head.ended, "interrupted": head.interrupted, "answered": head.answered}
    fields: Fields = {
        "layout": LAYOUT,
        "tenant": user.tenant,
        "userId": user.user_id,
        "epoch": head.epoch,
        "revision": head.revision,
        "seq": head.seq,
        "hasProfile": profile is not None,
        "segmentsMore": head.segments_more,
        "segments": list(head.segments),
        "sessionsMore": head.sessions_more,
        # A name may not be `__…__`: each begins with an s.
        "sessions": {"s" + name: [s.active_ms, s.written_ms] for name, s in head.sessions.items()},
        "applied": [
            {"replica": replica, "number": number, "revision": revision}
            for replica, (number, revision) in head.applied.items()
        ],
        "tokens": tokens,
    }
    if profile is not None:
        fields["preferences"] = profile.preferences
        fields["createdMs"] = profile.created_ms
        fields["updatedMs"] = profile.updated_ms
    if head.state_ms is not None:
        fields["stateMs"] = head.state_ms
    if head.erased.at_ms:
        fields["erased"] = head.erased._asdict()
    if head.trimmed:
        fields["trimmed"] = head.trimmed
    active_ms = head.active_ms()
    if active_ms is not None:
        fields["activeMs"] = active_ms
    return fields


def _tail_fields(messages: tuple[StoredMessage, ...]) -> Fields:
    return {f"m{message.seq}": documents.packed_message(message) for message in messages}


def head_write(name: str, user: UserKey, before: Head, after: Head) -> Any:
    """The write that makes `after` of `before`, on condition that the document is the one that was read.

    Of a document that is there only what changed is written: of the tail, the messages that are new.
    """
    fields = head_fields(user, after)
    if before.update_time is None or before.older:
        write = documents.stamped_write(
            documents.set_write(name, fields | {"tail": _tail_fields(after.tail)})
        )
        if before.update_time is None:
            return documents.only_if_absent(write)
        return documents.only_if_unchanged(write, before.update_time)
    there = head_fields(user, before)
    mask = [field for field in fields.keys() | there.keys() if fields.get(field) != there.get(field)]
    changed = {field: fields[field] for field in mask if field in fields}
    if after.tail_first != before.tail_first:
        changed["tail"] = _tail_fields(after.tail)
        mask.append("tail")
    elif len(after.tail) > len(before.tail):
        changed["tail"] = _tail_fields(after.tail[len(before.tail) :])
        mask += [f"tail.{field}" for field in changed["tail"]]
    write = documents.stamped_write(documents.set_write(name, changed, mask))
    return documents.only_if_unchanged(write, before.update_time)
