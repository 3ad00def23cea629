"""What `samvad doctor --production` refuses in the settings: what is unsafe where strangers can reach the server.

Each check says what it found and how to mend it. `fail` is what an attacker or an accident can use; `warn` is what may
be meant so, and should be known.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from samvad.cli.checks import Finding
from samvad.clock import SystemClock
from samvad.errors import SetupError
from samvad.http.browsers import checked_origins
from samvad.sessions.people import roles_of
from samvad.settings import Given, Settings, describe

_SECRET_CHARS_MIN: Final = 32
_SECRET_LETTERS_MIN: Final = 10  # different ones: what `openssl rand -hex 16` makes has 12 or more
_NEW_ONE: Final = "Make one with: openssl rand -base64 32"
# The month after which there are no fixes any more: https://devguide.python.org/versions/
_PYTHON_ENDS: Final = {(3, 11): (2027, 10), (3, 12): (2028, 10), (3, 13): (2029, 10), (3, 14): (2030, 10)}
_LIMITS: Final = (
    "limit_user_requests",
    "limit_user_mib",
    "limit_address_requests",
    "limit_address_mib",
    "limit_refused",
    "limit_starts",
    "limit_erasures",
    "limit_exports",
)
_OWN_NETWORKS: Final = ("127.0.0.0/8", "169.254.0.0/16", "::1/128", "fe80::/10", "fd00:ec2::254/128")


def findings(
    settings: Settings, given: Mapping[str, Given], environ: Mapping[str, str] = os.environ
) -> Iterator[Finding]:
    """What the settings and the process say for themselves. `given` are those that were set, and where."""
    yield process(os.geteuid())
    yield python_version(sys.version_info[:2], datetime.datetime.now(datetime.UTC).date())
    yield log_level(settings)
    yield from issuers(settings)
    yield from person_roles(settings)
    yield from person_instruction(settings)
    yield from secrets(settings)
    yield from places_of_secrets(settings, given)
    yield from limits_set(settings)
    yield proxies(settings)
    yield from redis(settings)
    yield from cors(settings)
    yield from addresses(settings)
    yield from networks(settings)
    yield from emulator(settings, environ)
    yield from collector(settings, environ)
    yield from retention(given)


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to this host."""
    name = host.strip().removeprefix("[").removesuffix("]").partition("%")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def process(uid: int) -> Finding:
    """Whether the process has more rights than it needs."""
    if uid == 0:
        todo = "A fault in the server would be a fault with all rights: run it as a user of its own (sudo -u samvad …)."
        return Finding("fail", "user", "root", todo)
    return Finding("ok", "user", f"uid {uid}")


def python_version(version: tuple[int, ...], today: datetime.date) -> Finding:
    """Whether this Python still gets fixes."""
    shown, ends = ".".join(map(str, version)), _PYTHON_ENDS.get((version[0], version[1]))
    if ends is None:
        return Finding("ok", "Python", f"{shown}, newer than this Samvad: its end is not known here")
    until = f"{ends[0]}-{ends[1]:02}"
    if (today.year, today.month) > ends:
        todo = "Nobody mends its faults any more: install a newer Python and make the environment anew."
        return Finding("fail", "Python", f"{shown}, without fixes since {until}", todo)
    return Finding("ok", "Python", f"{shown}, gets fixes until {until}")


def log_level(settings: Settings) -> Finding:
    """Whether the log says more than it should."""
    if settings.log_level == "debug":
        todo = "It fills the disk and tells much of the inside: set SAMVAD_LOG_LEVEL=info."
        return Finding("fail", "log level", "debug", todo)
    return Finding("ok", "log level", settings.log_level)


def issuers(settings: Settings) -> Iterator[Finding]:
    """Whether JWTs are checked with keys that came over TLS, and by algorithms of public keys."""
    if settings.auth == "off":
        return
    from samvad.http.auth_opening import issuers as opened

    try:
        opened(settings, SystemClock())  # no key is fetched for that
    except SetupError as error:
        yield Finding("fail", "issuer", error.message, "The server does not start with this.")
        return
    for name in ("auth_issuer", "auth_jwks_url"):
        url = getattr(settings, name)
        if url is not None and urlsplit(url).scheme != "https":
            todo = "Who sits between makes tokens of their own: name an https:// address."
            yield Finding("fail", "issuer", f"SAMVAD_{name.upper()} is {url}", todo)
        elif url is not None:
            yield Finding("ok", "issuer", url)
    if settings.auth_issuer is not None and settings.auth_jwt_type == "any":
        todo = "Say which your clients send: SAMVAD_AUTH_JWT_TYPE=access, or id."
        yield Finding("warn", "issuer", "its access tokens and its ID tokens are taken alike", todo)


