"""Documents of an encrypted store in backups and migrations: sealed, without keys; plain ones are sealed on the way."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from samvad.clock import SystemClock
from samvad.errors import SetupError
from samvad.knowledge.carrying import beside, checksum
from samvad.knowledge.records import Scope
from samvad.knowledge.sealing import hash_of
from samvad.runtime import open_samvad
from samvad.stores.encrypting import data_keys_of, keys_file
from samvad.stores.urls import store_from_url
from tests.carry.support import Place, call, place
from tests.encryption.test_at_rest import found_in, new_key
from tests.knowledge.here import engine_here

__all__ = ["engine_here", "place"]

CANARY = "quokkaloan"


async def add(url: str, key: str | None, *, state: bool = True) -> None:
    """A document of the tenant and one of Asha's, who may have a `state` as well."""
    async with open_samvad(url, master_key=key) as samvad:
        if state:
            await samvad.save_user_state("asha", {"a": 1})
        await samvad.knowledge.add_text(CANARY.title(), f"A {CANARY} for all.", id="all", tags=[CANARY])
        await samvad.knowledge.add_text("Hers", f"A {CANARY} of Asha's.", id="hers", user_id="asha")


async def documents(url: str, key: str | None) -> dict[str, str]:
    """The checksum of both documents as they are read; `unreadable` where they cannot be."""
    from samvad.errors import Unreadable

    found = {}
    async with open_samvad(url, master_key=key) as samvad:
        for name in ("all", "hers"):
            try:
                found[name] = checksum(await samvad.knowledge.get(name, user_id="asha"))
            except Unreadable:
                found[name] = "unreadable"
        hits = await samvad.knowledge.search(CANARY, user_id="asha", max_results=10)
        assert {hit.doc.id for hit in hits} == {name for name in found if found[name] != "unreadable"}
    return found


@pytest.mark.usefixtures("engine_here")
def test_a_backup_holds_sealed_documents_and_no_keys(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restored with the keys as they are: those of a user erased since cannot be read, the others can."""
    key, old, new = new_key(), place.url("sqlite", "old"), place.url("sqlite", "new")
    asyncio.run(add(old, key))
    wanted = asyncio.run(documents(old, key))
    call("backup", "all.backup", "--store", old)
    assert found_in(Path.cwd(), CANARY) == []
    place_of = {url: Path(url.removeprefix("sqlite:///")) for url in (old, new)}
    shutil.copy(keys_file(place_of[old]), keys_file(place_of[new]))
    call("restore", "all.backup", "--store", new)
    keys_file(place_of[new]).unlink()
    with pytest.raises(SetupError, match="keys are not there"):  # no seal is taken for a text
        asyncio.run(documents(new, None))
    shutil.copy(keys_file(place_of[old]), keys_file(place_of[new]))
    assert asyncio.run(documents(new, key)) == wanted
    with open_samvad(old, master_key=key) as samvad:
        samvad.clear_user_data("asha")
    shutil.copy(keys_file(place_of[old]), keys_file(place_of[new]))
    assert asyncio.run(documents(new, key)) == wanted | {"hers": "unreadable"}


@pytest.mark.usefixtures("engine_here")
@pytest.mark.parametrize("engine", ["sqlite", "firestore"])
def test_plain_documents_are_sealed_as_they_come(
    place: Place, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """From a plain store into one that is encrypted, which needs the master key; repeated, nothing changes."""
    key, plain, target = new_key(), place.url("sqlite", "plain"), place.url(engine, "target")
    asyncio.run(add(plain, None, state=False))
    wanted = asyncio.run(documents(plain, None))
    call("backup", "all.backup", "--store", plain)

    async def start() -> None:
        async with open_samvad(target, master_key=key) as samvad:
            await samvad.save_user_state("ravi", {"b": 2})

    asyncio.run(start())
    assert "SAMVAD_MASTER_KEY" in call("restore", "all.backup", "--store", target, code=2)
    monkeypatch.setenv("SAMVAD_MASTER_KEY", key)
    for _ in range(2):
        call("migrate", plain, target)
        call("restore", "all.backup", "--store", target)
        assert asyncio.run(documents(target, key)) == wanted
    if engine == "sqlite":
        files = [path for path in Path.cwd().rglob("target*") if path.is_file()]
        assert len(files) > 2 and not any(CANARY.encode() in path.read_bytes().lower() for path in files)


def test_the_command_seals_what_was_plain(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """`status` says so before and after; no word is left in any file."""
    key, url = new_key(), place.url("sqlite", "one")
    asyncio.run(add(url, None))
    asyncio.run(documents(url, None))  # which makes an index in clear
    assert found_in(Path.cwd(), CANARY) != []
    monkeypatch.setenv("SAMVAD_MASTER_KEY", key)
    assert "nothing is encrypted" in call("encryption", "status", "--store", url, code=2)
    asyncio.run(documents(url, key))
    told = call("encryption", "status", "--store", url)
    assert "knowledge base: what is from before encryption may be in clear" in told
    assert "2 documents sealed, 0 were already" in call("encryption", "seal-knowledge", "--store", url)
    assert "0 documents sealed, 2 were already" in call("encryption", "seal-knowledge", "--store", url)
    assert "knowledge base: all of it is sealed" in call("encryption", "status", "--store", url)
    assert found_in(Path.cwd(), CANARY) == []
    assert set(asyncio.run(documents(url, key)).values()) != {"unreadable"}


@pytest.mark.usefixtures("engine_here")
@pytest.mark.parametrize("encrypted", [True, False])
def test_documents_of_who_is_ended_in_a_copy_go_there_too(place: Place, encrypted: bool) -> None:
    """Erased in the source since: neither the documents stay in the copy, nor the key that opens a backup of it."""
    key, old, new = new_key() if encrypted else None, place.url("sqlite", "old"), place.url("sqlite", "new")
    asyncio.run(add(old, key))
    call("migrate", old, new)

    async def keys_and_documents() -> tuple[int, list[str]]:
        store: Any = store_from_url(new, SystemClock())
        await store.open()
        keys, name = data_keys_of(store), hash_of(Scope("default", "asha"))
        async with beside(store) as kept:
            found = list(await kept.revisions(Scope("default", "asha")))
        there = 0
        if encrypted:
            await keys.open()
            there = int(await keys.get(name) is not None)
            await keys.close()
        await store.close()
        return there, found

    assert asyncio.run(keys_and_documents()) == (int(encrypted), ["hers"])

    async def erase() -> None:
        async with open_samvad(old, master_key=key) as samvad:
            await samvad.clear_user_data("asha")

    asyncio.run(erase())
    assert "1 of users who lived there" in call("migrate", old, new)
    assert asyncio.run(keys_and_documents()) == (0, [])
