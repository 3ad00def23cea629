"""What could not be asked when an operation was acknowledged, asked before it goes to the store.

While the store is down a request with an Idempotency-Key, or for a new session, is taken all the same. Whether the
key was used before (through another replica), or the session is another user's, is seen when the store is back. The
same is asked wherever pending operations are applied anew: another replica may have been given the same request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from samvad.logs import user_hash
from samvad.records import ANY_VERSION, Commit, StoredReceipt, StoredSession
from samvad.sessions.breaker import Breaker
from samvad.sessions.fingerprints import may_be_same
from samvad.sessions.flush_lane import Entry
from samvad.sessions.operations import SaveSession
from samvad.stores.base import Store

_log = logging.getLogger(__name__)
_AT_ONCE: Final = 32


class Proof(NamedTuple):
    """What the store has under an operation's key, and of its session."""

    receipt: StoredReceipt | None
    session: StoredSession | None


async def prove(entries: Sequence[Entry], store: Store, breaker: Breaker, now_ms: int) -> dict[Entry, Proof]:
    """Ask the store about those of the entries that need it; Unavailable where it is down."""
    asking = [entry for entry in entries if entry.unproven or _has_key(entry.commit)]
    proofs: dict[Entry, Proof] = {}
    for start in range(0, len(asking), _AT_ONCE):
        some = asking[start : start + _AT_ONCE]
        found = await asyncio.gather(*[_ask(entry.commit, store, breaker, now_ms) for entry in some])
        proofs.update(zip(some, found, strict=True))
    return proofs


def _has_key(commit: Commit) -> bool:
    return commit.operation is not None and commit.operation.receipt is not None


async def _ask(commit: Commit, store: Store, breaker: Breaker, now_ms: int) -> Proof:
    receipt: StoredReceipt | None = None
    session: StoredSession | None = None
    operation = commit.operation
    if operation.receipt is not None:
        receipt = await breaker.through(lambda: store.receipt(operation.receipt.key))
        if receipt is not None and not receipt.is_live(now_ms):
            receipt = None
    if isinstance(operation, SaveSession) and operation.unproven:
        session = await breaker.through(lambda: store.session(commit.user.tenant, operation.session_id))
    return Proof(receipt, session)


def dispute(entries: Sequence[Entry]) -> bool:
    """The store refused a commit of these because of a session: have each proven, once; false if all were."""
    found = False
    for entry in entries:
        operation = entry.commit.operation
        if isinstance(operation, SaveSession) and not entry.disputed:
            found = entry.disputed = entry.unproven = True
            operation = msgspec.structs.replace(operation, unproven=True)
            entry.commit = msgspec.structs.replace(entry.commit, operation=operation)
    return found


def settle(entry: Entry, proof: Proof) -> bool:
    """Make of an entry what the proof says of it; false if there is nothing left to do.

    A repetition of what was done before is not done again. A key that was used for another request stays with that
    one, and this is done: it was acknowledged. A session that is another user's stays theirs.
    """
    entry.unproven = False
    operation = entry.commit.operation
    asked, kept = operation.receipt, proof.receipt
    told = {"user": user_hash(*entry.commit.user)}
    if kept is not None and (may_be_same(kept.fingerprint, asked.fingerprint) or kept.answer is None):
        _log.warning("a request was carried out before, by another replica: it is not repeated", extra=told)
        entry.commit = Commit(entry.commit.user, ANY_VERSION, ())
        return False
    if kept is not None:
        _log.warning(
            "an Idempotency-Key was used for two requests while the store was down: both are done", extra=told
        )
        operation = msgspec.structs.replace(operation, receipt=None)
    if isinstance(operation, SaveSession):
        session = proof.session
        if session is not None and session.user_id != entry.commit.user.user_id:
            _log.error(
                "a session that was created while the store was down is another user's: it stays theirs",
                extra=told,
            )
            entry.commit = Commit(entry.commit.user, ANY_VERSION, ())
            return False
        operation = msgspec.structs.replace(operation, prior=session or operation.prior, unproven=False)
    entry.commit = msgspec.structs.replace(entry.commit, operation=operation)
    return True
