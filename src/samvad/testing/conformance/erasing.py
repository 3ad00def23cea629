"""Erasing, and writers at once."""

from __future__ import annotations

import asyncio

import pytest

from samvad.errors import StaleVersion
from samvad.records import (
    Change,
    Commit,
    Committed,
    Erased,
    InterruptionAdded,
    MessagesAdded,
    ProfileSet,
    Removed,
    SessionRemoved,
    StoredInterruption,
    StoredProfile,
    UserKey,
    UserRecord,
    Version,
)
from samvad.stores.base import Store
from samvad.testing.conformance import base as wants
from samvad.testing.conformance.base import ASHA, BALA, NEW, Suite
from samvad.testing.model import Place, everything, raw_message


async def empty(store: Store, version: Version, erased_ms: int) -> None:
    """Asha has nothing, and was last erased then (0: never)."""
    record = await wants.load(store, ASHA)
    assert record == UserRecord(version, erased=record.erased)
    assert record.erased.at_ms == erased_ms


class ErasingConformance(Suite):
    """What erasing leaves, and that many writers at once lose nothing."""

    # --- erasing ---------------------------------------------------------------------------------------------

    def test_erasing_leaves_nothing_to_read_and_counts_it(self) -> None:
        """An erased user is as one who never was, but for the epoch; what was removed is counted exactly."""

        async def test(store: Store) -> None:
            place = Place("default")
            for user in (ASHA, BALA):
                await wants.fill(store, user)
            hers = await everything(store, place, [BALA])
            erased = await wants.commit(store, ASHA, Version(0, 2), Erased(5), wants.receipt(b"e", b""))
            assert erased == Committed(
                Version(1, 0), 0, Removed(state=True, profile=True, sessions=2, messages=7, interruptions=3)
            )
            await empty(store, Version(1, 0), 5)
            assert await wants.page(store, ASHA) == ([], False)
            assert await store.sessions(ASHA, open_after_ms=None) == []
            for session_id in ("asha 1", "asha 2"):
                assert await store.session("default", session_id) is None
                assert await store.interruptions("default", session_id, 9) == []
            assert list(await store.users("default", after="", limit=9)) == ["bala"]
            # The answers given before are gone; that there was one is not.
            kept = await store.receipt(b"a" * 32)
            assert kept is not None
            assert kept.answer is None
            answer = await store.receipt(b"e" * 32)
            assert answer is not None
            assert answer.answer is not None
            assert b'"messages":7' in answer.answer
            # What is another user's is untouched.
            now = await everything(store, place, [BALA])
            for read, answered in hers.items():
                if "'bala'" in read:
                    assert now[read] == answered, read
            hers_kept = await store.receipt(b"b" * 32)
            assert hers_kept is not None
            assert hers_kept.answer == b"{}"
            stats = await store.stats("default", active_after_ms=0, open_after_ms=0)
            assert stats == (1, 2, 1, 3, 7, 1)
            # There is nothing left to erase.
            again = await wants.commit(store, ASHA, Version(1, 0), Erased(6))
            assert again.removed == Removed()

        self.run(test)

    def test_an_old_epoch_is_refused_for_ever(self) -> None:
        """Nothing that was on its way when a user was erased comes back; what comes after is a new life."""

        async def test(store: Store) -> None:
            erased_ms = 0
            for life in range(4):
                await empty(store, Version(life, 0), erased_ms)
                await wants.commit(
                    store, ASHA, Version(life, 0), wants.messages(1, name=f"{life}-"), wants.state(life + 1)
                )
                for old in range(life):
                    for revision in (0, 1, 2):
                        with pytest.raises(StaleVersion):
                            await wants.commit(store, ASHA, Version(old, revision), wants.messages(2))
                record = await wants.load(store, ASHA)
                assert [m.id for m in record.window] == [f"{life}-1"]
                # Whoever holds something back knows by this whether it belongs to the life before.
                assert record.erased.at_ms == erased_ms
                erased_ms = 1_000 + life
                erased = await wants.commit(store, ASHA, Version(life, 1), Erased(erased_ms))
                assert erased.version == Version(life + 1, 0)
                for revision in (0, 1, 2):
                    with pytest.raises(StaleVersion):
                        await wants.commit(store, ASHA, Version(life, revision), wants.messages(1))

        self.run(test)

    def test_erasing_among_other_commits(self) -> None:
        """Erasing takes what was committed just before it, and what follows at once is the new life."""

        async def test(store: Store) -> None:
            steps: list[tuple[Version, Change]] = [
                (NEW, wants.messages(1, 3)),
                (Version(0, 1), wants.session(ASHA, "s")),
                (Version(0, 2), Erased(1)),
                (Version(0, 2), wants.messages(4)),  # was on its way: refused
                (Version(1, 0), wants.messages(1, name="new")),
                (Version(1, 1), wants.session(ASHA, "s", body=b'{"new":1}')),
            ]
            under_way = [store.commit(Commit(ASHA, expected, (change,))) for expected, change in steps]
            answers = await asyncio.gather(*under_way, return_exceptions=True)
            assert isinstance(answers[3], StaleVersion)
            erased = answers[2]
            assert isinstance(erased, Committed)
            assert erased.removed == Removed(sessions=1, messages=3)
            record = await wants.load(store, ASHA)
            assert (record.version, [m.id for m in record.window]) == (Version(1, 2), ["new1"])
            kept = await store.session("default", "s")
            assert kept is not None
            assert kept.body == b'{"new":1}'

        self.run(test)

    def test_an_interruption_is_its_sessions(self) -> None:
        """What was recorded of a session goes with it: whoever uses the id next sees nothing of it."""

        async def test(store: Store) -> None:
            secret = InterruptionAdded(StoredInterruption("i", "s", 1, b'{"heardText":"secret"}'))
            await wants.commit(store, ASHA, NEW, wants.session(ASHA, "s"), secret)
            removed = await wants.commit(store, ASHA, Version(0, 1), SessionRemoved("s"))
            assert removed.removed == Removed(sessions=1, interruptions=1)
            await wants.commit(store, ASHA, Version(0, 2), secret)  # comes too late: there is no such session
            await wants.commit(store, BALA, NEW, wants.session(BALA, "s"))
            await wants.commit(store, ASHA, Version(0, 3), secret)  # nor is it this user's
            assert await store.interruptions("default", "s", 9) == []
            assert (await store.stats("default", active_after_ms=0, open_after_ms=0)).total_interruptions == 0

        self.run(test)

    # --- concurrency -----------------------------------------------------------------------------------------

    def test_many_writers_of_one_user_lose_nothing(self) -> None:
        """Writers that load, commit against what they loaded and try again make one gapless history."""

        async def test(store: Store) -> None:
            async def writer(number: int) -> list[int]:
                seqs = []
                for n in range(10):
                    while True:
                        record = await wants.load(store, ASHA, 1)
                        seq = record.seq + 1
                        message = raw_message(seq, f"{number}-{n}", 1)
                        try:
                            await wants.commit(store, ASHA, record.version, MessagesAdded((message,)))
                        except StaleVersion:
                            continue
                        seqs.append(seq)
                        break
                return seqs

            told = await asyncio.gather(*[writer(number) for number in range(8)])
            window = (await wants.load(store, ASHA)).window
            assert [m.seq for m in window] == list(range(1, 81))
            place = {m.id: m.seq for m in window}
            for number, seqs in enumerate(told):
                assert seqs == sorted(seqs) == [place[f"{number}-{n}"] for n in range(10)]

        self.run(test)

    def test_many_users_at_once_stay_apart(self) -> None:
        """Commits of many users, submitted together without waiting, each land with their own user in order."""

        async def test(store: Store) -> None:
            users = [UserKey("default", f"user {n}") for n in range(40)]
            under_way = [
                store.commit(Commit(user, Version(0, n), (wants.messages(n + 1, name=user.user_id),)))
                for n in range(5)
                for user in users
            ]
            answers = await asyncio.gather(*under_way)
            assert {answer.version.epoch for answer in answers} == {0}
            for user in users:
                window = (await wants.load(store, user)).window
                assert [m.id for m in window] == [f"{user.user_id}{n}" for n in range(1, 6)]

        self.run(test)

    def test_a_reader_never_sees_half_a_commit(self) -> None:
        """What a load shows is one moment: state, profile, session and messages of the same commit."""

        async def test(store: Store) -> None:
            async def write() -> None:
                for n in range(60):
                    profile = ProfileSet(StoredProfile(b"{}", 0, n + 1))
                    session = wants.session(ASHA, "s", n + 1)
                    changes = (wants.state(n + 1), profile, session, wants.messages(n + 1, at_ms=n + 1))
                    await wants.commit(store, ASHA, Version(0, n), *changes)

            async def read() -> None:
                while not writing.done():
                    record = await wants.load(store, ASHA, 3)
                    n = record.seq
                    if n:
                        assert record.state is not None
                        assert record.profile is not None
                        seen = (record.state.version, record.profile.updated_ms, record.version.revision)
                        assert seen == (n, n, n)
                        assert record.sessions["s"].active_ms == n
                        assert [m.seq for m in record.window] == list(range(max(1, n - 2), n + 1))
                    await asyncio.sleep(0)

            writing = asyncio.create_task(write())
            await asyncio.gather(writing, read(), read())

        self.run(test)
