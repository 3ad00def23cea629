"""What one noisy user costs the others: the latency of 20 quiet users, with and without one who is far past a limit.

The server is that of `samvad serve` with the limits that it has by default, on one core. The quiet users ask at a
steady rate, whether or not what they asked before is answered, and latency counts from the moment a request was due.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from benchmarks.http import Running, cpu_s, server
from benchmarks.locks import ask, make_key
from benchmarks.measure import REPOSITORY, Options, Spread, Unavailable, load_pairs, progress
from benchmarks.report import Bound, Section, Table, number, spread

USERS = 20
CONNECTIONS = 300
EACH_PER_S = 9.0  # below the default limit of 600 a minute
WANTED = 1.10


class Quiet(asyncio.Protocol):
    """A user's connection: requests are sent when they are due, and answered in order."""

    def __init__(self, latencies_s: list[float]) -> None:
        self._latencies_s = latencies_s
        self._due: list[float] = []
        self._read = b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, request: bytes, due_s: float) -> None:
        """Send a request."""
        self._due.append(due_s)
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._read += data
        while True:
            head, found, body = self._read.partition(b"\r\n\r\n")
            if not found:
                return
            length = int(head[head.index(b"content-length: ") + 16 :].split(b"\r\n", 1)[0])
            if len(body) < length:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                raise Unavailable(f"a quiet user was answered {head[:20]!r}")
            self._read = body[length:]
            self._latencies_s.append(asyncio.get_running_loop().time() - self._due.pop(0))


def quiet_requests(user: str, token: str) -> list[bytes]:
    """What a quiet user asks for, in turn: something is said, the state is read, the profile is read."""
    head = (
        f"HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nauthorization: Bearer {token}\r\n"
    )
    body = json.dumps({"role": "user", "content": load_pairs(1)[0][0]})
    path = f"/api/session/{user}"
    asked = f"POST {path}/history {head}content-length: {len(body)}\r\n\r\n{body}"
    return [
        asked.encode(),
        f"GET {path}/state {head}\r\n".encode(),
        f"GET {path}/profile {head}\r\n".encode(),
    ]


async def quiet(url: str, tokens: dict[str, str], seconds: float) -> list[float]:
    """The latencies of all quiet users in seconds, from when each request was due."""
    loop = asyncio.get_running_loop()
    where = urlsplit(url)
    latencies_s: list[float] = []
    connections = []
    for place, (user, token) in enumerate(tokens.items(), 1):
        _, connection = await loop.create_connection(
            lambda: Quiet(latencies_s), where.hostname, where.port, local_addr=(f"127.0.1.{place}", 0)
        )
        connections.append((connection, quiet_requests(user, token)))
    begin = loop.time() + 0.1
    count = int(seconds * EACH_PER_S)

    async def ask_all(place: int) -> None:
        connection, requests = connections[place]
        for turn in range(count):
            due_s = begin + (turn + place / len(connections)) / EACH_PER_S
            await asyncio.sleep(due_s - loop.time())
            connection.ask(requests[turn % len(requests)], due_s)

    await asyncio.gather(*(ask_all(place) for place in range(len(connections))))
    for _ in range(200):
        if len(latencies_s) == count * len(connections):
            break
        await asyncio.sleep(0.05)
    for connection, _ in connections:
        connection.transport.close()
    if len(latencies_s) < count * len(connections):
        raise Unavailable("quiet users were left without answers")
    return latencies_s


@contextmanager
def noise(url: str, token: str, told: Counter[str]) -> Iterator[None]:
    """One user who hammers the server; adds to `told` how often they were answered with what."""
    command = [sys.executable, "-m", "benchmarks.noise", url, token, str(CONNECTIONS)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),  # noqa: PLW1509
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()  # past its limit: what is within it is served like everybody's
        yield
    finally:
        out, _ = process.communicate(timeout=30)
        told.update(json.loads(out))


def _minted(url: str, key: str, user: str) -> str:
    token: str = json.loads(ask(url, "/api/auth/tokens", {"userId": user, "ttlSeconds": 3600}, key))["token"]
    return token


