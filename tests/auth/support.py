"""An issuer of tokens for tests: real keys, a real HTTP server for them, and tokens put together by hand."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from samvad.auth.authenticator import Authenticator
from samvad.auth.issuers import Issuer, IssuerRules
from samvad.auth.jwks import KeySet
from samvad.clock import Clock

AUDIENCE = "samvad-api"
USER = "user_456"


@cache
def rsa_key(number: int = 0, bits: int = 2048) -> Any:
    """An RSA key; another one for each number."""
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key(number: int = 0) -> Any:
    """A key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


@cache
def ed_key() -> Any:
    """An Ed25519 key."""
    return ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    """The public half of a key as a JWK."""
    name = {"RSAPrivateKey": "RS256", "EllipticCurvePrivateKey": "ES256"}.get(_kind(key), "EdDSA")
    found = jwt.get_algorithm_by_name(name).to_jwk(key.public_key(), as_dict=True)  # type: ignore[call-overload]
    found.pop("key_ops", None)
    return {**found, "use": "sig", **({} if kid is None else {"kid": kid}), **more}


def _kind(key: Any) -> str:
    if isinstance(key, rsa.RSAPrivateKey):
        return "RSAPrivateKey"
    return "EllipticCurvePrivateKey" if isinstance(key, ec.EllipticCurvePrivateKey) else "other"


def pem(key: Any) -> bytes:
    """The public half as PEM: the secret of the oldest trick."""
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def part(value: Any) -> str:
    """A part of a token: JSON (a text or bytes as they are), base64url."""
    data = (
        value
        if isinstance(value, bytes)
        else (value if isinstance(value, str) else json.dumps(value)).encode()
    )
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: Any, claims: Any, key: Any = None, algorithm: str | None = None) -> str:
    """A token, signed with `key`: a private key, a shared secret (bytes), or None: not at all."""
    text = f"{part(header)}.{part(claims)}"
    if key is None:
        return f"{text}."
    if isinstance(key, bytes):
        digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
        return f"{text}.{part(hmac.digest(key, text.encode(), digest[algorithm or 'HS256']))}"
    return f"{text}.{part(jwt.get_algorithm_by_name(algorithm or 'RS256').sign(text.encode(), key))}"


class IssuerServer:
    """Serves a discovery document and keys; counts what it was asked for."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [
            jwk(rsa_key(), "rsa-1"),
            jwk(ec_key(), "ec-1"),
        ]
        self.url = ""
        self.status = 200
        self.body: bytes | None = None
        self.cache_control = "max-age=300"
        self.discovery: dict[str, Any] = {}
        self.encoding: str | None = None
        self.asked: list[str] = []
        self.accepted: list[str | None] = []  # which encodings the answer may have

    def answer(self, path: str) -> tuple[int, bytes]:
        """What is answered."""
        self.asked.append(path)
        if self.body is not None:
            return self.status, self.body
        if path == "/.well-known/openid-configuration":
            document = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"} | self.discovery
            return self.status, json.dumps(document).encode()
        return self.status, json.dumps({"keys": self.keys}).encode()


@contextlib.contextmanager
def issuer_server() -> Iterator[IssuerServer]:
    """An issuer on a free port."""
    server = IssuerServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.accepted.append(self.headers["accept-encoding"])
            status, body = server.answer(self.path)
            self.send_response(status)
            if server.encoding is not None:
                self.send_header("content-encoding", server.encoding)
            self.send_header("content-type", "application/json")
            self.send_header("cache-control", server.cache_control)
            self.send_header("content-length", str(len(body)))
            if status == 302:
                self.send_header("location", f"{server.url}/elsewhere")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def claims_at(server: IssuerServer, clock: Clock, **more: Any) -> dict[str, Any]:
    """The claims of a good token; a claim given as None is left out."""
    now_s = clock.now_ms() // 1000
    claims = {"iss": server.url, "aud": AUDIENCE, "sub": USER, "iat": now_s, "exp": now_s + 300} | more
    return {name: value for name, value in claims.items() if value is not None}


def authenticator(server: IssuerServer, clock: Clock, **more: Any) -> Authenticator:
    """What `samvad serve` makes of the settings of this issuer."""
    rules = {"algorithms": frozenset({"RS256", "ES256"})} | more
    issuer_rules = IssuerRules(issuer=server.url, audience=AUDIENCE, **rules)
    keys = KeySet(clock, discovery=f"{server.url}/.well-known/openid-configuration", issuer=server.url)
    return Authenticator(clock, issuers=[Issuer(issuer_rules, keys, clock)])
