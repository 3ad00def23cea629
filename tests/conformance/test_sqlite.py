"""The SQLite store does what every store must, and keeps it over a restart."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from samvad.stores.base import Store
from samvad.stores.sqlite import SQLiteStore
from samvad.testing.conformance import DurableStoreConformance


class TestSQLiteStore(DurableStoreConformance):
    """The suite over the SQLite store."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.paths = (tmp_path / f"{number}.db" for number in itertools.count())

    async def open_store(self) -> Store:
        """One over a new file."""
        # Small enough that in every test some of what was said has been gathered, and some has not.
        store = SQLiteStore(next(self.paths), recent_bytes_max=300)
        await store.open()
        return store

    async def reopen(self, store: Store) -> Store:
        """Another over the same file."""
        assert isinstance(store, SQLiteStore)
        await store.close()
        again = SQLiteStore(store.path)
        await again.open()
        return again
