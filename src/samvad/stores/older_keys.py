"""Whether the keys beside a SQLite database are an older copy: users began since, and what they said has no key there.

A key that is not there was destroyed, or made after the copy. The key file tells when it was changed last, and
destroying is a change: what was kept later than that under a key that is not there cannot have been erased.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from samvad.clock import rfc3339
from samvad.errors import SetupError
from samvad.records import UserRecord, user_hash
from samvad.stores.carrying import Life
from samvad.stores.data_key_file import DataKeyFile
from samvad.stores.data_key_store import DataKeyEntry
from samvad.stores.sealing import is_sealed
from samvad.stores.wrapped_keys import user_keys_or_none

_LOOKED_AT: Final = 100  # of the newest users, and as many of those who wrote last
_SCAN: Final = 500
_CLOCK_MS: Final = 60_000  # by how much the clock may have been set back since


async def refuse_older(store: Any, keys: Any) -> None:
    """SetupError where some of the newest users of a SQLite database began after its keys were copied."""
    newest_lives = getattr(store, "newest_lives", None)
    if newest_lives is None or not isinstance(keys, DataKeyFile):
        return
    changed_ms = await keys.changed_ms()
    if changed_ms is None:
        return
    lives: list[Life] = await newest_lives(limit=_LOOKED_AT)
    missing = 0
    for life in lives:
        entry = await keys.get(user_hash(life.user))
        missing += _has_none(entry, life.epoch) and await _began_since(store, life, changed_ms)
    if missing:
        raise SetupError(told(keys.path, store.path, missing, changed_ms))


async def count_missing(store: Any, keys: DataKeyFile) -> tuple[int, int]:
    """How many users of the whole database began after its keys were copied, and when these were changed (ms)."""
    changed_ms = await keys.changed_ms()
    if changed_ms is None:
        return 0, 0
    entries: dict[bytes, DataKeyEntry] = {}
    after = b""
    while found := await keys.scan(after=after, limit=_SCAN):
        after = found[-1][0]
        entries.update(found)
    missing, before = 0, None
    lives: list[Life]
    while lives := await store.lives(before=before, limit=_SCAN):
        before = lives[-1].number
        for life in lives:
            if _has_none(entries.get(user_hash(life.user)), life.epoch):
                missing += await _began_since(store, life, changed_ms)
    return missing, changed_ms


def told(keys: Path, database: Path, missing: int, changed_ms: int) -> str:
    """What to tell, and what to do."""
    return (
        f"{keys} is older than {database}: it was changed last at {rfc3339(changed_ms)}, and {missing:,} users or more "
        "began since, whose keys are not there. Bring its newest copy back; or, if it is lost, go on without them with "
        "`samvad encryption accept-loss`."
    )


def _has_none(entry: DataKeyEntry | None, epoch: int) -> bool:
    """Whether a key of this life is neither there nor known as destroyed."""
    if entry is None:
        return True
    kept = user_keys_or_none(entry.value)
    return kept.destroyed < epoch and all(each.epoch != epoch for each in kept.keys)


async def _began_since(store: Any, life: Life, changed_ms: int) -> bool:
    record: UserRecord = await store.load(life.user, window=1, open_after_ms=0, sessions_max=1)
    times = [message.at_ms for message in record.window]
    bodies = [message.body for message in record.window]
    if record.state is not None:
        times.append(record.state.updated_ms)
        bodies.append(record.state.body)
    if record.profile is not None:
        times.append(record.profile.updated_ms)
        bodies.append(record.profile.preferences)
    for session in record.sessions.values():
        times.append(session.created_ms)  # it is touched without a key as well
        bodies.append(session.body)
    return any(map(is_sealed, bodies)) and max(times) > changed_ms + _CLOCK_MS
