"""The server process: a socket, uvicorn on it, and a stop that loses nothing.

uvicorn speaks HTTP and WebSocket; what it leaves open is closed here. Its httptools parser bounds neither
the size of a request's head nor the time that a client takes for it, and its own handling of signals ends
the process by raising the signal again, so that a clean stop would not exit with 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from samvad import limits, logs
from samvad.errors import InvalidRequest, Overloaded, SamvadError, SetupError, TooLarge
from samvad.http.problems import problem_reply
from samvad.http.whole_answers import EXTENSIONS, WholeAnswers

if TYPE_CHECKING:
    from samvad.runtime import Samvad

HEAD_BYTES_MAX: Final = 64 * 1024  # request line and headers; checked as pieces of up to 256 KiB arrive
REQUEST_BYTES_MAX: Final = (
    limits.PDF_BODY_BYTES_MAX + limits.BODY_BYTES_MAX
)  # the whole request, framing included
HEAD_S_MAX: Final = 20.0  # from the connection or the first byte of a request to the end of its head
REQUEST_S_MAX: Final = 120.0  # from the first byte of a request to the last of its body
KEEP_ALIVE_S: Final = 30
BACKLOG: Final = 2048
CONNECTIONS_MAX: Final = 10_000  # more are answered with 503
WS_MESSAGE_BYTES_MAX: Final = 1024 * 1024
_DESCRIPTORS_SPARE: Final = 64  # for the database, logs and what else is not a connection
_EXIT_INTERRUPTED: Final = 130
_POLL_S: Final = 0.01

_log = logging.getLogger(__name__)


# --- the socket --------------------------------------------------------------------------------------------


def bind(host: str, port: int, *, insecure: bool = False) -> socket.socket:
    """A socket bound to `host` and `port` (0: a free one), not listening yet.

    SetupError where that cannot be, and for a host that others can reach unless `insecure` is said:
    there are no credentials, so whoever reaches the server can read and erase everything.
    """
    family, address = _resolve(host, port)
    if not insecure and not ipaddress.ip_address(address[0].split("%")[0]).is_loopback:
        raise SetupError(
            f"{host} can be reached by others and no credentials are configured; listen on 127.0.0.1, make a key "
            "with 'samvad keys create' and add --auth required, or add --insecure if the network is trusted."
        )
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # else asyncio sets no TCP_NODELAY
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise _bind_error(error, host, port) from error
    return bound


def url_of(bound: socket.socket) -> str:
    """The address of a bound socket as people write it; IPv6 in brackets."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """The first address of a host; IPv4 first, as 127.0.0.1 is what people expect of localhost."""
    name = host.strip().removeprefix("[").removesuffix("]")
    try:
        if not name:
            raise socket.gaierror
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise SetupError(f"{host!r} is not an address; --host takes 127.0.0.1, ::1 and the like.") from None
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return found[0][0], found[0][4]


def _bind_error(error: OSError, host: str, port: int) -> SetupError:
    reason = {
        errno.EADDRINUSE: f"Port {port} of {host} is in use; choose another with --port (0: any free one).",
        errno.EACCES: f"Port {port} needs the rights of root; choose one above 1023 with --port.",
        errno.EADDRNOTAVAIL: f"{host} is not an address of this machine; choose another --host, such as 127.0.0.1.",
    }.get(error.errno or 0)
    return SetupError(reason or f"Cannot listen on {host}, port {port}: {error.strerror or error}.")


# --- connections -------------------------------------------------------------------------------------------


class _HeadTooLarge(TooLarge):
    """The head of the request is too large."""

    status = 431
    title = "Request header fields too large"


async def _busy(scope: Any, receive: Any, send: Any) -> None:
    """Answers where there are too many connections already."""
    reply = problem_reply(Overloaded("Too many connections; try again soon."), "")
    headers = [*reply.described(), *reply.security, *reply.headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


class _BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP connection, with a bound on the bytes and the time of a request."""

    started_s: float = 0.0  # when the request began, or before any the connection; 0.0 while idle between two
    _bytes = 0
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.started_s = self.loop.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        # Judged after parsing: a small head and a part of its body may arrive in one piece.
        self._bytes += len(data)
        super().data_received(data)
        if self._bytes > HEAD_BYTES_MAX and (self._in_head or self._bytes > REQUEST_BYTES_MAX):
            self._refuse()

    def on_message_begin(self) -> None:
        self._bytes = 0
        self._in_head = True
        self.started_s = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        most, self.limit_concurrency = (
            self.config.limit_concurrency,
            None,
        )  # uvicorn would say it in plain text
        crowded = most is not None and max(len(self.connections), len(self.tasks)) >= most
        self.app = _busy if crowded else self.config.loaded_app
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.__class__ = WholeAnswers  # uvicorn makes it, and has no word for another
        cycle.scope["extensions"] = EXTENSIONS
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        self._bytes = 0
        self.started_s = 0.0
        self._in_head = True
        super().on_message_complete()

    def close_if_late(self, now_s: float) -> None:
        """Close the connection if its client takes too long for a request."""
        if not self.started_s:
            if self.timeout_keep_alive_task is None and (self.cycle is None or self.cycle.response_complete):
                self.started_s = (
                    now_s  # an idle client sent something that is no request: uvicorn's timer is off
                )
        elif now_s - self.started_s > (HEAD_S_MAX if self._in_head else REQUEST_S_MAX):
            self.transport.close()

    def _refuse(self) -> None:
        if self.transport.is_closing():
            return
        if self._in_head and (self.cycle is None or self.cycle.response_complete):
            self._say(_HeadTooLarge())
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser cannot read."""
        self._say(InvalidRequest("The request is not valid HTTP."))
        self.transport.close()

    def _say(self, error: SamvadError) -> None:
        """Answer without the application, to which nothing of this request has come."""
        reply = problem_reply(error, "")
        lines = [b"%b: %b\r\n" % each for each in (*reply.described(), *reply.security)]
        head = b"HTTP/1.1 %d %b\r\n" % (error.status, HTTPStatus(error.status).phrase.encode())
        self.transport.write(b"".join((head, *lines, b"connection: close\r\n\r\n", reply.body)))


class _LiveSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket connection, with two things that ASGI has no word for.

    The application can drop it at once: a client that reads nothing never takes a close frame, and what waits for it
    would stay in memory. And it can hand over a frame at once where the network takes it, which costs a fifth of a
    `websocket.send`: that goes through a coroutine, text that is decoded and encoded again, and frames in general.
    """

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["samvad.abort"] = self.transport.abort  # type: ignore[typeddict-unknown-key]
            self.scope["samvad.write"] = self.write_frame  # type: ignore[typeddict-unknown-key]

    def write_frame(self, data: bytes, binary: bool) -> bool:
        """Write a frame of its own (RFC 6455, section 5.2: final, no mask); False where it has to wait."""
        size = len(data)
        if (
            not self.writable.is_set()
            or size >= 1 << 16
            or self.disconnected
            or not self.handshake_complete
            or self.close_sent
            or self.conn.state is not State.OPEN
            or self.conn.extensions
        ):
            return False
        opcode = 0x82 if binary else 0x81
        head = bytes((opcode, size)) if size < 126 else bytes((opcode, 126, size >> 8, size & 255))
        self.transport.write(head + data)
        return True

    async def send(self, message: Any) -> None:
        """Take what the application says; a handshake that it has refused is complete, and no error of its own."""
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()


