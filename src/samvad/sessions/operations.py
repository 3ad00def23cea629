"""What can happen to a user, as plain records.

An operation says what the caller wants; `user_log.apply` decides what that changes. It holds everything
that must stay the same when it is applied again to a newer record (ids, times, the receipt's key).
"""

from __future__ import annotations

from typing import Any

import msgspec

from samvad.records import StoredInterruption, StoredSession, Version


class ReceiptKey(msgspec.Struct, frozen=True):
    """Under which key the answer to this operation is kept, and the fingerprint of the request.

    `unproven`: the store could not be asked whether the key was used before. `as_of` is the number of the load of the
    user's record that came before it was asked (-1: that does not matter): on a record that was loaded later, which
    may hold what another replica did under this key, the answer says nothing.
    """

    key: bytes
    fingerprint: bytes
    unproven: bool = False
    as_of: int = -1


class Operation(msgspec.Struct, kw_only=True, tag=True, gc=False):
    """Something that is to happen to a user, asked for at `at_ms`."""

    at_ms: int
    receipt: ReceiptKey | None = None


class NewMessage(msgspec.Struct, frozen=True, gc=False):
    """A message before it has a place. `fields` is all that the caller gave beside id, role and content.

    Without an `id`, `random` (20 hexadecimal digits) goes into the one that is made; `made` is that id once it
    has been told, so that the message keeps it wherever it ends up. `at_ms` is given only where messages are
    imported with the time at which they were said.
    """

    id: str | None
    random: str
    role: str
    content: str
    fields: dict[str, Any]
    at_ms: int | None = None
    made: str | None = None


class AppendMessages(Operation):
    """Messages are appended, all or none. `known` are ids found in the store, with their seq."""

    messages: tuple[NewMessage, ...]
    known: dict[str, int] = {}


class SaveState(Operation):
    """The state is merged with `patch` (RFC 7396), or replaced by it.

    `if_match` are the acceptable ETags (`*`: any that is there); `if_absent` demands that there is none. `reduced`:
    what counts as content was dropped.
    """

    patch: dict[str, Any]
    replace: bool = False
    if_match: tuple[str, ...] | None = None
    if_absent: bool = False
    reduced: bool = False


class SavePreferences(Operation):
    """The preferences are merged with `patch` (RFC 7396)."""

    patch: dict[str, Any]


class KeepContent(Operation):
    """From now on the content of what the user says is kept, or not; `patch` goes into the preferences with it."""

    kept: bool
    patch: dict[str, Any] = {}


class SaveSession(Operation):
    """A session is created, or merged with `fields` and opened again. `prior` is what the store has of it.

    `unproven`: the store could not be asked; the session may be there, and even be another user's.
    """

    session_id: str
    user_id: str
    fields: dict[str, Any]
    prior: StoredSession | None = None
    unproven: bool = False


def is_unproven(operation: Operation | None) -> bool:
    """Whether something must be asked of the store before it may have the operation."""
    if operation is None:
        return False
    by_key = operation.receipt is not None and operation.receipt.unproven
    return by_key or (isinstance(operation, SaveSession) and operation.unproven)


def is_conditional(operation: Operation | None) -> bool:
    """Whether an erasing may turn out not to be one: then nothing beside the record may go before it."""
    return isinstance(operation, EraseUser) and operation.only is not None


def awaits_store(operation: Operation | None) -> bool:
    """Whether nobody is to be told that it was done before the store has it, however long that takes."""
    return isinstance(operation, Retain) or is_conditional(operation)


class EndSession(Operation):
    """A session ends."""

    session_id: str
    prior: StoredSession | None = None


class RemoveSession(Operation):
    """A session is deleted, with its recorded interruptions."""

    session_id: str
    prior: StoredSession | None = None


class RecordInterruption(Operation):
    """An interruption is recorded."""

    interruption: StoredInterruption


class ForgetInterruptions(Operation):
    """The recorded interruptions of a session are removed."""

    session_id: str


class Retain(Operation):
    """What a retention rule names goes, of the life `epoch` alone: another life is not what was looked at.

    Messages in front of `before_seq`, interruptions from before `interruptions_before_ms`, and sessions, each by its
    id and when it was last active: one that was used since stays. What is journaled may have moved since the look:
    where `keep` or `said_before_ms` are given, a message goes only if there are `keep` behind it, or it was said before
    that moment.
    """

    epoch: int
    before_seq: int = 0
    keep: int = 0
    said_before_ms: int = 0
    interruptions_before_ms: int = 0
    sessions: tuple[tuple[str, int], ...] = ()


class EraseUser(Operation):
    """Everything of the user is removed; with `only`, where nothing was written since the record had that version."""

    only: Version | None = None


AnyOperation = (
    AppendMessages
    | SaveState
    | SavePreferences
    | KeepContent
    | SaveSession
    | EndSession
    | RemoveSession
    | RecordInterruption
    | ForgetInterruptions
    | Retain
    | EraseUser
)
