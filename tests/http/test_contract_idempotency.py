"""`Idempotency-Key` on any POST: the first answer again for 24 h (CONTRACT section 1)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from samvad.records import UserKey
from samvad.sessions.fingerprints import with_key
from samvad.types import Appended
from tests.http.support import SESSION, Answer, Api, HandClock, opened

pytestmark = pytest.mark.anyio
KEY = {"Idempotency-Key": "key-1"}
HISTORY = "/api/session/user_456/history"
HELLO = {"role": "user", "content": "hello"}
INTERRUPTIONS = "/api/session/session_123/interruptions"
CUT = {"type": "BARGE_IN", "fullText": "one two three four", "heardText": "one two"}
POSTS: dict[str, tuple[str, Any, Any]] = {
    "state": ("/api/session/user_456/state", {"a": 1}, {"a": 2}),
    "append": (HISTORY, HELLO, {**HELLO, "content": "other"}),
    "append many": (HISTORY, {"messages": [HELLO, HELLO]}, {"messages": [HELLO]}),
    "create": ("/api/session/create", {**SESSION, "n": 1}, {**SESSION, "n": 2}),
    "refresh": ("/api/session/refresh", {"userId": "user_456"}, {"userId": "user_789"}),
    "batch": (
        "/api/session/batch",
        {
            "operations": [
                {"op": "append", "userId": "user_456", **HELLO},
                {"op": "endSession", "sessionId": "x"},
            ]
        },
        {"operations": [{"op": "append", "userId": "user_456", **HELLO}] * 3},
    ),
    "interruption": (INTERRUPTIONS, CUT, {**CUT, "heardText": "one"}),
}
every_post = pytest.mark.parametrize("name", POSTS)


async def prepared(api: Api) -> None:
    """A user with a session and a message, so that each request has something to act on."""
    await api.ok("POST", "/api/session/create", SESSION)
    await api.say("user_456", "before")


async def everything(api: Api) -> list[Any]:
    """All that can be seen of the user."""
    paths = ["/api/session/user_456/profile", "/api/session/user_456/state", HISTORY, INTERRUPTIONS]
    paths += ["/api/session/session_123", "/api/session/user/user_456/active", "/api/session/stats"]
    return [without_id(await api.get(path)) for path in paths]


def without_id(answer: Answer) -> tuple[int, Any, str | None]:
    """An answer, less the request's id."""
    body = answer.json
    body.pop("requestId", None)
    return answer.status, body, answer.headers.get("etag")


@every_post
async def test_the_first_answer_again(api: Api, clock: HandClock, name: str) -> None:
    """The same request under the same key gives the same answer and does nothing more."""
    path, body, _ = POSTS[name]
    await prepared(api)
    first = await api.post(path, body, headers=KEY)
    assert first.status == 200
    after = await everything(api)
    clock.advance(3600)
    assert without_id(await api.post(path, body, headers=KEY)) == without_id(first)
    clock.advance(-3600)
    assert await everything(api) == after


@every_post
async def test_another_body(api: Api, name: str) -> None:
    """The key with another body is 422, wholly, and does nothing."""
    path, body, other = POSTS[name]
    await prepared(api)
    await api.post(path, body, headers=KEY)
    after = await everything(api)
    await api.refused(422, "idempotency_key_reused", "POST", path, other, headers=KEY)
    assert await everything(api) == after


@every_post
async def test_at_the_same_time(api: Api, name: str) -> None:
    """Twenty identical requests at once are one request."""
    path, body, _ = POSTS[name]
    await prepared(api)
    answers = await asyncio.gather(*(api.post(path, body, headers=KEY) for _ in range(20)))
    assert all(without_id(answer) == without_id(answers[0]) for answer in answers)
    assert answers[0].status == 200
    after = await everything(api)
    await api.post(path, body, headers=KEY)
    assert await everything(api) == after
    if name in ("append", "append many", "batch"):
        added = len(body.get("messages", [body]))
        assert len((await api.ok("GET", HISTORY))["messages"]) == 1 + added


