"""The audit log: whole or found out, however it was changed; without content; and nothing is done unseen."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from samvad import limits, open_samvad
from samvad.auth import audit
from samvad.auth.audit import AuditLog, Head
from samvad.clock import SystemClock
from samvad.errors import Unavailable
from samvad.http.app import SamvadApp
from samvad.http.auditing import Auditing
from tests.support import wait_until

pytestmark = pytest.mark.anyio
CANARY = "canary-51c2"


def written(tmp_path: Path, count: int = 9, **settings: Any) -> AuditLog:
    """A log of some entries, on the disk."""
    log = AuditLog(tmp_path, SystemClock(), **settings)
    for number in range(count):
        log.note("key:k1", "default", f"did {number}", 200, [log.hashed("user", "default", f"u{number % 3}")])
    log.stop()
    assert log.fault is None
    return log


def the_file(tmp_path: Path) -> Path:
    """Its only file."""
    (path,) = (tmp_path / audit.DIRECTORY).glob("*.jsonl")
    return path


def test_a_whole_log_is_found_whole(tmp_path: Path) -> None:
    """Its numbers follow one another, over restarts too, and the head is the last entry's."""
    for _ in range(3):
        log = written(tmp_path)
    found = audit.verify(log.directory, log.key)
    entries = list(audit.entries(log.directory))
    assert [each.n for each in entries] == list(range(1, 28))
    assert (found.first, found.head, found.broken) == (1, Head(27, entries[-1].mac), [])


def _changed(lines: list[bytes], at: int) -> list[bytes]:
    return [*lines[:at], lines[at].replace(b'"status":200', b'"status":404'), *lines[at + 1 :]]


def _removed(lines: list[bytes], at: int) -> list[bytes]:
    return lines[:at] + lines[at + 1 :]


def _moved(lines: list[bytes], at: int) -> list[bytes]:
    return [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]


def _doubled(lines: list[bytes], at: int) -> list[bytes]:
    return [*lines[: at + 1], *lines[at:]]


def _respaced(lines: list[bytes], at: int) -> list[bytes]:
    return [*lines[:at], lines[at].replace(b",", b", ", 1), *lines[at + 1 :]]


