"""How much each may ask: by user, by API key and by address, in requests and in bytes, with less of what costs more.

An answer tells what is left in the fields `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers);
a refusal is 429 with `Retry-After`. The windows are in memory, or in Redis where several replicas share them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from samvad import limits
from samvad.auth.authenticator import Identity
from samvad.clock import Clock
from samvad.errors import TooManyRequests
from samvad.http.browsers import Headers
from samvad.http.holding import Holding
from samvad.http.pacing import Pacing
from samvad.http.windows import Account, Left, Quota, Wanted, Windows

if TYPE_CHECKING:
    from samvad.settings import Settings

_log = logging.getLogger(__name__)
_MIB: Final = 1024 * 1024
_FACTOR: Final = limits.NETWORK_QUOTA_FACTOR
_KNOWN_MAX: Final = 10_000
_AGAIN_S: Final = 5.0  # after which a shared store of windows that failed is tried again


class Shared(Protocol):
    """Windows that several replicas share."""

    async def spend(self, wanted: Sequence[Wanted]) -> list[Left]:
        """Take all of it, or where there is not room for all of it, nothing; OSError where it cannot be asked."""
        ...

    async def close(self) -> None:
        """Let the connection go."""
        ...


class Quotas(NamedTuple):
    """The quotas of a server; an amount of 0 is none."""

    user: Quota
    user_bytes: Quota
    key: Quota
    key_bytes: Quota
    address: Quota
    address_bytes: Quota
    network: Quota
    network_bytes: Quota
    refused: Quota
    network_refused: Quota
    starts: Quota
    erasures: Quota
    exports: Quota


def quotas(settings: Settings) -> Quotas:
    """The quotas that the settings want."""
    return Quotas(
        Quota("user", settings.limit_user_requests),
        Quota("user-bytes", settings.limit_user_mib * _MIB, unit="content-bytes"),
        Quota("key", settings.limit_key_requests),
        Quota("key-bytes", settings.limit_key_mib * _MIB, unit="content-bytes"),
        Quota("address", settings.limit_address_requests),
        Quota("address-bytes", settings.limit_address_mib * _MIB, unit="content-bytes"),
        Quota("network", settings.limit_address_requests * _FACTOR),
        Quota("network-bytes", settings.limit_address_mib * _MIB * _FACTOR, unit="content-bytes"),
        Quota("refused", settings.limit_refused),
        Quota("network-refused", settings.limit_refused * _FACTOR),
        Quota("starts", settings.limit_starts),
        Quota("erasures", settings.limit_erasures),
        Quota("exports", settings.limit_exports),
    )


class _Known(NamedTuple):
    """Who has asked, as whom and from where, with their windows at hand, and how what is left in them is told."""

    identity: Identity
    whence: str
    account: Account
    policies: tuple[bytes, bytes]
    form: bytes


class Limiter:
    """Lets requests through, as far as the quotas allow. The trusted local principal is not limited."""

    def __init__(
        self, clock: Clock, quotas: Quotas, *, shared: Shared | None = None, proxies: int = 0
    ) -> None:
        self._clock = clock
        self._quotas = quotas
        self._shared = shared
        self._down_s = float("-inf")
        self._proxies = proxies
        self.windows = Windows(limits.LIMITED_KEYS_MAX)
        # Who has asked twice lately, without and with bytes, by user or credential.
        self._known: tuple[dict[str, _Known], dict[str, _Known]] = {}, {}
        self.holding = Holding()
        self.pacing = Pacing(quotas.user.amount)
        self._paced = (
            quotas.user.amount > limits.USER_REQUESTS_AT_ONCE_MAX
        )  # else there is never who has to wait
        self.refusals: Counter[str] = Counter()  # by the quota that was used up

    @property
    def shared_up(self) -> bool | None:
        """Whether the windows that several replicas share could be asked lately; None where they share none."""
        if self._shared is None:
            return None
        return self._clock.monotonic_s() - self._down_s >= _AGAIN_S

    def whence(self, scope: dict[str, Any]) -> str:
        """From where a request comes: what the outermost of our own proxies saw, not yet known to be an address."""
        client = scope.get("client")
        text = client[0] if client else ""
        if self._proxies:
            told = [v for name, v in scope["headers"] if name == b"x-forwarded-for"]
            hops = [hop.strip() for hop in b",".join(told).decode("latin-1").split(",") if hop.strip()]
            if len(hops) >= self._proxies:
                text = hops[-self._proxies]
        return str(text)

    def admit(
        self, scope: dict[str, Any], identity: Identity, route: str, size: int
    ) -> list[Left] | Headers | Awaitable[list[Left] | Headers]:
        """Let a request in that brings `size` bytes; what is left then. TooManyRequests where it is not allowed.

        Of who has asked before, as most often, it is told as `rate_headers` tells it (a tuple); never of a batch.
        It is known at once, but where several replicas share their windows, or others of the same user come first: then
        it is to be waited for. Overloaded where too many wait so.
        """
        if identity.credential == "local":
            return []
        if self._shared is None and route not in _AT_LENGTH:
            left = self._admit_usual(scope, identity, size)
        else:
            wanted = self._wanted(scope, identity, 1, size)
            if route in _COSTLY:
                chosen = self._quotas
                starts, erases = route in _STARTS, route in _ERASES
                quota = chosen.starts if starts else chosen.erasures if erases else chosen.exports
                if quota.amount:
                    wanted.append((self._who(identity), quota, 1))
            if self._shared is not None:
                return self._spend_in_turn(wanted, identity)
            left = self._let_in(wanted, self.windows.spend(wanted, self._clock.monotonic_s()))
        if identity.principal.user is None:
            return left
        wait_s = self._wait_s(identity)
        return self._in_turn(left, wait_s) if wait_s else left

    def _wait_s(self, identity: Identity) -> float:
        """How long what was let in waits for its turn, where it is a user's."""
        if identity.principal.user is None or not self._paced:
            return 0.0
        return self.pacing.wait_s(self._who(identity), asyncio.get_running_loop().time())

    async def _in_turn(self, left: list[Left] | Headers, wait_s: float) -> list[Left] | Headers:
        await self.pacing.turn(wait_s)
        return left

    async def _spend_in_turn(self, wanted: list[Wanted], identity: Identity) -> list[Left] | Headers:
        left = await self._spend(wanted)
        wait_s = self._wait_s(identity)
        return await self._in_turn(left, wait_s) if wait_s else left

    def _admit_usual(self, scope: dict[str, Any], identity: Identity, size: int) -> list[Left] | Headers:
        """As `admit`, of a request that costs what most do, by windows in memory."""
        now_s = self._clock.monotonic_s()
        user = identity.principal.user
        name, whence = (identity.credential, "") if user is None else (user, self.whence(scope))
        known = self._known[size > 0]
        if (caller := known.get(name)) is not None:
            of, where, account, policies, form = caller
            if of is identity and where == whence and (told := account.spend(size, now_s)) is not None:
                return policies, (b"ratelimit", form % tuple(told))
        wanted = self._wanted(scope, identity, 1, size)
        found = self.windows.again(wanted, now_s)
        if found is None:
            return self._let_in(wanted, self.windows.spend(wanted, now_s))
        if found:
            if len(known) >= _KNOWN_MAX:
                known.clear()
            policies, form = _policies(tuple([left.quota for left in found]))
            known[name] = _Known(identity, whence, self.windows.account(wanted), policies, form)
        return found

    async def operations(
        self, scope: dict[str, Any], identity: Identity, left: list[Left], number: int
    ) -> None:
        """Count a request that was let in as one for as many as it has operations; `left` is told anew.

        TooManyRequests where there is not room for all of them; none is to be carried out then.
        """
        if identity.credential == "local":
            return
        try:
            found = await self._spend(self._wanted(scope, identity, number - 1, 0))
        except TooManyRequests as error:
            short = min((each for each in error.details["left"] if each.wait_s), key=lambda each: each.amount)
            raise TooManyRequests(
                f"{number} operations count as {number} requests, of which this {short.quota.name} has "
                f"{short.amount} left and {short.quota.amount} in {short.quota.window_s} seconds: "
                "send fewer at once, or wait.",
                **error.details,
            ) from None
        anew = {each.quota: each for each in found}
        left[:] = [anew.get(each.quota, each) for each in left]

    async def frame(self, scope: dict[str, Any], identity: Identity, requests: int, size: int) -> None:
        """A frame of a live conversation, or a piece of a body whose size nobody has told."""
        if identity.credential != "local":
            await self._spend(self._wanted(scope, identity, requests, size))

    def refused(self, scope: dict[str, Any]) -> None:
        """A credential was refused; TooManyRequests where too many came from that address.

        Each replica counts for itself. Others at the same address, whose credentials are good, are let in.
        """
        quota, now_s = self._quotas.refused, self._clock.monotonic_s()
        if quota.amount:
            address, network = networks_of(self.whence(scope))
            wanted = [(address, quota, 1)]
            if network is not None:
                wanted.append((network, self._quotas.network_refused, 1))
            self._let_in(wanted, self.windows.spend(wanted, now_s))

    def let_go(self) -> None:
        """The server stops: nobody waits any more, neither for their turn nor to be refused."""
        self.pacing.let_go()
        self.holding.let_go()

    async def close(self) -> None:
        """Let go of what several replicas share."""
        if self._shared is not None:
            await self._shared.close()

    @staticmethod
    def _who(identity: Identity) -> str:
        tenant, user, _, _ = identity.principal
        return f"{tenant}/{user}" if user is not None else identity.credential

    def _wanted(self, scope: dict[str, Any], identity: Identity, requests: int, size: int) -> list[Wanted]:
        chosen, who = self._quotas, self._who(identity)
        wanted: list[Wanted] = []
        if identity.principal.user is None:  # a back end asks for many users, from one address
            if requests and chosen.key.amount:
                wanted.append((who, chosen.key, requests))
            if size and chosen.key_bytes.amount:
                wanted.append((who, chosen.key_bytes, size))
            return wanted
        address, network = networks_of(self.whence(scope))
        if requests:
            if chosen.user.amount:
                wanted.append((who, chosen.user, requests))
            if chosen.address.amount:
                wanted.append((address, chosen.address, requests))
                if network is not None:
                    wanted.append((network, chosen.network, requests))
        if size:
            if chosen.user_bytes.amount:
                wanted.append((who, chosen.user_bytes, size))
            if chosen.address_bytes.amount:
                wanted.append((address, chosen.address_bytes, size))
                if network is not None:
                    wanted.append((network, chosen.network_bytes, size))
        return wanted

    async def _spend(self, wanted: list[Wanted]) -> list[Left]:
        now_s = self._clock.monotonic_s()
        if self._shared is not None and now_s - self._down_s >= _AGAIN_S:
            try:
                found = await self._shared.spend(wanted) if wanted else []
            except OSError as error:
                self._down_s = now_s
                _log.warning("limits are this replica's own for now: %s", type(error).__name__)
            else:
                return self._let_in(wanted, found)
        return self._let_in(wanted, self.windows.spend(wanted, now_s))

    def _let_in(self, wanted: Sequence[Wanted], found: list[Left]) -> list[Left]:
        for left in found:
            if left.wait_s:
                break
        else:
            return found
        self.refusals.update(left.quota.name for left in found if left.wait_s)
        worst = max(range(len(found)), key=lambda place: found[place].wait_s)
        raise TooManyRequests(retry_after_s=found[worst].wait_s, left=found, whose=wanted[worst][0])


