"""Trimming: the oldest messages and interruptions go, and nothing else changes."""

from __future__ import annotations

import pytest

from samvad.errors import MessageExists, StaleVersion
from samvad.records import (
    Erased,
    InterruptionAdded,
    InterruptionsTrimmed,
    MessagesAdded,
    Removed,
    SessionRemoved,
    StoredInterruption,
    Trimmed,
    UserKey,
    Version,
)
from samvad.stores.base import Store
from samvad.testing.conformance import base as wants
from samvad.testing.conformance.base import ASHA, BALA, NEW, Suite
from samvad.testing.model import Place, everything, raw_message


class TrimmingConformance(Suite):
    """What trimming leaves."""

    def test_trimming_removes_the_oldest_messages_and_counts_them(self) -> None:
        """The history begins where it is told to; seq goes on; ids that went are free, others are not."""

        async def test(store: Store) -> None:
            await wants.commit(store, BALA, NEW, wants.messages(1, 7), wants.state())
            hers = await everything(store, Place("default"), [BALA])
            await wants.commit(store, ASHA, NEW, wants.messages(1, 130), wants.state())
            await wants.commit(store, ASHA, Version(0, 1), wants.messages(131, 130))
            trimmed = await wants.commit(store, ASHA, Version(0, 2), Trimmed(58))
            assert (trimmed.version, trimmed.seq, trimmed.removed) == (
                Version(0, 3),
                260,
                Removed(messages=57),
            )
            record = await wants.load(store, ASHA)
            assert (record.seq, record.trimmed, record.state) == (260, 57, wants.state().state)
            assert await wants.page(store, ASHA, limit=1_000) == (list(range(58, 261)), False)
            assert await wants.page(store, ASHA, after=0, limit=2) == ([58, 59], True)
            assert await wants.page(store, ASHA, before=60) == ([58, 59], False)
            assert await wants.page(store, ASHA, before=58) == ([], False)
            assert await wants.page(store, ASHA, after=3, before=9) == ([], False)
            with pytest.raises(StaleVersion):
                await wants.commit(store, ASHA, Version(0, 3), wants.messages(204))
            for name, there in (("m58", 58), ("m260", 260)):
                with pytest.raises(MessageExists) as refused:
                    again = MessagesAdded((raw_message(261, name, 1),), (name,))
                    await wants.commit(store, ASHA, Version(0, 3), again)
                assert refused.value.seq == there
            again = MessagesAdded((raw_message(261, "m57", 1),), ("m57",))
            assert (await wants.commit(store, ASHA, Version(0, 3), again)).seq == 261
            stats = await store.stats("default", active_after_ms=0, open_after_ms=0)
            assert (stats.total_users, stats.total_messages) == (2, 204 + 7)
            now = await everything(store, Place("default"), [BALA])
            assert {read: now[read] for read in now if "'bala'" in read} == {
                read: hers[read] for read in hers if "'bala'" in read
            }
            erased = await wants.commit(store, ASHA, Version(0, 4), Erased(1))
            assert erased.removed.messages == 204
            assert (await wants.load(store, ASHA)).trimmed == 0

        self.run(test)

    def test_trimming_again_and_again_ends_with_nothing_and_seq_goes_on(self) -> None:
        """Step by step, with messages in between, to the end: no seq comes twice."""

        async def test(store: Store) -> None:
            revision = seq = 0
            for before in (1, 5, 5, 3, 40, 77, 151, 301):
                count = 50 if seq < 300 else 0
                if count:
                    await wants.commit(store, ASHA, Version(0, revision), wants.messages(seq + 1, count))
                    revision, seq = revision + 1, seq + count
                trimmed = (await wants.load(store, ASHA)).trimmed
                committed = await wants.commit(store, ASHA, Version(0, revision), Trimmed(before))
                revision += 1
                assert committed.seq == seq
                assert committed.removed == Removed(messages=max(0, min(before - 1, seq) - trimmed))
                first = max(before - 1, trimmed) + 1
                assert await wants.page(store, ASHA, limit=1_000) == (list(range(first, seq + 1)), False)
            record = await wants.load(store, ASHA)
            assert (record.seq, record.trimmed, record.window) == (300, 300, ())
            assert (await wants.commit(store, ASHA, Version(0, revision), wants.messages(301))).seq == 301
            assert await wants.page(store, ASHA) == ([301], False)

        self.run(test)

    def test_a_history_can_begin_late(self) -> None:
        """Somebody of whom there is nothing yet can be given a history that begins further on."""

        async def test(store: Store) -> None:
            await wants.commit(store, ASHA, NEW, Trimmed(41), wants.messages(41, 3))
            record = await wants.load(store, ASHA)
            assert (record.seq, record.trimmed, [m.seq for m in record.window]) == (43, 40, [41, 42, 43])
            await wants.commit(store, BALA, NEW, Trimmed(41))
            assert (await wants.load(store, BALA)).seq == 40
            with pytest.raises(StaleVersion):
                await wants.commit(store, BALA, Version(0, 1), wants.messages(1))
            assert (await wants.commit(store, BALA, Version(0, 1), wants.messages(41))).seq == 41

        self.run(test)

    def test_old_interruptions_go_and_are_counted(self) -> None:
        """Those from before the moment, of all sessions of the user; to the millisecond."""

        async def test(store: Store) -> None:
            for user in (ASHA, BALA):
                name = user.user_id
                kept = [
                    InterruptionAdded(
                        StoredInterruption(f"i{at}", f"{name} {at % 2}", at, b'{"heardText":"a"}')
                    )
                    for at in range(1, 7)
                ]
                sessions = (wants.session(user, f"{name} 0"), wants.session(user, f"{name} 1"))
                await wants.commit(store, user, NEW, *sessions, *kept)
            gone = await wants.commit(store, ASHA, Version(0, 1), InterruptionsTrimmed(4))
            assert gone.removed == Removed(interruptions=3)
            left = {
                name: [i.at_ms for i in await store.interruptions("default", name, 9)]
                for name in ("asha 0", "asha 1", "bala 0", "bala 1")
            }
            assert left == {"asha 0": [6, 4], "asha 1": [5], "bala 0": [6, 4, 2], "bala 1": [5, 3, 1]}
            both = (InterruptionsTrimmed(6), SessionRemoved("asha 0"))
            gone = await wants.commit(store, ASHA, Version(0, 2), *both)
            assert gone.removed == Removed(sessions=1, interruptions=3)
            stranger = UserKey("other", "asha")
            assert (await wants.commit(store, stranger, NEW, InterruptionsTrimmed(9))).removed == Removed()

        self.run(test)
