"""The ASGI application: one request to one handler, every error to a problem document.

It runs under `samvad serve`, and can be mounted into another ASGI application whose lifespan opens the
service: `app.mount("/assistant", create_app(samvad))`.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from samvad import limits, logs, tracing
from samvad.auth.authenticator import Authenticator, Identity
from samvad.errors import Overloaded, SamvadError, TooManyRequests, Unauthenticated
from samvad.http.access import (
    LIVE,
    NOBODY,
    OPEN,
    OPERATOR,
    USERS,
    AccessRecord,
    bearer,
    check_access,
    live_name,
    usual_bearer,
)
from samvad.http.asked import Asked
from samvad.http.browsers import DATA, PREFLIGHT, Browsers, Headers
from samvad.http.call import WHOLE_ANSWER, Call, Disconnected, Reply
from samvad.http.live_events import open_events
from samvad.http.live_socket import PATH as LIVE_PATH
from samvad.http.live_socket import refuse_socket, serve_socket
from samvad.http.metrics import CONTENT_TYPE, Metrics
from samvad.http.problems import problem_reply
from samvad.http.rate_limits import Limiter, rate_headers, told_size
from samvad.http.resources import (
    archive,
    batch,
    cost,
    docs,
    health,
    interruptions,
    knowledge,
    privacy,
    sessions,
    talk,
    users,
)
from samvad.http.resources import (
    auth as auth_routes,
)
from samvad.http.routing import Route, Router, Stream, own_path
from samvad.http.spans import server_span
from samvad.http.windows import Left
from samvad.records import UserKey

if TYPE_CHECKING:
    from samvad.live.noting import Tell
    from samvad.live.service import LiveService
    from samvad.runtime import Samvad

_log = logging.getLogger(__name__)

EVENTS, EVENTS_PATH = "liveEvents", "/api/live/events"

_NOBODY = Identity(NOBODY, "none")
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def routes() -> tuple[Route, ...]:
    """All routes of the API; the OpenAPI document and the tests are made from this table."""
    modules: Iterable[Any] = (
        users,
        privacy,
        sessions,
        archive,
        batch,
        cost,
        interruptions,
        knowledge,
        auth_routes,
        health,
        docs,
        talk,
    )
    found = tuple(route for module in modules for route in module.ROUTES)
    events = Route("GET", EVENTS_PATH, open_events, EVENTS, USERS)
    return (*found, events, Route("GET", "/metrics", _metrics, "metrics", OPERATOR))


async def _metrics(call: Call) -> Reply:
    """What Prometheus reads."""
    metrics: Metrics = call.scope["samvad.metrics"]
    metrics.lag.start()
    return Reply(metrics.render(), media_type=CONTENT_TYPE)


async def _preflight(call: Call) -> Reply:
    """What a browser asks before it sends what a page of another origin wants to send."""
    return Reply(b"", 204, headers=PREFLIGHT)


_PREFLIGHT = Route("OPTIONS", "*", _preflight, "preflight", OPEN)


class SamvadApp:
    """The service as an ASGI application. `samvad` is open, or is opened by the application's lifespan."""

    def __init__(
        self,
        samvad: Samvad,
        *,
        hosts: Iterable[str] | None = None,
        live: Callable[[], LiveService] | None = None,
        auth: Authenticator | None = None,
        limiter: Limiter | None = None,
        origins: Iterable[str] = (),
    ) -> None:
        self.samvad = samvad
        self.auth = auth or Authenticator(samvad.core.clock)
        self._limiter = limiter
        # Called with each answered request, for who keeps a log of who did what.
        self.on_access: list[Callable[[AccessRecord], None]] = []
        # Whether they want to hear of an answer with this route and status.
        self.is_noted: Callable[[str, int], bool] = lambda route, status: True
        # Called with the name of the route before a request is carried out; raises where it must not be.
        self.before: list[Callable[[str], None]] = []
        self._make_live = live
        self._live: LiveService | None = None
        self._streams: set[Stream] = set()
        self._exports: set[UserKey] = set()  # users of whom an archive is being sent
        self._browsers = Browsers(hosts, origins)
        self.router = Router(routes())
        # Called with route, status and seconds of what was answered, where an access log is kept.
        self.access_log: Callable[[str, int, float], None] | None = None
        self.metrics = Metrics(samvad, self.auth, limiter, lambda: len(self._streams))
        self._instance = os.urandom(4).hex()
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection's request (ASGI 3)."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(receive, send)
            return
        asked = Asked(f"{self._instance}-{next(self._numbers)}")
        token = logs.context.set(asked)
        self.metrics.under_way += 1
        try:
            answer = self._http if kind == "http" else self._websocket
            if tracing.tracer is None:
                await answer(scope, receive, send, asked)
            else:
                with server_span(scope, asked):
                    await answer(scope, receive, send, asked)
        finally:
            self.metrics.under_way -= 1
            logs.context.reset(token)

    async def _http(self, scope: Scope, receive: Receive, send: Send, asked: Asked) -> None:
        started_s = time.perf_counter()
        request_id = asked.request_id
        name = "none"
        identity: Identity | None = None
        params: list[str] = []
        left: list[Left] = []
        rates: Headers = ()  # what is left, where it was told so
        call: Call | None = None
        whose: str | None = None
        try:
            path, fields = own_path(scope), dict(scope["headers"])
            try:
                route, params = self._route(scope, path)
                name = route.name
                asked.route, asked.params = route, params
                self._browsers.check(scope, fields)
                if not self.samvad.is_open:  # mounted where nobody runs its lifespan
                    await self.samvad.open()
                if name == "metrics":
                    scope["samvad.metrics"] = self.metrics
                elif name == archive.EXPORT:
                    scope["samvad.exports"] = self._exports
                elif name == EVENTS:
                    scope["samvad.streams"] = self._streams
                if not route.access.open:
                    token = usual_bearer(scope, fields)
                    known = None if token is None else self.auth.known(token)
                    identity = known or await self._identify(scope)
                    asked.identity = identity
                    if self._limiter is not None:
                        size = told_size(fields)
                        admitted = self._limiter.admit(scope, identity, name, size or 0)
                        if not isinstance(admitted, list | tuple):
                            admitted = await admitted
                        if isinstance(admitted, tuple):
                            rates = admitted
                        else:
                            left = admitted
                        if size is None:
                            receive = self._counted(scope, receive, identity, self._limiter)
                        if name == batch.BATCH:
                            scope[batch.COUNT] = partial(self._limiter.operations, scope, identity, left)
                    check_access(route.access, identity.principal, params)
                for check in self.before:
                    check(name)
                asked.call = call = Call(
                    scope, receive, path, params, self.samvad, identity or _NOBODY, self.auth
                )
                if name == EVENTS and len(self._streams) >= limits.LIVE_SOCKETS_MAX:
                    raise Overloaded("Too many event streams; try again soon.")
                reply = await route.handler(call)
                if not isinstance(reply, Reply):
                    self._tell(
                        AccessRecord(request_id, name, 200, identity, self._address(scope), tuple(params))
                    )
                    headers = self._headers(scope, request_id, DATA, rates or rate_headers(left))
                    await self._run_stream(reply, receive, send, headers)
                    self._answered(asked, name, 200, started_s)
                    return
            except SamvadError as error:
                if error.status >= 500:
                    told = {"route": name, "status": error.status, "code": error.code}
                    _log.warning("request failed", extra=told)
                asked.code = error.code
                reply = problem_reply(error, request_id)
                if isinstance(error, TooManyRequests):
                    left, whose = error.details.get("left", left), error.details.get("whose")
                    rates = ()
        except Disconnected:
            return
        except Exception:  # the top of the request: a fault of ours is logged, and told without its insides
            _log.exception("a handler failed", extra={"route": name})
            reply = problem_reply(SamvadError("Something went wrong; the log has the rest."), request_id)
        self._answered(asked, name, reply.status, started_s)
        if self.on_access and self.is_noted(name, reply.status):
            users = () if call is None else tuple(call.users)
            self._tell(
                AccessRecord(
                    request_id, name, reply.status, identity, self._address(scope), tuple(params), users
                )
            )
        if whose is not None and self._limiter is not None and await self._limiter.holding.hold(whose):
            reply = reply._replace(headers=(*reply.headers, *_hang_up(scope)))
        body = reply.body
        headers = (
            *reply.described(),
            *self._headers(scope, request_id, reply.security, rates or rate_headers(left)),
            *reply.headers,
        )
        if WHOLE_ANSWER in scope.get("extensions", ()):
            await send({"type": WHOLE_ANSWER, "status": reply.status, "headers": headers, "body": body})
            return
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _answered(self, asked: Asked, route: str, status: int, started_s: float) -> None:
        asked.status = status
        seconds = time.perf_counter() - started_s
        self.metrics.observe(route, status, seconds)
        if self.access_log is not None:
            self.access_log(route, status, seconds)

    def _route(self, scope: Scope, path: bytes) -> tuple[Route, list[str]]:
        if scope["method"] == "OPTIONS" and (asked := self._browsers.asked_before(scope)) is not None:
            self.router.find(asked, path)  # there must be such a request
            return _PREFLIGHT, []
        return self.router.find(scope["method"], path)

    def _headers(self, scope: Scope, request_id: str, security: Headers, rates: Headers) -> Headers:
        """The headers of every answer."""
        return (
            *security,
            (b"x-request-id", request_id.encode()),
            *rates,
            *self._browsers.headers(scope),
        )

    async def _run_stream(self, stream: Stream, receive: Receive, send: Send, headers: Headers) -> None:
        self._streams.add(stream)
        try:
            await stream.run(receive, send, headers)
        finally:
            self._streams.discard(stream)

    def stop_streams(self) -> None:
        """The server stops: end what would go on for ever, or for a while."""
        if self._limiter is not None:
            self._limiter.let_go()
        for stream in self._streams:
            stream.end()
        if self._live is not None:
            self._live.say_goodbye()

    @property
    def live(self) -> LiveService:
        """Live conversations; made, and what they need imported, when the first one begins."""
        if self._live is None:
            if self._make_live is None:
                from samvad.live.opening import plain_live

                self._live = plain_live(self.samvad)
            else:
                self._live = self._make_live()
            self.metrics.live = self._live
        return self._live

    async def _websocket(self, scope: Scope, receive: Receive, send: Send, asked: Asked) -> None:
        started_s = time.perf_counter()
        if own_path(scope) != LIVE_PATH:
            await receive()
            await refuse_socket(scope, send)
            return
        request_id = asked.request_id
        asked.path = LIVE_PATH.decode()
        identity: Identity | None = None
        try:
            self._browsers.check(scope, dict(scope["headers"]))
            if not self.samvad.is_open:
                await self.samvad.open()
            identity = await self._identify(scope)
            if self._limiter is not None:
                admitted = self._limiter.admit(scope, identity, "live", 0)
                if not isinstance(admitted, list | tuple):
                    await admitted
            check_access(LIVE, identity.principal)
            asked.identity = identity
            for check in self.before:
                check(live_name("startLive", identity))
            live = self.live
        except SamvadError as error:
            self._tell(AccessRecord(request_id, "live", error.status, identity, self._address(scope), ()))
            await receive()
            await refuse_socket(scope, send, error, request_id)
            asked.code = error.code
            self._answered(asked, "live", error.status, started_s)
            return
        status = 500
        try:
            service = self.samvad.acting_as(identity.principal)
            access, limit = (self.auth, identity), self._frames(scope, identity)
            tell = self._live_tell(scope, request_id, identity)
            status = await serve_socket(scope, receive, send, live, service, access, limit, tell)
        except Exception:  # the top of the connection
            _log.exception("a live connection failed")
        self._answered(asked, "live", status, started_s)

    def _live_tell(self, scope: Scope, request_id: str, identity: Identity) -> Tell | None:
        """What hears of the starts and ends of a live connection."""
        if not self.on_access:
            return None

        def tell(what: str, status: int, user_id: str | None, session_id: str | None) -> None:
            users = () if user_id is None else (user_id,)
            params = () if session_id is None else (session_id,)
            name = live_name(what, identity)
            self._tell(AccessRecord(request_id, name, status, identity, self._address(scope), params, users))

        return tell

    async def _identify(self, scope: Scope) -> Identity:
        """Who is asking; where nobody is asked, the local principal."""
        if not self.auth.is_ready:
            await self.auth.ready()
        try:
            return await self.auth.identify(bearer(scope))
        except Unauthenticated:
            if self._limiter is not None:
                self._limiter.refused(scope)
            raise

    @staticmethod
    def _counted(scope: Scope, receive: Receive, identity: Identity, limiter: Limiter) -> Receive:
        """What receives a body whose size was not told: each piece is counted as it comes."""

        async def counted() -> dict[str, Any]:
            message = await receive()
            if size := len(message.get("body", b"")):
                await limiter.frame(scope, identity, 0, size)
            return message

        return counted

    def _frames(self, scope: Scope, identity: Identity) -> Callable[[int, int], Awaitable[None]] | None:
        """What lets frames of a live conversation in: so many requests, so many bytes."""
        limiter = self._limiter
        if limiter is None:
            return None
        return lambda requests, size: limiter.frame(scope, identity, requests, size)

    def _address(self, scope: Scope) -> str | None:
        """From where a request comes, as the outermost of our own proxies saw it."""
        if self._limiter is not None:
            return self._limiter.whence(scope)
        client = scope.get("client")
        return client[0] if client else None

    def _tell(self, record: AccessRecord) -> None:
        for listener in self.on_access:
            listener(record)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.samvad.open()
                except SamvadError as error:
                    await send({"type": "lifespan.startup.failed", "message": error.message})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.samvad.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _hang_up(scope: Scope) -> Headers:
    """The header that ends a connection; HTTP/2 has none."""
    return ((b"connection", b"close"),) if scope.get("http_version", "1.1") < "2" else ()


def create_app(
    samvad: Samvad,
    *,
    hosts: Iterable[str] | None = None,
    live: Callable[[], LiveService] | None = None,
    auth: Authenticator | None = None,
    limiter: Limiter | None = None,
    origins: Iterable[str] = (),
) -> SamvadApp:
    """The ASGI application over a service, which its lifespan (or its first request) opens.

    `hosts` are the names under which it may be asked (`Host`), any with None. `live` makes the live conversations
    when they are first needed; left out, they are answered by the default provider, which has no documents then.
    `auth` says who is asking; left out, everybody is the trusted local principal, and who may reach the application
    is the business of what it is mounted in. `limiter` says how much each may ask; left out, any amount.
    `origins` are those whose pages may ask as well (CORS), such as https://app.example; left out, none but our own.
    """
    return SamvadApp(samvad, hosts=hosts, live=live, auth=auth, limiter=limiter, origins=origins)


__all__ = ["SamvadApp", "create_app", "routes"]
