"""Who may ask, as the settings want it; mistakes are found at the start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from samvad.auth import secret_file
from samvad.auth.authenticator import Authenticator
from samvad.auth.keyring import COPY_FILE, FileKeys, Keyring, KeySource, decoded
from samvad.auth.user_tokens import PURPOSE, UserTokens
from samvad.errors import SetupError
from samvad.sessions.journaled import JournaledStore

if TYPE_CHECKING:
    from samvad.auth.issuers import Issuer
    from samvad.clock import Clock
    from samvad.runtime import Samvad
    from samvad.settings import Settings

TOKENS_KEY_FILE: Final = "tokens.key"
_SECRET_CHARS_MIN: Final = 32


def key_source(settings: Settings, samvad: Samvad) -> KeySource:
    """Where the keys are: with the store where that is shared, else in the data directory."""
    store = samvad.store.inner if isinstance(samvad.store, JournaledStore) else samvad.store
    store = getattr(store, "inner", store)  # what seals it
    if store.name == "firestore":
        from samvad.stores.firestore import FirestoreStore
        from samvad.stores.firestore_keys import FirestoreKeys

        assert isinstance(store, FirestoreStore)
        return FirestoreKeys(store.client, store.names)
    return FileKeys(settings.data_path())


def authenticator(settings: Settings, samvad: Samvad) -> Authenticator | None:
    """What checks credentials; None where they are off. It starts and stops with the service.

    SetupError where a setting cannot be.
    """
    if settings.auth == "off":
        return None
    clock, source = samvad.core.clock, key_source(settings, samvad)
    copy = None if isinstance(source, FileKeys) else settings.data_path() / COPY_FILE
    keyring = Keyring(source, clock, copy=copy)
    if isinstance(source, FileKeys):
        keyring.any = bool(decoded(source.read(), source.place))  # a broken file is found out now
    auth = Authenticator(
        clock,
        keyring=keyring,
        tokens=UserTokens(_token_keys(settings), clock),
        issuers=issuers(settings, clock),
        required=settings.auth == "required",
    )
    samvad.after_open.append(auth.start)
    samvad.before_close.append(auth.stop)
    return auth


def may_be_reached(settings: Settings, auth: Authenticator | None) -> bool:
    """Whether the server may listen where others can reach it: it asks everybody who they are, or is told not to."""
    return settings.insecure or (auth is not None and auth.required)


def _token_keys(settings: Settings) -> Callable[[], Sequence[bytes]]:
    if settings.auth_token_secret is None:
        in_memory = settings.store_url().startswith("memory:")
        path = None if in_memory else settings.data_path() / TOKENS_KEY_FILE
        return lambda: [secret_file.load_key(path, "the key of users' tokens")]
    secrets = [secret.strip() for secret in settings.auth_token_secret.split(",")]
    if any(len(secret) < _SECRET_CHARS_MIN for secret in secrets):
        raise SetupError(f"SAMVAD_AUTH_TOKEN_SECRET: each secret needs {_SECRET_CHARS_MIN} characters.")
    keys = [secret_file.derived(secret, PURPOSE) for secret in secrets]
    return lambda: keys


def issuers(settings: Settings, clock: Clock) -> list[Issuer]:
    """The issuers of JWTs that the settings name. SetupError where one of them cannot be."""
    found: list[Issuer] = []
    kind = None if settings.auth_jwt_type == "any" else settings.auth_jwt_type
    given = (settings.auth_audience, settings.auth_jwks_url, settings.auth_scope_claim, kind)
    if settings.auth_issuer is None and any(each is not None for each in given):
        raise SetupError(
            "SAMVAD_AUTH_AUDIENCE, _JWKS_URL, _SCOPE_CLAIM and _JWT_TYPE need SAMVAD_AUTH_ISSUER."
        )
    if settings.auth_issuer is not None:
        from samvad.auth.issuers import Issuer, IssuerRules
        from samvad.auth.jwks import ALGORITHMS, KeySet, check_url

        if settings.auth_audience is None:
            raise SetupError(
                "Set SAMVAD_AUTH_AUDIENCE as well: without it, tokens that the issuer made for others were accepted."
            )
        algorithms = frozenset(name.strip() for name in settings.auth_algorithms.split(","))
        if not algorithms <= ALGORITHMS:
            raise SetupError(
                f"SAMVAD_AUTH_ALGORITHMS must be of {', '.join(sorted(ALGORITHMS))}; "
                "an algorithm whose secret both sides share cannot be had."
            )
        issuer = settings.auth_issuer
        check_url(issuer, "SAMVAD_AUTH_ISSUER")
        if settings.auth_jwks_url is not None:
            check_url(settings.auth_jwks_url, "SAMVAD_AUTH_JWKS_URL")
        rules = IssuerRules(
            issuer=issuer,
            audience=settings.auth_audience,
            algorithms=algorithms,
            user_claim=settings.auth_user_claim,
            tenant_claim=settings.auth_tenant_claim,
            scope_claim=settings.auth_scope_claim,
            jwt_type=settings.auth_jwt_type,
        )
        discovery = issuer.rstrip("/") + "/.well-known/openid-configuration"
        keys = KeySet(
            clock,
            url=settings.auth_jwks_url,
            discovery=discovery,
            issuer=issuer,
            rsa_bits_min=settings.auth_rsa_bits_min,
        )
        found.append(Issuer(rules, keys, clock))
    if settings.auth_firebase_project is not None:
        from samvad.auth.issuers import FIREBASE_KEYS, Issuer, firebase_rules
        from samvad.auth.jwks import KeySet

        rules = firebase_rules(settings.auth_firebase_project, tenant_claim=settings.auth_tenant_claim)
        bits = settings.auth_rsa_bits_min
        keys = KeySet(clock, url=FIREBASE_KEYS, issuer=rules.issuer, rsa_bits_min=bits)
        found.append(Issuer(rules, keys, clock))
    return found
