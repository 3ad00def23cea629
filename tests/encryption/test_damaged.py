"""What was damaged or changed in a sealed store: it is not believed, all else is read, and erasing always works."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from typer.testing import CliRunner

from samvad import open_samvad
from samvad.cli import app
from samvad.clock import SystemClock
from samvad.errors import SetupError, Unreadable
from samvad.records import UserKey, user_hash
from samvad.sessions.journal_entry import decode_entry
from samvad.stores import sealing
from samvad.stores.encrypting import keys_file
from samvad.stores.urls import store_from_url
from samvad.stores.wrapped_keys import newest_life
from tests.encryption.test_at_rest import new_key, say_everything
from tests.firestore.raw import everything, google_client
from tests.firestore.support import emulator
from tests.http.support import Api

pytestmark = pytest.mark.anyio
ASHA = "asha"
SQL = {
    "message": "UPDATE recent SET body = replace(CAST(body AS TEXT), 'samvad.sealed\":\"A', 'samvad.sealed\":\"B')",
    "garbage for messages": "UPDATE recent SET body = x'00ff7b'",
    "state": 'UPDATE states SET body = \'{"samvad.sealed":"AQAA"}\'',
    "garbage for a state": "UPDATE states SET body = CAST('{\"forged\":1}' AS BLOB)",
    "preferences": 'UPDATE users SET preferences = \'{"samvad.sealed":"AQAA"}\'',
    "session": 'UPDATE sessions SET body = \'{"samvad.sealed":"AQAA"}\'',
    "interruption": 'UPDATE interruptions SET body = \'{"of":1,"samvad.sealed":"AQAA"}\'',
}
KEYS = {
    "garbage for keys": b"\x00garbage",
    "no key": None,
}
LOST = [*KEYS, "a wrapped key"]  # of all that is kept
PARTS = [*SQL, *LOST]


KEYS_OF = user_hash(UserKey("default", "of-keys")).hex()


async def damage_sqlite(path: Path, what: str) -> None:
    """Change one part of Asha's in the files."""
    with apsw.Connection(str(path)) as connection:
        if what in SQL:
            connection.execute(SQL[what])
            assert connection.changes() > 0
    if what in SQL:
        return
    name = user_hash(UserKey("default", ASHA))
    with apsw.Connection(str(keys_file(path))) as connection:
        value = connection.execute("SELECT value FROM keys WHERE name = ?", (name,)).get
        if what == "a wrapped key":
            changed: bytes | None = value[:-1] + bytes([value[-1] ^ 1])
        else:
            changed = KEYS[what]
        if changed is None:
            connection.execute("DELETE FROM keys WHERE name = ?", (name,))
        else:
            connection.execute("UPDATE keys SET value = ? WHERE name = ?", (changed, name))


@pytest.mark.parametrize("what", PARTS)
async def test_a_damaged_user_is_read_in_part_and_erased(tmp_path: Path, what: str) -> None:
    """Over HTTP: the rest of the user is there, nothing forged is shown, no answer to a read is a 500."""
    path, key = tmp_path / "samvad.db", new_key()
    url = f"sqlite:///{path}"
    async with open_samvad(url, master_key=key, record_interruptions=True) as samvad:
        await say_everything(samvad, ASHA)
        await say_everything(samvad, "bala")
        await samvad.append_to_user_history("bala", "user", "mine")
        await samvad.clear_user_data("bala")
        await samvad.save_user_state("chitra", {"note": "hers"})
    await damage_sqlite(path, what)
    async with open_samvad(url, master_key=key, record_interruptions=True) as samvad:
        api = Api(samvad)
        profile = (await api.ok("GET", f"/api/session/{ASHA}/profile"))["profile"]
        page = (await api.ok("GET", f"/api/session/{ASHA}/history"))["messages"]
        state = (await api.ok("GET", f"/api/session/{ASHA}/state"))["state"]
        session = (await api.ok("GET", f"/api/session/{ASHA}'s"))["session"]
        assert len(await samvad.recorded_interruptions(f"{ASHA}'s")) == (what not in ("interruption", *LOST))
        assert len(page) == len(profile["conversationHistory"]) == 3
        lost = {
            "message": all(m.get("unreadable") and m["content"] == "" for m in page),
            "state": state.get("unreadable", False),
            "preferences": profile["preferences"].get("unreadable", False),
            "session": session.get("unreadable", False),
        }
        wanted = {part: part in what or what in LOST for part in lost}
        assert lost == wanted
        assert "forged" not in str((profile, page, state, session))
        if wanted["state"] and what not in LOST:  # merging would make true what is not believed
            with pytest.raises(Unreadable):
                await samvad.save_user_state(ASHA, {"a": 1})
            await samvad.replace_user_state(ASHA, {"a": 1})
        cleared = (await api.ok("POST", "/api/session/refresh", {"userId": ASHA}))["cleared"]
        assert cleared["messages"] == 3 and cleared["userState"] and cleared["sessions"] == 1
        assert (await api.ok("GET", f"/api/session/{ASHA}/profile"))["profile"]["historyLength"] == 0
        await samvad.append_to_user_history(ASHA, "user", "a new life")
        assert [m.content for m in (await samvad.page_history(ASHA)).messages] == ["a new life"]
        if "state" not in what:
            chitra = await samvad.get_user_state("chitra")
            assert chitra is not None and chitra.state == {"note": "hers"}
    async with open_samvad(url, master_key=key) as samvad:
        assert [m.content for m in (await samvad.page_history(ASHA)).messages] == ["a new life"]


