"""While the store is down, requests with a key and new sessions are taken; what cannot be is seen when it is back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from samvad.clock import SystemClock
from samvad.errors import SessionTaken, StoreUnavailable
from samvad.http.app import create_app
from samvad.records import UserKey
from samvad.runtime import Options, Samvad
from samvad.stores.base import Store
from samvad.stores.memory import MemoryStore
from samvad.stores.urls import store_from_url
from samvad.types import Appended
from tests.http.support import Api
from tests.journaled.faulty import FaultyStore
from tests.journaled.support import abandon, contents, drained, opened, service, store_of
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio
HELLO = {"role": "user", "content": "hello"}
HISTORY = "/api/session/asha/history"


@pytest.fixture(params=["memory", "sqlite"])
async def real(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """One real store for all replicas."""
    url = f"sqlite:///{tmp_path / 'inner.db'}"
    store = MemoryStore() if request.param == "memory" else store_from_url(url, SystemClock())
    await store.open()
    yield store
    await store.close()


async def cut_off(samvad: Any, line: FaultyStore) -> None:
    """Take the store away from a replica, and wait until it knows."""
    line.down = True
    await samvad.append_to_user_history("someone", "user", "x")

    async def is_open() -> bool:
        return store_of(samvad).breaker.is_open

    await wait_until_async(is_open, "the breaker opens")


def key(name: str) -> dict[str, str]:
    """The header of a request that is to be carried out once."""
    return {"Idempotency-Key": name}


@pytest.mark.parametrize("restart", [False, True])
async def test_a_key_is_taken(real: Store, tmp_path: Path, restart: bool) -> None:
    """As `journaled`; repeated it gives the same answer, also when the store is back and after a restart; done once."""
    line = FaultyStore(real)
    samvad = await service(line, tmp_path / "a").open()
    await cut_off(samvad, line)
    api = Api(samvad, create_app(samvad))
    first = await api.post(HISTORY, HELLO, headers=key("k"))
    assert (first.status, first.json["durability"]) == (200, "journaled")
    assert (await api.post(HISTORY, HELLO, headers=key("k"))).json == first.json
    await api.refused(
        422, "idempotency_key_reused", "POST", HISTORY, {**HELLO, "content": "other"}, headers=key("k")
    )
    if restart:
        await abandon(samvad)
        samvad = await service(line, tmp_path / "a").open()
        api = Api(samvad, create_app(samvad))
    line.down = False
    await drained(samvad)
    again = await api.post(HISTORY, HELLO, headers=key("k"))
    assert (again.status, again.json["messageId"]) == (200, first.json["messageId"])
    assert await contents(real, "asha") == ["hello"]
    await samvad.aclose()


@pytest.mark.parametrize("flushed", [True, False])
async def test_a_key_that_another_replica_has_used(real: Store, tmp_path: Path, flushed: bool) -> None:
    """The same request went to two replicas: it is carried out once, whether the second could ask or not."""
    line = FaultyStore(real)
    async with opened(line, tmp_path / "a") as a, opened(FaultyStore(real), tmp_path / "b") as b:
        api_a, api_b = Api(a, create_app(a)), Api(b, create_app(b))
        if flushed:
            await cut_off(a, line)
        else:
            line.hang()
            line.release()
        first = await api_b.post(HISTORY, HELLO, headers=key("k"))
        second = await api_a.post(HISTORY, HELLO, headers=key("k"))
        assert (first.status, second.status) == (200, 200)
        after = await api_a.post(HISTORY, {**HELLO, "content": "after"})
        assert after.status == 200
        await drained(b)
        line.down = False
        await drained(a, b)
        assert await contents(real, "asha") == ["hello", "after"]
        again = await api_a.post(HISTORY, HELLO, headers=key("k"))
        assert again.json["messageId"] == first.json["messageId"]


async def test_a_key_that_a_replica_of_an_earlier_version_has_used(real: Store, tmp_path: Path) -> None:
    """What that one has kept cannot be compared with what this one was asked while the store was down: done once."""
    line = FaultyStore(real)
    async with opened(line, tmp_path / "a") as a, opened(FaultyStore(real), tmp_path / "b") as b:
        await cut_off(a, line)
        receipts = b.core.receipts
        await receipts.once(
            UserKey("default", "asha"),
            receipts.key("default", "", "k"),
            b"p" * 32,
            list[Appended],
            lambda receipt: b.append_many("asha", [HELLO], receipt=receipt),
        )
        await drained(b)
        assert (await Api(a, create_app(a)).post(HISTORY, HELLO, headers=key("k"))).status == 200
        line.down = False
        await drained(a, b)
        assert await contents(real, "asha") == ["hello"]


class UsedMeanwhile(FaultyStore):
    """Once a key was looked up, `then` happens before this replica goes on."""

    then: Callable[[], Awaitable[Any]] | None = None

    async def receipt(self, key: bytes) -> Any:
        found = await self.store.receipt(key)
        if self.then is not None:
            then, self.then = self.then, None
            await then()
        return found


@pytest.mark.parametrize("behind_journal", [True, False])
@pytest.mark.parametrize("known", [True, False])
async def test_a_key_that_is_used_between_looking_and_writing(
    real: Store, tmp_path: Path, known: bool, behind_journal: bool
) -> None:
    """Another replica carries the request out after this one looked, and before it loaded the user: done once."""
    line = UsedMeanwhile(real)
    a = service(line, tmp_path / "a") if behind_journal else Samvad(line, options=Options(durability="store"))
    async with a, opened(FaultyStore(real), tmp_path / "b") as b:
        api_a, api_b = Api(a, create_app(a)), Api(b, create_app(b))
        if known:
            await a.get_user_profile("asha")

        async def by_another() -> None:
            assert (await api_b.post(HISTORY, HELLO, headers=key("k"))).status == 200
            await drained(b)
            if behind_journal:  # as the change listener does
                a.core.lanes.invalidate(UserKey("default", "asha"))

        line.then = by_another
        assert (await api_a.post(HISTORY, HELLO, headers=key("k"))).status == 200
        if behind_journal:
            await drained(a)
        assert await contents(real, "asha") == ["hello"]


async def test_a_key_of_another_request(real: Store, tmp_path: Path) -> None:
    """The key was used for something else: both were acknowledged, so both are there, and the key stays the first's."""
    line = FaultyStore(real)
    async with opened(line, tmp_path / "a") as a, opened(FaultyStore(real), tmp_path / "b") as b:
        api_a, api_b = Api(a, create_app(a)), Api(b, create_app(b))
        await cut_off(a, line)
        assert (await api_a.post(HISTORY, {**HELLO, "content": "mine"}, headers=key("k"))).status == 200
        first = await api_b.post(HISTORY, HELLO, headers=key("k"))
        await drained(b)
        line.down = False
        await drained(a)
        assert await contents(real, "asha") == ["hello", "mine"]
        assert (await api_a.post(HISTORY, HELLO, headers=key("k"))).json["messageId"] == first.json[
            "messageId"
        ]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("restart", [False, True])
