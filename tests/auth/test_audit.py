"""The audit log: whole or found out, however it was changed; without content; and nothing is done unseen."""

from __future__ import annotations

import asyncio
import os
import re
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
from samvad.http.rate_limits import Limiter, quotas
from samvad.settings import Settings
from tests.auth.world import BALA, Socket, World, world
from tests.cli.processes import run
from tests.http.support import Api
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
    found = audit.verify(log.directory, log.key)
    assert found.torn and not found.broken and found.head.n == 3, "nobody has changed anything"
    log = written(tmp_path, 1)
    found = audit.verify(log.directory, log.key)
    assert not found.torn and not found.broken and found.head.n == 4


def test_what_is_no_text_is_told_like_any_other_damage(tmp_path: Path) -> None:
    """A damaged disk, or somebody, has put bytes there that are not UTF-8."""
    log = written(tmp_path, 2)
    whole = the_file(tmp_path).read_bytes()
    the_file(tmp_path).write_bytes(whole.replace(b'"at":"', b'"at":"\xff', 1))
    assert [each.line for each in audit.verify(log.directory, log.key).broken] == [1]
    assert len(list(audit.entries(log.directory))) == 1


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
        auditing = Auditing(log, level, app.router.routes, SystemClock())
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


async def test_what_is_refused_over_http_is_noted(tmp_path: Path) -> None:
    """Bad credentials, and what they do not allow, at every level; with `all` also what succeeds, or is not there."""
    for level in ("sensitive", "all"):
        async with world() as here:
            key = here.key("sessions")
            await here.auth.refresh()
            log = audited(here, tmp_path / level, level)
            asked = [
                ("GET", f"/api/session/{BALA}/state", "x", 401),
                ("GET", f"/api/session/{CARL}/state", here.token(BALA), 403),
                ("GET", f"/api/session/{CARL}/state", key, 403),
                ("GET", f"/api/session/{BALA}/profile", here.token(BALA), 200),
                ("GET", "/api/session/session_asha", here.token(BALA), 404),
                ("POST", f"/api/session/{BALA}/history", here.token(BALA), 400),
            ]
            for method, path, token, status in asked:
                answer = await here.api(method, path, headers={"authorization": f"Bearer {token}"})
                assert answer.status == status
            found = [(status, did) for _, did, status, _ in told(log)]
        refused = [(401, "getUserState"), (403, "getUserState"), (403, "getUserState")]
        rest = [(200, "getUserProfile"), (404, "getSession"), (400, "appendToUserHistory")]
        assert found == (refused if level == "sensitive" else refused + rest)


