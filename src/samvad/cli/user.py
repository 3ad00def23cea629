"""`samvad user show|export|import|erase|verify-erasure|hash|privacy`: one user."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec
import typer

from samvad.archive.reading import head_of, session_fields
from samvad.auth.audit import noted_by_command
from samvad.cli import flags, portable
from samvad.cli.command import PlainCommand, verbs
from samvad.cli.opening import log_key, reading, settings_of, writing
from samvad.cli.output import printable, private_output, table
from samvad.cli.user_privacy import privacy
from samvad.clock import SystemClock, rfc3339
from samvad.errors import NotFound, SetupError
from samvad.logs import hash_users_with, keyed_hash
from samvad.records import UserKey
from samvad.sessions.validation import check_id
from samvad.tracing import conversation_hash
from samvad.types import DEFAULT_TENANT

User = Annotated[str, typer.Argument(metavar="USER", help="The user's id.", show_default=False)]
RequireSignature = Annotated[
    bool,
    typer.Option(
        "--require-signature", help="It must be signed by this server, or with the key of --public-key."
    ),
]
PublicKey = Annotated[
    str | None,
    typer.Option("--public-key", metavar="KEY", help="Who must have signed it (32 bytes in base64)."),
]
_MESSAGES_SHOWN = 10
_CHARS_SHOWN = 160

app = verbs("Show, export, import or erase one user.")


@app.command("hash", cls=PlainCommand)
def name_in_logs(
    user: User,
    session: Annotated[bool, typer.Option("--session", help="It is the id of a session.")] = False,
    tenant: flags.Tenant = DEFAULT_TENANT,
    data_dir: flags.DataDir = None,
) -> None:
    """Print what a user is called in the server's logs and traces, to look for it there. A server may be running."""
    key = log_key(settings_of(None, data_dir), make=False)
    hash_users_with(lambda: key)
    typer.echo(conversation_hash(tenant, user) if session else keyed_hash(key, tenant, user))


def _missing(user_id: str) -> NotFound:
    return NotFound(f"There is no user {user_id!r}.")


