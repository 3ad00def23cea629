"""Before a limit ends a conversation, the user is told: aloud who talks by voice, in writing who writes."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from samvad.live.listening import is_audible
from samvad.live.providers import base
from samvad.live.providers.instructions import announcement
from samvad.live.providers.openai_realtime import OpenAIRealtime
from samvad.testing.gemini import FakeGeminiLive
from samvad.testing.openai_realtime import FakeRealtime
from samvad.testing.scripted import ALL, ANNOUNCED, Hears, Say, ScriptedProvider, Speak, Wait
from tests.live.gemini import MODES, QUICK, Talk
from tests.live.gemini import talking as with_gemini
from tests.live.support import Client, talking

pytestmark = pytest.mark.anyio

NOTICE = "क्या आप अभी भी यहाँ हैं?"
SPEECH = bytes(640)


@asynccontextmanager
async def spoken(script: Any, **options: Any) -> AsyncIterator[tuple[Client, Any, ScriptedProvider]]:
    """A user who has spoken in Hindi, to a provider that can say what it is given."""
    provider = ScriptedProvider(script, capabilities=ALL)
    async with talking(provider, **{"idle_s": 0.6, "warning_s": 0.3, **options}) as (live, samvad):
        client = Client(live)
        await client.start(language="hi")
        client.send(SPEECH)
        client.send({"type": "ping"})
        await client.next("pong")
        yield client, samvad, provider


async def test_silence_after_speech_is_warned_of_aloud() -> None:
    """In the user's language, and in writing as well; it is not kept, and no sign of life."""
    async with spoken({}) as (client, samvad, provider):
        warning = await client.next("warning")
        assert warning["message"].startswith(NOTICE)
        said = await client.next("transcript")
        assert (said["role"], said["text"]) == ("assistant", warning["message"])
        done = await client.next("turn_complete")
        assert (done["turnId"], done["messageIds"]) == (said["turnId"], [])
        assert client.pipe.audio_bytes > 0
        assert (await client.next("session_ended"))["reason"] == "inactive"
        assert provider.session.told == [("announce", warning["message"])]
        assert (await samvad.get_user_profile("user_456")).history_length == 0
        await client.leave()


async def test_a_microphone_left_open_is_no_sign_of_life() -> None:
    """Who streams silence is as silent as who sends nothing."""
    async with spoken({}) as (client, _, _):
        ended = asyncio.create_task(client.next("session_ended"))
        while not ended.done():
            client.send(SPEECH)
            await asyncio.wait([ended], timeout=0.02)
        assert ended.result()["reason"] == "inactive"
        assert "warning" in [frame["type"] for frame in client.seen]
        await client.leave()


@pytest.mark.parametrize(
    ("samples", "audible"), [([0, 0], False), ([327, -327], False), ([0, 328], True), ([-32768, 0], True)]
)
def test_silence(samples: list[int], audible: bool) -> None:
    """What is never louder than one part in a hundred of the full scale."""
    assert is_audible(struct.pack("<2h", *samples)) == audible


async def test_a_warning_that_is_never_over_keeps_nobody() -> None:
    """A provider that begins to say it and stops there does not hold the conversation open."""
    async with spoken({ANNOUNCED: [Speak("Are you", 40), Wait()]}) as (client, _, _):
        await client.next("warning")
        assert (await client.next("session_ended"))["reason"] == "inactive"
        assert [frame["type"] for frame in client.seen].count("warning") == 1
        await client.leave()


async def test_an_answer_to_the_warning_is_a_turn() -> None:
    """Who speaks over it is listened to, the notice stops, and the conversation goes on."""
    script = {"yes": [Hears("हाँ, मैं यहाँ हूँ, ब्याज दर क्या है?"), Say("Eight percent.")]}
    async with spoken(script, idle_s=2.0, warning_s=1.8) as (client, samvad, provider):
        await client.next("warning")
        await client.next("transcript")
        provider.session.play("yes")
        done = await client.next("turn_complete")
        while not done["messageIds"]:
            done = await client.next("turn_complete")
        history = (await samvad.get_user_profile("user_456")).conversation_history
        assert [message.content for message in history] == ["हाँ, मैं यहाँ हूँ, ब्याज दर क्या है?", "Eight percent."]
        await client.leave()


async def test_it_is_written_where_it_cannot_be_spoken() -> None:
    """To one who writes, from a provider that cannot, and over an answer."""
    async with spoken({"": [Say("Fine.")]}) as (client, _, provider):
        client.say("नमस्ते")
        await client.next("turn_complete")
        assert (await client.next("warning"))["message"].startswith(NOTICE)
        await client.next("session_ended")
        assert "announce" not in dict(provider.session.told)
        await client.leave()
    silent = ScriptedProvider({}, capabilities=ALL._replace(announces=False))
    async with talking(silent, idle_s=0.4, warning_s=0.2) as (live, _):
        client = Client(live)
        await client.start()
        client.send(SPEECH)
        await client.next("warning")
        await client.next("session_ended")
        assert silent.session.told == [] and client.pipe.audio_bytes == 0
        assert live.meter.warnings == {"written": 1}
        await client.leave()
    long = {"talk": [Hears("tell me"), Speak("a long answer", 5_000), Wait()]}
    async with spoken(long, idle_s=60, duration_s=0.8, warning_s=0.3) as (client, _, provider):
        provider.session.play("talk")
        assert (await client.next("warning"))["code"] == "too_long"
        await client.next("session_ended")
        assert "announce" not in dict(provider.session.told)
        await client.leave()


@pytest.mark.parametrize("mode", MODES)
async def test_gemini_says_it(mode: str) -> None:
    """Google's client asks for these words; while an answer is under way nothing is asked for."""
    async with FakeGeminiLive() as fake:
        fake.reply("Are you still there?")
        async with with_gemini(fake, mode) as talk:
            assert await talk.session.announce("Are you still there?")
            assert not await talk.session.announce("one at a time")
            await talk.until(base.TurnDone)
            assert talk.kept[-1].text == "Are you still there?" and talk.of(base.Audio)
            assert await talk.ask("Hello") == "You said: Hello"
        asked = [text for connection in fake.connections for _, text in connection.memory]
        assert announcement("Are you still there?") in asked


async def test_openai_realtime_says_it_beside_the_conversation() -> None:
    """The model's memory knows nothing of it, and what was heard of it is nothing to cut from there."""
    async with FakeRealtime() as fake:
        fake.reply("Are you still there?")
        provider, talk = OpenAIRealtime(base_url=fake.base_url, redial=QUICK), Talk()
        await talk.begin(provider)  # type: ignore[arg-type]
        try:
            assert await talk.session.announce("Are you still there?")
            await talk.until(base.TurnDone)
            assert talk.of(base.Audio)
            await talk.session.interrupt(heard_text="Are you", played_ms=10)
            talk.kept.clear()  # a turn loop keeps no notice
            assert await talk.ask("Hello") == "You said: Hello"
        finally:
            await talk.session.close()
            await provider.close()
        (conversation,) = fake.conversations
        assert conversation.texts() == [("user", "Hello"), ("assistant", "You said: Hello")]
        assert conversation.truncated == []
        (asked,) = [each["response"] for each in conversation.events if "response" in each]
        assert asked["instructions"] == announcement("Are you still there?")
