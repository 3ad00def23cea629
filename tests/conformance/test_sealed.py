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
from tests.conformance.test_firestore import DurableUserByUser, InOrder, UserByUser
from tests.firestore.support import make_store

MASTER = LocalMasterKey(os.urandom(32))


async def sealed(inner: Any, keys: Any) -> Any:
    """The store with everything in it sealed, open."""
    store = SealedStore(inner, DataKeys(keys, [MASTER]), clock=SystemClock())
    await store.open()
    return store


class TestSealedMemory(UserByUser):
    """The suite over the in-memory store, sealed."""

    random_examples = 8

    async def open_store(self) -> Store:
        """A new one with new keys."""
        store: Store = await sealed(MemoryStore(), MemoryDataKeys())
        return InOrder(store) if self.in_order else store


class TestSealedSQLite(DurableUserByUser):
    """The suite over the SQLite store, sealed, with its keys in the file beside it."""

    random_examples = 5

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.paths = (tmp_path / f"{number}.db" for number in itertools.count())

    async def _opened(self, path: Path) -> Any:
        inner = SQLiteStore(path, recent_bytes_max=300)
        store = await sealed(inner, DataKeyFile(path.with_name(path.name + ".keys")))
        return InOrder(store) if self.in_order else store

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
class TestSealedFirestore(DurableUserByUser):
    """The suite over the Firestore store, sealed, with its keys in the same database."""

    random_examples = 5

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
