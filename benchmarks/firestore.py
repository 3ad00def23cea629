"""Firestore as the store: what a conversation and a load cost there, and what an append takes in front of it.

On Google's emulator. Writes and reads are counted as Firestore bills them. The servers are real ones, `samvad serve`
with its defaults; the one whose Firestore is down has a port where nobody listens.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import Options, Spread, Unavailable, load_pairs, progress
from benchmarks.report import Bound, Section, Table, number, spread
from benchmarks.users import MESSAGES_PER_S, USERS, append_latencies_s

CELL_S = 2.0
TURNS_A_ROUND = 4  # of the servers: what else the machine does meets all of them alike
WRITES_PER_MESSAGE_MAX = 0.5
READS_PER_LOAD_MAX = 4
LATENCY_RATIO_MAX = 1.3
CONVERSATIONS = 20
TURNS = 6
TURNS_QUICK = 3
READING_S = 2.0  # until the user says the next thing
REPLIES_S = (0.0, 0.4, 0.8)  # until the assistant has answered
SQLITE, UP, ALONE, DOWN = "SQLite", "Firestore", "Firestore, --no-listen", "Firestore, down"


def run(options: Options) -> Section:
    """Costs first, then the three servers in turn, round after round."""
    with running_emulator() as emulator:
        costs, bounds = asyncio.run(_costs(emulator, options))
        latencies, more = _latencies(emulator, options)
    introduction = (
        f"Google's emulator. Cost: {CONVERSATIONS} users at once, who read {READING_S:g} s between two turns. "
        f"Latency: {USERS} users together send {MESSAGES_PER_S} messages a second to a real server."
    )
    return Section("Firestore", introduction, [costs, latencies], [*bounds, *more])


@contextmanager
def running_emulator(**options: Any) -> Iterator[Any]:
    """Google's emulator; Unavailable where there is none."""
    try:
        import samvad.stores.firestore  # noqa: F401
        from samvad.testing.emulator import EmulatorMissing, FirestoreEmulator
    except ImportError as error:
        raise Unavailable(f"google-cloud-firestore is not installed ({error})") from error
    try:
        emulator = FirestoreEmulator(**options).start()
    except EmulatorMissing as error:
        raise Unavailable(str(error)) from error
    try:
        yield emulator
    finally:
        emulator.stop()


# --- cost --------------------------------------------------------------------------------------------------


async def _costs(emulator: Any, options: Options) -> tuple[Table, list[Bound]]:
    from samvad import open_samvad
    from samvad.stores.firestore import FirestoreStore

    pairs = load_pairs(200)
    rows, worst = [], 0.0
    for reply_s in REPLIES_S:
        progress(f"   conversations, the assistant answers after {reply_s:g} s")
        store = FirestoreStore(emulator.new_project(), emulator_host=emulator.host)
        journal_dir = options.directory / f"journal-{reply_s:g}"
        turns = TURNS_QUICK if options.quick else TURNS
        async with open_samvad(store=store, journal_dir=journal_dir) as samvad:

            async def converse(user: str, reply_s: float = reply_s, turns: int = turns) -> None:
                for said, answered in pairs[:turns]:
                    await samvad.append_to_user_history(user, "user", said)
                    await asyncio.sleep(reply_s)
                    await samvad.append_to_user_history(user, "assistant", answered)
                    await asyncio.sleep(READING_S)

            await asyncio.gather(*[converse(f"user {n}") for n in range(CONVERSATIONS)])
        messages = CONVERSATIONS * turns * 2
        spent = store.operations
        worst = max(worst, spent.writes / messages)
        rows.append(
            (f"a turn answered after {reply_s:g} s", f"{messages}", number(spent.writes), number(spent.reads),
             f"{spent.writes / messages:.2f}")
        )  # fmt: skip
    reads = await _reads_of_a_load(emulator, options)
    rows.append(("loading a profile of 100 messages", "100", "0", number(reads), "0"))
    columns = ("what", "messages", "document writes", "document reads", "writes a message")
    bounds = [
        Bound("Firestore writes a message of a conversation", f"<= {WRITES_PER_MESSAGE_MAX}", f"{worst:.2f}",
              worst <= WRITES_PER_MESSAGE_MAX),
        Bound("Firestore reads to load a profile of 100 messages", f"<= {READS_PER_LOAD_MAX}", f"{reads}",
              reads <= READS_PER_LOAD_MAX),
    ]  # fmt: skip
    note = "One write a message would be 1.00. Reads: of users whom the process does not know yet."
    return Table("What it costs", columns, rows, (note,)), bounds