def _p99_ms(latencies_s: list[float]) -> float:
    return sorted(latencies_s)[int(0.99 * len(latencies_s))] * 1000


def _round(
    running: Running, tokens: dict[str, str], noisy: str | None, seconds: float, told: Counter[str]
) -> tuple[list[float], float]:
    """Latencies of the quiet, and the share of its core that the server took."""
    before_s, began_s = cpu_s(running.process), time.monotonic()
    if noisy is None:
        found = asyncio.run(quiet(running.url, tokens, seconds))
    else:
        with noise(running.url, noisy, told):
            before_s, began_s = cpu_s(running.process), time.monotonic()
            found = asyncio.run(quiet(running.url, tokens, seconds))
            return found, (cpu_s(running.process) - before_s) / (time.monotonic() - began_s)
    return found, (cpu_s(running.process) - before_s) / (time.monotonic() - began_s)


def run(options: Options) -> Section:
    """With and without the noisy one, in turns on one server."""
    if len(os.sched_getaffinity(0)) < 2:
        raise Unavailable("two cores are needed: one for the server, one for those who ask")
    seconds = 4.0 if options.quick else 6.0
    directory = options.directory / "neighbours"
    key = make_key(directory)
    alone, beside, shares, told = [], [], ([], []), Counter[str]()
    before = os.sched_getaffinity(0)
    with server("auth+default", directory, max(before), module="benchmarks.locks_servers") as running:
        os.sched_setaffinity(0, {min(before)})
        try:
            tokens = {f"user-{n}": _minted(running.url, key, f"user-{n}") for n in range(USERS)}
            noisy = _minted(running.url, key, "noisy")
            for user in tokens:
                ask(running.url, f"/api/session/{user}/state", {"language": "en"}, key)
            asyncio.run(quiet(running.url, tokens, 2.0))
            for round_number in range(1 if options.quick else 2 * options.rounds + 1):
                progress(f"neighbours: round {round_number + 1}")
                for who, latencies in ((None, alone), (noisy, beside)):
                    found, share = _round(running, tokens, who, seconds, told)
                    latencies.append(found)
                    shares[who is not None].append(100 * share)
        finally:
            os.sched_setaffinity(0, before)
    return _section(alone, beside, shares, told)


def _section(
    alone: list[list[float]],
    beside: list[list[float]],
    shares: tuple[list[float], list[float]],
    told: Counter[str],
) -> Section:
    ratios = [
        _p99_ms(with_noise) / _p99_ms(without) for without, with_noise in zip(alone, beside, strict=True)
    ]
    rows = []
    for name, found, share in (
        ("alone", alone, shares[0]),
        ("beside a user far past their limit", beside, shares[1]),
    ):
        middles = [sorted(each)[len(each) // 2] * 1000 for each in found]
        rows.append(
            (
                name,
                spread(middles),
                spread([_p99_ms(each) for each in found]),
                spread([max(each) * 1000 for each in found]),
                spread(share),
            )
        )
    middle = Spread.of(ratios).median
    answered = ", ".join(f"{what}: {number(count)}" for what, count in sorted(told.items()))
    columns = ("quiet users", "p50 ms", "p99 ms", "longest ms", "share of the server's core, %")
    return Section(
        "Neighbours",
        f"{USERS} users of whom each asks {EACH_PER_S:g} times a second (something is said, the state is read, the "
        f"profile is read), latency from the moment a request was due. The noisy user has {CONNECTIONS} connections, "
        "and asks again on each as soon as it is answered: its state, or to keep a message of 60 KiB. The limits are "
        "those of a server as it comes.",
        [
            Table(
                "Latency of quiet users",
                columns,
                rows,
                notes=(
                    f"p99 beside noise, of that without, round by round: {spread(ratios)}.",
                    f"The noisy user was answered: {answered}.",
                ),
            )
        ],
        [
            Bound(
                "p99 of quiet users beside a noisy one", f"<= {WANTED:.2f}", f"{middle:.2f}", middle <= WANTED
            )
        ],
    )
