"""Many changes of one user as few: what waits for the store becomes one small atomic commit."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from samvad.records import (
    Change,
    Commit,
    Erased,
    InterruptionsRemoved,
    InterruptionsTrimmed,
    MessagesAdded,
    ProfileSet,
    ReceiptKept,
    SessionRemoved,
    SessionSet,
    SessionTouched,
    StateSet,
    StoredMessage,
    Trimmed,
)

_REMOVING = Erased | SessionRemoved | InterruptionsRemoved | Trimmed | InterruptionsTrimmed


def coalesce(changes: Iterable[Change]) -> tuple[Change, ...]:
    """The fewest changes that come to the same: the last state, profile and session, and all messages in one run.

    Nothing is carried over an `Erased`: it stands in a commit of its own.
    """
    profile: ProfileSet | None = None
    state: StateSet | None = None
    messages: list[StoredMessage] = []
    unproven: list[str] = []
    receipts: list[Change] = []
    rest: list[Change] = []  # sessions and interruptions, in order
    session_at: dict[str, int] = {}
    for change in changes:
        if isinstance(change, MessagesAdded):
            messages += change.messages
            unproven += change.unproven
        elif isinstance(change, StateSet):
            state = change
        elif isinstance(change, ProfileSet):
            profile = change
        elif isinstance(change, ReceiptKept):
            receipts.append(change)
        elif isinstance(change, Erased):
            raise ValueError("an erasing is committed by itself")
        elif isinstance(change, SessionSet):
            _replace(rest, session_at, change.session.id, change)
        elif isinstance(change, SessionTouched):
            at = session_at.get(change.session_id)
            before = None if at is None else rest[at]
            if isinstance(before, SessionSet):
                touched = msgspec.structs.replace(before.session, active_ms=change.active_ms)
                _replace(rest, session_at, change.session_id, SessionSet(touched))
            else:
                _replace(rest, session_at, change.session_id, change)
        else:
            if isinstance(change, SessionRemoved):
                session_at.pop(change.session_id, None)
            rest.append(change)
    merged: list[Change] = []
    if profile is not None:
        merged.append(profile)
    if messages:
        merged.append(MessagesAdded(tuple(messages), tuple(unproven)))
    if state is not None:
        merged.append(state)
    return (*merged, *rest, *receipts)


def _replace(rest: list[Change], session_at: dict[str, int], session_id: str, change: Change) -> None:
    at = session_at.get(session_id)
    if at is None:
        session_at[session_id] = len(rest)
        rest.append(change)
    else:
        rest[at] = change


def erases(commit: Commit) -> bool:
    """Whether a commit erases the user."""
    return any(isinstance(change, Erased) for change in commit.changes)


def removes(commit: Commit) -> bool:
    """Whether the caller is told how much a commit removed."""
    return any(isinstance(change, _REMOVING) for change in commit.changes)


def steps_of(commit: Commit) -> int:
    """By how much a commit moves the user's revision."""
    moved = any(not isinstance(change, ReceiptKept | Erased) for change in commit.changes)
    return commit.steps if moved else 0
