"""The first answer to a request with a key is the answer to each repetition of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from samvad import open_samvad
from samvad.errors import (
    IdempotencyKeyReused,
    InvalidRequest,
    NotFound,
    SessionTaken,
    StoreUnavailable,
    UserErased,
)
from samvad.records import UserKey
from samvad.runtime import Samvad
from samvad.sessions.fingerprints import with_key
from samvad.stores.memory import MemoryStore
from samvad.testing.clock import VirtualClock
from samvad.types import Appended, Cleared
from tests.sessions.faulty import FaultyStore
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio

ASHA = UserKey("default", "asha")
DAY_S = 24 * 3600


@pytest.fixture
def clock() -> VirtualClock:
    """Time that the test moves."""
    return VirtualClock()


@pytest.fixture(params=["memory", "sqlite"])
async def samvad(
    request: pytest.FixtureRequest, clock: VirtualClock, database_path: Path
) -> AsyncIterator[Samvad]:
    """The service, over either store of this package."""
    url = "memory://" if request.param == "memory" else f"sqlite:///{database_path}"
    async with open_samvad(url, clock=clock) as service:
        yield service


async def say(
    samvad: Samvad, key: str = "key", fingerprint: bytes = b"f" * 32, earlier: bytes | None = None
) -> list[Appended]:
    """A request with a key: something is said."""
    receipts = samvad.core.receipts
    message = {"role": "user", "content": "x"}
    return await receipts.once(
        ASHA,
        receipts.key("default", "", key),
        fingerprint,
        list[Appended],
        lambda receipt: samvad.append_many("asha", [message], receipt=receipt),
        earlier=earlier,
    )


async def said(samvad: Samvad) -> int:
    """How many messages there are."""
    return (await samvad.get_user_profile("asha")).position.seq


async def test_once(samvad: Samvad) -> None:
    """However often and however closely it is repeated, it is done once and answered alike."""
    answers = await asyncio.gather(*[say(samvad) for _ in range(20)])
    answers.append(await say(samvad))
    assert {answer[0].message_id for answer in answers} == {answers[0][0].message_id}
    assert await said(samvad) == 1
    assert (await say(samvad, "other"))[0].seq == 2
    assert samvad.core.receipts.replays == 20


async def test_an_answer_that_an_earlier_version_kept(samvad: Samvad) -> None:
    """It is known by the fingerprint of then; another request under its key is refused, by that of then as well."""
    plain, now = b"p" * 32, with_key("key", b"p" * 32)
    first = await say(samvad, fingerprint=plain)
    assert await say(samvad, fingerprint=now, earlier=plain) == first
    with pytest.raises(IdempotencyKeyReused):
        await say(samvad, fingerprint=with_key("key", b"q" * 32), earlier=b"q" * 32)
    assert await said(samvad) == 1
    await say(samvad, "other", fingerprint=now, earlier=plain)
    with pytest.raises(IdempotencyKeyReused):  # an older replica beside a newer one: told, and not done twice
        await say(samvad, "other", plain)
    assert await said(samvad) == 2


async def test_a_key_belongs_to_its_request(samvad: Samvad) -> None:
    """Another request under the same key is refused, while the first is under way and after it."""
    answers = await asyncio.gather(say(samvad), say(samvad, fingerprint=b"g" * 32), return_exceptions=True)
    assert isinstance(answers[1], IdempotencyKeyReused)
    with pytest.raises(IdempotencyKeyReused):
        await say(samvad, fingerprint=b"g" * 32)
    assert await said(samvad) == 1


async def test_after_a_restart(database_path: Path) -> None:
    """The answer is on the disk with what it tells of."""
    url = f"sqlite:///{database_path}"
    async with open_samvad(url) as samvad:
        first = await say(samvad)
    async with open_samvad(url) as samvad:
        assert await say(samvad) == first
        assert await said(samvad) == 1


async def test_for_24_hours(samvad: Samvad, clock: VirtualClock) -> None:
    """Then the key is free again, whether or not it has been swept out."""
    await say(samvad)
    clock.advance(DAY_S - 1)
    assert (await say(samvad))[0].seq == 1
    clock.advance(2)
    assert (await say(samvad))[0].seq == 2
    clock.advance(DAY_S + 1)
    assert await samvad.store.expire(receipts_before_ms=clock.now_ms() - DAY_S * 1000) == 1
    assert (await say(samvad))[0].seq == 3


async def test_an_erased_answer_is_gone(samvad: Samvad) -> None:
    """What was done is not done again for a user who was erased, and what was answered is not told any more."""
    await say(samvad)
    await samvad.clear_user_data("asha")
    with pytest.raises(UserErased):
        await say(samvad)
    assert await said(samvad) == 0
    assert (await say(samvad, "new"))[0].seq == 1


async def test_an_erasing_is_answered_again_with_its_counts(samvad: Samvad) -> None:
    """The counts are those of the first time, which only the store knew."""
    receipts = samvad.core.receipts

    async def erase(key: str) -> Cleared:
        return await receipts.once(
            ASHA,
            receipts.key("default", "", key),
            b"e" * 32,
            Cleared,
            lambda receipt: samvad.clear_user_data("asha", receipt=receipt),
        )

    await samvad.append_to_user_history("asha", "user", "x")
    first = await erase("key")
    assert (first.messages, first.user_profile) == (1, True)
    assert await erase("key") == first
    assert (await erase("another")).messages == 0


async def test_a_refusal_is_kept(samvad: Samvad) -> None:
    """A refusal that rested on what was there is repeated, though it would not be refused any more."""
    receipts = samvad.core.receipts

    async def create() -> None:
        await receipts.once(
            ASHA,
            receipts.key("default", "", "key"),
            b"s" * 32,
            type(None),
            lambda receipt: samvad.save_session("s", "asha", receipt=receipt),
        )

    await samvad.save_session("s", "bala")
    with pytest.raises(SessionTaken) as first:
        await create()
    await samvad.clear_session("s")
    with pytest.raises(SessionTaken) as again:
        await create()
    assert again.value.message == first.value.message
    assert await samvad.get_session("s") is None


async def test_what_was_not_done_is_tried_again() -> None:
    """A store that was away, or a malformed request, leaves nothing behind: the same key may be used again."""
    store = FaultyStore(MemoryStore())
    async with open_samvad(store=store) as samvad:
        store.refuse[0] = StoreUnavailable()
        with pytest.raises(StoreUnavailable):
            await say(samvad)
        store.lose[1] = StoreUnavailable()
        with pytest.raises(StoreUnavailable):
            await say(samvad)  # it was written, but nobody heard of it
        assert (await say(samvad))[0].seq == 1
        assert await said(samvad) == 1


async def test_a_caller_who_gives_up_and_asks_again() -> None:
    """The first request goes on without its caller; the repetition waits for it, and nothing is done twice."""
    store = FaultyStore(MemoryStore())
    async with open_samvad(store=store) as samvad:
        await samvad.get_user_profile("asha")
        store.hold()
        first = asyncio.create_task(say(samvad))

        async def under_way() -> bool:
            return samvad.core.lanes.operations_waiting == 1

        await wait_until_async(under_way, "the first is under way")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        again = asyncio.create_task(say(samvad))
        await asyncio.sleep(0)
        store.release()
        assert (await again)[0].seq == 1
        assert await said(samvad) == 1


async def test_memory_is_idempotent_as_well(database_path: Path) -> None:
    """Acknowledged before the store has the receipt, and yet done once."""
    async with open_samvad(f"sqlite:///{database_path}", durability="memory") as samvad:
        first = await say(samvad)
        assert await say(samvad) == first
        assert await said(samvad) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "\ud800", "\0"])
async def test_a_key_is_printable_and_short(key: str) -> None:
    """What cannot be a key is refused as such."""
    async with open_samvad("memory://") as samvad:
        with pytest.raises(InvalidRequest):
            samvad.core.receipts.key("default", "", key)


async def test_keys_of_others_are_others() -> None:
    """Tenant, caller, key and part each make another name; where one ends and the next begins is not guessed."""
    async with open_samvad("memory://") as samvad:
        parts: list[tuple[Any, ...]] = [
            ("a", "b", "c"),
            ("a", "bc", "x"),
            ("ab", "", "c"),
            ("a", "", "bc"),
            ("a", "b", "c", "d"),
            ("a", "b", "cd"),
        ]
        assert len({samvad.core.receipts.key(*each) for each in parts}) == len(parts)


async def test_a_missing_session_is_a_kept_refusal(samvad: Samvad) -> None:
    """NotFound is remembered as well."""
    receipts = samvad.core.receipts
    calls = 0

    async def end(receipt: object) -> None:
        nonlocal calls
        calls += 1
        await samvad.end_session("s")

    for _ in range(2):
        with pytest.raises(NotFound):
            await receipts.once(ASHA, receipts.key("default", "", "k"), b"n" * 32, type(None), end)
    assert calls == 1
