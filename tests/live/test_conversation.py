"""The turn loop, in process, over a scripted provider: what is sent, what is kept, what the model is told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from samvad import Samvad
from samvad.errors import ProviderUnavailable
from samvad.live.providers import base
from samvad.live.tools import ToolContext, ToolRegistry
from samvad.testing.scripted import ALL, Call, Emit, Hears, Say, ScriptedProvider, Speak, Wait
from tests.live.support import Client, talking
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio

LONG = "You need an identity card. You also need proof of income. The rate is eight percent."
WORDS = [f"{word} " for word in LONG.split()]
LOANS = "What do I need for a home loan?"


def halfway(words: int = 6) -> list[Any]:
    """An answer that stops after a few words until the test lets it go on; all of it is known beforehand."""
    steps: list[Any] = [Say(word) for word in WORDS]
    return [Emit(base.Ahead(LONG)), *steps[:words], Wait(), *steps[words:]]


async def history(samvad: Samvad, user: str = "user_456") -> list[Any]:
    """The user's messages, as they are read."""
    return list((await samvad.page_history(user)).messages)


async def test_an_exchange_is_kept_without_asking() -> None:
    """User, then assistant; ids and places are told with the end of the turn."""
    provider = ScriptedProvider({"hello": [Say("Good "), Say("day!")]})
    async with talking(provider) as (live, samvad):
        client = Client(live)
        await client.start()
        client.say("hello", id="mine")
        done = await client.next("turn_complete")
        assert client.text_of(done["turnId"]) == "Good day!"
        assert [(m.id, m.role, m.content, m.session_id) for m in await history(samvad)] == [
            ("mine", "user", "hello", "session_123"),
            (done["messageIds"][1], "assistant", "Good day!", "session_123"),
        ]
        assert done["seq"] == 2 and not done["interrupted"]
        heard = next(f for f in client.seen if f["type"] == "transcript")
        assert (heard["messageId"], heard["seq"], heard["final"]) == ("mine", 1, True)
        await client.leave()


async def test_the_users_words_are_kept_while_the_model_still_thinks() -> None:
    """A killed server has at least the question."""
    provider = ScriptedProvider({"": [Wait(), Say("late")]})
    async with talking(provider) as (live, samvad):
        client = Client(live)
        await client.start()
        client.say(LOANS)
        await client.next("transcript")
        assert [m.content for m in await history(samvad)] == [LOANS]
        assert not any(f["type"] == "text_chunk" for f in client.seen)
        await client.leave()


async def test_typing_over_the_answer_interrupts_it() -> None:
    """The answer is kept as it was read, the rest apart; the model is told once; the new turn is answered."""
    provider = ScriptedProvider({LOANS: halfway(), "": [Say("Fine.")]})
    async with talking(provider) as (live, samvad):
        client = Client(live)
        await client.start()
        client.say(LOANS)
        while (await client.next("text_chunk"))["text"] != WORDS[5]:
            pass
        read = len("You need an identity card")
        client.say("And how high is the rate, please?", playedChars=read)
        cut = await client.next("interrupted")
        assert cut["heardText"] == LONG[:read] or cut["heardText"] == "You need an identity"
        assert f"{cut['heardText']} {cut['unheardText']}".split() == LONG.replace("card.", "card.").split()
        first = await client.next("turn_complete")
        second = await client.next("turn_complete")
        assert (first["interrupted"], second["interrupted"]) == (True, False)
        messages = await history(samvad)
        assert [m.role for m in messages] == ["user", "assistant", "user", "assistant"]
        assert messages[1].content == cut["heardText"]
        assert messages[1].extra["interrupted"] is True
        assert messages[1].extra["unheardText"] == cut["unheardText"]
        verb, (text, note) = provider.session.told[-1]
        assert verb == "text" and text.startswith("And how high")
        assert cut["heardText"] in note and "Not yet heard" in note
        assert ("interrupt", (cut["heardText"], None)) in provider.session.told
        client.say("One more thing")
        await client.next("turn_complete")
        assert provider.session.told[-1] == ("text", ("One more thing", None)), "told once"
        await client.leave()


