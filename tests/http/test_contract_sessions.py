"""Sessions: creating, reading, ending, deleting (CONTRACT section 1, requests 5 to 8 and 10)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.http.support import Api, HandClock, opened

pytestmark = pytest.mark.anyio
CREATE = "/api/session/create"
PATH = "/api/session/session_123"
GIVEN = {
    "sessionId": "session_123",
    "userId": "user_456",
    "language": "en",
    "metadata": {"platform": "web", "deviceId": "device_789"},
}
DAY_S = 24 * 3600


def durability(api: Api) -> str:
    """What a write says on this store."""
    return "memory" if api.samvad.store.name == "memory" else "stored"


async def session(api: Api, session_id: str = "session_123") -> dict[str, Any]:
    """A session that must be there."""
    found: dict[str, Any] = (await api.ok("GET", f"/api/session/{session_id}"))["session"]
    return found


async def active(api: Api, user: str = "user_456") -> list[str]:
    """The ids of a user's active sessions."""
    answer = await api.ok("GET", f"/api/session/user/{user}/active")
    assert answer["count"] == len(answer["sessions"])
    return [each["id"] for each in answer["sessions"]]


async def test_creating(api: Api) -> None:
    """Request 5 answers field for field."""
    assert await api.ok("POST", CREATE, GIVEN) == {
        "success": True,
        "message": "Session created/updated successfully",
        "sessionId": "session_123",
        "userId": "user_456",
        "durability": durability(api),
    }


async def test_reading(api: Api) -> None:
    """Request 6 gives the session with its metadata."""
    await api.ok("POST", CREATE, GIVEN)
    assert await api.ok("GET", PATH) == {
        "success": True,
        "session": {
            "id": "session_123",
            "userId": "user_456",
            "language": "en",
            "isActive": True,
            "createdAt": "2025-01-10T17:00:00.000Z",
            "lastActivity": "2025-01-10T17:00:00.000Z",
            "metadata": {"platform": "web", "deviceId": "device_789"},
        },
    }


async def test_ending(api: Api, clock: HandClock) -> None:
    """Request 7 answers field for field; the session stays, ended at that time; ending twice is fine."""
    await api.ok("POST", CREATE, GIVEN)
    clock.advance(5)
    expected = {
        "success": True,
        "message": "Session ended successfully",
        "sessionId": "session_123",
        "durability": durability(api),
    }
    assert await api.ok("PUT", f"{PATH}/end") == expected
    clock.advance(5)
    assert await api.ok("PUT", f"{PATH}/end") == expected
    ended = await session(api)
    assert (ended["isActive"], ended["endedAt"]) == (False, "2025-01-10T17:00:05.000Z")
    assert await active(api) == []


async def test_active_sessions(api: Api, clock: HandClock) -> None:
    """Request 8 lists open sessions only, newest activity first."""
    for number in (1, 2, 3):
        await api.ok("POST", CREATE, {"sessionId": f"s{number}", "userId": "user_456", "language": "hi"})
        clock.advance(1)
    await api.ok("POST", CREATE, {"sessionId": "other", "userId": "user_789"})
    await api.ok("PUT", "/api/session/s2/end")
    clock.advance(1)
    await api.ok("POST", CREATE, {"sessionId": "s1", "userId": "user_456"})
    answer = await api.ok("GET", "/api/session/user/user_456/active")
    assert (answer["success"], answer["userId"], answer["count"]) == (True, "user_456", 2)
    assert [(each["id"], each["language"], each["lastActivity"]) for each in answer["sessions"]] == [
        ("s1", "hi", "2025-01-10T17:00:04.000Z"),
        ("s3", "hi", "2025-01-10T17:00:02.000Z"),
    ]
    assert await api.ok("GET", "/api/session/user/nobody/active") == {
        "success": True,
        "userId": "nobody",
        "count": 0,
        "sessions": [],
    }


