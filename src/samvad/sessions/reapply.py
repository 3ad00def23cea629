"""An operation applied anew: to what the store has now, after what other replicas wrote, or after a restart."""

from __future__ import annotations

import logging

import msgspec

from samvad.errors import MessageExists, SamvadError
from samvad.logs import user_hash
from samvad.records import ANY_VERSION, Commit, ReceiptKept, StoredReceipt, UserRecord
from samvad.sessions import user_log
from samvad.sessions.content import to_keep
from samvad.sessions.flush_lane import Entry
from samvad.sessions.operations import (
    AppendMessages,
    EndSession,
    Operation,
    RemoveSession,
    SaveSession,
    SaveState,
)
from samvad.sessions.user_log import Rules

_log = logging.getLogger(__name__)


def is_over(entry: Entry, loaded: UserRecord, skew_ms: int) -> bool:
    """Whether an entry belongs to a life of the user that is over, `loaded` being what the store has.

    An entry that was made in the life that goes on says so by its epoch. Of the replica that erased, the number
    tells whether it came before. Of any other it is the clock: what was asked for until the erasing was, and no more
    than `skew_ms` after it, counts as before. (Whoever erases is answered only when twice that time has passed: as
    long as the clocks of two replicas differ by no more than `skew_ms`, what was acknowledged before the request goes,
    and what is asked for after the answer stays.)
    """
    if entry.commit.operation is None or entry.epoch == loaded.version.epoch or not loaded.version.epoch:
        return False
    erased = loaded.erased
    if erased.number >= 0 and erased.replica == entry.replica:
        return entry.number <= erased.number
    return bool(entry.commit.operation.at_ms <= erased.at_ms + skew_ms)


def applied_anew(
    entry: Entry,
    record: UserRecord,
    rules: Rules,
    loaded: UserRecord | None = None,
    skew_ms: int = 0,
    proven: bool = False,
) -> tuple[UserRecord, bool]:
    """The record with the entry, whose commit is made anew, and whether another replica has overtaken it.

    `proven`: the store was just asked what the operation rests on (see that module).
    `loaded` is what the store has, on which `record` was built (None: it could not be asked). What was overtaken, or
    belongs to a life of the user that is over, changes nothing any more; its receipt stays, so that it cannot be
    asked for again.
    """
    commit = entry.commit
    operation = commit.operation
    if operation is None:
        return record, False
    if loaded is not None:
        if is_over(entry, loaded, skew_ms):  # nothing old comes back
            entry.of_erased = True
            entry.commit = _receipts(commit, erased=True)
            return record, False
        if entry.epoch != record.version.epoch and not proven:
            operation = _of_no_life(operation)
    if isinstance(operation, SaveState):  # it was acknowledged under the condition
        operation = msgspec.structs.replace(operation, if_match=None, if_absent=False)
    given, operation = operation, to_keep(operation, record, commit.user.tenant, rules.unkept)
    entry.is_reduced = entry.is_reduced or operation is not given
    try:
        applied = user_log.apply(record, operation, rules)
    except SamvadError as error:
        told = {"code": error.code, "user": user_hash(*commit.user)}
        _log.warning("an operation was overtaken by another replica", extra=told)
        entry.commit = _receipts(commit, erased=False)
        return record, True
    if loaded is not None and record.version.epoch == loaded.version.epoch:
        entry.epoch = loaded.version.epoch
    entry.commit = Commit(commit.user, record.version, applied.changes, None, operation, None)
    return applied.record, False


def _of_no_life(operation: Operation) -> Operation:
    """The operation without what it took over from a record of another life."""
    if isinstance(operation, AppendMessages):
        return msgspec.structs.replace(operation, known={})
    if isinstance(operation, SaveSession | EndSession | RemoveSession):
        return msgspec.structs.replace(operation, prior=None)
    return operation


def _receipts(commit: Commit, *, erased: bool) -> Commit:
    kept = [change.receipt for change in commit.changes if isinstance(change, ReceiptKept)]
    asked = commit.operation.receipt
    if not kept and asked is not None:  # from the journal: the answer is not known any more
        kept = [StoredReceipt(asked.key, asked.fingerprint, commit.operation.at_ms, None)]
    if erased:
        kept = [msgspec.structs.replace(receipt, answer=None) for receipt in kept]
    return Commit(commit.user, ANY_VERSION, tuple([ReceiptKept(receipt) for receipt in kept]))


def learn(entries: list[Entry], error: MessageExists) -> None:
    """A message of these is in the store already: applied anew, it is left out."""
    for entry in entries:
        operation = entry.commit.operation
        if isinstance(operation, AppendMessages):
            operation.known = {**operation.known, error.message_id: error.seq}
