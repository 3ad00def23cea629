"""Envelopes, statuses, and bodies that nobody should send (CONTRACT section 1, Errors)."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any

import pytest

from samvad import errors
from samvad.http.problems import problem
from tests.http.support import SESSION, Answer, Api, openapi

pytestmark = pytest.mark.anyio
STATE = "/api/session/user_456/state"
HISTORY = "/api/session/user_456/history"
BODIES = [
    ("POST", STATE),
    ("PUT", STATE),
    ("PATCH", "/api/session/user_456/profile"),
    ("POST", HISTORY),
    ("POST", "/api/session/create"),
    ("POST", "/api/session/refresh"),
    ("POST", "/api/session/batch"),
    ("POST", "/api/session/session_123/interruptions"),
]


async def test_the_success_envelope(plain: Api) -> None:
    """Every success under /api says `"success": true` first."""
    answers = [
        await plain.post(STATE, {"a": 1}),
        await plain.get(STATE),
        await plain.put(STATE, {}),
        await plain.get("/api/session/user_456/profile"),
        await plain("PATCH", "/api/session/user_456/profile", {"preferences": {}}),
        await plain.post(HISTORY, {"role": "user", "content": "x"}),
        await plain.get(HISTORY),
        await plain.post("/api/session/create", SESSION),
        await plain.get("/api/session/session_123"),
        await plain.get("/api/session/user/user_456/active"),
        await plain.post("/api/session/batch", {"operations": [{"op": "state", "userId": "u", "state": {}}]}),
        await plain.get("/api/session/session_123/interruptions"),
        await plain("DELETE", "/api/session/session_123/interruptions"),
        await plain.put("/api/session/session_123/end"),
        await plain("DELETE", "/api/session/session_123"),
        await plain.get("/api/session/stats"),
        await plain.post("/api/session/refresh", {"userId": "user_456"}),
    ]
    for answer in answers:
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        assert next(iter(answer.json.items())) == ("success", True), answer.body


def all_errors(kind: type[errors.SamvadError] = errors.SamvadError) -> list[type[errors.SamvadError]]:
    """Every kind of error."""
    return [kind, *(each for sub in kind.__subclasses__() for each in all_errors(sub))]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
async def test_the_error_shape(kind: type[errors.SamvadError]) -> None:
    """Every error has the members of RFC 9457 and those of the old shape, and they agree."""
    if kind is errors.MissingFields:
        error: errors.SamvadError = errors.MissingFields("sessionId", "userId")
        assert error.message == "Missing required fields: sessionId, userId"
    else:
        error = kind("x", 1) if kind is errors.MessageExists else kind()
    found = problem(error)
    assert list(found) == ["success", "error", "code", "status", "type", "title", "detail"]
    assert found["success"] is False
    assert found["error"] == found["detail"] == error.message
    assert found["type"] == f"urn:samvad:problem:{found['code']}"
    assert re.fullmatch("[a-z_]+", found["code"]) and found["title"]
    assert 400 <= found["status"] <= 599


async def test_an_error_on_the_wire(plain: Api) -> None:
    """An error is problem+json; its `requestId` is the header's."""
    answer = await plain.post("/api/session/create", {})
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json == {
        "success": False,
        "error": "Missing required fields: sessionId, userId",
        "code": "missing_fields",
        "status": 400,
        "type": "urn:samvad:problem:missing_fields",
        "title": "Bad request",
        "detail": "Missing required fields: sessionId, userId",
        "requestId": answer.headers["x-request-id"],
    }


async def test_request_ids_differ(plain: Api) -> None:
    """Each request has its own id."""
    ids = [(await plain.get("/healthz")).headers["x-request-id"] for _ in range(20)]
    assert len(set(ids)) == 20


# --- methods -----------------------------------------------------------------------------------------------


async def test_unknown_paths(plain: Api) -> None:
    """What is not there is 404 for every method."""
    for path in ("/", "/api", "/api/session", "/nope", "/healthz/x", "/openapi.json/", "/docs/"):
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"):
            await plain.refused(404, "not_found", method, path)


async def test_methods(plain: Api) -> None:
    """A method that a path does not know is 405, with those that it knows in `Allow`."""
    for path, operations in openapi()["paths"].items():
        knows = {method.upper() for method in operations}
        knows |= {"HEAD"} if "GET" in knows else set()
        place = path.replace("{userId}", "u").replace("{sessionId}", "s")
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "get"):
            answer = await plain(method, place)
            if method in knows:
                assert answer.status != 405, (method, path)
            else:
                assert answer.status == 405, (method, path)
                assert answer.headers["allow"] == ", ".join(sorted(knows))


