"""Encryption on or off: the store that a URL names with everything in it sealed, or a refusal to read it unsealed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from samvad.clock import Clock
from samvad.errors import SamvadError, SetupError, StoreUnavailable, Unavailable
from samvad.stores.data_key_store import RINGS, DataKeyEntry, DataKeyStore, MemoryDataKeys

if TYPE_CHECKING:
    from samvad.stores.data_keys import DataKeys

_log = logging.getLogger(__name__)
_LOOKED_AT = 20  # users, at a start
NO_KEY = "What is kept in {} is encrypted; give the master key in SAMVAD_MASTER_KEY."


def keys_file(database: Path) -> Path:
    """Where the keys of a SQLite database are kept: `samvad.db.keys` beside `samvad.db`."""
    return database.with_name(database.name + ".keys")


def data_keys_of(store: Any) -> DataKeyStore:
    """Where the keys of a store are kept."""
    if store.name == "firestore":
        from samvad.stores.firestore_data_keys import FirestoreDataKeys

        return FirestoreDataKeys(store.client, store.names)
    path = getattr(store, "path", None)
    if isinstance(path, Path):
        from samvad.stores.data_key_file import DataKeyFile

        return DataKeyFile(keys_file(path), readonly=bool(getattr(store, "readonly", False)))
    return MemoryDataKeys()


def data_keys_around(store: Any) -> DataKeys | None:
    """The keys of a store that seals what it keeps, also behind a journal; None where nothing is sealed."""
    for each in (store, getattr(store, "inner", None)):
        if each is not None and (keys := getattr(each, "__dict__", {}).get("data_keys")) is not None:
            return cast("DataKeys", keys)
    return None


class Guard:
    """Encryption of one service: its store (sealed, if there is a master key), and its journal.

    `store` is what the service writes to, `journal_codec` what the journal takes to seal its entries.
    """

    def __init__(
        self, store: Any, master_key: str | None, journal_dir: str | Path | None, clock: Clock
    ) -> None:
        self.store = store
        self.journal_codec: dict[str, Any] = {}
        self._journal: Any = None
        self._is_on = master_key is not None
        # An earlier process may have ended between an erasing and this.
        self._turn_owed = journal_dir is not None
        self._keeping = asyncio.Lock()
        self._old: tuple[int, int] | None = (
            None  # a key of the journal, and the last entry that it may have sealed
        )
        if master_key is None:
            return
        from samvad.stores.data_keys import DataKeys
        from samvad.stores.master_keys import master_keys
        from samvad.stores.sealed import SealedStore

        masters = master_keys(master_key)
        keys = DataKeys(data_keys_of(store), masters, again=lambda: master_keys(master_key))
        self.store = SealedStore(store, keys, clock=clock)
        if journal_dir is not None:
            from samvad.stores.journal_seal import JournalSeal

            self._journal = JournalSeal(Path(journal_dir), masters, clock=clock)
            self.journal_codec = {"encode": self._journal.encode, "decode": self._journal.decode}

    async def before_open(self) -> None:
        """The journal's keys, before the journal."""
        if self._journal is not None:
            await self._journal.open()

    async def after_open(self, store: Any) -> None:
        """SetupError where a store that was opened without a master key holds what is sealed.

        The journal has a key of this start before anything is written: should `journal.keys` be an older copy, what is
        written now is not taken for what was sealed with a key that the newer one knows as destroyed.
        """
        try:
            if self._is_on:
                await self.keep_up(store)
            else:
                await _refuse_encrypted(self.store)
        except SamvadError:
            await store.close()
            raise

    async def close(self) -> None:
        """Let the journal's keys go."""
        if self._journal is not None:
            await self._journal.close()

    def erased(self) -> None:
        """A user was erased: what the journal held of them is to fall silent."""
        self._turn_owed = True

    async def keep_up(self, store: Any) -> None:
        """Give the journal a new key after an erasing, and destroy the old one once nothing waits that it sealed."""
        if self._journal is None or getattr(store, "journal", None) is None:
            return
        async with self._keeping:
            try:
                await self._keep_up(store)
            except Unavailable as error:  # it stays owed
                _log.warning("the journal's key could not be replaced yet", extra={"code": error.code})

    async def _keep_up(self, store: Any) -> None:
        if self._old is None and self._turn_owed:
            generation = await self._journal.turn()
            self._turn_owed = False  # of what is erased from here on, another one
            try:
                number = await store.journal.append(b"")  # all that the old key sealed has a lower number
            except BaseException:
                self._turn_owed = True
                raise
            store.journal.forget(number)
            self._old = generation, number
        if self._old is not None:
            generation, number = self._old
            waits = (entry.number for lane in store.flusher.all_lanes() for entry in lane.entries)
            if min(waits, default=number + 1) > number:
                await self._journal.destroy(generation)
                self._old = None


async def has_keys(store: Any) -> bool:
    """Whether a store that is open, and is not sealed here, holds what is sealed. StoreUnavailable."""
    path = getattr(store, "path", None)
    if isinstance(path, Path):
        return keys_file(path).exists()
    if store.name == "firestore" and hasattr(store, "client"):
        return await data_keys_of(store).get(RINGS) is not None
    return False


async def is_strict(store: Any) -> bool:
    """Whether all that an open store with keys holds of conversations was sealed, as its keys tell."""
    from samvad.stores.wrapped_keys import rings_of

    entry = await rings_entry(store)
    return entry is None or rings_of(entry.value).strict


async def rings_entry(store: Any) -> DataKeyEntry | None:
    """The entry of the ring keys beside an open store; None where it has no keys."""
    keys = data_keys_of(store)
    await keys.open()
    try:
        return await keys.get(RINGS)
    finally:
        await keys.close()


async def looks_sealed(store: Any) -> bool:
    """Whether some of the first users of a SQLite database are sealed: with keys that are not beside it (any more).

    A state or preferences may look so because a user gave them so, and nobody is to keep a server from starting: they
    count where all of them do. A message that was not sealed has a `content`, which one that was has not.
    """
    from samvad.stores.sealing import is_sealed, is_sealed_message

    if not isinstance(getattr(store, "path", None), Path):
        return False
    bodies: list[bytes] = []
    for key in (await store.keys(limit=_LOOKED_AT)).keys:
        record = await store.load(key, window=1, open_after_ms=1 << 62, sessions_max=0)
        if any(is_sealed_message(message.body) for message in record.window):
            return True
        bodies += [message.body for message in record.window]
        if record.state is not None:
            bodies.append(record.state.body)
        if record.profile is not None:
            bodies.append(record.profile.preferences)
    return bool(bodies) and all(map(is_sealed, bodies))


def keys_are_gone(path: Path) -> SetupError:
    """What to tell where the database is there and its keys are not."""
    return SetupError(
        f"What is kept in {path} is encrypted, and its keys are not there: bring {keys_file(path)} back."
    )


async def _refuse_encrypted(store: Any) -> None:
    store = getattr(store, "inner", store)
    with contextlib.suppress(StoreUnavailable):  # then nothing of it is read either
        if await has_keys(store):
            raise SetupError(NO_KEY.format(getattr(store, "path", "this Firestore database")))
        if await looks_sealed(store):
            raise keys_are_gone(store.path)
