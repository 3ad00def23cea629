"""Sealing what the journal holds, with a key of its own that is replaced after each erasing.

The journal must be written while nobody can be asked for a user's key, so that its entries share one, which stands in
`journal.keys` beside the journal's directory. A new one is made at each start and after each erasing; the old one is
destroyed as soon as nothing that it sealed waits any more: from then on every copy of the journal from before is noise.

Keys are numbered, and each entry names the number of its own. The file tells up to which number keys were destroyed:
an entry of such a key is in the store, or erased. One of any other key that is not in the file was acknowledged and is
not to be lost: the file is missing or an older copy. Numbers are times, so that keys made with an older copy of the
file never share a number with those that the newer one knows.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from samvad.clock import Clock, SystemClock
from samvad.errors import SetupError, Unreadable
from samvad.records import UserKey, user_hash
from samvad.stores.data_key_file import DataKeyFile
from samvad.stores.data_keys import KEY_ID_BYTES, DataKey, DataKeys
from samvad.stores.master_keys import MasterKey, opened_with, sealed_with

_JOURNAL: Final = UserKey("", "journal")  # no user: their tenants have names
_HASH: Final = user_hash(_JOURNAL)
_MAGIC: Final = b"\xc1SJ2"  # no MessagePack and no JSON begins so
_MAGIC_WITHOUT_NUMBER: Final = b"\xc1SJ1"  # of an earlier version
_NUMBER_BYTES: Final = 8
_CONTEXT: Final = b"samvad journal"


def keys_path(journal_dir: Path) -> Path:
    """Where the keys of a journal are kept: not in its directory, so that who copies that does not copy them."""
    return journal_dir.with_name(journal_dir.name + ".keys")


class JournalSeal:
    """Seals and opens the entries of one journal.

    `gives_up`: entries whose keys are missing are told as damaged (ValueError), so that the journal sets them aside.
    """

    def __init__(
        self,
        journal_dir: Path,
        masters: list[MasterKey],
        *,
        clock: Clock | None = None,
        readonly: bool = False,
        gives_up: bool = False,
    ) -> None:
        self._ring = DataKeys(DataKeyFile(keys_path(journal_dir), readonly=readonly), masters)
        self._clock = clock or SystemClock()
        self._readonly = readonly
        self._gives_up = gives_up
        self._directory = journal_dir
        self._destroyed = -2  # keys up to this number are gone, and are to be
        self._keys: dict[bytes, DataKey] = {}
        self._current: DataKey | None = None
        self._turning = asyncio.Lock()

    async def open(self) -> None:
        """Read the keys; make the first one. SetupError where that cannot be."""
        await self._ring.open(readonly=self._readonly)
        if self._ring.needs_others and not self._readonly:
            await self._ring.rewrap()  # each replica has such a file: none is to be gone to for a rotation
        try:
            self._destroyed = await self._ring.destroyed_up_to(_HASH)
            keys = dict(await self._ring.keys_of(_HASH, fresh=True))
        except Unreadable as error:
            await self._ring.close()
            path = keys_path(self._directory)
            raise SetupError(f"The keys {path} were changed: bring a copy back. ({error.message})") from None
        self._keys = {key.key_id: key for key in keys.values()}
        self._current = keys[max(keys)] if keys else None
        if not keys and not self._readonly:
            await self._turn(max(0, self._clock.now_ms()))

    async def close(self) -> None:
        """Let the file go."""
        await self._ring.close()

    async def _turn(self, number: int) -> None:
        key = await self._ring.make(_HASH, number)
        assert key is not None, "numbers rise"
        self._keys[key.key_id] = key
        self._current = key

    def encode(self, payload: bytes) -> bytes:
        """An entry as it is written."""
        key = self._current
        assert key is not None, "open it first"
        name = key.epoch.to_bytes(_NUMBER_BYTES, "big") + key.key_id
        return _MAGIC + name + sealed_with(key.aead, payload, _CONTEXT + name)

    def decode(self, written: bytes) -> bytes:
        """An entry as it was given; empty where its key was destroyed, for then it is in the store, or erased.

        ValueError where it was changed; SetupError where the keys that sealed it are missing, which is to be mended and
        not to be taken for an erasing. What is not sealed is from before encryption was on.
        """
        if not written.startswith((_MAGIC, _MAGIC_WITHOUT_NUMBER)):
            return written
        number_bytes = _NUMBER_BYTES if written.startswith(_MAGIC) else 0
        start = len(_MAGIC) + number_bytes + KEY_ID_BYTES
        name = written[len(_MAGIC) : start]
        key = self._keys.get(name[number_bytes:])
        if key is None:
            if int.from_bytes(name[:number_bytes], "big") <= self._destroyed:
                return b""
            if self._gives_up:
                raise ValueError("its key is missing")
            raise SetupError(
                f"What waits in the journal {self._directory} was sealed with keys that {keys_path(self._directory)} "
                "does not hold: bring the newest copy of it back; or, if it is lost, set aside what it sealed with "
                "`samvad encryption accept-loss`."
            )
        opened = opened_with(key.aead, written[start:], _CONTEXT + name)
        if opened is None:
            raise ValueError("not what was sealed")
        return opened

    async def turn(self) -> int:
        """Seal with a new key from now on; returns the number of the last one before it."""
        async with self._turning:
            assert self._current is not None, "open it first"
            before = self._current.epoch
            await self._turn(max(before + 1, self._clock.now_ms()))
            return before

    async def destroy(self, number: int) -> None:
        """The keys up to this one are gone for good when this returns."""
        async with self._turning:
            await self._ring.destroy(_JOURNAL, number)
            await self._ring.erased(_JOURNAL, number)
            self._destroyed = max(self._destroyed, number)
            self._keys = {key_id: key for key_id, key in self._keys.items() if key.epoch > number}
