"""`samvad keys`: the API keys of back ends."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final, TypeVar

import msgspec
import typer

from samvad import limits
from samvad.cli import flags, output
from samvad.cli.command import PlainCommand, verbs
from samvad.cli.opening import settings_of
from samvad.errors import InvalidId, SetupError
from samvad.settings import load
from samvad.types import DEFAULT_TENANT, SCOPES

app = verbs(
    "Make, list, rotate and revoke the API keys of back ends. A running server hears of it within 5 s."
)
_T = TypeVar("_T")
_UNITS: Final = {"m": 60, "h": 3600, "d": 24 * 3600}
_DAYS_MAX: Final = 3_660
_NAME_CHARS_MAX: Final = 100

_Id = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `samvad keys list` shows it.")]
_Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command(cls=PlainCommand)
def create(
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="What the key is for.")],
    scopes: Annotated[
        str,
        typer.Option(
            "--scopes",
            metavar="WORDS",
            help="What it may reach: users, sessions, knowledge, stats, admin (all).",
        ),
    ] = "users,sessions,knowledge",
    tenant: Annotated[
        str, typer.Option("--tenant", metavar="NAME", help="The tenant it is bound to. [default: default]")
    ] = DEFAULT_TENANT,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="TIME", help="Good for so long: 90d, 12h, 30m. [default: no end]"),
    ] = None,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Make a key and print it. It is shown this once: only a hash of it is kept."""
    from samvad.auth.api_keys import ApiKey, make_key
    from samvad.sessions.validation import check_id

    wanted = frozenset(word.strip() for word in scopes.split(","))
    if not wanted <= SCOPES:
        raise SetupError(f"--scopes takes {', '.join(sorted(SCOPES))}; {min(wanted - SCOPES)!r} is none.")
    if not 0 < len(name) <= _NAME_CHARS_MAX or not name.isprintable():
        raise SetupError(f"--name takes 1 to {_NAME_CHARS_MAX} printable characters.")
    try:
        check_id(tenant, "--tenant")
    except InvalidId as error:
        raise SetupError(error.message) from None
    now_ms = _now_ms()
    expires_ms = None if expires is None else now_ms + _seconds(expires, "--expires") * 1000
    text, key_id, digest = make_key()
    key = ApiKey(
        id=key_id,
        name=name,
        digest=digest,
        scopes=wanted,
        created_ms=now_ms,
        tenant=tenant,
        expires_ms=expires_ms,
    )
    _change(store, data_dir, lambda keys: [*keys, key])
    _hand_out(text, key_id)
    _note(store, data_dir, "keys create", key)


@app.command("list", cls=PlainCommand)
def list_keys(json: _Json = False, store: flags.Store = None, data_dir: flags.DataDir = None) -> None:
    """Show all keys, the revoked ones too: scopes, tenant, when they end and when they were last used."""
    from samvad.auth.keyring import KeySource, decoded
    from samvad.clock import rfc3339

    async def read(source: KeySource) -> tuple[list[Any], dict[str, int]]:
        return decoded(await source.load(), source.place), dict(await source.load_used())

    def told(ms: int | None) -> str | None:
        return None if ms is None else rfc3339(ms)

    keys, used = _with_keys(store, data_dir, read)
    now_ms = _now_ms()
    rows = [
        {
            "id": key.id,
            "name": key.name,
            "state": key.state(now_ms),
            "tenant": key.tenant,
            "scopes": sorted(key.scopes),
            "created": told(key.created_ms),
            "expires": told(key.expires_ms),
            "revoked": told(key.revoked_ms),
            "lastUsed": told(used.get(key.id)),
            "replacedBy": key.replaced_by,
        }
        for key in keys
    ]
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode({"keys": rows}), indent=2).decode())
    elif not rows:
        typer.echo("There are no keys; make one with: samvad keys create --name NAME")
    else:
        columns = ("id", "state", "tenant", "scopes", "expires", "lastUsed", "name")
        typer.echo(output.table([columns, *([_cell(row[name]) for name in columns] for row in rows)]))


