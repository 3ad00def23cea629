"""A dropped line, another device, a killed server: nothing told twice, nothing missing, or an explicit gap."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import websockets

from samvad.live.providers import base
from samvad.live.service import LiveService
from samvad.live.tokens import InvalidResumeToken
from samvad.testing.scripted import Say, ScriptedProvider, Wait
from tests.cli.processes import Server
from tests.live.support import START, Client, dialled, talking
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio

ANSWER = "You need an identity card. You also need proof of income. The rate is eight percent."


def scripted() -> ScriptedProvider:
    """Answers `wait` in halves, anything else in one word."""
    words = [Say(f"{word} ") for word in ANSWER.split()]
    return ScriptedProvider({"wait": [*words[:6], Wait(), *words[6:]], "": [Say("Fine.")]})


def resume(started: dict[str, Any], last_seq: int, **more: Any) -> dict[str, Any]:
    """What a client sends that was here before."""
    place = {"token": started["resumeToken"], "epoch": started["epoch"], "lastSeq": last_seq, **more}
    return {"sessionId": None, "resume": place}


async def test_the_conversation_goes_on_where_the_line_dropped() -> None:
    """What came meanwhile is told once, in order; the half answer is there as interrupted, and can be resumed."""
    provider = scripted()
    async with talking(provider) as (live, samvad):
        first = Client(live)
        started = await first.start()
        first.say("hello")
        done = await first.next("turn_complete")
        first.say("wait")
        while (await first.next("text_chunk"))["text"] != "also ":
            if len([f for f in first.seen if f["type"] == "text_chunk"]) == 7:
                break
        await first.leave()
        await samvad.append_to_user_history("user_456", "user", "from the web")

        second = Client(live)
        again = await second.start(**resume(started, done["seq"]))
        assert again["recovered"] is True and "history" not in again and again["seq"] == 2
        assert again["sessionId"] == "session_123" and again["interruption"]["heardText"].startswith(
            "You need"
        )
        told = [f for f in second.seen if f["type"] == "message"]
        assert [f["seq"] for f in told] == [3, 4, 5]
        assert [f["message"]["role"] for f in told] == ["user", "assistant", "user"]
        assert told[1]["message"]["interrupted"] is True
        assert len(provider.sessions) == 1, "the provider's session was kept"
        second.send({"type": "resume_interruption"})
        done = await second.next("turn_complete")
        assert second.text_of(done["turnId"]) == "Fine.", "what was not said yet, only the model knows"
        text, note = provider.session.told[-1][1]
        assert "go on" in text and told[1]["message"]["content"] in note
        await second.leave()


async def test_what_this_connection_says_is_not_told_to_it_again() -> None:
    """Other devices' messages come as `message`, one's own do not; all seqs come in order."""
    async with talking(scripted()) as (live, samvad):
        client = Client(live)
        await client.start()
        other = Client(live)
        await other.start(sessionId="session_2")
        for number in range(10):
            client.say(f"from one {number}")
            other.say(f"from two {number}")
            await client.next("turn_complete")
            await other.next("turn_complete")
        for each in (client, other):

            def told(each: Client = each) -> list[int]:
                return [
                    f["seq"] for f in each.seen if f["type"] in ("message", "transcript", "turn_complete")
                ]

            each.send({"type": "ping"})
            await each.next("pong")
            while max(told()) < 40:
                await each.next("message")
            assert told() == sorted(told()) and set(told()) == set(range(1, 41))
            foreign = [f["message"]["content"] for f in each.seen if f["type"] == "message"]
            assert len(foreign) == len(set(foreign)) + 9, (
                "twenty of the other's: ten texts, ten times «Fine.»"
            )
        assert (await samvad.get_user_profile("user_456")).history_length == 40
        await client.leave()
        await other.leave()


async def test_the_newest_connection_has_the_session() -> None:
    """A client that comes back before the server has noticed that it was gone takes over."""
    async with talking(scripted()) as (live, _):
        first = Client(live)
        started = await first.start()
        second = Client(live)
        assert (await second.start(**resume(started, 0)))["recovered"] is True
        assert (await first.next("session_ended"))["reason"] == "taken_over"
        await asyncio.wait_for(first.task, 10)
        second.say("hello")
        await second.next("turn_complete")
        await second.leave()


async def test_a_gap_is_told_where_there_is_too_much() -> None:
    """More messages than are replayed: the rest is named, not left out in silence."""
    async with talking(scripted()) as (live, samvad):
        client = Client(live)
        started = await client.start()
        await client.leave()
        for start in range(0, 1_250, 50):
            await samvad.append_many(
                "user_456", [{"role": "user", "content": f"{n}"} for n in range(start, start + 50)]
            )
        client = Client(live)
        assert (await client.start(**resume(started, 0)))["recovered"] is True
        gap = next(f for f in client.seen if f["type"] == "gap")
        seqs = [f["seq"] for f in client.seen if f["type"] == "message"]
        assert gap["from"] == 1 and seqs == list(range(gap["to"] + 1, 1_251)) and len(seqs) >= 1_000
        await client.leave()


async def test_an_erased_user_has_another_life() -> None:
    """The epoch is another one: nothing is recovered, and the open connection was closed at once."""
    async with talking(scripted()) as (live, samvad):
        client = Client(live)
        started = await client.start()
        client.say("wait")
        while (await client.next("text_chunk"))["text"] != "You ":
            pass
        await samvad.clear_user_data("user_456")
        assert (await client.next("session_ended"))["reason"] == "erased"
        await asyncio.wait_for(client.task, 10)
        assert (await samvad.get_user_profile("user_456")).history_length == 0
        assert await samvad.get_session("session_123") is None
        client = Client(live)
        again = await client.start(**resume(started, 1))
        assert (again["recovered"], again["history"]) == (False, [])
        await client.leave()


@pytest.mark.parametrize("wrong", ["signature", "user", "session", "age", "nonsense"])
async def test_a_token_resumes_its_own_session_only(wrong: str) -> None:
    """Not another user's, not another session's, not after its time, not a made-up one."""
    async with talking(scripted(), token_ttl_s=0.3 if wrong == "age" else 900) as (live, _):
        client = Client(live)
        started = await client.start()
        await client.leave()
        asked = {**START, **resume(started, 0)}
        if wrong == "signature":
            asked["resume"]["token"] = started["resumeToken"][:-2] + "xx"
        elif wrong == "user":
            asked["userId"] = "user_457"
        elif wrong == "session":
            asked["sessionId"] = "session_124"
        elif wrong == "nonsense":
            asked["resume"]["token"] = "v1." + "x" * 500
        else:

            async def expired() -> bool:
                try:
                    live.tokens.check(started["resumeToken"])
                except InvalidResumeToken:
                    return True
                return False

            await wait_until_async(expired, "the token has expired")
        client = Client(live)
        client.send(asked)
        assert (await client.next("error"))["code"] == "invalid_resume_token"
        client.send(START)
        assert (await client.next("session_started"))["recovered"] is False
        await client.leave()


def own_ids(frames: list[dict[str, Any]]) -> list[str]:
    """Every message id that a client was told of, as often as it was told."""
    told = []
    for frame in frames:
        if frame["type"] == "message":
            told.append(frame["message"]["id"])
        elif frame["type"] == "transcript" and frame.get("messageId"):
            told.append(frame["messageId"])
        elif frame["type"] == "turn_complete":
            told += [each for each in frame["messageIds"] if each.endswith("-assistant")]
    return told


def last_seq(frames: list[dict[str, Any]], before: int) -> int:
    """The last place that a client knows."""
    return max([before, *[f["seq"] for f in frames if f.get("seq") and f["type"] != "session_started"]])


async def test_resuming_after_100_cuts_at_random_moments(tmp_path: Path) -> None:
    """A real socket, cut anywhere in the middle of anything: each message is told once, in order, none is missing."""
    rng = random.Random(20_260)
    numbers = itertools.count()
    with Server(tmp_path, "--data-dir", str(tmp_path / "data")) as server:
        address = server.url.replace("http", "ws", 1) + "/api/live"
        frames: list[dict[str, Any]] = []
        place, started = 0, None
        for cut in range(100):
            socket = await websockets.connect(address)
            asked = START if started is None else {**START, **resume(started, place)}
            await socket.send(json.dumps(asked))
            left = rng.randint(1, 14)
            sent = False
            seen: list[dict[str, Any]] = []
            while left:
                frame = json.loads(await asyncio.wait_for(socket.recv(), 20))
                seen.append(frame)
                if frame["type"] == "session_started":
                    assert frame["recovered"] is (cut > 0), (cut, frame)
                    started = frame
                if frame["type"] == "session_ready" and not sent:
                    sent = True
                    text = rng.choice(["hello", "thanks", "What do you know of loans?"])
                    await socket.send(
                        json.dumps({"type": "user_text", "text": text, "id": f"c{next(numbers)}"})
                    )
                if frame["type"] == "turn_complete":
                    break
                left -= 1
            socket.transport.abort()  # no close frame: the line is cut
            place = last_seq(seen, place)
            frames += seen
        async with dialled(server.url) as line:
            assert started is not None
            await line.start(**resume(started, place))
            await line.send({"type": "user_text", "text": "bye", "id": "last"})
            await line.next("turn_complete")
            frames += line.seen
        status, answer = server.request("GET", "/api/session/user_456/history?limit=1000")
        assert status == 200
        kept = [message["id"] for message in answer["messages"]]
        told = own_ids(frames)
        assert len(told) == len(set(told)), "no message twice"
        assert told == kept, "none missing, in order"
        assert not any(frame["type"] == "gap" for frame in frames)


async def test_a_kill_in_mid_answer_loses_nothing_that_was_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kill -9`, a new process: the question is there, and what was read of the answer but for the last second."""
    folder = tmp_path / "documents"
    folder.mkdir()
    # Sentences of forty words each: an answer of five seconds.
    (folder / "loans.md").write_text(
        "# Home loans\n\n" + f"Documents for a home loan are {'many ' * 34}.\n" * 4
    )
    monkeypatch.setenv("SAMVAD_LIVE_DOCUMENTS", str(folder))
    arguments = ["--data-dir", str(tmp_path / "data")]
    read: list[str] = []
    with Server(tmp_path, *arguments) as server:
        address = server.url.replace("http", "ws", 1) + "/api/live"
        socket = await websockets.connect(address)
        await socket.send(json.dumps(START))
        await socket.send(
            json.dumps({"type": "user_text", "text": "Which documents for a home loan?", "id": "q"})
        )
        started: dict[str, Any] = {}
        while len(read) < 80:  # past a fifth of the answer, and some checkpoints
            frame = json.loads(await asyncio.wait_for(socket.recv(), 20))
            if frame["type"] == "session_started":
                started = frame
            if frame["type"] == "text_chunk":
                read.append(frame["text"])
            assert frame["type"] != "turn_complete", "the answer is too short for this test"
        server.signal(signal.SIGKILL)
        server.exit_code()
    with Server(tmp_path, *arguments) as server:

        async def recovered() -> bool:
            answer = server.request("GET", "/api/session/user_456/history")[1]
            return len(answer["messages"]) == 2

        await wait_until_async(recovered, "the new process has brought the turn to its end, unasked")
        question, half = server.request("GET", "/api/session/user_456/history")[1]["messages"]
        assert (question["id"], question["role"]) == ("q", "user")
        assert half["role"] == "assistant" and half["interrupted"] is True
        heard, whole = half["content"], "".join(read)
        assert whole.startswith(heard)
        assert len(heard) >= len("".join(read[:-40])), "at most a second of it is lost (35 ms a word)"
        async with dialled(server.url) as line:
            again = await line.start(**resume(started, 1))
            assert again["recovered"] is True
            told = [f for f in line.seen if f["type"] == "message"]
            assert [f["message"]["id"] for f in told] == [half["id"]]
            assert again["interruption"]["heardText"] == heard
            await line.send({"type": "resume_interruption"})
            done = await line.next("turn_complete")
            said = "".join(f["text"] for f in line.seen if f["type"] == "text_chunk")
            assert said.strip().endswith(half["unheardText"])
        messages = server.request("GET", "/api/session/user_456/history")[1]["messages"]
        assert len(messages) == 3 and messages[2]["metadata"]["resumes"] == half["metadata"]["turnId"]
        assert done["seq"] == 3
        assert not any((tmp_path / "data" / "live").iterdir())


