"""Attacks on JWTs: each is one token that must be refused, told apart in a table. A good one beside them is taken."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from samvad import limits
from samvad.errors import Unauthenticated
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
    pem,
    rsa_key,
    signed,
)
from tests.http.support import HandClock

pytestmark = pytest.mark.anyio
RS: dict[str, Any] = {"alg": "RS256", "typ": "JWT", "kid": "rsa-1"}
ES: dict[str, Any] = {"alg": "ES256", "typ": "JWT", "kid": "ec-1"}
Claims = Callable[..., dict[str, Any]]
Attack = Callable[[Claims, IssuerServer], str]
HOUR_S = 3_600


def good(claims: Claims, server: IssuerServer, **header: Any) -> str:
    return signed({**RS, **header}, claims(), rsa_key())


def with_claims(**more: Any) -> Attack:
    """A token with a good signature over these claims."""
    return lambda claims, server: signed(RS, claims(**more), rsa_key())


def shifted(**seconds: float) -> Attack:
    """A token with a good signature, whose times lie so far from now."""

    def made(claims: Claims, server: IssuerServer) -> str:
        now_s = claims()["iat"]
        return signed(RS, claims(**{name: now_s + by for name, by in seconds.items()}), rsa_key())

    return made


def with_header(**more: Any) -> Attack:
    """A token with a good signature under a header that says this as well; a member given as None is left out."""

    def made(claims: Claims, server: IssuerServer) -> str:
        header = {name: value for name, value in {**RS, **more}.items() if value is not None}
        return signed(header, claims(), rsa_key())

    return made


def raw_claims(change: Callable[[str], str]) -> Attack:
    """A token with a good signature over a text of claims that was changed by hand."""
    return lambda claims, server: signed(RS, change(json.dumps(claims())), rsa_key())


def altered(change: Callable[[list[str]], str]) -> Attack:
    """A good token whose parts were changed afterwards."""
    return lambda claims, server: change(good(claims, server).split("."))


def own_key(**header: Any) -> Attack:
    """A token signed with the attacker's own key, which its header brings along."""
    return lambda claims, server: signed({**RS, **header}, claims(), rsa_key(1))


