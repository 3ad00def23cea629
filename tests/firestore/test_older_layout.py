"""Profiles with `conversationHistory` as one array are read, and carried over by their first write."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
import pytest

from samvad.errors import SamvadError
from samvad.records import Commit, Erased, MessagesAdded, SessionSet, StoredSession, UserKey, Version
from samvad.testing.emulator import FirestoreEmulator
from samvad.testing.model import raw_message
from tests.firestore.raw import everything, google_client
from tests.firestore.support import open_store

pytestmark = pytest.mark.anyio
ASHA = UserKey("default", "asha@example.com")
EVERYTHING: dict[str, int] = {"window": 100, "open_after_ms": -1, "sessions_max": 9}
CREATED = datetime.datetime(2025, 1, 10, 17, 0, 0, 123_000, tzinfo=datetime.UTC)
MOMENT_MS = 1_736_528_400_123


def write_older(project: str, messages: int, **more: Any) -> None:
    """A profile as the older layout has it."""
    history = [
        {
            "role": "user" if n % 2 == 0 else "assistant",
            "content": f"said {n}",
            "timestamp": CREATED,
            "mood": n,
        }
        for n in range(messages)
    ]
    profile = {
        "userId": ASHA.user_id,
        "conversationHistory": history,
        "preferences": {"language": "hi", "voiceSpeed": 1.25},
        "createdAt": CREATED,
        "lastUpdated": "2025-02-01T00:00:00.000Z",
    }
    with google_client(project) as client:
        client.document(f"user_profiles/{ASHA.user_id}").set(profile | more)


async def test_it_reads_like_a_profile_of_today() -> None:
    """Messages in order with seq and ids that stay, preferences and times; nothing is written by reading."""
    project = FirestoreEmulator.new_project()
    store = await open_store(project)
    write_older(project, 3)
    record = await store.load(ASHA, **EVERYTHING)
    assert (record.version, record.seq) == (Version(0, 1), 3)
    assert [msgspec.json.decode(m.body) for m in record.window][2] == {
        "seq": 3,
        "id": record.window[2].id,
        "role": "user",
        "content": "said 2",
        "timestamp": "2025-01-10T17:00:00.123Z",
        "mood": 2,
    }
    assert msgspec.json.decode(record.profile.preferences) == {"language": "hi", "voiceSpeed": 1.25}
    assert (record.profile.created_ms, record.profile.updated_ms) == (MOMENT_MS, 1_738_368_000_000)
    assert await store.load(ASHA, **EVERYTHING) == record
    messages, has_more = await store.page(ASHA, after=1, before=None, limit=1, bytes_max=99_999)
    assert (messages, has_more) == ([record.window[1]], True)
    assert list(everything(project)) == [f"user_profiles/{ASHA.user_id}"]
    await store.close()


async def test_the_first_write_carries_it_over() -> None:
    """250 messages and a state become a head, segments and a state of this layout, in the batch of the write."""
    project = FirestoreEmulator.new_project()
    store = await open_store(project)
    write_older(project, 250)
    with google_client(project) as client:
        client.document(f"user_states/{ASHA.user_id}").set(
            {"language": "hi", "updatedAt": CREATED, "isActive": True}
        )
    before = await store.load(ASHA, **EVERYTHING)
    assert before.state is not None
    assert (before.state.body, before.state.updated_ms) == (b'{"language": "hi"}', MOMENT_MS)
    added = raw_message(251, "new", MOMENT_MS + 1)
    committed = await store.commit(Commit(ASHA, before.version, (MessagesAdded((added,)),)))
    assert (committed.version, committed.seq) == (Version(0, 2), 251)
    written = everything(project)
    head = written[f"user_profiles/{ASHA.user_id}"]
    assert "conversationHistory" not in head
    assert len([path for path in written if "/history/" in path]) == 2
    after = await store.load(ASHA, **EVERYTHING)
    assert after.window == (*before.window[1:], added)
    assert after.state == before.state
    assert after.profile.preferences == before.profile.preferences
    messages, _ = await store.page(ASHA, after=0, before=None, limit=1_000, bytes_max=1 << 30)
    assert [m.seq for m in messages] == list(range(1, 252))
    assert list(await store.users("default", after="", limit=9)) == [ASHA.user_id]
    await store.close()


async def test_a_writer_of_the_older_layout_is_not_overwritten() -> None:
    """What the older service wrote between our reading and our write is there afterwards."""
    project = FirestoreEmulator.new_project()
    store = await open_store(project)
    write_older(project, 2)
    record = await store.load(ASHA, **EVERYTHING)
    write_older(project, 4)
    with pytest.raises(SamvadError, match=r"."):
        await store.commit(Commit(ASHA, record.version, (MessagesAdded((raw_message(3, "new", 1),)),)))
    record = await store.load(ASHA, **EVERYTHING)
    assert record.seq == 4
    await store.commit(Commit(ASHA, record.version, (MessagesAdded((raw_message(5, "new", 1),)),)))
    assert (await store.load(ASHA, **EVERYTHING)).seq == 5
    await store.close()


async def test_strange_documents_are_no_hindrance() -> None:
    """A profile without history, and one whose entries are odd, can be read, written and erased."""
    project = FirestoreEmulator.new_project()
    store = await open_store(project)
    odd = [{"role": 7}, "no object", {"content": ["x"], "toolCalls": 3, "timestamp": "yesterday"}, {}]
    write_older(project, 0, conversationHistory=odd, preferences=None, createdAt=None, lastUpdated=5)
    record = await store.load(ASHA, **EVERYTHING)
    assert record.seq == 3
    session = SessionSet(StoredSession("s", ASHA.user_id, b"{}", 1, 1))
    committed = await store.commit(Commit(ASHA, record.version, (session,)))
    committed = await store.commit(Commit(ASHA, committed.version, (Erased(1),)))
    assert (committed.version, committed.removed.messages) == (Version(1, 0), 3)
    assert list(everything(project)) == [path for path in everything(project) if path.startswith("erasures/")]
    # The older service writes again: it is a new life, and what is written into the old one is refused.
    write_older(project, 1)
    record = await store.load(ASHA, **EVERYTHING)
    assert (record.version, record.seq) == (Version(1, 1), 1)
    await store.close()


async def test_a_state_without_a_profile_can_be_erased() -> None:
    """A user of whom the older layout has only a state is a user."""
    project = FirestoreEmulator.new_project()
    store = await open_store(project)
    with google_client(project) as client:
        client.document(f"user_states/{ASHA.user_id}").set({"topic": "loans"})
    record = await store.load(ASHA, **EVERYTHING)
    assert record.version == Version(0, 1)
    committed = await store.commit(Commit(ASHA, record.version, (Erased(1),)))
    assert committed.removed.state
    assert (await store.load(ASHA, **EVERYTHING)).state is None
    await store.close()
