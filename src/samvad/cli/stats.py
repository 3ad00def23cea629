"""`samvad stats`: what is in the store, by counting."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from samvad.cli import flags
from samvad.cli.command import PlainCommand, verbs
from samvad.cli.opening import database_path, reading, settings_of
from samvad.cli.output import table
from samvad.types import DEFAULT_TENANT

app = verbs()


@app.command(cls=PlainCommand)
def stats(
    tenant: flags.Tenant = DEFAULT_TENANT,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Count users, sessions and messages. A server may be running."""
    settings = settings_of(store, data_dir)

    async def count(samvad: Any) -> Any:
        return await samvad.count()

    counts = reading(settings, count, tenant=tenant)
    path = database_path(settings.store_url())
    size = 0
    if path is not None:
        log = path.with_name(path.name + "-wal")
        size = path.stat().st_size + (log.stat().st_size if log.exists() else 0)
    found = {
        "users": counts.total_users,
        "activeUsers": counts.active_users,
        "activeSessions": counts.active_sessions,
        "totalProfiles": counts.total_profiles,
        "totalMessages": counts.total_messages,
        "totalInterruptions": counts.total_interruptions,
        "databaseBytes": size,
    }
    if json:
        import msgspec

        typer.echo(msgspec.json.encode(found).decode())
        return
    words = {
        "users": "users",
        "activeUsers": f"of them active within {settings.active_window_s / 60:g} minutes",
        "activeSessions": "open sessions",
        "totalProfiles": "profiles",
        "totalMessages": "messages",
        "totalInterruptions": "recorded interruptions",
        "databaseBytes": "bytes in the database, its log included",
    }
    width = max(len(f"{number:,}") for number in found.values())
    typer.echo(table([f"{found[name]:,}".rjust(width), text] for name, text in words.items()))