@app.command(cls=PlainCommand)
def show(
    user: User,
    tenant: flags.Tenant = DEFAULT_TENANT,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Show a user's state, preferences, sessions and last messages. A server may be running."""
    reading(settings_of(store, data_dir), lambda samvad: _show(samvad, user), tenant=tenant)


async def _show(samvad: Any, user_id: str) -> None:
    record = await samvad.read_user(user_id)
    if record.version.revision == 0:
        raise _missing(user_id)
    state = await samvad.get_user_state(user_id)
    profile = await samvad.get_user_profile(user_id)
    sessions = await samvad.get_user_sessions(user_id)
    active = "active" if samvad.is_active(record) else "not active"
    typer.echo(f"{printable(user_id)}: {record.seq:,} messages, {len(sessions):,} sessions, {active}")
    if profile.created_at is not None:
        typer.echo(f"first heard of {profile.created_at}, last {profile.last_updated}")
    if state is not None:
        typer.echo(f"\nState, version {state.version}, of {state.updated_at}:")
        typer.echo(_indented(state.state))
    typer.echo("\nPreferences:")
    typer.echo(_indented(profile.preferences))
    if sessions:
        typer.echo("\nSessions:")
        shown = sessions[:_MESSAGES_SHOWN]
        typer.echo(
            table(
                (
                    f"  {printable(session.id)}",
                    "open" if session.is_active else "ended",
                    printable(session.language),
                    session.last_activity,
                )
                for session in shown
            )
        )
        if len(sessions) > len(shown):
            typer.echo(f"  and {len(sessions) - len(shown):,} more")
    messages = profile.conversation_history[-_MESSAGES_SHOWN:]
    if messages:
        typer.echo(f"\nThe last {len(messages)} messages:")
        typer.echo(
            table(
                (
                    f"  {message.seq}",
                    message.timestamp,
                    message.role,
                    printable(message.content, _CHARS_SHOWN)
                    if message.content_kept
                    else f"({message.content_length:,} bytes, not kept)",
                )
                for message in messages
            )
        )


def _indented(value: Any) -> str:
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return "\n".join("  " + printable(line) for line in text.splitlines())


@app.command(cls=PlainCommand)
def export(
    user: User,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write there, not to standard output."),
    ] = None,
    archive: Annotated[
        str | None,
        typer.Option(
            "--archive", metavar="FILE.zip", help="Write everything known of the user there, for the person."
        ),
    ] = None,
    tenant: flags.Tenant = DEFAULT_TENANT,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Write what is kept about a user as one readable JSON object. A server may be running.

    With --archive, everything known of them goes into one ZIP of Markdown and JSON, which `user import` takes in.
    """
    settings = settings_of(store, data_dir)
    if archive is not None:
        if output is not None:
            raise SetupError("--archive and --output are two ways to write; give one of them.")
        from samvad.cli.archives import export_archive

        export_archive(settings, UserKey(tenant, user), archive)
        return

    async def work(samvad: Any) -> int:
        key = UserKey(tenant, check_id(user, "The user's id"))
        head = await head_of(samvad.store, key)
        if head.version.revision == 0:
            raise _missing(user)
        with private_output(output) as out:
            return await _write(samvad.store, key, head, out)

    count = reading(settings, work)
    if output not in (None, "-"):
        typer.echo(f"wrote {count:,} messages of {printable(user)} to {output}", err=True)


async def _write(store: Any, key: UserKey, head: Any, out: IO[bytes]) -> int:
    fields = portable.user_line(key.user_id, head)
    del fields["type"]
    fields["exportedAt"] = rfc3339(SystemClock().now_ms())
    fields["sessions"] = [
        await session_fields(store, key.tenant, session)
        for session in await store.sessions(key, open_after_ms=None)
    ]
    whole = msgspec.json.format(msgspec.json.encode(fields), indent=2)
    out.write(whole.removesuffix(b"\n}") + b',\n  "history": [')
    count = 0
    async for messages in portable.history_pages(store, key, head.seq):
        for message in messages:
            out.write(b",\n    " if count else b"\n    ")
            out.write(msgspec.json.format(bytes(message), indent=0))
            count += 1
    out.write(b"\n  ]\n}\n" if count else b"]\n}\n")
    return count


@app.command("import", cls=PlainCommand)
def take_in(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE.zip",
            help="What `user export --archive` wrote, here or elsewhere.",
            show_default=False,
        ),
    ],
    as_user: Annotated[
        str | None,
        typer.Option("--as", metavar="USER", help="The name of the user here; else as in the archive."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Erase everything that is there of the user first.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    require_signature: RequireSignature = False,
    public_key: PublicKey = None,
    tenant: flags.Tenant = DEFAULT_TENANT,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Take in the archive of one user: the same messages, ids, times, sessions, state, preferences and documents.

    All of it is checked before anything is written; one that was altered since it was signed is refused. Cut off and
    run again, it is completed. A user who has other data there is left alone. No server may be running on the
    database.
    """
    from samvad.cli.archive_taking import import_archive

    settings = settings_of(store, data_dir)
    if replace and not yes:
        if not sys.stdin.isatty():
            raise SetupError("Erasing cannot be undone; say --yes to do it without being asked.")
        typer.confirm("Remove everything that is there of the user for good?", abort=True)
    import_archive(
        settings,
        file,
        tenant=tenant,
        as_user=as_user,
        replace=replace,
        public_key=public_key,
        signature_required=require_signature,
    )


@app.command("verify-archive", cls=PlainCommand)
def check_archive(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE.zip", help="What `user export --archive` wrote.", show_default=False),
    ],
    require_signature: RequireSignature = False,
    public_key: PublicKey = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Check an archive: that it is as it was made, and by whom. If not, exits with 1."""
    from samvad.cli.archives import verify_archive

    verify_archive(settings_of(None, data_dir), file, public_key=public_key, required=require_signature)


@app.command(cls=PlainCommand)
def erase(
    user: User,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    receipt: Annotated[
        str | None,
        typer.Option("--receipt", metavar="FILE", help="Write a signed receipt there, for `verify-erasure`."),
    ] = None,
    tenant: flags.Tenant = DEFAULT_TENANT,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Remove everything of a user for good, and say what was removed.

    Where a server holds the database, ask the server: POST /api/session/refresh {"userId":"…"}.
    """
    settings = settings_of(store, data_dir)
    body = msgspec.json.encode({"userId": user}).decode()
    of = "" if tenant == DEFAULT_TENANT else f" with a key of the tenant {tenant!r}"
    instead = f"let that server do it: POST /api/session/refresh {body}{of}"
    if not yes:
        if not sys.stdin.isatty():
            raise SetupError("Erasing cannot be undone; say --yes to do it without being asked.")
        typer.confirm(f"Remove everything of {printable(user)} for good?", abort=True)
    directory = settings.data_path()
    erased: list[tuple[str, str, str]] = []
    try:
        # What cannot be proven is not begun: the receipt has its place and its key before.
        with nullcontext() if receipt is None else private_output(receipt) as out:
            writing(
                settings,
                lambda samvad: _erase(samvad, user, directory, erased, out),
                tenant=tenant,
                instead=instead,
            )
    finally:
        if erased:
            noted_by_command(directory, SystemClock(), "user erase", erased)


async def _erase(
    samvad: Any, user_id: str, data_dir: Path, erased: list[tuple[str, str, str]], receipt: IO[bytes] | None
) -> None:
    """Erase, and say what was removed; once it is, the user is in `erased`. Writes the signed receipt of it."""
    from samvad.auth.erasure_receipts import ErasureSigner, places_of
    from samvad.knowledge.opening import has_documents

    if (await samvad.read_user(user_id)).version.revision == 0:
        raise _missing(user_id)
    signer = ErasureSigner(data_dir)
    if receipt is not None:
        _ = signer.public_key  # it can be signed
    removed = await samvad.clear_user_data(user_id)
    erased.append(("user", samvad.principal.tenant, user_id))
    if receipt is not None:
        places = places_of(samvad.store, has_documents=has_documents(samvad.store))
        key = UserKey(samvad.principal.tenant, user_id)
        signed = signer.sign(key, removed, places, removed.at_ms)
        receipt.write(msgspec.json.format(msgspec.json.encode(signed), indent=2) + b"\n")
    kept = [
        what for what, there in (("state", removed.user_state), ("profile", removed.user_profile)) if there
    ]
    counts = (
        f"{removed.messages:,} messages",
        f"{removed.sessions:,} sessions",
        f"{removed.interruptions:,} interruptions",
    )
    typer.echo(f"removed of {printable(user_id)}: {', '.join([*kept, *counts])}")


@app.command("verify-erasure", cls=PlainCommand)
def verify_erasure(
    receipt: Annotated[str, typer.Argument(metavar="FILE", help="The receipt.", show_default=False)],
    public_key: Annotated[
        str | None,
        typer.Option(
            "--public-key", metavar="KEY", help="Who must have signed it; else the key of the data directory."
        ),
    ] = None,
    user: Annotated[str | None, typer.Option("--user", metavar="USER", help="Whom it must be about.")] = None,
    tenant: flags.Tenant = DEFAULT_TENANT,
    data_dir: flags.DataDir = None,
) -> None:
    """Check a receipt of an erasing: that it is as it was signed, by whom, and about whom. If not, exits with 1."""
    from samvad.auth.erasure_receipts import KEY_FILE, ErasureSigner, check_receipt

    if public_key is None:
        place = settings_of(None, data_dir).data_path()
        if not (place / KEY_FILE).exists():
            raise SetupError(
                f"There is no {KEY_FILE} in {place}: name the server's --data-dir, or its --public-key."
            )
        public_key = ErasureSigner(place).public_key
    try:
        data = Path(receipt).read_bytes()
    except OSError as error:
        raise SetupError(f"Cannot read {receipt}: {error.strerror}.") from error
    found = check_receipt(data, public_key, None if user is None else UserKey(tenant, user))
    removed = found["removed"]
    counts = ", ".join(f"{removed[name]:,} {name}" for name in ("messages", "sessions", "interruptions"))
    typer.echo(
        f"erased at {found['erasedAt']}{', not everywhere yet: the store was down' if found['pending'] else ''}"
    )
    typer.echo(f"removed: {counts}")
    for place_name, what in found["places"].items():
        typer.echo(f"{place_name}: {what}")
    typer.echo(f"signed by {public_key}")


app.command("privacy", cls=PlainCommand)(privacy)