@app.command(cls=PlainCommand)
def rotate(
    key_id: _Id,
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="TIME", help="How long the old key goes on. [default: 24h]")
    ] = "24h",
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Make a key in place of another one, which goes on for a while: both are good until all have changed over."""
    from samvad.auth.api_keys import ApiKey, make_key

    now_ms = _now_ms()
    ends_ms = now_ms + _seconds(overlap, "--overlap") * 1000
    text, new_id, digest = make_key()
    changed: list[ApiKey] = []

    def rotated(keys: list[ApiKey]) -> list[ApiKey]:
        old = _found(keys, key_id)
        if old.state(now_ms) != "valid":
            raise SetupError(
                f"The key {key_id} is {old.state(now_ms)}; make a new one with: samvad keys create"
            )
        lasts_ms = None if old.expires_ms is None else now_ms + old.expires_ms - old.created_ms
        new = msgspec.structs.replace(
            old, id=new_id, digest=digest, created_ms=now_ms, expires_ms=lasts_ms, replaced_by=None
        )
        until_ms = ends_ms if old.expires_ms is None else min(old.expires_ms, ends_ms)
        left = msgspec.structs.replace(old, expires_ms=until_ms, replaced_by=new_id)
        changed[:] = [left, new]
        return [left if key.id == key_id else key for key in keys] + [new]

    _change(store, data_dir, rotated)
    _hand_out(text, new_id)
    for each in changed:
        _note(store, data_dir, "keys rotate", each)


@app.command(cls=PlainCommand)
def revoke(key_id: _Id, store: flags.Store = None, data_dir: flags.DataDir = None) -> None:
    """Make a key worthless, with all tokens that it has minted. Revoking it again is fine."""
    from samvad.auth.api_keys import ApiKey

    now_ms = _now_ms()
    changed: list[ApiKey] = []

    def revoked(keys: list[ApiKey]) -> list[ApiKey]:
        old = _found(keys, key_id)
        gone = old if old.revoked_ms is not None else msgspec.structs.replace(old, revoked_ms=now_ms)
        changed[:] = [gone]
        return [gone if key.id == key_id else key for key in keys]

    _change(store, data_dir, revoked)
    _note(store, data_dir, "keys revoke", changed[0])
    typer.echo(f"revoked {key_id}; running servers refuse it within {limits.KEYS_REFRESH_S} s")


# --- inside ------------------------------------------------------------------------------------------------


def _found(keys: list[Any], key_id: str) -> Any:
    for key in keys:
        if key.id == key_id:
            return key
    raise SetupError(f"There is no key {key_id!r}; `samvad keys list` shows those that there are.")


def _note(store: str | None, data_dir: str | None, did: str, key: Any) -> None:
    """Have the audit log say so. Beside a local store it begins here; a shared one may be asked from anywhere."""
    from samvad.auth.audit import noted_by_command
    from samvad.clock import SystemClock

    settings = load({"store": store, "data_dir": data_dir})
    if settings.audit != "off":
        begin = settings.store_url().startswith("sqlite:")
        path, clock = settings.data_path(), SystemClock()
        noted_by_command(path, clock, did, key=key.id, tenant=key.tenant, begin=begin)


def _hand_out(text: str, key_id: str) -> None:
    typer.echo(text)
    typer.echo(f"This is key {key_id}. Keep it now: it is not shown again.", err=True)


def _cell(value: Any) -> str:
    return (
        ",".join(value) if isinstance(value, list) else "–" if value is None else output.printable(str(value))
    )


def _seconds(text: str, flag: str) -> int:
    match = re.fullmatch(r"(\d{1,6})([mhd])", text, re.ASCII)
    seconds = 0 if match is None else int(match[1]) * _UNITS[match[2]]
    if match is None or seconds > _DAYS_MAX * _UNITS["d"]:
        raise SetupError(f"{flag} takes a time such as 90d, 12h or 30m, at most {_DAYS_MAX}d.")
    return seconds


def _now_ms() -> int:
    from samvad.clock import SystemClock

    return SystemClock().now_ms()


def _change(store: str | None, data_dir: str | None, make: Callable[[list[Any]], list[Any]]) -> None:
    from samvad.auth.keyring import KeySource, decoded, encoded

    async def change(source: KeySource) -> None:
        def changed(raw: bytes | None) -> bytes:
            keys = make(decoded(raw, source.place))
            if len(keys) > limits.KEYS_MAX:
                raise SetupError(
                    f"There are {limits.KEYS_MAX} keys already, which is as many as there may be."
                )
            return encoded(keys)

        await source.change(changed)

    _with_keys(store, data_dir, change)


def _with_keys(store: str | None, data_dir: str | None, work: Callable[[Any], Coroutine[Any, Any, _T]]) -> _T:
    """Run `work` on the place of the keys. A file needs no store; a running server may have it open."""
    settings = settings_of(store, data_dir)
    url = settings.store_url()

    async def run() -> _T:
        if not url.startswith("firestore:"):
            from samvad.auth.keyring import FileKeys

            return await work(FileKeys(settings.data_path()))
        from samvad.http.auth_opening import key_source
        from samvad.runtime import open_samvad

        async with open_samvad(url, listen=False, master_key=settings.master_key) as samvad:
            return await work(key_source(settings, samvad))

    return asyncio.run(run())
