"""Whatever a client sends is answered by a typed error or carried out: no crash, no leak, no other user's data."""

from __future__ import annotations

import asyncio
import gc
import json
import string
from pathlib import Path

import anyio
import hypothesis
import pytest
import websockets
from hypothesis import strategies as st

from samvad.live.parts import LiveOptions
from samvad.testing.scripted import ALL, Say, ScriptedProvider, Speak, Wait
from tests.cli.processes import Server
from tests.live.support import START, Client, dialled, talking
from tests.support import SOAK, wait_until_async

pytestmark = pytest.mark.anyio

KNOWN = (
    "start_session",
    "user_text",
    "activity_start",
    "activity_end",
    "interrupt",
    "playback",
    "resume_interruption",
    "set_language",
    "ping",
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "text": st.text(max_size=40) | ANY_JSON,
        "id": st.text(max_size=300) | ANY_JSON,
        "language": st.sampled_from(["hi", "auto", "xx-YY"]) | ANY_JSON,
        "playedMs": st.floats() | st.integers() | ANY_JSON,
        "playedChars": st.integers() | ANY_JSON,
        "userId": st.sampled_from(["user_456", "other", "../x"]) | ANY_JSON,
        "sessionId": ANY_JSON,
        "resume": ANY_JSON,
        "finished": st.booleans() | ANY_JSON,
        "clientActivity": ANY_JSON,
    },
)
FRAMES = st.one_of(
    st.builds(lambda kind, fields: json.dumps({**fields, "type": kind}), st.sampled_from(KNOWN), FIELDS),
    st.builds(lambda kind, fields: json.dumps({**fields, "type": kind}), ANY_JSON, FIELDS),
    ANY_JSON.map(json.dumps),
    st.text(max_size=60),
    st.text(string.printable, max_size=60).map(lambda text: '{"type":"user_text","text":' + text),
    st.binary(max_size=200),
    st.just("[" * 5_000),
    st.just(json.dumps({"type": "user_text", "text": "x" * 70_000})),
    st.just('{"type":"user_text","text":"\\ud800"}'),
    st.just(bytes(70_000)),
)


async def attacked(frames: list[str | bytes]) -> None:
    """Send these frames into a conversation, and see that it still works, and that the neighbour is untouched."""
    provider = ScriptedProvider({"": [Say("Fine. "), Speak("Really.", 20)]}, capabilities=ALL)
    async with talking(provider) as (live, samvad):
        await samvad.append_to_user_history("other", "user", "the neighbour's secret")
        client = Client(live)
        await client.start()
        for frame in frames:
            client.send(frame)
        client.send({"type": "ping"})
        if client.connection.errors_left > len(frames):
            await client.next("pong")
            client.say("are you still there?", id="the-last")
            while "the-last" not in (await client.next("turn_complete"))["messageIds"]:
                pass
        await client.leave()
        for frame in client.seen:
            assert frame["type"] != "error" or {"code", "message", "retryable"} <= frame.keys()
            assert frame.get("code") != "internal"
            assert "secret" not in json.dumps(frame)
        assert (await samvad.get_user_profile("other")).history_length == 1
        assert not live.connections


@hypothesis.settings(max_examples=100 if not SOAK else 5_000)
@hypothesis.given(st.lists(FRAMES, max_size=4))
def test_hostile_frames(frames: list[str | bytes]) -> None:
    """Some hundreds of random frames, of which many are nearly right."""
    anyio.run(attacked, frames)


@pytest.mark.soak
@hypothesis.settings(max_examples=5_000)
@hypothesis.given(st.lists(FRAMES, min_size=4, max_size=4))
def test_twenty_thousand_hostile_frames(frames: list[str | bytes]) -> None:
    """The same, 20,000 of them."""
    anyio.run(attacked, frames)


