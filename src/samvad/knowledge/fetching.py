"""Fetching a page for the knowledge base, without becoming a way into the network that this server stands in.

Names are resolved here, the addresses are judged, and the connection goes to the address that was judged: what
DNS says a moment later does not matter. Every redirect is a new address and judged anew. Nothing of the
environment (proxies, .netrc) is used, no cookies are kept, no credentials are sent. Bounds on bytes, redirects
and total time hold for the whole of it (OWASP: server-side request forgery).
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import msgspec

from samvad import limits
from samvad.errors import SetupError, TooLarge, UrlFailed, UrlRefused
from samvad.knowledge.addresses import Address, Network, may_reach
from samvad.knowledge.extracting import DocumentType, kind_of
from samvad.knowledge.places import Places

if TYPE_CHECKING:
    import httpcore2

FETCH_BYTES_MAX: Final = 16 * 1024 * 1024  # of the body, after unpacking
FETCH_S_MAX: Final = 20.0  # for all of it, redirects included
REDIRECTS_MAX: Final = 5
URL_CHARS_MAX: Final = 2_048
_CONNECT_S_MAX: Final = 10.0
_PORTS: Final = frozenset({80, 443, 8000, 8080, 8443})
_HEAD_BYTES_OF_LOCATION_MAX: Final = 8_192
_USER_AGENT: Final = b"samvad-knowledge/1 (+fetches one page on a user's request)"
_ACCEPT: Final = b"text/html, application/xhtml+xml, text/markdown, text/plain, application/pdf;q=0.9"
_NEEDS_EXTRA: Final = "Fetching pages needs an extra: pip install 'samvad-sessions[knowledge]'."
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE)
# A character that a URL never holds, and that parsers disagree about.
_FOREIGN = re.compile(r"[\x00-\x20\x7f\\]")

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]


class Fetched(msgspec.Struct, frozen=True):
    """A page as it came: its bytes, what kind of document it is, and where it was found in the end."""

    data: bytes
    kind: DocumentType
    charset: str | None
    url: str


async def resolve(host: str, port: int) -> list[Address]:
    """All addresses of a host by the machine's resolver; UrlFailed where there are none."""
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UrlFailed(f"The host {host} is not known; check the address.") from None
    return [ipaddress.ip_address(entry[4][0]) for entry in found]