@pytest.mark.parametrize("what", ["garbage for messages", "state", "garbage for keys"])
def test_the_command_erases_a_damaged_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """`samvad user show` shows what is left, `samvad user erase` removes it."""
    path, key = tmp_path / "samvad.db", new_key()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMVAD_MASTER_KEY", key)

    async def fill() -> None:
        async with open_samvad(f"sqlite:///{path}", master_key=key, record_interruptions=True) as samvad:
            await say_everything(samvad, ASHA)
        await damage_sqlite(path, what)

    asyncio.run(fill())
    for verb in (["show", ASHA], ["export", ASHA], ["erase", ASHA, "--yes"]):
        done = CliRunner().invoke(app, ["user", *verb, "--store", f"sqlite:///{path}"])
        assert done.exit_code == 0, (verb, done.output, done.exception)
    assert "removed of asha: state, profile, 3 messages" in done.output


def _damage(fields: dict[str, Any], name: str, change: Callable[[bytes], bytes]) -> dict[str, Any]:
    return {**fields, name: change(fields[name])}


@pytest.mark.parametrize("journaled", [False, True])
async def test_a_damaged_user_in_firestore_is_erased(tmp_path: Path, journaled: bool) -> None:
    """The head with its messages, the state, the session, the keys: each changed with Google's own client."""
    running = emulator()
    project, key = running.new_project(), new_key()
    url = f"firestore://{project}"

    def opened() -> Any:
        store = store_from_url(url, SystemClock(), emulator_host=running.host)
        journal = tmp_path / "journal" if journaled else None
        return open_samvad(url, store=store, journal_dir=journal, master_key=key)

    users = ("of-messages", "of-state", "of-session", "of-keys")
    async with opened() as samvad:
        for user in users:
            await say_everything(samvad, user)
        if journaled:
            assert await samvad.store.drain(20) == 0

    def damage() -> None:
        with google_client(project) as client:
            for path, fields in everything(project).items():
                document = client.document(path)
                if path.startswith("user_profiles/") and fields.get("userId") == "of-messages":
                    tail = dict.fromkeys(fields["tail"], b"\x00garbage")
                    document.update({"tail": tail, "preferences": b"\x00"})
                elif (path.startswith("user_states/") and fields.get("userId") == "of-state") or (
                    path.startswith("sessions/") and fields.get("userId") == "of-session"
                ):
                    name = next(name for name, value in fields.items() if isinstance(value, bytes))
                    document.update({name: b'{"samvad.sealed":"AQAA"}'})
                elif path.startswith("data_keys/") and KEYS_OF in path:
                    name = next(name for name, value in fields.items() if isinstance(value, bytes))
                    document.update({name: b"\x00garbage"})

    await asyncio.to_thread(damage)
    async with opened() as samvad:
        lost = []
        for user in users:
            page = (await samvad.get_user_profile(user)).conversation_history
            state = await samvad.get_user_state(user)
            session = await samvad.get_session(f"{user}'s")
            lost.append(
                (
                    all(m.extra.get("unreadable") for m in page),
                    state.state.get("unreadable", False),
                    session.extra.get("unreadable", False),
                )
            )
        assert lost == [(True, False, False), (False, True, False), (False, False, True), (True, True, True)]
        for user in users:
            cleared = await samvad.clear_user_data(user)
            assert cleared.messages == 3 and cleared.sessions == 1 and not cleared.pending
        if journaled:
            assert await samvad.store.drain(20) == 0
        documents = await asyncio.to_thread(everything, project)
        assert not any(user in str(documents) for user in users)


def test_what_is_no_text_is_damage_like_any_other() -> None:
    """Bytes that are not UTF-8 where text belongs, which the decoder tells in another way than what is no JSON."""
    with pytest.raises(Unreadable):
        sealing.user_of(b'{"of":"\xff","samvad.sealed":"AAAA"}')
    whole = msgspec.msgpack.encode([[], 3, ["default", "asha"]])
    assert newest_life(whole) == newest_life(whole.replace(b"asha", b"as\xffa")) == -3
    with pytest.raises(SetupError, match="cannot read"):
        decode_entry(b'["default","as\xffa",0,1,null,[],0]')
