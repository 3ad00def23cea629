"""Gemini Live through Google's real client, against the fake server, in both modes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from samvad.errors import ProviderUnavailable
from samvad.live.providers import base
from samvad.live.providers.base import ToolSpec, Turn
from samvad.live.providers.line import Redial
from samvad.testing.gemini import (
    Abort,
    CallTool,
    CancelCalls,
    Close,
    FakeGeminiLive,
    Frame,
    GoAway,
    Heard,
    Interrupt,
    Say,
    Until,
    Usage,
    Wait,
)
from samvad.testing.gemini.wire import field
from samvad.testing.speech import chunks, silence, speech, words_in
from tests.live.gemini import MODES, Talk, make_service, said, talking
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio

ASHA: dict[str, Any] = {"user_id": "asha", "session_id": "s-1"}


@pytest.fixture(params=MODES)
def each_mode(request: pytest.FixtureRequest) -> str:
    """Both modes of the client, where it matters to the wire."""
    return str(request.param)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """One mode, where what matters is the session's own."""
    return str(request.param)


@pytest.fixture
async def fake() -> AsyncIterator[FakeGeminiLive]:
    """A server."""
    async with FakeGeminiLive() as server:
        yield server


async def test_written_turn(fake: FakeGeminiLive, each_mode: str) -> None:
    """Text goes up; speech comes down with its words, then the end of the turn with its usage, and a handle."""
    fake.reply(Say("Your passport and a photograph."), Usage(12, 7))
    async with talking(fake, each_mode) as talk:
        await talk.session.send_text("What documents do I need?")
        done = await talk.until(base.TurnDone)
        handle = await talk.until(base.Resumable)
        model = make_service(fake, each_mode).model
    words = [event for event in talk.of(base.Transcript) if event.role == "assistant"]
    assert "".join(event.text for event in words) == "Your passport and a photograph."
    assert [event.final for event in words][-2:] == [False, True]
    assert (
        "".join(words_in(b"".join(event.data for event in talk.of(base.Audio))))
        == words[0].text + words[1].text
    )
    assert done.usage == {"prompt_token_count": 12, "response_token_count": 7, "total_token_count": 19}
    assert handle.model == model
    assert fake.connections[0].memory == [
        ("user", "What documents do I need?"),
        ("model", "Your passport and a photograph."),
    ]


@pytest.mark.parametrize("together", [True, False])
async def test_spoken_turn(fake: FakeGeminiLive, each_mode: str, together: bool) -> None:
    """The server hears when the user begins and ends; their words come back, closed with the turn."""
    fake.reply(Heard("मुझे लोन चाहिए"), Say("कौन सा लोन?", together=together))
    async with talking(fake, each_mode, language="hi") as talk:
        for piece in chunks(speech("anything") + silence(200)):
            await talk.session.send_audio(piece)
        await talk.until(base.TurnDone)
    assert talk.kept == [Turn(role="user", text="मुझे लोन चाहिए"), Turn(role="assistant", text="कौन सा लोन?")]
    finals = [event.role for event in talk.of(base.Transcript) if event.final]
    assert finals == ["user", "assistant"]


async def test_push_to_talk(fake: FakeGeminiLive, each_mode: str) -> None:
    """Where the client says when the user speaks, the server does not guess; a note stands before the speech."""
    async with talking(fake, each_mode, client_activity=True) as talk:
        await talk.session.set_note("You were interrupted.")
        await talk.session.activity(True)
        for piece in chunks(speech("hello") + silence(400) + speech("again")):
            await talk.session.send_audio(piece)
        await talk.session.activity(False)
        await talk.until(base.TurnDone)
    (turn,) = fake.connections[0].turns
    assert (turn.text, turn.spoken, turn.notes) == ("hello again", True, ("You were interrupted.",))


async def test_the_note_goes_with_the_next_written_turn(fake: FakeGeminiLive, each_mode: str) -> None:
    """What was not heard is told to the model with the user's next turn, once."""
    async with talking(fake, each_mode) as talk:
        await talk.ask("one", note="They heard up to «a».")
        await talk.ask("two")
    first, second = fake.connections[0].turns
    if each_mode == "vertex":
        assert (first.notes, first.text) == (("They heard up to «a».",), "one")
    else:
        assert first.text == "They heard up to «a».\n\none"
    assert (second.notes, second.text) == ((), "two")


