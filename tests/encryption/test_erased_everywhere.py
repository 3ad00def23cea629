"""Users with canary strings are erased from a real server: nothing of them is left in any file, record, log or measure.

Each user has their own word in a state, a profile, messages, tool calls, a session, an interruption, documents, answers
under idempotency keys, questions that found nothing, and (some) a live conversation. A few who stay show that the words
would be found. A backup from before can be read where encryption is off, and not where it is on.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import websockets

from samvad.clock import SystemClock
from samvad.stores.data_key_file import DataKeyFile
from samvad.stores.data_key_store import DataKeyStore
from samvad.stores.encrypting import data_keys_of, keys_file
from samvad.stores.urls import store_from_url
from tests.cli.processes import SAMVAD, environment
from tests.crash.server import Connection, Server
from tests.encryption.test_at_rest import new_key
from tests.firestore.raw import everything
from tests.firestore.support import emulator
from tests.support import SOAK, wait_until_async

pytestmark = pytest.mark.anyio

AT_ONCE = 8
COMMAND_S_MAX = 900.0
LIVE = 3  # users who also talk
STAY = 3
_WORD = re.compile(rb"(?i)quokka[0-9]{6}x")


def word(number: int) -> str:
    """The word of a user: a single one, as the words of an index are."""
    return f"quokka{number:06}x"


def numbers_in(data: bytes) -> set[int]:
    """Whose words stand in some bytes."""
    return {int(found[6:12]) for found in _WORD.findall(data)}


def hits(folder: Path) -> dict[str, set[int]]:
    """Whose words stand in which file."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (numbers := numbers_in(path.read_bytes())):
            found[str(path.relative_to(folder))] = numbers
    return found


async def each(port: int, users: Iterable[int], work: Callable[[Connection, int], Awaitable[None]]) -> None:
    """Do something for every user, some at once."""
    waiting = iter(users)

    async def lane() -> None:
        async with await Connection.open(port) as connection:
            for number in waiting:
                await work(connection, number)

    await asyncio.gather(*[lane() for _ in range(AT_ONCE)])


async def says_everything(connection: Connection, number: int) -> None:
    """A user's word wherever a caller can put one."""
    text, user = word(number), f"/api/session/user-{number}"

    async def post(path: str, body: Any, **headers: str) -> None:
        (await connection.request("POST", path, body, headers)).check()

    await post(f"{user}/state", {"note": text, text: {"deep": text}})
    call = {"id": "c1", "name": text, "arguments": {"for": text}}
    said = [
        {"role": "user", "content": f"I said {text}.", "metadata": {"note": text}},
        {"role": "assistant", "content": text, "toolCalls": [call]},
        {"role": "tool", "content": text, "toolCallId": "c1", "name": text},
    ]
    await post(f"{user}/history", {"messages": said}, **{"Idempotency-Key": f"k-{number}"})
    (await connection.request("PATCH", f"{user}/profile", {"preferences": {"note": text}})).check()
    session = {"sessionId": f"s-{number}", "userId": f"user-{number}", "metadata": {"note": text}}
    await post("/api/session/create", session)
    cut = {"type": "BARGE_IN", "fullText": f"{text} two three", "heardText": text, "topic": text}
    await post(f"/api/session/s-{number}/interruptions", cut)
    document = {
        "title": f"Of {text}", "content": f"# On {text}\n\nA {text} costs nine percent.", "category": text,
        "tags": [text], "metadata": {"note": text}, "userId": f"user-{number}",
    }  # fmt: skip
    await post("/api/knowledge/add-text", document)
    query = {"query": text, "userId": f"user-{number}"}
    answer = await connection.request("POST", "/api/knowledge/search", query)
    assert answer.check()["resultCount"] == 1
    await post("/api/knowledge/search", query | {"tags": ["none"]})  # finds nothing: the question is kept
    assert (await connection.request("POST", f"{user}/history", {"role": text})).status == 400
    assert (await connection.request("POST", f"{user}/state", [text])).status == 400


