"""`samvad parked`: what Firestore refuses for ever is shown without what was said, tried again, and given up."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from samvad.cli import app
from samvad.http.app import create_app
from samvad.records import UserKey
from samvad.sessions import parked as parked_operations
from tests.firestore.support import emulator, make_store
from tests.http.support import Api
from tests.journaled.faulty import FaultyStore
from tests.journaled.support import contents, opened, store_of
from tests.support import wait_until_async

ASHA = "आशा@example.com"
SECRET = "my card ends in 4711"


class Place:
    """A data directory with a journal in which one operation is parked, and two wait behind it."""

    def __init__(self, data_dir: Path, project: str) -> None:
        self.data_dir = data_dir
        self.project = project

    def call(self, *arguments: str, code: int = 0) -> str:
        """Run `samvad parked …` here; its output and errors."""
        store = ["--store", f"firestore://{self.project}", "--data-dir", str(self.data_dir)]
        done = CliRunner().invoke(app, ["parked", *arguments, *store])
        assert done.exit_code == code, (done.exit_code, done.output, done.exception)
        return done.output

    def listed(self) -> dict[str, Any]:
        """What is parked."""
        found: dict[str, Any] = json.loads(self.call("list", "--json"))
        return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An operation that Firestore refuses, and two behind it."""
    running = emulator()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", running.host)
    here = Place(tmp_path / "data", running.new_project())
    asyncio.run(park(here))
    return here


async def park(here: Place) -> None:
    """Have an operation parked, and stop: a time of more than 64 bits, which Firestore does not have."""
    store = make_store(here.project)
    await store.open()
    async with opened(FaultyStore(store), here.data_dir / "journal") as samvad:
        await samvad.append_to_user_history(ASHA, "user", "hello")
        await samvad.save_session("phone", ASHA)
        await wait_until_async(lambda: empty(samvad), "all is in the store")
        body = b'{"id":"i","fullText":"%b"}' % SECRET.encode()
        await samvad.record_interruption("phone", "i", 1 << 70, body)

        async def is_parked() -> bool:
            return bool(store_of(samvad).flusher.parked())

        await wait_until_async(is_parked, "the lane is parked")
        await samvad.append_to_user_history(ASHA, "user", SECRET)
        await samvad.append_to_user_history(ASHA, "assistant", "noted")
        api = Api(samvad, create_app(samvad))
        ready = await api.ok("GET", "/readyz")
        assert (ready["status"], ready["usersParked"]) == ("ready", 1)
    await store.close()


async def empty(samvad: Any) -> bool:
    """Nothing is pending."""
    return not store_of(samvad).flusher.entries_waiting


def test_parked_operations_are_listed_without_what_was_said(place: Place) -> None:
    """Who, what, why, and how many wait behind; content only where it is asked for."""
    found = place.listed()
    (parked,) = found["parked"]
    assert (parked["userId"], parked["kind"], parked["code"]) == (ASHA, "RecordInterruption", "internal")
    assert (found["waiting"], parked["behind"]) == (3, 2)
    told = place.call("list")
    assert f"{ASHA}  " in told and "1 parked, 3 operations in the journal" in told
    shown = place.call("show", ASHA)
    assert shown.count("parked: internal") == 1
    assert "phone" in shown
    for text in (told, shown, (place.data_dir / "journal" / "parked.json").read_text()):
        assert SECRET not in text
    assert place.call("show", ASHA, "--content").count(SECRET) == 2
    assert "Nothing of the user 'nobody' waits" in str(
        CliRunner()
        .invoke(app, ["parked", "show", "nobody", "--store", f"firestore://{place.project}"])
        .exception
    )


def test_a_parked_operation_is_tried_again(place: Place) -> None:
    """It is refused as long as the reason is there, and nothing is lost by trying."""
    told = place.call("retry", code=1)
    assert f"still refused: {ASHA}, RecordInterruption" in told
    assert "3 operations are left, 1 parked" in told
    assert len(place.listed()["parked"]) == 1