async def test_a_new_session(real: Store, tmp_path: Path, known: bool, restart: bool) -> None:
    """Created, read, spoken in and ended while the store is down; then it is in the store."""
    line = FaultyStore(real)
    samvad = await service(line, tmp_path / "a").open()
    if known:
        await samvad.get_user_profile("asha")
    await cut_off(samvad, line)
    api = Api(samvad, create_app(samvad))
    body = {"sessionId": "phone", "userId": "asha", "language": "hi", "metadata": {"platform": "web"}}
    created = await api.post("/api/session/create", body, headers=key("create"))
    assert (created.status, created.json["durability"]) == (200, "journaled")
    await samvad.append_to_user_history("asha", "user", "hello", session_id="phone")
    assert (await api.ok("GET", "/api/session/phone"))["session"]["userId"] == "asha"
    await samvad.save_session("other", "asha")
    await samvad.end_session("other")
    if restart:
        await abandon(samvad)
        samvad = await service(line, tmp_path / "a").open()
    line.down = False
    await drained(samvad)
    stored = await real.session("default", "phone")
    assert stored is not None and b'"hi"' in stored.body and stored.user_id == "asha"
    other = await real.session("default", "other")
    assert other is not None and other.ended_ms is not None
    await samvad.aclose()


async def test_a_session_that_was_there(real: Store, tmp_path: Path) -> None:
    """What the store has of it is kept, and what was said while it was down is merged into it."""
    line = FaultyStore(real)
    async with opened(line, tmp_path / "a") as a, opened(FaultyStore(real), tmp_path / "b") as b:
        await b.save_session("phone", "asha", language="hi", metadata={"device": 1})
        await b.end_session("phone")
        await drained(b)
        before = await real.session("default", "phone")
        await cut_off(a, line)
        await a.save_session("phone", "asha", metadata={"platform": "web"})
        line.down = False
        await drained(a)
        session = await a.get_session("phone")
        assert before is not None and session is not None
        assert session.metadata == {"device": 1, "platform": "web"}
        assert (session.language, session.is_active) == ("hi", True)
        after = await real.session("default", "phone")
        assert after is not None and after.created_ms == before.created_ms


