"""Attempts are seen in the audit log, and cannot fill it: refusals in bulk are few entries, with their count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from samvad import limits
from samvad.auth import audit
from samvad.auth.audit import AuditEntry, AuditLog
from samvad.clock import SystemClock
from samvad.http.app import SamvadApp
from samvad.http.attempts import OTHERS, OVER_LIMIT, REFUSED_INPUT, Attempts, Caller, Told
from samvad.http.auditing import Auditing
from samvad.http.rate_limits import Limiter, quotas
from samvad.settings import Settings
from tests.auth.world import ALL, ASHA, BALA, Socket, World, bearing, world
from tests.http.support import Api, HandClock

pytestmark = pytest.mark.anyio
STATE = f"/api/session/{ASHA}/state"
HISTORY = f"/api/session/{ASHA}/history"


class Watched:
    """A world whose refusals are noted, with limits."""

    def __init__(self, here: World, directory: Path, level: Any = "sensitive", **given: Any) -> None:
        self.here = here
        limiter = Limiter(here.clock, quotas(Settings(**given)), proxies=1)
        self.app = SamvadApp(here.samvad, auth=here.auth, limiter=limiter)
        self.api = Api(here.samvad, self.app)
        self.log = AuditLog(directory, SystemClock())
        self.auditing = Auditing(self.log, level, self.app.router.routes, here.clock)
        self.app.before.append(self.auditing.check)
        self.app.on_access.append(self.auditing.note)
        self.app.is_noted = self.auditing.is_noted

    async def ask(self, path: str, token: str | None, times: int, status: int, **more: Any) -> None:
        """The same request, again and again."""
        headers = bearing(token) | more.pop("headers", {})
        for _ in range(times):
            answer = await self.api(more.get("method", "GET"), path, more.get("body"), headers=headers)
            assert answer.status == status

    def noted(self) -> list[AuditEntry]:
        """All entries, once the server has stopped."""
        self.auditing.attempts.close()
        self.log.stop()
        assert not audit.verify(self.log.directory, self.log.key).broken
        return list(audit.entries(self.log.directory))


@pytest.fixture
async def here() -> AsyncIterator[World]:
    """A world of its own for each test."""
    async with world() as found:
        yield found


def told(entries: list[AuditEntry]) -> list[tuple[str, int, int]]:
    """What was noted: the event, how it was answered, how often."""
    return [(each.did, each.status, each.count) for each in entries]


async def test_who_goes_on_over_a_limit_is_two_entries(here: World, tmp_path: Path) -> None:
    """One at once, which says who, and one with the count: however many requests were refused."""
    watched = Watched(here, tmp_path, limit_user_requests=5)
    token = here.token(ASHA)
    await watched.ask(STATE, token, 5, 200)
    await watched.ask(STATE, token, 30, 429)
    assert watched.log.waiting == 1
    await watched.ask("/api/session/user_bala/state", here.token(BALA), 5, 200)
    entries = watched.noted()
    asha = watched.log.hashed("user", "default", ASHA)
    assert told(entries) == [(OVER_LIMIT, 429, 1), (OVER_LIMIT, 429, 29)]
    assert all(each.who.startswith("token:") and each.who.endswith(asha) for each in entries)
    assert entries[0].address == "127.0.0.1"


async def test_each_minute_anew(here: World, tmp_path: Path) -> None:
    """Who comes again in the next minute is told again; the rest of the last one is told by then."""
    watched = Watched(here, tmp_path, limit_user_requests=5)
    token = here.token(ASHA)
    for _ in range(3):
        await watched.ask(STATE, token, 5, 200)
        await watched.ask(STATE, token, 4, 429)
        here.clock.advance(61)
    assert told(watched.noted()) == [(OVER_LIMIT, 429, 1), (OVER_LIMIT, 429, 3)] * 3


@pytest.mark.parametrize("level", ["sensitive", "writes", "all"])
async def test_what_is_sensitive_is_not_noted_a_thousand_times(
    here: World, tmp_path: Path, level: Any
) -> None:
    """Also a route whose every request is noted is told in few words where limits refuse it."""
    watched = Watched(here, tmp_path, level, limit_erasures=1)
    body = {"userId": ASHA}
    await watched.ask("/api/session/refresh", here.token(ASHA), 1, 200, method="POST", body=body)
    await watched.ask("/api/session/refresh", here.token(ASHA), 50, 429, method="POST", body=body)
    wanted = [("clearUserData", 200, 1), (OVER_LIMIT, 429, 1), (OVER_LIMIT, 429, 49)]
    assert told(watched.noted()) == wanted


async def test_refused_input_in_bulk(here: World, tmp_path: Path) -> None:
    """Some mistakes are everybody's; who makes them without end is told, people sooner than programs."""
    key = here.key(*ALL)
    await here.auth.refresh()
    person, program = limits.AUDIT_REFUSED_OF_PERSON_MIN, limits.AUDIT_REFUSED_OF_PROGRAM_MIN
    for times, wanted in ((person - 1, []), (person + 5, [(person, 400), (5, 404)])):
        watched = Watched(here, tmp_path / f"{times}")
        await watched.ask(HISTORY, here.token(ASHA), person - 1, 400, method="POST", body={"role": "user"})
        if times >= person:
            await watched.ask(HISTORY, here.token(ASHA), 1, 400, method="POST", body={"role": "user"})
            await watched.ask("/api/session/session_none", here.token(ASHA), 5, 404)
        await watched.ask("/api/session/session_none", key, program - 1, 404)
        assert told(watched.noted()) == [(REFUSED_INPUT, status, count) for count, status in wanted]
    watched = Watched(here, tmp_path / "program")
    await watched.ask("/api/session/session_none", key, program + 1, 404)
    entries = watched.noted()
    assert told(entries) == [(REFUSED_INPUT, 404, program), (REFUSED_INPUT, 404, 1)]
    assert {each.who for each in entries} == {f"key:{here.keys.keys[0].id}"}