async def test_what_came_after_the_interruption_is_for_nobody() -> None:
    """Pieces of the old answer that arrive late go neither to the client nor into the history."""
    provider = ScriptedProvider({LOANS: halfway(), "": [Say("Fine.")]})
    async with talking(provider) as (live, samvad):
        client = Client(live)
        await client.start()
        client.say(LOANS)
        await provider.session.waiting.wait()
        session = provider.session
        interrupt, stopped = session.interrupt, asyncio.Event()

        async def slow_interrupt(**heard: Any) -> None:
            session.emit(base.Delta("late words "))
            await interrupt(**heard)
            stopped.set()

        session.interrupt = slow_interrupt  # type: ignore[method-assign]
        client.send({"type": "interrupt"})
        await client.next("interrupted")
        client.say("next")
        await client.next("turn_complete")
        await client.next("turn_complete")
        assert stopped.is_set()
        assert "late" not in " ".join(m.content for m in await history(samvad))
        assert not any("late" in f.get("text", "") for f in client.seen)
        await client.leave()


@pytest.mark.parametrize(
    ("language", "words"), [("en", "go on"), ("hi", "आगे बोलो"), ("en", "Please continue.")]
)
async def test_go_on_goes_on(language: str, words: str) -> None:
    """The unheard part, word for word, behind a phrase in the user's language, as a new turn."""
    provider = ScriptedProvider({LOANS: halfway()})
    async with talking(provider) as (live, samvad):
        client = Client(live)
        await client.start(language=language)
        client.say(LOANS)
        await provider.session.waiting.wait()
        client.send({"type": "interrupt", "playedChars": 34})
        cut = await client.next("interrupted")
        assert cut["canResume"] and cut["heardText"] == "You need an identity card. You"
        client.say(words)
        first = await client.next("turn_complete")
        done = await client.next("turn_complete")
        said = client.text_of(done["turnId"])
        assert said.endswith(cut["unheardText"]) and len(said) > len(cut["unheardText"]) + 5
        messages = await history(samvad)
        assert [m.content for m in messages][2:] == [words, said.strip()]
        assert messages[3].metadata is not None and messages[3].metadata["resumes"] == first["turnId"]
        assert samvad.interruptions.list("session_123")[0].status == "resumed"
        client.send({"type": "resume_interruption"})
        assert (await client.next("error"))["code"] == "not_found"
        await client.leave()


async def test_a_resumed_part_can_be_interrupted_and_resumed_again() -> None:
    """Being cut off twice loses nothing."""
    provider = ScriptedProvider({LOANS: halfway()})
    async with talking(provider) as (live, _):
        client = Client(live)
        await client.start()
        client.say(LOANS)
        await provider.session.waiting.wait()
        client.send({"type": "interrupt", "playedChars": 34})
        await client.next("interrupted")
        client.send({"type": "resume_interruption"})
        while "proof" not in (piece := await client.next("text_chunk"))["text"]:
            pass
        client.send({"type": "interrupt"})
        cut = await client.next("interrupted")
        assert cut["heardText"].endswith(("proof", "proof of", "proof of income."))
        assert cut["unheardText"].endswith("eight percent.")
        client.send({"type": "resume_interruption"})
        await client.next("turn_complete")
        done = await client.next("turn_complete")
        assert client.text_of(done["turnId"]).endswith(cut["unheardText"])
        assert done["turnId"] != piece["turnId"]
        await client.leave()


async def test_stop_stops_and_is_not_answered() -> None:
    """On "रुको" there is silence: no new answer, and nothing that is offered again."""
    provider = ScriptedProvider({LOANS: halfway(), "": [Say("What?")]})
    async with talking(provider) as (live, samvad):
        client = Client(live)
        await client.start(language="hi")
        client.say(LOANS)
        await provider.session.waiting.wait()
        client.say("रुको")
        cut = await client.next("interrupted")
        assert not cut["canResume"]
        await client.next("turn_complete")
        await client.next("turn_complete")
        assert [m.role for m in await history(samvad)] == ["user", "assistant", "user"]
        assert samvad.interruptions.list("session_123")[0].type == "CUT_OFF"
        assert [verb for verb, _ in provider.session.told] == ["text", "interrupt"]
        await client.leave()


async def test_a_backchannel_does_not_interrupt() -> None:
    """On "haan" while the assistant explains, it goes on; the word is kept."""
    provider = ScriptedProvider({LOANS: halfway()})
    async with talking(provider) as (live, samvad):
        client = Client(live)
        await client.start()
        client.say(LOANS)
        await provider.session.waiting.wait()
        client.say("haan")
        while (await client.next("transcript"))["text"] != "haan":
            pass
        provider.session.go()
        done = await client.next("turn_complete")
        assert not done["interrupted"] and client.text_of(done["turnId"]).strip() == LONG
        assert [m.content for m in await history(samvad)] == [LOANS, "haan", LONG]
        await client.leave()


