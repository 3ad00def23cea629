"""With everything sealed, each store does what every store must, over a restart too."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from samvad.clock import SystemClock
from samvad.stores.base import Store
from samvad.stores.data_key_file import DataKeyFile
from samvad.stores.data_key_store import MemoryDataKeys
from samvad.stores.data_keys import DataKeys
from samvad.stores.firestore_data_keys import FirestoreDataKeys
from samvad.stores.master_keys import LocalMasterKey
from samvad.stores.memory import MemoryStore
from samvad.stores.sealed import SealedStore
from samvad.stores.sqlite import SQLiteStore
from samvad.testing.conformance import DurableStoreConformance, StoreConformance
from tests.conformance.test_firestore import InOrder
from tests.firestore.support import make_store

MASTER = LocalMasterKey(os.urandom(32))


async def sealed(inner: Any, keys: Any) -> Any:
    """The store with everything in it sealed, open."""
    store = SealedStore(inner, DataKeys(keys, [MASTER]), clock=SystemClock())
    await store.open()
    return store


class TestSealedMemory(StoreConformance):
    """The suite over the in-memory store, sealed."""

    random_examples = 8

    async def open_store(self) -> Store:
        """A new one with new keys."""
        store: Store = await sealed(MemoryStore(), MemoryDataKeys())
        return store


class TestSealedSQLite(DurableStoreConformance):
    """The suite over the SQLite store, sealed, with its keys in the file beside it."""

    random_examples = 5

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.paths = (tmp_path / f"{number}.db" for number in itertools.count())

    async def _opened(self, path: Path) -> Any:
        return await sealed(
            SQLiteStore(path, recent_bytes_max=300), DataKeyFile(path.with_name(path.name + ".keys"))
        )

    async def open_store(self) -> Store:
        """One over a new file."""
        store: Store = await self._opened(next(self.paths))
        return store

    async def reopen(self, store: Store) -> Store:
        """Another over the same files."""
        before: Any = store
        await before.close()
        again: Store = await self._opened(before.path)
        return again


@pytest.mark.soak
class TestSealedFirestore(DurableStoreConformance):
    """The suite over the Firestore store, sealed, with its keys in the same database."""

    random_examples = 5
    in_order = False

    async def _opened(self, project: str | None = None) -> Any:
        inner = make_store(project, session_lag_s=0)
        store = await sealed(inner, FirestoreDataKeys(inner.client, inner.names))
        return InOrder(store) if self.in_order else store

    async def open_store(self) -> Store:
        """One over a new project."""
        store: Store = await self._opened()
        return store

    async def reopen(self, store: Store) -> Store:
        """Another over the same project."""
        before: Any = store
        await before.close()
        again: Store = await self._opened(before.project)
        return again

    def test_random_work_reads_as_in_the_model(self) -> None:
        """One user after the other."""
        self.in_order = True
        super().test_random_work_reads_as_in_the_model()

    def test_random_work_is_there_after_a_restart(self) -> None:
        """One user after the other."""
        self.in_order = True
        super().test_random_work_is_there_after_a_restart()
