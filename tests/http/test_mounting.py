"""The application inside another one, and behind servers that tell where it is mounted."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from samvad import Samvad, open_samvad
from samvad.http.app import create_app
from tests.http.support import SESSION, Api, encoded, openapi

pytestmark = pytest.mark.anyio


async def _hello(request: Any) -> PlainTextResponse:
    return PlainTextResponse("the host's own")


def host(samvad: Samvad, root: str) -> Starlette:
    """A Starlette application that has a route of its own, and ours below `root`."""
    inner: Any = create_app(samvad)
    *outer, last = root.strip("/").split("/")
    routes = [Mount(f"/{last}", app=inner)]
    for segment in reversed(outer):
        routes = [Mount(f"/{segment}", routes=routes)]

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with samvad:
            yield

    return Starlette(routes=[Route("/hello", _hello), *routes], lifespan=lifespan)


@contextlib.asynccontextmanager
async def mounted(root: str) -> AsyncIterator[Api]:
    """Our application below `root` of another, whose lifespan opens the service."""
    samvad = open_samvad("memory://")
    app = host(samvad, root)
    async with app.router.lifespan_context(app):
        yield Api(samvad, app, root)


@pytest.mark.parametrize("root", ["/assistant", "/api/assistant", "/a/b/c"])
async def test_mounted(root: str) -> None:
    """All is as it was, one, two or three levels down; hostile ids too."""
    async with mounted(root) as api:
        for name in ("user_456", "उपयोगकर्ता", "a%2Fb", "assistant", "api", "..."):
            await api.ok("POST", f"/api/session/{encoded(name)}/state", {"a": 1})
            assert (await api.ok("GET", f"/api/session/{encoded(name)}/state"))["userId"] == name
        await api.ok("POST", "/api/session/create", SESSION)
        await api.ok("GET", "/api/session/session_123")
        await api.refused(400, "invalid_id", "GET", "/api/session/a%2Fb/state")
        await api.refused(404, "not_found", "GET", "/nothing")
        await api.refused(404, "not_found", "GET", f"{root}/healthz")
        await api.refused(405, "method_not_allowed", "DELETE", "/healthz")
        await api.ok("GET", "/healthz")
        assert (await api.get("/docs")).status == 200


@pytest.mark.parametrize("root", ["/assistant", "/api/assistant"])
async def test_the_document_says_where(root: str) -> None:
    """The server's address in the document is where the application is mounted; all else is the same."""
    async with mounted(root) as api:
        document = await api.ok("GET", "/openapi.json")
        assert document["servers"] == [{"url": root}]
        assert {**document, "servers": openapi()["servers"]} == openapi(asks=False)
    assert openapi()["servers"] == [{"url": "/"}]


async def test_the_host_keeps_its_own() -> None:
    """The host's routes are its own, and ours are not at its root."""
    samvad = open_samvad("memory://")
    app = host(samvad, "/assistant")
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://host") as client:
            assert (await client.get("/hello")).text == "the host's own"
            assert (await client.get("/healthz")).status_code == 404
            assert (await client.get("/assistant/healthz")).status_code == 200
            assert (await client.get("/assistantx/healthz")).status_code == 404


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        *((told, True) for told in ("", "/assistant", "/assistant/", "/api/assistant", "/api")),
        *((told, False) for told in ("", "/assistant", "/assistant/", "/api/assistant")),
    ],
)
async def test_a_proxy_in_front(told: str, kept: bool) -> None:
    """A server may hand over the path with the root before it (uvicorn), or without it (others)."""
    async with open_samvad("memory://") as samvad:
        inner = create_app(samvad)

        async def server(scope: Any, receive: Any, send: Any) -> None:
            root = told.rstrip("/") if kept else ""
            raw = root.encode() + scope["raw_path"]
            scope = {**scope, "root_path": told, "raw_path": raw, "path": root + scope["path"]}
            await inner(scope, receive, send)

        api = Api(samvad, server)
        await api.ok("POST", "/api/session/user_456/state", {"a": 1})
        await api.ok("GET", "/healthz")
        assert (await api.ok("GET", "/openapi.json"))["servers"] == [{"url": told.rstrip("/") or "/"}]


async def test_a_server_without_raw_paths() -> None:
    """`raw_path` is optional in ASGI; ids in any script work without it."""
    async with open_samvad("memory://") as samvad:
        inner = create_app(samvad)

        async def server(scope: Any, receive: Any, send: Any) -> None:
            await inner({name: value for name, value in scope.items() if name != "raw_path"}, receive, send)

        api = Api(samvad, server)
        for name in ("user_456", "उपयोगकर्ता ४५६", "100%"):
            await api.ok("POST", f"/api/session/{encoded(name)}/state", {"a": 1})
            assert (await api.ok("GET", f"/api/session/{encoded(name)}/state"))["userId"] == name


async def test_the_lifespan_opens_and_closes() -> None:
    """Run by a server of its own, the application opens the service, and closes it at the end."""
    from starlette.testclient import TestClient

    samvad = open_samvad("memory://")
    app: Any = create_app(samvad)
    with TestClient(app) as client:
        assert client.post("/api/session/u/state", json={"a": 1}).status_code == 200
    assert not samvad.store._open  # type: ignore[attr-defined]
