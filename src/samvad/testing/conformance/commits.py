"""Random work beside the model, versions and refusals."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable

import pytest
from hypothesis import given

from samvad.errors import MessageExists, SessionTaken, StaleVersion
from samvad.records import (
    ANY_VERSION,
    Change,
    Commit,
    Committed,
    MessagesAdded,
    Origin,
    Removed,
    SessionRemoved,
    UserKey,
    UserRecord,
    Version,
)
from samvad.stores.base import Store
from samvad.stores.memory import MemoryStore
from samvad.testing.conformance import base as wants
from samvad.testing.conformance.base import ASHA, BALA, NEW, Suite
from samvad.testing.model import Comparison, Place, Turn, everything, raw_message, work


class CommitConformance(Suite):
    """What a commit does, and when it is refused."""

    # --- random work -----------------------------------------------------------------------------------------

    def test_random_work_reads_as_in_the_model(self) -> None:
        """Whatever is committed, in whatever company: the same answers, and the same reads, as of the model."""
        with asyncio.Runner() as runner:
            store, model = runner.run(self.open_store()), MemoryStore()
            runner.run(model.open())
            tenants = itertools.count()

            @wants.examples(self.random_examples)
            @given(turns=work())
            def compare(turns: list[Turn]) -> None:
                comparison = Comparison(store, model, f"tenant {next(tenants)}")
                for turn in turns:
                    runner.run(comparison.turn(turn))

            try:
                compare()
            finally:
                runner.run(store.close())

    # --- versions --------------------------------------------------------------------------------------------

    def test_a_stale_version_is_refused_and_changes_nothing(self) -> None:
        """A change made against another version than the one that is there is refused, older or newer."""

        async def test(store: Store) -> None:
            await wants.commit(store, ASHA, NEW, wants.messages(1))
            await wants.commit(store, ASHA, Version(0, 1), wants.state())
            before = await everything(store, Place("default"), [ASHA])
            for expected in (NEW, Version(0, 1), Version(0, 3), Version(1, 0), Version(1, 2)):
                with pytest.raises(StaleVersion):
                    await wants.commit(
                        store,
                        ASHA,
                        expected,
                        wants.state(9),
                        wants.messages(2),
                        wants.session(ASHA, "s"),
                        wants.receipt(b"r"),
                    )
            assert await everything(store, Place("default"), [ASHA]) == before
            assert await store.receipt(b"r" * 32) is None
            assert (await wants.commit(store, ASHA, Version(0, 2), wants.messages(2))).version == Version(
                0, 3
            )

        self.run(test)

    def test_messages_must_follow_the_last_one(self) -> None:
        """Messages that leave a gap, or come twice, are refused: seq has no hole."""

        async def test(store: Store) -> None:
            await wants.commit(store, ASHA, NEW, wants.messages(1, 3))
            for first_seq in (1, 3, 5):
                with pytest.raises(StaleVersion):
                    await wants.commit(store, ASHA, Version(0, 1), wants.messages(first_seq, name="other"))
            assert (await wants.load(store, ASHA)).seq == 3

        self.run(test)

    def test_a_commit_of_the_same_origin_is_written_once(self) -> None:
        """A replica that repeats a commit, because it did not hear the answer, changes nothing by it."""

        async def test(store: Store) -> None:
            first = await wants.commit(store, ASHA, NEW, wants.messages(1), origin=Origin("r1", 1))
            again = await wants.commit(store, ASHA, NEW, wants.messages(1), origin=Origin("r1", 1))
            assert again == first == Committed(Version(0, 1), 1)
            # Another replica's numbers are its own, and a number below the last one was written as well.
            await wants.commit(store, ASHA, Version(0, 1), wants.messages(2), origin=Origin("r2", 1))
            await wants.commit(store, ASHA, Version(0, 2), wants.messages(3), origin=Origin("r1", 7))
            assert (await wants.commit(store, ASHA, NEW, wants.messages(1), origin=Origin("r1", 2))).seq == 3
            # A refused commit has not been written, so it may come again.
            with pytest.raises(StaleVersion):
                await wants.commit(store, ASHA, NEW, wants.messages(4), origin=Origin("r2", 2))
            assert (
                await wants.commit(store, ASHA, Version(0, 3), wants.messages(4), origin=Origin("r2", 2))
            ).seq == 4

        self.run(test)

    def test_receipts_alone_need_no_version(self) -> None:
        """A refusal is kept for a user whose version nobody knows; it changes no record.

        Made against a record, a receipt says something of it, and is refused where the record is another.
        """

        async def test(store: Store) -> None:
            await wants.commit(store, ASHA, NEW, wants.messages(1))
            kept = wants.receipt(b"r", b'{"refused":"error"}')
            assert (await wants.commit(store, ASHA, ANY_VERSION, kept)).version == Version(0, 1)
            await wants.commit(store, BALA, ANY_VERSION, wants.receipt(b"s"))
            assert await store.receipt(b"r" * 32) == kept.receipt
            assert (await wants.load(store, BALA)).version == NEW
            assert list(await store.users("default", after="", limit=9)) == ["asha"]
            for expected in (NEW, Version(0, 2), Version(1, 0)):
                with pytest.raises(StaleVersion):
                    await wants.commit(store, ASHA, expected, wants.receipt(b"t"))
            assert await store.receipt(b"t" * 32) is None
            assert (await wants.commit(store, ASHA, Version(0, 1), wants.receipt(b"t"))).version == Version(
                0, 1
            )

        self.run(test)

    # --- refusals --------------------------------------------------------------------------------------------

    def test_a_session_id_belongs_to_the_user_that_made_it(self) -> None:
        """Another user's session is refused, and nothing else of that commit is written; gone, the id is free."""

        async def test(store: Store) -> None:
            await wants.commit(store, ASHA, NEW, wants.session(ASHA, "s", body=b'{"a":1}'))
            with pytest.raises(SessionTaken):
                await wants.commit(store, BALA, NEW, wants.messages(1), wants.session(BALA, "s"))
            assert (await wants.load(store, BALA)) == UserRecord(NEW)
            kept = await store.session("default", "s")
            assert kept is not None
            assert (kept.user_id, kept.body) == ("asha", b'{"a":1}')
            elsewhere = UserKey("other", "bala")
            await wants.commit(store, elsewhere, NEW, wants.session(elsewhere, "s"))
            removed = await wants.commit(store, ASHA, Version(0, 1), SessionRemoved("s"))
            assert removed.removed == Removed(sessions=1)
            await wants.commit(store, BALA, NEW, wants.session(BALA, "s"))
            kept = await store.session("default", "s")
            assert kept is not None
            assert kept.user_id == "bala"

        self.run(test)

    def test_a_message_that_is_there_is_named(self) -> None:
        """An unproven id that stands in the history, however far back, is refused with its place."""

        async def test(store: Store) -> None:
            await wants.commit(store, ASHA, NEW, wants.messages(1, 150))
            again = MessagesAdded((raw_message(151, "new", 1), raw_message(152, "m7", 1)), ("new", "m7"))
            with pytest.raises(MessageExists) as refused:
                await wants.commit(store, ASHA, Version(0, 1), wants.state(), again)
            assert (refused.value.message_id, refused.value.seq) == ("m7", 7)
            record = await wants.load(store, ASHA)
            assert (record.version, record.seq, record.state) == (Version(0, 1), 150, None)
            # The same id of another user is another message.
            first = MessagesAdded((raw_message(1, "m7", 1),), ("m7",))
            assert (await wants.commit(store, BALA, NEW, first)).seq == 1

        self.run(test)

    def test_a_refused_commit_leaves_its_neighbours_alone(self) -> None:
        """Of commits that are submitted at once, those that are refused take nothing of the others with them."""

        async def test(store: Store) -> None:
            await wants.commit(store, BALA, NEW, wants.session(BALA, "hers"))
            users = [UserKey("default", f"user {n}") for n in range(12)]
            under_way: list[Awaitable[Committed]] = []
            for n, user in enumerate(users):
                under_way.append(store.commit(Commit(user, NEW, (wants.messages(1), wants.state(n)))))
                refused: tuple[Change, ...] = (
                    wants.messages(2),
                    wants.state(99),
                    wants.session(user, "hers"),
                )
                expected = Version(0, 1) if n % 2 else Version(0, 5)
                under_way.append(store.commit(Commit(user, expected, refused)))
                under_way.append(store.commit(Commit(user, Version(0, 1), (wants.messages(2),))))
            answers = await asyncio.gather(*under_way, return_exceptions=True)
            for n, user in enumerate(users):
                first, refusal, third = answers[3 * n : 3 * n + 3]
                assert isinstance(first, Committed)
                assert isinstance(refusal, SessionTaken if n % 2 else StaleVersion)
                assert isinstance(third, Committed)
                record = await wants.load(store, user)
                assert [m.id for m in record.window] == ["m1", "m2"]
                assert record.state == wants.state(n).state
                assert record.version == third.version == Version(0, 2)

        self.run(test)