async def test_a_backchannel_after_a_question_is_an_answer() -> None:
    """The assistant asks, the user says yes."""
    provider = ScriptedProvider({LOANS: [Say("Do you have a job?"), Wait()], "": [Say("Good.")]})
    async with talking(provider) as (live, _):
        client = Client(live)
        await client.start()
        client.say(LOANS)
        await provider.session.waiting.wait()
        client.say("haan")
        await client.next("turn_complete")
        done = await client.next("turn_complete")
        assert client.text_of(done["turnId"]) == "Good."
        await client.leave()


async def test_the_stack_holds_three() -> None:
    """Interrupted five times, the session remembers three."""
    provider = ScriptedProvider({"": halfway()})
    async with talking(provider) as (live, samvad):
        client = Client(live)
        await client.start()
        for number in range(5):
            client.say(f"question {number} of mine")
            while len([f for f in client.seen if f["type"] == "text_chunk"]) < 6 * (number + 1):
                await client.next("text_chunk")
            client.send({"type": "interrupt"})
            await client.next("interrupted")
        assert len(samvad.interruptions.list("session_123")) == 3
        assert samvad.interruptions.patterns("session_123").total == 5
        await client.leave()


async def test_the_type_comes_with_the_words() -> None:
    """A client stops first and says why later: the interruption then carries the words."""
    provider = ScriptedProvider({LOANS: halfway(), "": [Say("Fine.")]})
    async with talking(provider, samvad_options={"record_interruptions": True}) as (live, samvad):
        client = Client(live)
        await client.start()
        client.say(LOANS)
        await provider.session.waiting.wait()
        client.send({"type": "interrupt"})
        await client.next("interrupted")
        client.say("tell me about the rate instead")
        await client.next("turn_complete")
        await client.next("turn_complete")
        kept = samvad.interruptions.list("session_123")[0]
        assert kept.user_utterance == "tell me about the rate instead"

        async def recorded() -> bool:
            return len(await samvad.recorded_interruptions("session_123")) == 1

        await wait_until_async(recorded, "the interruption is in the store")
        await client.leave()


# --- speech ------------------------------------------------------------------------------------------------


async def test_a_spoken_exchange_is_kept_when_it_was_heard() -> None:
    """Words of both sides, in order; the answer counts as heard when its audio was played."""
    provider = ScriptedProvider(
        {"loan": [Hears("I need a loan."), Speak("You need ", 60), Speak("a card.", 60)]}, capabilities=ALL
    )
    async with talking(provider) as (live, samvad):
        client = Client(live)
        await client.start()
        client.send(bytes(640))
        provider.session.play("loan")
        done = await client.next("turn_complete")
        assert client.pipe.audio_bytes == 120 * 48 and provider.session.audio_bytes == 640
        assert [(m.role, m.content) for m in await history(samvad)] == [
            ("user", "I need a loan."),
            ("assistant", "You need a card."),
        ]
        assert all(m.metadata and m.metadata["spoken"] for m in await history(samvad))
        assert not done["interrupted"]
        spoken = [f["text"] for f in client.seen if f["type"] == "transcript" and f["role"] == "assistant"]
        assert "".join(spoken) == "You need a card."
        await client.leave()


def talk(words: int = 40) -> list[Any]:
    """A long spoken answer, generated at once: word number n ends at (n + 1) * 200 ms."""
    return [Hears("Tell me everything."), *[Speak(f"word{number:02d} ", 200) for number in range(words)]]


async def test_speaking_over_what_is_still_played_interrupts_it_where_it_was_heard() -> None:
    """All was generated long before it was heard; the client says how far it has played."""
    provider = ScriptedProvider({"": talk()}, capabilities=ALL)
    async with talking(provider) as (live, samvad):
        client = Client(live)
        await client.start()
        provider.session.play("")
        while "word39" not in (await client.next("transcript"))["text"]:
            pass
        client.send({"type": "interrupt", "playedMs": 2_050})
        cut = await client.next("interrupted")
        assert cut["heardText"].split()[-1] in ("word08", "word09")
        assert cut["unheardText"].endswith("word39") and cut["canResume"]
        await client.next("turn_complete")
        assert (await history(samvad))[1].content == cut["heardText"]
        interruption = samvad.interruptions.list("session_123")[0]
        assert interruption.played_ms == 2_050 and interruption.generated_ms == 8_000
        assert interruption.heard_source == "client"
        await client.leave()


