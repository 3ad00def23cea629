"""The audit log: who did what to whom, when, and how it was answered. Never what was said.

A file of JSON lines in a directory of its own. Each entry carries an HMAC-SHA-256 over itself and the entry before it,
so that one that is changed, removed, inserted or moved is found by `verify`; one that is cut off at the end is found by
whoever has kept the head that `verify` printed. People and sessions stand under a keyed hash: with the key, which is in
the same data directory, one can look for a user, and without it the log names nobody.

Several processes may write (a server, and commands beside it): each takes the file's lock, and goes on from its end.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from samvad import limits
from samvad.auth.secret_file import load_key
from samvad.clock import Clock, rfc3339
from samvad.errors import SetupError, Unavailable
from samvad.private_files import sync_path

DIRECTORY: Final = "audit"
KEY_FILE: Final = "audit.key"
START: Final = "0" * 64
_RETRY_S: Final = 1.0
_TAIL_BYTES: Final = 64 * 1024  # more than a line can have

_log = logging.getLogger(__name__)


class AuditEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that was done. `whom` are keyed hashes (of API keys the ids), `status` what HTTP would answer.

    `count` is how many requests it stands for, the last of which is told.
    """

    n: int
    at: str
    who: str
    tenant: str
    did: str
    status: int
    whom: list[str] = []
    address: str | None = None
    request: str | None = None
    count: int = 1
    prev: str = START
    mac: str = ""


class Head(NamedTuple):
    """How many entries there are, and the last one's mac: what proves later that none was cut off."""

    n: int
    mac: str


class Broken(NamedTuple):
    """Where the chain does not hold, and why."""

    file: str
    line: int
    why: str


class Verified(NamedTuple):
    """What `verify` found: the first and the last number, the head, and what is wrong.

    `torn`: behind the head is half a line, which a crash has left, or which is being written. It was never whole.
    """

    first: int
    head: Head
    broken: list[Broken]
    torn: bool = False


_decode = msgspec.json.Decoder(AuditEntry).decode
_encode = msgspec.json.encode


def whom(key: bytes, kind: str, tenant: str, name: str) -> str:
    """The keyed hash under which a user, session or document stands: `user:` and 32 hexadecimal digits."""
    digest = hmac.digest(key, f"{kind}\0{tenant}\0{name}".encode(), hashlib.sha256)
    return f"{kind}:{digest.hex()[:32]}"


def _mac(key: bytes, entry: AuditEntry) -> str:
    return hmac.digest(key, _encode(msgspec.structs.replace(entry, mac="")), hashlib.sha256).hex()


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("audit-*.jsonl"))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        yield from enumerate(file, 1)


def _entry(line: bytes) -> AuditEntry | None:
    """What a line says; None where it is no entry."""
    try:
        return _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def entries(directory: Path) -> Iterator[AuditEntry]:
    """All entries that can be read, in order."""
    for path in _files(directory):
        for _, line in _lines(path):
            entry = _entry(line)
            if entry is not None:
                yield entry


def verify(directory: Path, key: bytes) -> Verified:
    """Check the whole chain. Files that were archived at its beginning are not missed: it begins where it begins."""
    broken: list[Broken] = []
    first, head, torn = 0, Head(0, START), False
    files = _files(directory)
    for path in files:
        for number, line in _lines(path):
            if path == files[-1] and not line.endswith(b"\n"):
                torn = True
                break
            entry = _entry(line)
            if entry is None:
                broken.append(Broken(path.name, number, "is no entry"))
                continue
            if not line.endswith(b"\n") or line[:-1] != _encode(entry) or _mac(key, entry) != entry.mac:
                broken.append(Broken(path.name, number, f"entry {entry.n} was changed"))
            elif first and (entry.prev != head.mac or entry.n != head.n + 1):
                broken.append(Broken(path.name, number, f"entry {entry.n} does not follow entry {head.n}"))
            elif not first and entry.n == 1 and entry.prev != START:
                broken.append(Broken(path.name, number, "entry 1 is not the first"))
            first = first or entry.n
            head = Head(entry.n, entry.mac)
    return Verified(first, head, broken, torn)


