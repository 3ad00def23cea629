"""Switching to no content: what was said before is in no file, no answer that is kept, and no memory afterwards.

The journal above all: what it took in before this process could know of the wish is reduced on its way to the store,
and then scrubbed.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import types
from pathlib import Path
from typing import Any

import msgspec
import pytest

from samvad.clock import SystemClock
from samvad.errors import UserErased
from samvad.http.app import SamvadApp
from samvad.records import StoredInterruption, UserKey
from samvad.runtime import Options, Samvad, open_samvad
from samvad.sessions.journal import Journal
from samvad.sessions.journaled import JournaledStore
from samvad.sessions.operations import EndSession, KeepContent, RecordInterruption, SaveSession
from samvad.sessions.user_log import Rules
from samvad.stores.memory import MemoryStore
from samvad.testing.scripted import Say, ScriptedProvider, Wait
from tests.http.support import Api
from tests.journaled.faulty import FaultyStore
from tests.journaled.support import QUICK, abandon, bytes_in, drained, store_of
from tests.live.support import Client, talking
from tests.privacy.test_no_content import ASHA, CANARY, Place, say_everything, turns_under_way
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio
KEY = UserKey("default", ASHA)
_NOT_FOLLOWED = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.FrameType,
    types.CoroutineType,
    asyncio.AbstractEventLoop,
    asyncio.Task,
)


def in_memory(root: object, text: str = CANARY) -> list[str]:
    """What is reachable from an object, but for code and what runs, and holds a text."""
    wanted, raw = text, (text.encode(), msgspec.json.encode(text)[1:-1])
    seen: set[int] = set()
    found: list[str] = []
    todo: list[object] = [root]
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, _NOT_FOLLOWED):
            continue
        seen.add(id(each))
        if isinstance(each, str):
            found += [each[:80]] * (wanted in each)
        elif isinstance(each, bytes | bytearray):
            found += [repr(bytes(each[:80]))] * any(form in each for form in raw)
        else:
            todo += gc.get_referents(each)
            if isinstance(each, msgspec.Struct):  # those without `gc` tell nobody what they hold
                todo += [getattr(each, name, None) for name in each.__struct_fields__]
            if isinstance(each, functools.partial):
                todo += [each.args, each.keywords]
    return found


class Replicas:
    """A store that can go down, and services over it behind journals of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.memory = MemoryStore()

    async def open(self, n: int, **options: Any) -> tuple[Samvad, FaultyStore]:
        """One more service."""
        if n == 0:
            await self.memory.open()
        inner = FaultyStore(self.memory)
        inner.capabilities = inner.capabilities._replace(shared=True)
        chosen = Options(record_interruptions=True, listen=False, **options)
        rules = Rules(durability="journaled", unkept=chosen.unkept())
        journal = Journal(self.folder / str(n))
        store = JournaledStore(inner, journal, clock=SystemClock(), rules=rules, patience=QUICK)
        samvad = Samvad(store, options=chosen)
        await samvad.open()
        return samvad, inner

    def hits(self) -> int:
        """How often the canary is in a journal, or in the store."""
        stored = repr(vars(self.memory)).encode()
        forms = (CANARY.encode(), repr(CANARY.encode())[2:-1].encode())
        return bytes_in(self.folder, CANARY.encode()) + sum(stored.count(form) for form in forms)


async def down(samvad: Samvad, inner: FaultyStore) -> None:
    """Take the store away, and wait until that is known."""
    inner.down = True
    await samvad.append_to_user_history("somebody", "user", "else")

    async def is_known() -> bool:
        return samvad.store.degraded  # type: ignore[attr-defined]

    await wait_until_async(is_known, "the breaker opens")


async def back(samvad: Samvad, inner: FaultyStore) -> None:
    """Give the store back, and wait until it has everything, and the journal is clean."""
    inner.down = False
    await drained(samvad)
    inner.commits.clear()
    scrubber = store_of(samvad).flusher.scrubber

    async def is_clean() -> bool:
        return scrubber.task is None and not scrubber.owed

    await wait_until_async(is_clean, "the journal is scrubbed")


