"""What a flush and a load may cost, counted by the store as Firestore bills it."""

from __future__ import annotations

import pytest

from samvad import limits
from samvad.records import (
    Commit,
    MessagesAdded,
    ProfileSet,
    SessionSet,
    SessionTouched,
    StateSet,
    StoredMessage,
    StoredProfile,
    StoredSession,
    StoredState,
    UserKey,
    Version,
)
from samvad.testing.model import raw_message
from tests.firestore.support import open_store

pytestmark = pytest.mark.anyio
ASHA = UserKey("default", "asha@example.com")
EVERYTHING = {"window": 100, "open_after_ms": -1, "sessions_max": 256}


def said(seq: int, content: str = "What documents do I need for a home loan? " * 3) -> StoredMessage:
    """A message of about 270 bytes."""
    return raw_message(seq, f"message-{seq}", seq, content, sessionId="phone")


def profile(updated_ms: int) -> ProfileSet:
    """Some preferences."""
    return ProfileSet(StoredProfile(b'{"language":"hi"}', 1, updated_ms))


def session(active_ms: int = 1) -> SessionSet:
    """A session."""
    return SessionSet(StoredSession("phone", ASHA.user_id, b'{"language":"hi"}', 1, active_ms))


async def fill(store: object, messages: int, per_commit: int = 2) -> Version:
    """A user with state, profile, one session and so many messages, written in small commits."""
    version = Version(0, 0)
    changes = (profile(1), StateSet(StoredState(b'{"n":1}', 1, 1)), session())
    version = (await store.commit(Commit(ASHA, version, changes))).version  # type: ignore[attr-defined]
    for first in range(1, messages + 1, per_commit):
        added = tuple(said(seq) for seq in range(first, min(first + per_commit, messages + 1)))
        commit = Commit(ASHA, version, (MessagesAdded(added), SessionTouched("phone", added[-1].seq)))
        version = (await store.commit(commit)).version  # type: ignore[attr-defined]
    return version


async def test_a_turn_costs_one_write_and_no_read() -> None:
    """User and assistant as one flush: the head, one segment in 50 turns, and nothing else."""
    store = await open_store()
    version = await fill(store, 2)
    before = vars(store.operations).copy()
    for first in range(3, 1_003, 2):
        changes = (MessagesAdded((said(first), said(first + 1))), SessionTouched("phone", first))
        version = (await store.commit(Commit(ASHA, version, changes))).version
    spent = {name: count - before[name] for name, count in vars(store.operations).items()}
    assert spent == {"calls": 500, "reads": 0, "writes": 510, "deletes": 0}  # 1,000 messages
    await store.close()


async def test_a_flush_is_at_most_one_read_and_three_writes() -> None:
    """However much waits for a user: the head, a segment, the state; the head read by whoever does not know it."""
    store = await open_store()
    version = await fill(store, 99)
    other = await open_store(store.project)
    before = vars(other.operations).copy()
    changes = (
        MessagesAdded(tuple(said(seq) for seq in range(100, 160))),
        StateSet(StoredState(b'{"n":2}', 2, 2)),
        profile(2),
        SessionTouched("phone", 200),
    )
    await other.commit(Commit(ASHA, version, changes))
    spent = {name: count - before[name] for name, count in vars(other.operations).items()}
    assert spent == {"calls": 2, "reads": 1, "writes": 3, "deletes": 0}
    await store.close()
    await other.close()


@pytest.mark.parametrize(("messages", "reads"), [(1, 3), (100, 3), (101, 4), (160, 4), (200, 3), (1_001, 4)])
async def test_a_load_is_at_most_four_reads(messages: int, reads: int) -> None:
    """Head, state, one segment at most, and one open session: the last 100 messages and all that belongs to them."""
    store = await open_store()
    await fill(store, messages, per_commit=50)
    before = store.operations.reads
    record = await store.load(ASHA, **EVERYTHING)
    assert [m.seq for m in record.window] == list(range(max(1, messages - 99), messages + 1))
    assert (len(record.sessions), record.state is not None) == (1, True)
    assert store.operations.reads - before == reads <= 4
    await store.close()


async def test_a_user_who_is_not_there_costs_three_reads() -> None:
    """The head, the erasure, and a state of the older layout; the first write needs no read after that."""
    store = await open_store()
    before = store.operations.reads
    record = await store.load(ASHA, **EVERYTHING)
    assert store.operations.reads - before == 3
    await store.commit(Commit(ASHA, record.version, (profile(1), MessagesAdded((said(1),)))))
    assert store.operations.reads - before == 3
    await store.close()


async def test_ids_behind_the_window_cost_one_read() -> None:
    """An id that may be old is looked for with one query; 30 of them with one as well."""
    store = await open_store()
    version = await fill(store, 300, per_commit=50)
    before = store.operations.reads
    added = tuple(said(seq) for seq in range(301, 331))
    commit = Commit(ASHA, version, (MessagesAdded(added, tuple(m.id for m in added)),))
    await store.commit(commit)
    assert store.operations.reads - before == 1
    await store.close()


async def test_a_hundred_of_the_largest_messages() -> None:
    """100 messages of 64 KiB, at once and one by one, are kept whole, each document under 1 MiB."""
    store = await open_store()
    content = "\u0917" * (limits.CONTENT_BYTES_MAX // 3)
    for user, per_commit in ((UserKey("default", "at once"), 100), (UserKey("default", "one by one"), 1)):
        version = Version(0, 0)
        for first in range(1, 101, per_commit):
            added = tuple(said(seq, content) for seq in range(first, first + per_commit))
            version = (await store.commit(Commit(user, version, (MessagesAdded(added),)))).version
        before = store.operations.reads
        window = (await store.load(user, **EVERYTHING)).window
        assert window == tuple(said(seq, content) for seq in range(1, 101))
        assert store.operations.reads - before <= 27
        messages, has_more = await store.page(user, after=10, before=None, limit=20, bytes_max=1 << 40)
        assert ([m.seq for m in messages], has_more) == (list(range(11, 31)), True)
    await store.close()


async def test_pages_of_a_long_history() -> None:
    """A page far back in 10,000 messages costs the head and the segments that it lies in."""
    store = await open_store()
    await fill(store, 10_000, per_commit=500)
    for bounds, seqs in (
        ({"after": 4_950, "before": None}, range(4_951, 5_051)),
        ({"after": None, "before": 2_001}, range(1_901, 2_001)),
        ({"after": 0, "before": None}, range(1, 101)),
        ({"after": None, "before": 9_951}, range(9_851, 9_951)),
    ):
        before = store.operations.reads
        messages, has_more = await store.page(ASHA, limit=100, bytes_max=1 << 40, **bounds)
        assert ([m.seq for m in messages], has_more) == (list(seqs), True)
        assert store.operations.reads - before <= 4
    await store.close()
