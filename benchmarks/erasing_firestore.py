"""How long erasing a user takes on Firestore, by the number of users there, encryption off and on, while others talk.

For a query Google's emulator reads all documents of its database, where Firestore looks into an index: what it takes
grows with the users. So this also counts what an erasing asks of Firestore, and what it takes of the processor here;
both are the same however many users there are. `make bench ARGS=erasing_firestore` goes up
to 100,000 users; as one of all benchmarks it stops at 10,000, as filling and reading take some ten minutes more.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.erasing import APPENDS_PER_S, MESSAGES, SAID, WANTED_S, fill, made_key, talking
from benchmarks.firestore import running_emulator
from benchmarks.measure import Options, Sample, Unavailable, progress
from benchmarks.report import Bound, Section, Table, number
from samvad import Samvad, open_samvad
from samvad.auth.erasure_receipts import ErasureSigner, places_of
from samvad.records import UserKey
from samvad.sessions.journaled import JournaledStore

USERS = (1_000, 10_000)
USERS_NAMED = (1_000, 10_000, 100_000)
USERS_QUICK = (200, 1_000)
WARM, ALONE, ENDED, ERASED = 5, 10, 10, 100
WARM_QUICK, ALONE_QUICK, ENDED_QUICK, ERASED_QUICK = 2, 4, 4, 20
TALKERS = 20
SETTLE_S_MAX = 120.0
PATIENCE_S = 20.0
WAITS_WANTED = {False: 4, True: 8}  # encryption off, on
HEAP_MIB = 4096  # 100,000 users take about 2 GiB of it
WRITES_AT_ONCE = 500
GATHER_S = 0.005
NOTES = (
    (
        "p50, p99, pending: while others talk; every second user has said something just before. For a query the "
        "emulator reads all documents of its database, and that is what grows; Firestore looks into an index. Who has "
        "no documents and an open session is erased without any. Ended: the p50 of users whose session was ended, "
        "which takes a query, with nobody else there."
    ),
    "An answer comes 0.2 s after the erasing began, or later: the clocks of other replicas may be behind by so much.",
    "Pending: answered after 2 s, with what is certain by then. The rest follows by itself.",
    (
        "CPU, documents, calls: of an erasing with nobody else there, until all is done. The last column is what each "
        "of the calls that are waited for one after the other may take, if all is to be done in 1 s."
    ),
    "Without the listener for other replicas, for which the emulator reads all users at each change.",
)
_Call = tuple[list[Any], "asyncio.Future[Any]"]


class Bundles:
    """Makes few large calls of the many small ones of a store that is being filled, which takes half the time.

    The emulator does 400 commits a second, whatever is in them. Nothing that is measured goes this way.
    """

    def __init__(self, client: Any) -> None:
        self._deadline = client.deadline
        self._commit = client.commit
        self._get = client.get
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, list[_Call]] = {"commit": [], "get": []}
        client.commit = lambda writes, deadline: self._ask("commit", writes, self._commit_all)
        # Nobody else writes: what is there now was there at any moment that a caller asks for.
        client.get = lambda names, deadline, **_: self._ask("get", names, self._get_all)

    async def _ask(
        self, call: str, items: Iterable[Any], send: Callable[[list[_Call]], Awaitable[None]]
    ) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[call].append((list(items), future))
        if call not in self._tasks:
            self._tasks[call] = asyncio.create_task(self._send(call, send))
        return await future

    async def _send(self, call: str, send: Callable[[list[_Call]], Awaitable[None]]) -> None:
        while self._waiting[call]:
            await asyncio.sleep(GATHER_S)
            waiting, self._waiting[call] = self._waiting[call], []
            for calls in _by_size(waiting):
                try:
                    await send(calls)
                except Exception as error:  # whoever waits is told, and knows what to do
                    for _, future in calls:
                        future.set_exception(error)
        del self._tasks[call]

    async def _commit_all(self, calls: list[_Call]) -> None:
        times = await self._commit([write for writes, _ in calls for write in writes], self._deadline())
        for writes, future in calls:
            future.set_result(times[: len(writes)])
            times = times[len(writes) :]

    async def _get_all(self, calls: list[_Call]) -> None:
        found = await self._get([name for names, _ in calls for name in names], self._deadline())
        for _, future in calls:
            future.set_result(found)


def _by_size(calls: list[_Call]) -> list[list[_Call]]:
    """The calls in groups of at most so many writes or names."""
    groups: list[list[_Call]] = []
    size = WRITES_AT_ONCE
    for items, future in calls:
        if size + len(items) > WRITES_AT_ONCE:
            groups.append([])
            size = 0
        groups[-1].append((items, future))
        size += len(items)
    return groups


class Waits:
    """Counts how often Firestore is waited for: calls that are under way together are one wait."""

    def __init__(self, client: Any) -> None:
        self.count = 0
        self._open = 0
        for name in ("get", "query", "aggregate", "commit"):
            setattr(client, name, self._counted(getattr(client, name)))

    def _counted(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def counted(*arguments: Any, **options: Any) -> Any:
            self.count += not self._open
            self._open += 1
            try:
                return await call(*arguments, **options)
            finally:
                self._open -= 1

        return counted


class Asked(NamedTuple):
    """What one erasing asks of Firestore."""

    calls: int
    reads: int
    writes: int
    deletes: int


@dataclass
class Erasings:
    """What erasing took with so many users in the store."""

    users: int
    encrypted: bool
    filled_s: float = 0.0
    took: Sample = field(default_factory=Sample)
    """While others talk."""
    pending: int = 0
    """Of those, answered before Firestore was rid of the user."""
    ended: Sample = field(default_factory=Sample)
    """With nobody else there, of users whose session was ended."""
    cpu: Sample = field(default_factory=Sample)
    """Processor time of this process, with nobody else there."""
    waits: list[int] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)


def run(options: Options) -> Section:
    """Each number of users, without encryption and with it."""
    sizes = USERS_QUICK if options.quick else USERS_NAMED if options.named else USERS
    found, notes = [], []
    for users, encrypted in itertools.product(sizes, (False, True)):
        progress(f"erasing on Firestore: {users:,} users, encryption {_on(encrypted)}")
        directory = options.directory / f"erasing-{users}-{encrypted}"
        with running_emulator(heap_mib=HEAP_MIB) as emulator:
            try:
                found.append(asyncio.run(_measure(emulator, directory, users, encrypted, options.quick)))
            except Unavailable as error:
                if not found:
                    raise
                notes.append(f"{users:,} users, encryption {_on(encrypted)}, could not be measured: {error}.")
    return _section(found, notes)


async def _measure(emulator: Any, directory: Path, users: int, encrypted: bool, quick: bool) -> Erasings:
    from samvad.stores.firestore import FirestoreStore

    found = Erasings(users, encrypted)
    project = emulator.new_project()
    key = made_key() if encrypted else None
    store = FirestoreStore(project, emulator_host=emulator.host)
    async with open_samvad(store=store, master_key=key, listen=False) as samvad:
        Bundles(store.client)
        began_s = time.perf_counter()
        await fill(samvad, users)
        found.filled_s = time.perf_counter() - began_s
    store = FirestoreStore(
        project,
        emulator_host=emulator.host,
        attempts_max=2,  # as behind a journal
        attempt_timeout_s=PATIENCE_S,  # the emulator reads everything for a query
        call_timeout_s=PATIENCE_S,
    )
    warm, alone, ended, erased = (
        (WARM_QUICK, ALONE_QUICK, ENDED_QUICK, ERASED_QUICK) if quick else (WARM, ALONE, ENDED, ERASED)
    )
    chosen = iter(random.Random(20250110).sample(range(users), warm + alone + ended + erased + TALKERS))
    talkers = list(itertools.islice(chosen, TALKERS))
    async with open_samvad(store=store, master_key=key, journal_dir=directory, listen=False) as samvad:
        await _erase_alone(samvad, store, Erasings(users, encrypted), list(itertools.islice(chosen, warm)))
        await _erase_alone(samvad, store, found, list(itertools.islice(chosen, alone)))
        await _erase_ended(samvad, found, list(itertools.islice(chosen, ended)))
        await _erase_among_others(samvad, found, list(chosen), talkers)
    return found


async def _erase(samvad: Samvad, signer: ErasureSigner, number_: int, messages: int) -> tuple[float, bool]:
    """Seconds until a caller has the signed receipt, and whether it says that something is pending."""
    user_id = f"user-{number_}"
    began_s = time.perf_counter()
    cleared = await samvad.clear_user_data(user_id)
    places = places_of(samvad.store, has_documents=False)
    receipt = signer.sign(UserKey("default", user_id), cleared, places, samvad.core.clock.now_ms())
    took_s = time.perf_counter() - began_s
    if not cleared.pending and (cleared.sessions, cleared.messages) != (1, messages):
        raise Unavailable(f"of a user with a session and {messages} messages this was removed: {cleared}")
    return took_s, receipt["pending"]


async def _erase_alone(samvad: Samvad, store: Any, found: Erasings, chosen: list[int]) -> None:
    """What one erasing asks of Firestore, of users that are not in memory, until it is done."""
    signer, waits, done = ErasureSigner(None), Waits(store.client), store.operations
    assert isinstance(samvad.store, JournaledStore)

    def so_far() -> tuple[float, int, int, int, int, int]:
        return time.process_time(), waits.count, done.calls, done.reads, done.writes, done.deletes

    for number_ in chosen:
        before = so_far()
        await _erase(samvad, signer, number_, MESSAGES)
        if not await samvad.store.written(UserKey("default", f"user-{number_}"), SETTLE_S_MAX):
            raise Unavailable(f"the emulator was not rid of a user after {SETTLE_S_MAX:g} s")
        cpu_s, waited, *asked = (b - a for a, b in zip(before, so_far(), strict=True))
        found.cpu.latencies_s.append(cpu_s)
        found.waits.append(round(waited))
        found.asked.append(Asked(*map(round, asked)))


async def _erase_ended(samvad: Samvad, found: Erasings, chosen: list[int]) -> None:
    """Users whose session was ended, which only a query finds."""
    signer = ErasureSigner(None)
    assert isinstance(samvad.store, JournaledStore)
    for number_ in chosen:
        await samvad.end_session(f"session-{number_}")
        await samvad.store.written(UserKey("default", f"user-{number_}"), SETTLE_S_MAX)
        took_s, _ = await _erase(samvad, signer, number_, MESSAGES)
        found.ended.latencies_s.append(took_s)


async def _erase_among_others(samvad: Samvad, found: Erasings, chosen: list[int], talkers: list[int]) -> None:
    """Erase users while others talk; every second one has just said something, which waits in the journal."""
    signer = ErasureSigner(None)

    async def say(number_: int) -> None:
        await samvad.append_to_user_history(f"user-{number_}", "user", SAID)

    for number_ in talkers:  # from now on they are in memory
        await say(number_)
    async with talking(say, itertools.cycle(talkers)):
        for turn, number_ in enumerate(chosen):
            said = turn % 2
            if said:
                await say(number_)
            took_s, pending = await _erase(samvad, signer, number_, MESSAGES + said)
            found.took.latencies_s.append(took_s)
            found.pending += pending


def _on(encrypted: bool) -> str:
    return "on" if encrypted else "off"


def _section(found: list[Erasings], notes: list[str]) -> Section:
    rows, bounds = [], []
    for each in found:
        cpu_s = each.cpu.quantile_ms(0.99) / 1000
        asked, waits = statistics.mode(each.asked), max(each.waits)
        rows.append(
            (f"{each.users:,}, encryption {_on(each.encrypted)}", number(each.filled_s),
             number(each.took.quantile_ms(0.5)), number(each.took.quantile_ms(0.99)), f"{each.pending}",
             number(each.ended.quantile_ms(0.5)),
             number(cpu_s * 1000), f"{asked.reads} / {asked.writes} / {asked.deletes}", f"{asked.calls}",
             f"{waits}", number((WANTED_S - cpu_s) / waits * 1000))
        )  # fmt: skip
        name = f"encryption {_on(each.encrypted)}"
        if each.users == found[-1].users:
            p99_s = each.took.quantile_ms(0.99) / 1000
            bounds.append(
                Bound(f"erasing a user of {each.users:,} on Firestore's emulator, {name}: p99", f"< {WANTED_S:g} s",
                      f"{number(p99_s)} s", p99_s < WANTED_S)
            )  # fmt: skip
            wanted = WAITS_WANTED[each.encrypted]
            most = statistics.mode(each.waits)
            bounds.append(
                Bound(f"calls of an erasing on Firestore one after the other, {name}", f"<= {wanted}", f"{most}",
                      most <= wanted)
            )  # fmt: skip
            first = next(before for before in found if before.encrypted == each.encrypted)
            more = asked.calls - statistics.mode(first.asked).calls
            bounds.append(
                Bound(f"calls of an erasing on Firestore, {each.users:,} users - {first.users:,}, {name}", "<= 0",
                      f"{more}", more <= 0)
            )  # fmt: skip
    table = Table(
        "Milliseconds to erase a user on Firestore's emulator, by users there",
        ("users", "filled in s", "p50 ms", "p99 ms", "pending", "ended, p50 ms", "CPU ms, p99",
         "documents read / written / deleted", "calls", "one after the other", "ms each may take"),
        rows,
        (*NOTES, *notes),
    )  # fmt: skip
    erased = len(found[0].took.latencies_s)
    introduction = (
        f"Users with a state, a session and {MESSAGES} messages each; {erased} of them are erased through the service "
        f"with its journal, one after the other, until the signed receipt is there, while {TALKERS} others append "
        f"{APPENDS_PER_S} messages a second. {max(USERS):,} users are the most in a run of all benchmarks, "
        f"{max(USERS_NAMED):,} where this one is asked for by name."
    )
    return Section("Erasing on Firestore", introduction, [table], bounds)
