"""Log lines: JSON for machines, readable for people, through the standard library's logging.

What is logged never holds message content; a record's `extra` names routes, codes and counts. A line that is written
while a request is answered carries the request's id; users stand under a keyed hash, never under their id. Of an
exception the line tells the type and the places in the code, but not its text, which may quote what somebody said.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import IO, Any, Final, Literal, Protocol

import msgspec

from samvad.clock import rfc3339
from samvad.errors import SamvadError, SetupError

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}
# Vendors' clients tell bodies and frames, with all that was said, at `debug`, and each request at `info`.
_OTHERS: Final = (
    *("aiohttp", "asyncio", "google", "google_genai", "grpc", "h11", "hpack", "httpcore", "httpcore2"),
    *("httpx", "httpx2", "openai", "opentelemetry", "urllib3", "uvicorn", "websockets"),
)
_COLOURS: Final = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m", "debug": "\x1b[2m"}


class Context(Protocol):
    """What is under way: a request, a live connection. `whose`: tenant and user that it is about."""

    whose: tuple[str, str] | None

    def log_fields(self) -> dict[str, str]:
        """What its log lines carry: `request`, and where they are known `user` (hashed) and `trace`."""
        ...


context: Final[ContextVar[Context | None]] = ContextVar("samvad_log_context", default=None)
"""What is under way in this task; the tasks that it begins have it from there."""


def concerns(tenant: str, user_id: str) -> None:
    """What is under way in this task is about this user."""
    under_way = context.get()
    if under_way is not None:
        under_way.whose = (tenant, user_id)


class ContextFilter(logging.Filter):
    """Adds to a record what is under way. `configure` uses it; so may whoever configures logging otherwise."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true."""
        under_way = context.get()
        if under_way is not None:
            for name, value in under_way.log_fields().items():
                if name not in record.__dict__:
                    record.__dict__[name] = value
        return True


# --- users -------------------------------------------------------------------------------------------------

_random = os.urandom(32)
_load_key: Callable[[], bytes] | None = None
_key: bytes | None = None


def hash_users_with(load_key: Callable[[], bytes]) -> None:
    """From now on, users stand under a hash with this key, which is loaded when the first of them is named."""
    global _load_key, _key
    _load_key, _key = load_key, None


def user_hash(tenant: str, user_id: str) -> str:
    """What a user is called in logs and traces: the same for the same key, and of no use without it."""
    global _key
    if _key is None:
        try:
            _key = _random if _load_key is None else _load_key()
        except SetupError as error:
            _key = _random
            logging.getLogger(__name__).warning("users are hashed with a passing key: %s", error.message)
    return keyed_hash(_key, tenant, user_id)


def keyed_hash(key: bytes, tenant: str, user_id: str) -> str:
    """The same, with a key at hand."""
    named = f"{tenant}\0{user_id}".encode(errors="surrogatepass")
    return f"u-{hmac.digest(key, named, hashlib.sha256).hex()[:20]}"


# --- lines -------------------------------------------------------------------------------------------------


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class _Wordless(logging.Formatter):
    """Tells exceptions without their words."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's name)
        return "\n".join(_told(ei[1], ei[2]))


def _told(error: BaseException | None, trace: TracebackType | None) -> Iterator[str]:
    """An exception's type, and what is known to be no content, behind the places that it went through."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield "Traceback (most recent call last):"
        yield "".join(traceback.format_tb(trace)).rstrip("\n")
        yield f"{type(error).__module__}.{type(error).__qualname__}{_detail(error)}"
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions:
                yield from _told(each, each.__traceback__)
        before = error.__cause__ if error.__suppress_context__ else error.__cause__ or error.__context__
        error, trace = before, None if before is None else before.__traceback__
        if error is not None:
            yield "after"


def _detail(error: BaseException) -> str:
    if isinstance(error, SamvadError):
        return f" ({error.code})"
    if isinstance(error, OSError) and error.errno is not None:
        return f" ({error.errno}, {os.strerror(error.errno)})"
    return ""


def loop_failed(loop: asyncio.AbstractEventLoop, told: dict[str, Any]) -> None:
    """What an event loop calls for an exception that nobody has taken; its own way quotes arguments and results."""
    error = told.get("exception")
    trace = (type(error), error, error.__traceback__) if isinstance(error, BaseException) else None
    what = re.split(r"[(<=]", str(told.get("message")), maxsplit=1)[0].rstrip()
    logging.getLogger("asyncio").error("%s", what, exc_info=trace)


class JsonFormatter(_Wordless):
    """One JSON object a line: at, level, logger, message, what `extra` gave, and the traceback as `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line: dict[str, Any] = {
            "at": rfc3339(round(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=repr).decode()


class ConsoleFormatter(_Wordless):
    """Time (UTC), level, message and what `extra` gave; in colour on a terminal."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record; a traceback follows on lines of its own."""
        level = record.levelname.lower()
        shown = f"{level:<7}"
        if self._colour and level in _COLOURS:
            shown = f"{_COLOURS[level]}{shown}\x1b[0m"
        extras = "".join(f"  {name}={value}" for name, value in _extras(record).items())
        time = rfc3339(round(record.created * 1000))[11:23]
        text = f"{time} {shown} {_printable(record.getMessage() + extras)}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


def configure(
    level: Literal["debug", "info", "warning", "error"] = "info",
    style: Literal["auto", "json", "console"] = "auto",
    stream: IO[str] | None = None,
) -> None:
    """Send every log line of this process to `stream` (standard error), from `level` on."""
    stream = stream or sys.stderr
    terminal = stream.isatty()
    handler = logging.StreamHandler(stream)
    if style == "json" or (style == "auto" and not terminal):
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(ConsoleFormatter(colour=terminal))
    handler.addFilter(ContextFilter())
    root = logging.getLogger()
    for earlier in root.handlers[:]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _OTHERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _printable(text: str) -> str:
    """The text with control characters escaped: a line stays one line, and no terminal obeys it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
