"""Keys of issuers over time: fetched once, rotated, withdrawn, out of reach; and Firebase's rules."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from samvad import limits
from samvad.auth.authenticator import Authenticator
from samvad.auth.issuers import Issuer, IssuerRules, firebase_rules
from samvad.auth.jwks import KeySet, check_url, usable
from samvad.errors import SetupError, Unauthenticated, Unavailable
from samvad.http.auth_opening import issuers
from samvad.settings import Settings
from tests.auth.support import (
    AUDIENCE,
    USER,
    IssuerServer,
    authenticator,
    claims_at,
    ec_key,
    ed_key,
    issuer_server,
    jwk,
    part,
    rsa_key,
    signed,
)
from tests.http.support import HandClock

pytestmark = pytest.mark.anyio
RS = {"alg": "RS256", "typ": "JWT", "kid": "rsa-1"}


@pytest.fixture
def server() -> Iterator[IssuerServer]:
    """An issuer of its own for each test."""
    with issuer_server() as found:
        yield found


def token(server: IssuerServer, clock: HandClock, key: Any = None, kid: str = "rsa-1", **claims: Any) -> str:
    return signed({**RS, "kid": kid}, claims_at(server, clock, **claims), key or rsa_key())


async def refused(auth: Authenticator, text: str) -> None:
    with pytest.raises(Unauthenticated):
        await auth.identify(text)


async def test_keys_are_fetched_once_for_all_who_wait(server: IssuerServer) -> None:
    """A hundred first tokens are one discovery and one set of keys."""
    clock = HandClock()
    auth = authenticator(server, clock)
    tokens = [token(server, clock, sub=f"user_{number}") for number in range(100)]
    found = await asyncio.gather(*[auth.identify(each) for each in tokens])
    assert [identity.principal.user for identity in found] == [f"user_{number}" for number in range(100)]
    assert len(server.asked) == 2


async def test_a_key_that_is_new_is_taken_up(server: IssuerServer) -> None:
    """A token under a key that was not there yet has the keys fetched anew: 30 s after the last time, no earlier."""
    clock = HandClock()
    auth = authenticator(server, clock)
    await auth.identify(token(server, clock))
    server.keys.append(jwk(rsa_key(2), "rsa-2"))
    new = token(server, clock, rsa_key(2), "rsa-2")
    await refused(auth, new)
    clock.advance(30)
    assert (await auth.identify(new)).principal.user == USER
    await auth.identify(token(server, clock))


async def test_strangers_cannot_have_the_issuer_asked_without_end(server: IssuerServer) -> None:
    """A thousand tokens with key ids that nobody knows are one request in 30 s."""
    clock = HandClock()
    auth = authenticator(server, clock)
    await auth.identify(token(server, clock))
    before = len(server.asked)

    def made_up(number: int) -> str:
        header = part({**RS, "kid": f"made-up-{number}"})
        return f"{header}.{part(claims_at(server, clock))}.{part(bytes(256))}"

    for number in range(1_000):
        await refused(auth, made_up(number))
    assert len(server.asked) == before
    clock.advance(31)
    for number in range(100):
        await refused(auth, made_up(number))
    assert len(server.asked) == before + 2


async def test_a_key_that_is_withdrawn_opens_nothing_more(server: IssuerServer) -> None:
    """Once the keys were fetched anew, also a token that was taken a moment before is refused."""
    clock = HandClock()
    auth = authenticator(server, clock)
    old = token(server, clock, exp=clock.now_ms() // 1000 + 86_000)
    await auth.identify(old)
    server.keys = [jwk(rsa_key(2), "rsa-2")]
    assert (await auth.identify(old)).principal.user == USER  # max-age has not passed
    clock.advance(301)
    await refused(auth, old)
    assert (await auth.identify(token(server, clock, rsa_key(2), "rsa-2"))).principal.user == USER


async def test_a_key_of_the_same_id_that_is_another(server: IssuerServer) -> None:
    """Tokens under the key that it was are refused, though they were taken before."""
    clock = HandClock()
    auth = authenticator(server, clock)
    old = token(server, clock, exp=clock.now_ms() // 1000 + 86_000)
    await auth.identify(old)
    server.keys[0] = jwk(rsa_key(3), "rsa-1")
    clock.advance(301)
    await refused(auth, old)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (302, b"{}"),
        (200, b"not json"),
        (200, b"[]"),
        (200, b'{"keys": []}'),
        (200, b"x" * 300_000),
        (200, b'{"keys": ' + b"[" * 100_000),
        (200, b'{"issuer": "https://evil.example", "jwks_uri": "https://evil.example/keys"}'),
    ],
)
async def test_an_issuer_that_cannot_be_asked(server: IssuerServer, status: int, body: bytes) -> None:
    """Keys known go on for a day; who was never asked is 503, not 401: the token may be good."""
    clock = HandClock()
    never, known = authenticator(server, clock), authenticator(server, clock)
    await known.identify(token(server, clock))
    server.status, server.body = status, body
    with pytest.raises(Unavailable):
        await never.identify(token(server, clock))
    clock.advance(limits.JWKS_STALE_S_MAX - 1)
    assert (await known.identify(token(server, clock))).principal.user == USER
    clock.advance(2)
    with pytest.raises(Unavailable):
        await known.identify(token(server, clock))
    server.status, server.body = 200, None
    clock.advance(30)
    assert (await known.identify(token(server, clock))).principal.user == USER
    assert (await never.identify(token(server, clock))).principal.user == USER


async def test_keys_are_not_asked_for_compressed(server: IssuerServer) -> None:
    """What is small on the line may be huge in memory: such an answer is refused, whoever did not ask for it."""
    clock = HandClock()
    server.body, server.encoding = gzip.compress(json.dumps({"keys": server.keys}).encode()), "gzip"
    keys = KeySet(clock, url=f"{server.url}/keys", issuer=server.url)
    with pytest.raises(Unavailable):
        await keys.find("rsa-1")
    assert server.accepted == ["identity"]


async def test_an_issuer_that_is_gone(server: IssuerServer) -> None:
    """Nobody listens there any more: the same."""
    clock = HandClock()
    keys = KeySet(clock, url="http://127.0.0.1:9/keys", issuer=server.url)
    rules = IssuerRules(issuer=server.url, audience=AUDIENCE, algorithms=frozenset({"RS256"}))
    auth = Authenticator(clock, issuers=[Issuer(rules, keys, clock)])
    for _ in range(3):
        with pytest.raises(Unavailable):
            await auth.identify(token(server, clock))
    assert keys.fetches == 1


async def test_discovery_may_not_lead_to_plain_http(server: IssuerServer) -> None:
    """Keys that come over an open line are nobody's keys."""
    clock = HandClock()
    server.discovery = {"jwks_uri": "http://keys.example/keys"}
    with pytest.raises(Unavailable):
        await authenticator(server, clock).identify(token(server, clock))
    for bad in (
        "http://issuer.example",
        "ftp://issuer.example",
        "https://a:b@issuer.example",
        "https://",
        "https://[issuer.example",
        "https://issuer.example:99999",
        "x",
    ):
        with pytest.raises(SetupError):
            check_url(bad, "SAMVAD_AUTH_ISSUER")


