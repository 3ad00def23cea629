"""Traces: parents right from HTTP through the service to the store, flushes linked to who wrote, and nobody's words."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from samvad import logs, open_samvad, tracing
from samvad.http.app import create_app
from samvad.live.tools import ToolContext, ToolRegistry
from samvad.stores.memory import MemoryStore
from samvad.testing.scripted import Call, Say, ScriptedProvider, Wait
from tests.cli.processes import environment
from tests.http.support import Api
from tests.journaled.faulty import FaultyStore
from tests.journaled.support import drained, opened
from tests.live.support import Client, talking
from tests.support import wait_until_async
from tests.tracing.support import Spans, traced

pytestmark = pytest.mark.anyio
CANARY, USER = "canary-77a1", "asha.canary@example.org"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FROM_OUTSIDE = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
def spans() -> Iterator[Spans]:
    """Traces are on."""
    with traced() as found:
        yield found


async def test_from_http_to_the_store(spans: Spans, tmp_path: Path) -> None:
    """One trace, the caller's: the request, the verb below it, the calls to the store below that."""
    async with open_samvad(f"sqlite:///{tmp_path}/samvad.db") as samvad:
        api = Api(samvad, create_app(samvad))
        body = {"role": "user", "content": CANARY}
        answer = await api.post(f"/api/session/{USER}/history", body, headers=FROM_OUTSIDE)
        assert answer.status == 200
        request = spans.one("POST /api/session/{userId}/history")
        assert f"{request.context.trace_id:032x}" == TRACE
        assert request.parent is not None and f"{request.parent.span_id:016x}" == PARENT
        assert request.kind.name == "SERVER"
        assert dict(request.attributes) == {
            "http.request.method": "POST",
            "http.response.status_code": 200,
            "http.route": "/api/session/{userId}/history",
            "url.scheme": "http",
            "network.protocol.version": "1.1",
            "samvad.request.id": answer.headers["x-request-id"],
            "enduser.pseudo.id": logs.user_hash("default", USER),
        }
        commit = spans.one("commit sqlite")
        assert spans.path(commit) == [request.name, "session append_many", "commit sqlite"]
        assert spans.path(spans.one("load sqlite")) == [request.name, "session append_many", "load sqlite"]
        assert commit.kind.name == "CLIENT"
        assert commit.attributes["db.system.name"] == "sqlite"
        assert commit.attributes["db.operation.name"] == "commit"
        assert all(span.context.trace_id == request.context.trace_id for span in spans.all())
        assert (await api.get(f"/api/session/{USER}/profile")).status == 200
        again = spans.one("GET /api/session/{userId}/profile")
        assert again.parent is None and again.context.trace_id != request.context.trace_id
    assert spans.text().count(CANARY) == spans.text().count("asha") == 0


