"""The settings that say how much each may ask; with those of credentials, the first part of all settings."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from samvad.settings_auth import ProtectionSettings

_MOST = 1_000_000_000
_MIB_MOST = 1024 * 1024


class LimitSettings(ProtectionSettings, frozen=True, kw_only=True):
    """Rate limits; they hold where credentials are asked for. 0 is none."""

    limit_user_requests: Annotated[
        int,
        Meta(ge=0, le=_MOST, description="Requests and frames of a user in a minute at most; 0: any number."),
    ] = 600
    limit_user_mib: Annotated[
        int, Meta(ge=0, le=_MIB_MOST, description="MiB that a user may send in a minute; 0: any.")
    ] = 64
    limit_key_requests: Annotated[
        int, Meta(ge=0, le=_MOST, description="Requests of an API key in a minute; 0: any number.")
    ] = 0
    limit_key_mib: Annotated[
        int, Meta(ge=0, le=_MIB_MOST, description="MiB that an API key may send in a minute; 0: any.")
    ] = 0
    limit_address_requests: Annotated[
        int,
        Meta(
            ge=0, le=_MOST, description="Requests of all users from one address in a minute; 0: any number."
        ),
    ] = 6_000
    limit_address_mib: Annotated[
        int,
        Meta(
            ge=0,
            le=_MIB_MOST,
            description="MiB that all users may send from one address in a minute; 0: any.",
        ),
    ] = 640
    limit_refused: Annotated[
        int,
        Meta(ge=0, le=_MOST, description="Refused credentials from one address in a minute; 0: any number."),
    ] = 60
    limit_starts: Annotated[
        int,
        Meta(
            ge=0,
            le=_MOST,
            description="Sockets and event streams that a user, or an API key, opens in a minute.",
        ),
    ] = 60
    limit_erasures: Annotated[
        int,
        Meta(
            ge=0, le=_MOST, description="Users that a user, or an API key, erases in a minute; 0: any number."
        ),
    ] = 60
    limit_exports: Annotated[
        int,
        Meta(
            ge=0,
            le=_MOST,
            description="Archives that a user, or an API key, asks for in a minute; 0: any number.",
        ),
    ] = 10
    limit_redis_url: Annotated[
        str | None,
        Meta(
            description="Redis in which replicas share these windows: redis://HOST:6379/0. Left out, each has its own.",
            extra={"secret": True},
        ),
    ] = None
    limit_proxies: Annotated[
        int,
        Meta(
            ge=0,
            le=10,
            description="How many proxies of your own stand before the server: so far from the end of X-Forwarded-For "
            "is the address of who asks.",
        ),
    ] = 0
