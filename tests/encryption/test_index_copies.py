"""Sealed copies of the knowledge base's indexes: what was removed leaves them at once, and they stay within bounds."""

from __future__ import annotations

import os
from pathlib import Path

import apsw
import pytest

from samvad.knowledge import copies, shelf
from samvad.knowledge.engine import Engine
from samvad.knowledge.left_indexes import index_directory
from samvad.knowledge.records import Scope
from tests.encryption.test_at_rest import new_key
from tests.encryption.test_documents_at_rest import TEXT, TITLE, Base, add, asked
from tests.knowledge.lists import stored

pytestmark = pytest.mark.anyio


async def test_a_document_that_is_removed_first_leaves_the_copy_too(tmp_path: Path) -> None:
    """After a start, before anything was searched: its words are in no file that a key of today opens."""
    base, key = Base("sqlite", tmp_path), new_key()
    async with base.open(key) as samvad:
        await add(samvad, "a")
        await add(samvad, "b")
        assert await asked(samvad) == ["a", "b"]
    assert list(index_directory(base.path).iterdir())
    async with base.open(key) as samvad:
        await samvad.knowledge.delete("a")
        assert list(index_directory(base.path).iterdir()) == []
        assert await asked(samvad) == ["b"]


def test_what_was_not_written_to_its_end_does_not_stay(tmp_path: Path) -> None:
    """A process that was ended while it wrote a copy leaves a part: the next one removes it."""
    scope, key = Scope("default"), os.urandom(32)
    one = Engine(tmp_path, sealed=True)
    one.unlock(scope, key)
    one.put([stored("a", TITLE, TEXT, "en")])
    one.close()
    (whole,) = tmp_path.iterdir()
    (tmp_path / f"{whole.name}.4711.part").write_bytes(whole.read_bytes())
    looking = Engine(tmp_path, sealed=True, readonly=True)
    looking.close()
    assert len(list(tmp_path.iterdir())) == 2, "who only looks changes nothing"
    Engine(tmp_path, sealed=True).close()
    assert list(tmp_path.iterdir()) == [whole]


async def test_what_is_known_of_owners_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many users ask: each is followed again where it was forgotten, and finds what it found before."""
    monkeypatch.setattr(shelf, "_SCOPES_MAX", 3)
    base, key = Base("sqlite", tmp_path), new_key()
    async with base.open(key) as samvad:
        for number in range(6):
            await add(samvad, f"d{number}", f"u{number}")
        for number in (*range(6), 0, 5):
            assert await asked(samvad, f"u{number}") == [f"d{number}"]
        assert len(samvad.knowledge.core.shelf._in_step) <= 3


def test_no_more_keys_are_held_than_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were given last."""
    monkeypatch.setattr(copies, "_KEYS_MAX", 3)
    engine = Engine(tmp_path, sealed=True)
    for number in range(9):
        engine.unlock(Scope("default", f"u{number}"), bytes([number]) * 32)
        engine.unlock(Scope("default", "u0"), bytes(32))
    assert engine._copies is not None
    assert {key[0] for key in engine._copies.keys.values()} == {0, 7, 8}


def test_a_copy_is_written_without_another_in_memory(tmp_path: Path) -> None:
    """Of an index that was taken up from one: it is read where it stands, piece by piece."""
    scope, key = Scope("default"), os.urandom(32)
    one = Engine(tmp_path, sealed=True)
    one.unlock(scope, key)
    one.put([stored(f"d{number}", TITLE, TEXT * 300, "en") for number in range(30)])
    one.close()
    (path,) = tmp_path.iterdir()
    size = path.stat().st_size
    assert size > 5 << 20
    one = Engine(tmp_path, sealed=True)
    one.unlock(scope, key)
    one.put([stored("another", TITLE, TEXT, "en")])
    before = path.read_bytes()
    apsw.memory_high_water(True)
    used = apsw.memory_used()
    one.close()
    assert path.read_bytes() != before
    assert apsw.memory_high_water() - used < size / 4