class AuditLog:
    """Writes the log of one data directory. `start` begins the thread that writes; `stop` writes what is left."""

    def __init__(
        self, data_dir: Path, clock: Clock, *, file_bytes_max: int = limits.AUDIT_FILE_BYTES_MAX
    ) -> None:
        self.directory = data_dir / DIRECTORY
        self._key_path = data_dir / KEY_FILE
        self._key: bytes | None = None
        self._clock = clock
        self._file_bytes_max = file_bytes_max
        self._queue: queue.SimpleQueue[AuditEntry | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self.fault: str | None = None
        self.written = 0

    @property
    def waiting(self) -> int:
        """How many entries wait to be written."""
        return self._queue.qsize()

    @property
    def key(self) -> bytes:
        """The key of the chain, made with the directory when it is first needed; SetupError where that cannot be."""
        if self._key is None:
            key = load_key(self._key_path, "the key of the audit log")
            try:
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise SetupError(
                    f"Cannot keep the audit log in {self.directory}: {error.strerror}."
                ) from error
            self._key = key
        return self._key

    # --- noting ----------------------------------------------------------------------------------------

    def hashed(self, kind: str, tenant: str, name: str) -> str:
        """See `whom`."""
        return whom(self.key, kind, tenant, name)

    def check(self) -> None:
        """Unavailable where so much waits to be written that nothing more may be done unseen, or there is no place."""
        try:
            self.key  # noqa: B018 (it is made now)
        except SetupError as error:
            if self.fault is None:
                _log.error("the audit log cannot be kept: %s", error.message)
            self.fault = error.message
            raise Unavailable(
                "The audit log cannot be kept; what it must hold is not done until it can be."
            ) from error
        if self._queue.qsize() >= limits.AUDIT_ENTRIES_QUEUED_MAX:
            raise Unavailable(
                "The audit log cannot be written; what it must hold is not done until it can be."
            )

    def note(
        self,
        who: str,
        tenant: str,
        did: str,
        status: int,
        whom: Sequence[str] = (),
        *,
        address: str | None = None,
        request: str | None = None,
        count: int = 1,
    ) -> None:
        """Take in that this was done; on the disk a moment later."""
        at = rfc3339(self._clock.now_ms())
        self._queue.put(AuditEntry(0, at, who, tenant, did, status, list(whom), address, request, count))

    # --- writing ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to write what is noted."""
        self._thread = threading.Thread(target=self._run, name="samvad-audit", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what was noted so far, if that can be, and end."""
        self._stopping.set()
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        else:
            self._write_group([each for each in self._drained() if each is not None])

    def _drained(self) -> Iterator[AuditEntry | None]:
        while True:
            try:
                yield self._queue.get_nowait()
            except queue.Empty:
                return

    def _run(self) -> None:
        while True:
            group = [self._queue.get(), *self._drained()]
            noted = [each for each in group if each is not None]
            while noted and not self._write_group(noted):
                if self._stopping.wait(_RETRY_S):
                    return  # said in the log already; the disk does not take it
            if None in group:
                return

    def _write_group(self, noted: list[AuditEntry]) -> bool:
        try:
            self._append(noted)
        except (OSError, ValueError) as error:
            if self.fault is None:
                _log.error("the audit log cannot be written: %s", error)
            self.fault = str(error)
            return False
        self.fault = None
        self.written += len(noted)
        return True

    def _append(self, noted: Iterable[AuditEntry]) -> None:
        lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            path, head = self._end()
            lines = []
            for entry in noted:
                entry = msgspec.structs.replace(entry, n=head.n + 1, prev=head.mac, mac="")
                entry = msgspec.structs.replace(entry, mac=_mac(self.key, entry))
                head = Head(entry.n, entry.mac)
                lines.append(_encode(entry) + b"\n")
            made = not path.exists()
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            before = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, b"".join(lines))
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, before)  # no half of an entry stays
                raise
            finally:
                os.close(descriptor)
            if made:
                sync_path(self.directory)
        finally:
            os.close(lock)

    def _end(self) -> tuple[Path, Head]:
        """The file to write to, and the entry to go on from."""
        files = _files(self.directory)
        if not files:
            return self.directory / "audit-000001.jsonl", Head(0, START)
        for path in reversed(files):
            size = path.stat().st_size
            if not size:
                continue
            with path.open("rb") as file:
                file.seek(max(0, size - _TAIL_BYTES))
                tail = file.read()
            if not tail.endswith(b"\n"):  # a crash tore it: it was never whole
                keep = size - len(tail) + tail.rfind(b"\n") + 1
                os.truncate(path, keep)
                return self._end()
            last = _decode(tail.rstrip(b"\n").rpartition(b"\n")[2])
            if size >= self._file_bytes_max and path == files[-1]:
                number = int(path.stem.rpartition("-")[2]) + 1
                return path.with_name(f"audit-{number:06}.jsonl"), Head(last.n, last.mac)
            return files[-1], Head(last.n, last.mac)
        return files[-1], Head(0, START)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def noted_by_command(
    data_dir: Path,
    clock: Clock,
    did: str,
    subjects: Sequence[tuple[str, str, str]] = (),
    *,
    key: str | None = None,
    tenant: str = "default",
    begin: bool = False,
) -> None:
    """What somebody did on the command line of this machine, where a log is kept: written when this returns.

    `subjects` are told by a keyed hash each (kind, tenant, name), an API `key` by its id. With `begin` the log begins
    here where there is none yet.
    """
    if not begin and not (data_dir / DIRECTORY).is_dir():
        return
    log = AuditLog(data_dir, clock)
    _ = log.key  # made with the directory
    whom = [log.hashed(*each) for each in subjects] + ([] if key is None else [f"key:{key}"])
    log.note(f"command:uid={os.getuid()}", tenant, did, 200, whom)
    log.stop()
    if log.fault is not None:
        raise SetupError(f"It was done, but the audit log cannot be written: {log.fault}.")