async def talks(port: int, number: int) -> None:
    """A live turn of a user, kept."""
    text = word(number)
    url = f"ws://127.0.0.1:{port}/api/live"
    async with websockets.connect(url, subprotocols=[websockets.Subprotocol("samvad.v1")]) as socket:
        start = {"type": "start_session", "userId": f"user-{number}", "sessionId": f"s-{number}"}
        await socket.send(json.dumps(start))
        await socket.send(json.dumps({"type": "user_text", "text": f"What does a {text} cost?"}))
        async for frame in socket:
            if isinstance(frame, str) and json.loads(frame)["type"] == "turn_complete":
                return


class Place:
    """A server's data directory and store, its log, and how to start it."""

    def __init__(self, folder: Path, engine: str, encrypted: bool) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.project = emulator().new_project() if engine == "firestore" else ""
        self.url = f"firestore://{self.project}" if self.project else f"sqlite:///{self.data}/samvad.db"
        self.environment = {
            "FIRESTORE_EMULATOR_HOST": emulator().host if self.project else "",
            "SAMVAD_STORE": self.url,
            "SAMVAD_LOG_LEVEL": "debug",
            "SAMVAD_AUDIT": "all",
            "SAMVAD_RECORD_INTERRUPTIONS": "true",
            "SAMVAD_KEEP_QUESTIONS": "store",
            "SAMVAD_MASTER_KEY": new_key() if encrypted else "",
        }
        self.environment = {name: value for name, value in self.environment.items() if value}

    def server(self) -> Server:
        """The server, not started."""
        return Server(self.data, environment=self.environment)

    def command(self, *arguments: str) -> str:
        """Run a command of `samvad` beside it."""
        done = subprocess.run(
            [*SAMVAD, *arguments, "--data-dir", str(self.data)],
            cwd=self.folder,
            env=environment(self.environment),
            capture_output=True,
            text=True,
            timeout=COMMAND_S_MAX,
            check=False,
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    async def records(self) -> dict[str, set[int]]:
        """Whose words stand in which record of Firestore; nothing with SQLite."""
        if not self.project:
            return {}
        raw = await asyncio.to_thread(everything, self.project)
        return {name: found for name, fields in raw.items() if (found := _in_record([name, fields]))}

    async def settled(self, port: int) -> bytes:
        """Wait until everything is in the store; what is measured then."""

        async def nothing_waits() -> bytes:
            async with await Connection.open(port) as connection:
                measures = (await connection.request("GET", "/metrics")).body
            waits = re.findall(
                rb"^samvad_(?:operations|journal_entries)_waiting (.+)$", measures, re.MULTILINE
            )
            return b"" if any(float(count) for count in waits) else measures

        return await wait_until_async(nothing_waits, "everything is in the store", timeout_s=900)


def _in_record(value: Any) -> set[int]:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return set().union(*[_in_record(one) for one in value])
    return numbers_in(value if isinstance(value, bytes) else str(value).encode())


_SOAK = [pytest.mark.soak, pytest.mark.skipif(not SOAK, reason="SAMVAD_SOAK=1 asks for it")]


@pytest.mark.parametrize(
    ("engine", "users"),
    [
        pytest.param("sqlite", 50, id="sqlite-50"),
        pytest.param("firestore", 15, id="firestore-15"),
        pytest.param("sqlite", 1_000, id="sqlite-1000", marks=_SOAK),
        pytest.param("firestore", 1_000, id="firestore-1000", marks=_SOAK),
    ],
)
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "sealed"])
async def test_nothing_of_an_erased_user_is_left(
    tmp_path: Path, encrypted: bool, engine: str, users: int
) -> None:
    """0 hits in database, log, journal, index, keys, the server's own log, measures and the audit log."""
    place = Place(tmp_path, engine, encrypted)
    stay = range(users, users + STAY)
    everyone = [*range(users), *stay]
    with place.server() as server:
        server.start()
        await each(server.port, everyone, says_everything)
        for number in range(LIVE):
            await talks(server.port, number)
        await place.settled(server.port)
        told = set().union(*hits(place.data).values())
        if encrypted or not place.project:  # else they stand in Firestore, where some are found below
            assert told == (set() if encrypted else set(everyone))
        backup = tmp_path / "backup" / "before.backup"
        backup.parent.mkdir()
        place.command("backup", str(backup), "--store", place.url)

        async def erases(connection: Connection, number: int) -> None:
            answer = await connection.request("POST", "/api/session/refresh", {"userId": f"user-{number}"})
            assert answer.status in (200, 202), answer  # 202: a slow store has it in a moment
            assert answer.json["success"] is True

        await each(server.port, range(users), erases)
        measures = await place.settled(server.port)
        left = {name: found - set(stay) for name, found in hits(place.data).items() if found - set(stay)}
        assert left == {}, "while it runs"
        assert server.stop() == 0
        log = "\n".join(server.log).encode()
    assert log and not numbers_in(log), "at DEBUG"
    assert not numbers_in(measures)
    audit = [path for path in place.data.rglob("*") if "audit" in path.name and path.stat().st_size > 10_000]
    assert audit, "every request is in the audit log"
    left = hits(place.data) | await place.records()
    assert {name: found - set(stay) for name, found in left.items() if found - set(stay)} == {}
    assert set().union(*left.values()) == (set() if encrypted else set(stay))
    await _look_at_backup(place, tmp_path, backup, users)


