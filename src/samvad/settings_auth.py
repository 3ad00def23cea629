"""The settings that say who may ask, and what protects what is kept: a part of `samvad.settings.Settings`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class AuthSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Credentials: which are accepted, and whether any are asked for."""

    auth: Annotated[
        Literal["auto", "required", "off"],
        Meta(
            description="Whether credentials are asked for. auto: as soon as there are keys (see `samvad keys`), an "
            "issuer or a Firebase project; required: in any case; off: never."
        ),
    ] = "auto"
    auth_issuer: Annotated[
        str | None,
        Meta(description="The OIDC issuer whose JWTs are accepted, as it stands in their claim iss."),
    ] = None
    auth_audience: Annotated[
        str | None, Meta(description="What their claim aud must hold. Needed with an issuer.")
    ] = None
    auth_jwks_url: Annotated[
        str | None,
        Meta(description="Where the issuer's keys are; left out, its discovery document says so."),
    ] = None
    auth_algorithms: Annotated[
        str, Meta(min_length=1, description="The algorithms that are accepted, separated by commas.")
    ] = "RS256,ES256"
    auth_jwt_type: Annotated[
        Literal["any", "access", "id"],
        Meta(
            description="Which tokens of the issuer are taken. access: access tokens, whose header says typ at+jwt "
            "(RFC 9068); id: ID tokens, and none that looks like an access token; any: both."
        ),
    ] = "any"
    auth_rsa_bits_min: Annotated[
        int,
        Meta(
            ge=2048,
            le=16384,
            description="Bits that an issuer's RSA key needs at least; shorter ones are not used. 3072 give 128 bits "
            "of security; Google, so Firebase, and many others sign with 2048.",
        ),
    ] = 2048
    auth_user_claim: Annotated[
        str, Meta(min_length=1, description="The claim that names the user; a path such as a.b is fine.")
    ] = "sub"
    auth_tenant_claim: Annotated[
        str | None,
        Meta(
            description="The claim that names the tenant; left out, all users are of the tenant default. "
            "With Firebase: firebase.tenant."
        ),
    ] = None
    auth_scope_claim: Annotated[
        str | None,
        Meta(
            description="The claim whose words samvad:users, samvad:sessions and so on make a token that of a program "
            "with these scopes; left out, every token is a user's."
        ),
    ] = None
    auth_firebase_project: Annotated[
        str | None, Meta(description="The Firebase project whose ID tokens are accepted.")
    ] = None
    auth_token_secret: Annotated[
        Annotated[str, Meta(min_length=32)] | None,  # of a union, msgspec bounds the parts alone
        Meta(
            description="Secret that signs the tokens minted for browsers, the same for all replicas. Several, "
            "separated by commas: the first signs, all are accepted. Left out, a key is kept in the data directory.",
            extra={"secret": True},
        ),
    ] = None
    person_roles: Annotated[
        str,
        Meta(
            min_length=1,
            description="Roles of the messages that people write with tokens of their own, with commas between: some "
            "of user, assistant, system and tool; none: no messages. Programs write all.",
        ),
    ] = "user,assistant"
    person_instruction: Annotated[
        bool,
        Meta(
            description="Whether people, with tokens of their own, may set the systemInstruction of their own live "
            "conversations. Programs always may."
        ),
    ] = True
    cors_origins: Annotated[
        str,
        Meta(
            description="Origins whose web pages may ask as well (CORS), with commas between, such as "
            "https://app.example. Left out, only pages of this server's own address."
        ),
    ] = ""


class ProtectionSettings(AuthSettings, frozen=True, kw_only=True):
    """What protects what is kept, and what is noted of its use."""

    audit: Annotated[
        Literal["off", "sensitive", "writes", "all"],
        Meta(
            description="What the audit log in the data directory holds. sensitive: erasing, deleting, minting tokens, "
            "programs that talk for a user, and what was refused; writes: all changes too; all: all requests."
        ),
    ] = "sensitive"

    content: Annotated[
        Literal["keep", "none"],
        Meta(
            description="Whether the content of what is said is kept. none: of everybody's messages only who, when and "
            "how long; single users can ask for that as well."
        ),
    ] = "keep"
    content_none_tenants: Annotated[
        str, Meta(description="Tenants of which no content is kept, with commas between.")
    ] = ""

    master_key: Annotated[
        str | None,
        Meta(
            description="Encrypts all content that is kept: 32 bytes in base64, file:PATH or gcpkms://NAME. Several, "
            "separated by commas: the first encrypts, the others can still be read.",
            extra={"secret": True},
        ),
    ] = None
