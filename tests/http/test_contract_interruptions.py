"""Where the assistant was cut off (CONTRACT section 4, the routes under a session)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.http.support import SESSION, START_MS, Api, HandClock, opened

pytestmark = pytest.mark.anyio
PATH = "/api/session/session_123/interruptions"
FULL = "You need a PAN card, Aadhaar and six months of bank statements."
CUT = {
    "type": "CLARIFICATION",
    "fullText": FULL,
    "heardText": "You need a PAN card,",
    "playedMs": 1200,
    "generatedMs": 4000,
    "userUtterance": "Is a copy enough?",
    "language": "en-IN",
    "topic": "documents",
}


async def push(api: Api, **more: Any) -> dict[str, Any]:
    """Keep an interruption."""
    kept: dict[str, Any] = (await api.ok("POST", PATH, {**CUT, **more}))["interruption"]
    return kept


async def listed(api: Api) -> list[dict[str, Any]]:
    """The interruptions of the session."""
    answer = await api.ok("GET", PATH)
    assert (answer["success"], answer["sessionId"]) == (True, "session_123")
    found: list[dict[str, Any]] = answer["interruptions"]
    return found


async def test_keeping(api: Api) -> None:
    """An interruption is kept with what was heard, what was not, and whether it can be resumed."""
    await api.ok("POST", "/api/session/create", SESSION)
    kept = await push(api)
    assert kept == {
        **CUT,
        "id": kept["id"],
        "sessionId": "session_123",
        "userId": "user_456",
        "at": "2025-01-10T17:00:00.000Z",
        "unheardText": "Aadhaar and six months of bank statements.",
        "progress": 0.3,
        "canResume": True,
        "status": "pending",
        "turnId": None,
        "heardSource": "client",
    }
    assert await listed(api) == [kept]


async def test_the_last_three(api: Api) -> None:
    """At most three are held, newest first."""
    await api.ok("POST", "/api/session/create", SESSION)
    pushed = [await push(api, topic=f"topic {number}") for number in range(5)]
    assert await listed(api) == pushed[:1:-1]


@pytest.mark.parametrize(
    ("more", "can"),
    [
        ({"type": "BARGE_IN"}, True),
        ({"type": "CORRECTION"}, False),
        ({"type": "URGENT"}, False),
        ({"type": "CUT_OFF"}, False),
        ({"type": "BACKCHANNEL"}, False),
        ({"type": "NOISE"}, False),
        ({"progress": 0.19}, False),
        ({"progress": 0.2}, True),
        ({"progress": 0.9}, True),
        ({"progress": 0.91}, False),
        ({"heardText": FULL}, False),
    ],
)
async def test_what_can_be_resumed(plain: Api, more: Any, can: bool) -> None:
    """Corrections, urgency, cut-offs, and what was hardly or nearly all heard are not offered again."""
    await plain.ok("POST", "/api/session/create", SESSION)
    assert (await push(plain, **more))["canResume"] is can


async def test_resuming(api: Api) -> None:
    """The newest that can be resumed is taken up, then the next, then there is none (404)."""
    await api.ok("POST", "/api/session/create", SESSION)
    older = await push(api)
    newer = await push(api, language="hi", topic="दस्तावेज़")
    await push(api, type="URGENT")
    answer = await api.ok("POST", f"{PATH}/resume")
    assert answer["interruption"] == {**newer, "status": "resumed"}
    assert answer["unheardText"] == newer["unheardText"]
    assert "दस्तावेज़" in answer["resumePhrase"]
    second = await api.ok("POST", f"{PATH}/resume", {})
    assert second["interruption"]["id"] == older["id"]
    assert "documents" in second["resumePhrase"]
    await api.refused(404, "not_found", "POST", f"{PATH}/resume")
    assert [each["status"] for each in await listed(api)] == ["pending", "resumed", "resumed"]


async def test_clearing(api: Api) -> None:
    """Clearing tells how many there were, once."""
    await api.ok("POST", "/api/session/create", SESSION)
    await push(api)
    await push(api)
    expected = {"success": True, "sessionId": "session_123", "cleared": 2, "durability": "memory"}
    assert await api.ok("DELETE", PATH) == expected
    assert await api.ok("DELETE", PATH) == {**expected, "cleared": 0}
    assert await listed(api) == []


async def test_they_go_with_their_session(api: Api) -> None:
    """Deleting the session, or erasing the user, leaves none for the next session of that id."""
    for method, path, body in (
        ("DELETE", "/api/session/session_123", None),
        ("POST", "/api/session/refresh", {"userId": "user_456"}),
    ):
        await api.ok("POST", "/api/session/create", SESSION)
        await push(api)
        await api.ok(method, path, body)
        await api.ok("POST", "/api/session/create", SESSION)
        assert await listed(api) == []


async def test_of_no_session(api: Api) -> None:
    """Without the session there is nothing to keep, list, resume or clear: 404."""
    await api.refused(404, "not_found", "GET", PATH)
    await api.refused(404, "not_found", "DELETE", PATH)
    await api.refused(404, "not_found", "POST", PATH, CUT)
    await api.refused(404, "not_found", "POST", f"{PATH}/resume")


async def test_old_ones_expire(api: Api, clock: HandClock) -> None:
    """After a day a pending one has expired, and is not resumed."""
    await api.ok("POST", "/api/session/create", SESSION)
    await push(api)
    clock.advance(24 * 3600 + 1)
    assert [each["status"] for each in await listed(api)] == ["expired"]
    await api.refused(404, "not_found", "POST", f"{PATH}/resume")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"type": None}, "missing_fields"),
    ({"fullText": None}, "missing_fields"),
    ({"heardText": None}, "missing_fields"),
    ({"type": "clarification"}, "invalid_request"),
    ({"type": ["URGENT"]}, "invalid_request"),
    ({"fullText": ""}, "invalid_request"),
    ({"fullText": " \n "}, "invalid_request"),
    ({"fullText": 5}, "invalid_request"),
    ({"heardText": {}}, "invalid_request"),
    ({"progress": 1.1}, "invalid_request"),
    ({"progress": -0.1}, "invalid_request"),
    ({"progress": True}, "invalid_request"),
    ({"progress": "0.5"}, "invalid_request"),
    ({"playedMs": -1}, "invalid_request"),
    ({"playedMs": 10**30}, "invalid_request"),
    ({"generatedMs": False}, "invalid_request"),
    ({"language": "x" * 65}, "invalid_request"),
    ({"language": 5}, "invalid_request"),
    ({"topic": []}, "invalid_request"),
    ({"userUtterance": 1}, "invalid_request"),
    ({"turnId": ""}, "invalid_id"),
    ({"turnId": 7}, "invalid_id"),
    ({"heardSource": "guess"}, "invalid_request"),
    ({"heardSource": []}, "invalid_request"),
]


@pytest.mark.parametrize(("more", "code"), BAD)
async def test_refused(plain: Api, more: dict[str, Any], code: str) -> None:
    """What cannot be an interruption is refused, and none is kept."""
    await plain.ok("POST", "/api/session/create", SESSION)
    await plain.refused(400, code, "POST", PATH, {**CUT, **more})
    assert await listed(plain) == []


async def test_sizes(plain: Api) -> None:
    """Each text may take 64 KiB of UTF-8."""
    await plain.ok("POST", "/api/session/create", SESSION)
    for field in ("fullText", "heardText", "userUtterance", "topic"):
        await push(plain, **{field: "x" * 65_536})
        await plain.refused(413, "too_large", "POST", PATH, {**CUT, field: "क" * 21_846})


async def test_other_languages_than_those_with_phrases(plain: Api) -> None:
    """Any tag is kept; the phrase is then English, and no tag reaches the file system."""
    await plain.ok("POST", "/api/session/create", SESSION)
    for language in ("xx", "../../etc/passwd", "hi\u0000", "", "-", "HI_in"):
        await push(plain, language=language)
        answer = await plain.ok("POST", f"{PATH}/resume")
        assert answer["interruption"]["language"] == language


# --- recorded ----------------------------------------------------------------------------------------------


async def recorded_total(api: Api) -> int:
    """The count of the statistics."""
    total: int = (await api.ok("GET", "/api/session/stats"))["stats"]["totalInterruptions"]
    return total


async def test_recorded_ones_count(store_url: str) -> None:
    """Recorded, they count in the statistics and in `cleared`: all of them, also beyond three."""
    async with opened(store_url, record_interruptions=True) as api:
        await api.ok("POST", "/api/session/create", SESSION)
        for _ in range(5):
            await push(api)
        assert len(await listed(api)) == 3
        assert await recorded_total(api) == 5
        answer = await api.ok("DELETE", "/api/session/session_123")
        assert answer["cleared"] == {"session": True, "interruptions": 5}
        assert await recorded_total(api) == 0
        await api.ok("POST", "/api/session/create", SESSION)
        await push(api)
        assert (await api.ok("DELETE", PATH))["cleared"] == 1
        assert await recorded_total(api) == 0


async def test_unrecorded_ones_do_not_count(api: Api) -> None:
    """By default none is recorded, and none counted."""
    await api.ok("POST", "/api/session/create", SESSION)
    await push(api)
    assert await recorded_total(api) == 0


async def test_recorded_ones_after_a_restart(database_path: Path, clock: HandClock) -> None:
    """The next process lists the last three that were recorded, together with new ones."""
    settings: dict[str, Any] = {"record_interruptions": True, "clock": clock}
    async with opened(f"sqlite:///{database_path}", **settings) as first:
        await first.ok("POST", "/api/session/create", SESSION)
        for number in range(4):
            await push(first, topic=f"{number}")
            clock.advance(1)
        before = await listed(first)
    async with opened(f"sqlite:///{database_path}", **settings) as second:
        assert await listed(second) == before
        await push(second, topic="new")
        assert [each["topic"] for each in await listed(second)] == ["new", "3", "2"]
        assert await recorded_total(second) == 5
    assert clock.ms > START_MS


async def test_recorded_ones_are_resumed_after_a_restart(database_path: Path) -> None:
    """What was listed as resumable could not be resumed by the next process: it looked into memory only."""
    async with opened(f"sqlite:///{database_path}", record_interruptions=True) as first:
        await first.ok("POST", "/api/session/create", SESSION)
        await push(first, topic="older")
        await push(first, topic="newer")
        await first.ok("POST", f"{PATH}/resume")
        resumed = [each["status"] for each in await listed(first)]
    async with opened(f"sqlite:///{database_path}", record_interruptions=True) as second:
        assert [each["status"] for each in await listed(second)] == resumed == ["resumed", "pending"]
        answer = await second.ok("POST", f"{PATH}/resume")
        assert (answer["interruption"]["topic"], answer["interruption"]["status"]) == ("older", "resumed")
        await second.refused(404, "not_found", "POST", f"{PATH}/resume")
        assert await recorded_total(second) == 2