@pytest.mark.parametrize("what", ["everything", "a message"])
async def test_entries_from_before_the_wish_was_known_here(tmp_path: Path, what: str) -> None:
    """Taken in while the store was down and another replica had the wish: reduced when it is back, and scrubbed."""
    replicas = Replicas(tmp_path)
    one, _ = await replicas.open(0)
    two, inner = await replicas.open(1)
    await one.save_privacy(ASHA, content="none")
    await drained(one)
    await down(two, inner)
    if what == "everything":
        await say_everything(two)
    else:
        await two.append_to_user_history(ASHA, "user", CANARY)
    assert bytes_in(tmp_path / "1", CANARY.encode()) > 0, "as long as it cannot be known, it is there"
    await back(two, inner)
    assert replicas.hits() == 0
    assert await two.get_privacy(ASHA) == ("none", "user")
    assert in_memory(two) == []
    for samvad in (one, two):
        await samvad.aclose()
    assert replicas.hits() == 0


@pytest.mark.parametrize("what", ["an interruption", "a state", "a session that is ended"])
async def test_entries_from_before_the_wish_was_heard_here(tmp_path: Path, what: str) -> None:
    """The other replica was first: what is left of the entry, be it nothing, goes to the store, and it is scrubbed."""
    replicas = Replicas(tmp_path)
    one, _ = await replicas.open(0)
    two, inner = await replicas.open(1)
    for name in ("s1", "s2"):
        await one.save_session(name, ASHA)
    await drained(one)
    for name in ("s1", "s2"):
        assert await two.get_session(name) is not None
    await two.read_user(ASHA)
    user = KEY
    await one.core.lanes.write(user, KeepContent(at_ms=one.core.clock.now_ms(), kept=False))
    await drained(one)
    inner.hang()
    if what == "an interruption":
        body = msgspec.json.encode({"fullText": CANARY})
        await two.core.lanes.write(
            user, RecordInterruption(at_ms=1, interruption=StoredInterruption("i", "s1", 1, body))
        )
    elif what == "a state":
        await two.save_user_state(ASHA, {"note": CANARY})
    else:
        await two.core.lanes.write(
            user, SaveSession(at_ms=1, session_id="s2", user_id=ASHA, fields={"n": CANARY})
        )
        await two.core.lanes.write(user, EndSession(at_ms=2, session_id="s2"))
    assert bytes_in(tmp_path / "1", CANARY.encode()) > 0
    inner.release()
    await back(two, inner)
    assert replicas.hits() == 0
    for samvad in (one, two):
        await samvad.aclose()
    assert replicas.hits() == 0


@pytest.mark.parametrize("killed", [False, True])
async def test_entries_of_another_run(tmp_path: Path, killed: bool) -> None:
    """The process ends before the store is back; the next one finds out, also where the tenant keeps none by then."""
    replicas = Replicas(tmp_path)
    one, _ = await replicas.open(0)
    two, inner = await replicas.open(1)
    await one.save_privacy(ASHA, content="none")
    await down(two, inner)
    await say_everything(two)
    await two.append_to_user_history("bala", "user", CANARY)
    if killed:
        await abandon(two)
    else:
        await two.aclose(drain_s=0.1)
    assert bytes_in(tmp_path / "1", CANARY.encode()) > 0
    two, inner = await replicas.open(1, content="none")
    await back(two, inner)
    assert replicas.hits() == 0
    assert {m.content for m in (await two.page_history("bala")).messages} == {""}
    for samvad in (one, two):
        await samvad.aclose()
    assert replicas.hits() == 0


async def test_switching_while_the_store_is_down(tmp_path: Path) -> None:
    """What waits goes when it is back; until then nobody reads it, and what comes is reduced at once."""
    replicas = Replicas(tmp_path)
    samvad, inner = await replicas.open(0)
    await say_everything(samvad)
    await drained(samvad)
    await down(samvad, inner)
    await samvad.append_to_user_history(ASHA, "user", f"{CANARY} while it is down")
    saved = await samvad.save_privacy(ASHA, content="none")
    assert (saved.privacy.content, saved.cleared.pending) == ("none", True)
    written = bytes_in(tmp_path, CANARY.encode())
    said = await samvad.append_to_user_history(ASHA, "user", f"{CANARY} afterwards")
    assert not said.content_kept
    assert bytes_in(tmp_path, CANARY.encode()) == written, "nothing is added"
    assert {m.content for m in (await samvad.get_user_profile(ASHA)).conversation_history} == {""}
    await back(samvad, inner)
    assert replicas.hits() == 0
    assert in_memory(samvad) == []
    assert await samvad.get_privacy(ASHA) == ("none", "user")
    await samvad.aclose()


