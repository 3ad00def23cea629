"""A real `samvad serve`, a real client, the default provider."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.processes import Server
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
