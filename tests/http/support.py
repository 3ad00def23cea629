"""A client that speaks ASGI to the application, byte by byte, and holds every answer against the document."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

import jsonschema_rs
import uvicorn

from samvad import Samvad, open_samvad
from samvad.errors import SamvadError
from samvad.http.app import create_app, routes
from samvad.http.openapi import document
from samvad.http.routing import Route, Router
from tests.support import wait_until

START_MS = 1_736_528_400_000  # 2025-01-10T17:00:00.000Z
SESSION = {"sessionId": "session_123", "userId": "user_456"}


class HandClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.ms = START_MS

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return self.ms

    def monotonic_s(self) -> float:
        """The same clock, in seconds."""
        return self.ms / 1000

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.ms += round(seconds * 1000)


@dataclass(frozen=True)
class Answer:
    """What came back. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def encoded(name: str) -> str:
    """An id as one segment of a path."""
    return quote(name, safe="")


class Api:
    """One application, asked in process. Every answer must be as the OpenAPI document says."""

    def __init__(self, samvad: Samvad, app: Any = None, root: str = "") -> None:
        self.samvad = samvad
        self.app: Any = app or create_app(samvad)
        self.root = root
        self.answers = 0

    async def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
        query: str = "",
    ) -> Answer:
        """Send a request. `path` is as on the wire; `body` is sent as JSON, `content` as it is, chunk by chunk."""
        sent = {"content-type": "application/json"} if body is not None or content is not None else {}
        sent |= {name.lower(): value for name, value in (headers or {}).items()}
        data = json.dumps(body, ensure_ascii=False).encode() if body is not None else content or b""
        chunks = [data] if isinstance(data, bytes) else list(data)
        if isinstance(data, bytes) and data and "content-length" not in sent:
            sent["content-length"] = str(len(data))
        raw = (self.root + path).encode()
        answer = await ask(self.app, method, raw, query.encode(), sent, chunks)
        self.answers += 1
        conforms(method, path, answer)
        return answer

    async def get(self, path: str, **more: Any) -> Answer:
        """GET."""
        return await self("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> Answer:
        """POST."""
        return await self("POST", path, body, **more)

    async def put(self, path: str, body: Any = None, **more: Any) -> Answer:
        """PUT."""
        return await self("PUT", path, body, **more)

    async def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The JSON of an answer that must be a success."""
        answer = await self(method, path, body, **more)
        assert answer.status == 200, answer.body
        return answer.json

    async def say(self, user: str, *contents: str, **fields: Any) -> list[int]:
        """Append messages of the user, one by one; their `seq`."""
        path = f"/api/session/{encoded(user)}/history"
        return [
            (await self.ok("POST", path, {"role": "user", "content": content, **fields}))["seq"]
            for content in contents
        ]

    async def refused(
        self, status: int, code: str, method: str, path: str, body: Any = None, **more: Any
    ) -> Answer:
        """An answer that must be this error."""
        answer = await self(method, path, body, **more)
        assert (answer.status, answer.json["code"]) == (status, code), answer.body
        return answer


async def ask(
    app: Any, method: str, raw_path: bytes, query: bytes, headers: dict[str, str], chunks: list[bytes]
) -> Answer:
    """One HTTP request over ASGI 3, as a server would hand it over."""
    from urllib.parse import unquote

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(raw_path.decode(), errors="replace"),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8080),
        "state": {},
    }
    waiting = list(chunks) or [b""]
    sent: list[dict[str, Any]] = []
    over = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if waiting:
            body = waiting.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(waiting)}
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *parts = sent
    names = [(name.decode(), value.decode("latin-1")) for name, value in start["headers"]]
    assert len(dict(names)) == len(names), f"a header stands there twice: {names}"
    body = b"".join(part.get("body", b"") for part in parts)
    if method != "HEAD" and "content-length" in dict(names):
        assert int(dict(names)["content-length"]) == len(body)
    return Answer(start["status"], dict(names), body)


# --- the document ------------------------------------------------------------------------------------------


@cache
def openapi(*, asks: bool = True) -> dict[str, Any]:
    """The document, decoded; `asks`: of a server that answers nobody unknown."""
    found: dict[str, Any] = json.loads(document(asks=asks))
    return found


@cache
def _router() -> Router:
    return Router(routes())


def _route(method: str, path: str) -> Route | None:
    """The route that is asked for; None where there is no such resource or method, or an id is no UTF-8."""
    try:
        return _router().find(method, path.encode())[0]
    except SamvadError:
        return None


@cache
def validator(*place: str) -> Any:
    """A validator for the schema at a place of the document."""
    schema: Any = openapi()
    for name in place:
        schema = schema[name]
    whole = {**schema, "components": openapi()["components"]}
    return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)


def conforms(method: str, path: str, answer: Answer) -> None:
    """Fail unless the document allows this answer to this request."""
    assert answer.status < 500 or answer.status == 503, answer.body
    assert answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert b"Traceback" not in answer.body
    if method == "HEAD":
        assert answer.body == b""
        return
    route = _route(method, path)
    if route is None:
        assert answer.status in (400, 401, 403, 404, 405, 429)
        assert not [*validator("components", "schemas", "Problem").iter_errors(answer.json)]
        return
    where = f"{route.method} {route.path} {answer.status}"
    answers = openapi()["paths"][route.path][route.method.lower()]["responses"]
    assert str(answer.status) in answers, f"{where} is not in the document: {answer.body!r}"
    documented = answers[str(answer.status)]
    for name in documented.get("headers", {}):
        header = openapi()["components"]["headers"][name]
        value: Any = answer.headers[name.lower()]
        if header["schema"]["type"] == "integer":
            value = int(value)
        jsonschema_rs.validate(header["schema"], value)
    if "content" not in documented:
        assert answer.body == b"", where
        return
    media_type = answer.headers["content-type"].split(";")[0]
    assert {media_type, "*/*"} & documented["content"].keys(), f"{where} answered {media_type}"
    if media_type.endswith("json"):
        place = ("paths", route.path, route.method.lower(), "responses", str(answer.status))
        check = validator(*place, "content", media_type, "schema")
        faults = [f"{fault.instance_path}: {fault.message}" for fault in check.iter_errors(answer.json)]
        assert not faults, f"{where}: {faults} in {answer.body!r}"


@contextlib.asynccontextmanager
async def opened(url: str = "memory://", **settings: Any) -> AsyncIterator[Api]:
    """A service and its application, open."""
    async with open_samvad(url, **settings) as samvad:
        yield Api(samvad)


@contextlib.contextmanager
def serving(root_path: str = "", app: Any = None, **settings: Any) -> Iterator[int]:
    """A server on a free port, in a thread of its own; `settings` are more of uvicorn's."""
    bound = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY only on such
    bound.bind(("127.0.0.1", 0))
    app = app or create_app(open_samvad("memory://"))
    settings |= {"log_config": None, "lifespan": "on", "root_path": root_path, "access_log": False}
    config = uvicorn.Config(app, **settings)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])))
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), "the server is up")
        yield bound.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        bound.close()
        assert not thread.is_alive()
