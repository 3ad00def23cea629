"""Chat endpoints through OpenAI's real client, against a scripted endpoint with the faults of real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samvad.errors import ProviderUnavailable, SetupError
from samvad.live.providers import base
from samvad.live.providers.base import Context, Event, ToolSpec, Turn
from samvad.live.providers.chat_history import trimmed
from samvad.live.providers.openai import OpenAIChat
from samvad.live.providers.registry import ProviderOptions, make_provider
from samvad.testing.openai_chat import (
    Call,
    Chunk,
    Drop,
    FakeOpenAIChat,
    Finish,
    Raw,
    Status,
    Text,
    Wait,
)
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio

SEARCH = ToolSpec(name="search", description="Searches.", parameters={"type": "object"})
EMPTY = Chunk({"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": []})
TIMEOUT_S = 30.0


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenAIChat]:
    """An endpoint."""
    async with FakeOpenAIChat() as endpoint:
        yield endpoint


class Talk:
    """A conversation whose events are read up to the end of a turn."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.events: list[Event] = []
        self._reader = session.events()

    async def until(self, *kinds: type) -> Any:
        """The next event of one of these kinds."""
        async with asyncio.timeout(TIMEOUT_S):
            async for event in self._reader:
                self.events.append(event)
                if isinstance(event, kinds):
                    return event
        raise AssertionError("the session has ended")

    async def ask(self, text: str, **options: Any) -> Any:
        """A turn, up to its end."""
        await self.session.send_text(text, **options)
        return await self.until(base.TurnDone, base.Failed)

    @property
    def text(self) -> str:
        """All that was answered."""
        return "".join(event.text for event in self.events if isinstance(event, base.Delta))


@asynccontextmanager
async def talking(fake: FakeOpenAIChat, options: Any = None, **context: Any) -> AsyncIterator[Talk]:
    """A conversation with the endpoint, whose client does not wait between its attempts."""
    provider = OpenAIChat(**{"base_url": fake.base_url, "model": "m", "retries": 0, **(options or {})})
    try:
        session = await provider.open(Context(user_id="asha", session_id="s-1", **context))
        try:
            yield Talk(session)
        finally:
            await session.close()
    finally:
        await provider.close()