async def test_nothing_of_it_is_in_memory(tmp_path: Path) -> None:
    """Neither caches nor lanes, queues, answers that are kept, or the index of what is pending."""
    replicas = Replicas(tmp_path)
    samvad, inner = await replicas.open(0)
    api = Api(samvad, SamvadApp(samvad))
    await say_everything(samvad)
    interruption = {"type": "BARGE_IN", "fullText": f"{CANARY} two three", "heardText": CANARY}
    path = "/api/session/s1/interruptions"
    key = {"idempotency-key": "k1"}
    await api.ok("POST", path, interruption, headers=key)
    await api.ok("POST", f"/api/session/{ASHA}/state", {"note": CANARY}, headers={"idempotency-key": "k2"})
    await samvad.knowledge.search(CANARY, user_id=ASHA)
    await drained(samvad)
    assert in_memory(samvad) and in_memory(api.app), "as long as content is kept, it is there"
    await samvad.save_privacy(ASHA, content="none")
    await back(samvad, inner)
    assert in_memory(samvad) == []
    assert in_memory(api.app) == []
    assert replicas.hits() == 0
    await samvad.aclose()


async def test_an_answer_that_is_kept_in_memory_goes_with_its_user(tmp_path: Path) -> None:
    """It says what was cut off: after an erasing nobody gets it again, as with one that the store has."""
    replicas = Replicas(tmp_path)
    samvad, _ = await replicas.open(0)
    api = Api(samvad, SamvadApp(samvad))
    await samvad.save_privacy(ASHA, content="none")
    await samvad.save_session("s1", ASHA)
    interruption = {"type": "BARGE_IN", "fullText": f"{CANARY} two three", "heardText": CANARY}
    path, key = "/api/session/s1/interruptions", {"idempotency-key": "k1"}
    first = await api.ok("POST", path, interruption, headers=key)
    assert CANARY in str(first)
    await samvad.clear_user_data(ASHA)
    assert in_memory(samvad) == []
    await samvad.save_session("s1", ASHA)
    await api.refused(409, UserErased.code, "POST", path, interruption, headers=key)
    await samvad.aclose()


async def test_an_open_turn_holds_none(tmp_path: Path) -> None:
    """Switched in the middle of a turn: the conversation ends, and neither memory nor a file has what was said."""
    words = [Say(f"{word} ") for word in f"One two {CANARY} four".split()]
    provider = ScriptedProvider({"": [*words, Wait()]})
    place = Place("sqlite", tmp_path)
    url = f"sqlite:///{tmp_path / 'samvad.db'}"
    async with talking(provider, url=url, directory=tmp_path, checkpoint_s=0.01) as (live, samvad):
        client = Client(live)
        await client.start()
        client.say(f"hello {CANARY}")
        while (await client.next("text_chunk"))["text"] != "four ":
            pass

        async def is_noted() -> bool:
            return bool(turns_under_way(tmp_path)) and await place.hits() > 0

        await wait_until_async(is_noted, "the turn is under way")
        assert in_memory(live)
        await samvad.save_privacy("user_456", content="none")
        assert (await client.next("session_ended"))["reason"] == "erased"

        async def is_gone() -> bool:
            return not turns_under_way(tmp_path) and await place.hits() == 0

        await wait_until_async(is_gone, "nothing of the turn is left")
        client.seen.clear()
        ours = set(in_memory(live)) | set(in_memory(samvad))
        assert ours <= set(in_memory(provider)), "the script of the test, and what it was asked"
    assert await place.hits() == 0


async def test_what_looks_like_no_content_beside_what_was_said_hides_nothing() -> None:
    """A caller's metadata may hold an empty content ahead of a time: the words themselves are erased all the same."""
    async with open_samvad("memory://", window_messages=1) as samvad:
        for said in (CANARY, "a later one"):
            nested = {"content": "", "timestamp": "2025"}
            await samvad.append_to_user_history(ASHA, "user", said, metadata=nested)
        await samvad.save_privacy(ASHA, content="none")
        page = await samvad.page_history(ASHA, limit=10)
        assert [message.content for message in page.messages] == []
