"""What one noisy user costs the others: the latency of 20 quiet users, with and without one who is far past a limit.

The server is that of `samvad serve` with the limits that it has by default, on one core. The quiet users ask at a
steady rate, whether or not what they asked before is answered, and latency counts from the moment a request was due.

The noisy user is another one each time, with a minute's requests before them: what they are let do in a minute and how
they are refused for the rest of it are measured as long as each takes. The first seconds, in which the former is done,
are told apart as well: in a whole minute's p99 a second of them would not show.
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
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.http import Running, cpu_s, server
from benchmarks.locks import ask, make_key
from benchmarks.measure import REPOSITORY, Options, Sample, Unavailable, load_pairs, progress
from benchmarks.report import Bound, Section, Table, number, spread

USERS = 20
CONNECTIONS = 300
EACH_PER_S = 9.0  # below the default limit of 600 a minute
WANTED = 1.10
MINUTE_S = 60.0  # the window of the limits: one minute's requests are carried out in each
NEW_S = 15.0  # from the start, in which that is done

Asked = tuple[float, float]  # when a request was due, in seconds from the start, and its latency


class Quiet(asyncio.Protocol):
    """A user's connection: requests are sent when they are due, and answered in order."""

    def __init__(self, begin_s: float, asked: list[Asked]) -> None:
        self._begin_s = begin_s
        self._asked = asked
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
            due_s = self._due.pop(0)
            self._asked.append((due_s - self._begin_s, asyncio.get_running_loop().time() - due_s))


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


async def quiet(url: str, tokens: dict[str, str], seconds: float) -> list[Asked]:
    """What all quiet users have asked."""
    loop = asyncio.get_running_loop()
    where = urlsplit(url)
    asked: list[Asked] = []
    begin = loop.time() + 0.2
    connections = []
    for place, (user, token) in enumerate(tokens.items(), 1):
        _, connection = await loop.create_connection(
            lambda: Quiet(begin, asked), where.hostname, where.port, local_addr=(f"127.0.1.{place}", 0)
        )
        connections.append((connection, quiet_requests(user, token)))
    count = int(seconds * EACH_PER_S)

    async def ask_all(place: int) -> None:
        connection, requests = connections[place]
        for turn in range(count):
            due_s = begin + (turn + place / len(connections)) / EACH_PER_S
            await asyncio.sleep(due_s - loop.time())
            connection.ask(requests[turn % len(requests)], due_s)

    await asyncio.gather(*(ask_all(place) for place in range(len(connections))))
    for _ in range(200):
        if len(asked) == count * len(connections):
            break
        await asyncio.sleep(0.05)
    for connection, _ in connections:
        connection.transport.close()
    if len(asked) < count * len(connections):
        raise Unavailable("quiet users were left without answers")
    return asked


def _goes_first(process_id: int, place: int) -> bool:
    """Let a process go before whatever else the machine does (SCHED_RR, the highest place first), if that is allowed.

    What others do on the machine is otherwise most of what lasts longest, on either side.
    """
    try:
        for thread in Path(f"/proc/{process_id}/task").iterdir():
            os.sched_setscheduler(int(thread.name), os.SCHED_RR, os.sched_param(place))
    except OSError:
        return False
    return True


@contextmanager
def noise(url: str, user: str, token: str, told: Counter[str]) -> Iterator[None]:
    """One user who begins to hammer the server; adds to `told` how often they were answered with what."""
    command = [sys.executable, "-m", "benchmarks.noise", url, user, token, str(CONNECTIONS)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),  # noqa: PLW1509
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        process.stdout.readline()
        _goes_first(process.pid, 1)
        process.stdin.write("begin\n")
        process.stdin.flush()
        yield
    finally:
        out, _ = process.communicate(timeout=30)
        told.update(json.loads(out))


def _minted(url: str, key: str, user: str) -> str:
    token: str = json.loads(ask(url, "/api/auth/tokens", {"userId": user, "ttlSeconds": 3600}, key))["token"]
    return token


def _quantile_ms(asked: list[Asked], share: float) -> float:
    return Sample(latencies_s=[latency_s for _, latency_s in asked]).quantile_ms(share)


def _phase(running: Running, tokens: dict[str, str], seconds: float) -> tuple[list[Asked], float]:
    """What the quiet users have asked, and the share of its core that the server took, in per cent."""
    before_s, began_s = cpu_s(running.process), time.monotonic()
    asked = asyncio.run(quiet(running.url, tokens, seconds))
    return asked, 100 * (cpu_s(running.process) - before_s) / (time.monotonic() - began_s)


