"""A secret of this deployment: derived from a setting, or kept in a file that is made when it is first needed."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from samvad.errors import SetupError
from samvad.private_files import sync_path

KEY_BYTES: Final = 32


def derived(secret: str, purpose: str) -> bytes:
    """A key for one purpose from a secret that may serve several."""
    return hashlib.sha256(f"samvad {purpose}\0{secret}".encode()).digest()


def check_keys(paths: Iterable[Path]) -> None:
    """SetupError where one of these files is there and holds no key, or cannot be read.

    For the start: a key is needed when the first user is erased, or the first token minted, and that is too late.
    """
    for path in paths:
        try:
            key = _read(path)
        except NotADirectoryError:
            return  # there is no such directory: the store says what is wrong with it
        except OSError as error:
            raise SetupError(f"Cannot read the key {path}: {error.strerror}.") from error
        if key is not None and len(key) != KEY_BYTES:
            raise _no_key(path)


def load_key(path: Path | None, what: str) -> bytes:
    """The key in a file (made if there is none yet, readable by its owner alone), or with None a random one.

    Raises SetupError where the file cannot be read or written.
    """
    if path is None:
        return os.urandom(KEY_BYTES)
    try:
        key = _read(path)
        if key is None:
            _write(path, os.urandom(KEY_BYTES))
            key = _read(path)
    except OSError as error:
        raise SetupError(f"Cannot keep {what} in {path}: {error.strerror}.") from error
    if key is None or len(key) != KEY_BYTES:
        raise _no_key(path)
    return key


def _no_key(path: Path) -> SetupError:
    return SetupError(
        f"{path} does not hold a key of {KEY_BYTES} bytes; put back a copy of it. If you remove it, it is made anew, "
        "and what was signed or hashed with the old one is not known any more."
    )


def _read(path: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def _write(path: Path, key: bytes) -> None:
    """Write the key under its name at once and whole, unless another process was first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Not the process's id: in a container it is the same after a crash, and what that has left would be in the way.
    part = path.with_name(f"{path.name}.{os.urandom(4).hex()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor)
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(part)
    finally:
        part.unlink()
    sync_path(path.parent)
