"""Log lines: JSON for machines, readable for people, through the standard library's logging.

What is logged never holds message content; a record's `extra` names routes, codes and counts.
"""

from __future__ import annotations

import logging
import sys
from typing import IO, Any, Final, Literal

import msgspec

from samvad.clock import rfc3339

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}
# Vendors' clients tell bodies and frames, with all that was said, at `debug`, and each request at `info`.
_OTHERS: Final = (
    *("aiohttp", "asyncio", "google", "google_genai", "grpc", "h11", "hpack", "httpcore", "httpcore2"),
    *("httpx", "httpx2", "openai", "uvicorn", "websockets"),
)
_COLOURS: Final = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m", "debug": "\x1b[2m"}


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class JsonFormatter(logging.Formatter):
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


class ConsoleFormatter(logging.Formatter):
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