async def test_the_providers_own_barge_in_goes_by_the_clock() -> None:
    """The server notices the user first; without a report, no more counts as heard than time has passed."""
    provider = ScriptedProvider({"": [*talk(), Wait()]}, capabilities=ALL)
    async with talking(provider) as (live, samvad):
        client = Client(live)
        await client.start()
        provider.session.play("")
        while "word39" not in (await client.next("transcript"))["text"]:
            pass
        provider.session.emit(base.Interrupted())
        provider.session.emit(base.TurnDone())
        provider.session.emit(base.Transcript("user", "What is the rate?", True))
        cut = await client.next("interrupted")
        assert len(cut["heardText"]) < len("word00 ") * 20
        interruption = samvad.interruptions.list("session_123")[0]
        assert interruption.heard_source == "clock"
        provider.session.emit(base.Audio(bytes(960)))
        provider.session.emit(base.Transcript("assistant", "Eight."))
        provider.session.emit(base.TurnDone())
        await client.next("turn_complete")
        await client.next("turn_complete")
        said = [m.content for m in await history(samvad)]
        assert said[0] == "Tell me everything." and said[-2:] == ["What is the rate?", "Eight."]
        await client.leave()


async def test_a_false_alarm_is_resumed() -> None:
    """Somebody coughs: the assistant stops, nobody says a word, it goes on."""
    provider = ScriptedProvider(
        {"": [*talk(10), Wait()], "Please go on where you were interrupted.": []}, capabilities=ALL
    )
    async with talking(provider, false_alarm_s=0.05) as (live, samvad):
        client = Client(live)
        await client.start()
        provider.session.play("")
        while "word09" not in (await client.next("transcript"))["text"]:
            pass
        client.send({"type": "activity_start", "playedMs": 1_000})
        await client.next("interrupted")
        client.send({"type": "activity_end"})

        async def asked_to_go_on() -> bool:
            return any(verb == "text" for verb, _ in provider.session.told)

        await wait_until_async(asked_to_go_on, "the assistant is asked to go on")
        text, note = next(what for verb, what in provider.session.told if verb == "text")
        assert "go on" in text and "word05" in note
        assert samvad.interruptions.list("session_123")[0].status == "false_alarm"
        await client.leave()


async def test_words_after_the_alarm_make_it_a_real_one() -> None:
    """The user does say something: it is no false alarm, and nothing is resumed."""
    provider = ScriptedProvider({"": [*talk(10), Wait()]}, capabilities=ALL)
    async with talking(provider, false_alarm_s=0.05) as (live, samvad):
        client = Client(live)
        await client.start()
        provider.session.play("")
        while "word09" not in (await client.next("transcript"))["text"]:
            pass
        client.send({"type": "activity_start", "playedMs": 1_000})
        await client.next("interrupted")
        provider.session.emit(base.Transcript("user", "Please tell me the rate", True))
        while (await client.next("transcript"))["role"] != "user":
            pass
        client.send({"type": "activity_end"})
        await asyncio.wait_for(client.next("turn_complete"), 10)
        kept = samvad.interruptions.list("session_123")[0]
        assert kept.status == "pending" and kept.user_utterance == "Please tell me the rate"
        await client.leave()
        assert [m.content for m in await history(samvad)][-1] == "Please tell me the rate"


# --- context, language, tools, failures --------------------------------------------------------------------


async def test_a_conversation_begins_with_what_is_known() -> None:
    """The last ten messages, state, language and topic go to the provider; the user is welcomed back."""
    provider = ScriptedProvider({"": [Say("Fine.")]})
    async with talking(provider) as (live, samvad):
        for number in range(14):
            await samvad.append_to_user_history("user_456", "user", f"message {number}")
        await samvad.save_user_state(
            "user_456", {"language": "hi", "conversationContext": {"topic": "होम लोन"}, "plan": "gold"}
        )
        client = Client(live)
        started = await client.start(systemInstruction="Be kind.")
        assert started["welcome"] == "आपका फिर से स्वागत है! आप होम लोन के बारे में पूछ रहे थे।"
        assert [m["content"] for m in started["history"]] == [f"message {n}" for n in range(4, 14)]
        context = provider.session.context
        assert [turn.text for turn in context.history()] == [f"message {n}" for n in range(4, 14)]
        assert (context.language, context.system_instruction) == ("hi", "Be kind.")
        assert context.state["plan"] == "gold"
        client.say("Tell me about car loans")
        await client.next("turn_complete")
        assert [turn.text for turn in context.history()][-2:] == ["Tell me about car loans", "Fine."]
        state = await samvad.get_user_state("user_456")
        assert state is not None
        assert state.state["conversationContext"] == {"topic": "car loans", "lastIntent": "request"}
        assert state.state["plan"] == "gold"
        await client.leave()


