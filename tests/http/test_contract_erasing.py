"""Erasing a user, and counting all (CONTRACT section 1, requests 9 and 11)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.http.support import SESSION, Api, HandClock, opened

pytestmark = pytest.mark.anyio
REFRESH = "/api/session/refresh"
USER = {"userId": "user_456"}
INTERRUPTION = {"type": "BARGE_IN", "fullText": "one two three", "heardText": "one"}


async def fill(api: Api, interruptions: int = 2) -> None:
    """Give the user one of everything."""
    await api.ok("POST", "/api/session/user_456/state", {"language": "hi"})
    await api.say("user_456", "one", "two", "three")
    await api.ok("POST", "/api/session/create", SESSION)
    await api.ok("POST", "/api/session/create", {"sessionId": "s2", "userId": "user_456"})
    await api.ok("PUT", "/api/session/s2/end")
    for _ in range(interruptions):
        await api.ok("POST", "/api/session/session_123/interruptions", INTERRUPTION)


async def stats(api: Api) -> list[int]:
    """The four counts."""
    found = (await api.ok("GET", "/api/session/stats"))["stats"]
    assert list(found) == ["activeUsers", "activeSessions", "totalProfiles", "totalInterruptions"]
    return list(found.values())


async def gone(api: Api) -> None:
    """Nothing of the user must be there."""
    await api.refused(404, "not_found", "GET", "/api/session/user_456/state")
    await api.refused(404, "not_found", "GET", "/api/session/session_123")
    await api.refused(404, "not_found", "GET", "/api/session/session_123/interruptions")
    profile = (await api.ok("GET", "/api/session/user_456/profile"))["profile"]
    assert (profile["conversationHistory"], profile["createdAt"], profile["totalMessages"]) == ([], None, 0)
    assert (await api.ok("GET", "/api/session/user_456/history"))["messages"] == []
    assert (await api.ok("GET", "/api/session/user/user_456/active"))["count"] == 0


@pytest.mark.parametrize("recorded", [False, True])
async def test_erasing(store_url: str, recorded: bool) -> None:
    """Request 9 answers field for field, with what was really removed; ended sessions count too."""
    async with opened(store_url, record_interruptions=recorded) as api:
        await fill(api)
        assert await api.ok("POST", REFRESH, USER) == {
            "success": True,
            "message": "User data cleared successfully",
            "userId": "user_456",
            "durability": api.samvad.core.rules.durability,
            "cleared": {
                "userState": True,
                "userProfile": True,
                "sessions": 2,
                "interruptions": 2 if recorded else 0,
                "messages": 3,
            },
        }
        await gone(api)


async def test_erasing_twice(api: Api) -> None:
    """Erasing again, or someone unknown, succeeds and has removed nothing."""
    await fill(api)
    await api.ok("POST", REFRESH, USER)
    nothing = {"userState": False, "userProfile": False, "sessions": 0, "interruptions": 0, "messages": 0}
    for user in ("user_456", "nobody"):
        assert (await api.ok("POST", REFRESH, {"userId": user}))["cleared"] == nothing


async def test_only_what_is_there_counts(api: Api) -> None:
    """A user with a state alone has a state removed and no profile; the other way round as well."""
    await api.ok("POST", "/api/session/user_456/state", {})
    cleared = (await api.ok("POST", REFRESH, USER))["cleared"]
    assert (cleared["userState"], cleared["userProfile"]) == (True, False)
    await api.ok("PATCH", "/api/session/user_456/profile", {"preferences": {}})
    cleared = (await api.ok("POST", REFRESH, USER))["cleared"]
    assert (cleared["userState"], cleared["userProfile"]) == (False, True)


async def test_a_new_life(api: Api) -> None:
    """What comes after erasing starts from nothing: `seq` 1, no preferences, old message ids are new."""
    await api.say("user_456", "one", id="m-1")
    await api.ok("PATCH", "/api/session/user_456/profile", {"preferences": {"voiceSpeed": 2}})
    await api.ok("POST", REFRESH, USER)
    assert await api.say("user_456", "again", id="m-1") == [1]
    profile = (await api.ok("GET", "/api/session/user_456/profile"))["profile"]
    assert profile["preferences"] == {"language": "en", "voiceSpeed": 1.0}
    assert [message["content"] for message in profile["conversationHistory"]] == ["again"]


async def test_others_stay(api: Api) -> None:
    """Erasing one user touches nobody else."""
    await fill(api)
    await api.say("user_4567", "still here")
    await api.ok("POST", "/api/session/create", {"sessionId": "theirs", "userId": "user_4567"})
    await api.ok("POST", REFRESH, USER)
    assert len((await api.ok("GET", "/api/session/user_4567/history"))["messages"]) == 1
    assert (await api.ok("GET", "/api/session/user/user_4567/active"))["count"] == 1


async def test_erasing_while_others_write(api: Api) -> None:
    """With writes before and after it under way at once, what is left has no gap and no older message."""
    path = "/api/session/user_456/history"
    appends = [
        api.ok("POST", path, {"role": "user", "content": f"{number}", "id": f"m-{number}"})
        for number in range(40)
    ]
    erased: Any
    *_, erased = await asyncio.gather(*appends[:20], api.ok("POST", REFRESH, USER))
    await asyncio.gather(*appends[20:])
    messages = (await api.ok("GET", path))["messages"]
    assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
    assert erased["cleared"]["messages"] + len(messages) == 40


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({}, "missing_fields", "Missing required fields: userId"),
        ({"userId": None}, "missing_fields", "Missing required fields: userId"),
        ({"userId": ""}, "invalid_id", "userId must be 1 to 256 bytes"),
        ({"userId": ["user_456"]}, "invalid_id", "userId must be a string."),
        ({"userId": {"$ne": None}}, "invalid_id", "userId must be a string."),
    ],
)
async def test_refused(plain: Api, body: Any, code: str, message: str) -> None:
    """It must be clear who is to be erased."""
    await fill(plain)
    answer = await plain.refused(400, code, "POST", REFRESH, body)
    assert answer.json["error"].startswith(message)
    assert (await plain.ok("GET", "/api/session/user_456/history"))["messages"]


async def test_it_stays_gone_after_a_restart(store_url: str) -> None:
    """Erased is erased, also for the next process."""
    async with opened(store_url) as first:
        await fill(first)
        await first.ok("POST", REFRESH, USER)
    async with opened(store_url) as second:
        await gone(second)


async def test_stats(store_url: str, clock: HandClock) -> None:
    """Request 11 counts active users and sessions, profiles, and recorded interruptions."""
    async with opened(store_url, clock=clock, record_interruptions=True) as api:
        assert await stats(api) == [0, 0, 0, 0]
        await api.ok("POST", "/api/session/user_1/state", {})  # active by a state
        await api.ok("POST", "/api/session/create", SESSION)  # active by a session
        await api.say("user_2", "hello")  # a profile makes nobody active
        await api.ok("POST", "/api/session/user_456/state", {})
        await api.ok("POST", "/api/session/session_123/interruptions", INTERRUPTION)
        assert await stats(api) == [2, 1, 1, 1]
        clock.advance(30 * 60 + 1)
        assert await stats(api) == [0, 1, 1, 1]  # the session is open still, but nobody touched it
        await api.say("user_456", "hello", sessionId="session_123")
        assert await stats(api) == [1, 1, 2, 1]
        await api.ok("PUT", "/api/session/session_123/end")
        assert await stats(api) == [0, 0, 2, 1]
        await api.ok("POST", REFRESH, USER)
        assert await stats(api) == [0, 0, 1, 0]
        answer = await api.ok("GET", "/api/session/stats")
        assert answer["success"] is True


async def test_a_receipt_asked_for_again_is_about_the_erasing_of_then(store_url: str) -> None:
    """What came since is there: no receipt may say that it was removed."""
    clock = HandClock()
    async with opened(store_url, clock=clock) as api:
        await api.say("asha", "hello")
        body, key = {"userId": "asha", "receipt": True}, {"idempotency-key": "k-1"}
        first = (await api.ok("POST", "/api/session/refresh", body, headers=key))["receipt"]
        clock.advance(60)
        await api.say("asha", "in a new life")
        again = (await api.ok("POST", "/api/session/refresh", body, headers=key))["receipt"]
    assert again["removed"] == first["removed"] and again["removed"]["messages"] == 1
    assert again["erasedAt"] == first["erasedAt"] == "2025-01-10T17:00:00.000Z"