async def test_refusals_and_failures(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the caller did wrong is no error of the server's; what failed has its code, and no words."""
    async with open_samvad("memory://") as samvad:
        api = Api(samvad, create_app(samvad))
        assert (await api.get(f"/api/session/{USER}/state")).status == 404
        assert (await api.get("/nowhere")).status == 404
        store: Any = samvad.store

        async def down(*args: Any, **more: Any) -> Any:
            raise OSError(f"{CANARY} {USER}")

        monkeypatch.setattr(samvad.core.lanes, "read", down)
        await api.app(
            {
                "type": "http",
                "method": "BREW",
                "path": "/",
                "raw_path": b"/",
                "headers": [],
                "query_string": b"",
            },
            lambda: asyncio.sleep(0, {"type": "http.request"}),
            lambda message: asyncio.sleep(0),
        )
        assert store is samvad.store
        scope = {"method": "GET", "path": f"/api/session/{USER}/state"}
        await api.app(
            {"type": "http", "raw_path": scope["path"].encode(), "headers": [], "query_string": b"", **scope},
            lambda: asyncio.sleep(0, {"type": "http.request"}),
            lambda message: asyncio.sleep(0),
        )
    missing, failed = spans.named("GET /api/session/{userId}/state")
    assert missing.status.status_code.name == "UNSET"
    assert missing.attributes["http.response.status_code"] == 404
    assert spans.one("GET").attributes.get("http.route") is None
    assert spans.one("HTTP").attributes["http.request.method"] == "_OTHER"
    assert failed.status.status_code.name == "ERROR"
    assert failed.status.description is None and not failed.events
    assert failed.attributes["error.type"] == "500"
    verb = next(s for s in spans.named("session read_user") if s.attributes.get("error.type"))
    assert verb.attributes["error.type"] == "OSError"
    assert spans.text().count(CANARY) == spans.text().count("asha") == 0


async def test_a_flush_is_linked_to_the_requests_that_wrote(spans: Spans, tmp_path: Path) -> None:
    """It is a trace of its own: it belongs to several requests, which were answered long before."""
    store = FaultyStore(MemoryStore())
    await store.store.open()
    async with opened(store, tmp_path / "journal") as samvad:
        api = Api(samvad, create_app(samvad))
        path = f"/api/session/{USER}/history"
        await api.post(path, {"role": "user", "content": CANARY})
        await drained(samvad)
        store.hang()
        for content in ("two", "three", "four"):
            await api.post(path, {"role": "user", "content": content}, headers=FROM_OUTSIDE)
        store.release()
        await drained(samvad)
    flushes = spans.named("flush")
    linked = [(link.context.trace_id, link.context.span_id) for span in flushes for link in span.links]
    wrote = [(s.context.trace_id, s.context.span_id) for s in spans.named("session append_many")]
    assert sorted(linked) == sorted(wrote) and len(wrote) == 4
    assert max(len(span.links) for span in flushes) >= 2  # what waited together went together
    for span in flushes:
        assert span.parent is None
        assert span.attributes["enduser.pseudo.id"] == logs.user_hash("default", USER)
    assert [spans.path(s) for s in spans.named("commit memory")] == [["flush", "commit memory"]] * len(
        flushes
    )
    assert [spans.path(s) for s in spans.named("journal append")] == [
        ["POST /api/session/{userId}/history", "session append_many", "journal append"]
    ] * 4
    assert spans.text().count(CANARY) == spans.text().count("asha") == 0


async def test_a_live_turn(spans: Spans) -> None:
    """The turn, the model's part and its tool; what is kept of it below the turn. Never what was said."""
    tools = ToolRegistry()

    async def look_up(context: ToolContext) -> str:
        """Look it up."""
        return CANARY

    tools.register(look_up)
    script = {"hello": [Call("c1", "look_up", {}), Say(CANARY)], "more": [Say("well "), Wait(), Say(CANARY)]}
    async with talking(ScriptedProvider(script), tools=tools) as (live, samvad):
        client = Client(live)
        await client.start(userId=USER, sessionId=f"{USER}'s")
        client.say("hello")
        await client.next("turn_complete")
        client.say("more")
        await client.next("text_chunk")
        client.send({"type": "interrupt"})
        await client.next("interrupted")

        async def kept() -> bool:
            return (await samvad.page_history(USER)).messages[-1].content == "well"

        await wait_until_async(kept, "what was heard is kept")
        await client.leave()
    first, second = spans.named("invoke_agent samvad")
    told = {
        "gen_ai.provider.name": "samvad.scripted",
        "gen_ai.conversation.id": tracing.conversation_hash("default", f"{USER}'s"),
        "enduser.pseudo.id": logs.user_hash("default", USER),
    }
    outcome = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "samvad"}
    assert dict(first.attributes) == told | outcome | {"samvad.turn.outcome": "complete"}
    assert dict(second.attributes) == told | outcome | {"samvad.turn.outcome": "interrupted"}
    chats = spans.named("chat scripted")
    assert [spans.parent(chat) for chat in chats] == [first, second]
    for chat in chats:
        assert chat.attributes["gen_ai.operation.name"] == "chat"
        assert chat.attributes["samvad.first_piece.seconds"] >= 0
    tool = spans.one("execute_tool look_up")
    assert spans.parent(tool) is first and tool.attributes["gen_ai.tool.name"] == "look_up"
    for append in spans.named("session append_many"):
        assert spans.path(append) == ["invoke_agent samvad", "session append_many"]
    commits = [spans.path(s) for s in spans.named("commit memory")]
    assert ["invoke_agent samvad", "session append_many", "commit memory"] in commits
    assert spans.text().count(CANARY) == spans.text().count("asha") == 0