async def test_the_language_changes_in_mid_conversation() -> None:
    """By the client's wish, and by script where it is `auto`; kept with the session."""
    provider = ScriptedProvider({"": [Say("Fine.")]})
    async with talking(provider) as (live, samvad):
        client = Client(live)
        await client.start(language="auto")
        client.say("लोन के लिए क्या चाहिए?")
        assert (await client.next("language_changed"))["language"] == "hi"
        client.send({"type": "set_language", "language": "ta"})
        assert (await client.next("language_changed"))["language"] == "ta"
        assert ("language", "ta") in provider.session.told
        client.send({"type": "set_language", "language": "no such thing!"})
        assert (await client.next("error"))["code"] == "invalid_request"

        async def kept() -> bool:
            session = await samvad.get_session("session_123")
            return session is not None and session.language == "ta"

        await wait_until_async(kept, "the session has the language")
        await client.leave()


async def test_a_tool_is_called_and_kept_in_a_pair() -> None:
    """Arguments are checked against the annotations; call and result stand side by side in the history."""
    tools = ToolRegistry()

    async def rate(kind: str, years: int = 10, *, context: ToolContext) -> dict[str, Any]:
        """The interest rate."""
        return {"rate": 8.5, "kind": kind, "years": years, "for": context.user_id}

    tools.register(rate)
    provider = ScriptedProvider({"": [Call("c1", "rate", {"kind": "home"}), Say(" it is")]})
    async with talking(provider, tools=tools) as (live, samvad):
        client = Client(live)
        await client.start()
        spec = provider.session.context.tools[0]
        assert spec.name == "rate" and spec.description == "The interest rate."
        assert spec.parameters["required"] == ["kind"]
        assert set(spec.parameters["properties"]) == {"kind", "years"}
        client.say("rate?")
        done = await client.next("turn_complete")
        user, call, result, answer = await history(samvad)
        assert call.tool_calls is not None and call.tool_calls[0].arguments == {"kind": "home"}
        assert result.tool_call_id == call.tool_calls[0].id == "c1" and '"rate":8.5' in result.content
        assert '"for":"user_456"' in result.content
        assert (user.role, result.role, answer.role) == ("user", "tool", "assistant")
        assert done["messageIds"] == [user.id, call.id, result.id, answer.id]
        assert [f["type"] for f in client.seen if f["type"].startswith("tool")] == [
            "tool_call",
            "tool_result",
        ]
        await client.leave()


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("slow", {}, "longer than 0.05 seconds"),
        ("broken", {}, "The tool failed."),
        ("typed", {"count": "many"}, "do not fit"),
        ("typed", {"count": 1, "more": 2}, "do not fit"),
        ("nothing", {}, "no tool 'nothing'"),
    ],
)
async def test_a_tool_that_fails_tells_the_model_why(
    name: str, arguments: dict[str, Any], reason: str
) -> None:
    """Never the conversation's end, never another's traceback; the user is told in their language that it failed."""
    tools = ToolRegistry()

    async def slow() -> None:
        """Never done."""
        await asyncio.Event().wait()

    def broken() -> None:
        """A secret in its error."""
        raise RuntimeError("secret")

    def typed(count: int) -> int:
        """Typed."""
        return count

    tools.register(slow, timeout_s=0.05)
    tools.register(broken)
    tools.register(typed)
    provider = ScriptedProvider({"": [Call("c1", name, arguments)]})
    async with talking(provider, tools=tools) as (live, samvad):
        client = Client(live)
        await client.start(language="ta-IN")
        client.say("try")
        told = await client.next("tool_result")
        assert (told["ok"], told["error"]) == (False, "இதை இப்போது பார்க்க முடியவில்லை.")
        await client.next("turn_complete")
        error = next(what[2] for verb, what in provider.session.told if verb == "result")
        assert reason in error and "secret" not in error
        assert "error" in (await history(samvad))[2].content
        await client.leave()


