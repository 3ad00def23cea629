"""The keys of a database are an older copy: who began since is not taken for erased, and nothing is written over."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from samvad import open_samvad
from samvad.cli import app, checks
from samvad.errors import SetupError
from samvad.stores.encrypting import keys_file
from samvad.testing.clock import VirtualClock
from tests.encryption.test_at_rest import new_key

pytestmark = pytest.mark.anyio


def service(path: Path, key: str, *, in_hours: float = 0) -> Any:
    """The service over a database, at this time by its clock."""
    clock = VirtualClock(round((time.time() + in_hours * 3600) * 1000))
    return open_samvad(f"sqlite:///{path}", master_key=key, clock=clock)


async def with_older_keys(path: Path, key: str) -> Path:
    """Asha began before the keys were copied, Bala after; the copy is there, and the newest keys are put aside."""
    newest, older = path.with_name("newest.keys"), path.with_name("older.keys")
    async with service(path, key) as samvad:
        await samvad.append_to_user_history("asha", "user", "before")
    shutil.copy(keys_file(path), older)
    async with service(path, key, in_hours=1) as samvad:
        await samvad.append_to_user_history("bala", "user", "after")
    keys_file(path).rename(newest)
    shutil.copy(older, keys_file(path))
    return newest


async def said(samvad: Any, user: str) -> list[str]:
    """What is read of a user's history."""
    return [each.content for each in (await samvad.get_user_profile(user)).conversation_history]


def looked(path: Path) -> list[tuple[str, str]]:
    """What the doctor finds about the keys."""
    return [(each.level, each.found) for each in checks.keys(path)]


async def test_older_keys_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    """The start says in one line what to do; with the newest copy brought back, all is read."""
    path, key = tmp_path / "samvad.db", new_key()
    newest = await with_older_keys(path, key)
    copy = keys_file(path).read_bytes()
    for _ in range(2):
        with pytest.raises(SetupError, match=r"1 users or more began since.*newest copy back") as refused:
            await service(path, key, in_hours=2).open()
        assert "\n" not in refused.value.message
        assert keys_file(path).read_bytes() == copy
    assert [level for level, _ in await asyncio.to_thread(looked, path)] == ["fail"]
    newest.replace(keys_file(path))
    assert [level for level, _ in await asyncio.to_thread(looked, path)] == ["ok"]
    async with service(path, key, in_hours=2) as samvad:
        assert (await said(samvad, "asha"), await said(samvad, "bala")) == (["before"], ["after"])


async def test_with_keys_that_are_lost_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they sealed stays and cannot be read; all others are served, and who lost theirs can speak again."""
    path, key = tmp_path / "samvad.db", new_key()
    await with_older_keys(path, key)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMVAD_MASTER_KEY", key)
    later = time.time_ns() + 2 * 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: later)
    command = ["encryption", "accept-loss", "--store", f"sqlite:///{path}", "--data-dir", str(tmp_path)]
    done = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert done.exit_code == 0 and "keys of 1 users" in done.output, done.output
    assert [level for level, _ in await asyncio.to_thread(looked, path)] == ["ok"]
    async with service(path, key, in_hours=3) as samvad:
        await samvad.save_privacy("bala", content="keep")  # what they wished cannot be read either
        await samvad.append_to_user_history("bala", "user", "again")
        assert (await said(samvad, "asha"), await said(samvad, "bala")) == (["before"], ["", "again"])


async def test_keys_of_today_open_a_database_of_yesterday(tmp_path: Path) -> None:
    """Of who was erased since, no key is there, and that is as it is to be: a copy from before is served."""
    path, key = tmp_path / "samvad.db", new_key()
    async with service(path, key) as samvad:
        for user in ("asha", "bala"):
            await samvad.append_to_user_history(user, "user", "before")
    shutil.copy(path, tmp_path / "yesterday")
    async with service(path, key) as samvad:
        await samvad.clear_user_data("asha")
    shutil.copy(tmp_path / "yesterday", path)
    async with service(path, key) as samvad:
        assert (await said(samvad, "asha"), await said(samvad, "bala")) == ([""], ["before"])
