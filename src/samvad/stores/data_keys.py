"""Who has which key: one for each life of a user, wrapped by a ring key, which the master key wraps.

A data key is made with the first thing that is kept of a life, and destroyed before anything else of it is erased: what
it sealed is then noise wherever a copy of it lies. Ring keys stand between, so that a master key in a KMS is asked once
at a start and not once for each user. `rewrap` gives all data keys a ring key of the new master key.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Container, Sequence
from typing import Any, Final, NamedTuple

from samvad.errors import KeyUnavailable, SetupError, StoreUnavailable, Unreadable
from samvad.records import UserKey, user_hash
from samvad.stores.data_key_store import RINGS, DataKeyEntry, DataKeyStore, Destroyed
from samvad.stores.master_keys import KEY_BYTES, MasterKey, aead_of, opened_with, sealed_with
from samvad.stores.wrapped_keys import (
    Ring,
    Rings,
    UserKeys,
    Wrapped,
    bound_to,
    encoded,
    rings_of,
    user_keys,
    user_keys_or_none,
)

_log = logging.getLogger(__name__)

USERS_HELD_MAX: Final = 50_000
KEY_ID_BYTES: Final = 8
NO_LIFE: Final = -1  # of a user of whom nothing is kept but receipts
_TRIES_MAX: Final = 50
_SCAN: Final = 500


class DataKey(NamedTuple):
    """A key that seals what is kept of one life of a user."""

    key_id: bytes
    epoch: int
    aead: Any


class Rewrapped(NamedTuple):
    """What `rewrap` did: data keys moved, and those that were of the right ring already."""

    moved: int
    there: int


class Counted(NamedTuple):
    """How many users have keys, of how many an erasing is under way, and whether the first master key wraps all."""

    entries: int
    erasing: int
    newest: bool


class DataKeys:
    """The keys of a store. `masters`: the first wraps, all of them unwrap.

    `again` reads them once more (SetupError where that fails), as their files may have changed. `fault`: which master
    key of the others is missing here, as far as it was met.
    """

    def __init__(
        self,
        keys: DataKeyStore,
        masters: Sequence[MasterKey],
        *,
        again: Callable[[], Sequence[MasterKey]] = lambda: (),
    ) -> None:
        self.store = keys
        self._masters = {master.id: master for master in masters}
        self._again = again
        self._first = masters[0]
        self._ring_keys: dict[bytes, Any] = {}
        self._ring_id = b""
        self._held: OrderedDict[bytes, dict[int, DataKey]] = OrderedDict()
        self._opened = False
        self.strict = False
        self.documents_strict: bool | None = None
        self.fault: str | None = None
        self.needs_others = False  # what is there needs another master key than the first
        self.made = self.destroyed = 0

    @property
    def held(self) -> int:
        """Of how many users keys are in memory."""
        return sum(map(bool, self._held.values()))

    # --- life ------------------------------------------------------------------------------------------

    async def open(
        self, *, new_is_strict: Callable[[], Awaitable[bool]] | None = None, readonly: bool = False
    ) -> None:
        """Read the ring keys, and make one of the first master key; SetupError where a master key is missing.

        `new_is_strict` is asked where there were no keys before: then nothing that is not sealed is believed.
        """
        await self.store.open()
        for _ in range(_TRIES_MAX):
            entry = await self.store.get(RINGS)
            if entry is None:
                rings = Rings(strict=new_is_strict is not None and await new_is_strict())
            else:
                rings = rings_of(entry.value)
            await self._unwrap(rings)
            mine = [ring for ring in rings.rings if self._first.id in ring.wraps]
            if mine:
                self._ring_id = mine[-1].ring_id
            elif readonly:
                self._ring_id = b""
            else:
                rings.rings.append(await self._new_ring())
                if not await self.store.swap(RINGS, entry, encoded(rings)):
                    continue  # another process was first
                await self._unwrap(rings)
                self._ring_id = rings.rings[-1].ring_id
            self.strict, self.documents_strict = rings.strict, rings.documents_strict
            self.needs_others = any(ring.wraps.keys() != {self._first.id} for ring in rings.rings)
            self._opened = True
            return
        raise StoreUnavailable("Too many others write to the keys; try again.")

    async def believe(self, *, plain_documents: bool) -> None:
        """From now on, here and elsewhere: whether documents that are not sealed are believed."""
        for _ in range(_TRIES_MAX):
            entry = await self.store.get(RINGS)
            assert entry is not None, "open makes it"
            rings = rings_of(entry.value)
            rings.documents_strict = not plain_documents
            if await self.store.swap(RINGS, entry, encoded(rings)):
                self.documents_strict = rings.documents_strict
                return
        raise StoreUnavailable("Too many others write to the keys; try again.")

    async def _new_ring(self) -> Ring:
        ring_id, key = os.urandom(KEY_ID_BYTES), os.urandom(KEY_BYTES)
        wrapped = await asyncio.to_thread(self._first.wrap, key, b"samvad ring\0" + ring_id)
        return Ring(ring_id, {self._first.id: wrapped})

    async def _unwrap(self, rings: Rings, wanted: Container[bytes] | None = None) -> None:
        for ring in rings.rings:
            if ring.ring_id in self._ring_keys or (wanted is not None and ring.ring_id not in wanted):
                continue
            for master_id, wrapped in ring.wraps.items():
                master = self._masters.get(master_id)
                if master is not None:
                    key = await asyncio.to_thread(master.unwrap, wrapped, b"samvad ring\0" + ring.ring_id)
                    self._ring_keys[ring.ring_id] = aead_of(key)
                    break
            else:
                raise SetupError(
                    f"What is kept here is sealed with the master key {' or '.join(ring.wraps)}, which is not given; "
                    "add it behind the new one, after a comma."
                )

    async def _learned(self, kept: UserKeys) -> UserKeys:
        """The same, once the ring keys of which it speaks are known: a process with a new master key makes a ring.

        KeyUnavailable where that master key was not given here. That is no reason to take anything for destroyed, nor
        for damaged: this process is to be mended, and what it was asked can wait.
        """
        unknown = {each.ring_id for each in kept.keys} - self._ring_keys.keys()
        if unknown:
            await self._learn(unknown)
        return kept

    async def look_again(self) -> None:
        """Whether the `fault` is mended; KeyUnavailable where it is not."""
        await self._learn(None)
        self.fault = None
        _log.warning("the master key that was missing is there")

    async def _learn(self, wanted: Container[bytes] | None) -> None:
        entry = await self.store.get(RINGS)
        rings = Rings() if entry is None else rings_of(entry.value)
        try:
            try:
                await self._unwrap(rings, wanted)
            except SetupError:
                for master in await asyncio.to_thread(self._again):
                    self._masters.setdefault(master.id, master)
                await self._unwrap(rings, wanted)
        except SetupError as error:
            if self.fault is None:
                _log.error("a key that another process made cannot be opened: %s", error.message)
            self.fault = error.message
            raise KeyUnavailable from error

    async def close(self) -> None:
        """Forget all keys. Closing twice is fine."""
        self._held.clear()
        self._ring_keys.clear()
        self._opened = False
        await self.store.close()

    # --- keys ------------------------------------------------------------------------------------------

    def cached(self, hashed: bytes, epoch: int) -> DataKey | None:
        """The key of a life, if it is in memory."""
        held = self._held.get(hashed)
        return None if held is None else held.get(epoch)

    async def keys_of(self, hashed: bytes, *, fresh: bool = False) -> dict[int, DataKey]:
        """The keys of a user, by epoch; `fresh`: also those that others have made since."""
        held = self._held.get(hashed)
        if held is not None and not fresh:
            self._held.move_to_end(hashed)
            return held
        entry = await self.store.get(hashed)
        kept = user_keys_or_none(entry.value) if entry is not None else UserKeys()
        return self._hold(hashed, await self._learned(kept))

    async def destroyed_up_to(self, hashed: bytes) -> int:
        """The last life whose key was destroyed, as far as its entry tells; -2 where it tells of none."""
        entry = await self.store.get(hashed)
        return UserKeys().destroyed if entry is None else user_keys(entry.value).destroyed

    def _hold(self, hashed: bytes, kept: UserKeys) -> dict[int, DataKey]:
        keys: dict[int, DataKey] = {}
        for each in kept.keys:
            ring = self._ring_keys.get(each.ring_id)
            key = (
                None
                if ring is None
                else opened_with(ring, each.key, bound_to(hashed, each.epoch, each.key_id))
            )
            if key is not None:
                keys[each.epoch] = DataKey(each.key_id, each.epoch, aead_of(key))
        if keys:
            self._held[hashed] = keys
            while len(self._held) > USERS_HELD_MAX:
                self._held.popitem(last=False)
        else:
            self._held.pop(hashed, None)
        return keys

    async def derived(self, hashed: bytes, key: DataKey, purposes: Sequence[bytes]) -> list[bytes]:
        """A key of 32 bytes for each purpose, made from a data key: gone when that is. They are not kept here.

        KeyError where the key is gone already.
        """
        entry = await self.store.get(hashed)
        for each in (await self._learned(user_keys_or_none(entry.value))).keys if entry is not None else ():
            if each.key_id == key.key_id and each.ring_id in self._ring_keys:
                context = bound_to(hashed, each.epoch, each.key_id)
                plain = opened_with(self._ring_keys[each.ring_id], each.key, context)
                if plain is not None:
                    return [hmac.digest(plain, purpose, "sha256") for purpose in purposes]
        raise KeyError(key.key_id)

    def retire(self, hashed: bytes, epoch: int) -> None:
        """Lives before this one are over: their keys leave memory."""
        held = self._held.get(hashed)
        if held is not None:
            for old in [each for each in held if NO_LIFE < each < epoch]:
                del held[old]

    async def make(self, hashed: bytes, epoch: int) -> DataKey | None:
        """The key of a life, made now if there is none; None where it was destroyed."""
        for _ in range(_TRIES_MAX):
            entry = await self.store.get(hashed)
            kept = user_keys(entry.value) if entry is not None else UserKeys()
            if epoch <= kept.destroyed:
                return None
            if any(each.epoch == epoch for each in kept.keys):
                key_there = self._hold(hashed, await self._learned(kept)).get(epoch)
                if key_there is None:
                    raise Unreadable(
                        "The key of this user does not open: restore it, or erase the user, which always works."
                    )
                return key_there
            key_id, key = os.urandom(KEY_ID_BYTES), os.urandom(KEY_BYTES)
            wrapped = sealed_with(self._ring_keys[self._ring_id], key, bound_to(hashed, epoch, key_id))
            kept.keys.append(Wrapped(epoch, key_id, self._ring_id, wrapped))
            if await self._swap(hashed, entry, kept):
                self.made += 1
                return self._hold(hashed, kept)[epoch]
        raise StoreUnavailable("Too many others write to the keys of this user; try again.")

    async def _swap(
        self, hashed: bytes, entry: DataKeyEntry | None, kept: UserKeys | None
    ) -> DataKeyEntry | None:
        if kept is None:
            return await self.store.swap(hashed, entry, None)
        return await self.store.swap(hashed, entry, encoded(kept), kept.user is not None)

    # --- erasing ---------------------------------------------------------------------------------------

    async def destroy(self, user: UserKey, epoch: int) -> Destroyed:
        """The keys of this life and of those before it are gone when this returns, but from this process's memory.

        What was there before is for `restore`, should the store refuse to erase; else `erased` ends it.
        """
        hashed = user_hash(user)
        for _ in range(_TRIES_MAX):
            entry = await self.store.get(hashed)
            if entry is None:
                return Destroyed()
            kept = user_keys_or_none(entry.value)
            if kept.destroyed >= epoch and kept.user is not None:
                return Destroyed(there=entry)
            kept.keys = [each for each in kept.keys if each.epoch > epoch]
            kept.destroyed, kept.user = max(kept.destroyed, epoch), (user.tenant, user.user_id)
            there = await self._swap(hashed, entry, kept)
            if there is not None:
                self.destroyed += 1
                return Destroyed(entry, there)
        raise StoreUnavailable("Too many others write to the keys of this user; try again.")

    async def restore(self, user: UserKey, epoch: int, before: DataKeyEntry) -> None:
        """The store has refused to erase, and has everything as it was: so have the keys."""
        hashed, old = user_hash(user), user_keys_or_none(before.value)
        for _ in range(_TRIES_MAX):
            entry = await self.store.get(hashed)
            kept = UserKeys() if entry is None else user_keys_or_none(entry.value)
            if kept.destroyed != epoch or kept.user is None:
                return
            old.keys += [each for each in kept.keys if each.epoch > epoch and each not in old.keys]
            if await self._swap(hashed, entry, old):
                self._hold(hashed, old)
                return

    def forget(self, hashed: bytes, epoch: int) -> None:
        """The keys of this life and of those before it leave memory."""
        held = self._held.get(hashed)
        if held is not None:
            for old in [each for each in held if each <= epoch]:
                del held[old]

    async def erased(
        self, user: UserKey, epoch: int, *, numbers_return: bool = False, there: DataKeyEntry | None = None
    ) -> None:
        """The store has erased the lives up to this one: nothing of the user's name stays with the keys.

        Nor a key of those lives: another erasing, which was refused, may have put it back. (`numbers_return`: of those
        whose keys all have one number, so that the key that is there may be a new one.) `there` is what `destroy` left:
        if nobody has changed it since, it need not be read.
        """
        hashed = user_hash(user)
        self.forget(hashed, epoch)
        for _ in range(_TRIES_MAX):
            entry, there = there or await self.store.get(hashed), None
            if entry is None:
                return
            kept = user_keys_or_none(entry.value)
            is_back = not numbers_return and any(NO_LIFE < each.epoch <= epoch for each in kept.keys)
            if is_back:
                kept.keys = [each for each in kept.keys if each.epoch > epoch]
                kept.destroyed = max(kept.destroyed, epoch)
            elif kept.user is None or kept.destroyed > epoch:
                return  # told already, or another erasing is under way
            if kept.destroyed == epoch:
                kept.user = None
            if await self._swap(hashed, entry, kept if kept.keys or kept.user else None):
                return

    async def erasing(self) -> list[tuple[UserKey, int]]:
        """Whose keys were destroyed without the rest being erased yet, and up to which life."""
        found: list[tuple[UserKey, int]] = []
        after = b""
        while page := await self.store.scan(after=after, limit=_SCAN, erasing=True):
            after = page[-1][0]
            for _, entry in page:
                kept = user_keys_or_none(entry.value)
                if kept.user is not None:
                    found.append((UserKey(*kept.user), kept.destroyed))
        return found

    # --- rotation --------------------------------------------------------------------------------------

    async def rewrap(self) -> Rewrapped:
        """Wrap everything with the first master key, so that the others are of no use any more.

        Servers may be running, which know the new key as well. Can be cut off and begun again.
        """
        moved = there = 0
        after = b""
        while found := await self.store.scan(after=after, limit=_SCAN):
            after = found[-1][0]
            for name, entry in found:
                if name != RINGS:
                    changed = await self._rewrap(name, entry)
                    moved, there = moved + changed, there + (not changed)
        while True:
            entry_or_none = await self.store.get(RINGS)
            assert entry_or_none is not None
            rings = rings_of(entry_or_none.value)
            await self._unwrap(rings)
            # An older ring stays readable, in case a server that did not know of the new one still used it.
            rings.rings = [await self._rewrapped_ring(ring) for ring in rings.rings]
            rings.rings.sort(key=lambda ring: ring.ring_id == self._ring_id)
            if await self.store.swap(RINGS, entry_or_none, encoded(rings)):
                return Rewrapped(moved, there)

    async def _rewrapped_ring(self, ring: Ring) -> Ring:
        if set(ring.wraps) == {self._first.id}:
            return ring
        context = b"samvad ring\0" + ring.ring_id
        if self._first.id in ring.wraps:
            return Ring(ring.ring_id, {self._first.id: ring.wraps[self._first.id]})
        for master_id, wrapped in ring.wraps.items():
            if master_id in self._masters:
                key = await asyncio.to_thread(self._masters[master_id].unwrap, wrapped, context)
                again = await asyncio.to_thread(self._first.wrap, key, context)
                return Ring(ring.ring_id, {self._first.id: again})
        raise SetupError("One of the master keys is missing; add it behind the new one, after a comma.")

    async def _rewrap(self, name: bytes, found: DataKeyEntry) -> bool:
        entry: DataKeyEntry | None = found
        while entry is not None:
            kept = await self._learned(user_keys(entry.value))
            if all(each.ring_id == self._ring_id for each in kept.keys):
                return False
            for number, each in enumerate(kept.keys):
                context = bound_to(name, each.epoch, each.key_id)
                key = opened_with(self._ring_keys[each.ring_id], each.key, context)
                if key is None:
                    raise SetupError("A key of the store does not fit its ring; was its file changed?")
                wrapped = sealed_with(self._ring_keys[self._ring_id], key, context)
                kept.keys[number] = Wrapped(each.epoch, each.key_id, self._ring_id, wrapped)
            if await self._swap(name, entry, kept):
                return True
            entry = await self.store.get(name)
        return False

    async def count(self) -> Counted:
        """How many keys there are."""
        entries = erasing = others = 0
        after = b""
        while found := await self.store.scan(after=after, limit=_SCAN):
            after = found[-1][0]
            for name, entry in found:
                if name != RINGS:
                    kept = user_keys_or_none(entry.value)
                    entries += bool(kept.keys)
                    erasing += entry.erasing
                    others += any(each.ring_id != self._ring_id for each in kept.keys)
        return Counted(entries, erasing, not others)
