"""Keeping no content: nothing that anybody said is to be found anywhere, and an assistant still works."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from samvad import open_samvad
from samvad.clock import SystemClock
from samvad.errors import Forbidden, InvalidRequest
from samvad.http.app import SamvadApp
from samvad.records import UserKey
from samvad.runtime import Samvad
from samvad.stores.memory import MemoryStore
from samvad.stores.urls import store_from_url
from samvad.testing.scripted import Say, ScriptedProvider, Wait
from samvad.types import Principal
from tests.firestore.raw import everything
from tests.firestore.support import emulator
from tests.http.support import Api
from tests.live.support import Client, talking
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio

CANARY = "canary-41c7-कोयल"
ASHA = "asha"


class Place:
    """One store, and all that it leaves behind."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.memory = MemoryStore()
        self.project = emulator().new_project() if kind.startswith("firestore") else ""

    def open(self, replica: int = 0, **settings: Any) -> Samvad:
        """The service over the store, not yet open."""
        settings = {"record_interruptions": True, "keep_questions": "store"} | settings
        if self.kind == "memory":
            return open_samvad("memory://", store=self.memory, **settings)
        if self.kind == "sqlite":
            return open_samvad(f"sqlite:///{self.folder / 'samvad.db'}", **settings)
        if self.kind == "journaled":
            store = store_from_url(f"sqlite:///{self.folder / 'samvad.db'}", SystemClock())
            return open_samvad(
                "sqlite://", store=store, journal_dir=self.folder / str(replica) / "journal", **settings
            )
        url = f"firestore://{self.project}"
        store = store_from_url(url, SystemClock(), emulator_host=emulator().host)
        journal = None if self.kind == "firestore" else self.folder / str(replica) / "journal"
        return open_samvad(url, store=store, journal_dir=journal, **settings)

    async def left(self) -> bytes:
        """Every byte that is left anywhere."""
        found = [path.read_bytes() for path in sorted(self.folder.rglob("*")) if path.is_file()]
        found.append(repr(vars(self.memory)).encode())
        if self.project:
            found.append(repr(await asyncio.to_thread(everything, self.project)).encode())
        return b"\n".join(found)

    async def hits(self, text: str = CANARY) -> int:
        """How often a text is there: plain, escaped, in base64, or in Python's way of showing bytes."""
        left = await self.left()
        forms = {
            text.encode(),
            text.encode("unicode_escape"),
            json.dumps(text)[1:-1].encode(),
            repr(text.encode())[2:-1].encode(),
            base64.b64encode(text.encode())[:-4],
        }
        return sum(left.count(form) for form in forms)


