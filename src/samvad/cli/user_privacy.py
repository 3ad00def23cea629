"""`samvad user privacy`: whether the content of what users say is kept."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import msgspec
import typer

from samvad.auth.audit import noted_by_command
from samvad.cli import flags
from samvad.cli.opening import reading, settings_of, writing
from samvad.cli.output import printable
from samvad.clock import SystemClock
from samvad.errors import SetupError
from samvad.types import DEFAULT_TENANT

_DECIDED = {"user": "by this user's own wish", "tenant": "as is set for all", "default": "as for everybody"}
_USERS_AT_ONCE = 1_000
_NOTED_AT_ONCE = 100  # users in one entry of the audit log


def privacy(
    user: Annotated[
        str | None, typer.Argument(metavar="USER", help="The user's id.", show_default=False)
    ] = None,
    content: Annotated[
        str | None,
        typer.Option(
            "--content",
            metavar="none|keep",
            help="none: keep lengths and times only, and erase what is there. Left out: look.",
        ),
    ] = None,
    everyone: Annotated[bool, typer.Option("--everyone", help="All users of the tenant.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    tenant: flags.Tenant = DEFAULT_TENANT,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Say whether the content of what a user says is kept, or decide so.

    Where a server holds the database, ask the server: PUT /api/session/USER/privacy {"content":"none"}.
    """
    if (user is None) is not everyone:
        raise SetupError("Name one user, or say --everyone.")
    if content not in (None, "none", "keep"):
        raise SetupError("--content must be none or keep.")
    settings = settings_of(store, data_dir)
    if content is None:
        reading(settings, lambda samvad: _show(samvad, user), tenant=tenant)
        return
    whom = "all users" if user is None else printable(user)
    if content == "none" and not yes:
        if not sys.stdin.isatty():
            raise SetupError("What is there is erased for good; say --yes to do it without being asked.")
        typer.confirm(f"Erase what is kept of {whom} for good, and keep no content from now on?", abort=True)
    body = msgspec.json.encode({"content": content}).decode()
    of = "" if tenant == DEFAULT_TENANT else f" with a key of the tenant {tenant!r}"
    instead = f"let that server do it: PUT /api/session/{user or 'USER'}/privacy {body}{of}"
    changed: list[tuple[str, str, str]] = []
    try:
        writing(
            settings,
            lambda samvad: _save(samvad, user, content, changed),
            tenant=tenant,
            instead=instead,
        )
    finally:  # also what was done before it broke off
        for start in range(0, len(changed), _NOTED_AT_ONCE):
            some = changed[start : start + _NOTED_AT_ONCE]
            noted_by_command(settings.data_path(), SystemClock(), "user privacy", some)


async def _all(samvad: Any, user: str | None) -> Any:
    if user is not None:
        yield user
        return
    after = ""
    while found := await samvad.list_users(after=after, limit=_USERS_AT_ONCE):
        for each in found:
            yield each
        after = found[-1]


async def _show(samvad: Any, user: str | None) -> None:
    async for each in _all(samvad, user):
        told = await samvad.get_privacy(each)
        kept = "content is kept" if told.content == "keep" else "no content is kept"
        typer.echo(f"{printable(each)}: {kept}, {_DECIDED[told.decided_by]}")


async def _save(samvad: Any, user: str | None, content: str, changed: list[tuple[str, str, str]]) -> None:
    """Decide so for one or all; those for whom it was done are put into `changed`, as the audit log names them."""
    async for each in _all(samvad, user):
        saved = await samvad.save_privacy(each, content=content)
        changed.append(("user", samvad.principal.tenant, each))
        kept = "content is kept" if saved.privacy.content == "keep" else "no content is kept"
        removed = f"{saved.cleared.messages:,} messages and {saved.cleared.sessions:,} sessions"
        typer.echo(f"{printable(each)}: {kept} from now on; erased {removed}")
