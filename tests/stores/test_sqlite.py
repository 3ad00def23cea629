"""What is SQLite's own: whose file it is, a full disk, readers beside the writer, bytes that are really gone."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import apsw
import pytest

from samvad import open_samvad
from samvad.errors import SetupError, StoreLocked, StoreUnavailable
from samvad.records import Commit, MessagesAdded, StateSet, StoredState, UserKey, Version
from samvad.stores.base import Store
from samvad.stores.sqlite import SQLiteStore
from samvad.testing.model import raw_message
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio

ASHA = UserKey("default", "asha")
KIB = 1024


def said(seq: int, content: str = "x") -> MessagesAdded:
    """One message."""
    return MessagesAdded((raw_message(seq, f"m{seq}", 1, content),))


async def opened(path: Path, **settings: object) -> SQLiteStore:
    """The store over a file."""
    store = SQLiteStore(path, **settings)  # type: ignore[arg-type]
    await store.open()
    return store


async def seq_of(store: Store) -> int:
    """How far the user's history goes."""
    return (await store.load(ASHA, window=1, open_after_ms=0, sessions_max=1)).seq


# --- whose file --------------------------------------------------------------------------------------------


async def test_one_server_a_file(database_path: Path, tmp_path: Path) -> None:
    """A second one is told which process has it, however it names the file; when the first is gone, it may."""
    store = await opened(database_path)
    link = tmp_path / "link.db"
    link.symlink_to(database_path)
    folder = tmp_path / "folder"
    folder.symlink_to(tmp_path, target_is_directory=True)
    for path in (database_path, link, folder / database_path.name):
        with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
            await opened(path)
    # The attempts have taken nothing away from the one who has it.
    await store.commit(Commit(ASHA, Version(0, 0), (said(1),)))
    await store.close()
    again = await opened(link)
    assert await seq_of(again) == 1
    await again.close()