def _next_letter(text: str) -> str:
    """The same bytes where the last bits are not used, in another spelling."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) + 1]


def _claims_of(pieces: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(pieces[1] + "=="))
    return found


ATTACKS: dict[str, Attack] = {
    # no signature
    "alg none": lambda c, s: signed({"alg": "none", "kid": "rsa-1"}, c()),
    "alg None": lambda c, s: signed({"alg": "None", "kid": "rsa-1"}, c()),
    "alg NONE": lambda c, s: signed({"alg": "NONE"}, c()),
    "alg nOnE with a signature": lambda c, s: signed({"alg": "nOnE", "kid": "rsa-1"}, c(), rsa_key()),
    "alg empty": lambda c, s: signed({"alg": "", "kid": "rsa-1"}, c(), rsa_key()),
    "alg missing": with_header(alg=None),
    "alg null": lambda c, s: signed({**RS, "alg": None}, c(), rsa_key()),
    "alg a list": with_header(alg=["RS256"]),
    "alg a number": with_header(alg=256),
    "signature left out": altered(lambda p: f"{p[0]}.{p[1]}."),
    "signature and its dot left out": altered(lambda p: f"{p[0]}.{p[1]}"),
    "none over an RS256 header": lambda c, s: signed(RS, c()),
    # one algorithm for another
    "HS256 under the public key": lambda c, s: signed({**RS, "alg": "HS256"}, c(), pem(rsa_key())),
    "HS256 under the public key without line ends": lambda c, s: signed(
        {**RS, "alg": "HS256"}, c(), pem(rsa_key()).replace(b"\n", b"")
    ),
    "HS256 under the modulus": lambda c, s: signed(
        {**RS, "alg": "HS256"}, c(), jwk(rsa_key(), "x")["n"].encode()
    ),
    "HS384 under the public key": lambda c, s: signed({**RS, "alg": "HS384"}, c(), pem(rsa_key()), "HS384"),
    "HS512 under the public key": lambda c, s: signed({**RS, "alg": "HS512"}, c(), pem(rsa_key()), "HS512"),
    "HS256 under the elliptic key": lambda c, s: signed({**ES, "alg": "HS256"}, c(), pem(ec_key())),
    "HS256 under an empty secret": lambda c, s: signed({**RS, "alg": "HS256"}, c(), b""),
    "HS256 under the key id": lambda c, s: signed({**RS, "alg": "HS256"}, c(), b"rsa-1"),
    "HMAC under an RS256 header": lambda c, s: signed(RS, c(), pem(rsa_key())),
    "PS256, which is not pinned": lambda c, s: signed({**RS, "alg": "PS256"}, c(), rsa_key(), "PS256"),
    "RS512, which is not pinned": lambda c, s: signed({**RS, "alg": "RS512"}, c(), rsa_key(), "RS512"),
    "a PS256 signature called RS256": lambda c, s: signed(RS, c(), rsa_key(), "PS256"),
    "an RS512 signature called RS256": lambda c, s: signed(RS, c(), rsa_key(), "RS512"),
    "ES256 with an RSA key's id": lambda c, s: signed({**ES, "kid": "rsa-1"}, c(), ec_key(), "ES256"),
    "RS256 with an elliptic key's id": lambda c, s: signed({**RS, "kid": "ec-1"}, c(), rsa_key()),
    "EdDSA, which is not pinned": lambda c, s: signed(
        {"alg": "EdDSA", "kid": "ed-1"}, c(), ed_key(), "EdDSA"
    ),
    "alg in lower case": with_header(alg="rs256"),
    "alg with a space": with_header(alg="RS256 "),
    "alg with a zero width space": with_header(alg="RS256\u200b"),
    "alg in full-width letters": with_header(alg="\uff32\uff33256"),
    # keys of the attacker's
    "another key under a known id": own_key(),
    "jwk in the header": own_key(jwk=jwk(rsa_key(1), "rsa-1")),
    "jku in the header": own_key(jku="https://evil.example/keys"),
    "jku at the issuer's host": lambda c, s: signed({**RS, "jku": f"{s.url}/keys"}, c(), rsa_key()),
    "x5u in the header": own_key(x5u="https://evil.example/certificate"),
    "x5c in the header": own_key(x5c=["MIIB"]),
    "jwk beside a good signature": with_header(jwk=jwk(rsa_key(), "rsa-1")),
    # key ids
    "kid unknown": with_header(kid="rsa-9"),
    "kid with another's key": own_key(kid="rsa-9"),
    "kid left out, with two keys": with_header(kid=None),
    "kid a path": own_key(kid="../../../../dev/null"),
    "kid an SQL injection": own_key(kid="x' UNION SELECT 'secret' --"),
    "kid a command": own_key(kid="|/bin/true"),
    "kid an address": own_key(kid="http://evil.example/key"),
    "kid empty": with_header(kid=""),
    "kid a list": with_header(kid=["rsa-1"]),
    "kid an object": with_header(kid={"$ne": ""}),
    "kid null": lambda c, s: signed({**RS, "kid": None}, c(), rsa_key()),
    "kid in another case": with_header(kid="RSA-1"),
    "kid with a NUL behind it": with_header(kid="rsa-1\0"),
    "kid endless": with_header(kid="rsa-1" * 100),
    # extensions and other kinds of tokens
    "crit": with_header(crit=["exp"]),
    "crit empty": with_header(crit=[]),
    "b64 false (RFC 7797)": with_header(b64=False, crit=["b64"]),
    "zip": with_header(zip="DEF"),
    "nested (cty JWT)": with_header(cty="JWT"),
    "typ of another kind": with_header(typ="logout+jwt"),
    "typ a number": with_header(typ=1),
    "an encrypted token": lambda c, s: ".".join(
        [part({"alg": "RSA-OAEP", "enc": "A256GCM"}), "a", "b", "c", "d"]
    ),
    "JSON instead of the compact form": lambda c, s: json.dumps({"payload": part(c()), "signatures": []}),
    # issuer and audience
    "issuer missing": with_claims(iss=None),
    "issuer of somebody else": with_claims(iss="https://evil.example"),
    "issuer with a slash behind it": lambda c, s: signed(RS, c(iss=f"{s.url}/"), rsa_key()),
    "issuer as a prefix": lambda c, s: signed(RS, c(iss=f"{s.url}.evil.example"), rsa_key()),
    "issuer in upper case": lambda c, s: signed(RS, c(iss=s.url.upper()), rsa_key()),
    "issuer a list": lambda c, s: signed(RS, c(iss=[s.url]), rsa_key()),
    "issuer with a soft hyphen": lambda c, s: signed(RS, c(iss=s.url.replace(":", ":\u00ad", 1)), rsa_key()),
    "audience missing": with_claims(aud=None),
    "audience of somebody else": with_claims(aud="another-api"),
    "audience as a prefix": with_claims(aud=AUDIENCE + "-2"),
    "audience empty": with_claims(aud=""),
    "audience an empty list": with_claims(aud=[]),
    "audience a list of others": with_claims(aud=["another-api", "a-third"]),
    "audience a list with a number": with_claims(aud=[AUDIENCE, 7]),
    "audience a list in a list": with_claims(aud=[[AUDIENCE]]),
    "audience an object": with_claims(aud={AUDIENCE: True}),
    "audience true": with_claims(aud=True),
    "audience a list without end": with_claims(aud=[f"a{n}" for n in range(100)] + [AUDIENCE]),
    # times
    "expired": shifted(iat=-2 * HOUR_S, exp=-HOUR_S),
    "expired a second more than clocks may differ": shifted(exp=-limits.TOKEN_LEEWAY_S - 1),
    "exp missing": with_claims(exp=None),
    "exp a text": with_claims(exp="99999999999"),
    "exp true": with_claims(exp=True),
    "exp null": raw_claims(lambda text: text.replace('"exp"', '"exp": null, "was"')),
    "exp a list": with_claims(exp=[99999999999]),
    "exp negative": with_claims(exp=-1),
    "exp zero": with_claims(exp=0),
    "exp endless": with_claims(exp=1e300),
    "exp Infinity": raw_claims(lambda text: text.replace('"exp"', '"exp": Infinity, "was"')),
    "exp NaN": raw_claims(lambda text: text.replace('"exp"', '"exp": NaN, "was"')),
    "not yet valid": shifted(nbf=HOUR_S),
    "nbf a text": with_claims(nbf="0"),
    "issued in the future": shifted(iat=HOUR_S),
    "iat a text": with_claims(iat="0"),
    # the user
    "sub missing": with_claims(sub=None),
    "sub empty": with_claims(sub=""),
    "sub a number": with_claims(sub=456),
    "sub a list": with_claims(sub=[USER]),
    "sub an object": with_claims(sub={"$ne": ""}),
    "sub true": with_claims(sub=True),
    "sub with a path in it": with_claims(sub="user_456/../user_1"),
    "sub with a NUL": with_claims(sub="user_456\0"),
    "sub with a line end": with_claims(sub="user_456\n"),
    "sub with a space behind it": with_claims(sub="user_456 "),
    "sub a reserved word": with_claims(sub="stats"),
    "sub half a surrogate pair": raw_claims(lambda text: text.replace(USER, "user\\ud800")),
    "sub endless": with_claims(sub="u" * 257),
    # JSON and base64
    "sub twice": raw_claims(lambda text: text[:-1] + ', "sub": "user_1"}'),
    "exp twice": raw_claims(lambda text: text[:-1] + ', "exp": 99999999999}'),
    "alg twice": lambda c, s: signed('{"alg":"none","alg":"RS256","kid":"rsa-1"}', c(), rsa_key()),
    "claims a list": lambda c, s: signed(RS, [c()], rsa_key()),
    "claims a text": lambda c, s: signed(RS, '"user_456"', rsa_key()),
    "claims null": lambda c, s: signed(RS, "null", rsa_key()),
    "claims no JSON": lambda c, s: signed(RS, "{sub: user_456}", rsa_key()),
    "claims not UTF-8": lambda c, s: signed(RS, b'{"sub":"\xff"}', rsa_key()),
    "claims nested without end": lambda c, s: signed(RS, '{"a":' * 1_500 + "1" + "}" * 1_500, rsa_key()),
    "header a list": lambda c, s: signed([RS], c(), rsa_key()),
    "claims changed afterwards": altered(
        lambda p: f"{p[0]}.{part({**_claims_of(p), 'sub': 'user_1'})}.{p[2]}"
    ),
    "header changed afterwards": altered(lambda p: f"{part({**RS, 'x': 1})}.{p[1]}.{p[2]}"),
    "signature cut short": altered(lambda p: f"{p[0]}.{p[1]}.{p[2][:-8]}"),
    "signature one letter": altered(lambda p: f"{p[0]}.{p[1]}.A"),
    "signature of zeros": altered(lambda p: f"{p[0]}.{p[1]}.{part(bytes(256))}"),
    "signature turned around": altered(lambda p: f"{p[0]}.{p[1]}.{p[2][::-1]}"),
    "signature spelled otherwise": altered(lambda p: f"{p[0]}.{p[1]}.{_next_letter(p[2])}"),
    "signature padded": altered(lambda p: f"{p[0]}.{p[1]}.{p[2]}=="),
    "an ES256 signature of zeros (CVE-2022-21449)": lambda c, s: f"{part(ES)}.{part(c())}.{part(bytes(64))}",
    "an ES256 signature in DER": lambda c, s: (
        f"{part(ES)}.{part(c())}.{part(_der(f'{part(ES)}.{part(c())}'))}"
    ),
    "a space in the token": altered(lambda p: f"{p[0]}. {p[1]}.{p[2]}"),
    "a line end behind the token": altered(lambda p: ".".join(p) + "\n"),
    "a fourth part": altered(lambda p: ".".join(p) + "." + p[2]),
    "plus and slash instead of - and _": lambda c, s: "eyJ+/w.eyJ+/w.AAAA",
    "letters of another script": altered(lambda p: f"{p[0]}.{p[1]}.{p[2][:-1]}\u0430"),
    "oversized": lambda c, s: signed(RS, c(more="x" * limits.TOKEN_BYTES_MAX), rsa_key()),
    "a million dots": lambda c, s: "ey" + "." * 1_000_000,
    "empty": lambda c, s: "",
    "three empty parts": lambda c, s: "..",
}


def _der(text: str) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return bytes(ec_key().sign(text.encode(), ec.ECDSA(hashes.SHA256())))


@pytest.fixture(scope="module")
def server() -> Iterator[IssuerServer]:
    """One issuer for all."""
    with issuer_server() as found:
        yield found


@pytest.mark.parametrize("name", ATTACKS)
async def test_refused(name: str, server: IssuerServer) -> None:
    """The token is refused, and nobody is told why."""
    clock = HandClock()
    auth = authenticator(server, clock)
    token = ATTACKS[name](lambda **more: claims_at(server, clock, **more), server)
    with pytest.raises(Unauthenticated) as refused:
        await auth.identify(token)
    assert refused.value.message == Unauthenticated().message


async def test_good_tokens_are_taken(server: IssuerServer) -> None:
    """The tokens that all the attacks are made of are good: what is refused is refused for the attack."""
    clock = HandClock()
    auth = authenticator(server, clock)

    def claims(**more: Any) -> dict[str, Any]:
        return claims_at(server, clock, **more)

    taken = [
        good(claims, server),
        signed(ES, claims(), ec_key(), "ES256"),
        signed(RS, claims(aud=["another-api", AUDIENCE]), rsa_key()),
        signed({**RS, "typ": "at+jwt", "x5t": "abc"}, claims(), rsa_key()),
        signed({"alg": "RS256", "kid": "rsa-1"}, claims(iat=None), rsa_key()),
        shifted(exp=1 - limits.TOKEN_LEEWAY_S)(claims, server),
        shifted(nbf=limits.TOKEN_LEEWAY_S, iat=limits.TOKEN_LEEWAY_S)(claims, server),
    ]
    for token in taken:
        identity = await auth.identify(token)
        assert identity.principal == ("default", USER, frozenset(), None)


def test_there_are_many() -> None:
    """The issue asks for 60."""
    assert len(ATTACKS) >= 60
