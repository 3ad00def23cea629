"""CORS: off unless origins are named, and then for these alone; and how it meets the checks of `Host` and `Origin`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from samvad import open_samvad
from samvad.errors import SetupError
from samvad.http.app import SamvadApp, create_app, routes
from samvad.http.browsers import checked_origins
from tests.auth.test_access_matrix import OF_ASHA, place
from tests.auth.world import ASHA, bearing, world
from tests.cli.processes import refusal
from tests.http.support import Answer, Api, ask

pytestmark = pytest.mark.anyio
APP, OTHER = "https://app.example", "http://localhost:3000"
HOSTS = {"localhost", "127.0.0.1", "[::1]"}
STATE = "/api/session/user_456/state"
FOREIGN = [
    "https://evil.example",
    "null",
    "http://app.example",
    "https://app.example:8443",
    "https://app.example.evil.example",
    "https://evil-app.example",
    "https://sub.app.example",
    "https://app.example/",
    "https://app.exampl",
    "*",
]


@pytest.fixture
async def app() -> AsyncIterator[SamvadApp]:
    """An application that two origins may ask, under the names of this machine."""
    async with open_samvad("memory://") as samvad:
        yield create_app(samvad, hosts=HOSTS, origins=[APP, OTHER])


async def asked(app: Any, method: str, path: str, **headers: str) -> Answer:
    """A request as a browser sends it; without a body."""
    sent = {"host": "localhost:8080", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await ask(app, method, path.encode(), b"", sent, [])


def granted(answer: Answer) -> dict[str, str]:
    """What an answer says of CORS."""
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


@pytest.mark.parametrize("origin", [APP, OTHER])
async def test_a_preflight_of_every_route(app: SamvadApp, origin: str) -> None:
    """What the API knows may be sent by a page of a named origin: the method, and each header that the API reads."""
    for route in routes():
        answer = await asked(
            app,
            "OPTIONS",
            place(route, OF_ASHA),
            origin=origin,
            access_control_request_method=route.method,
            access_control_request_headers="authorization,content-type,idempotency-key,if-match",
        )
        assert (answer.status, answer.body) == (204, b""), route
        found = granted(answer)
        assert found["access-control-allow-origin"] == origin
        assert route.method in found["access-control-allow-methods"].split(", ")
        allowed = found["access-control-allow-headers"].lower().split(", ")
        assert {"authorization", "content-type", "idempotency-key", "if-match", "if-none-match"} <= set(
            allowed
        )
        assert "access-control-allow-credentials" not in found and "*" not in "".join(found.values())
        assert 0 < int(found["access-control-max-age"]) <= 7200
        assert answer.headers["vary"] == "Origin" and "content-length" not in answer.headers


@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_preflight_for_any_other_page_is_refused(app: SamvadApp, origin: str) -> None:
    """Nothing is granted: the browser does not send what the page wanted to send."""
    answer = await asked(app, "OPTIONS", STATE, origin=origin, access_control_request_method="POST")
    assert answer.status == 405 and granted(answer) == {}


async def test_what_there_is_not_is_granted_to_nobody(app: SamvadApp) -> None:
    """An unknown path or method, or an OPTIONS that asks for nothing, is answered as without CORS."""
    for path, method, status in (("/nope", "GET", 404), (STATE, "DELETE", 405), (STATE, "get", 405)):
        answer = await asked(app, "OPTIONS", path, origin=APP, access_control_request_method=method)
        assert answer.status == status and "access-control-allow-methods" not in granted(answer)
    assert (await asked(app, "OPTIONS", STATE, origin=APP)).status == 405
    assert (await asked(app, "OPTIONS", STATE)).status == 405


@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_page_of_another_origin_reads_nothing(app: SamvadApp, origin: str) -> None:
    """Its GET carries no permission to read, its change is refused; caches keep the answers apart."""
    read = await asked(app, "GET", "/healthz", origin=origin)
    assert read.status == 200 and granted(read) == {} and read.headers["vary"] == "Origin"
    changed = await asked(app, "DELETE", "/api/session/session_1", origin=origin)
    assert changed.status == 403 and granted(changed) == {}


async def test_scripts_of_a_named_origin_read_answers_and_errors(app: SamvadApp) -> None:
    """Also those headers that a client needs; errors as well, or it would never learn what was wrong."""
    api = Api(app.samvad, app)
    headers = {"host": "localhost:8080", "origin": APP}
    written = await api.post(STATE, {"a": 1}, headers=headers)
    missing = await api.get("/api/session/session_1", headers=headers)
    nowhere = await api.get("/nope", headers=headers)
    assert [each.status for each in (written, missing, nowhere)] == [200, 404, 404]
    for answer in (written, missing, nowhere):
        assert answer.headers["access-control-allow-origin"] == APP
        exposed = set(answer.headers["access-control-expose-headers"].lower().split(", "))
        assert {"etag", "ratelimit", "ratelimit-policy", "retry-after", "x-request-id"} <= exposed
        assert "access-control-allow-credentials" not in answer.headers


async def test_a_named_origin_still_needs_a_token() -> None:
    """CORS says what a browser hands over; who may ask is another question. The refusal can be read."""
    async with world() as here:
        app = create_app(here.samvad, auth=here.auth, origins=[APP])
        path = f"/api/session/{ASHA}/profile"
        refused = await asked(app, "GET", path, origin=APP)
        assert refused.status == 401 and refused.headers["access-control-allow-origin"] == APP
        let_in = await asked(app, "GET", path, origin=APP, **bearing(here.token(ASHA)))
        assert let_in.status == 200
        preflight = await asked(app, "OPTIONS", path, origin=APP, access_control_request_method="GET")
        assert preflight.status == 204  # browsers send none with it


async def test_off_by_default() -> None:
    """No origin is granted anything, nor told that it could be."""
    async with open_samvad("memory://") as samvad:
        app = create_app(samvad)
        answer = await asked(app, "OPTIONS", STATE, origin=APP, access_control_request_method="POST")
        assert answer.status == 405 and granted(answer) == {}
        read = await asked(app, "GET", "/healthz", origin=APP)
        assert granted(read) == {} and "vary" not in read.headers
        assert (await asked(app, "DELETE", "/api/session/session_1", origin=APP)).status == 403


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_a_named_origin_does_not_open_other_names_of_the_host(app: SamvadApp, method: str) -> None:
    """DNS rebinding is refused as before: the page's origin says nothing about the name it asked."""
    headers = {"host": "evil.example", "origin": APP, "access_control_request_method": "GET"}
    assert (await asked(app, method, "/healthz" if method != "POST" else STATE, **headers)).status == 403


