"""What was said: appending, the last 100, paging (CONTRACT section 1, requests 3 and 4 and the rules below)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from samvad import limits
from tests.http.support import Api, HandClock, encoded, opened

pytestmark = pytest.mark.anyio
PATH = "/api/session/user_456/history"
PROFILE = "/api/session/user_456/profile"
HELLO = {"role": "user", "content": "What documents do I need?"}
KIB_64 = 64 * 1024


async def window(api: Api) -> list[dict[str, Any]]:
    """The messages of the profile."""
    profile = (await api.ok("GET", PROFILE))["profile"]
    messages: list[dict[str, Any]] = profile["conversationHistory"]
    assert profile["historyLength"] == len(messages)
    return messages


async def page(api: Api, query: str = "") -> tuple[list[int], bool]:
    """The `seq` of a page, and whether there is more."""
    answer = await api.ok("GET", PATH, query=query)
    return [message["seq"] for message in answer["messages"]], answer["hasMore"]


async def append(api: Api, body: Any) -> Any:
    """The answer to an append that succeeds."""
    return await api.ok("POST", PATH, body)


async def test_appending(api: Api) -> None:
    """Request 4 answers field for field, with the message's id, place and durability."""
    answer = await append(api, HELLO)
    assert answer == {
        "success": True,
        "message": "Message appended to history",
        "userId": "user_456",
        "messageId": answer["messageId"],
        "seq": 1,
        "durability": "memory" if api.samvad.store.name == "memory" else "stored",
    }


async def test_profile(api: Api, clock: HandClock) -> None:
    """Request 3 answers field for field."""
    await append(api, HELLO)
    clock.advance(2.5)
    await append(api, {"role": "assistant", "content": "PAN and Aadhaar."})
    answer = await api.ok("GET", PROFILE)
    ids = [message["id"] for message in answer["profile"]["conversationHistory"]]
    assert len(set(ids)) == 2
    assert answer == {
        "success": True,
        "userId": "user_456",
        "profile": {
            "userId": "user_456",
            "conversationHistory": [
                {"seq": 1, "id": ids[0], **HELLO, "timestamp": "2025-01-10T17:00:00.000Z"},
                {
                    "seq": 2,
                    "id": ids[1],
                    "role": "assistant",
                    "content": "PAN and Aadhaar.",
                    "timestamp": "2025-01-10T17:00:02.500Z",
                },
            ],
            "preferences": {"language": "en", "voiceSpeed": 1.0},
            "historyLength": 2,
            "totalMessages": 2,
            "createdAt": "2025-01-10T17:00:00.000Z",
            "lastUpdated": "2025-01-10T17:00:02.500Z",
        },
    }


async def test_an_unknown_user_has_an_empty_profile(api: Api) -> None:
    """The profile never answers 404, and asking makes no user."""
    profile = (await api.ok("GET", "/api/session/nobody/profile"))["profile"]
    assert (profile["conversationHistory"], profile["historyLength"]) == ([], 0)
    assert profile["preferences"] == {"language": "en", "voiceSpeed": 1.0}
    assert await api.ok("GET", "/api/session/nobody/history") == {
        "success": True,
        "userId": "nobody",
        "messages": [],
        "hasMore": False,
        "firstSeq": 1,
    }
    assert (await api.ok("GET", "/api/session/stats"))["stats"]["totalProfiles"] == 0


async def test_preferences(api: Api) -> None:
    """PATCH merges preferences over the defaults (RFC 7396), and touches no message."""
    await append(api, HELLO)
    path, merge = PROFILE, {"preferences": {"voiceSpeed": 0.8, "deep": {"a": 1, "b": 2}}}
    assert (await api.ok("PATCH", path, merge))["message"] == "User profile saved successfully"
    await api.ok("PATCH", path, {"preferences": {"deep": {"a": None}, "language": None}})
    assert (await api.ok("GET", path))["profile"]["preferences"] == {"voiceSpeed": 0.8, "deep": {"b": 2}}
    assert len(await window(api)) == 1
    merge_patch = {"Content-Type": "application/merge-patch+json"}
    await api.ok("PATCH", path, {"preferences": {"x": 1}}, headers=merge_patch)
    await api.refused(400, "missing_fields", "PATCH", path, {})
    await api.refused(400, "invalid_request", "PATCH", path, {"preferences": None})
    await api.refused(400, "invalid_request", "PATCH", path, {"preferences": {}, "historyLength": 3})
    await api.refused(413, "too_large", "PATCH", path, {"preferences": {"x": "y" * KIB_64}})


