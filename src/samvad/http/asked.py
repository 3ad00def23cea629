"""What is under way, a request or a live connection, as its log lines name it; and a line for each that is over."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from samvad import tracing
from samvad.logs import user_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from samvad.auth.authenticator import Identity
    from samvad.http.call import Call
    from samvad.http.routing import Route

# Asked every few seconds by machines, and never by anybody else.
_POLLED: Final = frozenset({"healthz", "readyz", "metrics"})
_log = logging.getLogger("samvad.access")


class Asked:
    """A request under way. What is known of it is filled in as it becomes known."""

    # Of the class until they are known: made for each request, this must cost next to nothing.
    route: Route | None = None
    status = 0  # until it is answered
    code: str | None = None  # of the error
    params: Sequence[str] = ()
    identity: Identity | None = None
    call: Call | None = None
    whose: tuple[str, str] | None = None  # tenant and user, where neither the path nor the token say it
    path: str | None = None  # of what is no route

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id

    def log_fields(self) -> dict[str, str]:
        """What its log lines carry. The hash of the user is made here, and not for requests that log nothing."""
        fields = {"request": self.request_id}
        whose = self.user()
        if whose is not None:
            fields["user"] = user_hash(*whose)
        if (span := tracing.here()) is not None:
            fields["trace"] = f"{span.trace_id:032x}"
        return fields

    def user(self) -> tuple[str, str] | None:
        """Tenant and user that this is about, where it is about one."""
        if self.whose is not None:
            return self.whose
        if self.identity is None:
            return None
        tenant, user, _, _ = self.identity.principal
        if user is not None:
            return tenant, user
        if self.params and self.route is not None and "{userId}" in self.route.path:
            return tenant, self.params[0]
        if self.call is not None and len(self.call.users) == 1:
            return tenant, next(iter(self.call.users))
        return None


def log_answered(route: str, status: int, seconds: float) -> None:
    """The access log: a line for a request that was answered."""
    level = logging.DEBUG if route in _POLLED else logging.INFO
    if _log.isEnabledFor(level):
        fields = {"route": route, "status": status, "ms": round(seconds * 1000, 2)}
        _log.log(level, "request answered", extra=fields)