@every_post
async def test_across_a_restart(database_path: Path, name: str) -> None:
    """A key is remembered by the next process."""
    path, body, other = POSTS[name]
    url = f"sqlite:///{database_path}"
    async with opened(url) as first:
        await prepared(first)
        answer = await first.post(path, body, headers=KEY)
        messages = (await first.ok("GET", HISTORY))["messages"]
    async with opened(url) as second:
        assert without_id(await second.post(path, body, headers=KEY)) == without_id(answer)
        assert (await second.ok("GET", HISTORY))["messages"] == messages
        await second.refused(422, "idempotency_key_reused", "POST", path, other, headers=KEY)


def hashed(path: str, body: Any) -> bytes:
    """What earlier versions kept of a POST."""
    return hashlib.sha256(f"POST\0{path}\0\0".encode() + json.dumps(body).encode()).digest()


async def test_what_is_kept_of_a_request_needs_its_key_to_be_tried_out(database_path: Path) -> None:
    """A hash of the request alone would tell whoever guesses what was said; of no user is one in the database."""
    for content in ("keep", "none"):
        async with opened(f"sqlite:///{database_path}", content=content) as api:
            for name, (path, body, _) in POSTS.items():
                await api.ok("POST", "/api/session/create", SESSION)
                await api.ok("POST", path, body, headers={"Idempotency-Key": f"{name} {content}"})
        # Closed before the service opens it again: the locks of two SQLite libraries in one process do not see
        # each other, and the last to close deletes the log (https://sqlite.org/howtocorrupt.html, 2.2.1).
        with contextlib.closing(sqlite3.connect(database_path)) as database:
            kept = [each for (each,) in database.execute("SELECT fingerprint FROM receipts")]
        files = [each.read_bytes() for each in database_path.parent.rglob("*") if each.is_file()]
        for name, (path, body, _) in POSTS.items():
            plain = hashed(path, body)
            assert not any(plain in each for each in files), name
            assert with_key(f"{name} {content}", plain) in kept or (name, content) == ("interruption", "none")


async def test_a_retry_across_an_upgrade(api: Api) -> None:
    """What an earlier version has done under a key is not done again: its answer is given, another body is 422."""
    receipts, service = api.samvad.core.receipts, api.samvad
    first = await receipts.once(
        UserKey("default", "user_456"),
        receipts.key("default", "", KEY["Idempotency-Key"]),
        hashed(HISTORY, HELLO),
        list[Appended],
        lambda receipt: service.append_many("user_456", [HELLO], receipt=receipt),
    )
    again = await api.ok("POST", HISTORY, HELLO, headers=KEY)
    assert (again["messageId"], again["seq"]) == (first[0].message_id, 1)
    await api.refused(422, "idempotency_key_reused", "POST", HISTORY, {**HELLO, "content": "x"}, headers=KEY)
    assert len((await api.ok("GET", HISTORY))["messages"]) == 1


async def test_another_key_is_another_request(api: Api) -> None:
    """Each key stands for itself, and no key for none."""
    for headers in ({}, {}, {"Idempotency-Key": "a"}, {"Idempotency-Key": "A"}, {"Idempotency-Key": " a b"}):
        await api.ok("POST", HISTORY, HELLO, headers=headers)
    assert len((await api.ok("GET", HISTORY))["messages"]) == 5


async def test_another_place(api: Api) -> None:
    """A key belongs to one path: at another it is 422."""
    await api.ok("POST", HISTORY, HELLO, headers=KEY)
    await api.refused(422, "idempotency_key_reused", "POST", "/api/session/u/history", HELLO, headers=KEY)


async def test_resuming(api: Api) -> None:
    """Resuming under a key resumes one interruption, however often it is sent."""
    await prepared(api)
    await api.ok("POST", INTERRUPTIONS, CUT)
    await api.ok("POST", INTERRUPTIONS, {**CUT, "topic": "loans"})
    answers = [await api.post(f"{INTERRUPTIONS}/resume", headers=KEY) for _ in range(3)]
    assert answers[0].status == 200
    assert all(without_id(answer) == without_id(answers[0]) for answer in answers)
    listed = (await api.ok("GET", INTERRUPTIONS))["interruptions"]
    assert [each["status"] for each in listed] == ["resumed", "pending"]