async def test_user_speaks_over_the_answer(fake: FakeGeminiLive, each_mode: str) -> None:
    """The server's interruption is told at once; a note set then reaches the model with what the user is saying."""
    on = asyncio.Event()
    fake.reply(Say("A long answer about loans"), Wait(on), Say(" that goes on."))
    async with talking(fake, each_mode) as talk:
        await talk.session.send_text("Tell me about loans")
        await talk.until(base.Transcript, lambda event: "loans" in event.text or "about" in event.text)
        loud = chunks(speech("no wait"))
        await talk.session.send_audio(loud[0])
        await talk.until(base.Interrupted)
        await talk.until(base.TurnDone)
        await talk.session.set_note("Not yet heard: «loans».")
        for piece in [*loud[1:], *chunks(silence(200))]:
            await talk.session.send_audio(piece)
        await talk.until(base.TurnDone)
    connection = fake.connections[0]
    assert connection.interruptions == 1  # the note has not interrupted anybody
    assert (connection.turns[1].text, connection.turns[1].notes) == ("no wait", ("Not yet heard: «loans».",))
    assert talk.kept[-1].text == "You said: no wait"


async def test_a_note_never_interrupts_the_model(fake: FakeGeminiLive, mode: str) -> None:
    """While the model speaks, the microphone's silence goes up without the note."""
    on = asyncio.Event()
    fake.reply(Say("First part."), Wait(on), Say(" Second part."))
    async with talking(fake, mode) as talk:
        await talk.session.send_text("Go")
        await talk.until(base.Audio)
        await talk.session.set_note("for later")
        for piece in chunks(silence(200)):
            await talk.session.send_audio(piece)
        connection = fake.connections[0]
        await wait_until_async(lambda: _true(connection.audio_bytes >= 6400), "the silence has arrived")
        on.set()
        await talk.until(base.TurnDone)
        await talk.session.send_audio(silence(20))
        await talk.ask("next")
    assert connection.interruptions == 0
    assert connection.turns[1].notes == ("for later",)


async def _true(value: bool) -> bool:
    return value


async def test_the_client_interrupts(fake: FakeGeminiLive, mode: str) -> None:
    """After `interrupt` the turn is over at once, nothing of it comes, and the next turn is answered."""
    on = asyncio.Event()
    fake.reply(Say("This is a very long answer"), Wait(on), Say(" and nobody hears this."))
    async with talking(fake, mode) as talk:
        await talk.session.send_text("Tell me")
        await talk.until(base.Audio)
        await talk.session.interrupt(heard_text="This", played_ms=40)
        await talk.until(base.TurnDone)
        before = len(talk.events)
        on.set()
        await talk.session.send_text("Something else")
        await talk.until(base.TurnDone)
    later = "".join(event.text for event in talk.events[before:] if isinstance(event, base.Transcript))
    assert later == "You said: Something else"
    assert len(talk.of(base.TurnDone)) == 2


async def test_interrupting_before_anything_came(fake: FakeGeminiLive, mode: str) -> None:
    """A turn that is interrupted before its answer has begun leaves the next one whole."""
    fake.reply(Wait(asyncio.Event()))
    async with talking(fake, mode) as talk:
        await talk.session.send_text("one")
        await talk.session.interrupt(heard_text="", played_ms=None)
        await talk.until(base.TurnDone)
        await talk.session.send_text("two")
        await talk.until(base.TurnDone)
    assert talk.kept == [Turn(role="assistant", text="You said: two")]


async def test_interrupting_nothing(fake: FakeGeminiLive, mode: str) -> None:
    """An interruption that comes after the end of the answer changes nothing."""
    async with talking(fake, mode) as talk:
        await talk.ask("one")
        await talk.session.interrupt(heard_text="You said", played_ms=10)
        assert await talk.ask("two") == "You said: two"
    assert len(talk.of(base.TurnDone)) == 2


async def test_interrupted_by_the_server_alone(fake: FakeGeminiLive, mode: str) -> None:
    """`interrupted` and `turnComplete` without `generationComplete` end a turn."""
    fake.reply(Say("Half of"), Interrupt())
    async with talking(fake, mode) as talk:
        await talk.session.send_text("Tell me")
        await talk.until(base.Interrupted)
        await talk.until(base.TurnDone)
        assert await talk.ask("and?") == "You said: and?"


