"""Encrypted stores that are carried: what is sealed stays sealed, and its keys go along as they are wrapped.

No master key is needed for that. A user whom the target knows as erased gets no key back. What comes in clear to where
it is to be encrypted is sealed on the way: see sealing.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from samvad.errors import SamvadError, SetupError
from samvad.stores.data_key_store import RINGS
from samvad.stores.encrypting import data_keys_around, data_keys_of, has_keys

_SCAN: Final = 500


@contextlib.asynccontextmanager
async def _keys(store: Any) -> AsyncIterator[Any]:
    keys = data_keys_of(store)
    await keys.open()
    try:
        yield keys
    finally:
        await keys.close()


async def carry_keys(source: Any, target: Any, erased: Mapping[bytes, int]) -> int:
    """Copy the keys of a store to another, before what they seal; how many users have keys there then.

    `erased` are the epochs before which the target's lives were ended, by the hash of the user. SetupError where the
    target has other keys already.
    """
    from samvad.stores.wrapped_keys import newest_life, ring_ids

    if not await has_keys(source):
        return 0
    count = 0
    async with _keys(source) as old, _keys(target) as new:
        rings, there = await old.get(RINGS), await new.get(RINGS)
        if rings is None:
            return 0
        if there is not None and not ring_ids(rings.value) <= ring_ids(there.value):
            raise SetupError(
                "Both stores are encrypted, each with keys of its own, which cannot be put together: use "
                "`samvad export` with the master key of the one, and `samvad import` with that of the other."
            )
        if there is None and (await target.keys(limit=1)).keys:
            raise SetupError("What is in TO is not encrypted, and FROM is: migrate into an empty store.")
        after = b""
        while found := await old.scan(after=after, limit=_SCAN):
            after = found[-1][0]
            for name, entry in found:
                if name == RINGS:
                    continue
                if await new.get(name) is None and newest_life(entry.value) >= erased.get(name, -2):
                    if not await new.swap(name, None, entry.value, entry.erasing):
                        raise SamvadError("Somebody else writes to the keys of TO; run it again.")
                    count += 1
        if there is None and not await new.swap(RINGS, None, rings.value):
            raise SamvadError("Somebody else writes to the keys of TO; run it again.")
    return count


async def drop_key(store: Any, hashed: bytes, epoch: int) -> None:
    """Destroy what a store has of the keys of a user whose lives before `epoch` are to be ended, before they are."""
    from samvad.stores.wrapped_keys import newest_life

    if data_keys_around(store) is not None or not await has_keys(store):
        return  # a sealed store destroys them itself
    async with _keys(store) as keys:
        entry = await keys.get(hashed)
        if (
            entry is not None
            and newest_life(entry.value) < epoch
            and not await keys.swap(hashed, entry, None)
        ):
            raise SamvadError("Somebody else writes to the keys of the target; run it again.")
