"""`samvad serve`: the server."""

from __future__ import annotations

import gc
from typing import Any, Final

import typer

from samvad import __version__, logs
from samvad.cli import flags
from samvad.cli.command import PlainCommand, verbs
from samvad.cli.opening import LOG_KEY_FILE, embedder_of, log_key
from samvad.settings import Settings, load

app = verbs()
# Python's 700 is what 32 requests under way hold: it would look through them again and again, and find no garbage.
_YOUNG_MAX: Final = 10_000


@app.command(cls=PlainCommand)
def serve(
    host: flags.Host = None,
    port: flags.Port = None,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
    durability: flags.Durability = None,
    window_messages: flags.WindowMessages = None,
    language: flags.Language = None,
    record_ttl_s: flags.RecordTtl = None,
    cache_mib: flags.CacheMib = None,
    journal_mib: flags.JournalMib = None,
    session_idle_s: flags.SessionIdle = None,
    active_window_s: flags.ActiveWindow = None,
    record_interruptions: flags.RecordInterruptions = None,
    listen: flags.Listen = None,
    auth: flags.Auth = None,
    insecure: flags.Insecure = None,
    log_level: flags.LogLevel = None,
    log_format: flags.LogFormat = None,
    drain_s: flags.Drain = None,
) -> None:
    """Run the server until SIGTERM or Ctrl-C; one line with its address tells that it is ready.

    Every flag is also a variable (--port is SAMVAD_PORT), in the environment or in a file .env.
    """
    run(load(dict(locals())))


def run(settings: Settings) -> None:
    """Serve with these settings until a signal; SetupError where that cannot be."""
    gc.disable()  # what is imported stays: looking through it for garbage only takes time
    from samvad.auth import audit, erasure_receipts
    from samvad.auth.erasure_receipts import ErasureSigner
    from samvad.auth.secret_file import check_keys
    from samvad.http import server
    from samvad.http.app import create_app
    from samvad.http.asked import log_answered
    from samvad.http.auth_opening import TOKENS_KEY_FILE, authenticator, may_be_reached
    from samvad.http.limit_opening import limiter_of
    from samvad.http.live_opening import live_maker
    from samvad.http.trace_opening import trace
    from samvad.live import tokens
    from samvad.runtime import open_samvad
    from samvad.sessions.cost import FILE as COST_FILE

    logs.configure(settings.log_level, settings.log_format)
    if not settings.store_url().startswith("memory:"):
        key_files = (
            audit.KEY_FILE,
            erasure_receipts.KEY_FILE,
            tokens.KEY_FILE,
            LOG_KEY_FILE,
            TOKENS_KEY_FILE,
        )
        check_keys(settings.data_path() / name for name in key_files)
    logs.hash_users_with(lambda: log_key(settings))
    url = settings.store_url()
    journaled = url.startswith("firestore:") and settings.durability == "auto"
    journal_dir = settings.data_path() / "journal" if journaled else None
    cost_file = settings.data_path() / COST_FILE if url.startswith("firestore:") else None
    end_traces = trace(settings)
    samvad = open_samvad(
        url,
        journal_dir=journal_dir,
        cost_file=cost_file,
        embedder=embedder_of(settings),
        master_key=settings.master_key,
        **settings.service_options(),
    )
    auth = authenticator(settings, samvad)
    reachable = may_be_reached(settings, auth)
    bound = server.bind(settings.host, settings.port, insecure=reachable)
    # Whoever may connect from elsewhere may use any name; from this machine, only its own.
    hosts = None if reachable else {"localhost", "127.0.0.1", "[::1]", settings.host}
    limiter = limiter_of(settings, samvad)
    application = create_app(
        samvad,
        hosts=hosts,
        live=live_maker(samvad, settings),
        auth=auth,
        limiter=limiter,
        origins=settings.cors_origins.split(","),
    )
    _audit(settings, samvad, application)
    if settings.access_log:
        application.access_log = log_answered
    samvad.erasure_signer = ErasureSigner(None if url.startswith("memory:") else settings.data_path())
    gc.freeze()
    gc.set_threshold(_YOUNG_MAX, *gc.get_threshold()[1:])
    gc.enable()

    def on_ready(url: str) -> None:
        typer.echo(f"samvad {__version__} listening on {url}")
        _tell_who_can_reach(settings, auth is not None and auth.required)

    try:
        server.run(samvad, application, bound, drain_s=settings.drain_s, on_ready=on_ready)
    finally:
        end_traces()


def _audit(settings: Settings, samvad: Any, application: Any) -> None:
    """Keep the audit log, where there is a place for it."""
    if settings.store_url().startswith("memory:"):
        return
    samvad.data_dir = settings.data_path()
    if settings.audit == "off":
        return
    from samvad.auth.audit import AuditLog
    from samvad.http.auditing import Auditing

    log = AuditLog(settings.data_path(), samvad.core.clock)
    auditing = Auditing(log, settings.audit, application.router.routes, samvad.core.clock)
    auditing.begin(samvad)
    application.before.append(auditing.check)
    application.on_access.append(auditing.note)
    application.is_noted = auditing.is_noted
    application.metrics.audit = log
    if samvad.options.retention_is_on:
        samvad.sweeper.note = auditing.note_retention


def _tell_who_can_reach(settings: Settings, asks: bool) -> None:
    import logging

    from samvad.auth.keyring import KEYS_FILE

    log = logging.getLogger(__name__)
    if asks:
        log.info("credentials are asked for")
        others = (settings.auth_issuer, settings.auth_firebase_project, settings.auth_token_secret)
        on_disk = settings.store_url().startswith("sqlite:")
        if on_disk and not any(others) and not (settings.data_path() / KEYS_FILE).exists():
            log.warning("nobody is let in yet: there is no key; make one: samvad keys create --name NAME")
    elif settings.insecure:
        log.warning(
            "no credentials are configured: whoever reaches this address can read and erase everything"
        )
    else:
        log.info("no credentials are configured: only this machine can connect")
    if settings.durability == "memory" or settings.store_url().startswith("memory:"):
        log.warning("writes are acknowledged from memory: they are lost if the process dies")