async def _look_at_backup(place: Place, folder: Path, backup: Path, users: int) -> None:
    """Restored with the keys as they are now: those who stay are read, those who were erased only in clear."""
    encrypted = "SAMVAD_MASTER_KEY" in place.environment
    again = Place(folder / "again", "sqlite", encrypted)
    again.data.mkdir(parents=True)
    if encrypted:
        assert not hits(backup.parent / "backup")
        again.environment["SAMVAD_MASTER_KEY"] = place.environment["SAMVAD_MASTER_KEY"]
        await _copy_keys(place, keys_file(again.data / "samvad.db"))  # first: without them it is refused
    again.command("restore", str(backup), "--store", again.url)
    read: set[int] = set()
    with again.server() as server:
        server.start()

        async def reads(connection: Connection, number: int) -> None:
            for path in (
                f"/api/session/user-{number}/state",
                f"/api/session/user-{number}/profile",
                f"/api/session/user-{number}/history",
                f"/api/session/s-{number}",
                f"/api/session/s-{number}/interruptions",
                f"/api/knowledge/list?userId=user-{number}",
            ):
                read.update(numbers_in((await connection.request("GET", path)).body))
            query = {"query": f"What does a {word(number)} cost?", "userId": f"user-{number}"}
            found = await connection.request("POST", "/api/knowledge/search", query)
            assert found.status == 200
            read.update(numbers_in(json.dumps(found.json.get("results")).encode()))

        await each(server.port, range(users + STAY), reads)
        server.stop()
    stay = set(range(users, users + STAY))
    assert read == (stay if encrypted else stay | set(range(users)))


async def _copy_keys(place: Place, target: Path) -> None:
    """The keys as they are now, from wherever the store has them."""
    store: Any = store_from_url(place.url, SystemClock(), **_options(place))
    source: DataKeyStore = data_keys_of(store)
    if place.project:
        await store.open()
    copy = DataKeyFile(target)
    await source.open()
    await copy.open()
    after = b""
    while found := await source.scan(after=after, limit=500):
        after = found[-1][0]
        for name, entry in found:
            assert await copy.swap(name, None, entry.value, entry.erasing)
    await copy.close()
    await source.close()
    if place.project:
        await store.close()


def _options(place: Place) -> dict[str, Any]:
    return {"emulator_host": place.environment["FIRESTORE_EMULATOR_HOST"]} if place.project else {}
