"""What callers send is never taken for a seal: in clear, encrypted, or where encryption is turned on over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samvad import open_samvad
from samvad.clock import SystemClock
from samvad.errors import InvalidRequest
from samvad.knowledge.records import Document
from samvad.knowledge.sealing import is_sealed
from samvad.stores.memory import MemoryStore
from samvad.stores.sqlite import SQLiteStore
from samvad.stores.urls import store_from_url
from tests.encryption.test_at_rest import new_key
from tests.firestore.support import emulator
from tests.journaled.faulty import FaultyStore

pytestmark = pytest.mark.anyio

SEAL = {"samvad.sealed": "AQ" + "A" * 78}
GIVEN: list[dict[str, Any]] = [
    {"metadata": SEAL},
    {"metadata": SEAL, "last": "a text"},
    {"metadata": {"deeper": [SEAL]}, "last": "a text"},
    {"text": '"samvad.sealed":"AQAA"}'},
    {"samvad.sealed2": "AQAA", "samvad.seale": "AQAA"},
]


async def engine(kind: str, folder: Path) -> Callable[[], Any]:
    """How each of several services, one after the other, comes to the same store."""
    if kind == "memory":
        kept = MemoryStore()
        await kept.open()
        return lambda: FaultyStore(kept)
    if kind == "sqlite":
        return lambda: SQLiteStore(folder / "samvad.db")
    running = emulator()
    url = f"firestore://{running.new_project()}"
    return lambda: store_from_url(url, SystemClock(), emulator_host=running.host)


async def put(samvad: Any, user: str, given: dict[str, Any]) -> None:
    """Send it wherever an object of the caller's own is taken."""
    await samvad.save_user_state(user, given)
    await samvad.save_user_profile(user, given)
    await samvad.append_to_user_history(user, "user", "hello", **given)
    await samvad.save_session(f"{user}'s", user, **given)


async def check(samvad: Any, user: str, given: dict[str, Any]) -> None:
    """It is read as it was sent."""
    assert (await samvad.get_user_state(user)).state == given
    profile = await samvad.get_user_profile(user)
    assert {name: profile.preferences[name] for name in given} == given
    [message] = profile.conversation_history
    assert (message.metadata, message.extra or {}) == (
        given.get("metadata"),
        {name: value for name, value in given.items() if name != "metadata"},
    )
    [session] = await samvad.get_user_sessions(user)
    assert session.metadata == given.get("metadata")
    assert {name: session.extra[name] for name in given if name != "metadata"} == {
        name: value for name, value in given.items() if name != "metadata"
    }


@pytest.mark.parametrize(
    ("kind", "in_clear_until"), [("memory", 2), ("memory", 4), ("sqlite", 0), ("sqlite", 2), ("sqlite", 4),
                                 ("firestore", 0), ("firestore", 2), ("firestore", 4)]
)  # fmt: skip
async def test_further_in_the_name_is_data(tmp_path: Path, kind: str, in_clear_until: int) -> None:
    """Four services, one after the other, the first in clear, the others with encryption: all is as it was sent."""
    store, key = await engine(kind, tmp_path), new_key()
    sent: list[tuple[str, dict[str, Any]]] = []
    for turn in range(4):
        master = None if turn < in_clear_until else key
        async with open_samvad("memory://", store=store(), master_key=master) as samvad:
            for user, given in sent:
                await check(samvad, user, given)
            if turn % 2 == 0 and not (kind == "memory" and master):  # whose keys end with the service
                sent += [(f"{turn} {number}", given) for number, given in enumerate(GIVEN)]
                for user, given in sent[-len(GIVEN) :]:
                    await put(samvad, user, given)
    assert sent


@pytest.mark.parametrize("key", [None, new_key()], ids=["clear", "encrypted"])
async def test_as_a_member_of_its_own_it_is_refused(key: str | None) -> None:
    """Of a state, preferences, a message and a session; that null removes it is taken."""
    async with open_samvad("memory://", master_key=key) as samvad:
        refused = [
            samvad.save_user_state("asha", SEAL),
            samvad.replace_user_state("asha", {"a": 1, **SEAL}),
            samvad.save_user_profile("asha", SEAL),
            samvad.append_to_user_history("asha", "user", "hello", **SEAL),
            samvad.append_many("asha", [{"role": "user", "content": "hello", **SEAL}]),
            samvad.save_session("s", "asha", **SEAL),
        ]
        for sending in refused:
            with pytest.raises(InvalidRequest, match=r"may not have a member 'samvad\.sealed'"):
                await sending
        await samvad.save_user_state("asha", {"a": 1, "samvad.sealed": None})
        assert (await samvad.get_user_state("asha")).state == {"a": 1}


async def test_a_document_with_a_title_is_none_that_was_sealed() -> None:
    """Callers' documents have one, and sealed ones have not."""
    document = Document(
        id="d",
        title="A title",
        type="text",
        content_length=1,
        added_at="",
        updated_at="",
        checksum="",
        metadata=SEAL,
    )
    assert not is_sealed(document)