@pytest.mark.parametrize("change", [_changed, _removed, _moved, _doubled, _respaced])
def test_what_was_done_to_it_is_found(tmp_path: Path, change: Any) -> None:
    """At every place but the first for a removal: a log may begin later, where its oldest files were archived."""
    log = written(tmp_path)
    path = the_file(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    for at in range(1, len(lines) - 1):
        path.write_bytes(b"".join(change(lines, at)))
        assert audit.verify(log.directory, log.key).broken, at
    path.write_bytes(b"".join(lines))
    assert not audit.verify(log.directory, log.key).broken


def test_an_entry_of_ones_own_needs_the_key(tmp_path: Path) -> None:
    """Somebody appends what looks right."""
    log = written(tmp_path, 2)
    head = audit.verify(log.directory, log.key).head
    forged = audit.AuditEntry(3, "2026-01-01T00:00:00.000Z", "key:k1", "default", "did", 200, prev=head.mac)
    forged = msgspec.structs.replace(forged, mac=audit._mac(b"x" * 32, forged))
    with the_file(tmp_path).open("ab") as file:
        file.write(msgspec.json.encode(forged) + b"\n")
    assert [each.line for each in audit.verify(log.directory, log.key).broken] == [3]


def test_a_cut_end_is_found_with_the_head(tmp_path: Path) -> None:
    """The chain alone cannot tell it."""
    log = written(tmp_path)
    head = audit.verify(log.directory, log.key).head
    path = the_file(tmp_path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    found = audit.verify(log.directory, log.key)
    assert not found.broken and found.head.n == 7
    assert all(each.mac != head.mac for each in audit.entries(log.directory))


def test_what_a_crash_tore_is_taken_away_and_the_chain_goes_on(tmp_path: Path) -> None:
    """Half a line at the end was never whole."""
    log = written(tmp_path, 3)
    with the_file(tmp_path).open("ab") as file:
        file.write(b'{"n":4,"at":"20')
    log = written(tmp_path, 1)
    found = audit.verify(log.directory, log.key)
    assert not found.broken and found.head.n == 4


def test_files_are_bounded_and_the_chain_goes_through_them(tmp_path: Path) -> None:
    """And the oldest may be archived."""
    for _ in range(6):
        log = written(tmp_path, 3, file_bytes_max=500)
    files = sorted(log.directory.glob("*.jsonl"))
    assert len(files) == 6
    assert not audit.verify(log.directory, log.key).broken
    files[0].unlink()
    found = audit.verify(log.directory, log.key)
    assert (found.first, found.head.n, found.broken) == (4, 18, [])
    files[2].unlink()
    assert audit.verify(log.directory, log.key).broken


def test_several_may_write_at_once(tmp_path: Path) -> None:
    """A server and commands beside it make one chain."""
    written(tmp_path, 1)
    threads = [threading.Thread(target=written, args=(tmp_path, 20)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = written(tmp_path, 1)
    found = audit.verify(log.directory, log.key)
    assert (found.head.n, found.broken) == (82, [])


async def test_while_it_cannot_be_written_nothing_is_done_unseen_for_long(tmp_path: Path) -> None:
    """It waits in memory, and is written when it can be; when too much waits, what must be noted is refused."""
    log = written(tmp_path, 1)
    log = AuditLog(tmp_path, SystemClock())
    path = the_file(tmp_path)
    kept = path.with_suffix(".kept")
    path.rename(kept)
    path.mkdir()  # nobody can write there, root neither
    log.start()
    log.note("local", "default", "did", 200)
    await asyncio.to_thread(wait_until, lambda: log.fault is not None, "the fault")
    for _ in range(limits.AUDIT_ENTRIES_QUEUED_MAX):
        log.check()
        log.note("local", "default", "did", 200)
    with pytest.raises(Unavailable):
        log.check()
    path.rmdir()
    kept.rename(path)
    everything = limits.AUDIT_ENTRIES_QUEUED_MAX + 1
    await asyncio.to_thread(wait_until, lambda: log.written == everything, "all of it")
    log.check()
    log.stop()
    found = audit.verify(log.directory, log.key)
    assert (found.head.n, found.broken) == (limits.AUDIT_ENTRIES_QUEUED_MAX + 2, [])


async def requested(app: SamvadApp, method: str, path: str, body: Any = None) -> int:
    """The status of a request."""
    return (await requested_body(app, method, path, body))[0]


async def requested_body(app: SamvadApp, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """The status of a request, and the answer."""
    sent: list[dict[str, Any]] = []
    raw = b"" if body is None else msgspec.json.encode(body)
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": ("192.0.2.7", 1),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": raw}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return int(sent[0]["status"]), msgspec.json.decode(sent[1]["body"])


@pytest.mark.parametrize(
    ("level", "wanted"),
    [
        ("sensitive", ["clearSession", "clearUserData"]),
        ("writes", ["appendToUserHistory", "saveSession", "clearSession", "clearUserData"]),
        ("all", ["appendToUserHistory", "saveSession", "getUserProfile", "clearSession", "clearUserData"]),
    ],
)
async def test_requests_are_noted_without_content(tmp_path: Path, level: Any, wanted: list[str]) -> None:
    """Who, what, to whom, and how it was answered; not what was said, and no id in clear."""
    async with open_samvad("memory://") as samvad:
        app = SamvadApp(samvad)
        log = AuditLog(tmp_path, SystemClock())
        auditing = Auditing(log, level, app.router.routes)
        app.before.append(auditing.check)
        app.on_access.append(auditing.note)
        said = {"role": "user", "content": CANARY}
        assert await requested(app, "POST", "/api/session/asha-id/history", said) == 200
        made = {"sessionId": "the-session", "userId": "asha-id", "metadata": {"x": CANARY}}
        assert await requested(app, "POST", "/api/session/create", made) == 200
        assert await requested(app, "GET", "/api/session/asha-id/profile") == 200
        assert await requested(app, "DELETE", "/api/session/the-session") == 200
        assert await requested(app, "POST", "/api/session/refresh", {"userId": "asha-id"}) == 200
        log.stop()
    found = list(audit.entries(log.directory))
    assert [each.did for each in found] == wanted
    assert {each.who for each in found} == {"local"} and {each.status for each in found} == {200}
    asha = log.hashed("user", "default", "asha-id")
    assert all(each.whom == [asha] for each in found if each.did != "clearSession")
    assert (
        log.hashed("session", "default", "the-session")
        in next(e for e in found if e.did == "clearSession").whom
    )
    text = the_file(tmp_path).read_text()
    assert CANARY not in text and "asha-id" not in text and "the-session" not in text