async def test_a_cancelled_call_leaves_nothing() -> None:
    """The model no longer wants it: it is stopped, nothing is answered, nothing is kept of it."""
    tools, stopped, begun = ToolRegistry(), asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        """Waits."""
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    tools.register(slow)
    provider = ScriptedProvider({"": [Call("c1", "slow", {})]})
    async with talking(provider, tools=tools) as (live, samvad):
        client = Client(live)
        await client.start()
        client.say("try")
        await begun.wait()
        provider.session.emit(base.ToolCancelled(("c1",)))
        await asyncio.wait_for(stopped.wait(), 10)
        provider.session.emit(base.TurnDone())
        await client.next("turn_complete")
        assert [m.role for m in await history(samvad)] == ["user"]
        assert not any(verb == "result" for verb, _ in provider.session.told)
        await client.leave()


async def test_a_provider_that_cannot_be_reached_loses_no_message() -> None:
    """The question is kept, the client is told; the next one is asked again."""
    provider = ScriptedProvider({"": [Say("Here.")]}, refuse=ProviderUnavailable())
    async with talking(provider) as (live, samvad):
        client = Client(live)
        client.send({"type": "start_session", "userId": "user_456", "sessionId": "session_123"})
        assert (await client.next("error"))["code"] == "provider_unavailable"
        client.say("anybody?")
        done = await client.next("turn_complete")
        assert done["interrupted"] and [m.content for m in await history(samvad)] == ["anybody?"]
        provider.refuse = None
        client.say("anybody now?")
        await client.next("turn_complete")
        assert (await history(samvad))[-1].content == "Here."
        await client.leave()


async def test_a_failure_in_mid_answer_keeps_what_was_said() -> None:
    """What was said stays said; the next turn goes on."""
    broken = [Say("Half an "), Emit(base.Failed("stalled", "The model stalled.", retryable=True))]
    provider = ScriptedProvider({"one": broken, "two": [Say("Whole.")]})
    async with talking(provider) as (live, samvad):
        client = Client(live)
        await client.start()
        client.say("one")
        assert (await client.next("error"))["retryable"] is True
        assert (await client.next("turn_complete"))["interrupted"]
        client.say("two")
        await client.next("turn_complete")
        assert [m.content for m in await history(samvad)] == ["one", "Half an", "two", "Whole."]
        await client.leave()


async def test_a_session_that_fails_for_good_is_opened_anew() -> None:
    """The provider goes away; the next turn gets a new session, seeded with the history."""
    provider = ScriptedProvider(
        {"one": [Emit(base.Failed("gone", "Gone.", fatal=True))], "two": [Say("Back.")]}
    )
    async with talking(provider) as (live, _):
        client = Client(live)
        await client.start()
        client.say("one")
        await client.next("turn_complete")
        client.say("two")
        done = await client.next("turn_complete")
        assert client.text_of(done["turnId"]) == "Back."
        assert len(provider.sessions) == 2
        assert "one" in [turn.text for turn in provider.session.context.history()]
        await client.leave()


async def test_a_handle_is_kept_with_the_session_and_used_again(tmp_path: Path) -> None:
    """The provider's own session goes on after a restart of this server."""
    url = f"sqlite:///{tmp_path}/samvad.db"
    provider = ScriptedProvider({"": [Emit(base.Resumable("handle-7", "model-1")), Say("Hi.")]})
    async with talking(provider, url=url) as (live, _):
        client = Client(live)
        await client.start()
        client.say("hello")
        await client.next("turn_complete")
        await client.leave()
    provider = ScriptedProvider({})
    async with talking(provider, url=url) as (live, _):
        client = Client(live)
        await client.start()
        assert provider.session.context.resume_handle == "handle-7"
        assert provider.session.context.resume_model == "model-1"
        await client.leave()


async def test_the_same_message_again_is_answered_once() -> None:
    """A client that was cut off sends it again: the same id is the same message."""
    provider = ScriptedProvider({"": [Say("Fine.")]})
    async with talking(provider) as (live, samvad):
        client = Client(live)
        await client.start()
        client.say("hello", id="m1")
        await client.next("turn_complete")
        client.say("hello", id="m1")
        again = await client.next("transcript")
        assert (again["messageId"], again["seq"]) == ("m1", 1)
        assert len(await history(samvad)) == 2
        assert len([verb for verb, _ in provider.session.told if verb == "text"]) == 1
        await client.leave()