@pytest.mark.parametrize(
    ("proxies", "told_by_proxies", "address"),
    [
        (0, "203.0.113.9", "127.0.0.1"),
        (1, "203.0.113.9", "203.0.113.9"),
        (1, "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        (1, "2001:db8::1", "2001:db8::1"),
        (1, f"{CANARY}", None),
        (2, "203.0.113.9", "127.0.0.1"),
    ],
)
async def test_the_address_is_the_clients(
    tmp_path: Path, proxies: int, told_by_proxies: str, address: str | None
) -> None:
    """Behind proxies, what the outermost of them saw, and nothing that is no address."""
    async with world() as here:
        limiter = Limiter(here.clock, quotas(Settings()), proxies=proxies)
        app = SamvadApp(here.samvad, auth=here.auth, limiter=limiter)
        log = AuditLog(tmp_path, SystemClock())
        app.on_access.append(Auditing(log, "sensitive", app.router.routes, SystemClock()).note)
        headers = {"x-forwarded-for": told_by_proxies}
        assert (await Api(here.samvad, app)("GET", "/api/session/stats", headers=headers)).status == 401
        assert [did for _, did, _, _ in told(log)] == ["getStats"]
    (entry,) = audit.entries(log.directory)
    assert entry.address == address


# --- live conversations ------------------------------------------------------------------------------------


CARL = "user_carl"


def audited(here: World, tmp_path: Path, level: Any) -> AuditLog:
    """A log of what is done to this world."""
    log = AuditLog(tmp_path, SystemClock())
    auditing = Auditing(log, level, here.api.app.router.routes, SystemClock())
    here.api.app.before.append(auditing.check)
    here.api.app.on_access.append(auditing.note)
    return log


async def talked(here: World, token: str | None, user: str, session: str) -> None:
    """A short conversation: begun, something said, ended."""
    socket = Socket(here, token)
    socket.send({"type": "start_session", "userId": user, "sessionId": session})
    await socket.until("session_ready")
    socket.send({"type": "user_text", "text": CANARY})
    await socket.until("turn_complete")
    socket.send({"type": "end_session"})
    await socket.until("websocket.close")
    await socket.task


def told(log: AuditLog) -> list[tuple[str, str, int, list[str]]]:
    """What a log holds, once it is written: the credential, what was done, how it was answered, and to whom."""
    log.stop()
    assert not audit.verify(log.directory, log.key).broken
    text = "".join(path.read_text() for path in log.directory.glob("*.jsonl"))
    assert CANARY not in text and CARL not in text and "session_" not in text and "samvad_k1_" not in text
    found = []
    for each in audit.entries(log.directory):
        who = re.sub("^token:tok_[0-9a-f]{20}", "token", each.who)
        found.append((who, each.did, each.status, each.whom))
    return found


@pytest.mark.parametrize("level", ["sensitive", "writes", "all"])
async def test_live_conversations_are_noted(tmp_path: Path, level: Any) -> None:
    """A program that talks for a user always; users for themselves, and the end, where changes are noted."""
    async with world() as here:
        key = here.key("users", "sessions")
        await here.auth.refresh()
        log = audited(here, tmp_path, level)
        await talked(here, key, CARL, "session_one")
        await talked(here, here.token(CARL), CARL, "session_two")
        asha = log.hashed("user", "default", CARL)
        one, two = (log.hashed("session", "default", name) for name in ("session_one", "session_two"))
        found = told(log)
    by_key, by_token = f"key:{here.keys.keys[0].id}", f"token {asha}"
    wanted = [(by_key, "startLiveForUser", 200, sorted([asha, one]))]
    if level != "sensitive":
        wanted += [
            (by_key, "endLiveForUser", 200, sorted([asha, one])),
            (by_token, "startLive", 200, sorted([asha, two])),
            (by_token, "endLive", 200, sorted([asha, two])),
        ]
    assert found == wanted


async def test_what_is_refused_on_a_socket_is_noted(tmp_path: Path) -> None:
    """A handshake, a start for somebody else, and another's token to go on with."""
    async with world() as here:
        log = audited(here, tmp_path, "sensitive")
        handshake = Socket(here, "x")
        assert (await handshake.next())["status"] == 401
        thief = Socket(here, here.token(BALA))
        thief.send({"type": "start_session", "userId": CARL})
        await thief.until("error")
        thief.send({"type": "start_session", "userId": BALA})
        await thief.until("session_ready")
        thief.send({"type": "renew_token", "token": here.token(CARL)})
        await thief.until("error")
        thief.send({"type": "renew_token", "token": "x"})
        await thief.until("error")
        await thief.close()
        asha, bala = (log.hashed("user", "default", name) for name in (CARL, BALA))
        found = told(log)
    assert [(who, did, status) for who, did, status, _ in found] == [
        ("nobody", "live", 401),
        (f"token {bala}", "startLive", 403),
        (f"token {bala}", "renewLive", 403),
        (f"token {bala}", "renewLive", 401),
    ]
    assert found[1][3] == [asha] and bala in found[2][3]


async def test_where_nothing_can_be_noted_no_program_talks_for_a_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its handshake is refused with 503; users, of whom nothing is noted at this level, talk on."""
    async with world() as here:
        key = here.key("users")
        await here.auth.refresh()
        log = audited(here, tmp_path, "sensitive")
        monkeypatch.setattr(limits, "AUDIT_ENTRIES_QUEUED_MAX", 0)
        refused = Socket(here, key)
        assert (await refused.next())["status"] == 503
        user = Socket(here, here.token(CARL))
        user.send({"type": "start_session", "userId": CARL})
        await user.until("session_ready")
        await user.close()
        assert told(log) == []


async def test_erasing_during_a_conversation_is_noted_once(tmp_path: Path) -> None:
    """By who asked for it; the socket that is closed by it did nothing."""
    async with world() as here:
        key = here.key("users")
        await here.auth.refresh()
        log = audited(here, tmp_path, "sensitive")
        socket = Socket(here, here.token(CARL))
        socket.send({"type": "start_session", "userId": CARL})
        await socket.until("session_ready")
        headers = {"authorization": f"Bearer {key}"}
        await here.api.ok("POST", "/api/session/refresh", {"userId": CARL}, headers=headers)
        assert (await socket.until("websocket.close"))["code"] == 4004
        await socket.task
        found = told(log)
    assert [(who, did) for who, did, _, _ in found] == [(f"key:{here.keys.keys[0].id}", "clearUserData")]


# --- keys ----------------------------------------------------------------------------------------------------


def test_what_is_done_to_keys_is_noted(tmp_path: Path) -> None:
    """By the number of the system's user, with the key's id and tenant and never the key; the first key too."""
    arguments = ["keys", "create", "--name", CANARY, "--tenant", "acme"]
    key = run(arguments, tmp_path).stdout.strip()
    key_id = key.split("_")[2]
    assert run(["keys", "revoke", "nothing"], tmp_path).returncode == 2  # nothing was done
    new_id = run(["keys", "rotate", key_id], tmp_path).stdout.split("_")[2]
    assert run(["keys", "revoke", key_id], tmp_path).returncode == 0
    shown = run(["audit", "show"], tmp_path).stdout.splitlines()
    assert [line.split(" ", 2)[2] for line in shown] == [
        f"acme command:uid={os.getuid()} keys {verb} 200 key:{each}"
        for verb, each in (("create", key_id), ("rotate", key_id), ("rotate", new_id), ("revoke", key_id))
    ]
    assert "4 entries, each as it was written" in run(["audit", "verify"], tmp_path).stdout
    text = the_file(tmp_path / "data").read_text()
    assert CANARY not in text and key not in text and key.split("_")[3] not in text


def test_keys_are_made_without_a_log_where_none_is_wanted(tmp_path: Path) -> None:
    """`SAMVAD_AUDIT=off` leaves no directory."""
    assert run(["keys", "create", "--name", "n"], tmp_path, {"SAMVAD_AUDIT": "off"}).returncode == 0
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["keys.json", "keys.json.lock"]
