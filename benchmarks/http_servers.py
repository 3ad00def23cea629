"""The servers that are compared over HTTP, each started as `python -m benchmarks.http_servers NAME DATA_DIR`.

`bare` is Starlette and msgspec doing the same three things with none of our logic: no durability, no ids, no
checks. Both run under uvicorn (uvloop, httptools), ours with the connections of `samvad serve`, and print their
address when they are ready.
"""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class Message(msgspec.Struct):
    """A message as the bare server keeps it."""

    role: str
    content: str
    timestamp: str = ""


class Profile(msgspec.Struct, rename="camel"):
    """A profile as the bare server answers it."""

    user_id: str
    conversation_history: list[Message]
    preferences: dict[str, Any]
    history_length: int
    created_at: str
    last_updated: str


def now() -> str:
    """The time as RFC 3339, in milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def bare() -> Starlette:
    """Starlette and msgspec, nothing else."""
    states: dict[str, dict[str, Any]] = {}
    histories: dict[str, deque[Message]] = defaultdict(lambda: deque(maxlen=100))
    decode_message = msgspec.json.Decoder(Message).decode
    encode = msgspec.json.encode

    def answer(body: object) -> Response:
        return Response(encode(body), media_type="application/json")

    async def save_state(request: Request) -> Response:
        user_id = request.path_params["user_id"]
        states[user_id] = {**msgspec.json.decode(await request.body()), "updatedAt": now(), "isActive": True}
        return answer({"success": True, "message": "User state saved successfully", "userId": user_id})

    async def get_state(request: Request) -> Response:
        user_id = request.path_params["user_id"]
        return answer({"success": True, "userId": user_id, "state": states[user_id]})

    async def append(request: Request) -> Response:
        user_id = request.path_params["user_id"]
        message = decode_message(await request.body())
        message.timestamp = now()
        histories[user_id].append(message)
        return answer({"success": True, "message": "Message appended to history", "userId": user_id})

    async def get_profile(request: Request) -> Response:
        user_id = request.path_params["user_id"]
        history = list(histories[user_id])
        profile = Profile(user_id, history, {"language": "en", "voiceSpeed": 1.0}, len(history), now(), now())
        return answer({"success": True, "userId": user_id, "profile": profile})

    return Starlette(
        routes=[
            Route("/api/session/{user_id}/state", save_state, methods=["POST"]),
            Route("/api/session/{user_id}/state", get_state),
            Route("/api/session/{user_id}/history", append, methods=["POST"]),
            Route("/api/session/{user_id}/profile", get_profile),
        ]
    )


def samvad(data_dir: Path) -> None:
    """Ours as it is served: `samvad serve` on the embedded default."""
    from samvad.cli.serve import run
    from samvad.settings import Settings

    run(Settings(port=0, data_dir=str(data_dir)))


class Server(uvicorn.Server):
    """A server that says where it listens."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets=sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(f"listening on http://127.0.0.1:{port}", flush=True)


def main() -> None:
    """Serve until killed."""
    name, data_dir = sys.argv[1], Path(sys.argv[2])
    if name != "bare":
        samvad(data_dir)
        return
    config = uvicorn.Config(
        bare(),
        port=0,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        server_header=False,
    )
    Server(config).run()


if __name__ == "__main__":
    main()
