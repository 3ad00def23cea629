"""What is sealed, sealed anew under new keys: no key of the old store opens it, and all of it is there."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import apsw
import pytest
from typer.testing import CliRunner

from samvad.cli import app
from samvad.records import UserKey, user_hash
from samvad.runtime import open_samvad
from samvad.stores.data_keys import DataKeys
from samvad.stores.encrypting import data_keys_of, keys_file
from samvad.stores.master_keys import master_keys
from tests.carry.support import Place, call, content, make, place, store_at
from tests.carry.test_sealing import answers_in_clear, database, go_on, in_clear, say
from tests.encryption.test_at_rest import CANARY, found_in, new_key

__all__ = ["place"]


async def keys_in(url: str, master: str, users: tuple[str, ...]) -> dict[str, set[bytes]]:
    """The ids of the data keys of some users, as a process with this master key has them."""
    async with store_at(url) as store:
        keys = DataKeys(data_keys_of(store), master_keys(master))
        await keys.open()
        found = {
            user: {each.key_id for each in (await keys.keys_of(user_hash(UserKey("default", user)))).values()}
            for user in users
        }
        await keys.close()
    return found


def sealed_store(place: Place, engine: str, key: str) -> str:
    """An encrypted store with something of everything."""
    plain, old = place.url("sqlite", "plain"), place.url(engine, "old")
    make(plain, ("asha", "आशा"))
    asyncio.run(say(plain))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMVAD_MASTER_KEY", key)
        call("migrate", plain, old)
    for each in place.folder.glob("plain.*"):
        if each.is_file():
            each.unlink()
        else:
            shutil.rmtree(each)
    return old


@pytest.mark.parametrize(
    ("source", "target"), [("sqlite", "sqlite"), ("sqlite", "firestore"), ("firestore", "sqlite")]
)
def test_everything_is_sealed_anew(
    place: Place, monkeypatch: pytest.MonkeyPatch, source: str, target: str
) -> None:
    """All arrives as it was, in clear nowhere, under other keys and another master key; a second run is idle."""
    old_key, new_master = new_key(), new_key()
    old, new = sealed_store(place, source, old_key), place.url(target, "new")
    before = content(old, old_key)
    monkeypatch.setenv("SAMVAD_MASTER_KEY", f"{new_master},{old_key}")
    for told in (call("migrate", "--new-keys", old, new), call("migrate", "--new-keys", old, new)):
        assert "documents  2\n" in told and told.endswith("sealed     all of it, on the way\n")
    assert "5 already there" in told
    assert content(new, new_master) == before == content(old, f"{new_master},{old_key}")
    assert in_clear(new) == [] and asyncio.run(answers_in_clear(new)) == 0
    users = ("asha", "canary")
    there = asyncio.run(keys_in(new, new_master, users))
    here = asyncio.run(keys_in(old, f"{new_master},{old_key}", users))
    assert all(there[user] and here[user] and not there[user] & here[user] for user in users)
    asyncio.run(go_on(new, new_master))


def test_the_old_keys_are_of_no_use(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has a copy of the old key file and the master key reads nothing of what was sealed anew."""
    key = new_key()
    old, new = sealed_store(place, "sqlite", key), place.url("sqlite", "new")
    monkeypatch.setenv("SAMVAD_MASTER_KEY", key)
    call("migrate", "--new-keys", old, new)
    shutil.copy(keys_file(database(old)), keys_file(database(new)))

    async def read() -> Any:
        async with open_samvad(new, master_key=key) as samvad:
            return await samvad.get_user_profile("canary")

    profile = asyncio.run(read())
    assert CANARY not in repr(profile)
    assert [name for name in found_in(place.folder) if name.startswith("new")] == []


def test_what_cannot_be_opened_ends_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged message is not carried as one that is gone; the user can be erased, and the rest is carried then."""
    key = new_key()
    old, new = sealed_store(place, "sqlite", key), place.url("sqlite", "new")
    with apsw.Connection(str(database(old))) as connection:
        connection.execute("UPDATE states SET body = zeroblob(length(body))")
    monkeypatch.setenv("SAMVAD_MASTER_KEY", key)
    done = CliRunner().invoke(app, ["migrate", "--new-keys", old, new])
    assert done.exit_code == 1 and "(state) was changed" in str(done.exception)
    assert "erase that user" in str(done.exception)
    for name in ("asha", "आशा", "canary", "reborn", "only-state"):
        call("user", "erase", name, "--yes", "--store", old)
    assert "erased since" not in call("migrate", "--new-keys", old, new)
    assert content(new, key)["users"] == content(old, key)["users"]


def test_when_it_cannot_be(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """In clear, without the master key, and where the keys went along before."""
    key = new_key()
    plain = place.url("sqlite", "clear")
    make(plain, ("ravi",))
    monkeypatch.setenv("SAMVAD_MASTER_KEY", key)
    assert "leave --new-keys out" in call("migrate", "--new-keys", plain, place.url("sqlite", "a"), code=2)
    old, carried = sealed_store(place, "sqlite", key), place.url("sqlite", "carried")
    call("migrate", old, carried)
    assert "TO has the keys of FROM" in call("migrate", "--new-keys", old, carried, code=2)
    monkeypatch.delenv("SAMVAD_MASTER_KEY")
    assert "Give the master key" in call("migrate", "--new-keys", old, place.url("sqlite", "b"), code=2)


def test_what_is_partly_in_clear_is_told_and_can_be_sealed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encryption was turned on over it: a copy or a backup is as it is, and says so; with new keys all is sealed."""
    old, as_it_is, anew = (place.url("sqlite", name) for name in ("old", "as-it-is", "anew"))
    key = new_key()
    for user, master in (("asha", None), ("bala", key)):

        async def say(user: str = user, master: str | None = master) -> None:
            async with open_samvad(old, master_key=master) as samvad:
                await samvad.append_to_user_history(user, "user", CANARY)

        asyncio.run(say())
    assert "in clear" in call("backup", "all.backup", "--store", old)
    assert "in clear" in call("migrate", old, as_it_is)
    monkeypatch.setenv("SAMVAD_MASTER_KEY", key)
    told = call("migrate", "--new-keys", old, anew)
    assert "sealed     all of it" in told and "in clear" not in told
    assert not {name for name in found_in(Path.cwd()) if name.startswith("anew")}
    assert {name for name in found_in(Path.cwd()) if name.startswith("as-it-is")}