def test_what_cannot_be_used_is_left_out() -> None:
    """Shared secrets, private keys, short ones, those for encryption, unknown kinds, broken ones."""
    private = {**jwk(rsa_key(), "private"), "d": "AQAB"}
    keys: list[Any] = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret", "alg": "HS256"},
        private,
        jwk(rsa_key(0, 1024), "short"),
        jwk(rsa_key(), "encrypts", use="enc"),
        jwk(rsa_key(), "shared", alg="HS256"),
        jwk(rsa_key(), "several", alg=["RS256"]),
        {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA", "kid": "curve"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "broken"},
        {"kty": "RSA", "kid": "empty"},
        {"kty": ["RSA"], "kid": "odd"},
        jwk(rsa_key(), None) | {"kid": 7},
        "text",
        None,
    ]
    good = [jwk(rsa_key(), "rsa", alg="RS256"), jwk(ec_key(), "ec"), jwk(ed_key(), "ed")]
    found = usable({"keys": keys + good})
    assert set(found) == {"rsa", "ec", "ed"}
    assert found["rsa"].algorithms == {"RS256"} and found["ec"].algorithms == {"ES256"}
    assert usable({"keys": "rsa"}) == usable({}) == {}


@pytest.mark.parametrize("bits", [2048, 3072])
async def test_the_least_size_of_rsa_keys(
    server: IssuerServer, bits: int, caplog: pytest.LogCaptureFixture
) -> None:
    """With 3,072 bits asked for, tokens under a shorter key are refused, and the log says why; curves go on."""
    clock = HandClock()
    server.keys = [jwk(rsa_key(), "rsa-1"), jwk(rsa_key(0, 3072), "rsa-3"), jwk(ec_key(), "ec-1")]
    rules = IssuerRules(issuer=server.url, audience=AUDIENCE, algorithms=frozenset({"RS256", "ES256"}))
    keys = KeySet(clock, url=f"{server.url}/keys", issuer=server.url, rsa_bits_min=bits)
    auth = Authenticator(clock, issuers=[Issuer(rules, keys, clock)])
    await auth.identify(token(server, clock, rsa_key(0, 3072), "rsa-3"))
    await auth.identify(signed({"alg": "ES256", "kid": "ec-1"}, claims_at(server, clock), ec_key(), "ES256"))
    if bits == 2048:
        await auth.identify(token(server, clock))
    else:
        await refused(auth, token(server, clock))
        assert "has 2048 bits, fewer than 3072" in caplog.text


