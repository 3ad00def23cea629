"""What browsers are told, and what is taken from pages: security headers, CORS, and the check of `Host` and `Origin`.

Headers of security do nothing for programs; they hold browsers back that show or fetch an answer on behalf of
somebody's page (OWASP ASVS 5.0, V3.4).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from samvad.errors import Forbidden, InvalidRequest, SetupError

Headers = tuple[tuple[bytes, bytes], ...]

_EVERYWHERE: Final[Headers] = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
# An answer is data: opened as a document it may load and run nothing, and stand in no frame.
DATA: Final[Headers] = (
    *_EVERYWHERE,
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
# Nothing is fetched, framed or sent but what is named after this; no text ever becomes code.
_NOTHING_ELSE: Final = (
    "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_DEVICES: Final = ("camera", "geolocation", "microphone", "display-capture", "payment", "usb")

# What a page of another origin may send, and what of the answer its scripts may read, beside the body.
PREFLIGHT: Final[Headers] = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
    (
        b"access-control-allow-headers",
        b"Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID",
    ),
    (b"access-control-max-age", b"600"),
)
_READ: Final = b"ETag, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-Id"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|[0-9a-f:.]*:[0-9a-f:.]*")


def page(scripts: str, styles: str, *, uses: str = "") -> Headers:
    """The headers of a page of these `scripts` and `styles` (sources of a CSP), which of all devices `uses` one."""
    devices = ", ".join(f"{name}=({'self' if name == uses else ''})" for name in _DEVICES)
    return (
        *_EVERYWHERE,
        (b"content-security-policy", f"{_NOTHING_ELSE}; script-src {scripts}; style-src {styles}".encode()),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"permissions-policy", devices.encode()),
        (b"x-frame-options", b"DENY"),
    )


def checked_origins(given: Iterable[str]) -> frozenset[bytes]:
    """These origins as browsers write them. SetupError for what is none.

    `*` and `null` are none: with either, any page could ask.
    """
    found = set()
    for each in filter(None, (text.strip() for text in given)):
        origin = _origin(each)
        if origin is None:
            raise SetupError(
                "SAMVAD_CORS_ORIGINS takes exact origins such as https://app.example, with commas between, "
                f"not {each[:60]!r}."
            )
        found.add(origin.encode())
    return frozenset(found)


def _origin(text: str) -> str | None:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    usual = _DEFAULT_PORTS.get(parts.scheme)
    origin = f"{parts.scheme}://[{host}]" if ":" in host else f"{parts.scheme}://{host}"
    spelt = (origin,) if port is None else (f"{origin}:{port}",)
    if usual is None or not _HOST.fullmatch(host) or text.lower() not in spelt:
        return None
    return origin if port in (None, usual) else f"{origin}:{port}"


class Browsers:
    """What one application takes from browsers: under which `hosts` (None: any), and from pages of which origins."""

    def __init__(self, hosts: Iterable[str] | None, origins: Iterable[str] = ()) -> None:
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._origins = checked_origins(origins)

    def check(self, scope: dict[str, Any], fields: Mapping[bytes, bytes]) -> None:
        """Refuse what a web page of another site sends through the browser of somebody on this machine.

        Where there are no credentials, reaching the port is all that it takes. A page can reach it under a name of
        its own that resolves to 127.0.0.1 (DNS rebinding): then `Host` is not one of `hosts`. And it can send
        requests to be answered blindly (CSRF): then the browser names the page in `Origin`.
        """
        if len(fields) != len(scope["headers"]):
            for name in (b"host", b"origin"):  # which of two was meant, nobody knows (RFC 9112, section 3.2)
                if sum([field == name for field, _ in scope["headers"]]) > 1:
                    raise InvalidRequest(f"{name.decode().title()} may stand in a request once.")
        host, origin = fields.get(b"host"), fields.get(b"origin")
        if self._hosts is not None and host is not None and _name(host) not in self._hosts:
            raise Forbidden("This host name is not served here; use the address that the server has printed.")
        if origin is None or origin in self._origins:
            return
        # A browser lets any page open a WebSocket, and read what comes; only the server can refuse it.
        same_site = host and origin.partition(b"://")[2].lower() == host.lower()
        if not same_site and scope.get("method") not in ("GET", "HEAD"):
            raise Forbidden("Requests from web pages of other sites are not accepted.")

    def asked_before(self, scope: dict[str, Any]) -> str | None:
        """The method of the request that a page of an allowed origin wants to send, where its browser asks first."""
        if self._allowed(scope) is None:
            return None
        asked = [value for name, value in scope["headers"] if name == b"access-control-request-method"]
        return asked[0].decode("latin-1") if len(asked) == 1 else None

    def headers(self, scope: dict[str, Any]) -> Headers:
        """What lets scripts of an allowed origin read an answer. Never credentials: tokens come in a header."""
        if not self._origins:
            return ()
        origin = self._allowed(scope)
        if origin is None:
            return ((b"vary", b"Origin"),)
        return (
            (b"vary", b"Origin"),
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _READ),
        )

    def _allowed(self, scope: dict[str, Any]) -> bytes | None:
        if not self._origins:
            return None
        given = [value for name, value in scope["headers"] if name == b"origin"]
        origin: bytes | None = given[0] if len(given) == 1 and given[0] in self._origins else None
        return origin


def _name(host: bytes) -> str:
    """The host name of a Host header, without its port."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0]
