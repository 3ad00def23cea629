"""The in-memory store does what every store must (that it is the model makes its random test a tautology)."""

from __future__ import annotations

from samvad.stores.base import Store
from samvad.stores.memory import MemoryStore
from samvad.testing.conformance import StoreConformance


class TestMemoryStore(StoreConformance):
    """The suite over the in-memory store."""

    async def open_store(self) -> Store:
        """A new one."""
        store = MemoryStore()
        await store.open()
        return store