async def test_deleting(api: Api) -> None:
    """Request 10 answers field for field, once; then the session is gone."""
    await api.ok("POST", CREATE, GIVEN)
    assert await api.ok("DELETE", PATH) == {
        "success": True,
        "message": "Session cleared successfully",
        "sessionId": "session_123",
        "durability": durability(api),
        "cleared": {"session": True, "interruptions": 0},
    }
    await api.refused(404, "not_found", "GET", PATH)
    await api.refused(404, "not_found", "DELETE", PATH)
    await api.refused(404, "not_found", "PUT", f"{PATH}/end")
    assert await active(api) == []


async def test_unknown(api: Api) -> None:
    """An unknown session is 404 to read, to end and to delete."""
    for method, path in (("GET", PATH), ("PUT", f"{PATH}/end"), ("DELETE", PATH)):
        answer = await api.refused(404, "not_found", method, path)
        assert answer.json["error"] == "There is no session 'session_123'."


REFUSED: list[tuple[Any, str, str]] = [
    ({}, "missing_fields", "Missing required fields: sessionId, userId"),
    ({"sessionId": "s"}, "missing_fields", "Missing required fields: userId"),
    ({"userId": "u"}, "missing_fields", "Missing required fields: sessionId"),
    ({"sessionId": None, "userId": "u"}, "missing_fields", "Missing required fields: sessionId"),
    ({"sessionId": "", "userId": "u"}, "invalid_id", "sessionId must be 1 to 256 bytes"),
    ({"sessionId": 5, "userId": "u"}, "invalid_id", "sessionId must be a string."),
    ({"sessionId": "s", "userId": ["u"]}, "invalid_id", "userId must be a string."),
    ({"sessionId": "create", "userId": "u"}, "invalid_id", "sessionId may not be 'create'"),
    ({"sessionId": "s", "userId": "u", "language": 5}, "invalid_request", "language must be a string."),
    ({"sessionId": "s", "userId": "u", "language": 0}, "invalid_request", "language must be a string."),
    ({"sessionId": "s", "userId": "u", "language": []}, "invalid_request", "language must be a string."),
    ({"sessionId": "s", "userId": "u", "metadata": []}, "invalid_request", "metadata must be"),
    ({"sessionId": "s", "userId": "u", "metadata": "x"}, "invalid_request", "metadata must be"),
    ({"sessionId": "s", "userId": "u", "metadata": False}, "invalid_request", "metadata must be"),
]


@pytest.mark.parametrize(("body", "code", "message"), REFUSED)
async def test_refused(plain: Api, body: Any, code: str, message: str) -> None:
    """What cannot be a session is refused with a sentence that says why."""
    answer = await plain.refused(400, code, "POST", CREATE, body)
    assert answer.json["error"].startswith(message)
    await plain.refused(404, "not_found", "GET", "/api/session/s")


async def test_other_fields_are_kept_and_merged(api: Api, clock: HandClock) -> None:
    """Any field is kept; saving again merges deeply, refreshes the activity and leaves the creation alone."""
    await api.ok("POST", CREATE, {**GIVEN, "tenant": "x", "deep": {"a": 1, "b": 2}, "list": [None]})
    clock.advance(60)
    changed = {"userId": "user_456", "sessionId": "session_123", "deep": {"a": None, "c": 3}, "tenant": None}
    await api.ok("POST", CREATE, {**changed, "metadata": {"platform": "ios"}})
    assert await session(api) == {
        "id": "session_123",
        "userId": "user_456",
        "language": "en",
        "isActive": True,
        "createdAt": "2025-01-10T17:00:00.000Z",
        "lastActivity": "2025-01-10T17:01:00.000Z",
        "metadata": {"platform": "ios", "deviceId": "device_789"},
        "deep": {"b": 2, "c": 3},
        "list": [None],
    }


async def test_fields_of_the_server(api: Api) -> None:
    """What the server says of a session is ignored in a body."""
    theirs = {"id": "x", "isActive": False, "createdAt": "1999", "lastActivity": "1999", "endedAt": "1999"}
    await api.ok("POST", CREATE, {**GIVEN, **theirs})
    found = await session(api)
    assert (found["id"], found["isActive"], found["createdAt"]) == (
        "session_123",
        True,
        "2025-01-10T17:00:00.000Z",
    )
    assert "endedAt" not in found


