"""`samvad migrate`: everything arrives as it was, once, whatever happens in between, and nothing is overwritten."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from samvad.cli.carry.totals import Totals
from samvad.cli.migrate import carry
from samvad.records import UserKey
from samvad.runtime import open_samvad
from samvad.stores.memory import MemoryStore
from tests.carry.support import (
    GONE,
    NAMES,
    REBORN,
    Place,
    call,
    content,
    killed_twice,
    make,
    many,
    place,
    store_at,
)
from tests.cli.processes import Server
from tests.firestore.raw import google_client

__all__ = ["place"]
PAIRS = [("sqlite", "firestore"), ("firestore", "sqlite"), ("sqlite", "sqlite")]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_everything_arrives_as_it_was(place: Place, source: str, target: str) -> None:
    """Users with ids of every kind, their epochs, receipts and erasures; a second time nothing is written."""
    old, new = place.url(source, "old"), place.url(target, "new")
    before = make(old)
    assert len(before["users"]) == len(NAMES) + 2
    assert {key.user_id for key in before["users"]} == {*NAMES, REBORN, "only-state"}
    told = call("migrate", old, new)
    users = len(before["users"])
    assert f"users      {users}: {users} added, 0 already there\n" in told
    assert f"messages   {32 * (len(NAMES) + 1)}\n" in told
    assert f"sessions   {2 * (len(NAMES) + 1)}, with {len(NAMES) + 1} interruptions\n" in told
    assert f"receipts   {len(before['receipts'])}\n" in told
    assert "verified   each user by counts and checksum" in told
    assert content(new) == before == content(old)
    assert f"users      {users}: 0 added, {users} already there\n" in call("migrate", old, new)


def test_a_migrated_store_goes_on(place: Place) -> None:
    """The next message follows, its id is known, the erased stay fenced, and a key gives its first answer."""
    old, new = place.url("sqlite", "old"), place.url("firestore")
    make(old)
    call("migrate", old, new)

    async def go_on() -> None:
        async with open_samvad(new) as samvad:
            assert (await samvad.append_to_user_history("asha", "user", "next")).seq == 33
            assert (await samvad.append_to_user_history("asha", "user", "again", id="given")).duplicate
            state = await samvad.get_user_state("asha")
            assert state is not None and state.version == 2
            for user, epoch in ((REBORN, 1), (GONE, 1), ("asha", 0)):
                assert (await samvad.read_user(user)).version.epoch == epoch
            session = await samvad.get_session("t-0")
            assert session is not None and not session.is_active
            assert len(await samvad.recorded_interruptions("s-0")) == 1

    asyncio.run(go_on())


@pytest.mark.crash
@pytest.mark.parametrize(("source", "target"), [PAIRS[0], pytest.param(*PAIRS[1], marks=pytest.mark.soak)])
def test_a_migration_that_is_killed_goes_on(place: Place, source: str, target: str) -> None:
    """Killed with SIGKILL in the middle, twice; the next run completes it, and all is there once."""
    old, new = place.url(source, "old"), place.url(target, "new")
    users = 100 if source == "sqlite" else 200
    asyncio.run(many(old, users, 5))
    before = content(old)

    def count() -> int:
        async def there() -> int:
            async with store_at(new) as store:
                return len((await store.keys(limit=1_000)).keys)

        if target == "firestore":
            return asyncio.run(there())
        return place.users_in("new.db")

    killed_twice(place, count, users, "migrate", old, new)
    told = call("migrate", old, new)
    assert f"users      {users}: " in told and "left alone" not in told
    assert content(new) == before


class CutOff(Exception):
    """The process would have been killed here."""


@pytest.mark.parametrize("messages", [1_200])
def test_every_write_may_be_the_last(place: Place, messages: int) -> None:
    """Cut off behind each single write of a user with several pages of history, it is completed the next time."""
    old, new = place.url("sqlite", "old"), place.url("sqlite", "new")
    before = make(old, ("asha",), messages)

    async def cut_behind(writes: int) -> bool:
        async with store_at(old) as source, store_at(new) as target:
            commit, left = target.commit, writes

            async def counted(each: Any) -> Any:
                nonlocal left
                if left == 0:
                    raise CutOff
                left -= 1
                return await commit(each)

            target.commit = counted
            try:
                await carry(source, target, Totals())
            except* CutOff:
                return_value = False
            else:
                return_value = True
            return return_value

    cuts = 0
    while not asyncio.run(cut_behind(1)):
        cuts += 1
        assert cuts < 50
    assert cuts >= 6
    assert content(new) == before


def test_what_is_there_is_not_overwritten(place: Place) -> None:
    """A user who went on in the target is left alone and named, the others arrive; the exit code says so."""
    old, new = place.url("sqlite", "old"), place.url("sqlite", "new")
    make(old)
    with open_samvad(new) as samvad:
        samvad.append_to_user_history("asha", "user", "somebody else")
        samvad.save_user_state("आशा", {"topic": "other"})
        samvad.save_session("s-2", "stranger")
    told = call("migrate", old, new, code=1)
    assert "left alone: asha: one of the messages is another" in told or "left alone: asha: the pref" in told
    assert "left alone: आशा: the state is another" in told
    assert "left alone: asha@example.com: one of the sessions belongs to another user there" in told
    with open_samvad(new, readonly=True) as samvad:
        assert samvad.get_user_profile("asha").conversation_history[0].content == "somebody else"
        assert samvad.get_user_profile("__x__").history_length == 32


def test_the_erased_are_erased_there_too(place: Place) -> None:
    """A user erased in the source who lives on in an older copy is ended in it, and none of it comes back."""
    old, new = place.url("sqlite", "old"), place.url("firestore")
    make(old)
    call("migrate", old, new)
    with open_samvad(old) as samvad:
        samvad.clear_user_data("asha")
        samvad.clear_user_data(REBORN)
    told = call("migrate", old, new)
    assert "3 of users" not in told and "2 of users who lived there" in told
    found = content(new)
    assert found == content(old)
    assert UserKey("default", "asha") not in found["users"]


def test_profiles_of_the_older_layout_are_carried(place: Place) -> None:
    """One array in one document, and states without a profile: all are found, though no index lists them."""
    source, new = place.url("firestore"), place.url("sqlite", "new")
    with google_client(source.removeprefix("firestore://")) as client:
        history = [
            {"role": "user", "content": f"old {n}", "timestamp": "2024-05-01T09:00:00Z"} for n in range(3)
        ]
        client.document("user_profiles/old asha").set(
            {"userId": "old asha", "conversationHistory": history, "preferences": {"language": "hi"}}
        )
        client.document("user_states/old asha").set({"topic": "loans"})
        client.document("user_states/only a state").set({"topic": "cards"})
    assert "users      2: 2 added" in call("migrate", source, new)
    with open_samvad(new, readonly=True) as samvad:
        assert [m.content for m in samvad.get_user_profile("old asha").conversation_history] == [
            "old 0", "old 1", "old 2",
        ]  # fmt: skip
        state = samvad.get_user_state("only a state")
        assert state is not None and state.state == {"topic": "cards"}


def test_a_store_that_does_not_keep_what_it_was_given_is_noticed(place: Place) -> None:
    """Each user is read back: a target that loses a byte ends the migration."""
    old = place.url("sqlite", "old")
    make(old, ("asha",))

    async def spoiled() -> None:
        target = MemoryStore()
        await target.open()
        write = target._write

        def forgetful(key: Any, user: Any, change: Any, removed: Any) -> Any:
            removed = write(key, user, change, removed)
            if user.messages:
                user.messages[0] = user.messages[-1]
            return removed

        target._write = forgetful  # type: ignore[method-assign]
        async with store_at(old) as source:
            with pytest.raises(BaseExceptionGroup) as caught:
                await carry(source, target, Totals())
        assert "does not read back as it was" in str(caught.value.exceptions[0])

    asyncio.run(spoiled())


def test_stores_that_are_in_use_are_refused(place: Place) -> None:
    """A server on either database; waiting operations in the journal; the same store twice; memory."""
    old, new = place.url("sqlite", "old"), place.url("sqlite", "new")
    make(old, ("asha",))
    with Server(place.folder, "--store", old):
        assert "in use by process" in call("migrate", old, new, code=2)
        make(new, ("asha",))
        assert "in use by process" in call("migrate", new, old, code=2)
    assert "are the same store" in call("migrate", old, old, code=2)
    assert "There is no database" in call("migrate", new.replace("new.db", "none.db"), new, code=2)
    assert "memory store" in call("migrate", old, "memory://", code=2)
    assert "is not the URL of a store" in call("migrate", old, "postgres://x", code=2)
