"""What `samvad doctor` looks at; each check says what it found, and for a problem what to do about it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

from samvad import __version__
from samvad.cli import disk
from samvad.errors import SamvadError, SetupError
from samvad.settings import Given, Settings

GIB: Final = 1024**3
_FREE_BYTES_MIN: Final = 100 * 1024**2
_SLOW_SYNC_MS: Final = 10.0
_UNREAL_SYNC_MS: Final = 0.02  # no disk is that fast: something acknowledges before it has written
_CLOCK_MIN_S: Final = 1_735_689_600  # 2025-01-01; an earlier clock has never been set
_CLOCK_SLACK_S: Final = 60
_MEMORY_KINDS: Final = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_NETWORK_KINDS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs"}
)

Level = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """One line of the doctor's table; `todo` is the sentence that says what to do.

    A warning that is `risky` fails in production.
    """

    level: Level
    subject: str
    found: str
    todo: str = ""
    risky: bool = False


def software() -> Iterator[Finding]:
    """The versions that run."""
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield Finding("ok", "samvad", f"{__version__}, Python {platform.python_version()}, {system}")


def sqlite_version(version: str) -> Finding:
    """Whether this SQLite has the WAL-reset fault (3.7.0 to 3.51.2; https://sqlite.org/wal.html#walresetbug)."""
    numbers = tuple(int(part) for part in version.split(".")[:3])
    if (3, 7, 0) <= numbers <= (3, 51, 2):
        todo = "This SQLite can corrupt a database in rare cases: install apsw 3.51.3 or newer."
        return Finding("fail", "SQLite", version, todo)
    return Finding("ok", "SQLite", version)


def clock(newest: float | None, now_s: float | None = None) -> Finding:
    """Whether the clock can be right; `newest` is when the database was last written."""
    now_s = time.time() if now_s is None else now_s
    shown = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s))
    if now_s < _CLOCK_MIN_S:
        return Finding("fail", "clock", shown, "The clock has never been set: start a time service (NTP).")
    if newest is not None and newest > now_s + _CLOCK_SLACK_S:
        behind = f"{newest - now_s:,.0f} s behind the last write to the database"
        return Finding(
            "warn", "clock", f"{shown}, {behind}", "Set the clock, and start a time service (NTP).", True
        )
    return Finding("ok", "clock", shown)


def directory(path: Path, purpose: str = "data directory") -> Iterator[Finding]:
    """Whether a directory's disk is fit to keep a database."""
    there = disk.existing(path)
    if not there.is_dir():
        yield Finding("fail", purpose, f"{path}: {there} is not a directory", "Choose another --data-dir.")
        return
    note = str(path) if there == path.absolute() else f"{path}, not there yet"
    if not os.access(there, os.W_OK):
        yield Finding(
            "fail", purpose, f"{note}, cannot be written", "Give this user the right to write there."
        )
        return
    yield Finding("ok", purpose, note)
    yield _kind(disk.file_system(there))
    free = disk.free_bytes(there)
    shown = f"{free / GIB:,.1f} GiB free"
    if free < _FREE_BYTES_MIN:
        yield Finding("fail", "disk", shown, "Make room: when the disk is full nothing can be saved.")
    elif free < GIB:
        yield Finding(
            "warn", "disk", shown, "Make room soon: when the disk is full nothing can be saved.", True
        )
    else:
        yield Finding("ok", "disk", shown)
    try:
        yield _sync(disk.sync_ms(there))
    except OSError as error:
        yield Finding("fail", "fsync", str(error.strerror), "Nothing can be written there; look at the disk.")


def _kind(kind: str) -> Finding:
    if kind in _MEMORY_KINDS:
        todo = "This is memory, not a disk: all is lost at a restart. Choose a --data-dir on a disk."
        return Finding("warn", "file system", kind, todo, True)
    if kind in _NETWORK_KINDS:
        todo = "SQLite's log does not work over a network: choose a --data-dir on a local disk."
        return Finding("fail", "file system", kind, todo)
    if kind == "overlay":
        todo = "This is a container's own layer and goes with the container: mount a volume for --data-dir."
        return Finding("warn", "file system", kind, todo, True)
    return Finding("ok", "file system", kind or "not known")


def _sync(ms: float) -> Finding:
    shown = f"{ms:.3f} ms (median)"
    if ms < _UNREAL_SYNC_MS:
        todo = "Too fast to be true: something acknowledges writes before they are on a disk."
        return Finding("warn", "fsync", shown, todo, True)
    if ms > _SLOW_SYNC_MS:
        todo = f"Each acknowledged write waits this long: about {1000 / ms:,.0f} a second for one caller."
        return Finding("warn", "fsync", shown, todo)
    return Finding("ok", "fsync", shown)


