"""Encryption at rest: nothing that callers gave is to be found in any file, and erasing silences every copy."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from samvad import open_samvad
from samvad.clock import SystemClock
from samvad.errors import SetupError, Unreadable
from samvad.records import UserKey, user_hash
from samvad.stores.data_key_file import DataKeyFile
from samvad.stores.data_keys import DataKeys
from samvad.stores.encrypting import keys_file
from samvad.stores.master_keys import master_keys
from samvad.stores.urls import store_from_url
from samvad.types import Appended, Cleared
from tests.firestore.raw import everything
from tests.firestore.support import emulator

pytestmark = pytest.mark.anyio

CANARY = "canary-7f3a-कोयल"
ASHA = UserKey("default", "asha")


def new_key() -> str:
    """A master key as it stands in the setting."""
    return base64.b64encode(os.urandom(32)).decode()


def found_in(folder: Path, text: str = CANARY) -> list[str]:
    """The files in which a text stands, as UTF-8 or escaped as JSON."""
    forms = (text.encode(), text.encode("unicode_escape"), base64.b64encode(text.encode())[:-4])
    return [
        path.name
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(form in path.read_bytes() for form in forms)
    ]


def service(path: Path, key: str | None, **settings: Any) -> Any:
    """The service over a database."""
    return open_samvad(f"sqlite:///{path}", master_key=key, record_interruptions=True, **settings)


async def say_everything(samvad: Any, user: str) -> None:
    """Put the canary wherever a caller can."""
    await samvad.save_user_state(user, {"note": CANARY})
    await samvad.append_to_user_history(user, "user", CANARY, metadata={"note": CANARY})
    tool_call = {"id": "c1", "name": "look", "arguments": {"for": CANARY}}
    await samvad.append_to_user_history(user, "assistant", "…", toolCalls=[tool_call])
    await samvad.append_to_user_history(user, "tool", CANARY, toolCallId="c1")
    await samvad.save_user_profile(user, {"note": CANARY})
    await samvad.save_session(f"{user}'s", user, metadata={"note": CANARY})
    body = msgspec.json.encode({"id": "i1", "fullText": CANARY})
    await samvad.record_interruption(f"{user}'s", f"i {samvad.core.clock.now_ms()}", 1, body)


async def test_no_file_holds_what_was_said(tmp_path: Path) -> None:
    """Not the database, its log, the keys, or what a restart makes of them; and it all reads as it was."""
    path, key = tmp_path / "samvad.db", new_key()
    for _ in range(2):
        async with service(path, key) as samvad:
            await say_everything(samvad, "asha")
            assert found_in(tmp_path) == []
    async with service(path, key) as samvad:
        profile = await samvad.get_user_profile("asha")
        assert [m.content for m in profile.conversation_history] == [CANARY, "…", CANARY] * 2
        assert profile.conversation_history[1].tool_calls[0].arguments == {"for": CANARY}
        assert profile.preferences["note"] == CANARY
        assert (await samvad.get_user_state("asha")).state == {"note": CANARY}
        assert (await samvad.get_user_sessions("asha"))[0].metadata == {"note": CANARY}
        kept = await samvad.recorded_interruptions("asha's")
        assert [msgspec.json.decode(each.body)["fullText"] for each in kept] == [CANARY] * 2
        page = await samvad.page_history("asha", limit=2)
        assert [m.seq for m in page.messages] == [5, 6]
    assert found_in(tmp_path) == []


async def test_without_encryption_the_canary_is_found(tmp_path: Path) -> None:
    """Or the test above would prove nothing."""
    async with service(tmp_path / "samvad.db", None) as samvad:
        await say_everything(samvad, "asha")
    assert found_in(tmp_path) == ["samvad.db"]


async def test_a_copy_from_before_the_erasing_is_silent(tmp_path: Path) -> None:
    """The database as it was, with the keys as they are: the erased user cannot be read, the other can."""
    path, key = tmp_path / "samvad.db", new_key()
    copy = tmp_path / "copy" / "samvad.db"
    copy.parent.mkdir()
    async with service(path, key) as samvad:
        for user in ("asha", "bala"):
            await say_everything(samvad, user)
    shutil.copy(path, copy)
    async with service(path, key) as samvad:
        await samvad.clear_user_data("asha")
        await samvad.append_to_user_history("asha", "user", "a new life")
    async with service(path, key) as samvad:
        history = (await samvad.get_user_profile("asha")).conversation_history
        assert [m.content for m in history] == ["a new life"]
    shutil.copy(keys_file(path), keys_file(copy))
    async with service(copy, key) as samvad:
        profile = await samvad.get_user_profile("asha")
        assert [m.content for m in profile.conversation_history] == [""] * 3
        assert all(m.extra["unreadable"] for m in profile.conversation_history)
        assert (await samvad.get_user_state("asha")).state == {"unreadable": True}
        assert (await samvad.get_user_state("bala")).state == {"note": CANARY}
        await samvad.clear_user_data("asha")  # what cannot be read can be erased
        assert await samvad.get_user_state("asha") is None


async def test_an_erasing_that_was_cut_off_is_finished_at_the_start(tmp_path: Path) -> None:
    """The process ends when the key is destroyed and nothing else: the next one erases the rest."""
    path, key = tmp_path / "samvad.db", new_key()
    async with service(path, key) as samvad:
        await say_everything(samvad, "asha")
    keys = DataKeys(DataKeyFile(keys_file(path)), master_keys(key))
    await keys.open()
    await keys.destroy(ASHA, 0)
    assert await keys.erasing() == [(ASHA, 0)]
    await keys.close()
    async with service(path, key) as samvad:
        record = await samvad.read_user("asha")
        assert (record.version.epoch, record.seq, record.state) == (1, 0, None)
    keys = DataKeys(DataKeyFile(keys_file(path)), master_keys(key))
    await keys.open()
    assert await keys.erasing() == []
    await keys.close()
    assert b"asha" not in keys_file(path).read_bytes()


async def test_rotation_needs_no_stop(tmp_path: Path) -> None:
    """The keys are wrapped anew beside a running server; then the old master key is of no use."""
    path, old, new = tmp_path / "samvad.db", new_key(), new_key()
    async with service(path, old) as samvad:
        await say_everything(samvad, "asha")
    async with service(path, f"{new},{old}") as samvad:
        await say_everything(samvad, "bala")
        keys = DataKeys(DataKeyFile(keys_file(path)), master_keys(f"{new},{old}"))
        await keys.open()
        assert not (await keys.count()).newest
        assert await keys.rewrap() == (1, 1)
        assert await keys.rewrap() == (0, 2)
        assert (await keys.count()).newest
        await keys.close()
        await say_everything(samvad, "asha")
        await say_everything(samvad, "chitra")
    with pytest.raises(SetupError, match="master key"):
        await service(path, old).open()
    async with service(path, new) as samvad:
        for user in ("asha", "bala", "chitra"):
            assert (await samvad.get_user_state(user)).state == {"note": CANARY}


@pytest.mark.parametrize("key", ["", "short", "A" * 43, "file:/nowhere", "gcpkms://projects/p"])
async def test_what_is_no_master_key_is_refused_without_being_shown(tmp_path: Path, key: str) -> None:
    """One line that says what to write."""
    with pytest.raises(SetupError) as refused:
        service(tmp_path / "samvad.db", key)
    assert "Master key 1" in refused.value.message
    assert len(key) < 20 or key not in refused.value.message


async def test_it_is_not_read_without_the_key_nor_with_another(tmp_path: Path) -> None:
    """And not taken for plain data, to which plain data could be added."""
    path = tmp_path / "samvad.db"
    async with service(path, new_key()) as samvad:
        await say_everything(samvad, "asha")
    with pytest.raises(SetupError, match="SAMVAD_MASTER_KEY"):
        await service(path, None).open()
    with pytest.raises(SetupError, match="is not given"):
        await service(path, new_key()).open()


async def test_what_was_kept_before_stays_readable(tmp_path: Path) -> None:
    """Encryption is turned on over plain data: that reads as before, and what is written is sealed."""
    path, key = tmp_path / "samvad.db", new_key()
    async with service(path, None) as samvad:
        await samvad.append_to_user_history("asha", "user", "in clear")
    async with service(path, key) as samvad:
        await samvad.append_to_user_history("asha", "user", CANARY)
        said = (await samvad.get_user_profile("asha")).conversation_history
        assert [m.content for m in said] == ["in clear", CANARY]
    assert found_in(tmp_path) == []


async def test_plain_data_is_not_believed_where_all_was_sealed(tmp_path: Path) -> None:
    """Somebody writes into the database what was never sealed."""
    path, key = tmp_path / "samvad.db", new_key()
    async with service(path, key) as samvad:
        await say_everything(samvad, "asha")
    with apsw.Connection(str(path)) as connection:
        connection.execute("UPDATE states SET body = ?", (b'{"note":"forged"}',))
    async with service(path, key) as samvad:
        state = await samvad.get_user_state("asha")
        assert state is not None and state.state == {"unreadable": True}


async def test_a_plain_answer_is_not_believed_where_all_was_sealed(tmp_path: Path) -> None:
    """Somebody writes one under an Idempotency-Key: it is not given as ours, nor is the request carried out again."""
    path, key = tmp_path / "samvad.db", new_key()

    async def once(samvad: Any, verb: str, kind: Any, act: Any) -> Any:
        name = samvad.core.receipts.key("default", "", verb)
        return await samvad.core.receipts.once(ASHA, name, b"f" * 32, kind, act)

    async def say(samvad: Any) -> Any:
        return await once(
            samvad,
            "say",
            list[Appended],
            lambda receipt: samvad.append_to_user_history("asha", "user", "hello", receipt=receipt),
        )

    async def clear(samvad: Any) -> Any:
        return await once(
            samvad, "clear", Cleared, lambda receipt: samvad.clear_user_data("asha", receipt=receipt)
        )

    async with service(path, key) as samvad:
        cleared = await clear(samvad)  # counts, which stand in clear
        appended = await say(samvad)
    async with service(path, key) as samvad:
        assert (await clear(samvad), await say(samvad)) == (cleared, [appended])
    with apsw.Connection(str(path)) as connection:
        connection.execute(
            "UPDATE receipts SET answer = ? WHERE CAST(answer AS TEXT) LIKE '%samvad.sealed%'",
            (msgspec.json.encode([appended]),),
        )
        assert connection.changes() == 1
    async with service(path, key) as samvad:
        assert await clear(samvad) == cleared
        with pytest.raises(Unreadable):
            await say(samvad)
        assert (await samvad.get_user_profile("asha")).history_length == 1


async def test_another_users_row_is_not_believed(tmp_path: Path) -> None:
    """Two states are exchanged in the database."""
    path, key = tmp_path / "samvad.db", new_key()
    async with service(path, key) as samvad:
        for user in ("asha", "bala"):
            await say_everything(samvad, user)
    with apsw.Connection(str(path)) as connection:
        connection.execute(
            "UPDATE states SET body = (SELECT body FROM states AS o WHERE o.user_no <> states.user_no)"
        )
    async with service(path, key) as samvad:
        state = (await samvad.read_user("asha")).state
        assert b"note" not in state.body  # its key is not among this user's


async def test_a_key_moved_to_another_user_does_not_fit(tmp_path: Path) -> None:
    """A wrapped key is bound to whose it is."""
    path, key = tmp_path / "samvad.db", new_key()
    async with service(path, key) as samvad:
        for user in ("asha", "bala"):
            await say_everything(samvad, user)
    with apsw.Connection(str(keys_file(path))) as connection:
        one, two = (user_hash(UserKey("default", user)) for user in ("asha", "bala"))
        connection.execute(
            "UPDATE keys SET value = (SELECT value FROM keys AS o WHERE o.name = ?) WHERE name = ?",
            (one, two),
        )
    async with service(path, key) as samvad:
        assert (await samvad.get_user_state("bala")).state == {"unreadable": True}


async def test_a_file_may_hold_the_master_key(tmp_path: Path) -> None:
    """As base64 with a line break, or as bytes."""
    key = os.urandom(32)
    for number, content in enumerate((key, base64.b64encode(key) + b"\n")):
        file = tmp_path / f"key{number}"
        file.write_bytes(content)
        async with service(tmp_path / "samvad.db", f"file:{file}") as samvad:
            await samvad.append_to_user_history("asha", "user", "hello")


async def test_a_journal_holds_nothing_in_clear_and_forgets_its_key(tmp_path: Path) -> None:
    """Entries are sealed; after an erasing and a round of upkeep, a copy of the journal cannot be opened any more."""
    journal, key = tmp_path / "journal", new_key()
    samvad = open_samvad("memory://", journal_dir=journal, master_key=key)
    async with samvad:
        await say_everything(samvad, "asha")
        assert found_in(tmp_path) == []
        copy = b"".join(
            path.read_bytes() for path in sorted(journal.rglob("*.journal")) or journal.rglob("*")
        )
        start = copy.index(b"\xc1SJ2")
        seal: Any = samvad._guard._journal
        sealed = copy[start : start + 4 + 8 + 8]
        assert sealed[12:] in seal._keys
        await samvad.clear_user_data("asha")
        await samvad._guard.keep_up(samvad.store)
        await samvad.store.drain(5)
        await samvad._guard.keep_up(samvad.store)
        assert sealed[12:] not in seal._keys
        await say_everything(samvad, "bala")
    assert found_in(tmp_path) == []


async def test_what_waits_in_a_sealed_journal_arrives_after_a_restart(tmp_path: Path) -> None:
    """The next process opens what the last one sealed; one without the key says so."""
    from samvad.stores.journal_seal import JournalSeal

    journal, key = tmp_path / "journal", new_key()
    seal = JournalSeal(journal, master_keys(key))
    await seal.open()
    written = seal.encode(b"an entry")
    await seal.close()
    again = JournalSeal(journal, master_keys(key), readonly=True)
    await again.open()
    assert again.decode(written) == b"an entry"
    assert again.decode(b"[plain]") == b"[plain]"
    with pytest.raises(ValueError, match="not what was sealed"):
        again.decode(written[:-1] + bytes([written[-1] ^ 1]))
    await again.close()


async def test_nothing_in_firestore_is_in_clear(tmp_path: Path) -> None:
    """No document, no file of the journal; a second replica reads it, and one without the key refuses."""
    running = emulator()
    project, key = running.new_project(), new_key()
    url = f"firestore://{project}"

    def replica(number: int, key: str | None) -> Any:
        store = store_from_url(url, SystemClock(), emulator_host=running.host)
        journal = tmp_path / str(number) / "journal"
        return open_samvad(url, store=store, journal_dir=journal, master_key=key, record_interruptions=True)

    async with replica(1, key) as samvad:
        await say_everything(samvad, "asha")
        assert await samvad.store.drain(20) == 0
        documents = await asyncio.to_thread(everything, project)
        assert len(documents) > 5
        assert CANARY not in str(documents)
        assert not any(CANARY.encode() in part for part in _bytes_of(documents))
        assert found_in(tmp_path) == []
        async with replica(2, key) as other:
            assert (await other.get_user_state("asha")).state == {"note": CANARY}
            await other.clear_user_data("asha")
            assert (await other.get_user_profile("asha")).conversation_history == []
    with pytest.raises(SetupError, match="SAMVAD_MASTER_KEY"):
        await replica(3, None).open()


def _bytes_of(value: Any) -> list[bytes]:
    """All bytes within."""
    if isinstance(value, bytes):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [each for one in value for each in _bytes_of(one)] if isinstance(value, list | tuple) else []


async def test_nobody_keeps_a_server_from_starting(tmp_path: Path) -> None:
    """Whatever a user of a store in clear has given, it is not taken for a seal whose key is lost; a real one is."""
    path, key = tmp_path / "samvad.db", new_key()
    seal = {"samvad.sealed": "A" * 80}
    async with service(path, None) as samvad:
        await samvad.save_user_state("mallory", {"note": "hello"})
        await samvad.save_user_profile("mallory", {"note": "hello"})
        await samvad.append_to_user_history("mallory", "user", "hello")
    with apsw.Connection(str(path)) as connection:  # an earlier version took it
        connection.execute("UPDATE states SET body = ?", (msgspec.json.encode(seal),))
        connection.execute("UPDATE users SET preferences = ?", (msgspec.json.encode(seal),))
    async with service(path, None) as samvad:
        assert (await samvad.get_user_state("mallory")).state == seal
    sealed = tmp_path / "sealed.db"
    async with service(sealed, key) as samvad:
        await samvad.save_user_state("asha", {"a": 1})
    keys_file(sealed).rename(tmp_path / "away")
    for given in (None, key):
        with pytest.raises(SetupError, match="its keys are not there"):
            async with service(sealed, given):
                pass
        keys_file(sealed).unlink(missing_ok=True)
