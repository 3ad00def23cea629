"""The talk of `samvad chat`: lines to frames, frames to words, and going on after a dropped connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from samvad.clock import SystemClock, uuid7

if TYPE_CHECKING:
    from collections.abc import Callable

    from websockets.asyncio.client import ClientConnection

    from samvad.cli.chat_terminal import Terminal

_HELP: Final = """\
/resume          go on with what was interrupted
/language hi     speak another language from now on (auto: the one you write in)
/history         what was said lately
/quit            leave (so does Ctrl-D)
Ctrl-C           interrupt; what you have read of the answer is kept as heard"""
_HISTORY_MESSAGES: Final = 20
_RETRY_S_MIN, _RETRY_S_MAX, _RETRIES_MAX = 0.25, 5.0, 20
_OPEN_S: Final = 10.0

# Close codes after which there is nothing to go on with, and what to tell.
_FINAL: Final = {
    1000: "",
    4000: "The session has ended: nobody said anything for long.",
    4001: "The session has ended: it had lasted as long as one may.",
    4002: "The session goes on elsewhere.",
    4004: "All that was kept of this user has been erased.",
    4005: "The session has been deleted.",
    4006: "The server has given up on this client.",
    4009: "The key behind the token was revoked.",
    4401: "The server asks who you are: put a token for this user into the variable SAMVAD_TOKEN.",
    4403: "The token in SAMVAD_TOKEN does not allow this.",
}
# Statuses of a refused handshake, as the close codes that they are like.
_REFUSED: Final = {401: 4401, 403: 4403}
_QUIET_ENDS: Final = frozenset({1000, 4000, 4001})


class Talk:
    """One conversation with the server at `url` (`http://…`); `start` are fields of the first frame.

    `token` gives the bearer token of a new connection, None where there is none.
    """

    def __init__(
        self,
        url: str,
        user_id: str,
        terminal: Terminal,
        start: dict[str, str],
        *,
        token: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._token = token
        self._url = url
        self._user_id = user_id
        self._terminal = terminal
        self._start = start
        self._clock = SystemClock()
        self._socket: ClientConnection | None = None
        self._ready = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._leaving = False
        self._failed = False
        self._warned = False  # that Ctrl-C does nothing here
        self._session: dict[str, Any] | None = None  # token, epoch and last place, for going on
        self._waits_for: dict[str, str] | None = (
            None  # what was asked and not answered yet; text is "" for /resume
        )
        self._turn_id: str | None = None
        self._said = ""  # of the answer that is being shown
        self._resumable = False

    async def run(self) -> int:
        """Talk until one side leaves; the exit code."""
        loop = asyncio.get_running_loop()
        if self._terminal.interactive:
            loop.add_signal_handler(signal.SIGINT, self._interrupt)
        lines = self._terminal.lines()
        connecting = asyncio.create_task(self._stay_connected())
        reading = asyncio.create_task(self._read(lines))
        try:
            await asyncio.wait([connecting, reading], return_when=asyncio.FIRST_COMPLETED)
            for task in (connecting, reading):
                if task.done():
                    task.result()  # what went wrong
        finally:
            self._leaving = True
            for task in (connecting, reading):
                task.cancel()
            await asyncio.wait([connecting, reading])
            self._terminal.end_answer()
        return 1 if self._failed else 0

    # --- the connection ------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
        from websockets.typing import Subprotocol

        tries = 0
        address = "ws" + self._url.removeprefix("http") + "/api/live"
        while not self._leaving:
            try:
                async with connect(
                    address,
                    subprotocols=[Subprotocol("samvad.v1")],
                    additional_headers=self._headers(),
                    open_timeout=_OPEN_S,
                    max_size=None,
                ) as socket:
                    self._socket = socket
                    await self._send(self._first_frame())
                    async for data in socket:
                        if isinstance(data, str):
                            self._take(json.loads(data))
                            if self._ready.is_set():
                                tries = 0
                code = socket.close_code or 1006
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd is not None else 1006
            except InvalidStatus as refused:
                code = _REFUSED.get(refused.response.status_code, 1006)
            except (OSError, TimeoutError, InvalidHandshake) as error:
                code = 1006
                if self._session is None and tries == 0 and not isinstance(error, TimeoutError):
                    self._terminal.note(f"The server at {self._url} cannot be reached; trying again …")
            self._socket = None
            self._ready.clear()
            if self._leaving:
                return
            if code in _FINAL:
                self._failed = self._failed or code not in _QUIET_ENDS
                if _FINAL[code]:
                    self._terminal.note(_FINAL[code])
                return
            tries += 1
            if tries > _RETRIES_MAX:
                self._failed = True
                self._terminal.note("The server cannot be reached.")
                return
            if self._session is not None and tries == 1:
                self._terminal.note("(the connection was lost; trying again …)")
            await asyncio.sleep(min(_RETRY_S_MIN * 2**tries, _RETRY_S_MAX) * random.uniform(0.5, 1))

    def _headers(self) -> dict[str, str]:
        token = self._token()
        return {} if token is None else {"Authorization": f"Bearer {token}"}

    def _first_frame(self) -> dict[str, Any]:
        first: dict[str, Any] = {"type": "start_session", "userId": self._user_id, **self._start}
        if self._session is not None:
            first["sessionId"] = self._session["sessionId"]
            first["resume"] = {key: self._session[key] for key in ("token", "epoch", "lastSeq")}
        return first

    async def _send(self, frame: dict[str, Any]) -> None:
        from websockets.exceptions import ConnectionClosed

        if self._socket is not None:
            with contextlib.suppress(ConnectionClosed):  # said again once there is a connection
                await self._socket.send(json.dumps(frame))

    # --- what the user does --------------------------------------------------------------------------------

    async def _read(self, lines: asyncio.Queue[str | None]) -> None:
        await self._ready.wait()
        while True:
            if self._idle.is_set():
                self._terminal.prompt()
            line = await lines.get()
            self._terminal.entered()
            self._warned = False
            if line is None or line.strip() in ("/quit", "/exit"):
                break
            if line.strip():
                await self._enter(line.strip())
                if not self._terminal.interactive:
                    await self._idle.wait()
        if not self._terminal.interactive:
            await self._idle.wait()
        self._leaving = True
        if self._socket is not None:
            await self._send({"type": "end_session"})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._socket.wait_closed(), _OPEN_S / 2)

    async def _enter(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if not line.startswith("/"):
            await self._ready.wait()
            await self._ask({"text": line, "id": uuid7(self._clock.now_ms())})
        elif command == "/resume":
            await self._ready.wait()
            if self._resumable:
                await self._ask({"text": "", "id": ""})
            else:
                self._terminal.note("There is nothing to go on with.")
        elif command == "/language" and rest.strip():
            self._start["language"] = rest.strip()
            await self._send({"type": "set_language", "language": rest.strip()})
        elif command == "/history":
            await self._show_history()
        else:
            if command not in ("/help", "/language"):
                self._terminal.note(f"There is no {command}; there is:")
            self._terminal.note(_HELP)

    async def _ask(self, asked: dict[str, str]) -> None:
        self._idle.clear()
        frame: dict[str, Any] = (
            {"type": "user_text", **asked} if asked["text"] else {"type": "resume_interruption"}
        )
        if asked["text"] and self._turn_id is not None:
            frame["playedChars"] = len(self._said)
        self._waits_for = asked
        self._resumable = self._resumable and bool(asked["text"])
        await self._send(frame)

    def _interrupt(self) -> None:
        """Ctrl-C."""
        if self._turn_id is not None or not self._idle.is_set():
            self._spawned = asyncio.ensure_future(
                self._send({"type": "interrupt", "playedChars": len(self._said)})
            )
        elif self._warned:
            self._leaving = True
            if self._socket is not None:
                self._spawned = asyncio.ensure_future(self._socket.close())
        else:
            self._warned = True
            self._terminal.note("")
            self._terminal.note("(Ctrl-C again, Ctrl-D or /quit to leave)")
            self._terminal.prompt()

    async def _show_history(self) -> None:
        try:
            messages = await asyncio.to_thread(self._history)
        except (OSError, ValueError) as error:
            self._terminal.note(f"The history could not be read: {error}")
            return
        for message in messages:
            who = self._user_id if message["role"] == "user" else message["role"]
            cut = " …" if message.get("interrupted") else ""
            self._terminal.message(who, message["content"] + cut)
        if not messages:
            self._terminal.note("Nothing has been said yet.")

    def _history(self) -> list[dict[str, Any]]:
        from urllib.request import Request, urlopen

        path = f"/api/session/{quote(self._user_id, safe='')}/history?limit={_HISTORY_MESSAGES}"
        request = Request(self._url + path, headers={"accept": "application/json", **self._headers()})  # noqa: S310  the URL is http(s)
        with urlopen(request, timeout=_OPEN_S) as answer:  # noqa: S310
            messages: list[dict[str, Any]] = json.loads(answer.read())["messages"]
            return messages

    # --- what the server says ------------------------------------------------------------------------------

    def _take(self, frame: dict[str, Any]) -> None:
        seq = frame.get("seq")
        if self._session is not None and isinstance(seq, int):
            self._session["lastSeq"] = max(self._session["lastSeq"], seq)
        handler = getattr(self, "_on_" + str(frame.get("type")), None)
        if handler is not None:
            handler(frame)

    def _on_session_started(self, frame: dict[str, Any]) -> None:
        again = self._session is not None
        self._session = {
            "sessionId": frame["sessionId"],
            "token": frame["resumeToken"],
            "epoch": frame["epoch"],
            "lastSeq": frame["seq"],
        }
        self._resumable = bool(frame.get("interruption"))
        if again:
            return
        if self._terminal.interactive:
            self._terminal.note(f"Talking as {self._user_id}; /help lists what there is.")
        if frame.get("welcome"):
            self._terminal.note(frame["welcome"])
        if self._resumable and self._terminal.interactive:
            self._terminal.note("(the last answer was interrupted: /resume goes on with it)")

    def _on_session_ready(self, frame: dict[str, Any]) -> None:
        self._ready.set()
        asked = self._waits_for
        if asked is None:
            return
        # The line dropped in the middle of an answer: go on with it, or ask again (the same id is the same message).
        if self._said and self._resumable:
            asked = {"text": "", "id": ""}
        self._turn_id, self._said = None, ""
        if asked["text"] or self._resumable:
            self._spawned = asyncio.ensure_future(self._ask(asked))
        else:
            self._done()

    def _on_resume_token(self, frame: dict[str, Any]) -> None:
        if self._session is not None:
            self._session["token"] = frame["resumeToken"]

    def _on_text_chunk(self, frame: dict[str, Any]) -> None:
        if frame["turnId"] != self._turn_id:
            self._terminal.end_answer()
            self._turn_id, self._said = frame["turnId"], ""
            self._idle.clear()
        self._said += frame["text"]
        self._terminal.say(frame["text"])

    def _on_transcript(self, frame: dict[str, Any]) -> None:
        if frame["role"] == "assistant" and frame.get("turnId") and frame["text"]:
            self._on_text_chunk(frame)

    def _on_interrupted(self, frame: dict[str, Any]) -> None:
        if frame["turnId"] == self._turn_id:
            self._resumable = frame["canResume"]
            more = "; /resume goes on with it" if frame["canResume"] else ""
            self._terminal.note(f"(interrupted{more})")

    def _on_turn_complete(self, frame: dict[str, Any]) -> None:
        shown = frame["turnId"] == self._turn_id
        asked = self._waits_for
        if shown:
            self._terminal.end_answer()
            self._turn_id, self._said = None, ""
        if asked is None or asked["id"] in frame["messageIds"] or (shown and not asked["id"]):
            self._done()

    def _done(self) -> None:
        self._waits_for = None
        self._idle.set()
        if not self._leaving:
            self._terminal.prompt()

    def _on_message(self, frame: dict[str, Any]) -> None:
        message = frame["message"]
        if message["role"] not in ("user", "assistant"):
            return
        if self._waits_for is not None and message.get("sessionId") == (self._session or {}).get("sessionId"):
            # Kept while the line was down: what was shown of it already is not shown again.
            if message["role"] == "assistant" and message["content"].startswith(self._said.strip()):
                self._terminal.say(message["content"][len(self._said.strip()) :])
                if not message.get("interrupted"):
                    self._terminal.end_answer()
                    self._turn_id, self._said = None, ""
                    self._done()
            return
        who = f"{self._user_id} (elsewhere)" if message["role"] == "user" else "assistant (elsewhere)"
        self._terminal.message(who, message["content"])
        if self._idle.is_set():
            self._terminal.prompt()

    def _on_gap(self, frame: dict[str, Any]) -> None:
        self._terminal.note(
            f"(messages {frame['from']} to {frame['to']} are not shown; /history has the last ones)"
        )

    def _on_language_changed(self, frame: dict[str, Any]) -> None:
        if self._terminal.interactive:
            self._terminal.note(f"(language: {frame['language']})")
            if self._idle.is_set():
                self._terminal.prompt()

    def _on_warning(self, frame: dict[str, Any]) -> None:
        self._terminal.note(frame["message"])

    def _on_error(self, frame: dict[str, Any]) -> None:
        if frame["code"] == "invalid_resume_token" and self._session is not None:
            session_id = self._session["sessionId"]
            self._session = None  # as if it were new: the history has what was missed
            self._start["sessionId"] = session_id
            self._spawned = asyncio.ensure_future(self._send(self._first_frame()))
            return
        self._terminal.note(frame["message"])
        if not self._ready.is_set():  # it does not even begin
            self._failed = self._leaving = True
            if self._socket is not None:
                self._spawned = asyncio.ensure_future(self._socket.close())
        elif not frame["retryable"] and self._turn_id is None:
            self._failed = self._failed or not self._terminal.interactive
            self._done()
