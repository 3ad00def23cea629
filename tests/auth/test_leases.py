"""A socket and an event stream last as long as the credential that let them in, and no longer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from samvad import limits
from tests.auth.world import ALL, ASHA, BALA, Socket, World, bearing, world

pytestmark = pytest.mark.anyio
START = {"type": "start_session", "userId": ASHA, "sessionId": "session_asha"}


@pytest.fixture
async def here() -> AsyncIterator[World]:
    """A world of its own for each test."""
    async with world() as found:
        yield found


async def started(here: World, token: str) -> Socket:
    """A socket of Asha's, in conversation."""
    socket = Socket(here, token, "subprotocol")
    socket.send(START)
    while (await socket.next()).get("type") != "session_started":
        pass
    return socket


async def ended(socket: Socket) -> tuple[str, int]:
    """Why a socket was closed, in words and as a code."""
    reason = ""
    while (message := await socket.next())["type"] != "websocket.close":
        reason = message.get("reason", reason) if message["type"] == "session_ended" else reason
    await socket.close()
    return reason, message["code"]


async def test_a_socket_ends_with_its_token_after_a_warning(here: World) -> None:
    """The warning tells how long there is; then the socket is closed, and says why."""
    socket = await started(here, here.token(ASHA, ttl_s=limits.LIVE_WARNING_S - 1))
    warning = await socket.warning()
    assert (warning["code"], warning["inS"]) == ("token_expires", limits.LIVE_WARNING_S - 1)
    here.clock.advance(limits.LIVE_WARNING_S)
    await here.auth.refresh()
    assert await ended(socket) == ("token_expired", 4008)


async def test_by_itself(here: World) -> None:
    """Nobody need look: a token that is over ends its socket by a timer."""
    token = here.token(ASHA, ttl_s=1)
    socket = await started(here, token)
    await socket.warning()
    here.clock.advance(1)
    assert await ended(socket) == ("token_expired", 4008)


async def test_a_client_renews(here: World) -> None:
    """With a newer token of the same user the connection goes on, and is warned again when that one ends."""
    socket = await started(here, here.token(ASHA, ttl_s=50))
    await socket.warning()
    for token, code in (
        (here.token(BALA), "forbidden"),
        (here.token(ASHA, tenant="other"), "forbidden"),
        (here.token(ASHA, session="session_asha"), "forbidden"),
        ("x", "unauthenticated"),
    ):
        socket.send({"type": "renew_token", "token": token})
        assert (await socket.until("error", "token_renewed"))["code"] == code
    socket.send({"type": "renew_token", "token": here.token(ASHA, ttl_s=110)})
    assert (await socket.until("error", "token_renewed"))["expiresInS"] == 110
    here.clock.advance(60)
    await here.auth.refresh()
    socket.send({"type": "ping"})
    await socket.until("pong")
    here.clock.advance(60)
    await here.auth.refresh()
    assert await ended(socket) == ("token_expired", 4008)


async def test_guessing_tokens_on_a_socket_ends_it(here: World) -> None:
    """Refused tokens count like malformed frames."""
    socket = Socket(here, here.token(ASHA))
    for number in range(limits.LIVE_ERRORS_MAX):
        socket.send({"type": "renew_token", "token": f"samvad_t1.{number}.x"})
    assert (await ended(socket))[1] == 4006


async def test_revoking_a_key_closes_what_hangs_on_it(here: World) -> None:
    """The back end's own socket, and those of the browsers for which it has minted tokens; no others."""
    key, other = here.key(*ALL), here.key(*ALL)
    await here.auth.refresh()
    answer = await here.api.ok("POST", "/api/auth/tokens", {"userId": ASHA}, headers=bearing(key))
    sockets = [await started(here, key)]
    socket = Socket(here, other)
    socket.send({"type": "start_session", "userId": BALA, "sessionId": "session_bala"})
    await socket.until("session_started")
    sockets.append(await started(here, answer["token"]))
    assert (await ended(sockets.pop(0)))[0] == "taken_over"
    sockets.append(await started(here, key))
    assert (await ended(sockets.pop(0)))[0] == "taken_over"
    here.keys.keys[0] = msgspec.structs.replace(here.keys.keys[0], revoked_ms=here.clock.now_ms())
    await here.auth.refresh()
    assert await ended(sockets.pop()) == ("token_revoked", 4009)
    refused = Socket(here, answer["token"])
    assert (await refused.next())["status"] == 401
    await refused.task
    socket.send({"type": "ping"})
    await socket.until("pong")
    await socket.close()


async def test_a_rotated_key_ends_with_its_overlap(here: World) -> None:
    """A socket under a key that had no end is closed when the key got one, and that has come."""
    key = here.key(*ALL)
    await here.auth.refresh()
    socket = await started(here, key)
    here.keys.keys[0] = msgspec.structs.replace(here.keys.keys[0], expires_ms=here.clock.now_ms() + 60_000)
    await here.auth.refresh()
    socket.send({"type": "ping"})
    await socket.until("pong")
    here.clock.advance(61)
    await here.auth.refresh()
    assert (await ended(socket))[1] == 4009


class Stream:
    """A client of /api/live/events, over ASGI."""

    def __init__(self, here: World, token: str) -> None:
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.gone = asyncio.Event()
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/api/live/events",
            "raw_path": b"/api/live/events",
            "query_string": f"userId={ASHA}".encode(),
            "headers": [(b"authorization", f"Bearer {token}".encode())],
        }
        self.task = asyncio.create_task(here.api.app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.put_nowait(message)

    async def rest(self) -> str:
        """Everything up to the end of the stream."""
        text = b""
        async with asyncio.timeout(20):
            while True:
                message = await self.sent.get()
                text += message.get("body", b"")
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    await self.task
                    return text.decode()


async def test_an_event_stream_ends_with_its_token(here: World) -> None:
    """A warning and the reason are events; neither has an id, so that the place to go on from stays."""
    stream = Stream(here, here.token(ASHA, ttl_s=30))
    assert (await stream.sent.get())["status"] == 200
    await stream.sent.get()
    await asyncio.sleep(0)
    here.clock.advance(31)
    await here.auth.refresh()
    text = await stream.rest()
    assert f"event: ended\ndata: {json.dumps({'reason': 'token_expired'}, separators=(',', ':'))}\n\n" in text
    assert "id:" not in text


async def test_an_event_stream_ends_with_its_key(here: World) -> None:
    """As a socket does."""
    key = here.key("users")
    await here.auth.refresh()
    stream = Stream(here, key)
    assert (await stream.sent.get())["status"] == 200
    here.keys.keys.clear()
    await here.auth.refresh()
    assert "token_revoked" in await stream.rest()


async def test_nothing_is_left_of_those_who_are_gone(here: World) -> None:
    """A socket that was closed asks for nothing more."""
    socket = await started(here, here.token(ASHA))
    assert len(here.auth.on_change) == 1
    await socket.close()
    assert here.auth.on_change == []
