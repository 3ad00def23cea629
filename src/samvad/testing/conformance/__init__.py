"""The conformance suite: what every store must do. Whoever writes a store of their own subclasses it:

    class TestMyStore(DurableStoreConformance):
        async def open_store(self) -> Store: ...            # new and empty, open
        async def reopen(self, store: Store) -> Store: ...  # close it, and open what it kept

A store that forgets subclasses `StoreConformance` and has no `reopen`. The tests are plain functions that run
an event loop of their own: they need pytest and hypothesis, and no plugin. How much the random ones try
follows the profile of hypothesis that is loaded.
"""

from __future__ import annotations

from samvad.testing.conformance.commits import CommitConformance
from samvad.testing.conformance.data import DataConformance
from samvad.testing.conformance.erasing import ErasingConformance
from samvad.testing.conformance.life import LifeConformance, RestartConformance
from samvad.testing.conformance.trimming import TrimmingConformance

__all__ = ["DurableStoreConformance", "StoreConformance"]


class StoreConformance(
    CommitConformance, ErasingConformance, TrimmingConformance, DataConformance, LifeConformance
):
    """What every store must do."""


class DurableStoreConformance(StoreConformance, RestartConformance):
    """What a store must do whose commits outlive the process."""
