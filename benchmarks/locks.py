"""What safety costs: encryption, authentication, limits and metrics on, against all of them off, in one run.

The server is that of `samvad serve`, on one core; `wrk` loads it from another. A server with all off and one with all
on are there at once and take turns, second by second: a machine whose speed changes changes it for both. Each lock
alone is measured once, to see where the cost is.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks.http import CASES, CONNECTIONS, STATE, USERS, Running, load, server
from benchmarks.locks_servers import LOCKS
from benchmarks.measure import REPOSITORY, Options, Spread, Unavailable, load_pairs, progress
from benchmarks.report import Bound, Section, Table, number, spread

WANTED = 0.75
ALL = "+".join(LOCKS)
OFF, KEY, TOKENS = "all off", "all on, an API key", "all on, users' tokens"
ALONE = {name: "auth+limits" if name == "limits" else name for name in LOCKS}

# wrk runs this for each request; %s are the method, the body, the tokens, and the last part of the path.
LUA = """
local n = 0
local body = %s
local headers = {}
for i, token in ipairs({%s}) do
  headers[i - 1] = {["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. token}
end
local plain = {["Content-Type"] = "application/json"}
request = function()
  n = n + 1
  local user = n %% %d
  return wrk.format("%s", "/api/session/user-" .. user .. "/%s", headers[user] or headers[0] or plain, body)
end
"""


def make_key(data_dir: Path) -> str:
    """An API key of a server that is to keep its data there."""
    command = [sys.executable, "-m", "samvad.cli", "keys", "create", "--name", "bench"]
    command += ["--data-dir", str(data_dir), "--scopes", "users,sessions,stats"]
    made = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return made.stdout.strip()


def ask(url: str, path: str, body: object = None, token: str = "") -> bytes:
    """POST a body, or GET without one; an error status raises."""
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    found: bytes = urllib.request.urlopen(urllib.request.Request(url + path, data, headers)).read()
    return found


def fill(url: str, token: str) -> None:
    """Give each user a state and 100 messages, through the bulk route."""
    messages: list[dict[str, str]] = []
    for said, answered in load_pairs(50):
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": answered}]
    operations: list[dict[str, object]] = []
    for number_ in range(USERS):
        user = f"user-{number_}"
        operations.append({"op": "append", "userId": user, "messages": messages})
        operations.append({"op": "state", "userId": user, "state": STATE})
    for first in range(0, len(operations), 16):
        ask(url, "/api/session/batch", {"operations": operations[first : first + 16]}, token)


def minted(url: str, key: str) -> list[str]:
    """A token for each user."""
    answers = [
        ask(url, "/api/auth/tokens", {"userId": f"user-{n}", "ttlSeconds": 3600}, key) for n in range(USERS)
    ]
    return [json.loads(answer)["token"] for answer in answers]


@contextlib.contextmanager
def scraped(url: str, token: str, every_s: float = 1.0) -> Iterator[None]:
    """Read the metrics, as Prometheus does, once a second."""
    stop = threading.Event()

    def scrape() -> None:
        ask(url, "/metrics", token=token)
        while not stop.wait(every_s):
            ask(url, "/metrics", token=token)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class Locked:
    """A server with some of the locks on, filled; `tokens` are what its requests bring, in turn."""

    def __init__(self, running: Running, locks: str, key: str, directory: Path) -> None:
        self._running = running
        self._scrapes = "metrics" in locks
        self._key = key
        self._script = directory / "load.lua"
        self.tokens = {KEY: [key] if key else []}
        fill(running.url, key)
        if locks == ALL:
            self.tokens[TOKENS] = minted(running.url, key)

    def measure(self, case: str, seconds: float, bringing: str = KEY) -> tuple[float, float]:
        """Requests a second, and processor time of one in µs."""
        method, tail, body, _ = CASES[case]
        lua_body = "nil" if body is None else "[==[" + json.dumps(body) + "]==]"
        words = ", ".join(f'"{token}"' for token in self.tokens[bringing])
        self._script.write_text(LUA % (lua_body, words, USERS, method, tail))
        url = self._running.url
        with scraped(url, self._key) if self._scrapes else contextlib.nullcontext():
            rate, _, cpu_us = load(self._running, self._script, seconds, min(os.sched_getaffinity(0)))
        return rate, cpu_us


@contextlib.contextmanager
def locked(locks: str, directory: Path) -> Iterator[Locked]:
    """Start one."""
    key = make_key(directory) if "auth" in locks else ""
    with server(locks, directory, max(os.sched_getaffinity(0)), module="benchmarks.locks_servers") as running:
        yield Locked(running, locks, key, directory)


def run(options: Options) -> Section:
    """All off and all on in turns, each alone once."""
    if shutil.which("wrk") is None:
        raise Unavailable("wrk is not installed (Debian package wrk)")
    if len(os.sched_getaffinity(0)) < 2:
        raise Unavailable("two cores are needed: one for the server, one for the load")
    rounds: dict[str, list[dict[str, tuple[float, float]]]] = defaultdict(list)
    with (
        locked("none", options.directory / "locks-off") as off,
        locked(ALL, options.directory / "locks-on") as on,
    ):
        turns = [(OFF, off, KEY), (KEY, on, KEY), (TOKENS, on, TOKENS)]
        for number_ in range(1 if options.quick else 5 * options.rounds):
            progress(f"locks: round {number_ + 1}")
            found: dict[str, dict[str, tuple[float, float]]] = {name: {} for name, _, _ in turns}
            for case in CASES:
                for name, each, bringing in turns if number_ % 2 == 0 else reversed(turns):
                    found[name][case] = each.measure(case, 1.0, bringing)  # wrk takes whole seconds
            for name, measured in found.items():
                rounds[name].append(measured)
    for name, locks in ALONE.items():
        progress(f"locks: {name} alone")
        with locked(locks, options.directory / f"locks-{name}") as alone:
            rounds[name].append({case: alone.measure(case, 1.0) for case in CASES})
    return Section(
        "Locks",
        f"`samvad serve` on one core, wrk with {CONNECTIONS} connections on another, {USERS} users with a state and "
        "100 messages each. All on: what is kept is encrypted, every request brings a credential and is counted "
        "against limits that it does not reach, the audit log is kept, and the metrics are read once a second.",
        [_rates(rounds), _alone(rounds)],
        _bounds(rounds),
    )


def _ratios(
    rounds: dict[str, list[dict[str, tuple[float, float]]]], on: str, case: str | None
) -> list[float]:
    """Throughput against all off, round by round; without a case, of one request of each."""
    cases = [case] if case else list(CASES)
    return [
        sum(1 / off[each][0] for each in cases) / sum(1 / measured[each][0] for each in cases)
        for off, measured in zip(rounds[OFF], rounds[on], strict=True)
    ]


def _rates(rounds: dict[str, list[dict[str, tuple[float, float]]]]) -> Table:
    rows = []
    for case in CASES:
        cells = [case]
        for name in (OFF, KEY, TOKENS):
            cells.append(spread([measured[case][0] for measured in rounds[name]]))
            if name != OFF:
                cells.append(spread(_ratios(rounds, name, case)))
        rows.append(cells)
    rows.append(
        ["one of each", "", "", spread(_ratios(rounds, KEY, None)), "", spread(_ratios(rounds, TOKENS, None))]
    )
    columns = ("what", OFF, KEY, "ratio", TOKENS, "ratio")
    return Table("Requests a second, all locks off and on", columns, rows)


def _alone(rounds: dict[str, list[dict[str, tuple[float, float]]]]) -> Table:
    names = (OFF, *ALONE, KEY, TOKENS)
    rows = [
        (case, *(number(Spread.of([m[case][1] for m in rounds[name]]).median) for name in names))
        for case in CASES
    ]
    note = "Limits hold where credentials are asked for: what they cost is the difference to `auth`."
    return Table("Processor time of a request in µs, each lock alone", ("what", *names), rows, notes=(note,))


def _bounds(rounds: dict[str, list[dict[str, tuple[float, float]]]]) -> list[Bound]:
    bounds = []
    for case in (*CASES, None):
        middle = Spread.of(_ratios(rounds, KEY, case)).median
        what = f"{case or 'one of each'}: all locks on, of all off"
        bounds.append(Bound(what, f">= {WANTED}", f"{middle:.2f}", middle >= WANTED))
    return bounds
