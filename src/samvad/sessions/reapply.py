"""An operation applied anew: to what the store has now, after what other replicas wrote, or after a restart."""

from __future__ import annotations

import logging

import msgspec

from samvad.errors import MessageExists, SamvadError
from samvad.records import ANY_VERSION, Commit, ReceiptKept, StoredReceipt, UserRecord
from samvad.sessions import user_log
from samvad.sessions.flush_lane import Entry
from samvad.sessions.operations import AppendMessages, SaveState
from samvad.sessions.user_log import Rules

_log = logging.getLogger(__name__)


def applied_anew(entry: Entry, record: UserRecord, rules: Rules) -> tuple[UserRecord, bool]:
    """The record with the entry, whose commit is made anew, and whether another replica has overtaken it.

    What was overtaken, or belongs to a life of the user that is over, changes nothing any more; its receipt stays, so
    that it cannot be asked for again.
    """
    commit = entry.commit
    operation = commit.operation
    if operation is None:
        return record, False
    if -1 < entry.epoch < record.version.epoch:  # nothing old comes back
        entry.of_erased = True
        entry.commit = _receipts(commit, erased=True)
        return record, False
    if isinstance(operation, SaveState):  # it was acknowledged under the condition
        operation = msgspec.structs.replace(operation, if_match=None, if_absent=False)
    try:
        applied = user_log.apply(record, operation, rules)
    except SamvadError as error:
        _log.warning("an operation was overtaken by another replica", extra={"code": error.code})
        entry.commit = _receipts(commit, erased=False)
        return record, True
    if entry.epoch < 0:
        entry.epoch = record.version.epoch
    entry.commit = Commit(commit.user, record.version, applied.changes, None, operation, None)
    return applied.record, False


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