async def test_who_is_nobody_is_told_apart_by_address(here: World, tmp_path: Path) -> None:
    """Of IPv6 the network: whoever looks for what there is, without a credential."""
    least = limits.AUDIT_REFUSED_OF_PERSON_MIN
    watched = Watched(here, tmp_path)
    for number in range(least):
        await watched.ask("/admin.php", None, 1, 404, headers={"x-forwarded-for": f"2001:db8::{number:x}"})
        await watched.ask("/admin.php", None, 1, 404, headers={"x-forwarded-for": f"198.51.100.{number}"})
    (entry,) = watched.noted()
    assert (entry.who, entry.did, entry.status, entry.count) == ("nobody", REFUSED_INPUT, 404, least)
    assert entry.address == "2001:db8::"  # the first of them


async def test_who_was_refused_is_named(here: World, tmp_path: Path) -> None:
    """A credential that is good and does not reach far enough is named with the refusal, on a socket as well."""
    weak = here.key("knowledge")
    await here.auth.refresh()
    watched = Watched(here, tmp_path, limit_starts=1)
    await watched.ask(STATE, weak, 1, 403)
    await watched.ask("/api/session/stats", here.token(ASHA), 1, 403)
    watching = here._replace(api=watched.api)
    for status in (403, 429):
        socket = Socket(watching, weak)
        assert (await socket.next())["status"] == status
        await socket.task
    entries = watched.noted()
    assert [each.status for each in entries] == [403, 403, 403, 429]
    by_key = f"key:{here.keys.keys[0].id}"
    assert [each.who.split(" ")[0].split(":")[0] for each in entries] == ["key", "token", "key", "key"]
    assert entries[0].who == entries[3].who == by_key


def test_nothing_is_asked_of_what_was_answered(tmp_path: Path) -> None:
    """At the level `sensitive` an ordinary answer comes to no record at all."""
    auditing = Auditing(AuditLog(tmp_path, SystemClock()), "sensitive", (), HandClock())
    assert not any(auditing.is_noted("appendToUserHistory", status) for status in (200, 201, 204, 304, 412))
    assert all(auditing.is_noted("appendToUserHistory", status) for status in (400, 401, 403, 404, 429))


def nobody() -> Caller:
    return Caller("nobody", "-", False)


async def test_who_it_is_is_asked_once_a_minute() -> None:
    """Saying who hammers the server takes two hashes; it is not done for each refusal."""
    asked: list[str] = []

    def asha() -> Caller:
        asked.append("asha")
        return nobody()

    found: list[Told] = []
    clock = HandClock()
    attempts = Attempts(clock, found.append)
    for minute in range(1, 4):
        for _ in range(500):
            attempts.refused("asha", 429, asha)
        assert len(asked) == minute
        clock.advance(limits.AUDIT_BURST_S)
    attempts.close()
    assert sum(each.times for each in found) == 1_500


async def test_callers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are too many to tell apart, the further ones are told together, and nothing is missed."""
    monkeypatch.setattr(limits, "AUDIT_CALLERS_MAX", 10)
    found: list[Told] = []
    clock = HandClock()
    attempts = Attempts(clock, found.append)
    for number in range(1_000):
        for _ in range(2):
            attempts.refused(f"address {number}", 429, nobody)
        assert len(attempts) <= 11
    assert len(found) == 11
    assert [each.caller.who for each in found[10:]] == [OTHERS]
    attempts.close()
    assert sum(each.times for each in found) == 2_000 and len(found) == 22 and not len(attempts)


async def test_it_is_told_though_nothing_more_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The minute's end tells the rest by itself."""
    monkeypatch.setattr(limits, "AUDIT_BURST_S", 0.05)
    found: list[Told] = []
    done = asyncio.Event()

    def tell(each: Told) -> None:
        found.append(each)
        if len(found) == 2:
            done.set()

    attempts = Attempts(SystemClock(), tell)
    for _ in range(3):
        attempts.refused("a", 429, nobody)
    async with asyncio.timeout(20):
        await done.wait()
    assert [each.times for each in found] == [1, 2]


def test_an_entry_that_stands_for_one_is_as_it_was(tmp_path: Path) -> None:
    """The count of one is not written: logs of before hold under the same chain."""
    log = AuditLog(tmp_path, SystemClock())
    _ = log.key  # made with the directory
    log.note("local", "default", "x", 200)
    log.note("local", "default", "x", 429, count=7)
    log.stop()
    first, second = (tmp_path / audit.DIRECTORY / "audit-000001.jsonl").read_bytes().splitlines()
    assert b"count" not in first and b'"count":7' in second
