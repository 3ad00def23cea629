"""Erasing races appends, flushes, loads, notices, outages, kills and replays of several replicas, on virtual time.

Every piece of text carries a canary with a number of its own, which nobody keeps as text; in the end a canary that is
not in the store is nowhere: not in a journal, the memory of a replica or the log, searched byte by byte.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from samvad.errors import Conflict, NotFound, SamvadError, Unavailable
from samvad.logs import JsonFormatter
from samvad.records import UserKey
from samvad.sessions.breaker import Patience
from samvad.stores.memory import MemoryStore
from samvad.testing.loop import VirtualLoop, run
from tests.journaled.support import stored
from tests.journaled.virtual import (
    CANARY,
    Replica,
    canaries_in_files,
    canaries_in_memory,
    remember_tasks,
)

PATIENCE = Patience(clock_skew_s=0.0)
TRAVEL_S_MAX = 0.03
LATENCY_S_MAX = 0.004
RACE_S = 4.0
SETTLE_S = 120.0


class Said:
    """What was asked for, by the number of its canary, and when: -1 as long as it was not."""

    def __init__(self) -> None:
        self.asked_s: list[float] = []
        self.answered_s: list[float] = []
        self.home: list[int] = []  # the replica that was asked, and in which of its lives
        self.user: list[str] = []
        self.kind: list[str] = []

    def text(self, user: str, home: int, now_s: float, kind: str) -> tuple[int, str]:
        """A number, and a text that carries it."""
        self.asked_s.append(now_s)
        self.answered_s.append(-1.0)
        self.user.append(user)
        self.home.append(home)
        self.kind.append(kind)
        number = len(self.asked_s) - 1
        return number, f"canary-{number}-"


class Log(logging.Handler):
    """Keeps the lines, as a server writes them."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(JsonFormatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """See Handler."""
        self.lines.append(self.format(record))


class Race:
    """One interleaving."""

    def __init__(self, loop: VirtualLoop, directory: Path, seed: int) -> None:
        self.loop = loop
        self.chance = random.Random(seed)
        self.store = MemoryStore()
        self.lives = remember_tasks(loop)
        self.said = Said()
        self.erasings: list[tuple[float, float, int, bool]] = []  # asked, answered, replica, pending
        self.replicas = [
            Replica(
                loop, self.store, directory / str(number), seed * 10 + number,
                patience=PATIENCE._replace(
                    write_interval_s=self.chance.choice([0.0, 0.1, 1.0]), gather_s=self.chance.choice([0.0, 0.2, 1.2])
                ),
                travel_s_max=self.chance.choice([0.0, TRAVEL_S_MAX, 10 * TRAVEL_S_MAX]),
            )
            for number in range(self.chance.choice([1, 2, 2, 3]))
        ]  # fmt: skip
        self.closed = [asyncio.Lock() for _ in self.replicas]

    async def pause(self) -> None:
        """Until a moment of the race that only the seed knows."""
        await asyncio.sleep(self.chance.choice([0.0, 0.0, 0.001, 0.02, 0.3]) * self.chance.random())

    async def on(self, number: int, work: Coroutine[Any, Any, Any]) -> Any:
        """What a caller of a replica does: an answer, an error, or None where the replica was killed meanwhile."""
        replica = self.replicas[number]
        if not replica.alive:  # nobody answers: what was asked of a dead process would wait for ever
            work.close()
            return None
        life, task = replica.kills, replica.spawn(work)
        try:
            answer = await task
        except (Unavailable, NotFound, Conflict) as error:
            return error
        except asyncio.CancelledError:
            if replica.kills == life:
                raise
            return None
        return answer if replica.kills == life else None

    async def speaker(self, number: int) -> None:
        """Says this and that, through one replica after the other or always the same."""
        faithful = self.chance.random() < 0.5
        while self.loop.time() < RACE_S:
            await self.pause()
            home = number % len(self.replicas) if faithful else self.chance.randrange(len(self.replicas))
            user = self.chance.choice(["asha", "asha", "asha", "ravi"])
            kind = self.chance.choice(["append", "append", "append", "state", "session", "profile", "stack"])
            at, text = self.said.text(user, home, self.loop.time(), kind)
            samvad = self.replicas[home].samvad
            work: Coroutine[Any, Any, Any]
            if kind == "append":
                given = {"id": f"id-{at}"} if self.chance.random() < 0.3 else {}
                work = samvad.append_to_user_history(user, "user", text, **given)
            elif kind == "state":
                work = samvad.save_user_state(user, {f"k{at}": text})
            elif kind == "session":
                work = samvad.save_session(f"{user}-{at % 7}", user, metadata={f"k{at}": text})
            elif kind == "profile":
                work = samvad.save_user_profile(user, {f"k{at}": text})
            else:
                body = msgspec.json.encode({"x": text})
                work = samvad.record_interruption(f"{user}-{at % 7}", f"i{at}", 1, body)
            del text
            answer = await self.on(home, work)
            if not isinstance(answer, SamvadError | None) or (answer is None and kind != "append"):
                self.said.answered_s[at] = self.loop.time() if answer is not None else -1.0
            await asyncio.sleep(self.chance.choice([0.0, 0.05, 0.3]) * self.chance.random())

    async def reader(self) -> None:
        """Loads what there is, wherever it may come from."""
        while self.loop.time() < RACE_S:
            home = self.chance.randrange(len(self.replicas))
            samvad = self.replicas[home].samvad
            samvad.core.lanes.invalidate(UserKey("default", "asha"))
            await self.on(home, samvad.get_user_profile("asha"))
            await asyncio.sleep(self.chance.random() * 0.3)

    async def eraser(self) -> None:
        """Erases the user, once or twice."""
        for _ in range(self.chance.choice([1, 1, 2])):
            await asyncio.sleep(self.chance.random() * RACE_S / 2)
            home = self.chance.randrange(len(self.replicas))
            asked_s, life = self.loop.time(), self.replicas[home].kills
            answer = await self.on(home, self.replicas[home].samvad.clear_user_data("asha"))
            if answer is None or isinstance(answer, SamvadError) or self.replicas[home].kills != life:
                self.erasings.append((asked_s, float("inf"), home, True))
            else:
                self.erasings.append((asked_s, self.loop.time(), home, answer.pending))

    async def weather(self) -> None:
        """Replies are lost, and replicas lose the store for a while."""
        for replica in self.replicas:
            replica.weather(cut=self.chance.choice([0.0, 0.0, 0.3]))
        while self.loop.time() < RACE_S and self.chance.random() < 0.7:
            replica = self.chance.choice(self.replicas)
            await asyncio.sleep(self.chance.random() * RACE_S)
            replica.weather(down=True)
            await asyncio.sleep(self.chance.random() * RACE_S / 2)
            replica.weather(down=False)

    async def killer(self) -> None:
        """Kills replicas; they start again and replay their journals."""
        while self.chance.random() < 0.5:
            await asyncio.sleep(self.chance.random() * RACE_S)
            replica = self.chance.choice(self.replicas)
            await replica.kill(self.lives)
            await replica.start()

    async def run(self) -> set[int]:
        """Let them race and then come to rest; which canaries the store has in the end."""
        await self.store.open()
        for replica in self.replicas:
            await replica.start()
        actors = [self.speaker(n) for n in range(4)] + [
            self.reader(),
            self.eraser(),
            self.weather(),
            self.killer(),
        ]
        self.chance.shuffle(actors)
        await asyncio.gather(*actors)
        for replica in self.replicas:
            replica.weather(down=False, cut=0.0)
        await asyncio.sleep(SETTLE_S)
        for replica in self.replicas:
            assert not replica.journaled.flusher.entries_waiting
            assert not replica.journaled.flusher.parked()
            profile = await replica.samvad.get_user_profile("asha")
            shown = [int(CANARY.findall(m.content.encode())[0]) for m in profile.conversation_history]
            assert shown == await self.history()
        return canaries_in_memory(
            self.store._users, self.store._sessions, self.store._interruptions, self.store._receipts
        )

    async def history(self) -> list[int]:
        """The numbers of what the store has as said by asha, in order, the last 100."""
        return [int(CANARY.findall(message.body)[0]) for message in await stored(self.store, "asha")][-100:]

    def check(self, kept: set[int]) -> None:
        """What was acknowledged before an erasing was asked for is gone; what was asked for after its answer is not."""
        for number, (asked_s, answered_s) in enumerate(
            zip(self.said.asked_s, self.said.answered_s, strict=True)
        ):
            if self.said.user[number] != "asha":
                assert number in kept or answered_s < 0 or self.said.kind[number] != "append", (
                    f"{number}: ravi's is lost"
                )
                continue
            if answered_s >= 0:
                erased = any(answered_s < erasing[0] for erasing in self.erasings)
                assert not (erased and number in kept), f"{number} was erased and is back"
            after_all = all(
                asked_s > answered_erasing_s and not pending
                for _, answered_erasing_s, _, pending in self.erasings
            )
            if answered_s >= 0 and after_all and self.said.kind[number] == "append":
                assert number in kept, f"{number} was said after the erasing and is lost"

    def gone(self, kept: set[int]) -> set[int]:
        """What must be nowhere: all that is not in the store.

        But for an interruption that was told of a session after its user was erased: the store does not take it, which
        is no erasing.
        """
        return {
            number
            for number, answered_s in enumerate(self.said.answered_s)
            if number not in kept
            and (
                self.said.kind[number] != "stack"
                or any(0 <= answered_s < asked_s for asked_s, *_ in self.erasings)
            )
        }


def interleaving(directory: Path, seed: int) -> None:
    """One seed."""
    log = Log()
    root = logging.getLogger()
    level = root.level
    root.addHandler(log)
    root.setLevel(logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.WARNING)

    async def main(loop: VirtualLoop) -> None:
        race = Race(loop, directory, seed)
        kept = await race.run()
        race.check(kept)
        gone = race.gone(kept)
        for replica in race.replicas:
            left = canaries_in_files(replica.directory) & gone
            assert not left, f"in the journal of replica {replica.directory.name}: {left}"
            left = canaries_in_memory(replica.samvad) & gone
            assert not left, f"in the memory of replica {replica.directory.name}: {left}"
        for replica in race.replicas:
            await replica.samvad.aclose(drain_s=1.0)
            assert not canaries_in_files(replica.directory) & gone

    try:
        run(main, seed, latency_s_max=LATENCY_S_MAX)
    finally:
        root.removeHandler(log)
        root.setLevel(level)
    assert not CANARY.findall("\n".join(log.lines).encode())


@pytest.mark.parametrize(
    "tens", [pytest.param(n, marks=pytest.mark.soak) if n >= 10 else n for n in range(100)]
)
def test_interleavings(tmp_path: Path, tens: int) -> None:
    """1,000 of them, ten at a time (100 in `make test`)."""
    for seed in range(10 * tens, 10 * tens + 10):
        interleaving(tmp_path / str(seed), seed)


def test_the_same_seed_is_the_same_run(tmp_path: Path) -> None:
    """Which messages are where, and when they were answered."""

    def told(directory: Path) -> tuple[Any, ...]:
        async def main(loop: VirtualLoop) -> tuple[Any, ...]:
            race = Race(loop, directory, 7)
            kept = await race.run()
            for replica in race.replicas:
                await replica.samvad.aclose(drain_s=1.0)
            return sorted(kept), race.said.answered_s, race.erasings, await race.history()

        return run(main, 7, latency_s_max=LATENCY_S_MAX)

    assert told(tmp_path / "a") == told(tmp_path / "b")
