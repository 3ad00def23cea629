"""Requests a second over HTTP, against the bare route that does the same without any of our logic.

Both servers are pinned to one core, `wrk` with 32 connections to another. They are there at once and take turns, second
by second: a machine whose speed changes changes it for both.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import REPOSITORY, Options, Spread, Unavailable, load_pairs, progress
from benchmarks.report import Bound, Section, Table, spread

CONNECTIONS = 32
USERS = 64
STATE = {
    "language": "en",
    "conversationContext": {
        "topic": "home loans",
        "lastIntent": "eligibility_check",
        "entities": ["loan", "salary"],
    },
    "activeSessionId": "session_123",
    "device": {"platform": "web", "deviceId": "device_789"},
}
SERVERS = ("bare", "samvad")

# wrk runs this for each request; %s are the method, the last part of the path, and the body.
LUA = """
local n = 0
wrk.method = "%s"
wrk.headers["Content-Type"] = "application/json"
local body = %s
request = function()
  n = n + 1
  return wrk.format(nil, "/api/session/user-" .. (n %% %d) .. "/%s", nil, body)
end
"""
CASES = {
    "GET state": ("GET", "state", None, 0.8),
    "POST history (ours: on the disk)": (
        "POST",
        "history",
        {"role": "user", "content": "What documents do I need for a home loan, and how long does it take?"},
        0.5,
    ),
    "GET profile, 100 messages": ("GET", "profile", None, 0.8),
}


@dataclass
class Running:
    """A server process and where it listens."""

    url: str
    process: subprocess.Popen[str]


@contextmanager
def server(
    name: str, data_dir: Path, core: int, *arguments: str, module: str = "benchmarks.http_servers"
) -> Iterator[Running]:
    """Run one of the servers of a module on one core."""
    data_dir.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", module, name, str(data_dir), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # noqa: PLW1509
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        if found is None:
            raise Unavailable(f"the {name} server did not start: {line!r}")
        yield Running(found[0], process)
    finally:
        process.terminate()
        process.wait()


def post(url: str, body: object) -> None:
    """Send a JSON body; an error status raises."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    urllib.request.urlopen(request).read()


def fill(url: str) -> None:
    """Give each user a state and 100 messages."""
    pairs = load_pairs(50)
    for number in range(USERS):
        base = f"{url}/api/session/user-{number}"
        post(f"{base}/state", STATE)
        for said, answered in pairs:
            post(f"{base}/history", {"role": "user", "content": said})
            post(f"{base}/history", {"role": "assistant", "content": answered})


def cpu_s(process: subprocess.Popen[str]) -> float:
    """Processor time that a process has used so far; 0 where the system does not tell."""
    stat = Path(f"/proc/{process.pid}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(running: Running, script: Path, seconds: float, core: int) -> tuple[float, float, float]:
    """Requests a second, the 99th percentile in ms, and the server's processor time for one request in µs.

    Unavailable if any answer was not a success. The last figure hardly depends on what else the machine does.
    """
    before_s = cpu_s(running.process)
    result = subprocess.run(
        ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--latency", "-s", str(script), running.url],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    if "Non-2xx" in result.stdout:
        raise Unavailable(f"answers were not successes:\n{result.stdout}")
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", result.stdout)[1])  # type: ignore[index]
    amount, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", result.stdout).groups()  # type: ignore[union-attr]
    requests = int(re.search(r"(\d+) requests in", result.stdout)[1])  # type: ignore[index]
    cpu_us = (cpu_s(running.process) - before_s) * 1e6 / requests
    tail_ms = float(amount) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]
    return rate, tail_ms, cpu_us


def run(options: Options) -> Section:
    """All cases on all servers."""
    if shutil.which("wrk") is None:
        raise Unavailable("wrk is not installed (Debian package wrk)")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise Unavailable("two cores are needed: one for the server, one for the load")
    seconds = 1.0  # wrk takes whole ones
    rates: dict[tuple[str, str], list[float]] = {}
    tails: dict[tuple[str, str], list[float]] = {}
    cpus: dict[tuple[str, str], list[float]] = {}
    scripts = {}
    for case, (method, tail, body, _) in CASES.items():
        script = options.directory / f"{tail}.lua"
        lua_body = "nil" if body is None else "[==[" + json.dumps(body) + "]==]"
        script.write_text(LUA % (method, lua_body, USERS, tail))
        scripts[case] = script
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(server(name, options.directory / name, cores[-1])) for name in SERVERS
        }
        for each in running.values():
            fill(each.url)
        for turn in range(options.rounds if options.quick else 5 * options.rounds):
            progress(f"http: turn {turn + 1}")
            for case, script in scripts.items():
                for name in SERVERS if turn % 2 else reversed(SERVERS):
                    rate, tail_ms, cpu_us = load(running[name], script, seconds, cores[0])
                    cpus.setdefault((case, name), []).append(cpu_us)
                    rates.setdefault((case, name), []).append(rate)
                    tails.setdefault((case, name), []).append(tail_ms)
    rows, bounds = [], []
    for case, (_, _, _, wanted) in CASES.items():
        ours, theirs = rates[case, "samvad"], rates[case, "bare"]
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        middle = Spread.of(ratios).median
        rows.append(
            (
                case,
                spread(ours),
                spread(theirs),
                spread(ratios),
                spread(tails[case, "samvad"]),
                spread(tails[case, "bare"]),
                spread(cpus[case, "samvad"]),
                spread(cpus[case, "bare"]),
            )
        )
        bounds.append(
            Bound(f"{case}: of the bare route's", f">= {wanted}", f"{middle:.2f}", middle >= wanted)
        )
    table = Table(
        "Requests a second",
        (
            "what",
            "samvad",
            "bare Starlette + msgspec",
            "ratio",
            "p99 ms",
            "bare p99 ms",
            "CPU µs a request",
            "bare CPU µs",
        ),
        rows,
        notes=(
            "The bare server keeps everything in memory and answers before anything is on a disk.",
            "POST history answers `stored`: the message is fsynced before the answer.",
        ),
    )
    introduction = (
        f"uvicorn with uvloop and httptools on one core, wrk with {CONNECTIONS} connections on another, "
        f"{USERS} users with a state and 100 messages each. The servers take turns, a second each."
    )
    return Section("HTTP", introduction, [table], bounds)
