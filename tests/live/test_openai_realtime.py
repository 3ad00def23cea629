"""Speech to speech through OpenAI's real client, against a scripted endpoint that speaks the Realtime protocol."""

from __future__ import annotations

import array
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from samvad.live.providers import base
from samvad.live.providers.base import ToolSpec, Turn
from samvad.live.providers.openai_realtime import OpenAIRealtime
from samvad.live.providers.realtime_line import to_24_khz
from samvad.testing.openai_realtime import CallFunction, Event, Fail, FakeRealtime, Speak
from samvad.testing.speech import chunks, silence, speech, words_in
from tests.live.gemini import QUICK, Talk

pytestmark = pytest.mark.anyio


@pytest.fixture
async def fake() -> AsyncIterator[FakeRealtime]:
    """An endpoint."""
    async with FakeRealtime() as endpoint:
        yield endpoint


@asynccontextmanager
async def talking(fake: FakeRealtime, **options: Any) -> AsyncIterator[Talk]:
    """A conversation with it."""
    provider = OpenAIRealtime(base_url=fake.base_url, redial=QUICK)
    talk = Talk()
    await talk.begin(provider, **options)  # type: ignore[arg-type]
    try:
        yield talk
    finally:
        await talk.session.close()
        await provider.close()


async def test_a_written_turn(fake: FakeRealtime) -> None:
    """Text up, speech with its words down, tokens counted; the session is set up with what was said before."""
    async with talking(fake, language="hi", system_instruction="Be brief.") as talk:
        talk.kept = [Turn(role="user", text="Hi"), Turn(role="assistant", text="Welcome.")]
        assert await talk.ask("Hello", note="a note") == "You said: Hello"
    (conversation,) = fake.conversations
    assert conversation.texts() == [
        ("user", "Hi"),
        ("assistant", "Welcome."),
        ("system", "a note"),
        ("user", "Hello"),
        ("assistant", "You said: Hello"),
    ]
    assert words_in(b"".join(event.data for event in talk.of(base.Audio))) == ["You said: Hello"]
    assert talk.of(base.TurnDone)[0].usage == {"total_tokens": 9, "input_tokens": 5, "output_tokens": 4}
    assert conversation.session["instructions"].startswith("Be brief.\n\nAnswer in Hindi")
    assert conversation.session["audio"]["input"]["transcription"]["language"] == "hi"


async def test_spoken_turns(fake: FakeRealtime) -> None:
    """The endpoint hears when the user speaks; speech over the answer interrupts it, and its memory is cut."""
    fake.heard.extend(["tell me", "stop"])
    fake.reply(Speak("A long answer", asyncio.Event()))
    async with talking(fake) as talk:
        for piece in chunks(speech("x", 100) + silence(40)):
            await talk.session.send_audio(piece)
        await talk.until(base.Audio)
        await talk.session.send_audio(speech("x", 20))
        await talk.until(base.Interrupted)
        await talk.session.interrupt(heard_text="A long", played_ms=200)
        await talk.until(base.TurnDone)
        await talk.session.send_audio(silence(20))
        await talk.until(base.TurnDone)
    (conversation,) = fake.conversations
    assert conversation.truncated == [("item-1", 200)]
    assert talk.kept[-1].text == "You said: stop"
    assert len(talk.of(base.TurnDone)) == 2


async def test_push_to_talk(fake: FakeRealtime) -> None:
    """Where the client says when the user speaks, the endpoint does not detect it."""
    fake.heard.append("hello")
    async with talking(fake, client_activity=True) as talk:
        await talk.session.activity(True)
        for piece in chunks(speech("x", 60)):
            await talk.session.send_audio(piece)
        await talk.session.activity(False)
        await talk.until(base.TurnDone)
    assert [turn.text for turn in talk.kept] == ["hello", "You said: hello"]
    assert fake.conversations[0].session["audio"]["input"]["turn_detection"] is None


async def test_the_client_interrupts_and_asks_again(fake: FakeRealtime) -> None:
    """The response is cancelled and the item cut to what was heard; the next question has an answer of its own."""
    fake.reply(Speak("A long answer", asyncio.Event()))
    async with talking(fake) as talk:
        await talk.session.send_text("one")
        await talk.until(base.Audio)
        await talk.session.interrupt(heard_text="A", played_ms=100)
        await talk.until(base.TurnDone)
        assert await talk.ask("two") == "You said: two"
        await talk.session.interrupt(heard_text="You", played_ms=50)  # heard only in part, though complete
        await talk.ask("three")
    assert [ms for _, ms in fake.conversations[0].truncated] == [100, 50]
    assert len(talk.of(base.TurnDone)) == 3


async def test_a_new_turn_over_an_answer(fake: FakeRealtime) -> None:
    """There is one response at a time: the old one is cancelled before the new one is asked for."""
    fake.reply(Speak("A long answer", asyncio.Event()))
    async with talking(fake) as talk:
        await talk.session.send_text("one")
        await talk.until(base.Audio)
        await talk.session.send_text("two")
        await talk.until(base.TurnDone)
        await talk.until(base.TurnDone)
    assert talk.kept[-1].text == "You said: two"


async def test_tools(fake: FakeRealtime) -> None:
    """The model goes on when all results are there; arguments that are no JSON are its own to mend."""
    tool = ToolSpec(name="search", description="Searches.", parameters={"type": "object"})
    fake.reply(CallFunction("search", '{"query": "a"}', "a"), CallFunction("search", "{", "b"))
    fake.reply("Found.")
    async with talking(fake, tools=(tool,)) as talk:
        await talk.session.send_text("Search")
        call = await talk.until(base.ToolCall)
        assert (call.id, call.arguments) == ("a", {"query": "a"})
        await talk.session.send_tool_result("a", "search", {"found": 1})
        await talk.until(base.TurnDone)
    outputs = {
        item["call_id"]: item["output"]
        for item in fake.conversations[0].items
        if item["type"] == "function_call_output"
    }
    assert outputs == {"a": '{"found": 1}', "b": '{"error": "the arguments are not a JSON object"}'}
    assert talk.kept[-1].text == "Found."


async def test_the_session_is_over_and_the_line_breaks(fake: FakeRealtime) -> None:
    """At the endpoint's limit, and when the line breaks, a new session is told what was said before."""
    async with talking(fake) as talk:
        await talk.ask("one")
        error = {"type": "invalid_request_error", "message": "60 minutes", "code": "session_expired"}
        await fake.conversations[0].send("error", error=error)
        assert (await talk.until(base.Reconnected)).resumed is False
        await talk.ask("two")
        fake.conversations[1].abort()
        await talk.until(base.Reconnected)
        await talk.ask("three")
    assert len(fake.conversations) == 3
    assert [text for _, text in fake.conversations[2].texts()] == [turn.text for turn in talk.kept]


async def test_a_failed_response_and_unknown_events(fake: FakeRealtime) -> None:
    """A failure ends the turn, the next is answered; what nobody understands is passed over."""
    fake.reply(Event({"type": "unheard.of"}), Fail())
    async with talking(fake) as talk:
        await talk.session.send_text("one")
        assert (await talk.until(base.Failed)).retryable
        assert await talk.ask("two") == "You said: two"


async def test_three_samples_for_two() -> None:
    """16 kHz becomes 24 kHz on a straight line."""
    made = array.array("h", to_24_khz(array.array("h", [0, 300, 600, 900]).tobytes()))
    assert list(made) == [0, 200, 400, 600, 800, 900]
