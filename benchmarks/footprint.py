"""What the server costs while it does nothing: start-up, idle memory, memory per user held."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import REPOSITORY, Options, Spread, Unavailable, load_pairs, progress
from benchmarks.report import Bound, Section, Table, number, spread

START_S_MAX = 0.7
HELP_S_MAX = 0.2
IDLE_MIB_MAX = 60.0
USERS = 2_000
USERS_QUICK = 300
MESSAGES_PER_USER = 20


@contextmanager
def served(data_dir: Path) -> Iterator[tuple[str, int, float]]:
    """A real `samvad serve`: its address, process id, and seconds from the start to the first answer."""
    core = max(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "samvad.cli", "serve", "--port", "0", "--data-dir", str(data_dir)]
    if shutil.which("taskset"):
        command = ["taskset", "-c", str(core), *command]
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=data_dir
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        if found is None:
            raise Unavailable(f"samvad serve did not start: {line!r}")
        urllib.request.urlopen(f"{found[0]}/api/session/u/profile").read()
        yield found[0], process.pid, time.perf_counter() - begin
    finally:
        process.terminate()
        process.wait()


def rss_mib(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def fill(url: str, users: int) -> None:
    """Give each user a state and some messages, through the bulk route."""
    pairs = load_pairs(MESSAGES_PER_USER // 2)
    messages = []
    for said, answered in pairs:
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": answered}]
    for first in range(0, users, 100):
        operations: list[dict[str, object]] = []
        for user in range(first, min(first + 100, users)):
            operations.append({"op": "append", "userId": f"user-{user}", "messages": messages})
            operations.append({"op": "state", "userId": f"user-{user}", "state": {"language": "en"}})
        body = json.dumps({"operations": operations}).encode()
        request = urllib.request.Request(
            f"{url}/api/session/batch", body, {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request).read()


def help_s() -> float:
    """Seconds that `samvad --help` takes, start of Python included."""
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "samvad.cli", "--help"], stdout=subprocess.DEVNULL, check=True, cwd=REPOSITORY
    )
    return time.perf_counter() - begin


def run(options: Options) -> Section:
    """Start, measure, fill, measure again; once a round."""
    if not Path("/proc/self/statm").exists():
        raise Unavailable("memory is read from /proc, which this system does not have")
    users = USERS_QUICK if options.quick else USERS
    starts, idles, per_user, helps = [], [], [], []
    help_s()  # the first one compiles
    for round_number in range(options.rounds):
        progress(f"footprint: round {round_number + 1}")
        helps.append(help_s())
        data_dir = options.directory / f"footprint-{round_number}"
        data_dir.mkdir()
        with served(data_dir) as (url, pid, start_s):
            starts.append(start_s)
            idle = rss_mib(pid)
            idles.append(idle)
            fill(url, users)
            per_user.append((rss_mib(pid) - idle) * 1024 / users)
    rows = [
        ("start to first answer, s", spread(starts), f"< {START_S_MAX}"),
        ("`samvad --help`, s", spread(helps), f"< {HELP_S_MAX}"),
        ("memory of an idle server, MiB", spread(idles), f"< {IDLE_MIB_MAX:g}"),
        (f"memory per user held, {MESSAGES_PER_USER} messages and a state, KiB", spread(per_user), ""),
    ]
    bounds = [
        Bound(name, f"< {limit:g} {unit}", f"{number(middle)} {unit}", middle < limit)
        for name, values, limit, unit in (
            ("start to first answer", starts, START_S_MAX, "s"),
            ("samvad --help", helps, HELP_S_MAX, "s"),
            ("memory of an idle server", idles, IDLE_MIB_MAX, "MiB"),
        )
        for middle in (Spread.of(values).median,)
    ]
    introduction = f"A real `samvad serve` on one core; {users:,} users filled through the bulk route."
    note = "Records of users leave memory 30 minutes after they were last used, or when 256 MiB are full."
    table = Table("Start-up and memory", ("what", "measured", "wanted"), rows, notes=(note,))
    return Section("Footprint", introduction, [table], bounds)
