"""Sealing what the journal holds, with a key of its own that is replaced after each erasing.

The journal must be written while nobody can be asked for a user's key, so that its entries share one, which stands in
`journal.keys` beside the journal's directory. After an erasing a new one is made; the old one is destroyed as soon as
nothing that it sealed waits any more: from then on every copy of the journal from before is noise.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from samvad.errors import SetupError
from samvad.records import UserKey, user_hash
from samvad.stores.data_key_file import DataKeyFile
from samvad.stores.data_keys import KEY_ID_BYTES, DataKey, DataKeys
from samvad.stores.master_keys import MasterKey, opened_with, sealed_with

_JOURNAL: Final = UserKey("", "journal")  # no user: their tenants have names
_HASH: Final = user_hash(_JOURNAL)
_MAGIC: Final = b"\xc1SJ1"  # no MessagePack and no JSON begins so
_CONTEXT: Final = b"samvad journal"


def keys_path(journal_dir: Path) -> Path:
    """Where the keys of a journal are kept: not in its directory, so that who copies that does not copy them."""
    return journal_dir.with_name(journal_dir.name + ".keys")


class JournalSeal:
    """Seals and opens the entries of one journal."""

    def __init__(self, journal_dir: Path, masters: list[MasterKey], *, readonly: bool = False) -> None:
        self._ring = DataKeys(DataKeyFile(keys_path(journal_dir), readonly=readonly), masters)
        self._readonly = readonly
        self._directory = journal_dir
        self._lost_none = False  # no key was destroyed yet: who has none here is missing it
        self._keys: dict[bytes, DataKey] = {}
        self._current: DataKey | None = None
        self._turning = asyncio.Lock()

    async def open(self) -> None:
        """Read the keys; make the first one. SetupError where that cannot be."""
        await self._ring.open(readonly=self._readonly)
        keys = dict(await self._ring.keys_of(_HASH, fresh=True))
        if not keys and not self._readonly:
            await self._turn(0)
            self._lost_none = True
            return
        self._keys = {key.key_id: key for key in keys.values()}
        self._current = keys[max(keys)] if keys else None
        self._lost_none = 0 in keys

    async def close(self) -> None:
        """Let the file go."""
        await self._ring.close()

    async def _turn(self, generation: int) -> None:
        key = await self._ring.make(_HASH, generation)
        assert key is not None, "generations rise"
        self._keys[key.key_id] = key
        self._current = key

    @property
    def generation(self) -> int:
        """The number of the key that seals now."""
        assert self._current is not None, "open it first"
        return self._current.epoch

    def encode(self, payload: bytes) -> bytes:
        """An entry as it is written."""
        key = self._current
        assert key is not None, "open it first"
        return _MAGIC + key.key_id + sealed_with(key.aead, payload, _CONTEXT + key.key_id)

    def decode(self, written: bytes) -> bytes:
        """An entry as it was given; empty where its key was destroyed, for then it is in the store, or erased.

        ValueError where it was changed; SetupError where the keys that sealed it are missing, which is to be mended and
        not to be taken for an erasing. What is not sealed is from before encryption was on.
        """
        if not written.startswith(_MAGIC):
            return written
        start = len(_MAGIC) + KEY_ID_BYTES
        key_id = written[len(_MAGIC) : start]
        key = self._keys.get(key_id)
        if key is None:
            if self._lost_none and not self._readonly:
                raise SetupError(
                    f"What waits in the journal {self._directory} is encrypted, and its keys are not there: bring "
                    f"{keys_path(self._directory)} back, or give the journal up by moving it away."
                )
            return b""
        opened = opened_with(key.aead, written[start:], _CONTEXT + key_id)
        if opened is None:
            raise ValueError("not what was sealed")
        return opened

    async def turn(self) -> int:
        """Seal with a new key from now on; returns the number of the last one before it."""
        async with self._turning:
            before = self.generation
            await self._turn(before + 1)
            return before

    async def destroy(self, generation: int) -> None:
        """The keys up to this one are gone for good when this returns."""
        async with self._turning:
            self._lost_none = False
            await self._ring.destroy(_JOURNAL, generation)
            await self._ring.erased(_JOURNAL, generation)
            self._keys = {key_id: key for key_id, key in self._keys.items() if key.epoch > generation}