HEADERS: dict[str, dict[str, Any]] = {
    "access": {**RS, "typ": "at+jwt"},
    "access in full": {**RS, "typ": "application/AT+JWT"},
    "plain": RS,
    "none": {"alg": "RS256", "kid": "rsa-1"},
}
ID_CLAIMS: dict[str, dict[str, Any]] = {
    "an ID token": {"nonce": "n", "azp": "another"},
    "one of Cognito": {"token_use": "id"},
    "one of Keycloak": {"typ": "ID"},
    "for several, and for us": {"aud": [AUDIENCE, "another"], "azp": AUDIENCE},
}
OTHER_CLAIMS: dict[str, dict[str, Any]] = {
    "scopes": {"scope": "openid"},
    "scopes of Okta": {"scp": ["openid"]},
    "a client": {"client_id": "c"},
    "a client of Okta": {"cid": "c"},
    "of Cognito": {"token_use": "access"},
    "of Keycloak": {"typ": "Bearer"},
    "refreshing at Keycloak": {"typ": "Refresh"},
    "for several, and another": {"aud": [AUDIENCE, "another"], "azp": "another"},
    "for several": {"aud": [AUDIENCE, "another"]},
    "without its time": {"iat": None},
}


@pytest.mark.parametrize("jwt_type", ["any", "access", "id"])
async def test_the_kind_of_token(server: IssuerServer, jwt_type: str) -> None:
    """Where the setting says which kind, every token of the other is refused, though issuer and audience are right."""
    clock = HandClock()
    auth = authenticator(server, clock, jwt_type=jwt_type)
    for name, header in HEADERS.items():
        for claims in (*ID_CLAIMS.values(), *OTHER_CLAIMS.values()):
            text = signed(header, claims_at(server, clock, **claims), rsa_key())
            is_access = name.startswith("access")
            if jwt_type == "any" or (
                is_access if jwt_type == "access" else not is_access and claims in ID_CLAIMS.values()
            ):
                assert (await auth.identify(text)).principal.user == USER, (header, claims)
            else:
                await refused(auth, text)
                assert auth.refusals.keys() <= {"kind of token", "party"}


async def test_tenants_and_scopes_from_claims(server: IssuerServer) -> None:
    """A claim names the tenant, another one the scopes of a program; other words count for nothing."""
    clock = HandClock()
    auth = authenticator(server, clock, tenant_claim="org.id", scope_claim="scope")
    user = await auth.identify(token(server, clock, org={"id": "acme"}))
    assert user.principal == ("acme", USER, frozenset(), None)
    program = await auth.identify(
        token(server, clock, org={"id": "acme"}, scope="openid samvad:users samvad:root")
    )
    assert program.principal == ("acme", None, {"users"}, None)
    plain = await auth.identify(token(server, clock, org={"id": "acme"}, scope="openid users admin"))
    assert plain.principal.user == USER
    for claims in (
        {},
        {"org": "acme"},
        {"org": {"id": ""}},
        {"org": {"id": ["acme"]}},
        {"org": {"id": "a/b"}},
    ):
        await refused(auth, token(server, clock, **claims))
    unscoped = authenticator(server, clock)
    found = await unscoped.identify(token(server, clock, scope="samvad:admin"))
    assert found.principal == ("default", USER, frozenset(), None)


