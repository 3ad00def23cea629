"""A real `samvad serve`, a real client, the default provider."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.cli.processes import WAIT_S, Server
from tests.live.support import LOANS, dialled

pytestmark = pytest.mark.anyio


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a server that answers from a folder of documents."""
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "loans.md").write_text(LOANS, encoding="utf-8")
    monkeypatch.setenv("SAMVAD_LIVE_DOCUMENTS", str(folder))
    return ["--data-dir", str(tmp_path / "data")]


async def test_a_conversation_is_in_the_history_without_the_client_asking(
    tmp_path: Path, serving: list[str]
) -> None:
    """From the socket through the default provider into the store, and out by the HTTP API."""
    with Server(tmp_path, *serving) as server:
        async with dialled(server.url) as line:
            started = await line.start()
            assert line.socket.subprotocol == "samvad.v1"
            assert started["recovered"] is False and started["history"] == []
            await line.send({"type": "user_text", "text": "What do I need for a home loan?", "id": "mine"})
            done = await line.next("turn_complete")
        said = "".join(frame["text"] for frame in line.seen if frame["type"] == "text_chunk")
        assert "identity card" in said and "(Source: Home loans)" in said
        assert done["interrupted"] is False and done["seq"] == 2 and done["messageIds"][0] == "mine"
        status, answer = server.request("GET", "/api/session/user_456/history")
        assert status == 200
        assert [m["role"] for m in answer["messages"]] == ["user", "assistant"]
        assert [m["id"] for m in answer["messages"]] == done["messageIds"]
        assert answer["messages"][1]["content"] == said.strip()
        assert answer["messages"][1]["metadata"]["citations"][0]["documentId"] == "loans.md"
        state = server.request("GET", "/api/session/user_456/state")[1]["state"]
        assert state["conversationContext"] == {"topic": "home loan", "lastIntent": "question"}
        server.signal()
        assert server.exit_code() == 0
        assert not any("rror" in line for line in server.errors), server.errors


def test_a_refused_handshake_is_no_error_of_ours(tmp_path: Path) -> None:
    """A stranger who is told 401, again and again, does not fill the log with errors."""
    ask = b"GET /api/live HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    ask += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    with Server(tmp_path, "--auth", "required", "--data-dir", str(tmp_path / "data")) as server:
        with socket.create_connection(server.address, timeout=WAIT_S) as connection:
            connection.sendall(ask)
            answer = b""
            while piece := connection.recv(65_536):
                answer += piece
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 401 ") and b'"code":"unauthenticated"' in body
        assert {b"x-content-type-options: nosniff", b"cache-control: no-store"} <= set(head.split(b"\r\n"))
        server.signal()
        assert server.exit_code() == 0
        assert not any("rror" in line for line in server.errors), server.errors