KINDS = ["memory", "sqlite", "journaled", "firestore", "firestore+journal"]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each store."""
    return Place(request.param, tmp_path)


async def say_everything(samvad: Any, user: str = ASHA) -> None:
    """Put the canary wherever a caller can."""
    await samvad.save_user_state(user, {"note": CANARY, "conversationContext": {"topic": CANARY}})
    await samvad.save_session("s1", user, language="hi", metadata={"note": CANARY}, more=CANARY)
    await samvad.append_to_user_history(
        user, "user", CANARY, id="m1", name=CANARY, metadata={"note": CANARY}, sessionId="s1", more=CANARY
    )
    tool_call = {"id": f"call {CANARY}", "name": CANARY, "arguments": {"for": CANARY}}
    await samvad.append_to_user_history(user, "assistant", CANARY, toolCalls=[tool_call])
    await samvad.append_to_user_history(user, "tool", CANARY, toolCallId=f"call {CANARY}")
    await samvad.save_user_profile(user, {"note": CANARY, "language": f"hi {CANARY}", "voiceSpeed": 0.8})
    body = msgspec.json.encode({"id": "i1", "fullText": CANARY})
    await samvad.record_interruption("s1", "i1", samvad.core.clock.now_ms(), body)


def turns_under_way(folder: Path) -> list[Path]:
    """The files that name conversations of a killed server."""
    return list(folder.rglob("*.turn"))


async def drained(samvad: Samvad) -> None:
    """Wait until the store has everything."""
    if hasattr(samvad.store, "drain"):
        assert await samvad.store.drain(20) == 0


async def test_nothing_said_is_left_and_lengths_are(place: Place) -> None:
    """From the first message on, also after a restart; what was said in another life is removed by the switch."""
    async with place.open() as samvad:
        await say_everything(samvad)
        await drained(samvad)
        assert await place.hits() > 0, "as long as content is kept, it is found"
        saved = await samvad.save_privacy(ASHA, content="none")
        assert saved.privacy == ("none", "user")
        assert (saved.cleared.messages, saved.cleared.sessions, saved.cleared.pending) == (3, 1, False)
        await drained(samvad)
        assert await place.hits() == 0, "the switch removes what was there"
        await say_everything(samvad)
        assert await place.hits() == 0
        await samvad.end_session("s1")
        again = await samvad.save_privacy(ASHA, content="none")
        assert again.cleared.messages == 0, "asked for twice, it removes nothing"
    assert await place.hits() == 0
    if place.kind == "memory":
        return
    async with place.open() as samvad:
        await say_everything(samvad)
        assert await samvad.get_privacy(ASHA) == ("none", "user")
        page = await samvad.page_history(ASHA)
        assert [(m.seq, m.role, m.content, m.content_kept) for m in page.messages] == [
            (1, "user", "", False),
            (2, "assistant", "", False),
            (3, "tool", "", False),
            (4, "assistant", "", False),
            (5, "tool", "", False),
        ]
        first = page.messages[0]
        assert (first.id, first.session_id) == ("m1", "s1")
        assert (first.content_length, first.content_chars) == (len(CANARY.encode()), len(CANARY))
        assert (first.name, first.metadata, first.tool_calls, first.extra) == (None, None, None, {})
        profile = await samvad.get_user_profile(ASHA)
        assert profile.preferences == {"language": "en", "voiceSpeed": 0.8, "contentKept": False}
        state = await samvad.get_user_state(ASHA)
        assert state is not None and state.state == {}
        session = await samvad.get_session("s1")
        assert session is not None and (session.language, session.metadata, session.extra) == ("hi", None, {})
        assert await samvad.recorded_interruptions("s1") == []
        await drained(samvad)
    assert await place.hits() == 0


async def test_erasing_ends_it_and_keep_brings_content_back(place: Place) -> None:
    """The wish goes with everything else of the user; a program may take it back."""
    async with place.open() as samvad:
        await samvad.save_privacy(ASHA, content="none")
        await samvad.append_to_user_history(ASHA, "user", CANARY)
        assert (await samvad.save_privacy(ASHA, content="keep")).privacy == ("keep", "default")
        kept = await samvad.append_to_user_history(ASHA, "user", "hello")
        assert kept.content_kept
        page = await samvad.page_history(ASHA)
        assert [m.content for m in page.messages] == ["", "hello"]
        again = await samvad.save_privacy(ASHA, content="none")
        assert again.cleared.messages == 2
        await samvad.clear_user_data(ASHA)
        assert await samvad.get_privacy(ASHA) == ("keep", "default")
        await drained(samvad)
        assert await place.hits(f'"{ASHA}"') == 0 or place.kind != "memory"


async def test_what_lies_behind_the_window_is_found_as_well(tmp_path: Path) -> None:
    """A hundred messages without content hide one with content: the switch looks at all."""
    place = Place("sqlite", tmp_path)
    async with place.open(window_messages=2) as samvad:
        await samvad.append_to_user_history(ASHA, "user", CANARY)
        await samvad.save_user_profile(ASHA, {"contentKept": False})  # as an import does: nothing is removed
        for _ in range(3):
            await samvad.append_to_user_history(ASHA, "user", "hello")
        assert await place.hits() > 0
        saved = await samvad.save_privacy(ASHA, content="none")
        assert saved.cleared.messages == 4
        for _ in range(5):
            await samvad.append_to_user_history(ASHA, "user", "hello")
        assert (await samvad.save_privacy(ASHA, content="none")).cleared.messages == 0
    assert await place.hits() == 0


@pytest.mark.parametrize("settings", [{"content": "none"}, {"content_none_tenants": "default, other"}])
async def test_a_tenant_keeps_none(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Of all its users; nobody can ask for more, and what others keep is theirs."""
    place = Place("journaled", tmp_path)
    async with place.open(**settings) as samvad:
        await say_everything(samvad)
        assert await samvad.get_privacy(ASHA) == ("none", "tenant")
        assert (await samvad.save_privacy(ASHA, content="keep")).privacy == ("none", "tenant")
        assert not (await samvad.append_to_user_history(ASHA, "user", CANARY)).content_kept
        await samvad.knowledge.search(CANARY)  # finds nothing, and the question is nobody's
        await samvad.knowledge.core.statistics.flush()
        third = samvad.acting_as(Principal("third", None, frozenset({"users"})))
        kept = (await third.append_to_user_history(ASHA, "user", "hello")).content_kept
        assert kept is (settings.get("content") != "none")
        await drained(samvad)
    assert await place.hits() == 0