def firebase(server: IssuerServer, clock: HandClock, **more: Any) -> tuple[Authenticator, dict[str, Any]]:
    """An authenticator for a Firebase project, whose keys the test's server has; and the claims of a good token."""
    rules = firebase_rules("my-project", **more)
    auth = Authenticator(clock, issuers=[Issuer(rules, KeySet(clock, url=f"{server.url}/keys"), clock)])
    now_s = clock.now_ms() // 1000
    claims = {
        "iss": "https://securetoken.google.com/my-project",
        "aud": "my-project",
        "auth_time": now_s - 60,
        "iat": now_s - 60,
        "exp": now_s + 3_540,
        "sub": USER,
        "user_id": USER,
        "firebase": {"identities": {}, "sign_in_provider": "password"},
    }
    return auth, claims


async def test_firebase(server: IssuerServer) -> None:
    """Its ID tokens, by the rules that it documents; each of them broken once is refused."""
    clock = HandClock()
    auth, claims = firebase(server, clock)
    found = await auth.identify(signed(RS, claims, rsa_key()))
    assert found.principal == ("default", USER, frozenset(), None)
    now_s = clock.now_ms() // 1000
    broken: list[dict[str, Any]] = [
        {"iss": "https://securetoken.google.com/other-project"},
        {"iss": "https://session.firebase.google.com/my-project"},
        {"aud": "other-project"},
        {"aud": ["my-project"]},
        {"auth_time": now_s + 3_600},
        {"auth_time": None},
        {"iat": None},
        {"iat": now_s + 3_600},
        {"exp": now_s - 3_600},
        {"sub": ""},
        {"sub": None},
        {"sub": "u" * 129},
        {"firebase": {"tenant": "tenant-1"}},
    ]
    for change in broken:
        wrong = {name: value for name, value in {**claims, **change}.items() if value is not None}
        await refused(auth, signed(RS, wrong, rsa_key()))
    await refused(auth, signed({"alg": "RS256"}, claims, rsa_key()))
    await refused(auth, signed({**RS, "alg": "ES256", "kid": "ec-1"}, claims, ec_key(), "ES256"))
    await refused(auth, signed({"alg": "none"}, claims))


async def test_firebase_tenants(server: IssuerServer) -> None:
    """Identity Platform's tenants are tenants here, where the setting says so."""
    clock = HandClock()
    auth, claims = firebase(server, clock, tenant_claim="firebase.tenant")
    claims["firebase"] = {"tenant": "tenant-1"}
    assert (await auth.identify(signed(RS, claims, rsa_key()))).principal[:2] == ("tenant-1", USER)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"auth_issuer": "https://issuer.example"}, "SAMVAD_AUTH_AUDIENCE"),
        ({"auth_audience": "a"}, "need SAMVAD_AUTH_ISSUER"),
        ({"auth_jwt_type": "access"}, "need SAMVAD_AUTH_ISSUER"),
        ({"auth_issuer": "http://issuer.example", "auth_audience": "a"}, "https://"),
        (
            {"auth_issuer": "https://i.example", "auth_audience": "a", "auth_algorithms": "RS256,HS256"},
            "cannot be had",
        ),
        (
            {"auth_issuer": "https://i.example", "auth_audience": "a", "auth_algorithms": "none"},
            "cannot be had",
        ),
        (
            {"auth_issuer": "https://i.example", "auth_audience": "a", "auth_jwks_url": "http://k.example"},
            "JWKS_URL",
        ),
    ],
)
def test_settings_that_cannot_be(given: dict[str, str], words: str) -> None:
    """An operator's mistake is a sentence that names the setting."""
    with pytest.raises(SetupError, match=words):
        issuers(Settings(**given), HandClock())


async def test_a_token_seen_before_is_not_verified_again(server: IssuerServer) -> None:
    """It is known by a hash, until it ends; and the memory for that is bounded."""
    clock = HandClock()
    auth = authenticator(server, clock)
    text = token(server, clock)
    first = await auth.identify(text)
    assert await auth.identify(text) is first
    assert text not in repr(auth._seen)
    clock.advance(331)
    await refused(auth, text)
    limit = limits.TOKENS_CACHED_MAX
    auth._seen.update({bytes([n % 256, n // 256]): (first, None, 0, 0) for n in range(limit)})
    await auth.identify(token(server, clock))
    assert len(auth._seen) <= limit
