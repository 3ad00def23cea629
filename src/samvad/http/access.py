"""Who may ask what: the rule of each route, and the credential that a request brings.

The rule of a route is the outer door: scopes, and whether people may come at all. The inner one is the service, which
acts for one principal and refuses everybody else's data, whatever a route forgot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from samvad.auth.authenticator import Identity
from samvad.errors import Forbidden, NotFound, Unauthenticated
from samvad.types import DEFAULT_TENANT, Principal

NOBODY: Final = Principal()  # reaches nothing: for routes that ask nobody
_SUBPROTOCOL: Final = "samvad.bearer."


class Access(NamedTuple):
    """Who may ask. A program needs `scope` (None: any; the handler looks); a person comes in where `people` says so.

    `session`: a person whose token is narrowed to one session as well. `operator`: only in the tenant `default`, whose
    keys are the operator's, because the answer is about all tenants. `also`: further scopes that a program needs.
    """

    scope: str | None = None
    people: bool = True
    session: bool = False
    operator: bool = False
    open: bool = False
    also: tuple[str, ...] = ()


OPEN: Final = Access(open=True)  # without any credential: nothing that anybody said or did is in the answer
ANYBODY: Final = Access()  # with any credential: the handler asks for the scope of each part
USERS: Final = Access("users")
EVERYTHING: Final = Access("users", also=("sessions", "knowledge"))  # of one user
SESSIONS: Final = Access("sessions")
ONE_SESSION: Final = Access("sessions", session=True)
KNOWLEDGE: Final = Access("knowledge")
MINTING: Final = Access("users", people=False)
STATS: Final = Access("stats", people=False)
OPERATOR: Final = Access("stats", people=False, operator=True)
LIVE: Final = Access("users", session=True)


def check_access(access: Access, principal: Principal, params: Sequence[str] = ()) -> None:
    """Forbidden where this principal may not ask. Nothing has been looked up then: it says nothing of what is there.

    To a token of one session every other session is as if it were not there: NotFound.
    """
    scope, people, own_session, operator, _, also = access
    if principal.user is not None:
        allowed = people and (own_session or principal.session is None)
    else:
        allowed = scope is None or principal.may(scope)
        if also:
            allowed = allowed and all(map(principal.may, also))
        if operator:
            allowed = allowed and principal.tenant == DEFAULT_TENANT
    if not allowed:
        raise Forbidden
    if principal.session is not None and params and params[0] != principal.session:
        raise NotFound(f"There is no session {params[0]!r}.")


def bearer(scope: dict[str, Any]) -> str | None:
    """The token of a request (RFC 6750, section 2.1); None where it brings none. Unauthenticated where it brings two.

    A browser cannot set headers on a WebSocket: there the token may come as the subprotocol `samvad.bearer.<token>`.
    Never in the address, where logs and histories would keep it.
    """
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    offered = []
    if scope["type"] == "websocket":
        offered = [name for name in scope.get("subprotocols") or () if name.startswith(_SUBPROTOCOL)]
    if len(values) + len(offered) > 1:
        raise Unauthenticated
    if offered:
        return str(offered[0]).removeprefix(_SUBPROTOCOL)
    if not values:
        return None
    scheme, _, token = values[0].decode("latin-1").partition(" ")
    return token.strip(" ") if scheme.lower() == "bearer" else ""


def usual_bearer(scope: dict[str, Any], fields: Mapping[bytes, bytes]) -> bytes | None:
    """The token of a request that brings it as nearly all do; for all others None, and `bearer` tells."""
    value = fields.get(b"authorization")
    if value is None or value[:7] != b"Bearer " or len(fields) != len(scope["headers"]):
        return None
    return value[7:]


def live_name(what: str, identity: Identity) -> str:
    """What is done on a live connection, as a record names it: a program that acts for a user is told apart."""
    program = identity.principal.user is None and identity.credential != "local"
    return f"{what}ForUser" if program else what


class AccessRecord(NamedTuple):
    """One answered request, for who keeps a log of them. `identity` is None where nobody was asked who they are.

    `params` are those of the path, and `users` whose data it wrote: ids, and no content. `address` is what the
    outermost of our own proxies said, and may be no address.
    """

    request_id: str
    route: str
    status: int
    identity: Identity | None
    address: str | None
    params: tuple[str, ...]
    users: tuple[str, ...] = ()