async def test_a_question_that_found_nothing_is_not_kept_in_words(tmp_path: Path) -> None:
    """Though the operator wants such questions in the store."""
    place = Place("sqlite", tmp_path)
    async with place.open() as samvad:
        await samvad.save_privacy(ASHA, content="none")
        for user, count in (("bala", 1), (ASHA, 0)):
            asking = samvad.knowledge.acting_as(Principal("default", user))
            await asking.search(f"{CANARY} of {user}")
            await samvad.knowledge.core.statistics.flush()
            assert (await place.hits(f"{CANARY} of {user}") > 0) == bool(count)


async def test_who_may_ask(tmp_path: Path) -> None:
    """A person may make it stricter for themself, and not looser; nobody for others."""
    async with Place("sqlite", tmp_path).open() as samvad:
        person = samvad.acting_as(Principal("default", ASHA))
        assert (await person.save_privacy(ASHA, content="none")).privacy.content == "none"
        with pytest.raises(Forbidden):
            await person.save_privacy(ASHA, content="keep")
        with pytest.raises(Forbidden):
            await person.save_privacy("bala", content="none")
        with pytest.raises(InvalidRequest):
            await samvad.save_privacy(ASHA, content="some")
        await person.save_user_profile(ASHA, {"contentKept": True, "voiceSpeed": 2})
        await person.save_user_profile(ASHA, {"contentKept": None})
        assert await samvad.get_privacy(ASHA) == ("none", "user")
        await samvad.acting_as(Principal("default", None, frozenset({"users"}))).save_privacy(
            ASHA, content="keep"
        )


async def test_two_replicas_agree(tmp_path: Path) -> None:
    """What the other replica takes in before it hears of the wish is reduced or erased: none of it stays."""
    place = Place("firestore+journal", tmp_path)
    async with place.open(0) as one, place.open(1) as two:
        await one.append_to_user_history(ASHA, "user", CANARY)
        await drained(one)
        assert len((await two.get_user_profile(ASHA)).conversation_history) == 1
        told = asyncio.create_task(one.save_privacy(ASHA, content="none"))
        while not told.done():
            await two.append_to_user_history(ASHA, "user", f"{CANARY} again")
            await asyncio.sleep(0)
        assert (await told).privacy.content == "none"
        for _ in range(3):
            await two.append_to_user_history(ASHA, "user", f"{CANARY} later")
        await drained(one)
        await drained(two)

        async def heard() -> bool:
            return (await two.get_privacy(ASHA)).content == "none"

        await wait_until_async(heard, "the other replica hears of it", timeout_s=20)
        await two.append_to_user_history(ASHA, "user", f"{CANARY} in the end")
        await drained(two)
        documents = repr(await asyncio.to_thread(everything, place.project))
        assert documents.count("canary") == 0
    assert await place.hits() == 0


