"""A replica that lacks the master key of another is down until it has it: what it was told waits, and is not parked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from samvad import open_samvad
from samvad.clock import SystemClock
from samvad.errors import KeyUnavailable
from samvad.records import Commit, UserKey, Version
from samvad.stores.data_key_store import MemoryDataKeys
from samvad.stores.data_keys import DataKeys
from samvad.stores.master_keys import LocalMasterKey
from samvad.stores.memory import MemoryStore
from samvad.stores.sealed import SealedStore
from samvad.stores.urls import store_from_url
from tests.encryption.test_replicas import state
from tests.firestore.support import emulator
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio


def key_file(folder: Path, name: str) -> Path:
    """A file with a master key."""
    file = folder / name
    file.write_bytes(os.urandom(32))
    return file


async def test_behind_a_journal_what_was_said_waits_for_the_key(tmp_path: Path) -> None:
    """The secret of one replica is not the one of the other: it says so, and goes on by itself once it is."""
    running = emulator()
    project = running.new_project()
    old, new, wrong = (key_file(tmp_path, name) for name in ("old", "new", "wrong"))

    def replica(name: str, *keys: Path) -> Any:
        url = f"firestore://{project}"
        store = store_from_url(url, SystemClock(), emulator_host=running.host)
        given = ",".join(f"file:{key}" for key in keys)
        return open_samvad(url, store=store, journal_dir=tmp_path / name / "journal", master_key=given)

    async with replica("here", old, wrong) as here, replica("elsewhere", new, old) as elsewhere:
        await elsewhere.append_to_user_history("asha", "user", "said elsewhere")
        assert await elsewhere.store.drain(20) == 0
        for user in ("asha", "bala"):
            appended = await here.append_to_user_history(user, "user", "said here")
            assert appended.durability == "journaled"

        async def told() -> bool:
            health = await here.store.check()
            assert here.store.flusher.parked() == []
            return not health.store_up and "master key" in (health.fault or "")

        await wait_until_async(told, "it says which key is missing")
        assert await here.store.drain(0.2) == 2
        wrong.write_bytes(new.read_bytes())

        async def is_back() -> bool:
            return await here.store.drain(1) == 0

        await wait_until_async(is_back, "all that waited is in the store")
        assert here.store.flusher.parked() == []
        assert (await here.store.check()).store_up
        for user, said in (("asha", ["said elsewhere", "said here"]), ("bala", ["said here"])):
            page = await elsewhere.page_history(user, limit=10)
            assert [message.content for message in page.messages] == said


async def test_without_a_journal_it_is_not_ready_until_it_has_the_key(tmp_path: Path) -> None:
    """Nothing is acknowledged for those whose key it cannot open, and the report of its health says why."""
    old, new, later = LocalMasterKey(os.urandom(32)), LocalMasterKey(os.urandom(32)), list[LocalMasterKey]()
    inner, keys, asha = MemoryStore(), MemoryDataKeys(), UserKey("default", "asha")
    here = SealedStore(inner, DataKeys(keys, [old], again=lambda: later), clock=SystemClock())
    elsewhere = SealedStore(inner, DataKeys(keys, [new, old]), clock=SystemClock())
    await here.open()
    await elsewhere.open()
    await elsewhere.commit(Commit(asha, Version(0, 0), (state(1),)))
    assert (await here.check()).up
    with pytest.raises(KeyUnavailable):
        await here.commit(Commit(asha, Version(0, 1), (state(2),)))
    health = await here.check()
    assert (health.up, health.refused) == (False, True) and new.id in (health.fault or "")
    later.append(new)
    assert (await here.check()).up
    await here.commit(Commit(asha, Version(0, 1), (state(2),)))
