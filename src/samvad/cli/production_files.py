"""What `samvad doctor --production` refuses beside the settings: files, keys, the audit log, the clock."""

from __future__ import annotations

import ctypes
import os
import shlex
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samvad.cli.checks import Finding
from samvad.cli.production import is_loopback
from samvad.env_file import ENV_FILE
from samvad.errors import SetupError
from samvad.settings import Settings, describe

if TYPE_CHECKING:
    from samvad.auth.api_keys import ApiKey

_DAY_MS: Final = 24 * 3600 * 1000
_UNUSED_DAYS: Final = 90
_FILES_MAX: Final = 10_000  # that are looked at
_SHOWN_MAX: Final = 5
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised


def findings(settings: Settings, environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """What is there, for these settings."""
    yield from credentials(settings)
    yield from permissions(private_files(settings, environ))
    yield from audit_log(settings)
    yield clock_kept(_kernel_clock())


# --- credentials -------------------------------------------------------------------------------------------


def credentials(settings: Settings) -> Iterator[Finding]:
    """Whether everybody is asked who they are, and what their keys may do for how long."""
    from samvad.auth.keyring import COPY_FILE, FileKeys, decoded

    if settings.auth == "off":
        todo = "Whoever reaches the server can read and erase everything: set SAMVAD_AUTH=required."
        yield Finding("fail", "credentials", "nobody is asked for any", todo)
        return
    directory = settings.data_path()
    shared = (settings.store or "").startswith("firestore:")
    try:
        source = FileKeys(directory)
        path = directory / COPY_FILE
        raw = (path.read_bytes() if path.exists() else None) if shared else source.read()
        keys = decoded(raw, str(path) if shared else source.place)
    except (SetupError, OSError) as error:
        yield Finding("fail", "credentials", str(error), "Give this user the right to read them.")
        return
    from samvad.clock import SystemClock

    now_ms = SystemClock().now_ms()
    used = _used(directory)
    good = [key for key in keys if key.state(now_ms) == "valid"]
    others = [name for name in ("auth_issuer", "auth_firebase_project") if getattr(settings, name)]
    if settings.auth == "auto" and not keys and not others:
        where = (
            "only this machine can connect"
            if is_loopback(settings.host)
            else f"it listens at {settings.host}"
        )
        todo = "Make a key: samvad keys create --name NAME --expires 90d, and set SAMVAD_AUTH=required."
        yield Finding("fail", "credentials", f"none are configured, so nobody is asked; {where}", todo)
        return
    if settings.auth == "auto":
        todo = (
            "A data directory that is mounted at the wrong place would ask nobody: set SAMVAD_AUTH=required."
        )
        yield Finding("warn", "credentials", "asked for because there are some", todo)
    elif not good and not others and not shared:
        todo = "Nobody can be let in: samvad keys create --name NAME --expires 90d"
        yield Finding("warn", "credentials", "asked for, and there are none", todo)
    else:
        yield Finding("ok", "credentials", "asked for from everybody")
    yield from api_keys(good, used, now_ms)


def api_keys(keys: Sequence[ApiKey], used: Mapping[str, int], now_ms: int) -> Iterator[Finding]:
    """Whether a key that was lost would ever stop working, and what it could do until then."""
    for key in keys:
        named = f"{key.id} ({key.name})"
        replace = f"samvad keys create --name {shlex.quote(key.name)} --expires 90d, then samvad keys revoke {key.id}"
        if key.expires_ms is None:
            yield Finding("fail", "API key", f"{named} never ends", f"Make another one: {replace}")
        if "admin" in key.scopes:
            yield Finding(
                "warn",
                "API key",
                f"{named} may do everything",
                f"Give it the scopes that it needs: {replace}",
            )
        since_ms = max(used.get(key.id, 0), key.created_ms)
        if now_ms - since_ms > _UNUSED_DAYS * _DAY_MS:
            todo = f"Nobody would miss it: samvad keys revoke {key.id}"
            yield Finding("fail", "API key", f"{named} was not used for {_UNUSED_DAYS} days", todo)


def _used(directory: Path) -> Mapping[str, int]:
    import asyncio

    from samvad.auth.keyring import FileKeys

    return asyncio.run(FileKeys(directory).load_used())


# --- files -------------------------------------------------------------------------------------------------


def private_files(settings: Settings, environ: Mapping[str, str] = os.environ) -> Iterator[Path]:
    """All files and directories that nobody else may read: data, keys, and what holds a secret of the settings."""
    directory = settings.data_path()
    if directory.is_dir():
        yield directory
        yield from _below(directory)
    database = _database(settings)
    if database is not None and not database.is_relative_to(directory):
        yield from (path for path in database.parent.glob(f"{database.stem}*") if path.is_file())
    for part in (settings.master_key or "").split(","):
        if part.strip().startswith("file:"):
            yield Path(part.strip().removeprefix("file:")).expanduser()
    if environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        yield Path(environ["GOOGLE_APPLICATION_CREDENTIALS"])
    if ENV_FILE.is_file() and _holds_secrets(ENV_FILE):
        yield ENV_FILE


def _below(directory: Path) -> Iterator[Path]:
    left = _FILES_MAX
    for at, directories, files in os.walk(directory):
        for name in (*directories, *files):
            left -= 1
            if left < 0:
                return
            yield Path(at) / name


def _database(settings: Settings) -> Path | None:
    from samvad.cli.opening import database_path

    try:
        return database_path(settings.store_url())
    except SetupError:
        return None


def _holds_secrets(path: Path) -> bool:
    from samvad.env_file import read_env_file

    found = read_env_file(path)
    return any(each.secret and each.env in found for each in describe())


def permissions(paths: Iterable[Path]) -> Iterator[Finding]:
    """Whether others on this machine can read, or change, what is private."""
    looked, open_to_others = 0, []
    for path in paths:
        try:
            status = path.lstat()
        except OSError:
            continue  # gone meanwhile, or not there: others say so
        looked += 1
        if not stat.S_ISLNK(status.st_mode) and status.st_mode & _OTHERS:
            open_to_others.append((path, status.st_mode))
    for path, mode in open_to_others[:_SHOWN_MAX]:
        todo = f"Take it from them: chmod go= {shlex.quote(str(path))}"
        yield Finding("fail", "permissions", f"{path} is open to others ({stat.S_IMODE(mode):o})", todo)
    if len(open_to_others) > _SHOWN_MAX:
        todo = "Take all from them: chmod -R go= DIR, and give the server UMask=0077."
        yield Finding(
            "fail", "permissions", f"{len(open_to_others) - _SHOWN_MAX:,} more are open to others", todo
        )
    if not open_to_others:
        yield Finding("ok", "permissions", f"{looked:,} files are this user's alone")


# --- audit log and clock -----------------------------------------------------------------------------------


def audit_log(settings: Settings) -> Iterator[Finding]:
    """Whether what is done is noted, and the notes are as they were written."""
    from samvad.auth import audit
    from samvad.auth.secret_file import KEY_BYTES

    if settings.audit == "off":
        todo = "Who erased what is known by nobody: unset SAMVAD_AUDIT, or set it to sensitive."
        yield Finding("fail", "audit log", "off", todo)
        return
    if settings.store_url().startswith("memory:"):
        yield Finding(
            "fail", "audit log", "none is kept with memory://", "Choose a store that keeps something."
        )
        return
    directory, key_path = settings.data_path() / audit.DIRECTORY, settings.data_path() / audit.KEY_FILE
    if not directory.is_dir():
        yield Finding("ok", "audit log", f"{settings.audit}; not begun yet")
        return
    try:
        key = key_path.read_bytes()
        found = audit.verify(directory, key)
    except OSError as error:
        yield Finding(
            "fail", "audit log", f"{key_path}: {error.strerror}", "Give this user the right to read it."
        )
        return
    if len(key) != KEY_BYTES or found.broken:
        where = found.broken[0] if found.broken else None
        why = f"{where.file}, line {where.line}: {where.why}" if where else f"{key_path} holds no key"
        yield Finding(
            "fail", "audit log", why, "It was changed by somebody: samvad audit verify tells all of it."
        )
    else:
        yield Finding(
            "ok", "audit log", f"{settings.audit}; {found.head.n - found.first + 1:,} entries, unbroken"
        )


def clock_kept(state: int | None) -> Finding:
    """Whether something keeps this machine's clock: tokens and logs go by it. `state` is what adjtimex(2) returned."""
    if state is None:
        return Finding("ok", "clock kept", "not known on this system")
    if state == _TIME_ERROR:
        todo = "Tokens end too early or too late where it is wrong: start a time service (timedatectl set-ntp true)."
        return Finding("warn", "clock kept", "by nobody, says the kernel", todo)
    return Finding("ok", "clock kept", "by a time service")


def _kernel_clock() -> int | None:
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024))  # modes 0: only to look
    except (AttributeError, OSError):
        return None
    return int(state) if state >= 0 else None