async def test_over_http(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Every door that takes in what people say, with keys that make answers be kept; logs and metrics as well."""
    caplog.set_level(logging.DEBUG)
    async with place.open() as samvad:
        api = Api(samvad, SamvadApp(samvad))
        user = f"/api/session/{ASHA}"
        assert (await api.ok("GET", f"{user}/privacy"))["privacy"] == {
            "content": "keep",
            "decidedBy": "default",
        }
        saved = await api.ok("PUT", f"{user}/privacy", {"content": "none"})
        assert saved["privacy"] == {"content": "none", "decidedBy": "user"}
        await api.refused(400, "missing_fields", "PUT", f"{user}/privacy", {})
        await api.refused(400, "invalid_request", "PUT", f"{user}/privacy", {"content": CANARY})
        message = {"role": "user", "content": CANARY, "id": "m1", "metadata": {"x": CANARY}}
        key = {"idempotency-key": "k1"}
        for _ in range(2):
            said = await api.ok("POST", f"{user}/history", message, headers=key)
            assert (said["seq"], said["contentKept"], "duplicate" in said) == (1, False, False)
        said = await api.ok("POST", f"{user}/history", message)
        assert (said["duplicate"], said["contentKept"]) == (True, False)
        many = await api.ok("POST", f"{user}/history", {"messages": [message, {**message, "id": "m2"}]})
        assert [each["contentKept"] for each in many["messages"]] == [False, False]
        state = await api("POST", f"{user}/state", {"note": CANARY, "activeSessionId": "s1"})
        assert state.json["contentKept"] is False
        assert (await api.ok("GET", f"{user}/state"))["state"]["activeSessionId"] == "s1"
        create = {"sessionId": "s1", "userId": ASHA, "metadata": {"x": CANARY}}
        await api.ok("POST", "/api/session/create", create, headers={"idempotency-key": "k2"})
        operations = [
            {"op": "append", "userId": ASHA, **message, "id": "m3"},
            {"op": "state", "userId": ASHA, "state": {"note": CANARY}},
            {"op": "preferences", "userId": ASHA, "preferences": {"note": CANARY}},
            {"op": "session", "userId": ASHA, "sessionId": "s1", "metadata": {"x": CANARY}},
        ]
        done = await api.ok(
            "POST", "/api/session/batch", {"operations": operations}, headers={"idempotency-key": "k3"}
        )
        assert [each.get("contentKept") for each in done["results"]] == [False, False, None, None]
        interruption = {"type": "BARGE_IN", "fullText": f"{CANARY} two three", "heardText": CANARY}
        path = "/api/session/s1/interruptions"
        first = await api.ok("POST", path, interruption, headers={"idempotency-key": "k4"})
        again = await api.ok("POST", path, interruption, headers={"idempotency-key": "k4"})
        assert first == again, "the key holds as long as the process lives"
        assert len((await api.ok("GET", path))["interruptions"]) == 1
        resumed = await api.ok("POST", f"{path}/resume", headers={"idempotency-key": "k5"})
        assert resumed["unheardText"] == "two three"
        profile = (await api.ok("GET", f"{user}/profile"))["profile"]
        assert [m["content"] for m in profile["conversationHistory"]] == ["", "", ""]
        page = (await api.ok("GET", f"{user}/history"))["messages"]
        assert page[0] == {
            "seq": 1,
            "id": "m1",
            "role": "user",
            "content": "",
            "timestamp": page[0]["timestamp"],
            "contentLength": len(CANARY.encode()),
            "contentChars": len(CANARY),
            "contentKept": False,
        }
        await drained(samvad)
        assert (await api.ok("GET", "/api/session/stats"))["stats"]["activeSessions"] == 1
        assert CANARY not in api.app.metrics.render().decode()
        assert await place.hits() == 0
    assert await place.hits() == 0
    logged = " ".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert "canary" not in logged


WORDS = [Say(f"{word} ") for word in f"One two three four {CANARY} five six seven.".split()]


async def test_a_live_conversation_goes_on(tmp_path: Path) -> None:
    """It remembers what was said and what was cut off while it lives; other devices and the disk learn lengths."""
    provider = ScriptedProvider({"wait": [*WORDS[:6], Wait(), *WORDS[6:]], "": [Say(f"Fine {CANARY}.")]})
    url = f"sqlite:///{tmp_path / 'samvad.db'}"
    place = Place("sqlite", tmp_path)
    options = {"record_interruptions": True}
    async with talking(provider, url=url, directory=tmp_path, samvad_options=options, checkpoint_s=0.01) as (
        live,
        samvad,
    ):
        await samvad.save_privacy("user_456", content="none")
        client, other = Client(live), Client(live)
        await client.start()
        await other.start(sessionId="session_other")
        client.say(f"hello {CANARY}")
        await client.next("turn_complete")
        shown = (await other.next("message"))["message"]
        assert (shown["role"], shown["content"], shown["contentKept"]) == ("user", "", False)
        history = live.conversations["default", "session_123"]._history()
        assert [turn.text for turn in history] == [f"hello {CANARY}", f"Fine {CANARY}."]
        client.say("wait")
        while (await client.next("text_chunk"))["text"] != "five ":
            pass
        client.send({"type": "interrupt", "playedChars": 14})
        cut = await client.next("interrupted")
        assert cut["canResume"] and CANARY in cut["unheardText"]
        client.send({"type": "resume_interruption"})
        await client.next("turn_complete")
        started = next(frame for frame in client.seen if frame["type"] == "session_started")
        await client.leave()
        assert await place.hits() == 0
        back = Client(live)
        resume = {"token": started["resumeToken"], "epoch": started["epoch"], "lastSeq": 0}
        await back.start(sessionId=None, resume=resume)
        told = [frame["message"] for frame in back.seen if frame["type"] == "message"]
        assert len(told) >= 5 and {message["content"] for message in told} == {""}
        assert len(live.conversations["default", "session_123"]._history()) >= 3
        await back.leave()
        await other.leave()
        assert await place.hits() == 0
        assert turns_under_way(tmp_path) == []
    assert await place.hits() == 0
    async with open_samvad(url) as samvad:
        page = await samvad.page_history("user_456")
        assert {m.content for m in page.messages} == {""}
        assert all((m.content_length or 0) > 0 and m.session_id == "session_123" for m in page.messages)


async def test_switching_ends_a_live_conversation(tmp_path: Path) -> None:
    """What it held in memory belongs to the life that was erased; the client may begin anew at once."""
    provider = ScriptedProvider({"": [Say(f"Fine {CANARY}.")]})
    async with talking(provider, url=f"sqlite:///{tmp_path / 'samvad.db'}") as (live, samvad):
        client = Client(live)
        await client.start()
        client.say(CANARY)
        await client.next("turn_complete")
        await samvad.save_privacy("user_456", content="none")
        assert (await client.next("session_ended"))["reason"] == "erased"
        again = Client(live)
        await again.start()
        again.say(CANARY)
        await again.next("turn_complete")
        await again.leave()
    assert await Place("sqlite", tmp_path).hits() == 0


async def test_an_entry_that_waits_from_before_the_setting(tmp_path: Path) -> None:
    """What was journaled with content before the tenant kept none is reduced on its way to the store, and scrubbed."""
    place = Place("journaled", tmp_path)
    samvad = place.open()
    await samvad.open()
    stopped: Callable[..., Any] = samvad.store.flusher.stop
    await stopped()
    await samvad.append_to_user_history(ASHA, "user", CANARY)
    await samvad.aclose(drain_s=0)
    assert await place.hits() > 0
    async with place.open(content="none") as samvad:
        await drained(samvad)
        assert [m.content for m in (await samvad.page_history(ASHA)).messages] == [""]
        assert await samvad.core.lanes.read(UserKey("default", ASHA))
    assert await place.hits() == 0


async def test_no_answer_of_an_erased_user_is_given_again(tmp_path: Path) -> None:
    """What memory alone holds under an Idempotency-Key goes with the user: it says what they had said."""
    async with open_samvad("memory://", content="none") as samvad:
        api = Api(samvad, SamvadApp(samvad))
        create, key = {"sessionId": "s1", "userId": ASHA}, {"idempotency-key": "k"}
        interruption = {"type": "BARGE_IN", "fullText": f"one {CANARY} three", "heardText": "one"}
        path = "/api/session/s1/interruptions"
        await api.ok("POST", "/api/session/create", create)
        first = await api.ok("POST", path, interruption, headers=key)
        assert await api.ok("POST", path, interruption, headers=key) == first
        await api.ok("POST", "/api/session/refresh", {"userId": ASHA})
        await api.ok("POST", "/api/session/create", create)
        await api.refused(409, "user_erased", "POST", path, interruption, headers=key)
