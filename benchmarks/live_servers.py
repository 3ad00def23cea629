"""The servers that live conversations are compared on: `python -m benchmarks.live_servers NAME DATA_DIR BASE_URL`.

`samvad` is what `samvad serve` runs, answered by a chat endpoint; `unkept` is the same, keeping nothing. `relay` hands
the pieces of OpenAI's client to Starlette's WebSocket, and does nothing else: no history, no turns, no interruptions,
no bound on what waits for a slow reader. All run under uvicorn (uvloop) and print their address when they are ready.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

MODEL = "clockwork"


def relay(base_url: str) -> Any:
    """What is written in an afternoon."""
    from openai import AsyncOpenAI
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect

    client = AsyncOpenAI(base_url=base_url, api_key="none", timeout=60)

    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                asked = await socket.receive_json()
                if asked["type"] == "start_session":
                    await socket.send_json({"type": "session_ready"})
                    continue
                said = [{"role": "user", "content": asked["text"]}]
                stream = await client.chat.completions.create(model=MODEL, messages=said, stream=True)
                async for chunk in stream:
                    text = chunk.choices[0].delta.content if chunk.choices else None
                    if text:
                        await socket.send_json({"type": "text_chunk", "text": text})
                await socket.send_json({"type": "turn_complete"})

    return Starlette(routes=[WebSocketRoute("/api/live", talk)])


def serve_relay(base_url: str) -> None:
    """Under plain uvicorn."""
    import uvicorn

    from benchmarks.http_servers import Server

    config = uvicorn.Config(
        relay(base_url), port=0, loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
    Server(config).run()


def serve_samvad(data_dir: Path, base_url: str, *, keeps: bool) -> None:
    """As `samvad serve` does it."""
    import msgspec

    from samvad.cli.serve import run
    from samvad.live import opening
    from samvad.settings import Settings

    if not keeps:
        whole = opening.LiveOptions
        opening.LiveOptions = lambda **named: msgspec.structs.replace(whole(**named), persist=False)  # type: ignore[assignment,misc]
    where = {"port": 0, "data_dir": str(data_dir), "openai_base_url": base_url}
    run(Settings(live_provider="openai", live_model=MODEL, **where))


def main() -> None:
    """Serve until killed."""
    name, data_dir, base_url = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    if name == "relay":
        serve_relay(base_url)
    else:
        serve_samvad(data_dir, base_url, keeps=name == "samvad")


if __name__ == "__main__":
    main()