async def test_head(plain: Api) -> None:
    """HEAD gives GET's status and headers, and no body."""
    await plain.post(STATE, {"a": 1})
    for path in (STATE, "/healthz", "/docs", "/openapi.json", "/api/session/nobody/state"):
        got, head = await plain.get(path), await plain("HEAD", path)
        volatile = {"x-request-id", "content-length"}
        assert head.status == got.status
        assert {k: v for k, v in head.headers.items() if k not in volatile} == {
            k: v for k, v in got.headers.items() if k not in volatile
        }
        assert head.headers["content-length"].isdigit()


# --- bodies ------------------------------------------------------------------------------------------------

NOT_JSON: list[bytes] = [
    b"", b" ", b"\n", b"x", b"{", b"}", b"{]", b"[", b'{"a"}', b'{"a":}', b'{"a":1,}', b"{'a':1}", b"{a:1}",
    b'{"a":1', b'{"a":1}}', b'{"a":1} x', b'{"a":1}{"b":2}', b'{"a":01}', b'{"a":+1}', b'{"a":.5}', b'{"a":1.}',
    b'{"a":1e}', b'{"a":0x10}', b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":1e999}',
    b'{"a":' + b"9" * 5000 + b"}", b'{"a":tru}', b'{"a":True}', b'{"a":undefined}', b'{"a":"\n"}', b'{"a":"\\x41"}',
    b'{"a":"\\ud800"}', b'{"a":"\\udc00\\ud800"}', b'{"\\ud83d":1}', b'{"a":"\xff"}', b'{"a":"\xc0\xaf"}',
    b'{"a":"\xed\xa0\x80"}', b'{"a":"\\u12"}', b'{"a":"unended}', b"// c\n{}", b'{"a":1/**/}', b"\x00", b"{}\x00",
    b"\xef\xbb\xbf{}", '{"a":1}'.encode("utf-16"), '{"a":1}'.encode("utf-16-le"), '{"a":1}'.encode("utf-32"),
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000, b"[" * 100_000, b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    b"\x1f\x8b\x08\x00", b"a=1&b=2", b"<a/>", b"--x\r\n",
]  # fmt: skip
NOT_OBJECTS = [b"null", b"true", b"0", b"1.5", b'"text"', b"[]", b'[{"role":"user","content":"x"}]', b"-0"]


@pytest.mark.parametrize("content", NOT_JSON, ids=range(len(NOT_JSON)))
async def test_malformed(plain: Api, content: bytes) -> None:
    """What is no JSON is 400 at every door, and the answer repeats nothing of it."""
    for method, path in BODIES:
        answer = await plain.refused(400, "invalid_json", method, path, content=content)
        assert len(answer.body) < 600


@pytest.mark.parametrize("content", NOT_OBJECTS, ids=bytes.decode)
async def test_not_an_object(plain: Api, content: bytes) -> None:
    """JSON that is no object is 400 at every door."""
    for method, path in BODIES:
        await plain.refused(400, "invalid_request", method, path, content=content)


async def test_odd_but_valid(plain: Api) -> None:
    """White space, escapes, duplicate names (the last wins), huge numbers and odd floats are JSON."""
    kept: list[tuple[bytes, Any]] = [
        (b' \t\r\n{ "a" : 1 } \n', {"a": 1}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'{"\\u0061":"\\u0928\\ud83d\\udc4b"}', {"a": "न👋"}),
        (b'{"a":' + b"9" * 4000 + b"}", {"a": int("9" * 4000)}),
        (b'{"a":-0.0,"b":1E400e0}'.replace(b"E400e0", b"E300"), {"a": -0.0, "b": 1e300}),
        (b'{"a":1e-400}', {"a": 0.0}),
    ]
    for content, expected in kept:
        assert (await plain.put(STATE, content=content)).status == 200
        state = (await plain.ok("GET", STATE))["state"]
        assert {name: state[name] for name in expected} == expected


@pytest.mark.parametrize("kind", ["depth", "width", "names"])
async def test_shapes_that_cost(plain: Api, kind: str) -> None:
    """Deep, wide and many-named JSON within the bound of a body is answered, and never a fault of ours."""
    content = {
        "depth": b'{"a":' * 500 + b"1" + b"}" * 500,
        "width": b'{"a":[' + b"0," * 1_000_000 + b"0]}",
        "names": json.dumps({str(number): number for number in range(200_000)}).encode(),
    }[kind]
    for method, path in BODIES:
        answer = await plain(method, path, content=content)
        assert answer.status in (400, 404, 413), (path, answer.status)


# --- sizes and framing -------------------------------------------------------------------------------------

MIB_8 = 8 * 1024 * 1024


def padded(size: int) -> bytes:
    """A valid append of exactly this many bytes."""
    body = b'{"role":"user","content":"x"}'
    return body + b" " * (size - len(body))