async def test_tools(fake: FakeGeminiLive, each_mode: str) -> None:
    """A call is offered with its arguments, and its result goes back to it."""
    tool = ToolSpec(
        name="search_knowledge_base",
        description="Searches.",
        parameters={"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    )
    fake.reply(CallTool("search_knowledge_base", {"query": "loans"}, id="c-1"), Say("Found it."))
    async with talking(fake, each_mode, tools=(tool,)) as talk:
        await talk.session.send_text("Search")
        call = await talk.until(base.ToolCall)
        assert (call.id, call.name, call.arguments) == ("c-1", tool.name, {"query": "loans"})
        await talk.session.send_tool_result(call.id, call.name, {"passages": ["…"]})
        await talk.until(base.TurnDone)
    connection = fake.connections[0]
    assert connection.results.by_id == {"c-1": {"passages": ["…"]}}
    (declared,) = field(field(connection.setup, "tools")[0], "function_declarations")
    assert (declared["name"], declared["description"]) == (tool.name, "Searches.")
    assert field(declared, "parameters_json_schema") == tool.parameters


async def test_cancelled_calls(fake: FakeGeminiLive, each_mode: str) -> None:
    """The model may take a call back; a result that comes all the same is not sent."""
    fake.reply(CallTool("slow", {}, id="c-1", wait=False), CancelCalls(("c-1",)), Say("Never mind."))
    async with talking(fake, each_mode) as talk:
        await talk.session.send_text("Search")
        assert (await talk.until(base.ToolCancelled)).ids == ("c-1",)
        await talk.session.send_tool_result("c-1", "slow", 1)
        await talk.until(base.TurnDone)
    assert fake.connections[0].results.by_id == {}


async def test_a_tool_that_failed(fake: FakeGeminiLive, mode: str) -> None:
    """Why there is no result is told to the model as well."""
    fake.reply(CallTool("slow", {}, id="c-1"), Say("Sorry."))
    async with talking(fake, mode) as talk:
        await talk.session.send_text("Search")
        await talk.until(base.ToolCall)
        await talk.session.send_tool_result("c-1", "slow", None, error="it took too long")
        await talk.until(base.TurnDone)
    assert fake.connections[0].results.by_id == {"c-1": {"error": "it took too long"}}


async def test_frames_that_nobody_understands(fake: FakeGeminiLive, each_mode: str) -> None:
    """Unknown frames and fields are passed over; several fields in one frame are all understood."""
    fake.reply(
        Frame({"bogus": {"a": 1}}),
        Frame({"error": {"code": 13, "message": "internal"}}),
        Frame(
            {
                "serverContent": {"outputTranscription": {"text": "All "}, "unheardOf": 1},
                "usageMetadata": {"totalTokenCount": 3},
                "sessionResumptionUpdate": {"newHandle": "h-1", "resumable": True},
            }
        ),
        Say("at once."),
    )
    async with talking(fake, each_mode) as talk:
        assert await talk.ask("Go") == "All at once."
        assert len(fake.connections) == 1
    assert talk.of(base.TurnDone)[0].usage == {"total_token_count": 3}
    assert talk.of(base.Resumable)[0].handle == "h-1"


async def test_an_error_frame_and_then_nothing(fake: FakeGeminiLive, mode: str) -> None:
    """After an error without an end the line is dialled again, and the question put again: the user sees no more."""
    fake.reply(Frame({"error": {"code": 13, "message": "internal"}}), Wait(asyncio.Event()))
    service = make_service(fake, mode, stall_s=0.3)
    async with talking(fake, mode, service=service) as talk:
        assert await talk.ask("Go") == "You said: Go"
    assert [event.reason for event in talk.of(base.Reconnected)] == ["the provider does not answer"]
    await service.close()


async def test_what_the_setup_says(fake: FakeGeminiLive, each_mode: str) -> None:
    """The setup holds the instruction, the language, the state as data, transcripts, compression, resumption."""
    service = make_service(fake, each_mode, model="gemini-live-2.5-flash")
    options: dict[str, Any] = {
        "language": "hi",
        "system_instruction": "Be brief.",
        "state": {"topic": "home » loans"},
    }
    async with talking(fake, each_mode, service=service, **options):
        pass
    async with talking(fake, each_mode, service=service):
        pass
    await service.close()
    hindi, auto = (connection.setup for connection in fake.connections)
    instruction = field(hindi, "system_instruction")["parts"][0]["text"]
    assert instruction.startswith("Be brief.\n\nAnswer in Hindi")
    assert '«{"topic":"home " loans"}»' in instruction.replace('\\"', '"')
    assert field(hindi, "generation_config", "response_modalities") == ["AUDIO"]
    assert field(hindi, "generation_config", "speech_config", "language_code") == "hi-IN"
    assert field(auto, "generation_config", "speech_config") is None
    assert "language that the user speaks" in field(auto, "system_instruction")["parts"][0]["text"]
    for each in (hindi, auto):
        assert field(each, "input_audio_transcription") == field(each, "output_audio_transcription") == {}
        assert field(each, "context_window_compression", "sliding_window") == {}
        assert field(each, "session_resumption") == {}


async def test_another_language_in_mid_conversation(fake: FakeGeminiLive, mode: str) -> None:
    """The model is told with the user's next turn; a line that is dialled later is set up with it."""
    async with talking(fake, mode) as talk:
        await talk.ask("one")
        await talk.session.set_language("ta")
        await talk.ask("two")
        fake.connections[0].abort()
        await talk.until(base.Reconnected)
    turn = fake.connections[0].turns[1]
    assert "Answer in Tamil" in " ".join([*turn.notes, turn.text])
    assert "Answer in Tamil" in field(fake.connections[1].setup, "system_instruction")["parts"][0]["text"]


async def test_earlier_turns_are_told_once(fake: FakeGeminiLive, each_mode: str) -> None:
    """A new conversation is seeded with the last turns before the first question, and asks nothing by it."""
    talk = Talk()
    talk.kept = [Turn(role="user", text="Hello"), Turn(role="assistant", text="Welcome.")]
    service = make_service(fake, each_mode)
    await talk.begin(service)
    await talk.ask("What did I say?")
    await talk.ask("And then?")
    await talk.session.close()
    await service.close()
    assert fake.connections[0].memory == [*said(talk.kept)]
    assert len(talk.of(base.TurnDone)) == 2


async def test_refused_for_good(fake: FakeGeminiLive, each_mode: str) -> None:
    """Without permission, or with a model that does not exist, there is one attempt and a clear error."""
    service = make_service(fake, each_mode)
    fake.refuse_upgrade(403, times=9)
    with pytest.raises(ProviderUnavailable, match=r"refuses the conversation \(403\)"):
        await Talk().begin(service)
    assert fake.upgrades_refused == 1
    fake._refuse_upgrades.clear()
    fake.refuse_setup(1007, "models/x is not found", times=9)
    with pytest.raises(ProviderUnavailable, match=r"\(1007\)"):
        await Talk().begin(service)
    assert fake.setups_refused == 1
    await service.close()


async def test_not_reached_at_first(fake: FakeGeminiLive, mode: str) -> None:
    """A busy server, one that breaks off, and one that does not answer are tried again, three times in all."""
    service = make_service(fake, mode, setup_s=1.0)
    fake.refuse_upgrade(503)
    fake.refuse_setup(1011)
    async with talking(fake, mode, service=service) as talk:
        assert await talk.ask("Hello") == "You said: Hello"
    fake.leave_setup_unanswered(times=9)
    with pytest.raises(ProviderUnavailable, match="does not answer the setup"):
        await Talk().begin(service)
    assert fake._unanswered_setups == 6
    await service.close()


@pytest.mark.parametrize("code", [1000, 1006, 1007, 1008, 1011])
async def test_the_line_is_lost_while_idle(fake: FakeGeminiLive, each_mode: str, code: int) -> None:
    """Whatever the code, the conversation goes on where it was, with one dial and nothing said twice."""
    async with talking(fake, each_mode) as talk:
        await talk.ask("one")
        await talk.until(base.Resumable)
        if code == 1006:
            fake.connections[0].abort()
        else:
            await fake.connections[0].close(code)
        assert (await talk.until(base.Reconnected)).resumed
        await talk.ask("two")
    assert len(fake.connections) == 2
    assert fake.connections[1].memory == said(talk.kept)
    assert not talk.of(base.Failed)


@pytest.mark.parametrize(
    "steps",
    [[Abort()], [Close(1011)], [GoAway(0.0), Wait(asyncio.Event())]],
    ids=["abort", "close", "goaway"],
)
async def test_the_line_is_lost_before_the_answer(fake: FakeGeminiLive, mode: str, steps: list[Any]) -> None:
    """What was asked and not answered is asked again; the user sees an answer, and no failure."""
    fake.reply(*steps)
    async with talking(fake, mode) as talk:
        assert await talk.ask("one") == "You said: one"
    assert not talk.of(base.Failed)
    assert len(fake.connections) == 2
    assert fake.connections[1].memory == said(talk.kept)


async def test_the_line_is_lost_before_each_answer(fake: FakeGeminiLive, mode: str) -> None:
    """A question that ends each line is put twice, then given up; the next is answered."""
    fake.reply(Abort())
    fake.reply(Abort())
    async with talking(fake, mode) as talk:
        await talk.session.send_text("poison")
        failed = await talk.until(base.Failed)
        assert failed.retryable and not failed.fatal
        assert await talk.ask("two") == "You said: two"


async def test_the_line_is_lost_in_mid_answer(fake: FakeGeminiLive, mode: str) -> None:
    """Half an answer ends with Failed; calls are cancelled; the next question is answered by a model that knows."""
    fake.reply(Say("This is half of"), CallTool("slow", {}, id="c-1", wait=False), Wait(asyncio.Event()))
    async with talking(fake, mode) as talk:
        await talk.session.send_text("Tell me")
        await talk.until(base.ToolCall)
        fake.connections[0].abort()
        assert (await talk.until(base.ToolCancelled)).ids == ("c-1",)
        failed = await talk.until(base.Failed)
        assert (failed.code, failed.retryable, failed.fatal) == ("provider_lost", True, False)
        assert (await talk.until(base.Reconnected)).resumed is False
        await talk.ask("And?")
    assert ("model", "This is half of") in fake.connections[1].memory


async def test_push_to_talk_is_said_again(fake: FakeGeminiLive, mode: str) -> None:
    """An utterance that the line took with it before a word was understood is sent again whole."""
    async with talking(fake, mode, client_activity=True) as talk:
        pieces = chunks(speech("one two three"))
        await talk.session.activity(True)
        for piece in pieces[:10]:
            await talk.session.send_audio(piece)
        fake.connections[0].abort()
        await talk.until(base.Reconnected)
        for piece in pieces[10:]:
            await talk.session.send_audio(piece)
        await talk.session.activity(False)
        await talk.until(base.TurnDone)
    assert [turn.text for turn in fake.connections[1].turns] == ["one two three"]


async def test_going_away(fake: FakeGeminiLive, each_mode: str) -> None:
    """Told to leave, the session moves when the turn is over; the old connection is closed before the new is made."""
    on = asyncio.Event()
    fake.reply(Say("One"), GoAway(60.0), Wait(on), Say(" two."))
    async with talking(fake, each_mode) as talk:
        await talk.session.send_text("Count")
        assert (await talk.until(base.GoingAway)).in_s == 60.0
        assert len(fake.connections) == 1
        on.set()
        await talk.until(base.TurnDone)
        assert (await talk.until(base.Reconnected)).resumed
        await talk.ask("more")
    assert fake.setups_refused == 0
    assert fake.connections[0].closed == 1000  # by the client, before the second came
    assert fake.connections[1].memory[:2] == [("user", "Count"), ("model", "One two.")]


async def test_going_away_in_a_long_answer(fake: FakeGeminiLive, mode: str) -> None:
    """An answer that does not end in time is cut before the server does it."""
    fake.reply(Say("Half"), GoAway(1.0), Wait(asyncio.Event()))
    async with talking(fake, mode) as talk:
        await talk.session.send_text("Count")
        await talk.until(base.Failed)
        await talk.until(base.Reconnected)
    assert fake.connections[0].closed == 1000  # by the client


@pytest.mark.parametrize("handles", ["before", "after", "never"])
async def test_handles_come_when_they_like(mode: str, handles: Any) -> None:
    """A handle before the end of the turn, after it, or never: nothing is forgotten when the line moves."""
    async with FakeGeminiLive(handles=handles) as fake, talking(fake, mode) as talk:
        await talk.ask("one")
        await fake.connections[0].go_away(30)
        moved = await talk.until(base.Reconnected)
        assert moved.resumed is (handles != "never")
        await talk.ask("two")
        assert fake.connections[1].memory == said(talk.kept)


async def test_an_expired_handle(fake: FakeGeminiLive, each_mode: str) -> None:
    """Refused with 1007, the handle is dropped; a new conversation is seeded, and its handles are good."""
    async with talking(fake, each_mode) as talk:
        await talk.ask("one")
        await talk.until(base.Resumable)
        fake.expire_handles()
        fake.connections[0].abort()
        assert (await talk.until(base.Reconnected)).resumed is False
        await talk.ask("two")
        await talk.until(base.Resumable)
        fake.connections[1].abort()
        assert (await talk.until(base.Reconnected)).resumed
        await talk.ask("three")
    assert fake.setups_refused == 1
    assert fake.connections[-1].memory == said(talk.kept)


async def test_a_handle_of_yesterday(fake: FakeGeminiLive, each_mode: str) -> None:
    """A conversation goes on in another process by its handle, unseeded; of another model the handle is not used."""
    service = make_service(fake, each_mode)
    talk = Talk()
    await talk.begin(service)
    await talk.ask("one")
    handle = await talk.until(base.Resumable)
    await talk.session.close()
    await talk.begin(service, resume_handle=handle.handle, resume_model=handle.model)
    await talk.ask("two")
    assert fake.connections[1].resumed_with == handle.handle
    assert fake.connections[1].memory == said(talk.kept)
    await talk.session.close()
    await talk.begin(service, resume_handle=handle.handle, resume_model="another")
    assert fake.connections[2].resumed_with is None
    await talk.session.close()
    await service.close()


async def test_the_first_connection_still_stands(fake: FakeGeminiLive, mode: str) -> None:
    """Refused with 1011 because the old connection is not gone yet, it tries again, and keeps the handle."""
    service = make_service(fake, mode)
    first, second = Talk(), Talk()
    await first.begin(service)
    await first.ask("one")
    handle = await first.until(base.Resumable)
    opening = asyncio.create_task(
        second.begin(
            make_service(fake, mode, redial=partial(Redial, first_wait_s=0.2)), resume_handle=handle.handle
        )
    )
    await wait_until_async(lambda: _true(fake.setups_refused > 0), "it was refused")
    await first.session.close()
    await opening
    assert fake.connections[1].resumed_with == handle.handle
    await second.session.close()
    await service.close()


async def test_never_a_storm(fake: FakeGeminiLive, mode: str) -> None:
    """A server that takes each connection and drops it is left alone after a few dials; the session says so."""
    service = make_service(fake, mode)
    async with talking(fake, mode, service=service) as talk:
        fake.refuse_setup(1011, times=100)
        fake.connections[0].abort()
        events = await talk.rest()
        assert isinstance(events[-1], base.Failed) and events[-1].fatal
        assert fake.setups_refused == 5
    await service.close()


async def test_dropped_again_and_again(fake: FakeGeminiLive, mode: str) -> None:
    """Connections that are set up and dropped before they were of any use count as attempts as well."""
    async with talking(fake, mode) as talk:

        async def drop() -> None:
            while True:
                for connection in fake.open_connections:
                    connection.abort()
                await asyncio.sleep(0)

        dropping = asyncio.create_task(drop())
        events = await talk.rest()
        dropping.cancel()
    assert isinstance(events[-1], base.Failed) and events[-1].fatal
    assert len(fake.connections) == 6


async def test_speech_waits_for_the_line(fake: FakeGeminiLive, mode: str) -> None:
    """What the user says while there is no line is heard when there is one again."""
    service = make_service(fake, mode, redial=partial(Redial, first_wait_s=0.3))
    async with talking(fake, mode, service=service) as talk:
        await talk.ask("one")
        fake.refuse_upgrade(503)
        fake.connections[0].abort()
        await wait_until_async(lambda: _true(fake.upgrades_refused > 0), "the line is down")
        for piece in chunks(speech("are you there") + silence(200)):
            await talk.session.send_audio(piece)
        await talk.until(base.TurnDone)
    assert fake.connections[1].turns[0].text == "are you there"
    await service.close()


async def test_redial_waits_longer_each_time() -> None:
    """At once, then 0.5, 1, 2 and 4 s, give or take a quarter, and then no more; a good line begins anew."""
    redial = Redial(chance=lambda: 0.5)
    assert [redial.next_wait_s() for _ in range(7)] == [0, 0.5, 1.0, 2.0, 4.0, 4.0, None]
    redial.proved_good()
    assert redial.next_wait_s() == 0
    low, high = Redial(chance=lambda: 0.0), Redial(chance=lambda: 1.0)
    assert [low.next_wait_s(), low.next_wait_s(), high.next_wait_s(), high.next_wait_s()] == [
        0,
        0.375,
        0,
        0.625,
    ]


async def test_until_the_client_has_said(fake: FakeGeminiLive) -> None:
    """A script may wait for what the client sends."""
    fake.reply(Say("One"), Until(lambda connection: connection.audio_bytes > 0), Say(" two."))
    async with talking(fake, "vertex", service=None) as talk:
        await talk.session.send_text("Count")
        await talk.until(base.Audio)
        await talk.session.send_audio(silence(20))
        await talk.until(base.TurnDone)
    assert talk.kept[-1].text == "One two."
