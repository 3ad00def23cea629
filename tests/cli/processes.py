"""The program `samvad` as a real process, for tests."""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import urlsplit

import samvad
from tests.support import wait_until

WAIT_S = 30.0
SAMVAD = [sys.executable, "-m", "samvad.cli"]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process that finds the same package as this one."""
    home = Path(samvad.__file__).resolve().parent.parent
    path = os.pathsep.join([str(home), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **(extra or {})}


def run(
    arguments: Sequence[str], cwd: Path, extra: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `samvad` with these arguments to its end."""
    return subprocess.run(
        [*SAMVAD, *arguments],
        cwd=cwd,
        env=environment(extra),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S * 2,
        check=False,
    )


def refusal(arguments: Sequence[str], cwd: Path, extra: Mapping[str, str] | None = None) -> str:
    """The one line with which `samvad` says that it cannot work as asked; fails if it does anything else."""
    done = run(arguments, cwd, extra)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("samvad: ")
    return lines[0]


class Server:
    """A running `samvad serve`; killed at the end of the `with` if it is still there."""

    def __init__(self, cwd: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*SAMVAD, "serve", "--port", "0", *arguments],
            cwd=cwd,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, args=(self.process.stdout, self._lines.put), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self.errors.append), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self.ready_line = self._lines.get(timeout=WAIT_S)
        assert self.ready_line, "".join(self.errors)
        self.url = self.ready_line.split()[-1]
        address = urlsplit(self.url)
        assert address.hostname and address.port
        self.address = (address.hostname, address.port)

    @staticmethod
    def _read(stream: IO[str] | None, keep: Any) -> None:
        assert stream is not None
        for line in stream:
            keep(line)
        if keep.__name__ == "put":
            keep("")

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """One request on a connection of its own: status and JSON body."""
        connection = http.client.HTTPConnection(*self.address, timeout=WAIT_S)
        try:
            sent = {"content-type": "application/json"} if body is not None else {}
            connection.request(
                method, path, None if body is None else json.dumps(body), {**sent, **(headers or {})}
            )
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def half_a_request(self, path: str, body: bytes, sent: int) -> socket.socket:
        """A connection on which a POST has begun: the server waits for the rest of the body."""
        connection = socket.create_connection(self.address, timeout=WAIT_S)
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n"
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode())
        assert connection.recv(1024).startswith(b"HTTP/1.1 100")  # the handler asked for the body
        connection.sendall(body[:sent])
        return connection

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait_until_it_accepts_nothing(self) -> None:
        """Returns once new connections are refused."""

        def refused() -> bool:
            try:
                socket.create_connection(self.address, timeout=WAIT_S).close()
            except ConnectionError:
                return True
            return False

        wait_until(refused, "the server accepts no connection")

    def exit_code(self) -> int:
        """Wait for the end, and for the last words."""
        code = self.process.wait(WAIT_S)
        for thread in self._threads:
            thread.join(WAIT_S)
        return code

    def more_output(self) -> str:
        """What came on standard output after the line that says it is ready; to be asked after the end."""
        rest = ""
        while line := self._lines.get(timeout=WAIT_S):
            rest += line
        return rest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join(WAIT_S)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
