"""GET /api/live/events: a user's timeline as server-sent events, with the same places as the live socket.

An event's id is `epoch:seq`; a client that reconnects sends the last one as `Last-Event-ID` and gets what it missed,
or a `gap` event that names what is too much to send.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from samvad import limits
from samvad.auth.lease import Lease
from samvad.errors import InvalidRequest, MissingFields, Overloaded, SamvadError
from samvad.http import browsers
from samvad.http.call import Call
from samvad.records import UserKey
from samvad.sessions.feed import Grew, Missed, Restarted, Subscription

if TYPE_CHECKING:
    from samvad.auth.authenticator import Authenticator, Identity
    from samvad.sessions.service import SessionPersistenceService

HEARTBEAT_S: Final = 15.0
SEND_S_MAX: Final = (
    60.0  # a client that takes longer for an event is cut off; it may come back with its last id
)

_EACH_MAX: Final = limits.LIVE_SOCKETS_PER_USER_MAX
_ID: Final = re.compile(r"([0-9]{1,18}):([0-9]{1,18})")
_encode = msgspec.json.encode

Send = Callable[[dict[str, Any]], Awaitable[None]]


class EventStream:
    """One client's stream. Made and checked before anything is sent, so that mistakes are problem documents."""

    def __init__(
        self,
        service: SessionPersistenceService,
        subscription: Subscription,
        access: tuple[Authenticator, Identity],
        *,
        recovered: bool,
        headers_only: bool = False,
    ) -> None:
        self._headers_only = headers_only
        self._access = access
        self._notes: list[bytes] = []
        self._recovered = recovered
        self._service = service
        self._subscription = subscription
        self._ended = asyncio.Event()

    @property
    def key(self) -> UserKey:
        """Whose timeline it is."""
        return self._subscription.key

    def end(self) -> None:
        """The server stops: the client may come back to another one."""
        self._ended.set()

    async def run(
        self, receive: Callable[[], Awaitable[dict[str, Any]]], send: Send, headers: browsers.Headers
    ) -> None:
        """Send events until the client is gone or the server stops; `headers` are those of every answer."""
        own = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no"))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": (*own, *headers)})
            is_there = True if self._headers_only else await self._run(receive, send)
        finally:
            self._subscription.close()
        if is_there:
            last = b"".join(self._notes)
            await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _run(self, receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> bool:
        """Send events until one of both ends it; whether the client is still there."""
        lease = Lease(*self._access, warn=self._warn_of_end, end=self._no_longer)
        gone = asyncio.create_task(_disconnected(receive))
        ended = asyncio.create_task(self._ended.wait())
        writer = asyncio.create_task(self._write(send))
        try:
            await asyncio.wait([gone, ended, writer], return_when=asyncio.FIRST_COMPLETED)
        finally:
            lease.stop()
            for task in (gone, ended, writer):
                task.cancel()
            await asyncio.wait([gone, ended, writer])
        return not gone.done() or gone.cancelled()

    def _warn_of_end(self, in_s: int) -> None:
        """Said with the next event or sign of life, at the latest."""
        self._notes.append(_note("warning", {"code": "token_expires", "inS": in_s}))

    def _no_longer(self, reason: str) -> None:
        self._notes.append(_note("ended", {"reason": reason}))
        self._ended.set()

    async def _write(self, send: Send) -> None:
        async def put(data: bytes) -> None:
            if self._notes:
                data = b"".join((*self._notes, data))
                self._notes.clear()
            async with asyncio.timeout(SEND_S_MAX):
                await send({"type": "http.response.body", "body": data, "more_body": True})

        subscription = self._subscription
        place = {"epoch": subscription.epoch, "seq": subscription.seq, "recovered": self._recovered}
        await put(b"retry: 2000\n" + _event("ready", place, subscription.epoch, subscription.seq))
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    news = await subscription.next()
            except TimeoutError:
                await put(b": still here\n\n")
                continue
            match news:
                case None:
                    return
                case Restarted(epoch):
                    await put(_event("reset", {"epoch": epoch, "seq": 0}, epoch, 0))
                case Missed(epoch, first, last):
                    async for data in self._caught_up(epoch, first, last):
                        await put(data)
                case Grew(epoch, messages):
                    for message in messages:
                        await put(_message(epoch, message.seq, message.body))

    async def _caught_up(self, epoch: int, first: int, last: int) -> AsyncIterator[bytes]:
        """Messages that memory does not hold any more, from the history; where they are too many, a gap."""
        most = limits.LIVE_REPLAY_MESSAGES_MAX
        if last - first >= most:
            yield _event("gap", {"from": first, "to": last - most}, epoch, last - most)
            first = last - most + 1
        while first <= last:
            page, _ = await self._service.page_stored(
                self._subscription.key.user_id, after=first - 1, limit=min(100, last - first + 1)
            )
            page = [message for message in page if message.seq <= last]
            if not page or page[0].seq > first:
                until = page[0].seq - 1 if page else last
                yield _event("gap", {"from": first, "to": until}, epoch, until)
            for message in page:
                yield _message(epoch, message.seq, message.body)
            first = page[-1].seq + 1 if page else last + 1


async def open_events(call: Call) -> EventStream:
    """The user's timeline as server-sent events: what is said, on whichever device and by whichever door."""
    found = call.query("userId", "lastEventId")
    user_id = found.get("userId")
    if not user_id:
        raise MissingFields("userId")
    service = call.service
    last = call.header(b"last-event-id") or found.get("lastEventId") or ""
    match = _ID.fullmatch(last)
    if last and match is None:
        raise InvalidRequest("Last-Event-ID must be the id of an event of this stream: epoch:seq.")
    await service.read_user(user_id)  # checks the name, and who asks
    subscription = call.feed.subscribe(UserKey(service.principal.tenant, user_id))
    try:
        record = await service.read_user(user_id)
    except SamvadError:
        subscription.close()
        raise
    streams: set[object] = call.scope["samvad.streams"]
    if sum([isinstance(each, EventStream) and each.key == subscription.key for each in streams]) >= _EACH_MAX:
        subscription.close()
        raise Overloaded("This user has too many event streams; close one first.")
    same = False
    if match is None:
        subscription.start(record)
    else:
        epoch, seq = int(match[1]), int(match[2])
        same = epoch == record.version.epoch and seq <= record.seq
        subscription.start(record, seq if same else 0)  # of another life: all of this one
    access, headers_only = (call.auth, call.identity), call.scope["method"] == "HEAD"
    return EventStream(service, subscription, access, recovered=same, headers_only=headers_only)


async def _disconnected(receive: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(name: str, data: dict[str, Any], epoch: int, seq: int) -> bytes:
    return b"event: %b\nid: %d:%d\ndata: %b\n\n" % (name.encode(), epoch, seq, _encode(data))


def _note(name: str, data: dict[str, Any]) -> bytes:
    """An event about the stream itself: without an id, so that the place to go on from stays what it was."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(data))


def _message(epoch: int, seq: int, body: bytes) -> bytes:
    """JSON has no line break outside of strings, and within them it is escaped: one data line is enough."""
    return b'event: message\nid: %d:%d\ndata: {"seq":%d,"message":%b}\n\n' % (epoch, seq, seq, body)