async def test_too_many_errors_end_the_connection() -> None:
    """A client that sends nothing but nonsense is not listened to for ever."""
    async with talking(ScriptedProvider({})) as (live, _):
        client = Client(live)
        await client.start()
        for _number in range(100):
            client.send("nonsense")
        assert (await client.next("session_ended"))["reason"] == "too_many_errors"
        await asyncio.wait_for(client.task, 10)
        assert client.pipe.closed == (4006, "too_many_errors")


async def test_nothing_works_before_the_start() -> None:
    """Every frame but the first is refused, and says what to do."""
    async with talking(ScriptedProvider({})) as (live, _):
        client = Client(live)
        for frame in (
            {"type": "user_text", "text": "x"},
            {"type": "resume_interruption"},
            {"type": "end_session"},
        ):
            client.send(frame)
            assert "start_session" in (await client.next("error"))["message"]
        client.send({**START, "userId": "a/b"})
        assert (await client.next("error"))["code"] == "invalid_id"
        await client.start()
        client.send(START)
        assert (await client.next("error"))["code"] == "invalid_frame"
        await client.leave()


async def test_another_users_session_cannot_be_taken() -> None:
    """A session id belongs to its user, by this door too."""
    async with talking(ScriptedProvider({})) as (live, samvad):
        await samvad.save_session("session_123", "somebody")
        client = Client(live)
        client.send(START)
        assert (await client.next("error"))["code"] == "session_taken"
        await client.leave()


async def test_a_slow_reader_is_cut_off_and_can_resume() -> None:
    """What waits for it is bounded; it is told why, and misses nothing when it comes back."""
    provider = ScriptedProvider({"": [*[Say("x" * 1_000) for _ in range(200)]]})
    async with talking(provider, outbox_bytes_max=50_000) as (live, _):
        client = Client(live)
        started = await client.start()
        client.pipe.readable.clear()
        client.say("much, please", id="q")
        await asyncio.wait_for(client.task, 10)
        assert client.pipe.aborted
        await client.leave()
        assert not live.connections
        client = Client(live)
        place = {"token": started["resumeToken"], "epoch": started["epoch"], "lastSeq": 0}
        again = await client.start(resume=place)
        assert again["recovered"]
        told = [frame["message"]["id"] for frame in client.seen if frame["type"] == "message"]
        assert told[0] == "q" and len(told) <= 2
        await client.leave()


async def test_silence_is_warned_of_and_ends() -> None:
    """In the user's language; a word in time begins a new silence."""
    async with talking(ScriptedProvider({"": [Say("Fine.")]}), idle_s=0.4, warning_s=0.2) as (live, _):
        client = Client(live)
        await client.start(language="hi")
        warning = await client.next("warning")
        assert warning["code"] == "inactive" and warning["message"].startswith("क्या आप अभी भी यहाँ हैं?")
        client.say("हाँ, एक सवाल है")
        await client.next("turn_complete")
        await client.next("warning")
        assert (await client.next("session_ended"))["reason"] == "inactive"
        await asyncio.wait_for(client.task, 10)
        assert client.pipe.closed == (4000, "inactive")


async def test_a_conversation_does_not_last_for_ever() -> None:
    """A warning, then the end, also in the middle of talking."""
    async with talking(ScriptedProvider({}), duration_s=0.4, warning_s=0.2) as (live, samvad):
        client = Client(live)
        await client.start()
        warning = await client.next("warning")
        assert warning["code"] == "too_long" and "seconds" in warning["message"] and warning["inS"] >= 1
        assert (await client.next("session_ended"))["reason"] == "too_long"
        await asyncio.wait_for(client.task, 10)
        session = await samvad.get_session("session_123")
        assert session is not None and session.is_active, "the session itself can be opened again"


async def test_fresh_tokens_come_in_time() -> None:
    """A client that stays longer than a token is good for can still resume."""
    async with talking(ScriptedProvider({}), token_ttl_s=0.6) as (live, _):
        client = Client(live)
        await client.start()
        first = await client.next("resume_token")
        second = await client.next("resume_token")
        assert first["resumeToken"] != second["resumeToken"]
        live.tokens.check(second["resumeToken"])
        await client.leave()


