"""The keys of a sealed journal: what waits is not lost with them in silence, and after an erasing they are replaced."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from samvad import open_samvad
from samvad.cli import app, checks
from samvad.cli.opening import open_journal
from samvad.errors import SetupError
from samvad.settings import load
from samvad.stores.base import Capabilities
from samvad.stores.journal_seal import keys_path
from samvad.stores.memory import MemoryStore
from tests.encryption.test_at_rest import new_key
from tests.journaled.faulty import FaultyStore
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio


def service(folder: Path, key: str, store: Any) -> Any:
    """A service with a sealed journal."""
    return open_samvad("memory://", store=store, journal_dir=folder / "journal", master_key=key)


async def test_a_journal_whose_keys_are_missing_is_refused(tmp_path: Path) -> None:
    """What was acknowledged and waits is not taken for forgotten: with the keys brought back, it arrives."""
    store, key = FaultyStore(MemoryStore()), new_key()
    store.down = True
    samvad = service(tmp_path, key, store)
    async with samvad:
        await samvad.append_to_user_history("asha", "user", "not yet in the store")
        await samvad.aclose(drain_s=0)
    store.down = False
    await store.store.open()
    keys = keys_path(tmp_path / "journal")
    kept = keys.rename(tmp_path / "kept")
    with pytest.raises(SetupError, match=r"journal\.keys"):
        await service(tmp_path, key, store).open()
    with pytest.raises(SetupError, match=r"journal\.keys"):  # nor is what the first try made taken for them
        await service(tmp_path, key, store).open()
    kept.replace(keys)
    async with service(tmp_path, key, store) as samvad:
        assert await samvad.store.drain(5) == 0
        assert (await samvad.get_user_profile("asha")).history_length == 1


def seal_of(samvad: Any) -> Any:
    """What seals the journal of a service."""
    return samvad._guard._journal


async def test_a_journal_that_was_full_gets_its_new_key_later(tmp_path: Path) -> None:
    """The key is replaced after an erasing even if the first try finds no room."""
    async with service(tmp_path, new_key(), MemoryStore()) as samvad:
        await samvad._guard.keep_up(samvad.store)
        before = seal_of(samvad)._current.key_id
        await samvad.append_to_user_history("asha", "user", "hello")
        await samvad.clear_user_data("asha")
        journal = samvad.store.journal
        await journal.append(b"")
        journal._bytes_max = journal.bytes_held + 10  # nothing more goes in
        await samvad._guard.keep_up(samvad.store)
        assert before in seal_of(samvad)._keys
        journal._bytes_max = 1 << 20
        await samvad._guard.keep_up(samvad.store)
        assert before not in seal_of(samvad)._keys


@pytest.mark.parametrize("killed", [True, False])
async def test_the_key_is_replaced_though_the_process_ends_first(tmp_path: Path, killed: bool) -> None:
    """Erased, and ended before the next round of upkeep: the end replaces the key, or else the next start does."""
    key, store = new_key(), MemoryStore()
    async with service(tmp_path, key, store) as samvad:
        await samvad._guard.keep_up(samvad.store)
        before = seal_of(samvad)._current.key_id
        await samvad.append_to_user_history("asha", "user", "hello")
        await samvad.clear_user_data("asha")
        shutil.copytree(tmp_path, tmp_path / "killed")
    place = tmp_path / "killed" if killed else tmp_path
    async with service(place, key, MemoryStore()) as samvad:
        if killed:
            await samvad._guard.keep_up(samvad.store)
        assert before not in seal_of(samvad)._keys


async def waiting_under_two_keys(folder: Path, key: str, store: Any) -> Path:
    """Each of two runs acknowledges a message while the store is down; a copy of the keys as they were in between."""
    keys, older = keys_path(folder / "journal"), folder / "older.keys"
    store.down = True
    for said in ("first", "second"):
        async with service(folder, key, store) as samvad:
            await samvad.append_to_user_history("asha", "user", said)
            await samvad.aclose(drain_s=0)
        if said == "first":
            shutil.copy(keys, older)
    store.down = False
    await store.store.open()
    return older


async def said_by_asha(folder: Path, key: str, store: Any) -> list[str]:
    """What the store has once all that waits is there."""
    async with service(folder, key, store) as samvad:
        assert await samvad.store.drain(5) == 0
        return [each.content for each in (await samvad.get_user_profile("asha")).conversation_history]


async def test_an_older_copy_of_the_keys_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    """What was sealed with keys made since is not taken for erased: with the newest copy brought back, it arrives."""
    store, key = FaultyStore(MemoryStore()), new_key()
    older = await waiting_under_two_keys(tmp_path, key, store)
    keys = keys_path(tmp_path / "journal")
    newest, restored = keys.read_bytes(), older.read_bytes()
    keys.write_bytes(restored)
    for _ in range(2):
        with pytest.raises(SetupError, match=r"newest copy of it back.*accept-loss"):
            await service(tmp_path, key, store).open()
        assert keys.read_bytes() == restored
    keys.write_bytes(newest)
    assert await said_by_asha(tmp_path, key, store) == ["first", "second"]


async def test_loss_of_keys_is_accepted_by_setting_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the lost key sealed is set aside as it stood, and told; the rest arrives, and the server starts."""
    store, key = FaultyStore(MemoryStore()), new_key()
    older = await waiting_under_two_keys(tmp_path, key, store)
    keys_path(tmp_path / "journal").write_bytes(older.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMVAD_MASTER_KEY", key)

    def told() -> list[tuple[str, str]]:
        open_journal(load({"data_dir": str(tmp_path)}))
        return [(each.level, each.found) for each in checks.journal(tmp_path / "journal")]

    [(level, found)] = await asyncio.to_thread(told)
    assert level == "fail" and "accept-loss" in found
    command = ["encryption", "accept-loss", "--store", "firestore://project", "--data-dir", str(tmp_path)]
    done = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert done.exit_code == 0 and "1 operations set aside" in done.output, done.output
    [aside] = (tmp_path / "journal" / "damaged").glob("*.bytes")
    assert b"\xc1SJ2" in aside.read_bytes()
    assert [level for level, _ in await asyncio.to_thread(told)] == ["ok", "warn"]
    assert await said_by_asha(tmp_path, key, store) == ["first"]
    again = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert "nothing was set aside" in again.output


async def test_what_was_written_with_an_older_copy_is_not_silent_under_the_newer(tmp_path: Path) -> None:
    """Nothing waits when the older copy comes, so that it is taken: what is written then is missed by the newer one."""
    store, key = FaultyStore(MemoryStore()), new_key()
    await store.store.open()
    keys, older = keys_path(tmp_path / "journal"), tmp_path / "older.keys"
    async with service(tmp_path, key, store):
        shutil.copy(keys, older)
    for _ in range(3):  # each start destroys the key of the one before
        async with service(tmp_path, key, store) as samvad:
            await samvad._guard.keep_up(samvad.store)
    newer = keys.read_bytes()
    keys.write_bytes(older.read_bytes())
    store.down = True
    async with service(tmp_path, key, store) as samvad:
        await samvad.append_to_user_history("asha", "user", "said with the older copy")
        await samvad.aclose(drain_s=0)
    store.down = False
    await store.store.open()
    between = keys.read_bytes()
    keys.write_bytes(newer)
    with pytest.raises(SetupError, match="newest copy"):
        await service(tmp_path, key, store).open()
    keys.write_bytes(between)
    assert await said_by_asha(tmp_path, key, store) == ["said with the older copy"]


async def test_a_start_with_a_new_master_key_rotates_the_journal(tmp_path: Path) -> None:
    """What waits since before the rotation arrives with the new one alone: no file is to be seen to by hand."""
    store, old, new = FaultyStore(MemoryStore()), new_key(), new_key()
    store.down = True
    for number, key in enumerate((old, f"{new},{old}", new)):
        async with service(tmp_path, key, store) as samvad:
            await samvad.append_to_user_history("asha", "user", f"said {number}")
            await samvad.aclose(drain_s=0)
    store.down = False
    await store.store.open()
    async with service(tmp_path, new, store) as samvad:
        assert await samvad.store.drain(5) == 0


async def test_an_erasing_elsewhere_replaces_the_key_here(tmp_path: Path) -> None:
    """Also where the user is not in memory any more: the journal's bytes of them may be in a copy all the same."""
    shared, key = FaultyStore(MemoryStore()), new_key()
    shared.capabilities = Capabilities(durable=True, shared=True, tells=True)
    await shared.store.open()
    async with (
        service(tmp_path / "a", key, shared) as here,
        service(tmp_path / "b", key, shared) as elsewhere,
    ):
        await here._guard.keep_up(here.store)
        before = seal_of(here)._current.key_id
        await elsewhere.append_to_user_history("asha", "user", "hello")
        await elsewhere.clear_user_data("asha")

        async def replaced() -> bool:
            await here._guard.keep_up(here.store)
            return before not in seal_of(here)._keys

        await wait_until_async(replaced, "the journal has a new key")