def network_of(text: str) -> str:
    """An address in its one form, without the port that some proxies tell; of IPv6 the network (/64)."""
    return networks_of(text)[0]


@lru_cache(maxsize=10_000)
def networks_of(text: str) -> tuple[str, str | None]:
    """The same, and of IPv6 the /48 as well: of so many networks, and more, one customer of a provider may have all."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return "unknown", None
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped), None
        one, wide = (str(ipaddress.ip_network((found, bits), strict=False)) for bits in (64, 48))
        return one, wide
    return str(found), None


_ERASES: Final = frozenset({"clearUserData", "savePrivacy"})
_STARTS: Final = frozenset({"live", "liveEvents"})
_COSTLY: Final = _ERASES | _STARTS | {"exportUser"}
_AT_LENGTH: Final = _COSTLY | {"batch"}  # what is left of its windows is told when its operations are counted


def rate_headers(found: Sequence[Left]) -> Headers:
    """The fields that tell what is left."""
    if not found:
        return ()
    policies, form = _policies(tuple([left.quota for left in found]))
    told: list[int] = []
    for left in found:
        told += (left.amount, left.reset_s)
    return policies, (b"ratelimit", form % tuple(told))


@lru_cache(maxsize=100)
def _policies(quotas: tuple[Quota, ...]) -> tuple[tuple[bytes, bytes], bytes]:
    """The field that tells these quotas, and the form of the one that tells what is left of them."""
    units = {quota: "" if quota.unit == "request" else f';qu="{quota.unit}"' for quota in quotas}
    told = ", ".join(f'"{q.name}";q={q.amount};w={q.window_s}{units[q]}' for q in quotas)
    form = ", ".join(f'"{quota.name}";r=%d;t=%d' for quota in quotas)
    return (b"ratelimit-policy", told.encode()), form.encode()


def told_size(fields: Mapping[bytes, bytes]) -> int | None:
    """The bytes of a body as the fields of its head tell them: 0 where there is none; None where they do not say."""
    length = fields.get(b"content-length")
    if b"transfer-encoding" in fields:
        return None
    if length is None:
        return 0
    return int(length) if length.isdigit() and len(length) <= 15 else None