async def test_a_turn(fake: FakeOpenAIChat) -> None:
    """The answer streams; its tokens are counted; the request holds the instruction and what was said before."""
    earlier = (Turn(role="user", text="Hi"), Turn(role="assistant", text="Welcome."))
    async with talking(fake, history=lambda: earlier, language="hi", system_instruction="Be brief.") as talk:
        done = await talk.ask("नमस्ते")
    assert talk.text == "You said: नमस्ते"
    assert len(talk.events) == 4
    assert done.usage == {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    (request,) = fake.requests
    assert request["stream"] and request["stream_options"] == {"include_usage": True}
    assert [(each["role"], each["content"]) for each in request["messages"]][1:] == [
        ("user", "Hi"),
        ("assistant", "Welcome."),
        ("user", "नमस्ते"),
    ]
    assert request["messages"][0]["content"].startswith("Be brief.\n\nAnswer in Hindi")


async def test_chunks_without_choices_and_answers_without_usage(fake: FakeOpenAIChat) -> None:
    """Neither is an error."""
    fake.reply(EMPTY, Text("Fine."), EMPTY, Finish(usage=None))
    async with talking(fake) as talk:
        done = await talk.ask("How are you?")
    assert (talk.text, done.usage) == ("Fine.", None)


@pytest.mark.parametrize(
    ("steps", "code", "retryable"),
    [
        (
            [Text("Half"), Chunk({"error": {"message": "out of memory", "code": 500}})],
            "provider_unavailable",
            True,
        ),
        ([Text("Half"), Drop()], "provider_unavailable", True),
        ([Text("Half"), Raw(b"data: {not json}\n\n")], "provider_unavailable", True),
        ([Text("Half")], "provider_lost", True),  # it ends without saying why
        ([Text("Half"), Wait(asyncio.Event())], "provider_stalled", True),
        ([Wait(asyncio.Event())], "provider_stalled", True),
        ([Status(429)], "provider_busy", True),
        ([Status(503)], "provider_unavailable", True),
        ([Status(401)], "provider_refused", False),
        ([Status(400)], "provider_refused", False),
    ],
    ids=["error", "drop", "not-json", "no-finish", "stall", "silent", "429", "503", "401", "400"],
)
async def test_faults(fake: FakeOpenAIChat, steps: list[Any], code: str, retryable: bool) -> None:
    """Each fault ends the turn with a failure that says whether to try again; the next turn is answered."""
    fake.reply(*steps)
    async with talking(fake, {"first_chunk_s": 0.5, "next_chunk_s": 0.5}) as talk:
        failed = await talk.ask("one")
        assert isinstance(failed, base.Failed)
        assert (failed.code, failed.retryable, failed.fatal) == (code, retryable, False)
        assert isinstance(await talk.ask("two"), base.TurnDone)
    said = [(each["role"], each["content"]) for each in fake.requests[-1]["messages"][1:]]
    half = [("assistant", "Half")] if steps[0] == Text("Half") else []
    assert said == [("user", "one"), *half, ("user", "two")]


async def test_a_busy_endpoint_is_asked_again(fake: FakeOpenAIChat) -> None:
    """What was not begun is tried again by the client itself."""
    fake.reply(Status(503))
    async with talking(fake, {"retries": 1}) as talk:
        assert isinstance(await talk.ask("one"), base.TurnDone)
    assert len(fake.requests) == 2


async def test_an_endpoint_that_does_not_count(fake: FakeOpenAIChat) -> None:
    """One that refuses `stream_options` is not asked for them again."""
    fake.reply(Status(400, "unknown field stream_options"))
    async with talking(fake) as talk:
        assert isinstance(await talk.ask("one"), base.TurnDone)
        assert isinstance(await talk.ask("two"), base.TurnDone)
    assert ["stream_options" in request for request in fake.requests] == [True, False, False]


async def test_an_interruption_frees_the_slot(fake: FakeOpenAIChat) -> None:
    """The stream is closed at once, and of the answer the model remembers what was heard."""
    fake.reply(Text("One two three four"), Wait(asyncio.Event()))
    async with talking(fake) as talk:
        await talk.session.send_text("Count")
        await talk.until(base.Delta)
        assert fake.streams_open == 1
        await talk.session.interrupt(heard_text="One two", played_ms=None)
        await talk.until(base.TurnDone)
        await wait_until_async(lambda: _done(fake.streams_broken_off == 1), "the endpoint knows")
        await talk.ask("Go on", note="Not yet heard: «three four».")
    assert [each["content"] for each in fake.requests[1]["messages"][1:]] == [
        "Count",
        "One two",
        "Not yet heard: «three four».\n\nGo on",
    ]


async def _done(value: bool) -> bool:
    return value


async def test_an_interruption_after_the_last_chunk(fake: FakeOpenAIChat) -> None:
    """An answer that is complete but not heard to its end is cut in the model's memory as well; a note is told once."""
    async with talking(fake) as talk:
        await talk.ask("one")
        await talk.session.interrupt(heard_text="You", played_ms=None)
        await talk.session.set_note("They heard «You».")
        await talk.ask("two")
        await talk.ask("three")
    contents = [each["content"] for each in fake.requests[2]["messages"][1:]]
    assert contents == ["one", "You", "two", "You said: They heard «You».\n\ntwo", "three"]


async def test_a_new_turn_ends_the_one_under_way(fake: FakeOpenAIChat) -> None:
    """Who speaks on is answered on: the old answer ends where it is."""
    fake.reply(Text("A long"), Wait(asyncio.Event()))
    async with talking(fake) as talk:
        await talk.session.send_text("one")
        await talk.until(base.Delta)
        await talk.session.send_text("two")
        await talk.until(base.TurnDone)
        await talk.until(base.TurnDone)
    assert talk.text == "A longYou said: two"


async def test_tools(fake: FakeOpenAIChat) -> None:
    """Calls come together from their pieces, two at once; their results go back in pairs, and the answer follows."""
    fake.reply(
        Text("Let me see."),
        Call("search", '{"query": "loans"}', id="a"),
        Call("search", '{"query": "rates"}', id="b", place=1),
        Finish("tool_calls"),
    )
    fake.reply("Here it is.")
    async with talking(fake, tools=(SEARCH,)) as talk:
        await talk.session.send_text("Search")
        first = await talk.until(base.ToolCall)
        second = await talk.until(base.ToolCall)
        assert (first.arguments, second.arguments) == ({"query": "loans"}, {"query": "rates"})
        await talk.session.send_tool_result("b", "search", None, error="too slow")
        await talk.session.send_tool_result("a", "search", ["p"])
        await talk.session.send_tool_result("a", "search", ["again"])
        done = await talk.until(base.TurnDone)
    assert talk.text == "Let me see.Here it is."
    assert done.usage == {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
    assert fake.requests[0]["tools"][0]["function"]["name"] == "search"
    asked, *results = fake.requests[1]["messages"][2:]
    assert [call["id"] for call in asked["tool_calls"]] == ["a", "b"]
    assert [(each["tool_call_id"], each["content"]) for each in results] == [
        ("a", '{"result": ["p"]}'),
        ("b", '{"error": "too slow"}'),
    ]


async def test_arguments_that_are_no_json(fake: FakeOpenAIChat) -> None:
    """Small models write them: the model is told, nobody is called."""
    fake.reply(Call("search", '{"query": '), Finish("tool_calls"))
    fake.reply("Sorry.")
    async with talking(fake, tools=(SEARCH,)) as talk:
        await talk.ask("Search")
    assert not [event for event in talk.events if isinstance(event, base.ToolCall)]
    assert "not a JSON object" in fake.requests[1]["messages"][-1]["content"]


async def test_calls_without_end(fake: FakeOpenAIChat) -> None:
    """A model that only ever calls is stopped."""
    for _ in range(20):
        fake.reply(Call("search", "[]"), Finish("tool_calls"))
    async with talking(fake, tools=(SEARCH,)) as talk:
        failed = await talk.ask("Search")
    assert (failed.code, len(fake.requests)) == ("provider_failed", 8)


async def test_an_interruption_while_a_tool_runs(fake: FakeOpenAIChat) -> None:
    """The call is cancelled, and the next request has something in the place of its result."""
    fake.reply(Call("search", "{}"), Finish("tool_calls"))
    async with talking(fake, tools=(SEARCH,)) as talk:
        await talk.session.send_text("Search")
        await talk.until(base.ToolCall)
        await talk.session.interrupt(heard_text="", played_ms=None)
        assert (await talk.until(base.ToolCancelled)).ids == ("call-1",)
        await talk.until(base.TurnDone)
        await talk.ask("Something else")
    roles = [each["role"] for each in fake.requests[1]["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "user"]


async def test_an_answer_that_was_cut_by_the_endpoint(fake: FakeOpenAIChat) -> None:
    """Why an answer ended, where it is not complete, stands with the turn."""
    fake.reply(Text("Too long"), Finish("length"))
    async with talking(fake) as talk:
        assert (await talk.ask("Write")).metadata == {"finishReason": "length"}


async def test_another_language(fake: FakeOpenAIChat) -> None:
    """The next request asks for it."""
    async with talking(fake) as talk:
        await talk.ask("one")
        await talk.session.set_language("ta")
        await talk.ask("two")
    assert "Answer in Tamil" in fake.requests[1]["messages"][0]["content"]


async def test_the_first_model(fake: FakeOpenAIChat) -> None:
    """Without a model, the endpoint's first is taken; one that has none, or is not there, is named as unavailable."""
    async with talking(fake, {"model": None}) as talk:
        await talk.ask("Hello")
    assert fake.requests[0]["model"] == "fake-model"
    fake.models = ()
    with pytest.raises(ProviderUnavailable, match="set SAMVAD_LIVE_MODEL"):
        async with talking(fake, {"model": None}):
            pass
    with pytest.raises(ProviderUnavailable, match="does not say its models"):
        async with talking(fake, {"model": None, "base_url": "http://127.0.0.1:1/v1"}):
            pass


def test_what_an_operator_must_set() -> None:
    """Each missing setting is one sentence."""
    with pytest.raises(SetupError, match="needs an address or a key"):
        make_provider("openai", ProviderOptions(environ={}))
    with pytest.raises(SetupError, match="SAMVAD_LIVE_MODEL"):
        make_provider("openai", ProviderOptions(environ={"OPENAI_API_KEY": "x"}))
    with pytest.raises(SetupError, match="must begin with http"):
        make_provider("openai", ProviderOptions(openai_base_url="localhost:11434", environ={}))
    with pytest.raises(SetupError, match="GOOGLE_CLOUD_PROJECT"):
        make_provider("vertex", ProviderOptions(environ={}))
    with pytest.raises(SetupError, match="GEMINI_API_KEY"):
        make_provider("gemini", ProviderOptions(environ={}))
    assert (
        make_provider("openai", ProviderOptions(openai_base_url="http://localhost:1/v1", environ={})).name
        == "openai"
    )


MESSAGES = st.lists(
    st.one_of(
        st.just({"role": "user", "content": "u"}),
        st.just({"role": "assistant", "content": "a"}),
        st.sampled_from("xyz").map(
            lambda call: {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": call, "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            }
        ),
        st.sampled_from("xyz").map(lambda call: {"role": "tool", "tool_call_id": call, "content": "r"}),
    ),
    max_size=30,
)


@given(MESSAGES, st.integers(1, 12), st.integers(1, 20))
def test_trimming_leaves_no_orphans(messages: list[dict[str, Any]], most: int, chars: int) -> None:
    """After each call stand its results, and no result stands anywhere else; the last message is never lost."""
    shown = trimmed(messages, messages_max=most, chars_max=chars)
    owed: list[str] = []
    for message in shown:
        if message["role"] == "tool":
            assert owed and message["tool_call_id"] == owed.pop(0)
        else:
            assert not owed
            owed = [call["id"] for call in message.get("tool_calls", ())]
    assert not owed
    if messages and messages[-1]["role"] == "user":
        assert shown[-1] == messages[-1]
