"""The last messages of a record: how they move on, and how much memory they take."""

from __future__ import annotations

from collections.abc import Sequence

from samvad.records import StoredMessage, UserRecord

MESSAGE_OVERHEAD_BYTES = 300  # of the Python objects around a message's bytes
_RECORD_OVERHEAD_BYTES = 1_500
_SESSION_OVERHEAD_BYTES = 500
_LATE_MAX = 16  # messages of a record that stand apart

_Messages = tuple[StoredMessage, ...]


def moved(record: UserRecord, added: _Messages, cap: int) -> tuple[_Messages, int, _Messages, int]:
    """The `early`, `start` and `late` of a record to which messages are added, and the bytes that fall out of it.

    The window holds the last `cap` messages, less the tool results at its start whose call has fallen off.
    """
    early, start, late = record.early, record.start, record.late + added
    if len(late) > _LATE_MAX:
        early, start, late = early[start:] + late, 0, ()
    many = len(early) - start + len(late)
    fallen_bytes = 0
    while many:
        if start == len(early):
            early, start, late = late, 0, ()
        first = early[start]
        if many <= cap and (first.answers is None or first.seq == 1):
            break
        fallen_bytes += len(first.body) + MESSAGE_OVERHEAD_BYTES
        start += 1
        many -= 1
    return early, start, late, fallen_bytes


def size_bytes(record: UserRecord) -> int:
    """About how much memory a record takes."""
    size = _RECORD_OVERHEAD_BYTES + record.window_bytes
    if record.state is not None:
        size += len(record.state.body)
    if record.profile is not None:
        size += len(record.profile.preferences)
    if record.sessions:
        size += sum(len(s.body) + _SESSION_OVERHEAD_BYTES for s in record.sessions.values())
    return size


def window_bytes(messages: Sequence[StoredMessage]) -> int:
    """About how much memory some messages take."""
    return sum([MESSAGE_OVERHEAD_BYTES + len(message.body) for message in messages])