def person_roles(settings: Settings) -> Iterator[Finding]:
    """Whether people may write what an assistant believes."""
    if settings.auth == "off":
        return  # nobody is a person then
    try:
        allowed = roles_of(settings.person_roles)
    except SetupError as error:
        yield Finding("fail", "person roles", error.message, "The server does not start with this.")
        return
    told = sorted(allowed & {"system", "tool"})
    if told:
        todo = "They tell the assistant how to be, or what tools said: take these out of SAMVAD_PERSON_ROLES."
        yield Finding("warn", "person roles", f"people may write as {' and '.join(told)}", todo)
    else:
        yield Finding("ok", "person roles", ", ".join(sorted(allowed)) or "none")


def person_instruction(settings: Settings) -> Iterator[Finding]:
    """Whether people may tell the assistant how to be, in live conversations of their own."""
    if settings.auth == "off":
        return  # nobody is a person then
    if settings.person_instruction:
        todo = "Where its rules are yours to make, refuse theirs: set SAMVAD_PERSON_INSTRUCTION=false."
        found = "people may set the instruction of their own live conversations"
        yield Finding("warn", "person instruction", found, todo)
    else:
        yield Finding("ok", "person instruction", "programs alone set that of live conversations")


def weakness(secret: str) -> str | None:
    """Why a secret could be guessed; None where it could not, as far as can be seen."""
    if len(secret) < _SECRET_CHARS_MIN:
        return f"has {len(secret)} characters, not {_SECRET_CHARS_MIN} or more"
    if len(set(secret)) < _SECRET_LETTERS_MIN:
        return f"is made of {len(set(secret))} different characters"
    lowered = secret.lower()
    for word in (
        "changeme",
        "change-me",
        "password",
        "secret",
        "example",
        "0123456789",
        "abcdefgh",
        "qwerty",
    ):
        if word in lowered:
            return f"holds {word!r}, which anybody would try"
    return None


def secrets(settings: Settings) -> Iterator[Finding]:
    """Whether the secrets that sign and hash can be guessed. They are never shown."""
    for name in (each.name for each in describe() if each.secret and each.name.endswith("_secret")):
        value, subject = getattr(settings, name), "log secret" if name == "log_secret" else "token secret"
        if value is None:
            continue
        parts = value.split(",") if name == "auth_token_secret" else [value]
        why = next(filter(None, (weakness(part.strip()) for part in parts)), None)
        if why is not None:
            yield Finding("fail", subject, f"SAMVAD_{name.upper()} {why}", f"{_NEW_ONE}.")
        else:
            yield Finding("ok", subject, f"SAMVAD_{name.upper()} is long enough")
    if settings.auth_token_secret is None and (settings.store or "").startswith("firestore:"):
        todo = "With several replicas, a token of one is refused by the next: set SAMVAD_AUTH_TOKEN_SECRET."
        yield Finding("warn", "token secret", "each replica signs with a key of its own", todo)


def places_of_secrets(settings: Settings, given: Mapping[str, Given]) -> Iterator[Finding]:
    """Whether content is encrypted, and where the key that does it is kept."""
    if settings.master_key is None:
        todo = "Encrypt it: SAMVAD_MASTER_KEY=file:PATH (docs/how-to/encrypt.md), or have the disk and backups do it."
        yield Finding("warn", "master key", "content is kept as it was said", todo)
        return
    own = (settings.data_path().resolve(), "the data directory, beside what it protects")
    for part in (each.strip() for each in settings.master_key.split(",")):
        if part.startswith("gcpkms://"):
            yield Finding("ok", "master key", "in Cloud KMS")
        elif part.startswith("file:"):
            from pathlib import Path

            path = Path(part.removeprefix("file:")).expanduser().resolve()
            if path.is_relative_to(own[0]):
                todo = f"Whoever copies the one has the other: mv {path} elsewhere, and back up both apart."
                yield Finding("fail", "master key", f"in {own[1]}", todo)
            else:
                yield Finding("ok", "master key", "in a file of its own")
        else:
            todo = "Everything that runs as this user can read it in the environment: use file:PATH or gcpkms://."
            source = given["master_key"].source if "master_key" in given else "SAMVAD_MASTER_KEY"
            yield Finding("warn", "master key", f"itself in {source}", todo)


def limits_set(settings: Settings) -> Iterator[Finding]:
    """Whether somebody may ask without end."""
    off = [name for name in _LIMITS if not getattr(settings, name)]
    for name in off:
        todo = f"One client can take it all: unset SAMVAD_{name.upper()}, or give it a number."
        yield Finding("fail", "limits", f"SAMVAD_{name.upper()} is 0: any number", todo)
    if not off:
        yield Finding("ok", "limits", f"{settings.limit_user_requests:,} requests of a user in a minute")


