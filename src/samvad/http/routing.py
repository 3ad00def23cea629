"""The table of routes, and how a path finds its route.

Paths are taken apart before they are percent-decoded, so that an id never turns into two segments:
`a%2Fb` is the id «a/b» (which is then refused), not the path a/b. Every route of the API is in one table,
from which the OpenAPI document is generated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import quote, unquote_to_bytes

from samvad.errors import InvalidId, MethodNotAllowed, NotFound
from samvad.http.access import Access

if TYPE_CHECKING:
    from samvad.http.browsers import Headers
    from samvad.http.call import Call, Reply

Handler = Callable[["Call"], Awaitable["Reply | Stream"]]


class Stream(Protocol):
    """An answer that is sent piece by piece. What can be refused was refused before there is one."""

    def end(self) -> None:
        """The server stops: end soon."""
        ...

    async def run(
        self,
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
        headers: Headers,
    ) -> None:
        """Send it all, with the headers of every answer; the client may go away meanwhile."""
        ...


class Route(NamedTuple):
    """One method of one path; `{name}` segments are parameters. `name` is unique: the operationId.

    `access` says who may ask at all; whom the answer is about is checked by the service that acts for who asks.
    """

    method: str
    path: str
    handler: Handler
    name: str
    access: Access


class _Node:
    __slots__ = ("literals", "methods", "parameter")

    def __init__(self) -> None:
        self.literals: dict[bytes, _Node] = {}
        self.parameter: _Node | None = None
        self.methods: dict[str, Route] = {}


class Router:
    """Finds routes by their path's segments; fixed words win over parameters."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        self.routes = tuple(routes)
        for route in self.routes:
            node = self._root
            for segment in route.path.strip("/").split("/"):
                if segment.startswith("{"):
                    node.parameter = node.parameter or _Node()
                    node = node.parameter
                else:
                    node = node.literals.setdefault(segment.encode(), _Node())
            node.methods[route.method] = route

    def find(self, method: str, path: bytes) -> tuple[Route, list[str]]:
        """The route and its parameters, decoded. NotFound, or MethodNotAllowed with the methods there are."""
        raw: list[bytes] = []
        node = self._walk(self._root, path.split(b"/"), 1, raw)
        if node is None:
            raise NotFound("There is no such resource; /openapi.json lists those that there are.")
        route = node.methods.get(method)
        if route is None and method == "HEAD":
            route = node.methods.get("GET")
        if route is None:
            raise MethodNotAllowed(
                f"This resource knows {', '.join(_allowed(node))}, not {method}.", allow=_allowed(node)
            )
        return route, [_decode(segment) for segment in raw] if raw else raw  # type: ignore[return-value]

    def _walk(self, node: _Node, segments: list[bytes], at: int, raw: list[bytes]) -> _Node | None:
        if at == len(segments):
            return node if node.methods else None
        segment = segments[at]
        literal = node.literals.get(segment)
        if literal is not None:
            found = self._walk(literal, segments, at + 1, raw)
            if found is not None:
                return found
        if node.parameter is None or not segment:
            return None
        raw.append(segment)
        found = self._walk(node.parameter, segments, at + 1, raw)
        if found is None:
            raw.pop()
        return found


def _allowed(node: _Node) -> list[str]:
    methods = set(node.methods)
    if "GET" in methods:
        methods.add("HEAD")
    return sorted(methods)


def _decode(segment: bytes) -> str:
    try:
        return (unquote_to_bytes(segment) if b"%" in segment else segment).decode()
    except UnicodeDecodeError:
        raise InvalidId("An id in the path is not valid UTF-8.") from None


def own_path(scope: dict[str, Any]) -> bytes:
    """The path below the place where the application is mounted, percent-encoded as it came."""
    raw: bytes | None = scope.get("raw_path")
    path: bytes = raw.split(b"?", 1)[0] if raw else quote(scope["path"]).encode()
    root = scope.get("root_path", "").strip("/")
    # A server may hand over the path with or without the root before it.
    if root and f"{scope['path']}/".startswith(f"/{root}/"):
        segments = path.split(b"/")
        path = b"/" + b"/".join(segments[1 + root.count("/") + 1 :])
    return path
