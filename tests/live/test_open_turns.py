"""The small files that name sessions with a turn under way: sealed where encryption is on, and gone with their user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from samvad import open_samvad
from samvad.live.open_turns import OpenTurns
from samvad.records import UserKey
from samvad.stores.encrypting import data_keys_around
from tests.encryption.test_at_rest import found_in, new_key

pytestmark = pytest.mark.anyio

ASHA, BALA = UserKey("default", "asha-narwhal"), UserKey("default", "bala-narwhal")


async def left(turns: OpenTurns) -> list[tuple[UserKey, str]]:
    """What a server that starts again finds."""
    return [each async for each in turns.left_over()]


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
async def samvad(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A service that knows both users, encrypted or not."""
    key = new_key() if request.param else None
    async with open_samvad(f"sqlite:///{tmp_path}/samvad.db", master_key=key) as service:
        for user in (ASHA, BALA):
            await service.save_user_state(user.user_id, {"a": 1})
        yield service


async def test_a_turn_is_found_again_until_it_is_over(samvad: Any, tmp_path: Path) -> None:
    """By another process over the same directory; sealed, no id stands in the files."""
    folder, keys = tmp_path / "live", data_keys_around(samvad.store)
    turns = OpenTurns(folder, keys)
    await turns.add(ASHA, "session-narwhal")
    await turns.add(BALA, "other")
    again = OpenTurns(folder, keys)
    assert sorted(await left(again)) == [(ASHA, "session-narwhal"), (BALA, "other")]
    assert (found_in(folder, "narwhal") == []) is (keys is not None)
    assert all(file.stat().st_mode & 0o077 == 0 for file in folder.iterdir())
    again.discard(ASHA, "session-narwhal")
    assert await left(again) == [(BALA, "other")]


async def test_an_erased_users_files_are_gone(samvad: Any, tmp_path: Path) -> None:
    """Those of an earlier process too, and one that was cut off; another user's stay."""
    folder, keys = tmp_path / "live", data_keys_around(samvad.store)
    turns = OpenTurns(folder, keys)
    for number in range(3):
        await turns.add(ASHA, f"s{number}")
    await turns.add(BALA, "other")
    some = next(file for file in folder.iterdir() if file.stat().st_size)
    (folder / f"{some.name}.77.part").write_bytes(some.read_bytes())
    OpenTurns(folder, keys).forget(ASHA)
    assert await left(OpenTurns(folder, keys)) == [(BALA, "other")]
    assert len(list(folder.iterdir())) == 1


async def test_what_was_altered_or_moved_names_nobody(tmp_path: Path) -> None:
    """One bit, another's place, a destroyed key: the file goes, and nothing is recovered for it."""
    folder, key = tmp_path / "live", new_key()
    async with open_samvad(f"sqlite:///{tmp_path}/samvad.db", master_key=key) as samvad:
        for user in (ASHA, BALA):
            await samvad.save_user_state(user.user_id, {"a": 1})
        turns = OpenTurns(folder, data_keys_around(samvad.store))
        await turns.add(ASHA, "one")
        (file,) = folder.iterdir()
        whole = file.read_bytes()
        await turns.add(BALA, "two")
        other = next(each for each in folder.iterdir() if each != file)
        for spoiled in (whole[:-1], whole[:20], whole[:70] + bytes([whole[70] ^ 1]) + whole[71:], b"{}", b""):
            file.write_bytes(spoiled)
            assert await left(turns) == [(BALA, "two")]
            assert not file.exists()
        other.write_bytes(whole)
        assert await left(turns) == []
        file.write_bytes(whole)
        assert await left(turns) == [(ASHA, "one")]
        await samvad.clear_user_data(ASHA.user_id)
        assert await left(turns) == [], "its key is destroyed"
