"""JWTs of an OIDC issuer, and Firebase ID tokens: issuer, audience and algorithms pinned, every claim looked at.

Rules: RFC 7519 and RFC 8725; OpenID Connect Core 1.0, section 3.1.3.7; for Firebase
https://firebase.google.com/docs/auth/admin/verify-id-tokens#verify_id_tokens_using_a_third-party_jwt_library
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

from samvad import limits
from samvad.auth.jwks import KeySet, VerifyKey
from samvad.auth.jwt_form import Parts, Refused
from samvad.clock import Clock
from samvad.errors import InvalidId
from samvad.sessions.validation import check_id
from samvad.types import DEFAULT_TENANT, SCOPES, Principal

FIREBASE_KEYS: Final = (
    "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com"
)
_FIREBASE_ISSUER: Final = "https://securetoken.google.com/"
_FIREBASE_SUB_CHARS_MAX: Final = 128
_SCOPE_PREFIX: Final = "samvad:"
_AUDIENCES_MAX: Final = 32
_SECONDS_MAX: Final = 1 << 40
# What stands in access tokens alone: of RFC 9068, of Okta, of Microsoft.
_OF_ACCESS_TOKENS: Final = frozenset({"scope", "scp", "client_id", "cid"})
# Where issuers say themselves which kind it is: Cognito, Keycloak. In an ID token, the kind is this.
_SAYS_ID: Final = {"token_use": "id", "typ": "ID"}

JwtType = Literal["any", "access", "id"]


class IssuerRules(msgspec.Struct, frozen=True, kw_only=True):
    """What a token of an issuer must say, and what is read from it. Claims may be paths: `firebase.tenant`."""

    issuer: str
    audience: str
    algorithms: frozenset[str]
    user_claim: str = "sub"
    tenant_claim: str | None = None
    tenant: str = DEFAULT_TENANT
    scope_claim: str | None = None
    firebase: bool = False
    jwt_type: JwtType = "any"
    leeway_s: float = limits.TOKEN_LEEWAY_S


class Verified(NamedTuple):
    """Whom a token stands for, until when, and under which key."""

    principal: Principal
    expires_ms: int


class Issuer:
    """One issuer of JWTs."""

    def __init__(self, rules: IssuerRules, keys: KeySet, clock: Clock) -> None:
        self.rules = rules
        self.keys = keys
        self._clock = clock

    def may_be_of(self, parts: Parts) -> bool:
        """Whether a token says that it is of this issuer."""
        return parts.claims.get("iss") == self.rules.issuer

    async def verify(self, parts: Parts) -> Verified:
        """Whom a token stands for. Refused where it is not good; Unavailable where the keys cannot be had."""
        if parts.algorithm not in self.rules.algorithms:
            raise Refused("algorithm")
        if parts.kid is None and self.rules.firebase:
            raise Refused("kid")
        check_type(parts, self.rules)
        verified = self._claims(parts.claims)  # before the keys: what is refused anyway fetches nothing
        key = self.keys.known(parts.kid) or await self.keys.find(parts.kid)
        check_signature(parts, key)
        return verified

    def _claims(self, claims: Mapping[str, Any]) -> Verified:
        rules, now_s = self.rules, self._clock.now_ms() / 1000
        if claims.get("iss") != rules.issuer:
            raise Refused("issuer")
        audience = claims.get("aud")
        audiences = [audience] if isinstance(audience, str) else audience
        if (
            not isinstance(audiences, list)
            or len(audiences) > _AUDIENCES_MAX
            or not all(isinstance(each, str) for each in audiences)
            or rules.audience not in audiences
        ):
            raise Refused("audience")
        if rules.firebase and audience != rules.audience:
            raise Refused("audience")
        expires_s = _seconds(claims, "exp", needed=True)
        if now_s >= expires_s + rules.leeway_s:
            raise Refused("expired")
        for name, needed in (("iat", rules.firebase), ("nbf", False), ("auth_time", rules.firebase)):
            if _seconds(claims, name, needed=needed) > now_s + rules.leeway_s:
                raise Refused(f"{name} in the future")
        return Verified(self._principal(claims), round((expires_s + rules.leeway_s) * 1000))

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        rules = self.rules
        tenant: Any = rules.tenant
        if rules.tenant_claim is not None:
            tenant = _at(claims, rules.tenant_claim)
        elif rules.firebase and _at(claims, "firebase.tenant") is not None:
            raise Refused("tenant")  # the same uid in two of the project's tenants is not the same person
        tenant = _id(tenant, "tenant")
        if rules.scope_claim is not None:
            given = _at(claims, rules.scope_claim)
            words = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
            scopes = {
                word.removeprefix(_SCOPE_PREFIX)
                for word in words
                if isinstance(word, str) and word.startswith(_SCOPE_PREFIX)
            }
            if scopes & SCOPES:
                return Principal(tenant, None, frozenset(scopes) & SCOPES)
        user = _id(_at(claims, rules.user_claim), "user")
        if rules.firebase:
            subject = claims.get("sub")
            if not isinstance(subject, str) or not 0 < len(subject) <= _FIREBASE_SUB_CHARS_MAX:
                raise Refused("sub")
        return Principal(tenant, user)


def check_type(parts: Parts, rules: IssuerRules) -> None:
    """Refused where a token is not of the kind that is taken.

    An access token says so in its header (RFC 9068, section 4). An ID token does not: it is one that does not look like
    an access token, and whose party, where it is for several, is who it is read for (OpenID Connect Core, 3.1.3.7).
    """
    if rules.jwt_type == "any":
        return
    if parts.is_access != (rules.jwt_type == "access"):
        raise Refused("kind of token")
    if rules.jwt_type == "id":
        claims = parts.claims
        if not _OF_ACCESS_TOKENS.isdisjoint(claims):
            raise Refused("kind of token")
        if any(claims.get(name, value) != value for name, value in _SAYS_ID.items()):
            raise Refused("kind of token")
        if "iat" not in claims or "sub" not in claims:
            raise Refused("kind of token")
        audience = claims.get("aud")
        if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != rules.audience:
            raise Refused("party")


def check_signature(parts: Parts, key: VerifyKey) -> None:
    """Refused unless the signature is good, with the algorithm that both the token and the key are for."""
    import jwt

    if parts.algorithm not in key.algorithms:
        raise Refused("algorithm of another key")
    try:
        good = jwt.get_algorithm_by_name(parts.algorithm).verify(parts.signed, key.key, parts.signature)
    except (jwt.PyJWTError, ValueError, TypeError):
        raise Refused("signature") from None
    if not good:
        raise Refused("signature")


def firebase_rules(project: str, **more: Any) -> IssuerRules:
    """The rules of a Firebase project's ID tokens."""
    return IssuerRules(
        issuer=_FIREBASE_ISSUER + project,
        audience=project,
        algorithms=frozenset({"RS256"}),
        firebase=True,
        **more,
    )


def _seconds(claims: Mapping[str, Any], name: str, *, needed: bool) -> float:
    """A time of a token; minus infinity where it is left out and may be."""
    value = claims.get(name)
    if value is None and name not in claims and not needed:
        return -math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _SECONDS_MAX:
        raise Refused(name)
    return float(value)


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or where there is none of that name, by its path."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _id(value: Any, what: str) -> str:
    """A user or tenant that can be one here."""
    try:
        return check_id(value, what)
    except InvalidId:
        raise Refused(what) from None
