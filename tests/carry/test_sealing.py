"""What was kept in clear, carried to where it is encrypted: sealed on the way, as a server would have, or refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import apsw
import pytest

from samvad.records import UserKey, user_hash
from samvad.runtime import open_samvad
from samvad.stores.encrypting import data_keys_of, has_keys, keys_file
from samvad.stores.sealing import is_sealed
from tests.carry.support import (
    GONE,
    Place,
    call,
    content,
    killed_twice,
    make,
    many,
    place,
    receipt,
    store_at,
)
from tests.encryption.test_at_rest import CANARY, found_in, new_key, say_everything
from tests.firestore.raw import everything as documents_of
from tests.knowledge.here import engine_here

__all__ = ["engine_here", "place"]
pytestmark = pytest.mark.usefixtures("engine_here")


def database(url: str) -> Path:
    """The file of a SQLite store."""
    return Path(url.removeprefix("sqlite:///"))


def in_clear(url: str) -> list[str]:
    """Where the canary stands in a store, byte by byte: in the files of a database, or the documents of a project."""
    if url.startswith("sqlite"):
        return [name for name in found_in(Path.cwd()) if name.startswith(database(url).stem)]
    found = documents_of(url.removeprefix("firestore://"))
    return [
        path
        for path, fields in found.items()
        if CANARY in repr(fields) or CANARY.encode() in bytes_in(fields)
    ]


def bytes_in(value: Any) -> bytes:
    """All bytes and text within fields, one behind the other."""
    if isinstance(value, dict):
        return b"".join(bytes_in(key) + bytes_in(each) for key, each in value.items())
    if isinstance(value, list):
        return b"".join(map(bytes_in, value))
    return value if isinstance(value, bytes) else str(value).encode()


async def say(url: str) -> None:
    """The canary wherever a caller can put it, an answer kept under a key and the knowledge base too."""
    async with open_samvad(url, record_interruptions=True) as samvad:
        await say_everything(samvad, "canary")
        await samvad.append_to_user_history("canary", "user", "one more", receipt=receipt("canary"))
        await samvad.save_user_state("canary", {"last": CANARY}, receipt=receipt("state"))
        await samvad.knowledge.add_text(CANARY, f"About {CANARY}.", id="all")
        await samvad.knowledge.add_text("Hers", f"Of {CANARY}.", id="hers", user_id="canary")


async def go_on(url: str, key: str) -> None:
    """A server finds all of it, goes on, and erases."""
    async with open_samvad(url, master_key=key, record_interruptions=True) as samvad:
        profile = await samvad.get_user_profile("canary")
        said = [message.content for message in profile.conversation_history]
        assert said == [CANARY, "…", CANARY, "one more"] and profile.preferences["note"] == CANARY
        state = await samvad.get_user_state("canary")
        assert state is not None and state.state == {"note": CANARY, "last": CANARY}
        assert CANARY.encode() in (await samvad.recorded_interruptions("canary's"))[0].body
        assert (await samvad.append_to_user_history("canary", "user", "next")).seq == 5
        assert (await samvad.knowledge.get("hers", user_id="canary")).document.title == "Hers"
        hits = await samvad.knowledge.search(CANARY, user_id="canary", max_results=5)
        assert {hit.doc.id for hit in hits} == {"all", "hers"}
        assert (await samvad.read_user(GONE)).version.epoch == 1
        await samvad.clear_user_data("canary")


async def answers_in_clear(url: str) -> int:
    """How many of the answers kept under keys are not sealed."""
    async with store_at(url) as store:
        answers = [each.receipt.answer for each in await store.receipts(limit=1_000)]
    assert any(answers)
    return sum(1 for answer in answers if answer and not is_sealed(answer))


async def keys_of_user(url: str, user: str) -> bool:
    """Whether a store has keys of a user."""
    async with store_at(url) as store:
        keys = data_keys_of(store)
        await keys.open()
        entry = await keys.get(user_hash(UserKey("default", user)))
        await keys.close()
    return entry is not None


@pytest.mark.parametrize(
    ("source", "target"), [("sqlite", "sqlite"), ("sqlite", "firestore"), ("firestore", "sqlite")]
)
def test_what_was_in_clear_is_sealed_on_the_way(
    place: Place, monkeypatch: pytest.MonkeyPatch, source: str, target: str
) -> None:
    """All arrives as it was and is in clear nowhere; a second run changes nothing; the erased do not come back."""
    old, new, key = place.url(source, "old"), place.url(target, "new"), new_key()
    make(old, ("asha", "आशा"))
    asyncio.run(say(old))
    before = content(old)
    assert in_clear(old), "or the test would prove nothing"
    monkeypatch.setenv("SAMVAD_MASTER_KEY", key)
    for told in (call("migrate", old, new), call("migrate", old, new)):
        assert "documents  2\n" in told and told.endswith("sealed     all of it, on the way\n")
    assert "5 already there" in told
    assert content(new, key) == before
    assert in_clear(new) == [] and asyncio.run(answers_in_clear(new)) == 0
    asyncio.run(go_on(new, key))
    assert not asyncio.run(keys_of_user(new, "canary"))
    assert "4 already there, 1 erased since" in call("migrate", old, new)
    assert UserKey("default", "canary") not in content(new, key)["users"]
    assert in_clear(new) == []


def test_a_backup_in_clear_is_sealed_as_it_is_restored(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a caller's own data looks like a seal; sealed data never comes to be in clear."""
    old, new, key = place.url("sqlite", "old"), place.url("sqlite", "new"), new_key()
    make(old, ("asha",))
    asyncio.run(say(old))
    with open_samvad(old) as samvad:
        samvad.save_user_state("forger", {"note": "an earlier version took what stands here next"})
    with apsw.Connection(str(database(old))) as connection:
        forged = b'{"samvad.sealed":"' + b"A" * 80 + b'"}'
        connection.execute(
            "UPDATE states SET body = ? WHERE CAST(body AS TEXT) LIKE '%earlier version%'", (forged,)
        )
    before = content(old)
    call("backup", "all.backup", "--store", old)
    monkeypatch.setenv("SAMVAD_MASTER_KEY", key)
    for _ in range(2):
        assert "sealed     all of it" in call("restore", "all.backup", "--store", new)
    assert content(new, key) == before
    assert in_clear(new) == []

    async def bodies() -> list[bytes]:
        async with store_at(new) as store:
            record = await store.load(
                UserKey("default", "asha"), window=10, open_after_ms=1 << 62, sessions_max=0
            )
            return [record.state.body, record.profile.preferences, *(m.body for m in record.window)]

    assert all(map(is_sealed, asyncio.run(bodies())))
    clear = place.url("sqlite", "clear")
    make(clear, ("bala",))
    assert "is not encrypted, and FROM is" in call("migrate", new, clear, code=2)