async def test_the_bound_of_a_body(plain: Api) -> None:
    """8 MiB are read, one byte more is 413, whether its length is told before or not."""
    assert (await plain.post(HISTORY, content=padded(MIB_8))).status == 200
    large = padded(MIB_8 + 1)
    told = {"content-length": str(len(large))}
    for content in (large, [large], [large[:100], large[100:]], [b" "] * 3 + [large]):
        await plain.refused(413, "too_large", "POST", HISTORY, content=content)
    await plain.refused(413, "too_large", "POST", HISTORY, content=[large], headers=told)
    for path in (STATE, "/api/session/create", "/api/session/refresh"):  # these take nothing that is so large
        body = b'{"userId":"u","sessionId":"s"}'
        answer = await plain.post(path, content=body + b" " * (1024 * 1024 - len(body)))
        assert answer.status == 200
        await plain.refused(413, "too_large", "POST", path, content=body + b" " * 1024 * 1024)
    assert len((await plain.ok("GET", HISTORY))["messages"]) == 1


async def test_a_length_that_lies(plain: Api) -> None:
    """A told length is refused before the body is read; one that is no number is 400."""
    for length in (str(MIB_8 + 1), "9" * 40, "1" + "0" * 5000):
        answer = await plain.post(HISTORY, content=[b"{}"], headers={"content-length": length})
        assert answer.status == 413
    for length in ("-9999999", "12345678x", "+1234567", "1,1,1,1,1"):
        told = {"content-length": length}
        await plain.refused(400, "invalid_request", "POST", HISTORY, content=[b"{}"], headers=told)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_chunks(plain: Api, size: int) -> None:
    """A body may come in pieces of any size, also cut within a character; empty pieces are none."""
    content = json.dumps({"role": "user", "content": "नमस्ते 👋"}, ensure_ascii=False).encode()
    chunks = [content[at : at + size] for at in range(0, len(content), size)]
    assert (await plain.post(HISTORY, content=[b"", *chunks, b""])).status == 200
    assert (await plain.ok("GET", HISTORY))["messages"][0]["content"] == "नमस्ते 👋"


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("application/merge-patch+json", 200),
        ("application/vnd.api+json;v=1", 200),
        ("text/plain", 415),
        ("text/json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/xml", 415),
        ("application/jsonx", 415),
        ("json", 415),
        ("", 415),
        ("*/*", 415),
    ],
)
async def test_media_types(plain: Api, media_type: str, status: int) -> None:
    """A body is JSON by its media type, or 415: so a form of another site's page cannot write."""
    body = {"role": "user", "content": "x"}
    answer = await plain.post(HISTORY, body, headers={"content-type": media_type})
    assert answer.status == status
    if status == 415:
        assert answer.json["code"] == "unsupported_media_type"


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "GZIP", "identity, gzip", "x"])
async def test_bodies_are_not_unpacked(plain: Api, coding: str) -> None:
    """A compressed body is 415, and told how it has to come; it is not taken for broken JSON."""
    body = gzip.compress(b'{"role":"user","content":"x"}')
    answer = await plain.post(HISTORY, content=body, headers={"content-encoding": coding})
    assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")
    assert "Content-Encoding" in answer.json["error"]
    assert answer.headers["accept-encoding"] == "identity"
    await plain.refused(
        415,
        "unsupported_media_type",
        "POST",
        HISTORY,
        content=[body],
        headers={"transfer-encoding": f"{coding}, chunked"},
    )
    answer = await plain.post(
        HISTORY, {"role": "user", "content": "x"}, headers={"content-encoding": "identity"}
    )
    assert answer.status == 200


async def test_bodies_that_are_not_asked_for(plain: Api) -> None:
    """GET, DELETE and ending a session do not look at a body."""
    await plain.ok("POST", "/api/session/create", SESSION)
    for method, path in (
        ("GET", "/api/session/session_123"),
        ("PUT", "/api/session/session_123/end"),
        ("DELETE", "/api/session/session_123/interruptions"),
        ("DELETE", "/api/session/session_123"),
    ):
        assert (await plain(method, path, content=b"{not json")).status == 200


async def test_nothing_inside_is_told(plain: Api) -> None:
    """A fault of ours is a 500 problem that tells nothing; no error shows what was sent."""
    secret = "4111-1111-1111-1111"
    told: list[Answer] = [
        await plain.post(HISTORY, content=f'{{"role":"user","content":"{secret}'.encode()),
        await plain.post(HISTORY, {"role": "user", "content": [secret]}),
        await plain.post(HISTORY, {"role": secret, "content": "x"}),
        await plain.post("/api/session/create", {"sessionId": "s", "userId": secret, "language": [secret]}),
        await plain.post(HISTORY, {"role": "user", "content": "x", "toolCalls": secret}),
    ]
    for answer in told:
        assert answer.status == 400 and secret.encode() not in answer.body
