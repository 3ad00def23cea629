"""The files of a database are changed beneath a running server: nothing is acknowledged that a restart would lose.

Seen first in a test: Python's own sqlite3 in the server's process was the last to close, by locks that do not see
SQLite's of apsw, and deleted the log beneath the writer, which went on acknowledging into a file without a name.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from samvad.errors import DatabaseReplaced, SetupError
from samvad.runtime import open_samvad
from samvad.stores.sqlite import SQLiteStore
from tests.crash.replay import check_refusal, whole_history
from tests.crash.server import Connection, Server, command
from tests.support import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.crash]

USERS = 4
BEFORE = 60  # acknowledged messages, before the hand comes


def beside(database: Path, end: str) -> Path:
    """A file that belongs to the database."""
    return database.with_name(database.name + end)


def removed(end: str) -> Callable[[Path], None]:
    """`rm`."""
    return lambda database: beside(database, end).unlink()


def renamed(end: str) -> Callable[[Path], None]:
    """`mv` to another name."""
    return lambda database: beside(database, end).rename(database.parent / "elsewhere")


def replaced(end: str) -> Callable[[Path], None]:
    """An old copy moved over it, as `rsync` and careful people do."""

    def replace(database: Path) -> None:
        copy = database.parent / "copy"
        shutil.copy(beside(database, end), copy)
        copy.replace(beside(database, end))

    return replace


def emptied(end: str) -> Callable[[Path], None]:
    """`> FILE`, to make room."""
    return lambda database: os.truncate(beside(database, end), 0)


def linked_elsewhere(database: Path) -> None:
    """The name leads to another file from now on."""
    (database.parent / "other").symlink_to(database.parent / "nowhere.db")
    (database.parent / "other").replace(database)


async def speak(server: Server, hand: Callable[[Path], None]) -> dict[str, list[int]]:
    """Users speak until each is refused, and the hand comes meanwhile; the messages acknowledged of each."""
    acknowledged: dict[str, list[int]] = {f"user_{number}": [] for number in range(USERS)}

    async def one(user: str) -> None:
        async with await Connection.open(server.port) as connection:
            for number in range(5_000):
                message = {"role": "user", "content": f"{number}"}
                answer = await connection.post(f"/api/session/{user}/history", message)
                if answer.status != 200:
                    check_refusal(answer)
                    if "Another program is writing to the database" in answer.json["error"]:
                        continue  # seen in the middle of it
                    assert answer.json["code"] == "database_replaced", answer
                    assert "beneath the server" in answer.json["error"], answer
                    return
                acknowledged[user].append(number)
                if sum(map(len, acknowledged.values())) == BEFORE:
                    hand(server.database)
        pytest.fail("what the hand did was not seen")

    await asyncio.gather(*map(one, acknowledged))
    return acknowledged


async def check_it_refuses(server: Server, file: str) -> None:
    """It refuses writes and reads of who is not in memory, is not ready, says why, and has logged it once."""
    async with await Connection.open(server.port) as connection:
        for _ in range(3):
            answer = await connection.post("/api/session/user_0/history", {"role": "user", "content": "?"})
            check_refusal(answer)
        check_refusal(await connection.get("/api/session/stranger/profile"))
        assert (await connection.get("/api/session/user_0/profile")).check()["degraded"] is True
        ready = await connection.get("/readyz")
        assert (ready.status, ready.json["status"], ready.json["store"]) == (503, "unavailable", "down")
        assert ready.json["fault"].startswith(f"{file} was "), ready
        assert "restarted" in ready.json["fault"]
        assert b"samvad_database_replaced 1.0" in (await connection.get("/metrics")).body
        assert (await connection.get("/healthz")).status == 200
    told = wait_until(
        lambda: [line for line in server.log if "All that was acknowledged" in line],
        "the operator is told what to do",
    )
    assert len(told) == 1, server.told()
    assert len([line for line in server.log if "nothing is acknowledged any more" in line]) == 1


async def check_all_there(server: Server, acknowledged: dict[str, list[int]]) -> None:
    """Each acknowledged message is there, in order and once."""
    async with await Connection.open(server.port) as connection:
        for user, numbers in acknowledged.items():
            history = await whole_history(connection, user)
            assert [message["seq"] for message in history] == list(range(1, len(history) + 1))
            said = [int(message["content"]) for message in history]
            assert said[: len(numbers)] == numbers, user
            assert len(said) <= len(numbers) + 1, user  # the one that was refused may be there
            answer = await connection.post(
                f"/api/session/{user}/history", {"role": "user", "content": "More."}
            )
            assert answer.check()["seq"] == len(history) + 1


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize("hand", [removed, renamed])
async def test_a_log_that_is_taken_away(
    tmp_path: Path, hand: Callable[[str], Callable[[Path], None]], killed: bool
) -> None:
    """Without its log it acknowledges nothing more; all that was acknowledged is in the database after a restart."""
    with Server(tmp_path / "data").start() as server:
        acknowledged = await speak(server, hand("-wal"))
        await check_it_refuses(server, "samvad.db-wal")
        server.kill() if killed else server.stop()
        server.start()
        await check_all_there(server, acknowledged)


@pytest.mark.parametrize(
    ("hand", "file"),
    [
        (removed(""), "samvad.db"),
        (renamed(""), "samvad.db"),
        (replaced(""), "samvad.db"),
        (replaced("-wal"), "samvad.db-wal"),
        (linked_elsewhere, "samvad.db"),
    ],
    ids=["removed", "renamed", "replaced", "another log", "link"],
)
async def test_a_database_that_is_taken_away(tmp_path: Path, hand: Callable[[Path], None], file: str) -> None:
    """What was acknowledged is saved beside it; no start goes on without it, and with it in its place all is there."""
    with Server(tmp_path / "data").start() as server:
        acknowledged = await speak(server, hand)
        await check_it_refuses(server, file)
        server.kill()
        rescued = beside(server.database, ".rescued")
        assert rescued.stat().st_mode & 0o777 == 0o600
        doctor = await asyncio.to_thread(
            subprocess.run,
            command("doctor", "--data-dir", str(server.data_dir)),
            capture_output=True,
            text=True,
        )
        assert (
            doctor.returncode == 1
            and f"fail  database        {rescued} holds what was saved" in doctor.stdout
        )
        server.spawn()
        assert server.wait() == 2
        assert str(rescued) in server.log[-1] and "rename it to samvad.db" in server.log[-1]
        for end in ("", "-wal", "-shm"):  # as the line says
            beside(server.database, end).unlink(missing_ok=True)
        rescued.rename(server.database)
        server.start()
        await check_all_there(server, acknowledged)


@pytest.mark.parametrize("hand", [emptied(""), emptied("-wal")], ids=["database", "log"])
async def test_a_file_that_is_emptied(tmp_path: Path, hand: Callable[[Path], None]) -> None:
    """A file emptied in its place is seen, though it is the same file; what was in it is not there to be saved."""
    with Server(tmp_path / "data").start() as server:
        await speak(server, hand)
        async with await Connection.open(server.port) as connection:
            ready = await connection.get("/readyz")
            assert ready.status == 503 and "was written over" in ready.json["fault"]
        wait_until(lambda: "restore a backup" in server.told(), "the operator is told what to do")
        assert not beside(server.database, ".rescued").exists()


async def test_an_older_copy_over_the_database(tmp_path: Path) -> None:
    """`cp backup samvad.db` beneath a server: the file is the same and its content is not."""
    with Server(tmp_path / "data").start() as server:
        async with await Connection.open(server.port) as connection:
            (await connection.post("/api/session/u/history", {"role": "user", "content": "Old."})).check()
        assert server.stop() == 0
        copy = tmp_path / "copy"
        shutil.copy(server.database, copy)
        assert server.start().stop() == 0
        server.start()
        await speak(server, lambda database: shutil.copyfile(copy, database) and None)
        async with await Connection.open(server.port) as connection:
            ready = await connection.get("/readyz")
            assert ready.json["fault"].startswith("samvad.db was written over beneath the server"), ready


async def test_an_idle_server_is_not_ready(tmp_path: Path) -> None:
    """Nobody needs to write: who asks for somebody not in memory, or whether it is ready, is told."""
    with Server(tmp_path / "data").start() as server:
        async with await Connection.open(server.port) as connection:
            removed("")(server.database)
            answer = await connection.get("/api/session/stranger/profile")
            check_refusal(answer)
            assert answer.json["code"] == "database_replaced", answer
            assert (await connection.get("/readyz")).status == 503


async def test_an_idle_server_saves_what_it_has(tmp_path: Path) -> None:
    """It looks by itself: what is killed later was saved before."""
    with Server(tmp_path / "data").start() as server:
        async with await Connection.open(server.port) as connection:
            (await connection.post("/api/session/u/history", {"role": "user", "content": "Hello"})).check()
        removed("-wal")(server.database)
        wait_until(lambda: "All that was acknowledged is in samvad.db" in server.told(), "it has saved it")
        server.kill()
        server.start()
        async with await Connection.open(server.port) as connection:
            assert len(await whole_history(connection, "u")) == 1


async def test_a_second_sqlite_in_this_process(database_path: Path) -> None:
    """The last to close deletes the log beneath the writer: refused from then on; what was acknowledged is there."""
    async with open_samvad(f"sqlite:///{database_path}") as samvad:
        await samvad.append_to_user_history("user_1", "user", "Before.")
        with contextlib.closing(sqlite3.connect(database_path)) as other:
            other.execute("SELECT count(*) FROM recent").fetchall()
        assert not beside(database_path, "-wal").exists(), "this sqlite3 has learnt of the other's locks"
        with pytest.raises(DatabaseReplaced):
            await samvad.append_to_user_history("user_1", "user", "Into nowhere.")
    async with open_samvad(f"sqlite:///{database_path}") as samvad:
        history = (await samvad.get_user_profile("user_1")).conversation_history
        assert history[0].content == "Before."


@pytest.mark.parametrize("hand", [removed, renamed, replaced])
@pytest.mark.parametrize("end", ["", "-wal"], ids=["database", "log"])
async def test_documents_whose_file_is_taken_away(
    tmp_path: Path, hand: Callable[[str], Callable[[Path], None]], end: str
) -> None:
    """No document is taken into a file that nobody finds again; those that were are there, or saved beside it."""
    documents = tmp_path / "samvad.knowledge.db"
    async with open_samvad(f"sqlite:///{tmp_path}/samvad.db") as samvad:
        await samvad.knowledge.add_text("First", "Proof of income.")
        hand(end)(documents)
        for _ in range(2):
            with pytest.raises(DatabaseReplaced, match=r"samvad\.knowledge\.db(-wal)? was "):
                await samvad.knowledge.add_text("Second", "Proof of address.")
        await samvad.append_to_user_history("asha", "user", "This goes on.")
    if end == "":
        for each in ("", "-wal", "-shm"):
            beside(documents, each).unlink(missing_ok=True)
        beside(documents, ".rescued").rename(documents)
    async with open_samvad(f"sqlite:///{tmp_path}/samvad.db") as samvad:
        page = await samvad.knowledge.list_documents()
        assert "First" in [document.title for document in page.documents]


LOOK = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    print(database.execute(statement).fetchall())
"""