class Fetcher:
    """Fetches documents from public addresses, and from the networks in `allowed` (an intranet, say).

    `ports` are those that may be asked. `resolve_host` gives the addresses of a name; each is judged before
    anything is sent to it. UrlRefused says what is wrong with an address, UrlFailed that nothing came of it.
    """

    def __init__(
        self,
        *,
        allowed: Iterable[Network] = (),
        ports: Iterable[int] = _PORTS,
        resolve_host: Resolve = resolve,
        bytes_max: int = FETCH_BYTES_MAX,
        seconds_max: float = FETCH_S_MAX,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allowed = tuple(allowed)
        self._ports = frozenset(ports)
        self._resolve = resolve_host
        self._bytes_max = bytes_max
        self._seconds_max = seconds_max
        self._tls = tls
        self._places = Places(limits.FETCHES_MAX, limits.DOCUMENTS_READ_EACH_MAX)

    async def fetch(self, url: str, who: Hashable | None = None) -> Fetched:
        """The document at a URL, after at most 5 redirects; `who` is the person who wants it, None a program.

        Overloaded where too many are being fetched, of all or of that person.
        """
        try:
            import httpcore2
        except ImportError as error:
            raise SetupError(_NEEDS_EXTRA) from error
        try:
            with self._places.place(who):
                async with asyncio.timeout(self._seconds_max):
                    return await self._follow(url)
        except TimeoutError:
            raise UrlFailed(f"The page did not arrive within {self._seconds_max:g} s.") from None
        except (
            httpcore2.NetworkError,
            httpcore2.TimeoutException,
            httpcore2.ProtocolError,
            httpcore2.UnsupportedProtocol,
            OSError,
        ) as error:
            raise UrlFailed(
                f"The page could not be fetched ({type(error).__name__}); try again later."
            ) from None

    async def _follow(self, url: str) -> Fetched:
        import httpcore2

        backend = _judged_backend(self)
        context = self._tls or ssl.create_default_context()
        async with httpcore2.AsyncConnectionPool(
            ssl_context=context, network_backend=backend, http2=False, retries=0
        ) as pool:
            for _ in range(REDIRECTS_MAX + 1):
                target = self.checked(url)
                async with pool.stream("GET", target.url, headers=_headers(target)) as response:
                    status = response.status
                    if status in _REDIRECTS:
                        url = _joined(target.url, _header(response, b"location"))
                        continue
                    if status != 200:
                        raise UrlFailed(f"The page answered with status {status}.")
                    return await self._read(response, target)
        raise UrlFailed(f"The page redirects more than {REDIRECTS_MAX} times.")

    def checked(self, url: str) -> Target:
        """A URL taken apart; UrlRefused for what is never fetched, whatever its host resolves to."""
        try:
            import httpx2
        except ImportError as error:
            raise SetupError(_NEEDS_EXTRA) from error
        if len(url) > URL_CHARS_MAX:
            raise UrlRefused(f"A URL may have {URL_CHARS_MAX} characters at most.")
        if _FOREIGN.search(url):
            raise UrlRefused(
                "The URL holds white space, a control character or a backslash; percent-encode it."
            )
        try:
            parsed = httpx2.URL(url)
            host, port = parsed.raw_host.decode("ascii"), parsed.port
        except (httpx2.InvalidURL, UnicodeError, ValueError):
            raise UrlRefused("This is not a URL; it must be like https://example.com/page.") from None
        if parsed.scheme not in ("http", "https"):
            raise UrlRefused("Only http and https addresses are fetched.")
        if parsed.userinfo or "@" in parsed.netloc.decode("ascii"):
            raise UrlRefused("A URL with a user name or password is not fetched; leave them out.")
        host = host.rstrip(".")
        if not host or "%" in host:
            raise UrlRefused("The URL names no host.")
        if port is None:
            port = 443 if parsed.scheme == "https" else 80
        if port not in self._ports:
            raise UrlRefused(
                f"Port {port} is not asked; use one of {', '.join(map(str, sorted(self._ports)))}."
            )
        return Target(str(parsed.copy_with(fragment=None)), host, port)

    async def addresses(self, host: str, port: int) -> list[Address]:
        """The addresses of a host, all of which may be reached; UrlRefused where one may not.

        One bad address among good ones is enough: a name that points both ways is made for an attack.
        """
        try:
            found: Sequence[Address] = [ipaddress.ip_address(host)]
        except ValueError:
            found = await self._resolve(host, port)
        if not found or not all(may_reach(address, self._allowed) for address in found):
            raise UrlRefused("This host has an address that is not public; it is not fetched.")
        return list(found)

    async def _read(self, response: Any, target: Target) -> Fetched:
        media_type = (_header(response, b"content-type") or b"").decode("latin-1")
        filename = unquote(target.url.partition("?")[0].rpartition("/")[2])
        length = _header(response, b"content-length") or b""
        if length.isdigit() and len(length) < 20 and int(length) > self._bytes_max:
            raise TooLarge(f"The page has {int(length)} bytes; at most {self._bytes_max} are fetched.")
        if kind_of(filename if "text/plain" in media_type else None, media_type) is None:
            raise UrlFailed(f"A document of type {media_type[:80] or 'unknown'} is not read.")
        unpack = _Unpacker(_header(response, b"content-encoding"), self._bytes_max)
        async for piece in response.aiter_stream():
            unpack.feed(piece)
        data = unpack.data()
        kind = kind_of(filename if "text/plain" in media_type else None, media_type, data)
        assert kind is not None
        charset = _CHARSET.search(media_type)
        return Fetched(data, kind, charset.group(1) if charset else None, target.url)


class Target(msgspec.Struct, frozen=True):
    """A URL that may be asked for, if its host's addresses may be."""

    url: str
    host: str
    port: int


def _headers(target: Target) -> list[tuple[bytes, bytes]]:
    host = f"[{target.host}]" if ":" in target.host else target.host
    default = 443 if target.url.startswith("https:") else 80
    name = host if target.port == default else f"{host}:{target.port}"
    return [
        (b"host", name.encode("ascii")),
        (b"user-agent", _USER_AGENT),
        (b"accept", _ACCEPT),
        (b"accept-encoding", b"gzip"),
    ]


def _header(response: Any, name: bytes) -> bytes | None:
    for key, value in response.headers:
        if key.lower() == name:
            return bytes(value)
    return None


def _joined(base: str, location: bytes | None) -> str:
    import httpx2

    if not location or len(location) > _HEAD_BYTES_OF_LOCATION_MAX:
        raise UrlFailed("The page redirects to nowhere.")
    try:
        return str(httpx2.URL(base).join(location.decode("latin-1")))
    except (httpx2.InvalidURL, UnicodeError, ValueError):
        raise UrlRefused("The page redirects to something that is no URL.") from None


class _Unpacker:
    """The body, unpacked as it comes, and never more of it than the bound."""

    def __init__(self, encoding: bytes | None, bytes_max: int) -> None:
        name = (encoding or b"identity").strip().lower()
        if name not in (b"identity", b"gzip", b"x-gzip"):
            raise UrlFailed(
                f"The page is packed with {name.decode('latin-1')[:40]}, which was not asked for."
            )
        self._inflate = None if name == b"identity" else zlib.decompressobj(wbits=31)
        self._bytes_max = bytes_max
        self._pieces = bytearray()

    def feed(self, piece: bytes) -> None:
        if self._inflate is not None:
            try:
                # One byte more than may be kept: enough to know that there is too much.
                piece = self._inflate.decompress(piece, self._bytes_max - len(self._pieces) + 1)
            except zlib.error:
                raise UrlFailed("The page is not packed as it says (gzip).") from None
        self._pieces += piece
        if len(self._pieces) > self._bytes_max:
            raise TooLarge(f"The page has more than {self._bytes_max} bytes.")

    def data(self) -> bytes:
        if self._inflate is not None and not self._inflate.eof:
            raise UrlFailed("The page ends in the middle of its packed body.")
        return bytes(self._pieces)


def _judged_backend(fetcher: Fetcher) -> httpcore2.AsyncNetworkBackend:
    """How connections are made: to an address that was judged, whatever the name says by then."""
    import httpcore2

    class JudgedBackend(httpcore2.AnyIOBackend):
        """Resolves, judges and connects in one step."""

        async def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,  # noqa: ASYNC109 (its interface)
            *args: Any,
            **kwargs: Any,
        ) -> httpcore2.AsyncNetworkStream:
            """A connection to the first address of `host` that answers, if all of them may be reached."""
            last: BaseException | None = None
            for address in await fetcher.addresses(host, port):
                try:
                    return await super().connect_tcp(str(address), port, _CONNECT_S_MAX, *args, **kwargs)
                except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                    last = error
            raise last or httpcore2.ConnectError("no address answered")

        async def connect_unix_socket(self, *args: Any, **kwargs: Any) -> httpcore2.AsyncNetworkStream:
            """Never."""
            raise UrlRefused

    return JudgedBackend()