async def test_opening_again(api: Api, clock: HandClock) -> None:
    """Creating an ended session opens it, keeps what it had, and drops `endedAt`."""
    await api.ok("POST", CREATE, GIVEN)
    await api.ok("PUT", f"{PATH}/end")
    clock.advance(10)
    await api.ok("POST", CREATE, {"sessionId": "session_123", "userId": "user_456"})
    found = await session(api)
    assert found["isActive"] is True and "endedAt" not in found
    assert found["metadata"] == GIVEN["metadata"]
    assert await active(api) == ["session_123"]


@pytest.mark.parametrize("state", ["open", "ended", "idle"])
async def test_a_session_belongs_to_its_user(api: Api, clock: HandClock, state: str) -> None:
    """Another user's create of the same id is 409 and changes nothing; after deleting, the id is free."""
    await api.ok("POST", CREATE, GIVEN)
    if state == "ended":
        await api.ok("PUT", f"{PATH}/end")
    elif state == "idle":
        clock.advance(2 * DAY_S)
    before = await session(api)
    await api.refused(409, "session_taken", "POST", CREATE, {"sessionId": "session_123", "userId": "thief"})
    assert await session(api) == before
    assert await active(api, "thief") == []
    await api.ok("DELETE", PATH)
    await api.ok("POST", CREATE, {"sessionId": "session_123", "userId": "thief"})
    assert (await session(api))["userId"] == "thief"


async def test_the_idle_timeout(api: Api, clock: HandClock) -> None:
    """A session that nothing touched for longer than 24 hours counts as ended, until it is touched again."""
    await api.ok("POST", CREATE, GIVEN)
    clock.advance(DAY_S - 1)
    assert await active(api) == ["session_123"] and (await session(api))["isActive"]
    clock.advance(2)
    assert await active(api) == [] and not (await session(api))["isActive"]
    assert (await api.ok("GET", "/api/session/stats"))["stats"]["activeSessions"] == 0
    assert "endedAt" not in await session(api)
    await api.ok("POST", CREATE, {"sessionId": "session_123", "userId": "user_456"})
    assert await active(api) == ["session_123"]
    assert (await session(api))["metadata"] == GIVEN["metadata"]


async def test_the_idle_timeout_can_be_set(clock: HandClock) -> None:
    """Another timeout is kept just so."""
    async with opened(clock=clock, session_idle_s=60) as api:
        await api.ok("POST", CREATE, GIVEN)
        clock.advance(61)
        assert await active(api) == []


async def test_talking_keeps_a_session_alive(api: Api, clock: HandClock) -> None:
    """A message with its `sessionId` counts as activity; one without does not."""
    await api.ok("POST", CREATE, GIVEN)
    clock.advance(DAY_S - 1)
    await api.say("user_456", "hello", sessionId="session_123")
    clock.advance(60)
    assert await active(api) == ["session_123"]
    assert (await session(api))["lastActivity"] == "2025-01-11T16:59:59.000Z"
    await api.say("user_456", "hello")
    await api.say("user_789", "not mine", sessionId="session_123")
    assert (await session(api))["lastActivity"] == "2025-01-11T16:59:59.000Z"


async def test_more_sessions_than_a_record_holds(api: Api, clock: HandClock) -> None:
    """Three hundred open sessions of one user are all listed, newest first."""
    operations = [{"op": "session", "sessionId": f"s{n}", "userId": "user_456"} for n in range(300)]
    assert (await api.ok("POST", "/api/session/batch", {"operations": operations}))["failed"] == 0
    clock.advance(1)
    await api.ok("POST", CREATE, {"sessionId": "s7", "userId": "user_456"})
    listed = await active(api)
    assert listed[0] == "s7"
    assert sorted(listed) == sorted(f"s{n}" for n in range(300))
    for number in (0, 150, 299):
        await api.ok("PUT", f"/api/session/s{number}/end")
    assert len(await active(api)) == 297
