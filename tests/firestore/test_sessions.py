"""Sessions whose documents lag behind the head: whoever asks for them is told the truth all the same."""

from __future__ import annotations

import random

import pytest

from samvad.errors import SessionTaken
from samvad.records import Commit, SessionRemoved, SessionSet, SessionTouched, StoredSession, UserKey, Version
from samvad.stores.memory import MemoryStore
from tests.firestore.support import open_store

pytestmark = pytest.mark.anyio
ASHA = UserKey("default", "asha")
LAG_S = 2.0


async def test_more_sessions_than_a_head_lists() -> None:
    """90 open sessions, touched, ended and removed at random: reads are those of the model at any lag."""
    choose = random.Random(3)
    store, model = await open_store(session_lag_s=LAG_S), MemoryStore()
    await model.open()
    version = Version(0, 0)
    for step in range(500):
        name = f"s{choose.randrange(90)}"
        at_ms = step * 50
        session = await model.session("default", name)
        if session is None:
            change = SessionSet(StoredSession(name, "asha", b"{}", at_ms, at_ms))
        else:
            ended = StoredSession(name, "asha", b"{}", session.created_ms, at_ms, at_ms)
            touched = SessionTouched(name, at_ms)
            change = choose.choice([touched] * 40 + [SessionSet(ended), SessionRemoved(name)])
        commit = Commit(ASHA, version, (change,))
        await model.commit(commit)
        version = (await store.commit(commit)).version
        if step % 50 == 49:
            for open_after_ms, sessions_max in ((-1, 256), (at_ms - 3_000, 256), (-1, 20), (at_ms - 500, 2)):
                bounds = {"window": 1, "open_after_ms": open_after_ms, "sessions_max": sessions_max}
                assert await store.load(ASHA, **bounds) == await model.load(ASHA, **bounds)
            for open_after in (None, -1, at_ms - 1_000):
                found = await store.sessions(ASHA, open_after_ms=open_after)
                assert found == await model.sessions(ASHA, open_after_ms=open_after)
            for n in range(90):
                assert await store.session("default", f"s{n}") == await model.session("default", f"s{n}")
            # The count of open sessions is the only thing that lags; that of users does not.
            for after_ms in (at_ms - 1_000, at_ms - 10_000):
                now = await store.stats("default", active_after_ms=after_ms, open_after_ms=after_ms)
                most = await model.stats("default", active_after_ms=after_ms, open_after_ms=after_ms)
                least_after_ms = after_ms + round(LAG_S * 1000)
                least = await model.stats("default", active_after_ms=after_ms, open_after_ms=least_after_ms)
                assert least.active_sessions <= now.active_sessions <= most.active_sessions
                assert now.active_users == most.active_users
    await store.close()


async def test_a_session_that_looks_new_and_is_not() -> None:
    """A session saved as new under an id that its user has ended before is the same document; another's is refused."""
    store = await open_store()
    ended = SessionSet(StoredSession("s", "asha", b"{}", 1, 1, 2))
    version = (await store.commit(Commit(ASHA, Version(0, 0), (ended,)))).version
    again = StoredSession("s", "asha", b'{"again":1}', 5, 5)
    await store.commit(Commit(ASHA, version, (SessionSet(again),)))
    assert await store.session("default", "s") == again
    bala = UserKey("default", "bala")
    hers = SessionSet(StoredSession("s", "bala", b"{}", 7, 7))
    with pytest.raises(SessionTaken):
        await store.commit(Commit(bala, Version(0, 0), (hers,)))
    with pytest.raises(SessionTaken):
        await store.commit(Commit(bala, Version(0, 0), (hers, SessionRemoved("s"))))
    answer = await store.commit(Commit(bala, Version(0, 0), (SessionRemoved("s"),)))
    assert answer.removed.sessions == 0
    assert await store.session("default", "s") == again
    await store.close()
