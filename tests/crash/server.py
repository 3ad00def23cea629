"""A real server process on a data directory, and a small HTTP client that loads it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import pytest

import samvad

READY_S_MAX = 90.0  # on a busy machine the imports alone may take half a minute
STOP_S_MAX = 30.0
ANSWER_S_MAX = 20.0
LOG_LINES_SHOWN = 40


class Server:
    """The processes of `samvad serve` on one data directory, one after the other.

    Use it as a context manager: whatever happens, no process is left behind. `prefix` is put in front of the
    command line (`setpriv …`, `unshare …`), `environment` is added to that of the tests.
    """

    def __init__(
        self,
        data_dir: Path,
        *flags: str,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.flags = flags
        self.prefix = prefix
        self.environment = environment or {}
        self.port = 0
        self.log: list[str] = []  # standard error of all processes
        self._process: subprocess.Popen[str] | None = None
        self._pumps: list[threading.Thread] = []
        self._settled = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if kind is not None and self.log:
            sys.stderr.write(self.told() + "\n")

    @property
    def database(self) -> Path:
        """The database that `samvad serve` makes in the data directory."""
        return self.data_dir / "samvad.db"

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self._process is not None, "start the server first"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def told(self) -> str:
        """The end of what the server wrote to standard error, for the message of a failure."""
        return "\n".join(["--- the server's standard error:", *self.log[-LOG_LINES_SHOWN:]])

    def spawn(self) -> None:
        """Begin a process, and do not wait until it serves."""
        assert not self.is_running, "one process at a time on one data directory"
        source = str(Path(samvad.__file__).parent.parent)  # the same code that the tests import
        path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
        self._settled = threading.Event()
        self.port = 0
        self._process = subprocess.Popen(
            [*self.prefix, *command("serve", "--port", "0", "--data-dir", str(self.data_dir)), *self.flags],
            env={**os.environ, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1", **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None and self._process.stderr is not None
        self._pumps = [
            threading.Thread(target=self._wait_for_line, args=(self._process.stdout, self._settled)),
            threading.Thread(target=self._keep_log, args=(self._process.stderr,)),
        ]
        for pump in self._pumps:
            pump.start()

    def start(self) -> Self:
        """Begin a process and wait until it says that it serves."""
        self.spawn()
        in_time = self._settled.wait(READY_S_MAX)
        if not self.port:
            if not in_time:
                self.send(signal.SIGABRT)  # it says where it stands
            code = self.wait()
            reason = f"ended with code {code}" if in_time else f"said nothing for {READY_S_MAX:g} s"
            pytest.fail(f"the server does not serve: it {reason}\n{self.told()}")
        return self

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, and do not wait for what comes of it."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout_s: float = STOP_S_MAX) -> int:
        """Wait for the end of the process; returns its exit code (negative: the signal it died of)."""
        assert self._process is not None
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the server still runs after {timeout_s:g} s\n{self.told()}")
        for pump in self._pumps:
            pump.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
        self._process = None
        return code

    def kill(self) -> int | None:
        """SIGKILL, if a process runs; returns its exit code."""
        if self._process is None:
            return None
        self._process.kill()
        return self.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.send(signal.SIGTERM)
        return self.wait()

    def _wait_for_line(self, stdout: IO[str], settled: threading.Event) -> None:
        for line in stdout:
            if not self.port and (found := re.search(r"http://127\.0\.0\.1:(\d+)", line)):
                self.port = int(found[1])
                settled.set()
        settled.set()

    def _keep_log(self, stderr: IO[str]) -> None:
        for line in stderr:
            self.log.append(line.rstrip())


def command(*arguments: str) -> list[str]:
    """A command line of `samvad` in the environment of the tests."""
    return [sys.executable, "-m", "samvad.cli", *arguments]


class ConnectionLost(Exception):
    """The server went away before its answer was complete: nobody knows what became of the request."""


class Answer(NamedTuple):
    """An answer: status, headers by their lower-case names, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    def check(self) -> Any:
        """The body of an answer that must be a success."""
        assert self.status == 200, f"{self.status}: {self.body.decode(errors='replace')[:500]}"
        return self.json


class Connection:
    """One kept-alive HTTP/1.1 connection, one request at a time: less work than the server has with it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect to a server on this machine; ConnectionLost where none listens."""
        try:
            return cls(*await asyncio.open_connection("127.0.0.1", port))
        except OSError as error:
            raise ConnectionLost from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go."""
        self._writer.close()

    async def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Ask and read the whole answer; `body` is sent as JSON."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        data = b""
        if body is not None:
            data = json.dumps(body, ensure_ascii=False).encode()
            lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + data)
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                return await self._answer()
        except TimeoutError:
            pytest.fail(f"no answer to {method} {path} for {ANSWER_S_MAX:g} s")

    async def _answer(self) -> Answer:
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            found = dict(line.split(": ", 1) for line in head[1:] if line)
            found = {name.lower(): value for name, value in found.items()}
            content = await self._reader.readexactly(int(found["content-length"]))
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise ConnectionLost from error
        return Answer(int(head[0].split(" ", 2)[1]), found, content)

    async def get(self, path: str) -> Answer:
        """GET."""
        return await self.request("GET", path)

    async def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
        """POST a JSON body."""
        return await self.request("POST", path, body, headers)