@pytest.mark.crash
def test_a_sealing_migration_that_is_killed_goes_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed with SIGKILL in the middle, twice; the next run completes it, and all is there once, and sealed."""
    old, new, key = place.url("sqlite", "old"), place.url("sqlite", "new"), new_key()
    asyncio.run(many(old, 100, 5))
    asyncio.run(say(old))
    before = content(old)
    monkeypatch.setenv("SAMVAD_MASTER_KEY", key)
    killed_twice(place, lambda: place.users_in("new.db"), 101, "migrate", old, new)
    told = call("migrate", old, new)
    assert "users      101: " in told and "left alone" not in told
    assert content(new, key) == before
    assert in_clear(new) == []


def test_what_cannot_be_sealed_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the master key, and where the target holds something in clear; then nothing is written at all."""
    key, plain = new_key(), place.url("sqlite", "plain")
    make(plain, ("asha",))
    call("backup", "all.backup", "--store", plain)

    def refused(target: str) -> str:
        migrated = call("migrate", plain, target, code=2)
        restored = call("restore", "all.backup", "--store", target, code=2)
        assert migrated.replace("FROM", "all.backup") == restored
        assert len(restored.splitlines()) == 1
        return restored

    sealed, clear = place.url("sqlite", "sealed"), place.url("sqlite", "clear")
    asyncio.run(_state(sealed, key))
    asyncio.run(_state(clear, None))
    assert "give its master key in SAMVAD_MASTER_KEY" in refused(sealed)
    monkeypatch.setenv("SAMVAD_MASTER_KEY", key)
    assert "bring it to an empty store" in refused(clear)
    assert not keys_file(database(clear)).exists()
    asyncio.run(_state(clear, key))  # turned on later: what was there before stays as it was
    assert "bring it to an empty store" in refused(clear)
    documents = place.url("sqlite", "documents")
    with open_samvad(documents) as samvad:
        samvad.knowledge.add_text("In clear", "In clear.")
    assert "samvad encryption seal-knowledge" in refused(documents)
    assert "1 documents sealed" in call("encryption", "seal-knowledge", "--store", documents)
    call("migrate", plain, documents)


async def _state(url: str, key: str | None) -> None:
    async with open_samvad(url, master_key=key) as samvad:
        await samvad.save_user_state("ravi", {"a": 1})


def test_seals_without_their_keys_are_not_taken_for_text(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source whose keys are gone is refused: sealed a second time, nobody could read it."""
    old, new, key = place.url("sqlite", "old"), place.url("sqlite", "new"), new_key()
    asyncio.run(_state(old, key))
    keys_file(database(old)).unlink()
    for given in (None, key):
        if given is not None:
            monkeypatch.setenv("SAMVAD_MASTER_KEY", given)
        assert "old.db.keys back" in call("migrate", old, new, code=2)

    async def untouched() -> bool:
        async with store_at(new) as store:
            return not await has_keys(store) and not (await store.keys(limit=1)).keys

    assert asyncio.run(untouched())
