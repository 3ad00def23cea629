# ruff: noqa: E501 (lists of names)
"""What may be an id, at every door (CONTRACT section 1, Ids)."""

from __future__ import annotations

import pytest

from samvad import limits
from tests.http.support import Api, encoded

pytestmark = pytest.mark.anyio

HOSTILE = [
    "a", "0", "-", "_", "~", "null", "None", "true", "0x41", "1e5", "NaN", "__proto__", "constructor", "toString",
    "...", "..a", ".a", "a.", "a..b", "%", "%2F", "%00", "%zz", "a%20b", "+", "a+b", "a b", "a  b", "&", "?", "#", "=", ";",
    "a;b=c", ":", "@", "!", "$", "'", '"', "`", "\\", "a\\b", "|", "<script>alert(1)<script>", "{userId}", "[]", "{}", "()",
    "' OR '1'='1", "'; DROP TABLE users; --", "%s%n", "${jndi:ldap://x}".replace("/", "|"), "{{7*7}}", "$(id)", "*", "_%",
    "state", "profile", "history", "active", "end", "interruptions", "resume", "Create", "STATS", "User", "batches", "refresh ed",
    "उपयोगकर्ता", "उपयोगकर्ता ४५६", "用户", "пользователь", "مستخدم", "👩‍👩‍👧‍👦", "é", "e\u0301", "ﬁ", "\u200b", "\u200d", "\ufeff", "\u202etxt",
    "\U0010ffff", "\uffff", "a\u00adb", "İ", "ß", "A", "session_123", "user_456", "a" * 256, "क" * 85 + "x", "👋" * 64,
]  # fmt: skip

REFUSED = [
    "", " ", " a", "a ", "\ta", "a\n", "a\r\n", "\u00a0a", "a\u2003", "\u3000", "a\u2028", "a\u0085", ".", "..", "/", "a/b", "/a", "a/", "../../etc/passwd",
    "\x00", "a\x00b", "a\x1fb", "\x7f", "a\x80b", "a\x9fb", "a\tb", "\x1b[31m", "a" * 257, "क" * 85 + "xx", "👋" * 64 + "x", "x" * 100_000,
    *sorted(limits.RESERVED_IDS),
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
async def test_all_else_is_data(api: Api, name: str) -> None:
    """Any other text is an id at every door, and comes back as it was given."""
    place = encoded(name)
    await api.ok("POST", f"/api/session/{place}/state", {"me": name})
    answer = await api.ok("GET", f"/api/session/{place}/state")
    assert (answer["userId"], answer["state"]["me"]) == (name, name)
    await api.ok(
        "POST",
        f"/api/session/{place}/history",
        {"role": "user", "content": "x", "id": name, "sessionId": name},
    )
    message = (await api.ok("GET", f"/api/session/{place}/history"))["messages"][0]
    assert (message["id"], message["sessionId"]) == (name, name)
    assert (await api.ok("GET", f"/api/session/{place}/profile"))["profile"]["userId"] == name
    await api.ok("POST", "/api/session/create", {"sessionId": name, "userId": name})
    assert (await api.ok("GET", f"/api/session/{place}"))["session"]["id"] == name
    assert (await api.ok("GET", f"/api/session/user/{place}/active"))["sessions"][0]["userId"] == name
    await api.ok("GET", f"/api/session/{place}/interruptions")
    await api.ok("PUT", f"/api/session/{place}/end")
    assert (await api.ok("DELETE", f"/api/session/{place}"))["sessionId"] == name
    cleared = (await api.ok("POST", "/api/session/refresh", {"userId": name}))["cleared"]
    assert (cleared["userState"], cleared["messages"]) == (True, 1)


@pytest.mark.parametrize("name", REFUSED, ids=range(len(REFUSED)))
async def test_what_no_id_can_be(plain: Api, name: str) -> None:
    """Every door refuses it with 400, and nothing is kept."""
    doors = [
        ("POST", "/api/session/create", {"sessionId": name, "userId": "u"}),
        ("POST", "/api/session/create", {"sessionId": "s", "userId": name}),
        ("POST", "/api/session/refresh", {"userId": name}),
        ("POST", "/api/session/u/history", {"role": "user", "content": "x", "id": name}),
        ("POST", "/api/session/u/history", {"role": "user", "content": "x", "sessionId": name}),
    ]
    for method, path, body in doors:
        await plain.refused(400, "invalid_id", method, path, body)
    operations = [
        {"op": "append", "userId": name, "role": "user", "content": "x"},
        {"op": "state", "userId": name, "state": {}},
        {"op": "preferences", "userId": name, "preferences": {}},
        {"op": "session", "userId": "u", "sessionId": name},
        {"op": "endSession", "sessionId": name},
    ]
    answer = await plain.ok("POST", "/api/session/batch", {"operations": operations})
    assert {result["code"] for result in answer["results"]} == {"invalid_id"}
    stats = (await plain.ok("GET", "/api/session/stats"))["stats"]
    assert set(stats.values()) == {0}


IN_PATHS = [name for name in REFUSED if name]
READS = ["{}/state", "{}/profile", "{}/history", "user/{}/active", "{}/interruptions"]


@pytest.mark.parametrize("name", IN_PATHS, ids=range(len(IN_PATHS)))
async def test_what_no_id_can_be_in_a_path(plain: Api, name: str) -> None:
    """A path with such an id is 400, never another resource: an encoded slash does not make two segments."""
    for shape in READS:
        path = f"/api/session/{shape.format(encoded(name))}"
        await plain.refused(400, "invalid_id", "GET", path)
    everywhere = encoded(name) if name not in (".", "..") else name.replace(".", "%2E")
    await plain.refused(400, "invalid_id", "PUT", f"/api/session/{everywhere}/end")
    await plain.refused(
        400, "invalid_id", "POST", f"/api/session/{everywhere}/history", {"role": "user", "content": "x"}
    )


@pytest.mark.parametrize("path", ["%ff", "%C3%28", "%ED%A0%80", "%F8%88%80%80%80", "a%80"])
async def test_no_utf_8(plain: Api, path: str) -> None:
    """Bytes that are no UTF-8 are 400."""
    await plain.refused(400, "invalid_id", "GET", f"/api/session/{path}/state")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/session//state", 404),
        ("/api/session/a/", 404),
        ("/api/session/a/state/", 404),
        ("/api/session/a/b/state", 404),
        ("/api//session/a/state", 404),
        ("//api/session/a/state", 404),
        ("/api/session", 404),
        ("/api/session/", 404),
        ("/", 404),
        ("", 404),
        ("/api/session/../session/a/state", 404),
        ("/api/session/a%2Fstate", 400),
        ("/api/session/user/active", 404),
        ("/api/session/user", 400),
        ("/api/session/batch", 405),
        ("/api/session/%63reate", 400),
        ("/API/session/a/state", 404),
    ],
)
async def test_paths(plain: Api, path: str, status: int) -> None:
    """Each path is what it says, byte for byte; none is guessed at."""
    assert (await plain.get(path)).status == status