@pytest.mark.parametrize(
    ("origin", "opens"), [(APP, True), (None, True), *((each, False) for each in FOREIGN)]
)
async def test_sockets_of_named_origins_open(app: SamvadApp, origin: str | None, opens: bool) -> None:
    """A browser asks nobody before it opens a socket: the server alone can refuse one."""
    sent: list[dict[str, Any]] = []
    headers = [(b"host", b"localhost:8080")]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    arriving = [{"type": "websocket.connect"}, {"type": "websocket.disconnect"}]

    async def receive() -> dict[str, Any]:
        return arriving.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/api/live", "raw_path": b"/api/live", "headers": headers}
    await app({**scope, "extensions": {"websocket.http.response": {}}}, receive, send)
    assert sent[0]["type"] == ("websocket.accept" if opens else "websocket.http.response.start")
    assert opens or sent[0]["status"] == 403


def test_how_origins_are_written() -> None:
    """As browsers write them: in lower case, without the usual port."""
    given = (
        "https://App.example, http://localhost:3000,https://b.example:443 ,http://[::1]:9,http://10.0.0.1:80"
    )
    assert checked_origins(given.split(",")) == {
        b"https://app.example",
        b"http://localhost:3000",
        b"https://b.example",
        b"http://[::1]:9",
        b"http://10.0.0.1",
    }
    assert checked_origins([""]) == checked_origins([]) == frozenset()


BAD = [
    "*",
    "null",
    "app.example",
    "https://*.example",
    "https://app.example/",
    "https://app.example/path",
    "https://user@app.example",
    "https://app.example?x",
    "https://app.example#x",
    "https://",
    "ftp://app.example",
    "https://app.example:99999",
    "https://app.example:",
    "https://app example",
    "https://äpp.example",
    "https://app.example;https://b.example",
    "https://[::1",
    "file://",
    "chrome-extension://abc",
]


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_origin_is_refused(bad: str) -> None:
    """Nobody believes that a wildcard or a path works, and finds out otherwise later."""
    with pytest.raises(SetupError, match="SAMVAD_CORS_ORIGINS takes exact origins"):
        checked_origins([APP, bad])


def test_a_bad_setting_is_one_line(tmp_path: Path) -> None:
    """And exit code 2."""
    arguments = ("serve", "--port", "0", "--store", "memory://")
    told = refusal(arguments, tmp_path, {"SAMVAD_CORS_ORIGINS": "https://app.example,*"})
    assert told.endswith("not '*'.")