async def test_a_tools_name_that_the_model_made_up(spans: Spans) -> None:
    """It may be anything, so it is not told; that something is wrong is."""
    script = {"hello": [Call("c1", CANARY, {}), Say("Well.")]}
    async with talking(ScriptedProvider(script)) as (live, _):
        client = Client(live)
        await client.start()
        client.say("hello")
        await client.next("turn_complete")
        await client.leave()
    assert spans.one("execute_tool _OTHER").status.status_code.name == "ERROR"
    assert CANARY not in spans.text()


async def test_documents(spans: Spans, tmp_path: Path) -> None:
    """A search is a retrieval; what was searched for is not told."""
    async with open_samvad(f"sqlite:///{tmp_path}/samvad.db") as samvad:
        await samvad.knowledge.add_text("Greeting", f"How to greet a {CANARY}.")
        await samvad.knowledge.search(CANARY)
    found = spans.one("retrieval samvad.knowledge")
    assert found.attributes["gen_ai.operation.name"] == "retrieval"
    assert CANARY not in spans.text()


async def test_a_framework_around_us_is_the_parent(spans: Spans) -> None:
    """It has taken `traceparent` from the same request already."""
    async with open_samvad("memory://") as samvad:
        api = Api(samvad, create_app(samvad))
        with tracing.spanning("around"):
            await api.get("/healthz", headers=FROM_OUTSIDE)
    assert spans.path(spans.one("GET /healthz")) == ["around", "GET /healthz"]


async def test_log_lines_name_the_trace(spans: Spans) -> None:
    """Those of a request, so that one leads to the other."""
    seen: list[dict[str, str]] = []
    async with open_samvad("memory://") as samvad:
        app = create_app(samvad)

        def note(route: str, status: int, seconds: float) -> None:
            under_way = logs.context.get()
            assert under_way is not None
            seen.append(under_way.log_fields())

        app.access_log = note
        await Api(samvad, app).get("/healthz", headers=FROM_OUTSIDE)
    assert [fields["trace"] for fields in seen] == [TRACE]


OFF = """
import asyncio, sys
from samvad import open_samvad
from samvad.http.app import create_app
async def main():
    async with open_samvad("memory://") as samvad:
        await samvad.append_to_user_history("asha", "user", "Hello")
    print(sorted(name for name in sys.modules if name.startswith("opentelemetry")))
asyncio.run(main())
"""

ADOPTED = """
import asyncio, json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from samvad import open_samvad
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
async def main():
    async with open_samvad("memory://") as samvad:
        with trace.get_tracer("mine").start_as_current_span("mine"):
            await samvad.append_to_user_history("asha", "user", "Hello")
asyncio.run(main())
found = exporter.get_finished_spans()
names = {span.context.span_id: span.name for span in found}
print(json.dumps([[span.name, span.parent and names[span.parent.span_id]] for span in found]))
"""


def output_of(program: str) -> str:
    """What a Python program prints, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True
    ).stdout


def test_nobody_asked_for_traces() -> None:
    """Nothing of OpenTelemetry is imported."""
    assert output_of(OFF) == "[]\n"


def test_the_application_has_its_own_provider() -> None:
    """Then the library makes spans with it, without being told to, below the application's own."""
    assert json.loads(output_of(ADOPTED)) == [
        ["load memory", "session append_many"],
        ["commit memory", "session append_many"],
        ["session append_many", "mine"],
        ["mine", None],
    ]