async def test_others_may_look_and_fold(database_path: Path) -> None:
    """Another process that reads, copies the database or folds the log is no reason to refuse anything."""
    copy = beside(database_path, ".copy")
    looks = [
        ["SELECT count(*) FROM recent"],
        ["PRAGMA wal_checkpoint(PASSIVE)"],
        ["PRAGMA wal_checkpoint(TRUNCATE)", f"VACUUM INTO '{copy}'"],
        ["PRAGMA wal_checkpoint(RESTART)", "SELECT count(*) FROM recent"],
        ["PRAGMA wal_checkpoint(TRUNCATE)"],
    ]
    async with open_samvad(f"sqlite:///{database_path}", wal_pages_max=20) as samvad:
        for number in range(60):
            await samvad.append_to_user_history(f"user_{number % 7}", "user", "Hello " * 300)
            if number % 10 == 5:
                look = [sys.executable, "-c", LOOK, str(database_path), *looks[number // 10 % len(looks)]]
                await asyncio.to_thread(subprocess.run, look, check=True, capture_output=True)
            if number % 20 == 19:
                await samvad.clear_user_data(f"user_{number % 7}")
        assert (await samvad.core.store.check()).up
    assert not beside(database_path, ".rescued").exists()


async def test_a_database_that_is_no_file(tmp_path: Path) -> None:
    """What is not on a disk has no files to look at, and works as it did."""
    store = SQLiteStore(tmp_path / "samvad.db", vfs="memdb")
    await store.open()
    assert (await store.check()).up
    await store.close()


async def test_what_was_rescued_is_not_forgotten(database_path: Path) -> None:
    """A start beside what was rescued is refused in one line that says what to do."""
    beside(database_path, ".rescued").touch()
    with pytest.raises(SetupError, match=r"rename it to samvad\.db.*or move it away"):
        async with open_samvad(f"sqlite:///{database_path}"):
            pass
