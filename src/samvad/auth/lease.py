"""Who was let in for longer than one request: a socket or an event stream, for as long as its credential holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from samvad import limits
from samvad.auth.authenticator import Authenticator, Identity
from samvad.errors import Forbidden

EXPIRED: Final = "token_expired"
REVOKED: Final = "token_revoked"
_LOOK_S_MAX: Final = 3_600.0  # the wall clock may be set meanwhile


class Lease:
    """Calls `warn` with the seconds left before a credential ends, and `end` with the reason when it does.

    It ends for a key that was revoked as soon as the keyring says so. `renew` lets it go on with a newer token.
    """

    def __init__(
        self,
        auth: Authenticator,
        identity: Identity,
        *,
        warn: Callable[[int], None],
        end: Callable[[str], None],
    ) -> None:
        self._auth = auth
        self.identity = identity
        self._warn = warn
        self._end = end
        self._warned = False
        self._timer: asyncio.TimerHandle | None = None
        auth.on_change.append(self._changed)
        self._wait()

    def stop(self) -> None:
        """It is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._changed in self._auth.on_change:
            self._auth.on_change.remove(self._changed)

    async def renew(self, token: str) -> int | None:
        """Go on with this token; how many seconds it holds (None: no end).

        Unauthenticated where it is not good, Forbidden where it is not for the same user, session and tenant, or has
        fewer scopes.
        """
        identity = await self._auth.identify(token)
        old, new = self.identity.principal, identity.principal
        if new._replace(scopes=old.scopes) != old or not (new.scopes >= old.scopes or new.may("admin")):
            raise Forbidden
        self.identity = identity
        self._warned = False
        self._wait()
        return None if identity.expires_ms is None else max(round(self._left_s()), 0)

    def _left_s(self) -> float:
        expires_ms = self.identity.expires_ms
        return float("inf") if expires_ms is None else (expires_ms - self._auth.now_ms()) / 1000

    def _changed(self) -> None:
        if not self._auth.holds(self.identity):
            self._over(REVOKED if self._left_s() > 0 else EXPIRED)

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        left_s = self._left_s()
        if left_s == float("inf"):
            self._timer = None
            return
        due_s = left_s if self._warned else left_s - limits.LIVE_WARNING_S
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(min(max(due_s, 0.0), _LOOK_S_MAX), self._look)

    def _look(self) -> None:
        left_s = self._left_s()
        if left_s <= 0:
            self._over(EXPIRED)
            return
        if left_s <= limits.LIVE_WARNING_S and not self._warned:
            self._warned = True
            self._warn(max(round(left_s), 1))
        self._wait()

    def _over(self, reason: str) -> None:
        self.stop()
        self._end(reason)
