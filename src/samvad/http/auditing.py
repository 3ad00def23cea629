"""What of the requests goes into the audit log, as the settings want it."""

from __future__ import annotations

import ipaddress
import logging
from typing import TYPE_CHECKING, Final, Literal

from samvad.auth.audit import AuditLog
from samvad.errors import Unavailable
from samvad.http.access import AccessRecord
from samvad.http.attempts import EVENTS, Attempts, Caller, Told
from samvad.http.rate_limits import network_of
from samvad.http.routing import Route

if TYPE_CHECKING:
    from samvad.clock import Clock
    from samvad.runtime import Samvad

Level = Literal["off", "sensitive", "writes", "all"]

# And whatever deletes.
SENSITIVE: Final = frozenset({"clearUserData", "exportUser", "mintToken", "savePrivacy"})
_LIVE: Final = ("startLive", "renewLive", "endLive")  # see `samvad.live.noting`
REFUSED: Final = frozenset({401, 403})
_LOOKED_AT: Final = REFUSED | frozenset(EVENTS)  # of those, some are noted only where they come in bulk
_LIMITED: Final = 429  # never noted one by one
_log = logging.getLogger(__name__)
_KINDS: Final = {"userId": "user", "sessionId": "session", "documentId": "document"}


class Auditing:
    """Notes requests. `check` is asked before a request is carried out, `note` told of each that was answered."""

    def __init__(self, log: AuditLog, level: Level, routes: tuple[Route, ...], clock: Clock) -> None:
        self.log = log
        self.attempts = Attempts(clock, self._note_attempts)
        self._wanted = {route.name for route in routes if self._wants(route, level)}
        self._kinds = {
            route.name: next((kind for name, kind in _KINDS.items() if f"{{{name}}}" in route.path), None)
            for route in routes
        }
        # On a live connection: a program that talks for a user, and at the higher levels everybody.
        self._wanted.add("startLiveForUser")
        if level in ("writes", "all"):
            self._wanted.update(name + suffix for name in _LIVE for suffix in ("", "ForUser"))
        self._kinds |= {name + suffix: "session" for name in _LIVE for suffix in ("", "ForUser")}

    @staticmethod
    def _wants(route: Route, level: Level) -> bool:
        if route.name in SENSITIVE or route.method == "DELETE":
            return True
        if level == "all":
            return not route.access.open
        return level == "writes" and route.method != "GET" and not route.access.open

    def check(self, route: str) -> None:
        """Unavailable where this request would have to be noted and cannot be."""
        if route in self._wanted:
            self.log.check()

    def is_noted(self, route: str, status: int) -> bool:
        """Whether what was answered so is to be looked at by `note`."""
        return route in self._wanted or status in _LOOKED_AT

    def note(self, record: AccessRecord) -> None:
        """Take in an answered request."""
        route, status = record.route, record.status
        one_by_one = status != _LIMITED and (route in self._wanted or status in REFUSED)
        if not one_by_one and status not in EVENTS:
            return
        try:
            self.log.check()
        except Unavailable:  # it was said in the server's log; what must be noted was not carried out
            return
        identity = record.identity
        if not one_by_one:
            self.attempts.refused(_name(record), status, lambda: self._caller(record))
            return
        tenant = identity.principal.tenant if identity is not None else "-"
        kind = self._kinds.get(route)
        concerned = [self.log.hashed("user", tenant, each) for each in record.users]
        if kind is not None and record.params:
            concerned.append(self.log.hashed(kind, tenant, record.params[0]))
        self.log.note(
            self._who(record),
            tenant,
            route,
            status,
            sorted(set(concerned)),
            address=_is_address(record.address),
            request=record.request_id,
        )

    def _who(self, record: AccessRecord) -> str:
        identity = record.identity
        if identity is None:
            return "nobody"
        tenant, user, _, _ = identity.principal
        return (
            identity.credential
            if user is None
            else f"{identity.credential} {self.log.hashed('user', tenant, user)}"
        )

    def _caller(self, record: AccessRecord) -> Caller:
        identity, who, address = record.identity, self._who(record), _is_address(record.address)
        if identity is None:
            return Caller(who, "-", False, address)
        return Caller(who, identity.principal.tenant, identity.principal.user is None, address)

    def _note_attempts(self, told: Told) -> None:
        caller = told.caller
        self.log.note(
            caller.who, caller.tenant, told.event, told.status, address=caller.address, count=told.times
        )
        fields = {"event": told.event, "status": told.status, "count": told.times, "who": caller.who}
        _log.warning("requests are refused in bulk", extra=fields)

    def note_retention(self, did: str, tenant: str, whom: list[tuple[str, str, str]]) -> None:
        """Take in what the sweeper did, by itself."""
        concerned = [self.log.hashed(*each) for each in whom]
        self.log.note("retention", tenant, did, 200, concerned)

    def begin(self, samvad: Samvad) -> None:
        """Write as long as the service is open."""

        async def start() -> None:
            self.log.start()

        async def stop() -> None:
            self.attempts.close()
            self.log.stop()

        samvad.after_open.append(start)
        samvad.before_close.append(stop)


def _name(record: AccessRecord) -> str:
    """Who is told apart: a person whatever their tokens, a program by its credential, nobody by the network."""
    identity = record.identity
    if identity is None:
        return f"address {network_of(record.address or '')}"
    tenant, user, _, _ = identity.principal
    return identity.credential if user is None else f"user {tenant}/{user}"


def _is_address(text: str | None) -> str | None:
    """The text, if it is an address: behind proxies it is what they have passed on."""
    try:
        return None if text is None else str(ipaddress.ip_address(text))
    except ValueError:
        return None
