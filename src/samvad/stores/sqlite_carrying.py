"""What of a SQLite store is carried beside users' data: plain functions over one connection. See stores/carrying."""

from __future__ import annotations

from collections.abc import Sequence

import apsw
import msgspec

from samvad.records import StoredReceipt, UserKey
from samvad.stores.carrying import KeysFound, Life, OwnedReceipt, StoredErasure

_KEYS = """
    SELECT tenant, user_id FROM users WHERE (tenant, user_id) > (?, ?) ORDER BY tenant, user_id LIMIT ?
"""
_LIVES = """
    SELECT user_no, tenant, user_id, epoch FROM users WHERE user_no < ? ORDER BY user_no DESC LIMIT ?
"""
_WROTE_LAST = """
    SELECT user_no, tenant, user_id, epoch FROM users
    WHERE user_no IN (SELECT user_no FROM recent ORDER BY place DESC LIMIT ?)
"""
_ERASURES = """
    SELECT user_hash, epoch, erased_ms FROM erasures WHERE user_hash > ? ORDER BY user_hash LIMIT ?
"""
_KEEP_ERASURE = """
    INSERT INTO erasures (user_hash, epoch, erased_ms) VALUES (?, ?, ?)
    ON CONFLICT (user_hash) DO UPDATE
    SET epoch = excluded.epoch, erased_ms = excluded.erased_ms, replica = '', number = -1
    WHERE excluded.epoch > epoch
"""
_RECEIPTS = """
    SELECT receipts.user_hash, coalesce(erasures.epoch, 0), key, fingerprint, at_ms, answer
    FROM receipts LEFT JOIN erasures ON erasures.user_hash = receipts.user_hash
    WHERE key > ? ORDER BY key LIMIT ?
"""
_KEEP_RECEIPT = """
    INSERT INTO receipts (key, fingerprint, at_ms, user_hash, answer) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (key) DO NOTHING
"""


def keys(connection: apsw.Connection, after: str, limit: int) -> KeysFound:
    """See Carrying.keys."""
    tenant, user_id = msgspec.json.decode(after, type=tuple[str, str]) if after else ("", "")
    found = [UserKey(*row) for row in connection.execute(_KEYS, (tenant, user_id, limit))]
    return KeysFound(found, msgspec.json.encode(found[-1]).decode() if len(found) == limit else None)


def lives(connection: apsw.Connection, before: int | None, limit: int) -> list[Life]:
    """Users, those who began last first; `before`: who began before the one of that number."""
    rows = connection.execute(_LIVES, (1 << 62 if before is None else before, limit))
    return [Life(number, UserKey(tenant, user_id), epoch) for number, tenant, user_id, epoch in rows]


def newest_lives(connection: apsw.Connection, limit: int) -> list[Life]:
    """The users who began last, and those who wrote last."""
    found = {life.number: life for life in lives(connection, None, limit)}
    for number, tenant, user_id, epoch in connection.execute(_WROTE_LAST, (limit,)):
        found[number] = Life(number, UserKey(tenant, user_id), epoch)
    return list(found.values())


def erasures(connection: apsw.Connection, after: bytes, limit: int) -> list[StoredErasure]:
    """See Carrying.erasures."""
    return [StoredErasure(*row) for row in connection.execute(_ERASURES, (after, limit))]


def keep_erasures(connection: apsw.Connection, erasures: Sequence[StoredErasure]) -> None:
    """See Carrying.keep_erasures."""
    with connection:
        connection.executemany(_KEEP_ERASURE, erasures)


def receipts(connection: apsw.Connection, after: bytes, limit: int) -> list[OwnedReceipt]:
    """See Carrying.receipts."""
    return [
        OwnedReceipt(user_hash, epoch, StoredReceipt(key, fingerprint, at_ms, answer))
        for user_hash, epoch, key, fingerprint, at_ms, answer in connection.execute(_RECEIPTS, (after, limit))
    ]


def keep_receipts(connection: apsw.Connection, receipts: Sequence[OwnedReceipt]) -> None:
    """See Carrying.keep_receipts."""
    rows = [(r.key, r.fingerprint, r.at_ms, user_hash, r.answer) for user_hash, _, r in receipts]
    with connection:
        connection.executemany(_KEEP_RECEIPT, rows)
