"""Closing, and what is there after a restart."""

from __future__ import annotations

import asyncio
import itertools
from abc import abstractmethod

import pytest
from hypothesis import given

from samvad.errors import StaleVersion, Unavailable
from samvad.records import (
    Commit,
    Committed,
    Erased,
    MessagesAdded,
    Origin,
    ProfileSet,
    StoredProfile,
    Version,
)
from samvad.stores.base import Store
from samvad.stores.memory import MemoryStore
from samvad.testing.conformance import base as wants
from samvad.testing.conformance.base import ASHA, BALA, NEW, Suite
from samvad.testing.model import Comparison, Place, Turn, everything, raw_message, work


class LifeConformance(Suite):
    """Opening and closing."""

    # --- life ------------------------------------------------------------------------------------------------

    def test_a_closed_store_acknowledges_nothing(self) -> None:
        """A store that is open says so; one that is closed refuses as unavailable, and may be closed again."""

        async def test(store: Store) -> None:
            assert (await store.check()).up
            await store.close()
            with pytest.raises(Unavailable):
                await wants.commit(store, ASHA, NEW, wants.messages(1))
            await store.close()

        self.run(test)

    def test_closing_finishes_what_is_under_way(self) -> None:
        """Every commit that was submitted before the close is answered, and none of them with a lie."""

        async def test(store: Store) -> None:
            under_way = [
                asyncio.ensure_future(store.commit(Commit(ASHA, Version(0, n), (wants.messages(n + 1),))))
                for n in range(50)
            ]
            await store.close()
            answers = await asyncio.gather(*under_way, return_exceptions=True)
            assert all(isinstance(answer, Committed | Unavailable) for answer in answers)

        self.run(test)

    def test_a_durable_store_is_tested_for_it(self) -> None:
        """A store that says it is durable runs the suite for durable stores."""

        async def test(store: Store) -> None:
            assert store.capabilities.durable == isinstance(self, RestartConformance)

        self.run(test)


class RestartConformance(Suite):
    """What a store must do whose commits outlive the process."""

    @abstractmethod
    async def reopen(self, store: Store) -> Store:
        """Close the store, and open another over what it kept."""

    def test_random_work_is_there_after_a_restart(self) -> None:
        """Whatever was committed reads the same, and is built upon alike, after closing and opening."""
        with asyncio.Runner() as runner:
            store, model = runner.run(self.open_store()), MemoryStore()
            runner.run(model.open())
            tenants = itertools.count()

            @wants.examples(max(1, self.random_examples // 5))
            @given(turns=work())
            def compare(turns: list[Turn]) -> None:
                nonlocal store
                comparison = Comparison(store, model, f"tenant {next(tenants)}")
                for turn in turns:
                    runner.run(comparison.turn(turn))
                    comparison.store = store = runner.run(self.reopen(store))
                    runner.run(comparison.compare("after a restart"))

            try:
                compare()
            finally:
                runner.run(store.close())

    def test_what_was_acknowledged_is_there_after_a_restart(self) -> None:
        """Records, receipts, origins, epochs and erasures survive; what was erased does not come back."""

        async def main() -> None:
            store = await self.open_store()
            try:
                for user in (ASHA, BALA):
                    await wants.fill(store, user)
                await wants.commit(store, ASHA, Version(0, 2), Erased(5))
                await wants.commit(store, BALA, Version(0, 2), wants.messages(8), origin=Origin("r1", 3))
                place = Place("default")
                before = await everything(store, place, [ASHA, BALA])
                store = await self.reopen(store)
                assert await everything(store, place, [ASHA, BALA]) == before
                with pytest.raises(StaleVersion):
                    await wants.commit(store, ASHA, Version(0, 2), wants.messages(8))
                again = await wants.commit(
                    store, BALA, Version(0, 2), wants.messages(8), origin=Origin("r1", 3)
                )
                assert again.seq == 8
                blank = await store.receipt(b"a" * 32)
                assert blank is not None
                assert blank.answer is None
            finally:
                await store.close()

        asyncio.run(main())

    def test_a_profile_is_not_older_after_a_restart(self) -> None:
        """Messages that were said long ago do not take back when the user was last heard of."""

        async def main() -> None:
            store = await self.open_store()
            try:
                profile = ProfileSet(StoredProfile(b"{}", 1, 50))
                await wants.commit(store, ASHA, NEW, profile, wants.messages(1, at_ms=50))
                store = await self.reopen(store)
                times = (10, 60, 20)
                said = tuple(raw_message(seq, f"m{seq}", at_ms) for seq, at_ms in enumerate(times, 2))
                for revision, (message, latest_ms) in enumerate(zip(said, (50, 60, 60), strict=True), 1):
                    await wants.commit(store, ASHA, Version(0, revision), MessagesAdded((message,)))
                    record = await wants.load(store, ASHA)
                    assert record.profile is not None
                    assert record.profile.updated_ms == latest_ms
                more = tuple(raw_message(seq, f"m{seq}", at_ms) for seq, at_ms in ((5, 90), (6, 30)))
                await wants.commit(store, ASHA, Version(0, 4), MessagesAdded(more))
                record = await wants.load(store, ASHA)
                assert record.profile is not None
                assert record.profile.updated_ms == 90
            finally:
                await store.close()

        asyncio.run(main())
