"""An archive taken in elsewhere: the same user, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samvad.archive.checking import checked_archive
from samvad.cli.archive_taking import _Import
from samvad.errors import SetupError, StoreUnavailable
from samvad.records import Commit, MessagesAdded, Trimmed, UserKey, unreadable_message
from samvad.runtime import open_samvad
from samvad.stores.memory import MemoryStore
from samvad.testing.model import raw_message
from tests.archive.support import ASHA, CANARY, answers, archive, members, packed, populate
from tests.firestore.support import emulator
from tests.http.support import Api, HandClock
from tests.knowledge.here import engine_here

__all__ = ["engine_here"]
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("engine_here")]
KEY = "QUJD" * 10 + "QUI="  # 32 bytes


def url_of(engine: str, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new store of an engine."""
    if engine == "firestore":
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", emulator().host)
        return f"firestore://{emulator().new_project()}"
    return "memory://" if engine == "memory" else f"sqlite:///{folder}/{name}.db"


def at(engine: str) -> tuple[str, dict[str, Any]]:
    """The engine, and the settings that it is opened with: `sealed` is encrypted SQLite."""
    return ("sqlite", {"master_key": KEY}) if engine == "sealed" else (engine, {})


async def take_in(samvad: Any, path: Path, user: str = ASHA, replace: bool = False) -> str:
    """What the command does, in this process."""
    with checked_archive(path) as found:
        return await _Import(found, UserKey("default", user), replace).run(samvad)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("memory", "sqlite"), ("sqlite", "memory"), ("sqlite", "firestore"), ("firestore", "sealed"),
        ("sealed", "sqlite"), ("sqlite", "sealed"), ("memory", "firestore"),
    ],
)  # fmt: skip
async def test_a_user_is_the_same_elsewhere(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the API says is the same, byte for byte; the second time changes nothing; what is said next follows."""
    path = tmp_path / "a.zip"
    engine, more = at(old)
    clock = HandClock()
    url = url_of(engine, tmp_path, "old", monkeypatch)
    async with open_samvad(url, clock=clock, record_interruptions=True, **more) as samvad:
        await populate(samvad)
        await populate(samvad, "bala", mark=CANARY)
        wanted = await answers(Api(samvad))
        path.write_bytes(await archive(samvad))
    engine, more = at(new)
    url = url_of(engine, tmp_path, "new", monkeypatch)
    async with open_samvad(url, clock=clock, record_interruptions=True, **more) as samvad:
        await populate(samvad, "other", mark="-other")
        assert await take_in(samvad, path) == "imported"
        assert await take_in(samvad, path) == "already there:"
        if engine == "memory":
            assert await answers(Api(samvad)) == wanted
    if engine != "memory":
        async with open_samvad(url, clock=clock, record_interruptions=True, **more) as samvad:
            api = Api(samvad)
            assert await answers(api) == wanted
            assert (await samvad.append_to_user_history(ASHA, "user", "next")).seq == 6
            again = members(await archive(samvad))
            assert CANARY.encode() not in b"".join(again.values())


async def test_under_another_name(tmp_path: Path) -> None:
    """Messages and documents are the other user's then; where sessions are taken, it is refused before anything."""
    path = tmp_path / "a.zip"
    async with open_samvad(f"sqlite:///{tmp_path}/a.db", record_interruptions=True) as samvad:
        await populate(samvad)
        await samvad.record_interruption("old", "i2", 5, json.dumps({"userId": ASHA}).encode())
        path.write_bytes(await archive(samvad))
        with pytest.raises(SetupError, match="belongs to another user there"):
            await take_in(samvad, path, "second")
        assert (await samvad.read_user("second")).version.revision == 0
    async with open_samvad(f"sqlite:///{tmp_path}/b.db", record_interruptions=True) as samvad:
        assert await take_in(samvad, path, "second") == "imported"
        found = members(await archive(samvad, "second"))
        assert json.loads(found["documents/00001.json"])["document"]["userId"] == "second"
        assert b'"userId":"second"' in found["sessions.json"] and ASHA.encode() not in found["sessions.json"]
        assert (await samvad.read_user(ASHA)).version.revision == 0


async def test_who_has_something_else_there_is_left_alone(tmp_path: Path) -> None:
    """One sentence says what to do; --replace erases what was there, and starts a new life."""
    path = tmp_path / "a.zip"
    async with open_samvad(f"sqlite:///{tmp_path}/a.db", record_interruptions=True) as samvad:
        await populate(samvad)
        path.write_bytes(await archive(samvad))
    others: list[Callable[[Any], Any]] = [
        lambda s: s.append_to_user_history(ASHA, "user", "mine"),
        lambda s: s.save_user_state(ASHA, {"mine": 1}),
        lambda s: s.save_session("mine", ASHA),
        lambda s: s.knowledge.add_text("Mine", "Mine.", user_id=ASHA),
        lambda s: s.knowledge.add_text("Mine", "Mine.", id=f"kb_{ASHA}", user_id=ASHA),
    ]
    for number, other in enumerate(others):
        async with open_samvad(f"sqlite:///{tmp_path}/{number}.db", record_interruptions=True) as samvad:
            await other(samvad)
            before = members(await archive(samvad))
            with pytest.raises(SetupError, match=r"There is other data of 'asha'.*--as.*--replace"):
                await take_in(samvad, path)
            after = members(await archive(samvad))
            for name in ("manifest.json", "README.md", "questions.json"):  # when, and whether anybody asked
                del before[name], after[name]
            assert before == after
            assert await take_in(samvad, path, replace=True) == "imported"
            found = members(await archive(samvad))
            assert found["history.jsonl"] == members(path)["history.jsonl"]
            assert b"Mine" not in found["conversation.md"]


async def test_what_was_cut_off_is_completed(tmp_path: Path) -> None:
    """The store fails in the middle; run again, the import is whole, and each message is there once."""
    path = tmp_path / "a.zip"
    messages = 1_200
    async with open_samvad(f"sqlite:///{tmp_path}/a.db") as samvad:
        await populate(samvad)
        version = (await samvad.read_user(ASHA)).version
        some = tuple(raw_message(n, f"m-{n}", n) for n in range(6, messages + 1))
        await samvad.store.commit(Commit(UserKey("default", ASHA), version, (MessagesAdded(some),)))
        path.write_bytes(await archive(samvad))

    class Fails(MemoryStore):
        tried = 0

        def commit(self, commit: Any) -> Any:
            self.tried += 1
            if self.tried == 3:
                raise StoreUnavailable
            return super().commit(commit)

    async with open_samvad("memory://", store=Fails()) as samvad:  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable):
            await take_in(samvad, path)
        assert 0 < (await samvad.store.load(
            UserKey("default", ASHA), window=0, open_after_ms=0, sessions_max=0
        )).seq < messages  # fmt: skip
        assert await take_in(samvad, path) == "imported"
        assert members(await archive(samvad))["history.jsonl"] == members(path)["history.jsonl"]


