"""An issuer's public keys: fetched, cached, taken up when the issuer changes them, and bounded in every direction.

A token that names an unknown key has the keys fetched anew, but not more often than every 30 s, whatever strangers
send; all who wait share one fetch. While the issuer cannot be reached, the keys last known go on for a bounded time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from samvad import limits
from samvad.auth.jwt_form import Refused
from samvad.clock import Clock
from samvad.errors import SetupError, Unavailable

_log = logging.getLogger(__name__)
_MAX_AGE: Final = re.compile(r"(?:^|,)\s*max-age\s*=\s*(\d{1,9})")
_AGAIN_S: Final = 30.0  # at the earliest, for a key that is not known, or after a failure
_FRESH_S: Final = (60.0, 600.0, 24 * 3600.0)  # the least, without Cache-Control, the most
_FETCH_S_MAX: Final = 5.0
_BYTES_MAX: Final = 256 * 1024
_KEYS_MAX: Final = 100
RSA_BITS_MIN: Final = 2048  # 112 bits of security (NIST SP 800-57 part 1, table 2); 3,072 have 128
_CURVES: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
# None of them can be mistaken for a secret that both sides share: HS256 and `none` are not to be had.
ALGORITHMS: Final = RSA | frozenset(_CURVES.values()) | {"EdDSA"}


class VerifyKey(NamedTuple):
    """A public key, and the algorithms for which it is good."""

    key: Any
    algorithms: frozenset[str]


class KeySet:
    """The keys of one issuer, from `url`, or from where the issuer's discovery document says they are."""

    def __init__(
        self,
        clock: Clock,
        *,
        url: str | None = None,
        discovery: str | None = None,
        issuer: str = "",
        rsa_bits_min: int = RSA_BITS_MIN,
    ) -> None:
        self._clock = clock
        self._url = url
        self._discovery = discovery
        self._issuer = issuer
        self._rsa_bits_min = rsa_bits_min
        self._keys: dict[str | None, VerifyKey] = {}
        self._good_s: float | None = None  # when they were last fetched
        self._tried_s = float("-inf")
        self._fresh_s = 0.0
        self._fetching: asyncio.Task[None] | None = None
        self.generation = 0  # grows when keys change
        self.fetches = 0

    @property
    def fresh_until_s(self) -> float:
        """Until when the keys need not be asked for again, on the clock that never jumps."""
        return float("-inf") if self._good_s is None else self._good_s + self._fresh_s

    @property
    def fresh(self) -> bool:
        """Whether the keys need not be asked for again yet."""
        return self._clock.monotonic_s() < self.fresh_until_s

    def known(self, kid: str | None) -> VerifyKey | None:
        """A key of which nothing need be asked; None where it is not known, or not any more."""
        return self._find(kid) if self.fresh else None

    async def find(self, kid: str | None) -> VerifyKey:
        """The key of this id. Refused where the issuer has none, Unavailable where that cannot be found out."""
        found = self.known(kid)
        if found is not None:
            return found
        now_s = self._clock.monotonic_s()
        if self._fetching is not None or now_s - self._tried_s >= _AGAIN_S:
            await self._fetch()
        age_s = float("inf") if self._good_s is None else self._clock.monotonic_s() - self._good_s
        if age_s >= limits.JWKS_STALE_S_MAX:
            raise Unavailable("The keys of the issuer of this token cannot be fetched; try again soon.")
        found = self._find(kid)
        if found is None:
            raise Refused("unknown kid")
        return found

    def _find(self, kid: str | None) -> VerifyKey | None:
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)

    async def _fetch(self) -> None:
        if self._fetching is None:
            self._tried_s = self._clock.monotonic_s()
            self._fetching = asyncio.create_task(self._fetch_once())
            self._fetching.add_done_callback(self._fetched)
        await asyncio.shield(self._fetching)

    def _fetched(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        if not task.cancelled() and task.exception() is not None:
            _log.error("fetching keys failed", exc_info=task.exception())

    async def _fetch_once(self) -> None:
        self.fetches += 1
        try:
            async with asyncio.timeout(_FETCH_S_MAX):
                await self._load()
        except (OSError, ValueError, RecursionError, ExceptionGroup) as error:
            _log.warning("the keys of %s cannot be fetched: %s", self._issuer, type(error).__name__)

    async def _load(self) -> None:
        import httpx2

        try:
            async with httpx2.AsyncClient(
                timeout=_FETCH_S_MAX, follow_redirects=False, trust_env=False
            ) as client:
                url = self._url
                if url is None:
                    assert self._discovery is not None
                    told, _ = await _get(client, self._discovery)
                    url = told.get("jwks_uri")
                    if told.get("issuer") != self._issuer or not isinstance(url, str):
                        raise ValueError("the discovery document is another issuer's")
                    check_url(url, "jwks_uri")
                document, fresh_s = await _get(client, url)
        except (httpx2.HTTPError, httpx2.InvalidURL, SetupError) as error:
            raise OSError(type(error).__name__) from error
        keys = usable(document, self._rsa_bits_min)
        if not keys:
            raise ValueError("there is no key that can be used")
        if keys != self._keys:
            self.generation += 1
        self._keys, self._fresh_s = keys, fresh_s
        self._good_s = self._clock.monotonic_s()


async def _get(client: Any, url: str) -> tuple[dict[str, Any], float]:
    # Not compressed: a small piece could become a thousand times as large before it is counted.
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    async with client.stream("GET", url, headers=headers) as answer:
        if answer.status_code != 200:
            raise ValueError(f"status {answer.status_code}")
        if answer.headers.get("content-encoding", "identity").lower() != "identity":
            raise ValueError("compressed")
        data = b""
        async for chunk in answer.aiter_raw():
            data += chunk
            if len(data) > _BYTES_MAX:
                raise ValueError("too large")
        match = _MAX_AGE.search(answer.headers.get("cache-control", "").lower())
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("no object")
    low, usual, high = _FRESH_S
    return document, min(max(float(match[1]) if match else usual, low), high)


def usable(document: Mapping[str, Any], rsa_bits_min: int = RSA_BITS_MIN) -> dict[str | None, VerifyKey]:
    """The public signing keys of a JWK set (RFC 7517) by their id; what cannot be used is left out."""
    found: dict[str | None, VerifyKey] = {}
    listed = document.get("keys")
    for each in listed[:_KEYS_MAX] if isinstance(listed, list) else ():
        if not isinstance(each, dict) or each.get("use", "sig") != "sig":
            continue
        kid = each.get("kid")
        key = _public(each, rsa_bits_min)
        if key is None or not isinstance(kid, str | None) or kid in found:
            continue
        told = each.get("alg")
        algorithms = frozenset(name for name in key.algorithms if told in (None, name))
        if algorithms:
            found[kid] = VerifyKey(key.key, algorithms)
    return found


def _public(jwk: dict[str, Any], rsa_bits_min: int) -> VerifyKey | None:
    """The key in a JWK; None for a secret, a private, a weak or an unknown one."""
    import jwt
    from cryptography.exceptions import UnsupportedAlgorithm

    if "k" in jwk or "d" in jwk:
        return None
    kind, curve = jwk.get("kty"), jwk.get("crv")
    try:
        if kind == "RSA":
            key: Any = jwt.get_algorithm_by_name("RS256").from_jwk(jwk)
            if key.key_size >= rsa_bits_min:
                return VerifyKey(key, RSA)
            _log.warning(
                "an RSA key of an issuer has %d bits, fewer than %d: not used", key.key_size, rsa_bits_min
            )
            return None
        if kind == "EC" and curve in _CURVES:
            name = _CURVES[curve]
            return VerifyKey(jwt.get_algorithm_by_name(name).from_jwk(jwk), frozenset({name}))
        if kind == "OKP" and curve == "Ed25519":
            return VerifyKey(jwt.get_algorithm_by_name("EdDSA").from_jwk(jwk), frozenset({"EdDSA"}))
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, AttributeError, KeyError):
        _log.warning("a key of an issuer cannot be read")
    return None


def check_url(url: str, what: str) -> str:
    """The address itself, if keys may be fetched from it: over TLS, or from this machine. SetupError otherwise."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # from 0 to 65535
    except ValueError:
        raise SetupError(f"{what} is not an address: {url!r}.") from None
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or (parts.scheme != "https" and not (parts.scheme == "http" and local)):
        raise SetupError(f"{what} must be an https:// address.")
    if parts.username or parts.password or parts.fragment:
        raise SetupError(f"{what} may hold no name, password or fragment.")
    return url