# --- against a real server ---------------------------------------------------------------------------------


def memory_mib(server: Server) -> float:
    """What the server's process takes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def descriptors(server: Server) -> int:
    """How many files and sockets it has open."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


async def test_pages_of_other_sites_are_refused(tmp_path: Path) -> None:
    """A browser lets any page open a socket: only the server can say no."""
    with Server(tmp_path, "--data-dir", str(tmp_path / "data")) as server:
        host, port = server.address
        other_name = f"http://evil.example:{port}"  # which resolves to this machine
        for url, more in (
            (server.url, {"origin": "https://evil.example"}),
            (other_name, {"host": host, "port": port}),
        ):
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with dialled(url, **more):
                    pass
            assert refused.value.response.status_code == 403
            assert json.loads(refused.value.response.body)["code"] == "forbidden"
        async with dialled(server.url, origin=server.url) as line:
            await line.start()
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(server.url.replace("http", "ws", 1) + "/api/lives")
        assert refused.value.response.status_code == 404


async def test_a_flood_of_sockets_and_readers_that_never_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """150 sockets, a third of them silent, a third never reading: the server stays small, and answers others."""
    monkeypatch.setenv("SAMVAD_LIVE_IDLE_S", "600")
    with Server(tmp_path, "--data-dir", str(tmp_path / "data")) as server:
        async with dialled(server.url) as line:
            await line.start(sessionId="before", userId="before")
        before_mib, before = memory_mib(server), descriptors(server)
        address = server.url.replace("http", "ws", 1) + "/api/live"
        sockets = []
        for number in range(150):
            socket = await websockets.connect(address, max_queue=1)
            sockets.append(socket)
            if number % 3:
                asked = {"type": "start_session", "userId": f"u{number // 10}", "sessionId": f"s{number}"}
                await socket.send(json.dumps(asked))
            if number % 3 == 2:
                for _ in range(3):
                    await socket.send(json.dumps({"type": "user_text", "text": "hello " * 2_000}))
                socket.transport.pause_reading()
        async with dialled(server.url) as line:
            await line.start(sessionId="mine", userId="mine")
            await line.send({"type": "user_text", "text": "hello"})
            await line.next("turn_complete")
        assert memory_mib(server) - before_mib < 100
        for socket in sockets:
            socket.transport.abort()

        async def dismissed() -> bool:
            return descriptors(server) <= before + 2

        await wait_until_async(dismissed, "the server has let all of them go")
        assert not any("Traceback" in each for each in server.errors), server.errors


async def test_sockets_are_counted(tmp_path: Path) -> None:
    """Too many, over all or of one user, are told so."""
    async with talking(ScriptedProvider({}), sockets_per_user_max=2) as (live, _):
        clients = [Client(live) for _number in range(3)]
        for number, client in enumerate(clients[:2]):
            await client.start(sessionId=f"s{number}")
        clients[2].send({**START, "sessionId": "s3"})
        assert (await clients[2].next("error"))["code"] == "overloaded"
        for client in clients:
            await client.leave()
        assert LiveOptions().sockets_max == 2_000


async def test_nothing_is_left_behind() -> None:
    """Fifty conversations, begun, interrupted and left: no task and no conversation stays."""
    provider = ScriptedProvider({"": [Say("one "), Wait()]})
    async with talking(provider, detached_s=0.01) as (live, _):
        for number in range(50):
            client = Client(live)
            await client.start(sessionId=f"s{number}", userId=f"u{number}")
            client.say("hello")
            await client.next("text_chunk")
            await client.leave()

        async def all_gone() -> bool:
            return not live.conversations

        await wait_until_async(all_gone, "the conversations have ended")
        gc.collect()

        async def few_tasks() -> bool:
            return len(asyncio.all_tasks()) <= 4

        await wait_until_async(few_tasks, "their tasks have ended")
        assert not live.samvad.feed
        assert all(session.closed for session in provider.sessions)
