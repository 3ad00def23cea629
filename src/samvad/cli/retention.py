"""`samvad retention show|sweep`: what is kept for how long, and what goes."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final

import typer

from samvad.cli import flags
from samvad.cli.command import PlainCommand, verbs
from samvad.cli.opening import reading, settings_of, writing
from samvad.cli.output import printable, table

app = verbs("Look at the retention rules, or apply them.")

_WORDS: Final = {
    "users": "idle users",
    "messages": "messages",
    "sessions": "sessions",
    "interruptions": "recorded interruptions",
    "documents": "documents",
}
_NOTED_AT_ONCE: Final = (
    100  # users in one entry of the audit log, and at most lost of it where the sweep is killed
)
_ERASED: Final = "retention erase"
_INSTEAD: Final = "that server sweeps by itself (every SAMVAD_RETAIN_EVERY_S); --dry-run can look beside it"


def _days(age_ms: int) -> str:
    from samvad.retention.rules import DAY_MS

    return f"{age_ms // DAY_MS:,} days"


def _lines(rules: Any) -> list[str]:
    """The rules in words; what is not named stays."""
    texts = []
    if rules.messages:
        texts.append(f"messages: the last {rules.messages:,} of each user")
    for name, what in (
        ("message_age", "messages: {}"),
        ("sessions", "sessions: {} after they ended"),
        ("interruptions", "recorded interruptions: {}"),
        ("documents", "documents of users: {} after they were added"),
        ("idle_users", "users: {} after the last write"),
    ):
        if getattr(rules, name):
            texts.append(what.format(_days(getattr(rules, name))))
    return texts or ["everything is kept"]


@app.command(cls=PlainCommand)
def show(store: flags.Store = None, data_dir: flags.DataDir = None) -> None:
    """Print the rules that hold, of all tenants and of those that have their own."""
    from samvad.retention.rules import RetentionOptions

    settings = settings_of(store, data_dir)
    retention = RetentionOptions(**settings.retention_options()).retention()
    for line in _lines(retention.base):
        typer.echo(line)
    for tenant, rules in sorted(retention.tenants.items()):
        typer.echo(f"tenant {printable(tenant)}:")
        for line in _lines(rules):
            typer.echo(f"  {line}")
    if retention.any:
        every_h = settings.retain_every_s / 3600
        typer.echo(
            f"swept about every {every_h:g} hours" if every_h else "the server does not sweep by itself"
        )


@app.command(cls=PlainCommand)
def status(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Tell which replica sweeps a store that several share, or swept it last."""
    settings = settings_of(store, data_dir)

    async def run(samvad: Any) -> Any:
        lease = samvad.sweeper.lease
        return lease is not None, None if lease is None else await lease.look()

    shared, found = reading(settings, run)
    if json:
        import msgspec

        told: dict[str, Any] = {"shared": shared, "holder": None}
        if found is not None:
            told |= {**msgspec.to_builtins(found[0]), "secondsAgo": round(found[1])}
            del told["turn"]
        typer.echo(msgspec.json.encode(told).decode())
    elif found is None:
        typer.echo(
            "nobody has swept yet"
            if shared
            else "one process has this store: the server, and it sweeps alone"
        )
    else:
        typer.echo(_told(*found))


def _told(holding: Any, ago_s: float) -> str:
    from samvad.clock import rfc3339
    from samvad.retention.lease import LEASE_S

    state, began = holding.state, f"began {rfc3339(holding.began_ms)}"
    if state == "sweeping" and ago_s >= LEASE_S:
        state = "ended in the middle"
    where = "everyone" if state == "done" else f"{holding.passed:,} users passed"
    return f"{holding.holder}: {state}, {began}, {where}, told {ago_s:,.0f} s ago"


@app.command(cls=PlainCommand)
def sweep(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing: count what would go. A server may be running.")
    ] = False,
    trust_clock: Annotated[
        bool,
        typer.Option("--trust-clock", help="Sweep although the clock is far ahead of what was written last."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Have go what the retention rules name, and print how much that was.

    A dry run and a sweep right after it print the same numbers. Stopped at any moment and run again, it goes on.
    Exits with 1 where another replica sweeps, and where some users could not be swept: those are named.
    """
    from samvad.auth.audit import noted_by_command
    from samvad.clock import SystemClock
    from samvad.errors import SetupError

    settings = settings_of(store, data_dir)
    noted: list[tuple[str, str, str]] = []

    def note(did: str, tenant: str, whom: list[tuple[str, str, str]]) -> None:
        noted.extend(whom)
        if not whom:
            tell(did)
        elif len(noted) >= _NOTED_AT_ONCE:
            tell(_ERASED)

    def tell(did: str) -> None:
        if did != _ERASED and noted:
            tell(_ERASED)
        some = list(noted)
        noted.clear()
        noted_by_command(settings.data_path(), SystemClock(), did, some)

    async def run(samvad: Any) -> Any:
        if not samvad.options.retention().any:
            raise SetupError("There are no retention rules; set SAMVAD_RETAIN_MESSAGES or another of them.")
        sweeper = samvad.sweeper
        sweeper.note = note
        swept = await sweeper.sweep(dry_run=dry_run, trust_clock=trust_clock)
        return swept, (sweeper.ahead_ms() if dry_run and not trust_clock else 0)

    try:
        swept, ahead_ms = reading(settings, run) if dry_run else writing(settings, run, instead=_INSTEAD)
    finally:
        if noted:
            tell(_ERASED)
    if ahead_ms:
        print(
            f"samvad: the clock is {ahead_ms / 86_400_000:.1f} days ahead of what was written last; "
            "a sweep would refuse, but for --trust-clock.",
            file=sys.stderr,
        )
    counts = {name: getattr(swept.counts, name) for name in _WORDS}
    if json:
        import msgspec

        told = {"dryRun": dry_run, "usersSeen": swept.seen, "usersSkipped": swept.skipped, **counts}
        typer.echo(msgspec.json.encode(told).decode())
    else:
        typer.echo(f"{'would remove' if dry_run else 'removed'}, of {swept.seen:,} users:")
        width = max(len(f"{number:,}") for number in counts.values())
        typer.echo(table([f"{counts[name]:,}".rjust(width), text] for name, text in _WORDS.items()))
    for each in swept.troubles:
        print(
            f"samvad: user {each.key.user_id!r} of tenant {each.key.tenant!r} could not be swept: {each.code}",
            file=sys.stderr,
        )
    if swept.skipped > len(swept.troubles):
        print(f"samvad: and {swept.skipped - len(swept.troubles):,} more", file=sys.stderr)
    if swept.skipped:
        raise typer.Exit(1)