# --- what a message may be ---------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["user", "assistant", "system", "tool"])
async def test_roles(plain: Api, role: str) -> None:
    """There are four roles."""
    await append(plain, {"role": role, "content": "x"})
    assert (await window(plain))[0]["role"] == role


REFUSED: list[tuple[Any, str, str]] = [
    ({}, "missing_fields", "Missing required fields: role, content"),
    ({"role": "user"}, "missing_fields", "Missing required fields: content"),
    ({"content": "x"}, "missing_fields", "Missing required fields: role"),
    ({"role": None, "content": None}, "missing_fields", "Missing required fields: role, content"),
    ({"role": "bot", "content": "x"}, "invalid_request", "role must be one of"),
    ({"role": "User", "content": "x"}, "invalid_request", "role must be one of"),
    ({"role": ["user"], "content": "x"}, "invalid_request", "role must be one of"),
    ({"role": "user", "content": ""}, "invalid_request", "content must not be empty."),
    ({"role": "user", "content": 5}, "invalid_request", "content must be a string."),
    ({"role": "user", "content": ["x"]}, "invalid_request", "content must be a string."),
    ({**HELLO, "id": ""}, "invalid_id", "id must be 1 to 256 bytes"),
    ({**HELLO, "id": 5}, "invalid_id", "id must be a string."),
    ({**HELLO, "id": "a/b"}, "invalid_id", "id may not hold '/'"),
    ({**HELLO, "sessionId": "a\n"}, "invalid_id", "sessionId may not hold"),
    ({**HELLO, "name": 1}, "invalid_request", "name must be a string."),
    ({**HELLO, "metadata": []}, "invalid_request", "metadata must be a JSON object."),
    ({**HELLO, "toolCalls": []}, "invalid_request", "toolCalls belongs in an assistant message."),
    ({**HELLO, "role": "assistant", "toolCalls": [{"id": "c"}]}, "invalid_request", "toolCalls must be"),
    ({**HELLO, "role": "assistant", "toolCalls": {}}, "invalid_request", "toolCalls must be"),
    ({**HELLO, "toolCallId": "c"}, "invalid_request", "toolCallId belongs in a tool message."),
    ({**HELLO, "role": "tool", "toolCallId": ""}, "invalid_request", "toolCallId must be"),
    ({"messages": []}, "invalid_request", "messages must hold 1 to 100 messages."),
    ({"messages": [HELLO] * 101}, "invalid_request", "messages must hold 1 to 100 messages."),
    ({"messages": HELLO}, "invalid_request", "messages must be a list of message objects."),
    ({"messages": [HELLO, "x"]}, "invalid_request", "messages must be a list of message objects."),
    ({"messages": None}, "invalid_request", "messages must be a list of message objects."),
]


@pytest.mark.parametrize(("body", "code", "message"), REFUSED)
async def test_refused(plain: Api, body: Any, code: str, message: str) -> None:
    """What cannot be a message is refused with a sentence that says why, and nothing is kept."""
    answer = await plain.refused(400, code, "POST", PATH, body)
    assert answer.json["error"].startswith(message)
    assert await window(plain) == []


