"""Encrypted stores that are carried: with their keys, or refused in one line; nothing sealed is shown as said."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from samvad.clock import SystemClock
from samvad.records import UserKey, user_hash
from samvad.runtime import open_samvad
from samvad.stores.encrypting import data_keys_of, keys_file
from samvad.stores.urls import store_from_url
from samvad.stores.wrapped_keys import newest_life
from tests.carry.support import Place, call, place
from tests.encryption.test_at_rest import CANARY, found_in, new_key, say_everything
from tests.firestore.support import emulator

__all__ = ["place"]


def opened(url: str, key: str | None) -> Any:
    """The service over a store."""
    store = store_from_url(url, SystemClock(), emulator_host=emulator().host) if "firestore" in url else None
    return open_samvad(url, store=store, master_key=key, record_interruptions=True)


async def fill(url: str, key: str | None) -> None:
    """Asha in her second life, Bala, and Chitra, who was erased."""
    async with opened(url, key) as samvad:
        await say_everything(samvad, "chitra")
        await samvad.clear_user_data("chitra")
        await say_everything(samvad, "asha")
        await samvad.clear_user_data("asha")
        for user in ("asha", "bala"):
            await say_everything(samvad, user)


async def told(url: str, key: str | None) -> list[Any]:
    """What is read of them."""
    found: list[Any] = []
    async with opened(url, key) as samvad:
        for user in ("asha", "bala", "chitra"):
            profile = await samvad.get_user_profile(user)
            state = await samvad.get_user_state(user)
            sessions = await samvad.get_user_sessions(user)
            found.append((profile, None if state is None else state.state, sessions))
            found += [(await samvad.recorded_interruptions(each.id))[0].body for each in sessions]
    return found


async def lives(url: str, user: str) -> int:
    """The last life of which a store has a key of a user."""
    host = {"emulator_host": emulator().host} if "firestore" in url else {}
    store: Any = store_from_url(url, SystemClock(), **host)
    await store.open()
    keys = data_keys_of(store)
    await keys.open()
    entry = await keys.get(user_hash(UserKey("default", user)))
    await keys.close()
    await store.close()
    return -3 if entry is None else newest_life(entry.value)


@pytest.mark.parametrize("engine", ["sqlite", "firestore"])
def test_keys_are_carried_with_what_they_seal(place: Place, engine: str) -> None:
    """No master key is given to the command; all reads as before with it, and whoever is erased has no key there."""
    key, old, new = new_key(), place.url("sqlite", "old"), place.url(engine, "new")
    asyncio.run(fill(old, key))
    wanted = asyncio.run(told(old, key))
    for _ in range(2):
        assert "2 added" in (first := call("migrate", old, new)) or "2 already there" in first
    assert asyncio.run(told(new, key)) == wanted
    assert asyncio.run(lives(new, "asha")) == asyncio.run(lives(old, "asha")) == 1
    assert asyncio.run(lives(new, "chitra")) == -3
    assert found_in(Path.cwd()) == []

    async def erase() -> None:
        async with opened(new, key) as samvad:
            await samvad.clear_user_data("bala")

    asyncio.run(erase())
    call("migrate", old, new)
    assert asyncio.run(lives(new, "bala")) == -3, "a key that was destroyed does not come back"
    other = place.url("sqlite", "other")
    asyncio.run(fill(other, new_key()))
    assert "keys of its own" in call("migrate", old, other, code=2)


def test_a_sealed_backup_needs_its_keys_first(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them nothing is restored; with them it reads as before."""
    key, old, new = new_key(), place.url("sqlite", "old"), place.url("sqlite", "new")
    asyncio.run(fill(old, key))
    wanted = asyncio.run(told(old, key))
    call("backup", "all.backup", "--store", old)
    refused = call("restore", "all.backup", "--store", new, code=2)
    assert "new.db.keys" in refused
    files = {name: Path(url.removeprefix("sqlite:///")) for name, url in (("old", old), ("new", new))}
    shutil.copy(keys_file(files["old"]), keys_file(files["new"]))
    call("restore", "all.backup", "--store", new)
    assert asyncio.run(told(new, key)) == wanted

    keys_file(files["new"]).unlink()
    for given in (None, key):
        if given is not None:
            monkeypatch.setenv("SAMVAD_MASTER_KEY", given)
        for verb in (("user", "show", "asha"), ("user", "export", "asha"), ("stats",)):
            refused = call(*verb, "--store", new, code=2)
            assert "its keys are not there" in refused, (verb, given)
            assert "samvad.sealed" not in refused and CANARY not in refused
        keys_file(files["new"]).unlink(missing_ok=True)


@pytest.mark.parametrize("engine", ["sqlite", "firestore"])
def test_who_is_ended_in_a_copy_loses_the_key_there(place: Place, engine: str) -> None:
    """Erased in the source since: backups of the copy are to fall silent as well, without any master key given."""
    key, old, new = new_key(), place.url("sqlite", "old"), place.url(engine, "new")
    asyncio.run(fill(old, key))
    call("migrate", old, new)
    assert asyncio.run(lives(new, "bala")) == 0

    async def erase() -> None:
        async with opened(old, key) as samvad:
            await samvad.clear_user_data("bala")

    asyncio.run(erase())
    assert "1 of users who lived there" in call("migrate", old, new)
    assert asyncio.run(lives(new, "bala")) == -3
    assert asyncio.run(lives(new, "asha")) == 1
    assert asyncio.run(told(new, key)) == asyncio.run(told(old, key))