def proxies(settings: Settings) -> Finding:
    """Whether addresses are those of the clients: Samvad speaks no TLS, so that something stands before it."""
    if settings.limit_proxies:
        return Finding("ok", "proxies", f"{settings.limit_proxies} before the server")
    todo = "All users would count as one address: set SAMVAD_LIMIT_PROXIES=1 where a proxy for TLS stands before it."
    where = "on this machine" if is_loopback(settings.host) else f"at {settings.host}, without TLS"
    return Finding("warn", "proxies", f"none is expected; the server listens {where}", todo)


def redis(settings: Settings) -> Iterator[Finding]:
    """Whether limits that replicas share can be read or changed by others."""
    if settings.limit_redis_url is None:
        return
    parts = urlsplit(settings.limit_redis_url)
    if parts.scheme == "unix" or is_loopback(parts.hostname or ""):
        yield Finding("ok", "Redis", "on this machine")
        return
    found = []
    if parts.scheme != "rediss":
        found.append(
            Finding("fail", "Redis", "asked without TLS", "Use rediss:// in SAMVAD_LIMIT_REDIS_URL.")
        )
    if not parts.password:
        todo = "Anybody who reaches it can lift limits: rediss://:PASSWORD@HOST:6379/0 in SAMVAD_LIMIT_REDIS_URL."
        found.append(Finding("fail", "Redis", "asked without a password", todo))
    yield from found or [Finding("ok", "Redis", "asked over TLS, with a password")]


def cors(settings: Settings) -> Iterator[Finding]:
    """Whether pages may ask that somebody else could write."""
    try:
        origins = sorted(each.decode() for each in checked_origins(settings.cors_origins.split(",")))
    except SetupError as error:
        yield Finding("fail", "CORS", error.message, "The server does not start with this.")
        return
    if origins and settings.auth == "off":
        todo = "Their pages, and what is injected there, read everything: ask for credentials, or unset it."
        yield Finding("fail", "CORS", "origins are let in that need no credentials", todo)
    for origin in origins:
        if origin.startswith("http://"):
            todo = f"Who sits between writes that page: take {origin} out of SAMVAD_CORS_ORIGINS."
            yield Finding("fail", "CORS", f"{origin} is not https", todo)
        else:
            yield Finding("ok", "CORS", origin)


def addresses(settings: Settings) -> Iterator[Finding]:
    """Whether keys, and what is said, go to a model's provider in the clear."""
    for name in ("openai_base_url", "embedding_base_url"):
        url = getattr(settings, name)
        if (
            url is not None
            and urlsplit(url).scheme != "https"
            and not is_loopback(urlsplit(url).hostname or "")
        ):
            todo = f"The key and what is said can be read on the way: an https:// address in SAMVAD_{name.upper()}."
            yield Finding("fail", "provider", f"SAMVAD_{name.upper()} is not https", todo)


def networks(settings: Settings) -> Iterator[Finding]:
    """Whether pages are fetched from where secrets of this machine are."""
    for text in filter(None, (each.strip() for each in settings.fetch_networks.split(","))):
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            yield Finding(
                "fail", "fetching", f"{text!r} is no network", "The server does not start with this."
            )
            continue
        own = (ipaddress.ip_network(each) for each in _OWN_NETWORKS)
        if any(network.version == each.version and network.overlaps(each) for each in own):
            todo = f"A page could be this machine's own, or its credentials: take {text} out of SAMVAD_FETCH_NETWORKS."
            yield Finding("fail", "fetching", f"{text} holds addresses of this machine itself", todo)


def emulator(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether what is kept goes to a test double."""
    host = environ.get("FIRESTORE_EMULATOR_HOST")
    if host and (settings.store or "").startswith("firestore:"):
        todo = "It keeps nothing and asks nobody who they are: unset FIRESTORE_EMULATOR_HOST."
        yield Finding("fail", "store", f"an emulator at {host}", todo)


def collector(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether traces, and the key that lets them in, can be read on their way."""
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    name = next((each for each in names if environ.get(each)), None)
    if settings.otel == "off" or name is None:
        return
    parts = urlsplit(environ[name])
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        todo = f"Beyond your own network they need TLS: an https:// address in {name}."
        yield Finding("warn", "traces", "sent to a collector without TLS", todo)


def retention(given: Mapping[str, Given]) -> Iterator[Finding]:
    """Whether anything is ever removed by itself."""
    rules = [each for each in describe() if each.name.startswith("retain_")]
    if any(each.name in given for each in rules):
        yield Finding("ok", "retention", "there are rules")
    elif rules:
        todo = f"Say for how long, where you may not keep all for ever: {rules[0].env} and those beside it."
        yield Finding("warn", "retention", "all is kept until it is erased", todo)