def run(options: Options) -> Section:
    """A minute beside the noisy one between two halves of a minute alone, again and again on one server."""
    if len(os.sched_getaffinity(0)) < 2:
        raise Unavailable("two cores are needed: one for the server, one for those who ask")
    minute_s = MINUTE_S / 3 if options.quick else MINUTE_S
    directory = options.directory / "neighbours"
    key = make_key(directory)
    alone: list[list[Asked]] = []
    beside: list[list[Asked]] = []
    shares: tuple[list[float], list[float]] = [], []
    told = Counter[str]()
    before = os.sched_getaffinity(0)
    with server("auth+default", directory, max(before), module="benchmarks.locks_servers") as running:
        os.sched_setaffinity(0, {min(before)})
        scheduler = os.sched_getscheduler(0), os.sched_getparam(0)
        first_of_all = _goes_first(running.process.pid, 2) and _goes_first(os.getpid(), 3)
        try:
            tokens = {f"user-{n}": _minted(running.url, key, f"user-{n}") for n in range(USERS)}
            for user in tokens:
                ask(running.url, f"/api/session/{user}/state", {"language": "en"}, key)
            asyncio.run(quiet(running.url, tokens, 2.0))
            for number in range(options.rounds):
                progress(f"neighbours: round {number + 1}")
                first, first_share = _phase(running, tokens, minute_s / 2)
                noisy = f"noisy-{number}"
                with noise(running.url, noisy, _minted(running.url, key, noisy), told):
                    found, share = _phase(running, tokens, minute_s)
                beside.append(found)
                shares[1].append(share)
                last, last_share = _phase(running, tokens, minute_s / 2)
                alone.append(first + last)
                shares[0].append((first_share + last_share) / 2)
        finally:
            os.sched_setscheduler(0, *scheduler)
            os.sched_setaffinity(0, before)
    return _section(alone, beside, shares, told, first_of_all)


def _section(
    alone: list[list[Asked]],
    beside: list[list[Asked]],
    shares: tuple[list[float], list[float]],
    told: Counter[str],
    first_of_all: bool,
) -> Section:
    new = [[each for each in asked if each[0] < NEW_S] for asked in beside]
    rows, ratios = [], []
    for name, found, share in (
        ("alone", alone, spread(shares[0])),
        ("beside a user far past their limit", beside, spread(shares[1])),
        (f"of these, the first {NEW_S:g} seconds", new, "–"),
    ):
        p99 = _quantile_ms([*chain.from_iterable(found)], 0.99)
        ratios.append(p99 / _quantile_ms([*chain.from_iterable(alone)], 0.99))
        rows.append(
            (
                name,
                spread([_quantile_ms(each, 0.5) for each in found]),
                number(p99),
                spread([_quantile_ms(each, 0.99) for each in found]),
                spread([_quantile_ms(each, 1.0) for each in found]),
                share,
            )
        )
    by_round = [
        _quantile_ms(ours, 0.99) / _quantile_ms(theirs, 0.99)
        for ours, theirs in zip(beside, alone, strict=True)
    ]
    answered = ", ".join(f"{what}: {number(count)}" for what, count in sorted(told.items()))
    return Section(
        "Neighbours",
        f"{USERS} users of whom each asks {EACH_PER_S:g} times a second (something is said, the state is read, the "
        f"profile is read), latency from the moment a request was due. The noisy user comes with {CONNECTIONS} "
        "connections at once and a minute's requests before them, and asks again on each as soon as it is answered: "
        "their state, or to keep a message of 60 KiB. The limits are those of a server as it comes. "
        + (
            "All of them go before whatever else the machine does (SCHED_RR)."
            if first_of_all
            else "What else the machine does comes in between: there was no leave to go first (SCHED_RR)."
        ),
        [
            Table(
                "Latency of quiet users",
                (
                    "quiet users",
                    "p50 ms",
                    "p99 ms of all rounds",
                    "of each",
                    "longest ms",
                    "share of the server's core, %",
                ),
                rows,
                notes=(
                    f"p99 beside noise, of that without, round by round: {spread(by_round)}.",
                    f"The noisy user was answered: {answered}.",
                ),
            )
        ],
        [
            Bound(f"p99 of quiet users {when}", f"<= {WANTED:.2f}", f"{ratio:.2f}", ratio <= WANTED)
            for when, ratio in (
                ("beside a noisy one", ratios[1]),
                (f"in the {NEW_S:g} seconds after a noisy one came", ratios[2]),
            )
        ],
    )