@pytest.mark.parametrize("left", [3, 0])
@pytest.mark.parametrize(
    ("old", "new"),
    [("sqlite", "firestore"), ("firestore", "sealed"), ("sealed", "memory"), ("memory", "sqlite")],
)
async def test_a_history_that_lost_its_beginning_keeps_its_numbers(
    left: int, old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where old messages were removed by a rule, or all of them, what follows has the numbers that it had."""
    path = tmp_path / "a.zip"
    engine, more = at(old)
    url = url_of(engine, tmp_path, "old", monkeypatch)
    async with open_samvad(url, record_interruptions=True, **more) as samvad:
        await populate(samvad)
        user = UserKey("default", ASHA)
        head = await samvad.store.load(user, window=0, open_after_ms=0, sessions_max=0)
        await samvad.store.commit(Commit(user, head.version, (Trimmed(6 - left),)))
        path.write_bytes(await archive(samvad))
        assert json.loads(members(path)["manifest.json"])["trimmed"] == 5 - left
    engine, more = at(new)
    url = url_of(engine, tmp_path, "new", monkeypatch)
    async with open_samvad(url, record_interruptions=True, **more) as samvad:
        assert await take_in(samvad, path) == "imported"
        assert await take_in(samvad, path) == "already there:"
        again = members(await archive(samvad))
        assert again["history.jsonl"] == members(path)["history.jsonl"]
        page = await samvad.page_history(ASHA)
        assert [m.seq for m in page.messages] == list(range(6 - left, 6))
        assert (await samvad.append_to_user_history(ASHA, "user", "next")).seq == 6
        with pytest.raises(SetupError, match="There is other data"):
            await take_in(samvad, path)
        assert await take_in(samvad, path, replace=True) == "imported"
        assert (await samvad.append_to_user_history(ASHA, "user", "next")).seq == 6


async def test_who_wants_no_content_kept_gets_none(tmp_path: Path) -> None:
    """An archive with content is refused where the user, or the tenant, wants none; one without is taken in."""
    path, without = tmp_path / "a.zip", tmp_path / "b.zip"
    async with open_samvad("memory://") as samvad:
        await populate(samvad)
        path.write_bytes(await archive(samvad))
        await samvad.save_privacy(ASHA, content="none")
        await samvad.append_to_user_history(ASHA, "user", "My card ends in 4711.", sessionId="phone")
        with pytest.raises(SetupError, match="No content is to be kept"):
            await take_in(samvad, path, replace=True)
        without.write_bytes(await archive(samvad))
        assert "not kept: 21 characters" in members(without)["conversation.md"].decode()
    async with open_samvad(f"sqlite:///{tmp_path}/b.db", content_none_tenants="default") as samvad:
        with pytest.raises(SetupError, match="No content is to be kept"):
            await take_in(samvad, path)
        assert await take_in(samvad, without) == "imported"
        assert members(await archive(samvad))["history.jsonl"] == members(without)["history.jsonl"]
    found = members(without)
    changed = found | {"history.jsonl": found["history.jsonl"].replace(b'"content":""', b'"content":"4711"')}
    without.write_bytes(packed(changed))
    async with open_samvad(f"sqlite:///{tmp_path}/c.db") as samvad:
        with pytest.raises(SetupError, match="No content is to be kept"):
            await take_in(samvad, without)


@pytest.mark.parametrize(
    ("old", "new"),
    [("sqlite", "firestore"), ("firestore", "sealed"), ("sealed", "memory"), ("memory", "sqlite")],
)
async def test_what_is_kept_without_content_is_the_same_elsewhere(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths, times, ids and the wish itself arrive; what is said after that is not kept either."""
    path = tmp_path / "a.zip"
    engine, more = at(old)
    clock = HandClock()
    url = url_of(engine, tmp_path, "old", monkeypatch)
    async with open_samvad(url, clock=clock, record_interruptions=True, **more) as samvad:
        await samvad.save_privacy(ASHA, content="none")
        await populate(samvad, documents=False)
        wanted = await answers(Api(samvad))
        path.write_bytes(await archive(samvad))
    found = members(path)
    said = [json.loads(line) for line in found["history.jsonl"].splitlines()]
    assert [each["contentLength"] for each in said] == [47, 4, 1, 1, 65_535]
    assert {each["content"] for each in said} == {""} and not any("toolCalls" in each for each in said)
    assert not any(word in body for body in found.values() for word in ("पुणे".encode(), b"morning", b"colour"))
    engine, more = at(new)
    url = url_of(engine, tmp_path, "new", monkeypatch)
    async with open_samvad(url, clock=clock, record_interruptions=True, **more) as samvad:
        assert await take_in(samvad, path) == "imported"
        assert await take_in(samvad, path) == "already there:"
        assert await answers(Api(samvad)) == wanted
        assert members(await archive(samvad))["history.jsonl"] == found["history.jsonl"]
        for seq in (6, 6):
            appended = await samvad.append_to_user_history(ASHA, "user", "My card ends in 4711.")
            assert appended.seq == seq and appended.content_kept is False
            assert b"4711" not in b"".join(members(await archive(samvad)).values())
            assert await take_in(samvad, path, replace=True) == "imported"


async def test_the_wish_of_who_is_there_is_not_lost(tmp_path: Path) -> None:
    """An archive from where content was kept, though it has none, does not end it, not even with --replace."""
    path = tmp_path / "a.zip"
    async with open_samvad("memory://") as samvad:
        await samvad.save_session("phone", ASHA)
        path.write_bytes(await archive(samvad))
    async with open_samvad("memory://") as samvad:
        await samvad.save_privacy(ASHA, content="none")
        for replace in (False, True):
            with pytest.raises(SetupError, match=r"wishes that no content is kept.*samvad user privacy"):
                await take_in(samvad, path, replace=replace)
        await samvad.save_privacy(ASHA, content="keep")
        assert await take_in(samvad, path, replace=True) == "imported"


async def test_a_history_may_be_kept_in_part(tmp_path: Path) -> None:
    """Messages from before and after a tenant's wish, and one that was damaged: each arrives as it is."""
    path, url = tmp_path / "a.zip", f"sqlite:///{tmp_path}/a.db"
    async with open_samvad(url) as samvad:
        await populate(samvad)
    async with open_samvad(url, content_none_tenants="default") as samvad:
        await samvad.append_to_user_history(ASHA, "user", "4711", id="given")
        await samvad.append_to_user_history(ASHA, "user", "4711", id="other")
        user = UserKey("default", ASHA)
        head = await samvad.store.load(user, window=0, open_after_ms=0, sessions_max=0)
        damaged = unreadable_message(head.seq + 1, "m-7", "user", 1_736_528_400_000)
        await samvad.store.commit(Commit(user, head.version, (MessagesAdded((damaged,)),)))
        path.write_bytes(await archive(samvad))
    told = [json.loads(line) for line in members(path)["history.jsonl"].splitlines()]
    assert [bool(each["content"]) for each in told] == [True] * 5 + [False] * 2
    assert "cannot be read" in members(path)["conversation.md"].decode()
    async with open_samvad(f"sqlite:///{tmp_path}/b.db") as samvad:
        assert await take_in(samvad, path) == "imported"
        assert members(await archive(samvad))["history.jsonl"] == members(path)["history.jsonl"]
        profile = await samvad.get_user_profile(ASHA)
        assert [m.content_length for m in profile.conversation_history[-2:]] == [4, None]
        assert profile.conversation_history[-1].extra["unreadable"] is True