def held_by(database: Path) -> str | None:
    """The number of the process that holds a database (`unknown` where it does not say); None if none does. OSError."""
    path = database.with_name(database.name + ".lock")
    try:
        with path.open() as lock_file:
            try:
                fcntl.flock(lock_file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock_file.read(32).strip() or "unknown"
    except FileNotFoundError:
        pass
    return None


def holder(database: Path) -> Finding:
    """Which process holds the database."""
    try:
        pid = held_by(database)
        if pid is not None:
            return Finding("ok", "in use", f"by process {pid}")
    except OSError as error:
        return Finding(
            "warn", "in use", f"not known ({error.strerror})", "Look with the rights of the server's user."
        )
    return Finding("ok", "in use", "by no process")


def journal(directory: Path) -> Iterator[Finding]:
    """The journal in front of a remote store: whether it survives, who holds it, and what waits in it."""
    from samvad.sessions.journal_place import survives
    from samvad.sessions.parked import still_there, waiting

    survival = survives(directory)
    if not survival.survives:
        todo = "Writes are acknowledged as `memory`: choose a --data-dir on a disk or volume, or --durability store."
        yield Finding("warn", "journal", survival.reason, todo, True)
    if not directory.is_dir():
        yield Finding("ok", "journal", f"{directory}, not there yet: the first start makes it")
        return
    try:
        entries, parked = waiting(directory), still_there(directory)
    except SetupError as error:
        yield Finding("fail", "journal", error.message, "Look at it with the rights of the server's user.")
        return
    told = f"{len(entries):,} operations" if entries else "empty"
    if parked:
        todo = "The store refuses them for ever: look at them with `samvad parked list`, then retry or drop them."
        yield Finding("warn", "journal", f"{told}, {len(parked):,} of them parked", todo, True)
    else:
        yield Finding("ok", "journal", f"{told} waiting for the store" if entries else told)
    damaged = directory / "damaged"
    if damaged.is_dir() and any(damaged.iterdir()):
        todo = "Acknowledged writes may be among them: read the notes there, and move the directory away."
        yield Finding("warn", "journal", f"damaged bytes were set aside in {damaged}", todo, True)


def keys(database: Path) -> Iterator[Finding]:
    """Whether the keys beside an encrypted database are those of today, and not a copy from before some users began."""
    from samvad.stores.encrypting import keys_file

    path = keys_file(database)
    if not path.exists():
        return
    from samvad.stores import older_keys
    from samvad.stores.data_key_file import DataKeyFile
    from samvad.stores.sqlite import SQLiteStore

    async def run() -> tuple[int, int]:
        store, found = SQLiteStore(database, readonly=True), DataKeyFile(path, readonly=True)
        try:
            await store.open()
            await found.open()
            return await older_keys.count_missing(store, found)
        finally:
            await found.close()
            await store.close()

    try:
        missing, changed_ms = asyncio.run(run())
    except SamvadError as error:
        yield Finding("fail", "keys", error.message, "Look at them with the rights of the server's user.")
        return
    if missing:
        todo = "Nothing of it is lost while the newest copy of the keys is to be found: look for it first."
        yield Finding("fail", "keys", older_keys.told(path, database, missing, changed_ms), todo)
    else:
        yield Finding("ok", "keys", str(path))


def exposure(settings: Settings) -> Iterator[Finding]:
    """Settings that are a risk where others depend on the server."""
    try:
        url = settings.store_url()
    except SetupError:
        return
    if url.startswith("memory:") or settings.durability == "memory":
        todo = (
            "What is acknowledged is lost if the process dies: use a sqlite:/// store, and durability auto."
        )
        yield Finding("warn", "durability", "memory", todo, True)
    if settings.insecure:
        todo = "Whoever reaches the server can read and erase everything: SAMVAD_AUTH=required, without --insecure."
        yield Finding("warn", "exposure", "insecure is set", todo, True)


def unused(given: Mapping[str, Given], settings: Settings) -> Iterator[Finding]:
    """Settings that were given and do nothing."""
    for name, one in given.items():
        if name == "live_model" and settings.live_provider == "extractive":
            todo = "The extractive provider has no model; set SAMVAD_LIVE_PROVIDER as well."
        elif name == "project_id" and not (settings.store or "").startswith("firestore:"):
            todo = "Only a firestore:// store without a project uses it; it can stay."
        elif settings.auth == "off" and name.startswith(("auth_", "limit_")) and name != "limit_proxies":
            todo = "Nobody is asked who they are, so that nobody is limited: SAMVAD_AUTH=auto, or unset it."
        else:
            continue
        yield Finding("warn", "setting", f"{one.source} does nothing", todo)
