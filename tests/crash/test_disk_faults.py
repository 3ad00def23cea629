"""A real server on a disk that is full, broken or read-only: it says so, claims nothing, and recovers by itself.

A full disk comes in two kinds. A limit on the size of files, set on the running process, makes writes fail with
EFBIG, which SQLite reports as an I/O error; a small tmpfs that is really full makes them fail with ENOSPC.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import resource
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from samvad.http.app import create_app
from samvad.runtime import open_samvad
from samvad.testing.disk import FaultKind, FileKind, RecordingDisk
from tests.crash.replay import Replay, check_refusal, whole_history
from tests.crash.server import Answer, Connection, ConnectionLost, Server
from tests.support import loudly_skip, wait_until_async

pytestmark = [pytest.mark.anyio, pytest.mark.crash]

SEED = 20_250_111
_USER = "/api/session/user_1"


class LimitedFiles:
    """A server whose process may not make files longer: not at all, or by `room_bytes` beyond the log's length."""

    def __init__(self, directory: Path, room_bytes: int | None) -> None:
        self.server = Server(directory / "data")
        self._room_bytes = room_bytes

    def fill(self) -> None:
        """From now on writing fails."""
        limit = 0
        if self._room_bytes is not None:
            limit = self.server.database.with_name("samvad.db-wal").stat().st_size + self._room_bytes
        self._limit(limit)

    def free(self) -> None:
        """Writing works again."""
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size_bytes: int) -> None:
        hard = resource.prlimit(self.server.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(self.server.pid, resource.RLIMIT_FSIZE, (size_bytes, hard))

    def copy(self, to: Path) -> None:
        """The data directory as it is now."""
        shutil.copytree(self.server.data_dir, to)


class SmallDisk:
    """A server in a mount namespace of its own, its data on a tmpfs of 24 MiB that goes with the process."""

    def __init__(self, directory: Path) -> None:
        mount_point = directory / "disk"
        mount_point.mkdir()
        script = 'mount -t tmpfs -o size=24m tmpfs "$0" && exec "$@"'
        prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(mount_point)]
        try:
            subprocess.run([*prefix, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            loudly_skip(f"a small disk needs unshare(1) and user namespaces: {error}")
        self.server = Server(mount_point / "data", prefix=prefix)
        self._mount_point = mount_point

    def _seen_from_here(self, path: Path) -> Path:
        return Path(f"/proc/{self.server.pid}/root{path}")

    def fill(self) -> None:
        """Write a file until nothing more fits."""
        with self._seen_from_here(self._mount_point / "filler").open("wb", buffering=0) as filler:
            block = bytes(1 << 16)
            with contextlib.suppress(OSError):
                while True:
                    filler.write(block)

    def free(self) -> None:
        """Remove that file."""
        self._seen_from_here(self._mount_point / "filler").unlink()

    def copy(self, to: Path) -> None:
        """The data directory as it is now."""
        shutil.copytree(self._seen_from_here(self.server.data_dir), to)


Disk = LimitedFiles | SmallDisk


@pytest.fixture(params=["limited files", "full tmpfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A running server on a disk that can be filled and freed."""
    rooms_bytes = {"limited files": None, "limited files, some room": 10_000}
    limited = request.param in rooms_bytes
    disk = LimitedFiles(tmp_path, rooms_bytes[request.param]) if limited else SmallDisk(tmp_path)
    with disk.server:
        disk.server.start()
        yield disk


@pytest.fixture
async def connection(disk: Disk) -> AsyncIterator[Connection]:
    """A connection to that server."""
    async with await Connection.open(disk.server.port) as connection:
        yield connection


def message(number: int, length: int = 100) -> dict[str, str]:
    """A message with a number."""
    return {"role": "user", "content": f"{number} ".ljust(length, "x")}


async def refused(connection: Connection) -> Answer:
    """Append until the first refusal: a full disk may still have room for a little."""
    numbers = iter(range(1_000_000))

    async def once() -> Answer | None:
        answer = await connection.post("/api/session/filler/history", message(next(numbers), 5_000))
        return None if answer.status == 200 else answer

    return await wait_until_async(once, "the disk is full")


async def test_a_full_disk_is_told(disk: Disk, connection: Connection) -> None:
    """Writes answer 503, reads of known users go on and say that they are degraded; afterwards all is well."""
    for number in range(3):
        assert (await connection.post(f"{_USER}/history", message(number))).check()["seq"] == number + 1
    (await connection.post(f"{_USER}/state", {"turn": 3})).check()
    assert (await connection.get("/readyz")).check()["status"] == "ready"

    disk.fill()
    check_refusal(await refused(connection))
    session = {"sessionId": "session_1", "userId": "user_1"}
    refused_writes = [
        ("POST", f"{_USER}/history", message(3)),
        ("POST", f"{_USER}/history", {"messages": [message(3), message(4)]}),
        ("POST", f"{_USER}/history", {**message(3), "id": "mine"}),
        ("POST", f"{_USER}/state", {"turn": 4}),
        ("PUT", f"{_USER}/state", {"turn": 4}),
        ("PATCH", f"{_USER}/profile", {"preferences": {"language": "hi"}}),
        ("POST", "/api/session/create", session),
        ("POST", "/api/session/refresh", {"userId": "user_1"}),
    ]
    for number, (method, path, body) in enumerate(refused_writes):
        check_refusal(await connection.request(method, path, body))
        check_refusal(await connection.request(method, path, body, {"Idempotency-Key": f"key {number}"}))
    batch = {"operations": [{"op": "append", "userId": "user_1", **message(3)}]}
    answer = (await connection.post("/api/session/batch", batch)).check()
    assert (answer["success"], answer["results"][0]["status"]) == (False, 503)

    ready = await connection.get("/readyz")
    assert (ready.status, ready.json["store"]) == (503, "down")
    assert int(ready.headers["retry-after"]) >= 1
    assert (await connection.get("/healthz")).status == 200
    assert (await connection.get("/metrics")).status == 200
    for _ in range(2):
        profile = (await connection.get(f"{_USER}/profile")).check()
        assert profile["degraded"] is True
        assert [each["seq"] for each in profile["profile"]["conversationHistory"]] == [1, 2, 3]
        state = (await connection.get(f"{_USER}/state")).check()
        assert (state["degraded"], state["state"]["turn"]) == (True, 3)
        history = (await connection.get(f"{_USER}/history")).check()
        assert (history["degraded"], len(history["messages"])) == (True, 3)
        # Whoever was not in memory is read from the disk, or refused; that changes nothing for the others.
        stranger = await connection.get("/api/session/stranger/profile")
        assert stranger.status in (200, 503)

    disk.free()
    assert (await connection.post(f"{_USER}/history", message(3))).check()["seq"] == 4
    assert (await connection.get("/readyz")).check()["store"] == "up"
    profile = (await connection.get(f"{_USER}/profile")).check()
    assert "degraded" not in profile
    assert [each["seq"] for each in profile["profile"]["conversationHistory"]] == [1, 2, 3, 4]
    assert (await connection.get(f"{_USER}/state")).check()["state"]["turn"] == 3


async def test_a_disk_that_is_freed_is_noticed(disk: Disk, connection: Connection) -> None:
    """/readyz finds out by itself that writing works again: no write of a caller is needed for it."""
    disk.fill()
    check_refusal(await refused(connection))
    assert (await connection.get("/readyz")).status == 503
    disk.free()
    assert (await connection.get("/readyz")).status == 200
    assert "degraded" not in (await connection.get(f"{_USER}/profile")).check()


@pytest.mark.parametrize("disk", ["limited files", "limited files, some room", "full tmpfs"], indirect=True)
async def test_a_full_disk_under_load(disk: Disk, tmp_path: Path) -> None:
    """The disk fills up and is freed again and again: nothing acknowledged is lost, nothing refused comes twice."""
    rng = random.Random(SEED)
    replay = Replay(lambda: disk.server.port, seed=SEED, users_max=60)
    refusals_left = faults = 0

    def fill() -> None:
        nonlocal refusals_left, faults
        disk.fill()
        refusals_left = rng.randint(20, 80)
        faults += 1

    def count_refusal() -> None:
        nonlocal refusals_left
        refusals_left -= 1
        if refusals_left == 0:
            disk.free()
            replay.after(rng.randint(30, 150), fill)

    replay.on_refusal = count_refusal
    await replay.run(100, fill)
    assert disk.server.is_running, disk.server.told()
    with contextlib.suppress(FileNotFoundError):
        disk.free()
    assert faults >= 3
    assert await replay.complaints(all_of_it=True) == []
    disk.copy(tmp_path / "copy")  # as a kill would leave it
    disk.server.kill()
    with Server(tmp_path / "copy").start() as restarted:
        replay.move_to(lambda: restarted.port)
        assert await replay.complaints(all_of_it=True) == []


# --- I/O errors, in this process --------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def client_over(disk: RecordingDisk, path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """The application over a database on this disk, without a network."""
    async with open_samvad(f"sqlite:///{path}", vfs=disk.name) as samvad:
        transport = httpx2.ASGITransport(app=create_app(samvad))
        async with httpx2.AsyncClient(transport=transport, base_url="http://samvad.test") as client:
            yield client


def check_refused(response: httpx2.Response) -> None:
    """As `check_refusal`."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    check_refusal(Answer(response.status_code, headers, response.content))


@pytest.mark.parametrize("operation", ["write", "sync"])
async def test_io_errors_are_told(operation: FaultKind, database_path: Path) -> None:
    """A write or an fsync that fails is a 503, whatever it left on the disk; then all goes on, and restarts too."""
    disk = RecordingDisk()
    acknowledged = []
    async with client_over(disk, database_path) as client:
        for number in range(30):
            if number % 3 == 1:
                disk.fail(operation, files=("wal",), partial=operation == "write")
                response = await client.post(f"{_USER}/history", json={**message(number), "id": f"m{number}"})
                check_refused(response)
                assert (await client.get("/readyz")).status_code == 503
                profile = (await client.get(f"{_USER}/profile")).json()
                assert profile["degraded"] is True and profile["profile"]["historyLength"] == len(
                    acknowledged
                )
                disk.heal()
            response = await client.post(f"{_USER}/history", json={**message(number), "id": f"m{number}"})
            assert response.status_code == 200, response.text
            acknowledged.append((response.json()["seq"], f"m{number}"))
        assert (await client.get("/readyz")).status_code == 200
    assert [seq for seq, _ in acknowledged] == list(range(1, 31))
    async with client_over(disk, database_path) as client:
        messages = (await client.get(f"{_USER}/history")).json()["messages"]
    assert [(each["seq"], each["id"]) for each in messages] == acknowledged


@pytest.mark.parametrize("files", [("db",), ("db", "wal")])
async def test_what_cannot_be_read_is_not_empty(files: tuple[FileKind, ...], database_path: Path) -> None:
    """While reading fails, a user who is not in memory is a 503, never an empty history; known users go on."""
    disk = RecordingDisk()
    async with client_over(disk, database_path) as client:
        for number in range(150):
            await client.post("/api/session/cold/history", json=message(number, 2_000))
    async with client_over(disk, database_path) as client:
        assert (await client.post(f"{_USER}/history", json=message(0))).status_code == 200
        disk.fail("read", files=files)
        for path in ("profile", "history", "history?limit=5&before=9", "state"):
            check_refused(await client.get(f"/api/session/cold/{path}"))
        check_refused(await client.get("/api/session/user/cold/active"))
        check_refused(await client.post("/api/session/cold/history", json=message(150)))
        assert (await client.get(f"{_USER}/profile")).json()["profile"]["historyLength"] == 1
        disk.heal()
        assert (await client.get("/api/session/cold/profile")).json()["profile"]["historyLength"] == 100
        response = await client.post("/api/session/cold/history", json=message(150))
        assert response.json()["seq"] == 151
        assert "degraded" not in (await client.get("/api/session/cold/profile")).json()


async def test_early_answers_wait_for_the_disk_without_haste(database_path: Path) -> None:
    """With durability «memory» what the disk does not take is tried again now and then, not without pause."""
    disk = RecordingDisk()
    async with open_samvad(f"sqlite:///{database_path}", vfs=disk.name, durability="memory") as samvad:
        assert (await samvad.append_to_user_history("user_1", "user", "Hello")).durability == "memory"
        fault = disk.fail("write", files=("wal",))
        began_s = time.monotonic()
        for number in range(20):
            assert (
                await samvad.append_to_user_history(f"user_{number}", "user", "Hello?")
            ).durability == "memory"
        wait = functools.partial(wait_until_async, timeout_s=10)
        before = fault.fired
        await wait(_true(lambda: fault.fired >= before + 20), "the disk was tried again")
        assert fault.fired / (time.monotonic() - began_s) < 500
        disk.heal()
        await wait(_true(lambda: samvad.core.lanes.operations_waiting == 0), "everything is written")
    async with open_samvad(f"sqlite:///{database_path}") as samvad:
        assert (await samvad.count()).total_messages == 21


def _true(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return condition()

    return ask


# --- at the start -----------------------------------------------------------------------------------------


def no_rights() -> list[str]:
    """What to put before a command so that the modes of files hold for it, even where the tests run as root."""
    if os.geteuid() != 0:
        return []
    prefix = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        loudly_skip(f"root can write everywhere, and setpriv(1) does not help: {error}")
    return prefix


def check_one_line(server: Server, *words: str) -> None:
    """The server does not start, ends with code 2, and says why in one line."""
    server.spawn()
    assert server.wait() == 2, server.told()
    assert len(server.log) == 1, server.told()
    assert all(word in server.log[0] for word in words), server.told()


@pytest.mark.parametrize("was_there", [False, True])
def test_a_read_only_directory(tmp_path: Path, was_there: bool) -> None:
    """A data directory that cannot be written, new or with a database in it: one line, exit code 2."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    if was_there:
        with Server(data_dir).start() as first:
            assert first.stop() == 0
        for path in data_dir.iterdir():
            path.chmod(0o444)
    data_dir.chmod(0o555)
    try:
        with Server(data_dir, prefix=no_rights()) as server:
            check_one_line(server, str(data_dir), "Permission denied")
    finally:
        data_dir.chmod(0o755)


def test_a_data_directory_that_is_a_file(tmp_path: Path) -> None:
    """A file in the place of the data directory: one line, exit code 2."""
    (tmp_path / "data").write_text("I am a file.")
    with Server(tmp_path / "data") as server:
        check_one_line(server, str(tmp_path / "data"))


@pytest.mark.parametrize("was_there", [False, True])
async def test_a_full_disk_at_the_start(tmp_path: Path, was_there: bool) -> None:
    """No room to open the database: one line, exit code 2; with room again all is as it was."""
    if was_there:
        with Server(tmp_path / "data").start() as server:
            async with await Connection.open(server.port) as connection:
                (await connection.post(f"{_USER}/history", message(0))).check()
            server.kill()
    with Server(tmp_path / "data", prefix=["prlimit", "--fsize=0:"]) as server:
        check_one_line(server, str(tmp_path / "data"))
    with Server(tmp_path / "data").start() as server:
        async with await Connection.open(server.port) as connection:
            assert len(await whole_history(connection, "user_1")) == was_there


# --- starved ----------------------------------------------------------------------------------------------


def descriptors(server: Server) -> int:
    """How many files, sockets and pipes the server has open."""
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


async def test_no_more_descriptors(tmp_path: Path) -> None:
    """A server out of file descriptors goes on for those it has, and for all once others have gone."""
    with Server(tmp_path / "data").start() as server:
        async with await Connection.open(server.port) as connection:
            assert (await connection.post(f"{_USER}/history", message(0))).check()["seq"] == 1
            used = descriptors(server)
            hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)[1]
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used + 10, hard))
            others = [await Connection.open(server.port) for _ in range(40)]
            for number in range(1, 20):
                answer = await connection.post(f"{_USER}/history", message(number))
                assert answer.check()["seq"] == number + 1
            for other in others:
                other.close()

            async def serves() -> bool:
                with contextlib.suppress(ConnectionLost):
                    async with await Connection.open(server.port) as fresh:
                        return (await fresh.get(f"{_USER}/profile")).status == 200
                return False

            assert await wait_until_async(serves, "the server takes new connections")
            assert len(await whole_history(connection, "user_1")) == 20
        assert server.stop() == 0
