"""Flags that set settings: their names, help and bounds are those of `samvad.settings`.

Values are taken as text and checked there, so that a flag, a variable and a line of `.env` are refused in
the same words.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from samvad.errors import InvalidId, SetupError
from samvad.settings import describe


def _tenant(value: str) -> str:
    from samvad.sessions.validation import check_id

    try:
        return check_id(value, "--tenant")
    except InvalidId as error:
        raise SetupError(error.message) from None


Tenant = Annotated[
    str,
    typer.Option(
        "--tenant",
        metavar="TENANT",
        help="Whose that is, where there are several. [default: default]",
        callback=_tenant,
    ),
]

_TEXTS = {each.name: each for each in describe()}


def _option(name: str, metavar: str = "TEXT") -> Any:
    known = _TEXTS[name]
    default = f" [default: {known.default}]" if known.default else ""
    return typer.Option(f"--{name.replace('_', '-')}", metavar=metavar, help=known.description + default)


def _switch(name: str, *, negative: bool = False) -> Any:
    flag = "--" + name.replace("_", "-")
    return typer.Option(f"{flag}/--no-{flag[2:]}" if negative else flag, help=_TEXTS[name].description)


Host = Annotated[str | None, _option("host", "ADDRESS")]
Port = Annotated[str | None, _option("port", "NUMBER")]
Store = Annotated[str | None, _option("store", "URL")]
DataDir = Annotated[str | None, _option("data_dir", "DIR")]
Durability = Annotated[str | None, _option("durability", "auto|store|memory")]
WindowMessages = Annotated[str | None, _option("window_messages", "NUMBER")]
Language = Annotated[str | None, _option("language", "TAG")]
RecordTtl = Annotated[str | None, _option("record_ttl_s", "SECONDS")]
CacheMib = Annotated[str | None, _option("cache_mib", "MIB")]
JournalMib = Annotated[str | None, _option("journal_mib", "MIB")]
SessionIdle = Annotated[str | None, _option("session_idle_s", "SECONDS")]
ActiveWindow = Annotated[str | None, _option("active_window_s", "SECONDS")]
RecordInterruptions = Annotated[bool | None, _switch("record_interruptions", negative=True)]
Listen = Annotated[bool | None, _switch("listen", negative=True)]
Auth = Annotated[str | None, _option("auth", "auto|required|off")]
Insecure = Annotated[bool | None, _switch("insecure")]
LogLevel = Annotated[str | None, _option("log_level", "debug|info|warning|error")]
LogFormat = Annotated[str | None, _option("log_format", "auto|json|console")]
Drain = Annotated[str | None, _option("drain_s", "SECONDS")]