async def _reads_of_a_load(emulator: Any, options: Options) -> int:
    """A user with state, a session and 100 messages, loaded by a process that has never heard of them."""
    from samvad import open_samvad
    from samvad.stores.firestore import FirestoreStore

    project = emulator.new_project()
    store = FirestoreStore(project, emulator_host=emulator.host)
    async with open_samvad(store=store, journal_dir=options.directory / "journal-filling") as samvad:
        await samvad.save_user_state("asha", {"language": "hi"})
        await samvad.save_session("phone", "asha")
        for said, answered in load_pairs(50):
            await samvad.append_to_user_history("asha", "user", said, session_id="phone")
            await samvad.append_to_user_history("asha", "assistant", answered, session_id="phone")
    store = FirestoreStore(project, emulator_host=emulator.host)
    loading = options.directory / "journal-loading"
    # What the listener is told of recent changes is billed apart, whether the profile is loaded or not.
    async with open_samvad(store=store, journal_dir=loading, listen=False) as samvad:
        before = store.operations.reads
        profile = await samvad.get_user_profile("asha")
        if profile.history_length != 100:
            raise Unavailable(f"the profile has {profile.history_length} messages, not 100")
        return int(store.operations.reads - before)


# --- latency -----------------------------------------------------------------------------------------------


@contextmanager
def server(data_dir: Path, *flags: str, emulator_host: str = "") -> Iterator[int]:
    """`samvad serve` on its own; the port."""
    environment = {**os.environ, "SAMVAD_LOG_LEVEL": "error"}
    if emulator_host:
        environment["FIRESTORE_EMULATOR_HOST"] = emulator_host
    process = subprocess.Popen(
        [sys.executable, "-m", "samvad", "serve", "--port", "0", "--data-dir", str(data_dir), *flags],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if found is None:
            raise Unavailable(f"the server did not start: {line!r}")
        yield int(found[1])
    finally:
        process.kill()
        process.wait()


def _latencies(emulator: Any, options: Options) -> tuple[Table, list[Bound]]:
    texts = [said for said, _ in load_pairs(200)]
    found: dict[str, list[list[float]]] = {SQLITE: [], UP: [], ALONE: [], DOWN: []}
    with ExitStack() as stack, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        refusing = f"127.0.0.1:{nobody.getsockname()[1]}"
        hosts = {SQLITE: "", UP: emulator.host, ALONE: emulator.host, DOWN: refusing}
        ports = {}
        for name, host in hosts.items():
            flags = ["--store", f"firestore://{emulator.new_project()}"] if host else []
            flags += ["--no-listen"] if name == ALONE else []
            data_dir = options.directory / re.sub(r"\W+", "-", name).lower()
            ports[name] = stack.enter_context(server(data_dir, *flags, emulator_host=host))
        for round_number in range(-1, options.rounds):  # the first one warms up
            progress(f"   latency, round {round_number + 1}/{options.rounds}")
            took_s: dict[str, list[float]] = {name: [] for name in ports}
            for _ in range(TURNS_A_ROUND if round_number >= 0 else 1):
                for name, port in ports.items():
                    took_s[name] += asyncio.run(
                        append_latencies_s(port, texts, users=USERS, per_s=MESSAGES_PER_S, seconds=CELL_S)
                    )
            if round_number >= 0:
                for name in ports:
                    found[name].append(sorted(took_s[name]))
    rows, bounds = [], []
    for name, rounds in found.items():
        cells = [name, f"{sum(map(len, rounds))}"]
        for share in (0.5, 0.95, 0.99):
            ours = [_at(took, share) for took in rounds]
            base = [_at(took, share) for took in found[SQLITE]]
            ratios = [a / b for a, b in zip(ours, base, strict=True)]
            cells += [spread([value * 1000 for value in ours]), spread(ratios)]
            if name != SQLITE and share == 0.5:
                ratio = Spread.of(ratios).median
                bounds.append(
                    Bound(f"append p50, {name} / {SQLITE}", f"< {LATENCY_RATIO_MAX}", f"{ratio:.2f}",
                          ratio < LATENCY_RATIO_MAX)
                )  # fmt: skip
        rows.append(tuple(cells))
    columns = ("store behind", "appends", "p50 ms", "ratio", "p95 ms", "ratio", "p99 ms", "ratio")
    notes = (
        "Acknowledged: `stored` by SQLite, `journaled` before Firestore; both are one shared fsync.",
        f"With each change of one user the emulator tells a listener of all {USERS}, not of the one as Firestore does.",
        "That is half of what the event loop does here; `--no-listen` is without it.",
    )
    return Table("What an append takes", columns, rows, notes), bounds


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
