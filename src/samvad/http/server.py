"""The server process: a socket, uvicorn on it, and a stop that loses nothing.

uvicorn speaks HTTP and WebSocket, on connections that are bounded (`samvad.http.connections`). Its own handling of
signals ends the process by raising the signal again, so that a clean stop would not exit with 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from samvad import limits, logs
from samvad.errors import SetupError
from samvad.http.connections import BoundedHttp, LiveSocket

if TYPE_CHECKING:
    from samvad.runtime import Samvad

KEEP_ALIVE_S: Final = 30
BACKLOG: Final = 2048
CONNECTIONS_MAX: Final = 10_000  # more are answered with 503
WS_MESSAGE_BYTES_MAX: Final = 1024 * 1024
_DESCRIPTORS_SPARE: Final = 64  # for the database, logs and what else is not a connection
_EXIT_INTERRUPTED: Final = 130
_POLL_S: Final = 0.01
_SAID_AGAIN_S: Final = 60.0  # after which the same warning about a connection is written again
_SAID_MAX: Final = 100  # of them, that are known
_TICK_S: Final = 1.0  # after which it is looked who takes too long

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


class _Seldom(logging.Filter):
    """Lets the same warning through once in a while: who sends what is no HTTP does not fill the disk with lines."""

    def __init__(self) -> None:
        super().__init__()
        self._said_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written: a warning without a fault, if it was not lately."""
        if record.levelno > logging.WARNING or record.exc_info:
            return True
        now_s, text = time.monotonic(), str(record.msg)
        if now_s - self._said_s.get(text, -math.inf) < _SAID_AGAIN_S:
            return False
        if len(self._said_s) >= _SAID_MAX:
            self._said_s.clear()
        self._said_s[text] = now_s
        return True


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
                if isinstance(connection, BoundedHttp):
                    connection.close_if_late(now_s)
                    connection.drop_if_unread(now_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
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
        http=BoundedHttp,
        ws=LiveSocket,
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
    told = logging.getLogger("uvicorn.error")
    told.setLevel(logging.WARNING)
    seldom = _Seldom()
    told.addFilter(seldom)
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
            told.removeFilter(seldom)
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