async def test_refusals_are_repeated(api: Api) -> None:
    """404, 409 and 412 are the first answer too, also where the same would succeed by now."""
    state = "/api/session/user_456/state"
    create = {"sessionId": "session_123", "userId": "thief"}
    end = {"operations": [{"op": "endSession", "sessionId": "session_123"}]}
    only_new = {"If-Match": "*"}
    first = [
        await api.post(INTERRUPTIONS, CUT, headers={"Idempotency-Key": "a"}),
        await api.post(f"{INTERRUPTIONS}/resume", headers={"Idempotency-Key": "b"}),
        await api.post(state, {"a": 1}, headers={"Idempotency-Key": "c", **only_new}),
        await api.post("/api/session/batch", end, headers={"Idempotency-Key": "d"}),
    ]
    await prepared(api)
    first.append(await api.post("/api/session/create", create, headers={"Idempotency-Key": "e"}))
    assert [answer.status for answer in first] == [404, 404, 412, 200, 409]
    await api.ok("POST", state, {})
    await api.ok("POST", INTERRUPTIONS, CUT)
    again = [
        await api.post(INTERRUPTIONS, CUT, headers={"Idempotency-Key": "a"}),
        await api.post(f"{INTERRUPTIONS}/resume", headers={"Idempotency-Key": "b"}),
        await api.post(state, {"a": 1}, headers={"Idempotency-Key": "c", **only_new}),
        await api.post("/api/session/batch", end, headers={"Idempotency-Key": "d"}),
    ]
    assert (await api.ok("GET", "/api/session/session_123"))["session"]["isActive"] is True
    await api.ok("DELETE", "/api/session/session_123")
    again.append(await api.post("/api/session/create", create, headers={"Idempotency-Key": "e"}))
    assert [without_id(answer) for answer in again] == [without_id(answer) for answer in first]


async def test_malformed_requests_use_no_key_up(api: Api) -> None:
    """A request that was refused for its form may be sent again, mended, under the same key."""
    await api.refused(400, "missing_fields", "POST", HISTORY, {"role": "user"}, headers=KEY)
    await api.refused(400, "invalid_json", "POST", HISTORY, content=b"{", headers=KEY)
    await api.refused(
        413, "too_large", "POST", HISTORY, {"role": "user", "content": "x" * 65_537}, headers=KEY
    )
    await api.ok("POST", HISTORY, HELLO, headers=KEY)


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "a\x7fb"])
async def test_what_no_key_can_be(api: Api, key: str) -> None:
    """A key is 1 to 255 printable characters; anything else is refused before anything is done."""
    for path, body, _ in POSTS.values():
        await api.ok("POST", "/api/session/create", SESSION)
        await api.refused(400, "invalid_request", "POST", path, body, headers={"Idempotency-Key": key})
    await api.ok("POST", HISTORY, HELLO, headers={"Idempotency-Key": "x" * 255})
    assert len((await api.ok("GET", HISTORY))["messages"]) == 1


async def test_a_day(api: Api, clock: HandClock) -> None:
    """A key counts for 24 hours; then it is new."""
    await api.ok("POST", HISTORY, HELLO, headers=KEY)
    clock.advance(24 * 3600 - 1)
    assert (await api.ok("POST", HISTORY, HELLO, headers=KEY))["seq"] == 1
    clock.advance(2)
    assert (await api.ok("POST", HISTORY, HELLO, headers=KEY))["seq"] == 2
    assert (await api.ok("POST", HISTORY, HELLO, headers=KEY))["seq"] == 2


async def test_erased_answers(api: Api) -> None:
    """What a request did for a user who was erased since is not told again and not done again: 409."""
    await prepared(api)
    keyed = {name: {"Idempotency-Key": name} for name in POSTS}
    for name, (path, body, _) in POSTS.items():
        if name not in ("refresh", "batch"):
            await api.ok("POST", path, body, headers=keyed[name])
    await api.ok("POST", "/api/session/refresh", {"userId": "user_456"})
    for name, (path, body, _) in POSTS.items():
        if name not in ("refresh", "batch"):
            await api.refused(409, "user_erased", "POST", path, body, headers=keyed[name])
    assert (await api.ok("GET", HISTORY))["messages"] == []
