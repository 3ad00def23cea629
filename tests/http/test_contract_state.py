"""The user's state: saving, merging, replacing, conditions (CONTRACT section 1, requests 1 and 2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.http.support import SESSION, Api, HandClock, opened

pytestmark = pytest.mark.anyio
PATH = "/api/session/user_456/state"
STATE = {
    "language": "en",
    "conversationContext": {"topic": "home loans", "lastIntent": "eligibility_check"},
    "activeSessionId": "session_123",
}


async def state(api: Api) -> dict[str, Any]:
    """What is saved, without what the server says of it."""
    found: dict[str, Any] = (await api.ok("GET", PATH))["state"]
    return {name: value for name, value in found.items() if name not in ("updatedAt", "isActive", "version")}


async def test_saving(api: Api) -> None:
    """Request 1 answers field for field."""
    answer = await api.ok("POST", PATH, STATE)
    assert answer == {
        "success": True,
        "message": "User state saved successfully",
        "userId": "user_456",
        "version": 1,
        "durability": "memory" if api.samvad.store.name == "memory" else "stored",
    }


async def test_reading(api: Api) -> None:
    """Request 2 gives what was saved, when, and whether the user is active."""
    await api.ok("POST", PATH, STATE)
    assert await api.ok("GET", PATH) == {
        "success": True,
        "userId": "user_456",
        "state": {**STATE, "updatedAt": "2025-01-10T17:00:00.000Z", "isActive": True, "version": 1},
    }


async def test_none_yet(api: Api) -> None:
    """A user without a state is 404, also if they have said something."""
    answer = await api.refused(404, "not_found", "GET", PATH)
    assert answer.json["error"] == "There is no state of user 'user_456'."
    await api.say("user_456", "hello")
    await api.refused(404, "not_found", "GET", PATH)


# The examples of RFC 7396, appendix A, whose target and patch are objects.
RFC_7396 = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("target", "patch", "result"), RFC_7396)
async def test_merging(plain: Api, target: Any, patch: Any, result: Any) -> None:
    """POST merges as RFC 7396 says, from a state that PUT set as it is."""
    await plain.ok("PUT", PATH, target)
    await plain.ok("POST", PATH, patch)
    assert await state(plain) == result


async def test_replacing(api: Api) -> None:
    """PUT replaces the whole, nulls included; an empty object is a state."""
    await api.ok("POST", PATH, STATE)
    await api.ok("PUT", PATH, {"only": None})
    assert await state(api) == {"only": None}
    await api.ok("PUT", PATH, {})
    assert await state(api) == {}


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_fields_of_the_server(api: Api, method: str) -> None:
    """What the server says of a state is ignored in a body, at its top and only there."""
    theirs = {"userId": "mallory", "updatedAt": "1999", "isActive": False, "version": 99}
    await api.ok(method, PATH, {**theirs, "deep": theirs})
    answer = await api.ok("GET", PATH)
    assert answer["userId"] == "user_456"
    assert answer["state"] == {
        "deep": theirs,
        "updatedAt": "2025-01-10T17:00:00.000Z",
        "isActive": True,
        "version": 1,
    }


async def test_activity(api: Api, clock: HandClock) -> None:
    """A user is active for 30 minutes after a saved state, or while an open session was touched in them."""
    await api.ok("POST", PATH, STATE)
    clock.advance(30 * 60 - 1)
    assert (await api.ok("GET", PATH))["state"]["isActive"] is True
    clock.advance(2)
    assert (await api.ok("GET", PATH))["state"]["isActive"] is False
    await api.ok("POST", "/api/session/create", SESSION)
    assert (await api.ok("GET", PATH))["state"]["isActive"] is True
    await api.ok("PUT", "/api/session/session_123/end")
    assert (await api.ok("GET", PATH))["state"]["isActive"] is False


# --- entity tags -------------------------------------------------------------------------------------------


async def test_entity_tag(api: Api) -> None:
    """The tag of a write is that of the next read, and each change makes a new one."""
    first = await api.post(PATH, {"a": 1})
    assert (await api.get(PATH)).headers["etag"] == first.headers["etag"]
    second = await api.put(PATH, {"a": 2})
    assert second.headers["etag"] != first.headers["etag"]
    assert (await api.get(PATH)).headers["etag"] == second.headers["etag"]


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_if_match(api: Api, method: str) -> None:
    """A write under the current tag (or a list with it, or `*`) is done; under an old one it is 412 and not done."""
    old = (await api.post(PATH, {"a": 1})).headers["etag"]
    new = (await api(method, PATH, {"a": 2}, headers={"If-Match": old})).headers["etag"]
    await api.refused(412, "precondition_failed", method, PATH, {"a": 3}, headers={"If-Match": old})
    await api.refused(412, "precondition_failed", method, PATH, {"a": 3}, headers={"If-Match": f"W/{new}"})
    assert await state(api) == {"a": 2}
    await api.ok(method, PATH, {"a": 4}, headers={"If-Match": f'"other", {new}'})
    await api.ok(method, PATH, {"a": 5}, headers={"If-Match": "*"})
    assert await state(api) == {"a": 5}


async def test_if_match_without_a_state(api: Api) -> None:
    """Where there is no state, no If-Match can be met, `*` neither."""
    for value in ("*", '"0-1"'):
        await api.refused(412, "precondition_failed", "POST", PATH, {"a": 1}, headers={"If-Match": value})


async def test_if_none_match_on_a_write(api: Api) -> None:
    """`If-None-Match: *` saves the first state only."""
    await api.ok("POST", PATH, {"a": 1}, headers={"If-None-Match": "*"})
    await api.refused(412, "precondition_failed", "PUT", PATH, {"a": 2}, headers={"If-None-Match": "*"})
    assert await state(api) == {"a": 1}


async def test_if_none_match_on_a_read(api: Api) -> None:
    """A reader who has the current state is told so (304, weakly compared); with an old tag it is sent."""
    old = (await api.post(PATH, {"a": 1})).headers["etag"]
    for value in (old, f"W/{old}", f'"x", {old}', "*"):
        answer = await api.get(PATH, headers={"If-None-Match": value})
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", old)
        assert "content-type" not in answer.headers
    await api.ok("POST", PATH, {"a": 2})
    assert (await api.get(PATH, headers={"If-None-Match": old})).status == 200


@pytest.mark.parametrize("value", ["0-1", "", '"', '"a" "b"', "W/", "null"])
async def test_malformed_tags(plain: Api, value: str) -> None:
    """A condition that cannot be read is refused, and never taken for met."""
    await plain.ok("POST", PATH, {"a": 1})
    await plain.refused(400, "invalid_request", "POST", PATH, {"a": 2}, headers={"If-Match": value})
    await plain.refused(400, "invalid_request", "GET", PATH, headers={"If-None-Match": value})


async def test_a_tag_of_an_earlier_life(api: Api) -> None:
    """A tag from before the user was erased never matches again."""
    old = (await api.post(PATH, {"a": 1})).headers["etag"]
    await api.ok("POST", "/api/session/refresh", {"userId": "user_456"})
    new = (await api.post(PATH, {"a": 1})).headers["etag"]
    assert new != old
    await api.refused(412, "precondition_failed", "POST", PATH, {"a": 2}, headers={"If-Match": old})
    assert (await api.get(PATH, headers={"If-None-Match": old})).status == 200


# --- bounds ------------------------------------------------------------------------------------------------


async def test_size(plain: Api) -> None:
    """A state may take 256 KiB of JSON, also when it grows by merging; beyond that it is 413 and unchanged."""
    room = 256 * 1024 - len('{"a":""}')
    await plain.ok("PUT", PATH, {"a": "x" * room})
    await plain.refused(413, "too_large", "PUT", PATH, {"a": "x" * (room + 1)})
    await plain.refused(413, "too_large", "POST", PATH, {"b": 1})
    assert await state(plain) == {"a": "x" * room}


async def test_depth(plain: Api) -> None:
    """32 levels of nesting are kept, 33 are refused."""
    deep: Any = 1
    for _ in range(32):
        deep = {"d": deep}
    await plain.ok("POST", PATH, deep)
    await plain.refused(400, "invalid_request", "POST", PATH, {"d": deep})


async def test_any_json_comes_back(api: Api) -> None:
    """Numbers, text in any script, null bytes and hostile names come back as they were given."""
    given: dict[str, Any] = {
        "": "",
        "__proto__": {"x": 1},
        "$ref": "#/",
        "a.b": [1, -0.5, 1e300, 2**63, 2**64, 10**30, True, None, [], {}],
        "हिन्दी": "नमस्ते 👋\u0000\u2028",
        "'; DROP TABLE states; --": '\\"\n',
    }
    await api.ok("PUT", PATH, given)
    assert await state(api) == given


async def test_it_is_there_after_a_restart(database_path: Path) -> None:
    """State and tag are the same after the process was stopped and started."""
    store_url = f"sqlite:///{database_path}"
    async with opened(store_url) as first:
        tag = (await first.post(PATH, STATE)).headers["etag"]
    async with opened(store_url) as second:
        assert await state(second) == STATE
        assert (await second.get(PATH, headers={"If-None-Match": tag})).status == 304