# --- the process -------------------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    """uvicorn's server, told when to stop by `stop` and never by a signal."""

    def __init__(
        self,
        config: uvicorn.Config,
        samvad: Samvad,
        *,
        stop: asyncio.Event,
        drain_s: float,
        on_ready: Callable[[], None],
        stop_streams: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._stop_streams = stop_streams
        self._samvad = samvad
        self._stop = stop
        self._drain_s = drain_s
        self._on_ready = on_ready
        self.stopped_s: float | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, listen, and say so."""
        try:
            await super().startup(sockets)
        except SystemExit:  # uvicorn's way to say that the application did not start
            raise SetupError("The application could not start; the log has the reason.") from None
        self._on_ready()

    async def main_loop(self) -> None:
        """Until the stop: once a second a new Date header, and an end for those who take too long."""
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            await self.on_tick(0)
            now_s = loop.time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, _BoundedHttp):
                    connection.close_if_late(now_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, let requests finish for half of the time there is, cut off the rest."""
        self.stopped_s = time.monotonic()
        for server in self.servers:
            server.close()
        state = self.server_state
        told: set[object] = set()
        deadline_s = self.stopped_s + self._drain_s / 2
        self._stop_streams()
        await asyncio.sleep(_POLL_S)  # they say goodbye themselves
        while state.connections or state.tasks:
            if time.monotonic() > deadline_s:
                break
            for connection in state.connections - told:  # also those that were accepted a moment too late
                connection.shutdown()
                told.add(connection)
            await asyncio.sleep(_POLL_S)
        cut_off = list(state.tasks)
        if cut_off:
            _log.warning("requests were cut off by the stop", extra={"requests": len(cut_off)})
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.sleep(
            _POLL_S
        )  # connections learn that they are gone before their handlers are cancelled
        for task in cut_off:
            task.cancel()
        if cut_off:
            await asyncio.wait(cut_off, timeout=1.0)
        await self.close_service()
        await self.lifespan.shutdown()

    async def close_service(self) -> None:
        """Write what waits, within what is left of the time to stop, and close the store. Twice is fine."""
        left_s = self._drain_s
        if self.stopped_s is not None:
            left_s = max(self.stopped_s + self._drain_s - time.monotonic(), 0.0)
        left = await self._samvad.aclose(left_s)
        if left:
            _log.warning("writes were left over when the time to stop was up", extra={"operations": left})


def run(
    samvad: Samvad,
    app: Callable[..., Any],
    bound: socket.socket,
    *,
    drain_s: float = limits.DRAIN_S_MAX,
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Open `samvad`, serve `app` on a bound socket until SIGTERM or SIGINT, and close it all.

    `on_ready` is called with the address once requests are answered. On the first signal nothing new is
    accepted; what is in flight has half of `drain_s`, and what waits to be written the rest of it. A
    SIGINT during that ends the process at once, with exit code 130. SetupError where it cannot start.
    """
    try:
        import uvloop
    except ImportError:
        runner = asyncio.Runner()
    else:
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with runner, bound:
        runner.run(_serve(samvad, app, bound, drain_s, lambda: on_ready(url_of(bound))))


async def _serve(
    samvad: Samvad,
    app: Callable[..., Any],
    bound: socket.socket,
    drain_s: float,
    on_ready: Callable[[], None],
) -> None:
    asyncio.get_running_loop().set_exception_handler(logs.loop_failed)
    stop = asyncio.Event()
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=_BoundedHttp,
        ws=_LiveSocket,
        ws_max_size=WS_MESSAGE_BYTES_MAX,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        limit_concurrency=min(CONNECTIONS_MAX, _descriptors() - _DESCRIPTORS_SPARE),
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    stop_streams = getattr(app, "stop_streams", lambda: None)
    server = _Server(config, samvad, stop=stop, drain_s=drain_s, on_ready=on_ready, stop_streams=stop_streams)

    with _signals(stop):
        await samvad.open()
        try:
            if not stop.is_set():
                await server.serve([bound])
        except OSError as error:
            raise _bind_error(error, *bound.getsockname()[:2]) from error
        finally:
            await server.close_service()


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """Have SIGTERM and SIGINT set `stop`, and a SIGINT after that end the process where it stands."""
    loop = asyncio.get_running_loop()
    handled = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set() and number == signal.SIGINT:
            os._exit(_EXIT_INTERRUPTED)  # what was acknowledged is on the disk; nothing needs us to tidy up
        stop.set()

    for number in handled:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


def _descriptors() -> int:
    """How many files this process may open, raised as far as it may itself."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + _DESCRIPTORS_SPARE
    most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return wanted if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
