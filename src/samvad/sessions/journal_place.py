"""Where a journal lies: whether what is written there survives, who holds it, and whether it was moved or copied."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from samvad.errors import SetupError, StoreLocked
from samvad.private_files import replace_private

_log = logging.getLogger(__name__)

_IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs", "rootfs"})
_NETWORK = frozenset({"nfs", "nfs4"})
# https://cloud.google.com/run/docs/container-contract: set in services, jobs and worker pools.
_CLOUD_RUN = ("K_SERVICE", "CLOUD_RUN_JOB", "CLOUD_RUN_WORKER_POOL")
_MOUNTS = Path("/proc/self/mountinfo")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_STORE_FILE = "store"


class Survival(NamedTuple):
    """Whether files outlive the process and its machine, and what the operator should know (may be empty)."""

    survives: bool
    reason: str


def survives(
    directory: Path, *, environ: Mapping[str, str] | None = None, mounts: str | None = None
) -> Survival:
    """Whether what is fsynced in `directory`, which need not exist yet, is there after a crash and a new start.

    False for a file system in memory and for Cloud Run's own, which ends with the instance
    (https://cloud.google.com/run/docs/container-contract#filesystem); there only NFS volumes stay. A
    container's overlay is True with a warning: it survives a crash, but not a new container. `environ` and
    `mounts` (the text of /proc/self/mountinfo) stand in for the real ones in tests.
    """
    environ = os.environ if environ is None else environ
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text()
        except OSError:
            mounts = ""  # not Linux
    point, kind = _mount_of(Path(os.path.realpath(directory)), mounts)
    if kind in _IN_MEMORY:
        return Survival(False, f"{directory} is in memory ({kind} at {point})")
    if any(environ.get(name) for name in _CLOUD_RUN) and kind not in _NETWORK:
        return Survival(
            False,
            f"{directory} ends with its Cloud Run instance ({kind or 'unknown file system'} at {point})",
        )
    if any(environ.get(name) for name in _CLOUD_RUN):
        # https://cloud.google.com/run/docs/configuring/services/nfs-volume-mounts: mounted without locks.
        return Survival(
            True, f"{directory} has no locks on Cloud Run: see that never two instances use it at a time"
        )
    if kind.startswith("fuse.gcsfuse") or kind == "gcsfuse":
        return Survival(False, f"{directory} is a Cloud Storage mount, which cannot fsync a growing file")
    if kind == "overlay":
        return Survival(
            True, f"{directory} is inside the container and goes with it; mount a volume there to keep it"
        )
    return Survival(True, "")


def _mount_of(path: Path, mounts: str) -> tuple[str, str]:
    """The mount point that a path is under, and its kind (man 5 proc: mountinfo); the last line wins among equals."""
    best = ("/", "")
    for line in mounts.splitlines():
        left, separator, right = line.partition(" - ")
        fields = left.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        if path.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, right.split(" ", 1)[0])
    return best


def place(directory: Path) -> bytes:
    """16 bytes that differ where the directory is another one (a copy), the machine is another, or was booted anew."""
    try:
        boot = _BOOT.read_text().strip()
    except OSError:
        boot = os.uname().nodename
    status = directory.stat()
    named = f"{boot}\0{status.st_dev}\0{status.st_ino}"
    return hashlib.blake2b(named.encode(), digest_size=16).digest()


class DirectoryLock:
    """The right to use a directory, for as long as this lives; the kernel takes it back however the process ends."""

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise StoreLocked(
                f"The journal {directory} is in use by process {holder}; stop it, or choose another directory."
            ) from None
        except OSError:
            os.close(self._descriptor)
            raise
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process have it."""
        os.close(self._descriptor)


def keep_to_store(directory: Path, place: str, waiting: int) -> None:
    """Note whose store a journal brings its operations to, `place`; SetupError where `waiting` ones are for another.

    What waits was told to be kept for that store: another project, or another database, must not get it.
    """
    note = directory / _STORE_FILE
    try:
        known = note.read_text(encoding="utf-8").strip() if note.exists() else place
        if known != place and waiting:
            raise SetupError(
                f"{waiting:,} operations in the journal {directory} are on their way to {known}, and this is {place}: "
                "serve that store until `samvad parked list` says 0 operations, or choose another --data-dir."
            )
        if known != place or not note.exists():
            replace_private(note, f"{place}\n".encode(), sync=True)
    except (OSError, UnicodeDecodeError) as error:
        raise cannot_open(directory, error if isinstance(error, OSError) else OSError(str(error))) from error


def cannot_open(directory: Path, error: OSError) -> SetupError:
    """What to tell the operator, in one line."""
    hints = {
        errno.ENOTDIR: "it is not a directory; choose another",
        errno.EEXIST: "it is not a directory; choose another",
        errno.EROFS: "the file system is read-only; choose another directory",
        errno.EACCES: "this user may not write there; change its owner or choose another directory",
        errno.EPERM: "this user may not write there; change its owner or choose another directory",
        errno.ENOSPC: "there is no space left on the disk; free some",
        errno.EDQUOT: "the disk quota is used up; free some space",
    }
    reason = hints.get(error.errno or 0, error.strerror or str(error))
    return SetupError(f"Cannot open the journal {directory}: {reason}.")


def keeps(directory: Path) -> bool:
    """Whether a journal there outlives this instance; where it does not, no answer may say `journaled`."""
    survival = survives(directory)
    if not survival.survives:
        _log.warning("answers will say 'memory', not 'journaled': %s", survival.reason)
    elif survival.reason:
        _log.warning("the journal: %s", survival.reason)
    return survival.survives