async def test_another_process_is_refused_too(database_path: Path) -> None:
    """The lock is the kernel's: another process sees it, and its end lets go of it."""
    program = (
        "import asyncio, sys\n"
        "from samvad.errors import StoreLocked\n"
        "from samvad.stores.sqlite import SQLiteStore\n"
        "async def main():\n"
        "    store = SQLiteStore(sys.argv[1])\n"
        "    try:\n"
        "        await store.open()\n"
        "    except StoreLocked as error:\n"
        "        print(error.message, flush=True)\n"
        "        return\n"
        "    print('open', flush=True)\n"
        "    sys.stdin.read()\n"  # and then the process just ends
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", program, str(database_path)]
    store = await opened(database_path)
    refused = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert f"in use by process {os.getpid()}" in refused.stdout
    await store.close()
    holder = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert (await holder.stdout.readline()).strip() == b"open"
    with pytest.raises(StoreLocked, match=f"process {holder.pid}"):
        await opened(database_path)
    holder.kill()
    await holder.communicate()
    again = await opened(database_path)
    await again.close()


async def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    """Text, another program's database, a newer schema, a folder: refused in words, and not a byte is changed."""
    text = tmp_path / "notes.txt"
    text.write_text("not a database at all, but long enough to have a header of a hundred bytes " * 3)
    other = tmp_path / "other.db"
    with apsw.Connection(str(other)) as connection:
        connection.execute("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)")
    connection.close()
    newer = tmp_path / "newer.db"
    await (await opened(newer)).close()
    connection = apsw.Connection(str(newer))
    connection.pragma("user_version", 99)
    connection.close()
    for path, words in (
        (text, "not a SQLite database"),
        (other, "another program"),
        (newer, "newer Samvad"),
        (tmp_path, "Cannot open"),
        (text / "below.db", "Cannot open"),
    ):
        before = path.read_bytes() if path.is_file() else None
        for readonly in (False, True):
            if readonly and before is None:
                continue
            with pytest.raises(SetupError, match=words) as refused:
                await opened(path, readonly=readonly)
            assert "\n" not in refused.value.message
        assert before is None or path.read_bytes() == before
    with pytest.raises(SetupError, match="no database"):
        await opened(tmp_path / "missing.db", readonly=True)
    assert not (tmp_path / "missing.db").exists()


async def test_an_empty_file_becomes_a_database(database_path: Path) -> None:
    """Nothing, or a file without a byte in it, is migrated from the beginning."""
    await asyncio.to_thread(database_path.touch)
    for _ in range(2):
        store = await opened(database_path)
        assert (await store.check()).up
        await store.close()
    connection = apsw.Connection(str(database_path))
    assert connection.pragma("user_version") >= 1
    assert connection.pragma("application_id") == 0x534D5644
    assert connection.pragma("journal_mode") == "wal"
    connection.close()


async def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    """The data directory need not exist."""
    store = await opened(tmp_path / "a" / "b" / "samvad.db")
    await store.close()


# --- a full disk -------------------------------------------------------------------------------------------


async def test_a_full_disk_acknowledges_nothing_that_is_not_there(database_path: Path) -> None:
    """Refused as unavailable, readable all the while, and well again when there is room."""
    async with open_samvad(f"sqlite:///{database_path}") as samvad:
        assert isinstance(samvad.store, SQLiteStore)
        await samvad.append_to_user_history("asha", "user", "first")
        assert samvad.store._writer is not None
        pages = await samvad.store._writer.run(lambda c: c.pragma("page_count"))
        await samvad.store._writer.run(lambda c: c.pragma("max_page_count", pages + 20))
        acknowledged = 1
        with pytest.raises(StoreUnavailable, match="Full"):
            for _ in range(1_000):
                appended = await samvad.append_to_user_history("asha", "user", "x" * 8 * KIB)
                acknowledged += 1
                assert appended.seq == acknowledged
        assert acknowledged > 1
        profile = await samvad.get_user_profile("asha")
        assert profile.position.seq == acknowledged
        with pytest.raises(StoreUnavailable):
            await samvad.append_to_user_history("bala", "user", "x" * 60 * KIB)
        await samvad.store._writer.run(lambda c: c.pragma("max_page_count", 1 << 30))
        assert (await samvad.append_to_user_history("asha", "user", "last")).seq == acknowledged + 1
        assert (await samvad.store.check()).up
    async with open_samvad(f"sqlite:///{database_path}") as samvad:
        page = await samvad.page_history("asha", limit=1_000)
        assert [m.seq for m in page.messages] == list(range(1, acknowledged + 2))
        assert page.messages[-1].content == "last"
        assert await samvad.list_users() == ["asha"]


# --- readers beside the writer -----------------------------------------------------------------------------


async def test_readonly_beside_a_writer(database_path: Path) -> None:
    """It sees what is committed, as it is committed; it writes nothing, and takes nothing away by leaving."""
    writer = await opened(database_path)
    await writer.commit(Commit(ASHA, Version(0, 0), (said(1),)))
    reader = await opened(database_path, readonly=True)
    assert await seq_of(reader) == 1
    await writer.commit(Commit(ASHA, Version(0, 1), (said(2),)))
    assert await seq_of(reader) == 2
    with pytest.raises(Exception, match=r".") as refused:
        await reader.commit(Commit(ASHA, Version(0, 2), (said(3),)))
    assert refused.value.code in {"shutting_down", "store_unavailable"}  # type: ignore[attr-defined]
    await reader.close()
    await writer.commit(Commit(ASHA, Version(0, 2), (said(3),)))
    assert await seq_of(writer) == 3
    await writer.close()


# --- erased bytes ------------------------------------------------------------------------------------------


async def test_what_is_erased_is_in_no_file(database_path: Path) -> None:
    """After clear_user_data a canary is in none of the database's files: not the log, not a freed page."""
    canaries = ["canary-message", "canary-state", "canary-session", "canary-interrupted", "canary-user"]

    def files() -> bytes:
        return b"".join(
            path.read_bytes() for path in sorted(database_path.parent.glob(f"{database_path.name}*"))
        )

    async with open_samvad(f"sqlite:///{database_path}") as samvad:
        for user in ("before", "canary-user", "behind"):
            mark = "canary" if user == "canary-user" else "plain"
            for n in range(60):
                content = f"{mark}-message {n} " + "y" * 2 * KIB
                await samvad.append_to_user_history(user, "user", content, id=f"{mark}-message-{n}")
            await samvad.save_user_state(user, {"note": f"{mark}-state " + "z" * 20 * KIB})
            await samvad.save_user_state(user, {"note": f"{mark}-state, changed"})
            await samvad.save_session(f"{mark}-session", user if mark == "canary" else "behind", note=mark)
            await samvad.record_interruption(
                f"{mark}-session", f"{mark}-interrupted", 1, b'{"text":"%b-interrupted"}' % mark.encode()
            )
        for canary in canaries:
            assert canary.encode() in files(), canary
        cleared = await samvad.clear_user_data("canary-user")
        assert (cleared.messages, cleared.sessions, cleared.interruptions) == (60, 1, 1)
        for canary in canaries:
            assert canary.encode() not in files(), canary
        assert (await samvad.get_user_profile("before")).position.seq == 60
    assert b"canary" not in files()


# --- leaks -------------------------------------------------------------------------------------------------


async def test_opening_and_closing_leaks_nothing(database_path: Path) -> None:
    """50 times, with reads and writes: at most 2 descriptors and 2 threads more."""

    async def cycle() -> None:
        async with open_samvad(f"sqlite:///{database_path}") as samvad:
            await samvad.append_to_user_history("asha", "user", "x")
            await asyncio.gather(*[samvad.get_user_profile(f"user {n}") for n in range(6)])
            await samvad.get_stats()

    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    await cycle()
    descriptors, threads = held()
    for _ in range(50):
        await cycle()
    descriptors_now, threads_now = held()
    assert descriptors_now <= descriptors + 2
    assert threads_now <= threads + 2


async def test_a_failed_open_leaks_nothing(tmp_path: Path) -> None:
    """What could not be opened is let go of completely, and the same store may be opened when it can be."""
    path = tmp_path / "samvad.db"
    path.write_bytes(b"no database " * 100)
    store = SQLiteStore(path)

    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    with pytest.raises(SetupError):
        await store.open()
    before = held()
    for _ in range(20):
        with pytest.raises(SetupError):
            await store.open()
    assert held() <= (before[0] + 2, before[1] + 2)
    path.unlink()
    await store.open()
    await store.commit(Commit(ASHA, Version(0, 0), (StateSet(StoredState(b"{}", 1, 1)),)))
    await store.close()


async def test_reads_go_on_while_a_group_is_written(database_path: Path) -> None:
    """A reader does not wait for the writer's thread, whatever that is busy with."""
    store = await opened(database_path)
    await store.commit(Commit(ASHA, Version(0, 0), (said(1),)))
    gate, busy = threading.Event(), threading.Event()
    assert store._writer is not None
    blocking = asyncio.create_task(store._writer.run(lambda _: busy.set() or gate.wait(30)))
    assert await asyncio.to_thread(busy.wait, 30)
    writing = asyncio.ensure_future(store.commit(Commit(ASHA, Version(0, 1), (said(2),))))
    try:
        assert await seq_of(store) == 1
        assert (await store.stats("default", active_after_ms=0, open_after_ms=0)).total_messages == 1
        assert not writing.done()
    finally:
        gate.set()
    await asyncio.gather(blocking, writing)
    assert await seq_of(store) == 2
    await store.close()


async def test_a_reader_does_not_keep_what_was_erased(tmp_path: Path) -> None:
    """Erasing beside a reader of an old snapshot: nobody waits for it, and its log is emptied when it has gone.

    The fold was tried once, for five seconds in which all users waited, and then forgotten until the close.
    """
    path = tmp_path / "talk.db"

    def holding_it() -> list[str]:
        return [p.name for p in tmp_path.glob("talk.db*") if b"canary" in p.read_bytes()]

    async with open_samvad(f"sqlite:///{path}") as samvad:
        for _ in range(20):
            await samvad.append_to_user_history("asha", "user", "canary" + "y" * 2000)
        reader = apsw.Connection(str(path))
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM users").fetchall()
        await samvad.clear_user_data("asha")
        assert holding_it() == ["talk.db-wal"]
        reader.execute("ROLLBACK")
        reader.close()

        async def emptied() -> bool:
            return not holding_it()

        await wait_until_async(emptied, "the log is emptied")
