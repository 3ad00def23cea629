"""The fake server itself: the port, who may connect, which conversations there are and by what handles they go on."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from samvad.testing.certificate import Certificate, make_certificate
from samvad.testing.gemini import wire
from samvad.testing.gemini.connection import Answerer, Connection
from samvad.testing.gemini.credentials import TokenEndpoint
from samvad.testing.gemini.script import Say, Step, UserTurn

if TYPE_CHECKING:
    from websockets.asyncio.server import Server, ServerConnection
    from websockets.http11 import Request, Response

API_KEY_PATH: Final = "/ws/google.ai.generativelanguage.{}.GenerativeService.BidiGenerateContent"
VERTEX_PATH: Final = "/ws/google.cloud.aiplatform.{}.LlmBidiService/BidiGenerateContent"
VERSIONS: Final = ("v1alpha", "v1beta", "v1beta1", "v1")


class Refusal(NamedTuple):
    """How a set-up is refused: the code and reason of the close."""

    code: int
    reason: str = ""


class FakeGeminiLive:
    """A Gemini Live server on this machine; an async context manager.

    `handles` says when the server offers a handle: `after` or `before` `turnComplete`, or `never`.
    `answer` replies to turns for which no script waits: it gets the `UserTurn` and gives steps, or a text.
    """

    def __init__(
        self, *, answer: Answerer | None = None, handles: Literal["after", "before", "never"] = "after"
    ) -> None:
        self.handles = handles
        self.answer = answer
        self.connections: list[Connection] = []
        self.upgrades_refused = 0
        self.setups_refused = 0
        self.port = 0
        self.certificate: Certificate
        self.tokens = TokenEndpoint()
        self._script: deque[Sequence[Step]] = deque()
        self._kept: dict[str, tuple[str, list[tuple[str, str]]]] = {}
        self._refuse_upgrades: deque[int] = deque()
        self._refuse_setups: deque[Refusal] = deque()
        self._unanswered_setups = 0
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._server: Server | None = None

    # --- for clients ---------------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """Where it listens: what GOOGLE_GEMINI_BASE_URL or GOOGLE_VERTEX_BASE_URL must be."""
        return f"https://localhost:{self.port}"

    def http_options(self, api_version: str = "v1beta") -> dict[str, Any]:
        """What Google's client must be given as `http_options` to come here."""
        return {
            "base_url": self.base_url,
            "api_version": api_version,
            "async_client_args": {"ssl": self.certificate.client_context()},
        }

    def environment(self, mode: Literal["gemini", "vertex"]) -> dict[str, str]:
        """The variables by which a program that knows nothing of tests comes here, in that mode."""
        trusted = {"SSL_CERT_FILE": str(self.certificate.certificate_file)}
        if mode == "gemini":
            return {**trusted, "GOOGLE_GEMINI_BASE_URL": self.base_url, "GEMINI_API_KEY": "no-real-key"}
        return {
            **trusted,
            "GOOGLE_VERTEX_BASE_URL": self.base_url,
            "GOOGLE_CLOUD_PROJECT": "demo-project",
            "GOOGLE_CLOUD_LOCATION": "us-central1",
            "GOOGLE_APPLICATION_CREDENTIALS": str(self.tokens.credentials_file),
        }

    # --- for tests -----------------------------------------------------------------------------------------

    def reply(self, *steps: Step | str) -> None:
        """What the next user's turn for which nothing waits yet is answered with; a text is said."""
        self._script.append([Say(step) if isinstance(step, str) else step for step in steps])

    def refuse_upgrade(self, status: int = 403, times: int = 1) -> None:
        """Answer the next connections with this HTTP status."""
        self._refuse_upgrades.extend([status] * times)

    def refuse_setup(self, code: int = 1011, reason: str = "", times: int = 1) -> None:
        """Close the next connections with this code, instead of `setupComplete`."""
        self._refuse_setups.extend([Refusal(code, reason)] * times)

    def leave_setup_unanswered(self, times: int = 1) -> None:
        """Take the next setups and never answer them."""
        self._unanswered_setups += times

    def expire_handles(self) -> None:
        """Every handle given so far is refused from now on, with 1007."""
        self._kept.clear()

    @property
    def open_connections(self) -> list[Connection]:
        """Those that are set up and not closed."""
        return [each for each in self.connections if each.is_open]

    # --- for connections -----------------------------------------------------------------------------------

    def steps_for(self, connection: Connection, turn: UserTurn) -> Sequence[Step]:
        """What this turn is answered with."""
        if self._script:
            return self._script.popleft()
        given = self.answer(turn) if self.answer else f"You said: {turn.text}"
        return [Say(given)] if isinstance(given, str) else given

    def keep(self, conversation: str, memory: list[tuple[str, str]]) -> str:
        """A handle for the conversation as it stands."""
        handle = uuid.uuid4().hex
        self._kept[handle] = (conversation, list(memory))
        return handle

    async def set_up(self, connection: Connection, frame: wire.Json) -> bool:
        """Begin or go on with a conversation; False where the connection was refused."""
        connection.setup = wire.field(frame, "setup") or {}
        refusal = self._refusal(connection)
        if self._unanswered_setups and refusal is None:
            self._unanswered_setups -= 1
            await connection.gone()
            return False
        if refusal is not None:
            self.setups_refused += 1
            await connection.close(refusal.code, refusal.reason)
            return False
        self.connections.append(connection)
        return True

    def _refusal(self, connection: Connection) -> Refusal | None:
        """Why this setup is refused, if it is; else its conversation is found or made."""
        if self._refuse_setups:
            return self._refuse_setups.popleft()
        if not wire.field(connection.setup, "model"):
            return Refusal(1007, "the first message must be a setup with a model")
        handle = wire.field(connection.setup, "session_resumption", "handle")
        if not handle:
            connection.conversation = uuid.uuid4().hex
            return None
        if handle not in self._kept:
            return Refusal(1007, "BidiGenerateContent session expired")
        conversation, memory = self._kept[handle]
        if any(each.conversation == conversation for each in self.open_connections):
            return Refusal(1011, "the conversation has a connection already")
        connection.resumed_with = handle
        connection.conversation = conversation
        connection.memory = list(memory)
        return None

    # --- the port ------------------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Listen on a free port."""
        from websockets.asyncio.server import serve

        self._directory = tempfile.TemporaryDirectory(prefix="samvad-fake-gemini-")
        directory = Path(self._directory.name)
        self.certificate = make_certificate(directory)
        await self.tokens.start(directory)
        self._server = await serve(
            self._handle,
            "127.0.0.1",
            0,
            ssl=self.certificate.server_context(),
            process_request=self._admit,
            max_size=None,
            ping_interval=None,
            close_timeout=1,
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        return self

    async def stop(self) -> None:
        """Break off all connections and stop listening."""
        if self._server is not None:
            for connection in self.open_connections:
                connection.abort()
            self._server.close()
            await self._server.wait_closed()
            self._server = None
        await self.tokens.stop()
        if self._directory is not None:
            self._directory.cleanup()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _handle(self, socket: ServerConnection) -> None:
        path = urlsplit(socket.request.path).path if socket.request else ""
        await Connection(self, socket, path).converse()

    def _admit(self, socket: ServerConnection, request: Request) -> Response | None:
        """The HTTP answer to an upgrade that is refused."""
        status, message = self._judge(urlsplit(request.path).path, request.headers)
        if status == HTTPStatus.SWITCHING_PROTOCOLS:
            return None
        self.upgrades_refused += 1
        return socket.respond(HTTPStatus(status), json.dumps({"error": {"code": status, "message": message}}))

    def _judge(self, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        if self._refuse_upgrades:
            return self._refuse_upgrades.popleft(), "refused, as the test has asked"
        if path in {API_KEY_PATH.format(version) for version in VERSIONS}:
            known = bool(headers.get("x-goog-api-key"))
            return (101, "") if known else (403, "there is no x-goog-api-key")
        if path in {VERTEX_PATH.format(version) for version in VERSIONS}:
            known = headers.get("Authorization", "").startswith("Bearer ") or "x-goog-api-key" in headers
            return (101, "") if known else (401, "there is no Authorization: Bearer")
        return 404, f"there is nothing at {path}"