@pytest.mark.parametrize("letter", ["x", "क", "👋"], ids=["ascii", "hindi", "emoji"])
async def test_size_in_bytes(plain: Api, letter: str) -> None:
    """Content may take exactly 64 KiB of UTF-8, whatever the script; one byte more is 413."""
    size = len(letter.encode())
    fitting = letter * (KIB_64 // size) + "x" * (KIB_64 % size)
    assert len(fitting.encode()) == KIB_64
    await append(plain, {"role": "user", "content": fitting})
    await plain.refused(413, "too_large", "POST", PATH, {"role": "user", "content": fitting + "x"})
    assert [message["content"] for message in await window(plain)] == [fitting]


async def test_size_of_the_other_fields(plain: Api) -> None:
    """All fields beside the content share 64 KiB."""
    await append(plain, {**HELLO, "note": "x" * (KIB_64 - len('{"note":""}'))})
    await plain.refused(413, "too_large", "POST", PATH, {**HELLO, "note": "x" * KIB_64})


async def test_other_fields_are_kept(api: Api) -> None:
    """Every field that is not the server's comes back as it was given, in the profile and in pages."""
    given = {
        "role": "assistant",
        "content": "Let me look that up.",
        "id": "m-1",
        "sessionId": "session_123",
        "name": "asha",
        "metadata": {"model": "x", "deep": [1, {"a": None}]},
        "toolCalls": [{"id": "call_1", "name": "find", "arguments": {"q": 1}, "extra": True}],
        "interrupted": False,
        "unheard": None,
        "हिन्दी": "हाँ",
    }
    await append(api, given)
    theirs = {"seq": 1, "timestamp": "2025-01-10T17:00:00.000Z"}
    assert await window(api) == [{**given, **theirs}]
    assert (await api.ok("GET", PATH))["messages"] == [{**given, **theirs}]


async def test_null_is_not_given(plain: Api) -> None:
    """An optional field that is null counts as not given."""
    nothing = dict.fromkeys(("id", "sessionId", "name", "metadata", "toolCalls", "toolCallId"))
    await append(plain, {**HELLO, **nothing})
    assert set((await window(plain))[0]) == {"seq", "id", "role", "content", "timestamp"}


async def test_time_and_place_are_the_servers(api: Api, clock: HandClock) -> None:
    """`timestamp` and `seq` in a body are ignored; a clock that steps back moves no timestamp back."""
    await append(api, {**HELLO, "timestamp": "1999-01-01T00:00:00Z", "seq": 77})
    clock.advance(-3600)
    await append(api, HELLO)
    assert [(m["seq"], m["timestamp"]) for m in await window(api)] == [
        (1, "2025-01-10T17:00:00.000Z"),
        (2, "2025-01-10T17:00:00.000Z"),
    ]


async def test_what_the_server_says_of_a_message_nobody_else_does(api: Api) -> None:
    """That content was not kept, or cannot be read, is not for a caller to claim: commands leave such a message out."""
    claims = {"contentKept": False, "contentLength": 7, "contentChars": 7, "unreadable": True}
    await append(api, {**HELLO, **claims, "mine": 1})
    (message,) = await window(api)
    assert message["content"] == HELLO["content"] and message["mine"] == 1
    assert not claims.keys() & message.keys()


async def test_too_much_is_told_before_it_is_looked_at(plain: Api) -> None:
    """Of what is too large not every value is visited, of which a body has room for millions."""
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    await plain.refused(413, "too_large", "POST", PATH, {**HELLO, "a": "x" * KIB_64, "b": deep})
    state = "/api/session/user_456/state"
    await plain.refused(413, "too_large", "POST", state, {"a": "x" * 4 * KIB_64, "b": deep})
    await plain.refused(
        413,
        "too_large",
        "PATCH",
        "/api/session/user_456/profile",
        {"preferences": {"a": "x" * KIB_64, "b": deep}},
    )
    session = {"sessionId": "s", "userId": "user_456", "a": "x" * KIB_64, "b": deep}
    await plain.refused(413, "too_large", "POST", "/api/session/create", session)


async def test_a_body_of_too_many_values_is_not_decoded(plain: Api) -> None:
    """Objects and lists are counted where they are such, and not in texts, before anything is made of them."""
    most = limits.BODY_PARTS_MAX
    for inside in (b"[]", b"{}", b'{"a" :1}'):
        many = b",".join([inside] * (most + 10))
        for start, end in ((b'{"messages":[', b"]}"), (b'{"role":"user","content":"x","a":[', b"]}")):
            content = start + many + end + b" " * limits.SMALL_BODY_BYTES_MAX
            answer = await plain.refused(413, "too_large", "POST", PATH, content=content)
            assert f"{most} objects, lists and members" in answer.json["error"]
    text = r"[{\"[{" * 9_000
    body = {"messages": [{**HELLO, "content": text}] * 20}
    assert (await plain.ok("POST", PATH, body))["count"] == 20


# --- ids ---------------------------------------------------------------------------------------------------


async def test_the_same_id_is_the_same_message(api: Api) -> None:
    """The id again changes nothing and gives the first place, whatever else the body says."""
    first = await append(api, {**HELLO, "id": "m-1"})
    again = await append(api, {"role": "user", "content": "something else", "id": "m-1"})
    assert (again["seq"], again["messageId"], again["duplicate"]) == (1, "m-1", True)
    assert "duplicate" not in first
    assert [message["content"] for message in await window(api)] == [HELLO["content"]]
    assert (await api.say("user_789", "x", id="m-1")) == [1]  # another user's ids are others


async def test_the_same_id_far_back(api: Api) -> None:
    """An id is known for ever, also when its message has left the window."""
    await append(api, {**HELLO, "id": "m-1"})
    for _ in range(2):
        await append(api, {"messages": [HELLO] * 100})
    assert (await append(api, {**HELLO, "id": "m-1"}))["seq"] == 1
    made = (await api.ok("GET", PATH, query="after=1&limit=1"))["messages"][0]
    again = await append(api, {**HELLO, "id": made["id"]})
    assert (again["seq"], again["duplicate"]) == (2, True)
    assert await page(api, "limit=1") == ([201], True)


async def test_many_at_once(api: Api) -> None:
    """Up to 100 messages take consecutive places in one step; ids that are there already are skipped."""
    await append(api, {**HELLO, "id": "m-1"})
    answer = await append(
        api,
        {"messages": [{**HELLO, "id": "m-2"}, {**HELLO, "id": "m-1"}, {**HELLO, "id": "m-2"}, HELLO]},
    )
    assert [(each["seq"], each.get("duplicate", False)) for each in answer["messages"]] == [
        (2, False),
        (1, True),
        (2, True),
        (3, False),
    ]
    assert (answer["message"], answer["count"], answer["seq"]) == ("Messages appended to history", 4, 3)
    assert (await append(api, {"messages": [HELLO] * 100}))["seq"] == 103


async def test_all_or_none(api: Api) -> None:
    """One bad message among a hundred, and none is appended."""
    bad = {"messages": [*[HELLO] * 99, {"role": "user", "content": ""}]}
    await api.refused(400, "invalid_request", "POST", PATH, bad)
    large = {"messages": [*[HELLO] * 99, {"role": "user", "content": "x" * (KIB_64 + 1)}]}
    await api.refused(413, "too_large", "POST", PATH, large)
    assert await page(api) == ([], False)


async def test_places_have_no_gap(api: Api) -> None:
    """Whoever writes at once, each message has its own place, 1 to n, and the answer names the right one."""
    bodies: list[Any] = [{"role": "user", "content": f"{n}"} for n in range(60)]
    bodies[::7] = [{"messages": [body, {**body, "content": body["content"] + "b"}]} for body in bodies[::7]]
    answers = await asyncio.gather(*(append(api, body) for body in bodies))
    told: dict[int, str] = {}
    for body, answer in zip(bodies, answers, strict=True):
        messages = body.get("messages", [body])
        places = [each["seq"] for each in answer.get("messages", [answer])]
        told |= dict(zip(places, (message["content"] for message in messages), strict=True))
    kept = {message["seq"]: message["content"] for message in await window(api)}
    assert kept == told
    assert list(kept) == list(range(1, len(kept) + 1))


# --- the last 100 ------------------------------------------------------------------------------------------


async def test_the_window(api: Api) -> None:
    """The profile shows the last 100: never 101, never a hole, whichever door they come through."""
    await append(api, {"messages": [HELLO] * 99})
    assert len(await window(api)) == 99
    await append(api, HELLO)
    assert [message["seq"] for message in await window(api)] == list(range(1, 101))
    await append(api, HELLO)
    assert [message["seq"] for message in await window(api)] == list(range(2, 102))
    operations = [{"op": "append", "userId": "user_456", **HELLO}] * 30
    await api.ok("POST", "/api/session/batch", {"operations": operations})
    await append(api, {"messages": [HELLO] * 100})
    assert [message["seq"] for message in await window(api)] == list(range(132, 232))
    assert (await api.ok("GET", PROFILE))["profile"]["totalMessages"] == 231


async def test_the_window_can_be_set() -> None:
    """Another size of window is kept just so."""
    async with opened(window_messages=3) as api:
        await api.say("user_456", *"abcd")
        assert [message["content"] for message in await window(api)] == ["b", "c", "d"]


async def test_a_window_never_starts_with_an_orphan(api: Api) -> None:
    """Tool answers whose call fell off are left out at the window's start, and stay in the history."""
    call = {
        "role": "assistant",
        "content": "…",
        "toolCalls": [{"id": "a", "name": "f"}, {"id": "b", "name": "g"}],
    }
    answers = [
        {"role": "tool", "content": "1", "toolCallId": "a"},
        {"role": "tool", "content": "2", "toolCallId": "b"},
    ]
    await append(api, {"messages": [call, *answers, *[HELLO] * 97]})
    assert [message["seq"] for message in await window(api)] == list(range(1, 101))
    await append(api, HELLO)
    assert [message["seq"] for message in await window(api)] == list(range(4, 102))
    await append(api, HELLO)
    assert [message["seq"] for message in await window(api)] == list(range(4, 103))
    assert await page(api, "after=0&limit=4") == ([1, 2, 3, 4], True)


# --- pages -------------------------------------------------------------------------------------------------

PAGES = [
    ("", (list(range(151, 251)), True)),
    ("limit=3", ([248, 249, 250], True)),
    ("limit=3&before=248", ([245, 246, 247], True)),
    ("limit=3&before=4", ([1, 2, 3], False)),
    ("limit=3&before=3", ([1, 2], False)),
    ("before=1", ([], False)),
    ("before=0", ([], False)),
    ("limit=3&after=0", ([1, 2, 3], True)),
    ("limit=3&after=247", ([248, 249, 250], False)),
    ("limit=3&after=246", ([247, 248, 249], True)),
    ("after=250", ([], False)),
    ("after=999999", ([], False)),
    ("limit=2&after=10&before=14", ([11, 12], True)),
    ("limit=3&after=10&before=14", ([11, 12, 13], False)),
    ("after=10&before=11", ([], False)),
    ("after=20&before=10", ([], False)),
    ("limit=1000", (list(range(1, 251)), False)),
    ("limit=1&before=4611686018427387903", ([250], True)),
]


async def test_pages(api: Api) -> None:
    """Pages are oldest first; `after` goes forward from there, else the last ones ahead of `before` come."""
    for _ in range(5):
        await append(api, {"messages": [HELLO] * 50})
    for query, expected in PAGES:
        assert await page(api, query) == expected, query


async def test_pages_of_a_short_history(api: Api) -> None:
    """A history that fits into memory pages by the same rules."""
    await append(api, {"messages": [HELLO] * 10})
    assert await page(api) == (list(range(1, 11)), False)
    assert await page(api, "limit=4") == ([7, 8, 9, 10], True)
    assert await page(api, "limit=4&before=5") == ([1, 2, 3, 4], False)
    assert await page(api, "limit=4&after=6") == ([7, 8, 9, 10], False)
    assert await page(api, "limit=4&after=5") == ([6, 7, 8, 9], True)
    assert await page(api, "after=2&before=5") == ([3, 4], False)
    assert await page(api, "after=5&before=2") == ([], False)


async def test_walking_all_pages(api: Api) -> None:
    """Walking either way meets every message once, also where bytes end a page."""
    content = "x" * 60_000
    for _ in range(5):
        await append(api, {"messages": [{"role": "user", "content": content}] * 30})
    forward: list[int] = []
    more = True
    while more:
        seqs, more = await page(api, f"limit=1000&after={forward[-1] if forward else 0}")
        forward += seqs
    back: list[int] = []
    more = True
    while more:
        seqs, more = await page(api, "limit=1000" + (f"&before={back[0]}" if back else ""))
        back = seqs + back
    assert forward == back == list(range(1, 151))


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=1001", "limit=-1", "limit=", "limit=1.0", "limit=x", "limit=1e2", "limit=%D9%A1"),
        *("before=-1", "after=-1", "after=99999999999999999999", "limit=1&limit=2", "offset=3", "limit=%ff"),
        *("limit", "&".join(["a=1"] * 100)),
    ],
)
async def test_bad_queries(plain: Api, query: str) -> None:
    """A query that cannot be meant is refused, not guessed at."""
    await plain.refused(400, "invalid_request", "GET", PATH, query=query)


async def test_users_are_apart(api: Api) -> None:
    """What one user says shows up with nobody else, however alike their ids are."""
    users = ["u", "U", "u ु", "u%20", "u.", "ú", "u\u0301"]
    for user in users:
        await api.say(user, f"I am {user}")
    for user in users:
        messages = (await api.ok("GET", f"/api/session/{encoded(user)}/history"))["messages"]
        assert [message["content"] for message in messages] == [f"I am {user}"]
