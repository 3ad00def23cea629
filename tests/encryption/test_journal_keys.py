"""The keys of a sealed journal: what waits is not lost with them in silence, and after an erasing they are replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from samvad import open_samvad
from samvad.errors import SetupError
from samvad.stores.journal_seal import keys_path
from samvad.stores.memory import MemoryStore
from tests.encryption.test_at_rest import new_key
from tests.journaled.faulty import FaultyStore

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
