"""Everything known of a user, as one archive that is sent while it is made."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from samvad import limits
from samvad.errors import Overloaded, SamvadError
from samvad.http.access import EVERYTHING
from samvad.http.browsers import Headers
from samvad.http.call import Call
from samvad.http.routing import Route
from samvad.records import UserKey

if TYPE_CHECKING:
    from samvad.archive.making import UserArchive

_log = logging.getLogger(__name__)
EXPORT: Final = "exportUser"
_HEADERS: Final[Headers] = (
    (b"content-type", b"application/zip"),
    (b"content-disposition", b'attachment; filename="samvad-archive.zip"'),
)
Send = Callable[[dict[str, Any]], Awaitable[None]]


class ArchiveStream:
    """One archive on its way to a client. One that cannot be finished breaks off, so that it is no ZIP."""

    def __init__(self, archive: UserArchive, *, headers_only: bool, done: Callable[[], None]) -> None:
        self._archive = archive
        self._headers_only = headers_only
        self._done = done
        self._stopped = asyncio.Event()

    def _over(self) -> None:
        """Let others begin; once."""
        done, self._done = self._done, lambda: None
        done()

    def end(self) -> None:
        """The server stops: the archive breaks off."""
        self._stopped.set()

    async def run(
        self, receive: Callable[[], Awaitable[dict[str, Any]]], send: Send, headers: Headers
    ) -> None:
        """Send the archive until it is whole, the client is gone, or it cannot be finished."""
        try:
            start = {"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *headers]}
            await send(start)
            if self._headers_only:
                self._over()
                await send({"type": "http.response.body", "body": b""})
                return
            watched = [
                asyncio.create_task(each)
                for each in (self._write(send), _gone(receive), self._stopped.wait())
            ]
            try:
                await asyncio.wait(watched, timeout=limits.EXPORT_S_MAX, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in watched:
                    task.cancel()
                await asyncio.wait(watched)
            writing = watched[0]
            if not writing.cancelled():
                writing.result()
        except (SamvadError, TimeoutError) as error:
            code = error.code if isinstance(error, SamvadError) else "too_slow"
            _log.warning("an archive was not finished", extra={"code": code})
        finally:
            self._over()

    async def _write(self, send: Send) -> None:
        async for piece in self._archive.pieces():
            async with asyncio.timeout(limits.EXPORT_SEND_S_MAX):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        self._over()  # whoever has it all may ask again at once
        await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def export(call: Call) -> ArchiveStream:
    """Everything that is kept about a user, as one archive (GDPR, articles 15 and 20)."""
    user_id = call.params[0]
    call.query()
    await call.service.read_user(user_id)  # checks the name, and who asks
    user = UserKey(call.tenant, user_id)
    under_way: set[UserKey] = call.scope["samvad.exports"]
    if user in under_way or len(under_way) >= limits.EXPORTS_AT_ONCE_MAX:
        raise Overloaded("Other archives are being made; ask again when they are done.")
    under_way.add(user)
    archive = call.archive(user)
    try:
        await archive.begin()
    except BaseException:  # also where the request is cancelled: else the user could never ask again
        under_way.discard(user)
        raise
    headers_only = call.scope["method"] == "HEAD"
    return ArchiveStream(archive, headers_only=headers_only, done=lambda: under_way.discard(user))


ROUTES = (Route("GET", "/api/session/{userId}/export", export, EXPORT, EVERYTHING),)
