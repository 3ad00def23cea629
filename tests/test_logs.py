"""Log lines: one line each, JSON for machines, and no terminal obeys them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from samvad import logs


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back afterwards."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:], logger.level = handlers, level


def test_json_lines_hold_what_extra_gave(root: logging.Logger) -> None:
    """Time, level, logger, message, extras, and the traceback in one field."""
    stream = io.StringIO()
    logs.configure("info", "auto", stream)
    log = logging.getLogger("samvad.test")
    log.debug("not this")
    log.info("saved %d", 3, extra={"route": "state", "odd": {1, 2}})
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        log.exception("failed")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["at"].endswith("Z")
    assert (first["level"], first["logger"], first["message"], first["route"]) == (
        "info",
        "samvad.test",
        "saved 3",
        "state",
    )
    assert "Traceback" in second["exception"]


def test_console_lines_escape_control_characters(root: logging.Logger) -> None:
    """What came from outside cannot begin a line or colour a terminal."""
    stream = io.StringIO()
    logs.configure("warning", "console", stream)
    logging.getLogger("samvad.test").warning("bad\x1b[31m\nname", extra={"code": "x"})
    line = stream.getvalue()
    assert line.endswith(" warning bad\\x1b[31m\\nname  code=x\n")
    assert line.count("\n") == 1


def test_what_vendors_clients_log_is_left_out(root: logging.Logger) -> None:
    """They tell whole requests at `debug`: `--log-level debug` must not bring what was said into the log."""
    stream = io.StringIO()
    logs.configure("debug", "json", stream)
    for name in ("openai._base_client", "httpx2", "google_genai.live", "websockets.client", "aiohttp.client"):
        logging.getLogger(name).debug("Request options: %s", {"messages": ["a secret"]})
        logging.getLogger(name).info("HTTP Request: POST https://example.org/?key=secret")
    logging.getLogger("samvad.test").debug("ours")
    assert "secret" not in stream.getvalue() and "ours" in stream.getvalue()
