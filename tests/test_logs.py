"""Log lines: one line each, JSON for machines, and no terminal obeys them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest

from samvad import logs
from samvad.errors import SetupError, StoreUnavailable

pytestmark = pytest.mark.anyio


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


class UnderWay:
    """A request, as its log lines name it."""

    whose: tuple[str, str] | None = None

    def log_fields(self) -> dict[str, str]:
        """Its id, and its user where one is known."""
        known = {} if self.whose is None else {"user": logs.user_hash(*self.whose)}
        return {"request": "abcd-1", **known}


def test_lines_of_a_request_carry_its_id(root: logging.Logger) -> None:
    """Whoever logs them; those of nobody carry none, and who says more is not talked over."""
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    log = logging.getLogger("somebody.else")
    token = logs.context.set(UnderWay())
    try:
        log.info("one")
        logs.concerns("default", "asha")
        log.info("two")
        log.info("three", extra={"user": "u-other"})
    finally:
        logs.context.reset(token)
    log.info("four")
    logs.concerns("default", "asha")  # of nothing
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line.get("request") for line in lines] == ["abcd-1", "abcd-1", "abcd-1", None]
    assert [line.get("user") for line in lines] == [None, logs.user_hash("default", "asha"), "u-other", None]
    assert "asha" not in stream.getvalue()


def test_users_are_told_apart_by_a_keyed_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for the same key; another for another tenant, user or key; a key that cannot be had stops nothing."""
    monkeypatch.setattr(logs, "_load_key", None)
    logs.hash_users_with(lambda: b"k" * 32)
    names = {logs.user_hash(*each) for each in (("a", "b"), ("a", "c"), ("b", "b"), ("a", "b"))}
    assert len(names) == 3
    assert logs.user_hash("a", "b") == logs.keyed_hash(b"k" * 32, "a", "b") != logs.keyed_hash(b"x", "a", "b")

    def fails() -> bytes:
        raise SetupError("no place for it")

    logs.hash_users_with(fails)
    assert logs.user_hash("a", "b") not in names


@pytest.mark.parametrize("style", ["json", "console"])
def test_exceptions_are_told_without_their_words(
    root: logging.Logger, style: Literal["json", "console"]
) -> None:
    """What an exception says may be what somebody said; where it was, and of which kind, is enough to find it."""
    stream, words = io.StringIO(), "-".join(["a", "secret"])  # not as it stands in this file
    logs.configure("info", style, stream)
    try:
        try:
            raise OSError(28, words, words)
        except OSError as before:
            raise ExceptionGroup(words, [ValueError(words), StoreUnavailable(words)]) from before
    except ExceptionGroup:
        logging.getLogger("samvad.test").exception("failed")
    told = stream.getvalue()
    assert words not in told
    for part in (
        "test_logs.py",
        "builtins.ValueError",
        "StoreUnavailable (store_unavailable)",
        "No space left",
    ):
        assert part in told


async def test_an_event_loop_quotes_nobody(root: logging.Logger) -> None:
    """The loop's own way to tell of an exception names the arguments of the callback."""
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.loop_failed)

    def fails(text: str) -> None:
        raise ValueError(text)

    loop.call_soon(fails, "a secret")
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    (line,) = (json.loads(each) for each in stream.getvalue().splitlines())
    assert line["message"].startswith("Exception in callback")
    assert "ValueError" in line["exception"]
    assert "a secret" not in stream.getvalue()
