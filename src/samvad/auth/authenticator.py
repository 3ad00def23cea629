"""From a bearer token to who is asking. Cheap where the token was seen before; silent about why one is refused."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from samvad import limits
from samvad.auth import api_keys, user_tokens
from samvad.auth.issuers import Issuer
from samvad.auth.jwks import KeySet
from samvad.auth.jwt_form import Refused, looks_like_jwt, taken_apart
from samvad.auth.keyring import Keyring, NoKeys
from samvad.auth.user_tokens import TokenClaims, UserTokens
from samvad.clock import Clock
from samvad.errors import SamvadError, Unauthenticated, Unavailable
from samvad.types import LOCAL, Principal

_log = logging.getLogger(__name__)
_FIRST_READ_S: Final = 2.0
_UNASKED: Final = 6
_LOOK_S: Final = 1.0
_NEVER_S: Final = float("-inf")
_OURS: Final = (api_keys.PREFIX, user_tokens.PREFIX)


class Identity(NamedTuple):
    """Who is asking, by which credential, and until when it holds (milliseconds since 1970; None: no end)."""

    principal: Principal
    credential: str  # for the log and the audit: `local`, `key:<id>`, `token:<id>`, `jwt:<issuer>`
    expires_ms: int | None = None
    key_id: str | None = None  # the API key on which it hangs


class _Seen(NamedTuple):
    """A credential that was good, the generations of keys by which it was, and until when it need not be looked at."""

    identity: Identity
    keys: KeySet | None
    ring_generation: int
    generation: int
    until_s: float


LOCAL_IDENTITY: Final = Identity(LOCAL, "local")


class Authenticator:
    """Checks credentials. Where none are configured, who brings none is the trusted local principal.

    `required`: always ask, also while there are no keys yet. Once there were keys, it always asks.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        keyring: Keyring | None = None,
        tokens: UserTokens | None = None,
        issuers: Sequence[Issuer] = (),
        required: bool = False,
    ) -> None:
        self._clock = clock
        self.keyring = Keyring(NoKeys(), clock) if keyring is None else keyring
        self.tokens = tokens or UserTokens(lambda: [os.urandom(32)], clock)
        self.issuers = tuple(issuers)
        self._required = required or bool(issuers)
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()  # by a hash of the credential
        self.refusals: Counter[str] = Counter()  # by the reason, which nobody else is told
        self.readings_failed = 0  # times that the keys could not be read
        self._first: asyncio.Task[None] | None = None
        self._loop: asyncio.Task[None] | None = None
        # Called whenever keys were read anew: who let somebody in for longer looks whether that still holds.
        self.on_change: list[Callable[[], None]] = []

    @property
    def credentials_held(self) -> int:
        """How many credentials that were seen before are in memory."""
        return len(self._seen)

    def now_ms(self) -> int:
        """The time by which credentials end, in milliseconds since 1970."""
        return self._clock.now_ms()

    @property
    def required(self) -> bool:
        """Whether a request without credentials is refused."""
        return self._required or self.keyring.any

    # --- life ------------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether the keys were read for the first time, or could not be."""
        return self._first is not None and self._first.done()

    async def ready(self) -> None:
        """Until the keys were read for the first time, or could not be."""
        if self._first is None:
            self._first = asyncio.create_task(self._read_first())
        if not self._first.done():
            await asyncio.shield(self._first)

    async def _read_first(self) -> None:
        try:
            async with asyncio.timeout(_FIRST_READ_S):
                await self.keyring.refresh()
        except (SamvadError, TimeoutError) as error:
            self.readings_failed += 1
            self.keyring.use_copy()
            _log.warning("the keys cannot be read: %s", getattr(error, "message", "no answer in time"))
        except Exception:  # the top of a task, for which every request waits
            self.readings_failed += 1
            self.keyring.use_copy()
            _log.exception("reading the keys failed; they are read again soon")

    async def start(self) -> None:
        """Read the keys anew every few seconds from now on."""
        await self.ready()
        self._loop = asyncio.create_task(self._keep_up())

    async def stop(self) -> None:
        """Stop that, and note which keys were used."""
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        await self.keyring.save_used(at_once=True)

    async def _keep_up(self) -> None:
        while True:
            # Where nobody is asked yet, the first key may be found a little later.
            await asyncio.sleep(self.keyring.every_s * (1 if self.required else _UNASKED))
            try:
                await self.refresh()
            except Exception:  # the top of a task: keys that are never read again are never revoked
                self.readings_failed += 1
                _log.exception("reading the keys failed; they are read again soon")

    async def refresh(self) -> None:
        """Read the keys anew; what hung on one that is gone ends."""
        try:
            await self.keyring.refresh()
            await self.keyring.save_used()
        except SamvadError as error:  # those known go on, for as long as `fresh` says
            self.readings_failed += 1
            _log.warning("the keys cannot be read: %s", error.message)
        for listener in list(self.on_change):
            listener()

    # --- who is asking -----------------------------------------------------------------------------------

    async def identify(self, token: str | None) -> Identity:
        """Who brings this bearer token, or with None no credential.

        Unauthenticated where it is not good (nobody is told why), Unavailable where that cannot be found out.
        """
        if token is None or not (self.required or token.startswith(_OURS)):
            # What is not ours may be meant for a proxy before us, as long as no credentials are configured.
            if self.required:
                self.refusals["none"] += 1
                raise Unauthenticated
            return LOCAL_IDENTITY
        encoded = token.encode(errors="replace")
        known = self.known(encoded)
        if known is not None:
            return known
        digest = _digest(encoded)
        self._seen.pop(digest, None)
        try:
            identity, keys = await self._identify(token)
        except Refused as refused:
            self.refusals[refused.reason] += 1
            _log.info("a credential was refused: %s", refused.reason)
            raise Unauthenticated from None
        generation = 0 if keys is None else keys.generation
        self._seen[digest] = _Seen(identity, keys, self.keyring.generation, generation, _NEVER_S)
        if len(self._seen) > limits.TOKENS_CACHED_MAX:
            self._seen.popitem(last=False)
        return identity

    def known(self, token: bytes) -> Identity | None:
        """Who brings this token, where it was good before and is still; else `identify` finds out.

        Apart from that one because most requests end here, and a coroutine each would be a good part of what they cost.
        """
        digest = _digest(token)
        seen = self._seen.get(digest)
        if seen is None:
            return None
        identity, keys, ring_generation, generation, until_s = seen
        if ring_generation != self.keyring.generation or (keys is not None and keys.generation != generation):
            return None
        now_s = self._clock.monotonic_s()
        if now_s >= until_s:
            until_s = self._good_until_s(identity, keys, now_s)
            if now_s >= until_s:
                return None
            self._seen[digest] = seen._replace(until_s=until_s)
        return identity

    def _good_until_s(self, identity: Identity, keys: KeySet | None, now_s: float) -> float:
        """Until when a credential need not be looked at again, if no keys change: a second, or less where it ends."""
        now_ms = self._clock.now_ms()
        until_s = now_s + _LOOK_S
        if identity.expires_ms is not None:
            until_s = min(until_s, now_s + (identity.expires_ms - now_ms) / 1000)
        if keys is not None:
            until_s = min(until_s, keys.fresh_until_s)
        if identity.key_id is not None:
            self.keyring.use(identity.key_id, now_ms)
            until_s = min(until_s, self.keyring.fresh_until_s)
        return until_s

    async def _identify(self, token: str) -> tuple[Identity, KeySet | None]:
        if len(token) > limits.TOKEN_BYTES_MAX:
            raise Refused("size")
        if token.startswith(api_keys.PREFIX):
            key = self.keyring.check(token)
            if key is None:
                if not self.keyring.fresh:
                    raise Unavailable("The keys cannot be read now; try again soon.")
                raise Refused("key")
            return Identity(key.principal, f"key:{key.id}", key.expires_ms, key.id), None
        if token.startswith(user_tokens.PREFIX):
            claims = self.tokens.check(token)
            if claims is None:
                raise Refused("token")
            if claims.minted_by is not None and not self.keyring.holds(claims.minted_by):
                raise Refused("the key that minted it")
            credential = f"token:{claims.id}"
            return Identity(claims.principal, credential, claims.expires_ms, claims.minted_by), None
        if not self.issuers or not looks_like_jwt(token):
            raise Refused("form")
        return await self._jwt(token)

    async def _jwt(self, token: str) -> tuple[Identity, KeySet]:
        parts = taken_apart(token)
        issuer = next((each for each in self.issuers if each.may_be_of(parts)), None)
        if issuer is None:
            raise Refused("issuer")
        verified = await issuer.verify(parts)
        credential = f"jwt:{issuer.rules.issuer}"
        return Identity(verified.principal, credential, verified.expires_ms), issuer.keys

    def holds(self, identity: Identity) -> bool:
        """Whether a credential that was good is good still."""
        if identity.key_id is not None and not self.keyring.holds(identity.key_id):
            return False
        return not self._is_over(identity)

    def _is_over(self, identity: Identity) -> bool:
        return identity.expires_ms is not None and identity.expires_ms <= self._clock.now_ms()

    def mint(self, identity: Identity, user: str, session: str | None, ttl_s: int) -> TokenClaims:
        """What a token says that a back end has minted for a user; it ends with the credential that minted it."""
        claims = self.tokens.claims(identity.principal.tenant, user, session, identity.key_id, ttl_s)
        if identity.expires_ms is not None and identity.expires_ms < claims.expires_ms:
            claims = claims._replace(expires_ms=identity.expires_ms)
        return claims


def _digest(token: bytes) -> bytes:
    """By which a credential is known again, so that none stays in memory; of one that is too long, of its beginning."""
    return hashlib.sha256(token[: limits.TOKEN_BYTES_MAX + 1]).digest()
