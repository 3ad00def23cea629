"""Many operations in one request (CONTRACT section 1, Bulk)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.http.support import SESSION, Api

pytestmark = pytest.mark.anyio
BATCH = "/api/session/batch"


async def run(api: Api, *operations: Any, **more: Any) -> list[Any]:
    """The results of a batch, whose envelope must fit them."""
    answer = await api.ok("POST", BATCH, {"operations": list(operations)}, **more)
    results: list[Any] = answer["results"]
    failed = sum(not result["success"] for result in results)
    assert (answer["count"], answer["failed"]) == (len(operations), failed)
    assert answer["success"] is (failed == 0)
    assert len(results) == len(operations)
    return results


def append(user: str, content: str, **more: Any) -> dict[str, Any]:
    """An operation that appends a message of the user."""
    return {"op": "append", "userId": user, "role": "user", "content": content, **more}


async def contents(api: Api, user: str) -> list[str]:
    """What the user has said."""
    return [m["content"] for m in (await api.ok("GET", f"/api/session/{user}/history"))["messages"]]


async def test_each_operation(api: Api) -> None:
    """Each kind does and answers what its own route does."""
    how = "memory" if api.samvad.store.name == "memory" else "stored"
    many = {"op": "append", "userId": "u", "messages": [{"role": "user", "content": c} for c in "ab"]}
    results = await run(
        api,
        {"op": "state", "userId": "u", "state": {"a": {"b": 1}}},
        {"op": "state", "userId": "u", "state": {"a": {"c": 2}}},
        append("u", "first", id="m-1"),
        many,
        {"op": "preferences", "userId": "u", "preferences": {"voiceSpeed": 2}},
        {"op": "session", **SESSION, "metadata": {"platform": "web"}},
        {"op": "endSession", "sessionId": "session_123"},
        {"op": "replaceState", "userId": "v", "state": {"x": None}},
    )
    assert [result["message"] for result in results] == [
        "User state saved successfully",
        "User state saved successfully",
        "Message appended to history",
        "Messages appended to history",
        "User profile saved successfully",
        "Session created/updated successfully",
        "Session ended successfully",
        "User state saved successfully",
    ]
    assert {result["durability"] for result in results} == {how}
    assert (results[2]["messageId"], results[2]["seq"], results[3]["seq"]) == ("m-1", 1, 3)
    state = await api.get("/api/session/u/state")
    assert state.json["state"]["a"] == {"b": 1, "c": 2}
    assert results[1]["etag"] == state.headers["etag"]
    assert await contents(api, "u") == ["first", "a", "b"]
    assert "op" not in (await api.ok("GET", "/api/session/u/history"))["messages"][0]
    session = (await api.ok("GET", "/api/session/session_123"))["session"]
    assert (session["metadata"], session["isActive"], "op" in session) == ({"platform": "web"}, False, False)


BAD: list[tuple[Any, str]] = [
    ("x", "invalid_request"),
    (None, "invalid_request"),
    ([], "invalid_request"),
    ({}, "invalid_request"),
    ({"op": "explode"}, "invalid_request"),
    ({"op": None}, "invalid_request"),
    ({"op": []}, "invalid_request"),
    ({"op": {"a": 1}, "userId": "u"}, "invalid_request"),
    ({"op": "append"}, "missing_fields"),
    ({"op": "append", "userId": "u"}, "missing_fields"),
    ({"op": "append", "userId": ["u"], "role": "user", "content": "x"}, "invalid_id"),
    ({"op": "append", "userId": "u", "messages": "x"}, "invalid_request"),
    ({"op": "append", "userId": "u", "messages": []}, "invalid_request"),
    (append("u", "x" * 65_537), "too_large"),
    ({"op": "state", "userId": "u"}, "missing_fields"),
    ({"op": "state", "userId": "u", "state": []}, "invalid_request"),
    ({"op": "preferences", "userId": "u", "preferences": 1}, "invalid_request"),
    ({"op": "session", "userId": "u"}, "missing_fields"),
    ({"op": "session", "userId": "u", "sessionId": "s", "language": 1}, "invalid_request"),
    ({"op": "endSession"}, "missing_fields"),
    ({"op": "endSession", "sessionId": 1}, "invalid_id"),
    ({"op": "endSession", "sessionId": "nowhere"}, "not_found"),
]


async def test_a_bad_operation_fails_alone(api: Api) -> None:
    """Each bad operation has its own error, and those around it are done."""
    operations = [each for bad, _ in BAD for each in (bad, append("around", "x"))]
    results = await run(api, *operations)
    assert [result["code"] for result in results[::2]] == [code for _, code in BAD]
    assert [result["seq"] for result in results[1::2]] == list(range(1, len(BAD) + 1))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "missing_fields"),
        ({"operations": None}, "missing_fields"),
        ({"operations": []}, "invalid_request"),
        ({"operations": {}}, "invalid_request"),
        ({"operations": "append"}, "invalid_request"),
        ({"operations": [append("u", "x")] * 501}, "invalid_request"),
    ],
)
async def test_refused(plain: Api, body: Any, code: str) -> None:
    """A batch that is none, is empty or has 501 operations is refused as a whole."""
    await plain.refused(400, code, "POST", BATCH, body)
    assert await contents(plain, "u") == []


@pytest.mark.parametrize("keyed", [False, True])
async def test_order(api: Api, keyed: bool) -> None:
    """500 operations: those of one user are done in the order given, with an Idempotency-Key as well."""
    operations = [append(f"u{n % 7}", str(n)) for n in range(500)]
    headers = {"Idempotency-Key": "k"} if keyed else {}
    results = await run(api, *operations, headers=headers)
    assert [result["seq"] for result in results] == [n // 7 + 1 for n in range(500)]
    for user in range(7):
        said = await contents(api, f"u{user}")
        assert said == [str(n) for n in range(500) if n % 7 == user]


async def test_order_of_a_session(api: Api) -> None:
    """Creating, ending and creating again, in one batch, ends with it open; the first user given owns it."""
    create = {"op": "session", **SESSION}
    end = {"op": "endSession", "sessionId": "session_123"}
    thief = {**create, "userId": "thief"}
    results = await run(api, create, end, thief, end, create, thief)
    assert [result.get("code", "done") for result in results] == [
        *("done", "done", "session_taken", "done", "done", "session_taken"),
    ]
    session = (await api.ok("GET", "/api/session/session_123"))["session"]
    assert (session["userId"], session["isActive"]) == ("user_456", True)


async def test_results_match_their_operations(api: Api) -> None:
    """However the users interleave, each result is that of the operation in its place."""
    operations = [
        {"op": "state", "userId": f"u{n}", "state": {"n": n}} if n % 3 else append(f"u{n % 9}", str(n))
        for n in range(120)
    ]
    for operation, result in zip(operations, await run(api, *operations), strict=True):
        assert result["userId"] == operation["userId"]
        assert ("messageId" in result) == (operation["op"] == "append")


async def test_others_are_served_between(plain: Api) -> None:
    """Of 100 operations with 100 messages each, a few are begun at a time, and then it is the others' turn."""
    said = [{"role": "user", "content": "hello"}] * 100
    operations = [{"op": "append", "userId": f"u{n}", "messages": said} for n in range(100)]
    batch = asyncio.create_task(run(plain, *operations))
    served = 0
    while not batch.done():
        await plain.ok("GET", "/healthz")
        served += 1
        await asyncio.sleep(0)
    assert all(result["success"] for result in await batch)
    assert served >= 20