def test_a_parked_operation_is_dropped(place: Place) -> None:
    """Not without --yes; kept in a private file where asked; what waits behind it goes on."""
    place.call("drop", ASHA, code=1)  # nobody is there to be asked
    place.call("drop", ASHA, "--yes", "--tenant", "other", code=1)  # somebody else of that name
    assert len(place.listed()["parked"]) == 1
    place.call("drop", ASHA, "--yes", "--keep", "dropped.json")
    kept = Path("dropped.json")
    assert SECRET in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert place.listed() == {"waiting": 2, "parked": []}
    assert "0 operations are left, 0 parked" in place.call("retry")
    assert place.listed() == {"waiting": 0, "parked": []}
    assert not (place.data_dir / "journal" / "parked.json").exists()
    asyncio.run(check(place, ["hello", SECRET, "noted"]))


def test_any_operation_can_be_dropped_by_its_number(place: Place) -> None:
    """The message behind the parked one, not that one."""
    (parked,) = place.listed()["parked"]
    waiting = parked_operations.waiting(place.data_dir / "journal")
    number = str(waiting[1].number)
    place.call("drop", ASHA, "--number", "1", "--yes", code=1)
    place.call("drop", ASHA, "--number", number, "--yes")
    found = place.listed()
    assert (found["waiting"], found["parked"][0]["number"]) == (2, parked["number"])


def test_a_running_server_is_asked(place: Place) -> None:
    """It tries again what is parked, and gives up what it is told to; anything else only when it is stopped."""

    async def held() -> None:
        store = make_store(place.project)
        await store.open()
        async with opened(FaultyStore(store), place.data_dir / "journal") as samvad:

            async def listed() -> bool:
                return len((await asyncio.to_thread(place.listed))["parked"]) == 1

            await wait_until_async(listed, "the server has parked it again")
            told = await asyncio.to_thread(place.call, "retry", code=1)
            assert f"still refused: {ASHA}, RecordInterruption" in told
            assert "1 parked" in told
            waiting = parked_operations.waiting(place.data_dir / "journal")
            behind = ["drop", ASHA, "--yes", "--number", str(waiting[1].number)]
            store_flags = ["--store", f"firestore://{place.project}", "--data-dir", str(place.data_dir)]
            done = await asyncio.to_thread(CliRunner().invoke, app, ["parked", *behind, *store_flags])
            assert "stop that server (kill " in str(done.exception)
            await asyncio.to_thread(place.call, "drop", ASHA, "--yes", "--keep", "dropped.json")
            await wait_until_async(lambda: empty(samvad), "what waited behind it is in the store")
            assert not store_of(samvad).flusher.parked()
            told = await asyncio.to_thread(place.call, "retry")
            assert "0 parked" in told
        await store.close()

    asyncio.run(held())
    assert SECRET in Path("dropped.json").read_text()
    assert not (place.data_dir / "journal" / "parked-request.json").exists()
    asyncio.run(check(place, ["hello", SECRET, "noted"]))


def test_the_doctor_tells_of_parked_operations(place: Place) -> None:
    """A risk in production, with the command to look at them."""
    arguments = ["doctor", "--store", f"firestore://{place.project}", "--data-dir", str(place.data_dir)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "3 operations, 1 of them parked" in done.output
    assert "`samvad parked list`" in done.output
    assert CliRunner().invoke(app, [*arguments, "--production"]).exit_code == 1


def test_only_a_store_with_a_journal_has_parked_operations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite refuses at once, and tells the caller."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["parked", "list"])
    assert "Only a firestore:// store has a journal" in str(done.exception)


async def check(place: Place, said: list[str]) -> None:
    """What the store has now."""
    store = make_store(place.project)
    await store.open()
    assert await contents(store, ASHA) == said
    assert await store.interruptions("default", "phone", 9) == []
    record = await store.load(UserKey("default", ASHA), window=1, open_after_ms=-1, sessions_max=9)
    assert record.seq == len(said)
    await store.close()
