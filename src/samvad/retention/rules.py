"""The rules: how much is kept of what, and for how long. All are off by default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from samvad.errors import SetupError

DAY_MS: Final = 24 * 3600 * 1000
_UNITS_MS: Final = {"d": DAY_MS, "w": 7 * DAY_MS, "y": 365 * DAY_MS}
_AGE = re.compile(r"([1-9][0-9]{0,4})([dwy])")
_SLACK_MS_MAX: Final = 7 * DAY_MS


def age_ms(text: str) -> int:
    """`90d`, `12w` or `2y` in milliseconds; `off` is 0. ValueError for what is none of these."""
    if text == "off":
        return 0
    found = _AGE.fullmatch(text)
    if found is None:
        raise ValueError(text)
    return int(found[1]) * _UNITS_MS[found[2]]


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What goes: `messages` is how many of a user stay at the most, the others are ages in milliseconds. 0: any.

    Something goes once it is older than its age. The age of a message or interruption counts from when it was said,
    of a session from its end, of a document of a user's from when it was added, of a user from the last write.
    """

    messages: int = 0
    message_age: int = 0
    sessions: int = 0
    interruptions: int = 0
    documents: int = 0
    idle_users: int = 0

    @property
    def any(self) -> bool:
        """Whether there is a rule at all."""
        return any(msgspec.structs.astuple(self))

    def ages(self) -> list[int]:
        """The ages of the rules that are on."""
        return [age for age in msgspec.structs.astuple(self)[1:] if age]


class RetentionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The rules as they are set. Ages are texts such as 90d, 12w or 2y; None or `off` is no rule."""

    retain_messages: int = 0
    retain_message_age: str | None = None
    retain_sessions: str | None = None
    retain_interruptions: str | None = None
    retain_documents: str | None = None
    retain_idle_users: str | None = None
    retain_tenants: str | None = None
    retain_every_s: float = 24 * 3600.0

    @property
    def retention_is_on(self) -> bool:
        """Whether there may be a rule at all; costs nothing."""
        return bool(
            self.retain_messages
            or self.retain_message_age
            or self.retain_sessions
            or self.retain_interruptions
            or self.retain_documents
            or self.retain_idle_users
            or self.retain_tenants
        )

    def retention(self) -> Retention:
        """The rules of all tenants; SetupError where one cannot be."""
        given = {name: getattr(self, f"retain_{name}") for name in Rules.__struct_fields__}
        base = _rules({name: each for name, each in given.items() if each is not None}, Rules(), "retain_{}")
        tenants = {} if self.retain_tenants is None else _tenants(Path(self.retain_tenants), base)
        if self.retain_every_s < 0:
            raise SetupError("retain_every_s must not be negative.")
        return Retention(base, tenants)


class Retention:
    """Which rules hold for whom."""

    def __init__(self, base: Rules, tenants: Mapping[str, Rules] | None = None) -> None:
        self.base = base
        self.tenants = dict(tenants or {})

    def of(self, tenant: str) -> Rules:
        """The rules of a tenant."""
        return self.tenants.get(tenant, self.base)

    @property
    def any(self) -> bool:
        """Whether there is a rule for anybody."""
        return any(rules.any for rules in (self.base, *self.tenants.values()))

    @property
    def of_documents(self) -> bool:
        """Whether a rule for anybody is about documents, their users' or their own."""
        return any(rules.documents or rules.idle_users for rules in (self.base, *self.tenants.values()))

    @property
    def slack_ms(self) -> int:
        """How far the clock may be ahead of what was written last before it is doubted."""
        ages = [age for rules in (self.base, *self.tenants.values()) for age in rules.ages()]
        return min([_SLACK_MS_MAX, *ages])


def _rules(given: Mapping[str, Any], base: Rules, called: str) -> Rules:
    """`base` with what is given in the place of it."""
    fields: dict[str, int] = {}
    for name, value in given.items():
        shown = called.format(name)
        if name not in Rules.__struct_fields__:
            known = ", ".join(Rules.__struct_fields__)
            raise SetupError(f"{shown} is not a retention rule; there are: {known}.")
        if name == "messages":
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise SetupError(f"{shown} must be a whole number; 0 is any number of messages.")
            fields[name] = value
            continue
        try:
            fields[name] = age_ms(value)
        except (ValueError, TypeError):
            raise SetupError(f"{shown} must be an age such as 90d, 12w or 2y, or off.") from None
    return msgspec.structs.replace(base, **fields)


def _tenants(path: Path, base: Rules) -> dict[str, Rules]:
    """The rules of the tenants in a TOML file: a table for each, of which what is left out is as for all."""
    import tomllib

    try:
        found = tomllib.loads(path.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(f"Cannot read {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{path} is not TOML: {error}.") from error
    tenants = {}
    for tenant, given in found.items():
        if not isinstance(given, dict):
            raise SetupError(f"{path}: {tenant!r} stands outside of a table; write [TENANT] above it.")
        tenants[tenant] = _rules(given, base, f"{path}, [{tenant}]: {{}}")
    return tenants
