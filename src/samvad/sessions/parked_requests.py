"""What the operator asks of a running server about its parked operations, by a file beside the journal.

`samvad parked retry` and `drop` write `parked-request.json` where a server holds the journal. The server looks for it
once a second while something is parked, does what it says, and removes it: that is the answer. What is refused still
stands in the list, as before (see `parked`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import Final

import msgspec

from samvad.records import UserKey
from samvad.sessions.flush_lane import FlushLane
from samvad.sessions.journaled import JournaledStore

FILE: Final = "parked-request.json"
LOOK_S: Final = 1.0
_DONE_S_MAX: Final = 20.0
_POLL_S: Final = 0.05

_log = logging.getLogger(__name__)


class Request(msgspec.Struct, frozen=True, rename="camel"):
    """Try all that is parked again, or with a user give up the operation known as (`replica`, `number`)."""

    tenant: str = ""
    user_id: str = ""
    replica: str = ""
    number: int = -1


def ask(directory: Path, request: Request) -> None:
    """Put a request beside a journal, for the server that holds it. Blocks; OSError."""
    fresh = directory / (FILE + ".part")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        out.write(msgspec.json.encode(request))
    fresh.replace(directory / FILE)


def is_answered(directory: Path) -> bool:
    """Whether the server has done what was asked."""
    return not (directory / FILE).exists()


def take_back(directory: Path) -> None:
    """Ask no longer."""
    (directory / FILE).unlink(missing_ok=True)


async def carry_out(store: JournaledStore) -> bool:
    """Do what is asked; whether anything was. SamvadError where the journal fails."""
    request = await asyncio.to_thread(_asked, store.journal.directory)
    if request is None:
        return False
    flusher = store.flusher
    if request.user_id:
        user = UserKey(request.tenant, request.user_id)
        lane = flusher.find(user)
        first = lane.entries[0] if lane is not None and lane.parked is not None and lane.entries else None
        if first is not None and (first.replica, first.number) == (request.replica, request.number):
            _log.warning("an operation that the store refuses was given up, as the operator asked")
            flusher.drop_parked(user)
            await store.journal.settle()
            await store.journal.scrub()
        return True
    lanes = [lane for lane in flusher.parked() if flusher.retry_parked(lane.user)]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DONE_S_MAX):
            while not all(map(_is_decided, lanes)):  # noqa: ASYNC110 (lanes tell nobody)
                await asyncio.sleep(_POLL_S)
    return True


def _is_decided(lane: FlushLane) -> bool:
    """Whether the store has taken what was refused, or has refused it again."""
    return lane.parked is not None or not lane.entries


def _asked(directory: Path) -> Request | None:
    try:
        return msgspec.json.decode((directory / FILE).read_bytes(), type=Request)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        _log.warning("what is asked about parked operations cannot be read")
        take_back(directory)
        return None
