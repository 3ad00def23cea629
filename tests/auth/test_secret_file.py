"""Secrets in files: made once, whole or not at all, whatever a crash has left."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from samvad.auth import secret_file
from samvad.errors import SetupError


def test_a_key_is_made_once(tmp_path: Path) -> None:
    """The same ever after, for its owner alone, and nothing beside it."""
    path = tmp_path / "data" / "some.key"
    key = secret_file.load_key(path, "a key")
    assert len(key) == secret_file.KEY_BYTES and secret_file.load_key(path, "a key") == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_what_a_crash_left_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, the process has the same number after it."""
    path = tmp_path / "some.key"
    monkeypatch.setattr(Path, "unlink", lambda self: None)  # as if it had ended before
    monkeypatch.setattr(Path, "hardlink_to", lambda self, target: None)
    with pytest.raises(SetupError):
        secret_file.load_key(path, "a key")
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    assert len(secret_file.load_key(path, "a key")) == secret_file.KEY_BYTES


def test_a_file_that_holds_none_is_told(tmp_path: Path) -> None:
    """It is not replaced: what was signed with the right one could not be checked any more."""
    path = tmp_path / "some.key"
    path.write_bytes(b"short")
    with pytest.raises(SetupError, match="does not hold a key"):
        secret_file.load_key(path, "a key")
    assert path.read_bytes() == b"short"
    with pytest.raises(SetupError, match="put back a copy of it"):
        secret_file.check_keys([tmp_path / "none.key", path])
    assert not (tmp_path / "none.key").exists()