@pytest.mark.parametrize("known", [False, True])
async def test_a_session_of_another_user(real: Store, tmp_path: Path, known: bool) -> None:
    """It stays theirs; the user who was told otherwise keeps every word, is told 409 from then on, and it counts."""
    line = FaultyStore(real)
    async with opened(line, tmp_path / "a") as a, opened(FaultyStore(real), tmp_path / "b") as b:
        if known:
            await a.get_user_profile("asha")
        await b.save_session("phone", "ravi", note="ravi's")
        await drained(b)
        await cut_off(a, line)
        await a.save_session("phone", "asha", note="asha's")
        await a.append_to_user_history("asha", "user", "hello", session_id="phone")
        await a.save_session("laptop", "asha")
        with pytest.raises(SessionTaken):
            await a.save_session("phone", "mina")  # known here as asha's
        line.down = False
        await drained(a)
        assert store_of(a).flusher.parked() == []
        assert store_of(a).flusher.overtaken == 1
        stored = await real.session("default", "phone")
        assert stored is not None and stored.user_id == "ravi" and b"ravi's" in stored.body
        assert await contents(real, "asha") == ["hello"]
        assert [s.id for s in await a.get_user_active_sessions("asha")] == ["laptop"]
        with pytest.raises(SessionTaken):
            await a.save_session("phone", "asha")
        session = await a.get_session("phone")
        assert session is not None and session.user_id == "ravi"


async def test_two_replicas_create_the_same_session(real: Store, tmp_path: Path) -> None:
    """At the same moment, for two users, the store being up: one of them has it, and nothing is held up."""
    async with opened(FaultyStore(real), tmp_path / "a") as a, opened(FaultyStore(real), tmp_path / "b") as b:
        for samvad, user in ((a, "asha"), (b, "ravi")):
            await samvad.get_user_profile(user)
        await a.save_session("phone", "asha")
        await b.save_session("phone", "ravi")
        for samvad, user in ((a, "asha"), (b, "ravi")):
            await samvad.append_to_user_history(user, "user", "hello")
        await drained(a, b)
        assert store_of(a).flusher.parked() == store_of(b).flusher.parked() == []
        stored = await real.session("default", "phone")
        assert stored is not None
        assert store_of(a).flusher.overtaken + store_of(b).flusher.overtaken == 1
        for user in ("asha", "ravi"):
            assert await contents(real, user) == ["hello"]


async def test_without_a_journal_it_is_refused(tmp_path: Path) -> None:
    """A store that takes nothing while it is down: 503, as for every write."""
    from samvad.runtime import Samvad

    store = MemoryStore()
    await store.open()
    line = FaultyStore(store)
    async with Samvad(line) as samvad:
        await samvad.append_to_user_history("asha", "user", "hello")
        line.down = True
        with pytest.raises(StoreUnavailable):
            await samvad.save_session("phone", "asha")
        line.down = False
