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