async def test_another_replica_takes_the_turn_over(tmp_path: Path) -> None:
    """A server is out of reach with a turn open: the next one stores it; when the first is back, it is there once."""
    provider = scripted()
    async with talking(provider, url="memory://", checkpoint_s=0.01) as (live, samvad):
        other = LiveService(samvad, lambda name: provider, provider="scripted")
        client = Client(live)
        await client.start()
        client.say("wait")
        while len([f for f in client.seen if f["type"] == "text_chunk"]) < 6:
            await client.next("text_chunk")

        async def checkpointed() -> bool:
            session = await samvad.get_session("session_123")
            return (
                session is not None and "income" not in str(session.extra) and "card." in str(session.extra)
            )

        await wait_until_async(checkpointed, "the turn is kept with the session")
        elsewhere = Client(other)
        started = await elsewhere.start()
        assert [m["role"] for m in started["history"]] == ["user", "assistant"]
        assert started["history"][1]["interrupted"] is True
        session = provider.sessions[0]
        session.go()
        session.emit(base.TurnDone())
        await client.next("turn_complete")
        messages = (await samvad.page_history("user_456")).messages
        assert [m.role for m in messages] == ["user", "assistant"], "the same turn is stored once"
        await client.leave()
        await elsewhere.leave()


async def test_stopping_the_server_keeps_the_half_answer(tmp_path: Path) -> None:
    """SIGTERM with a conversation under way: told, kept, exit code 0."""
    with Server(tmp_path, "--data-dir", str(tmp_path / "data")) as server:
        async with dialled(server.url) as line:
            await line.start()
            await line.send({"type": "user_text", "text": "hello"})
            await line.next("text_chunk")
            server.signal()
            with pytest.raises(websockets.ConnectionClosed):
                await line.next("never")
        assert server.exit_code() == 0
        assert not any("rror" in each for each in server.errors), server.errors
    with Server(tmp_path, "--data-dir", str(tmp_path / "data")) as server:
        messages = server.request("GET", "/api/session/user_456/history")[1]["messages"]
        assert messages[0]["content"] == "hello" and len(messages) == 2


async def test_the_user_log_is_followed_beyond_the_window() -> None:
    """A client that reads nothing for a while is sent what it missed from the store, in order."""
    async with talking(scripted(), url="memory://") as (live, samvad):
        client = Client(live)
        await client.start()
        client.pipe.readable.clear()
        for start in range(0, 300, 50):
            await samvad.append_many(
                "user_456", [{"role": "user", "content": f"{n}" * 3_000} for n in range(start, start + 50)]
            )
        client.pipe.readable.set()
        seqs = [(await client.next("message"))["seq"] for _ in range(300)]
        assert seqs == list(range(1, 301))
        await client.leave()
