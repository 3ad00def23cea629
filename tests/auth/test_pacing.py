"""A user who asks for much at once waits for their turn: others do not stand behind all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from samvad import limits
from samvad.errors import Overloaded
from samvad.http import pacing
from samvad.http.app import create_app
from samvad.http.pacing import Pacing
from samvad.http.rate_limits import Limiter, quotas
from samvad.http.windows import Left, Wanted
from samvad.settings import Settings
from samvad.testing import loop as virtual
from tests.auth.world import ALL, ASHA, BALA, bearing, world
from tests.http.support import Answer, Api

PROFILE = f"/api/session/{ASHA}/profile"


def on_virtual_time(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    virtual.run(lambda _: body())


class Line:
    """Requests of users, and when each was carried out."""

    def __init__(self, requests_per_minute: int = 600) -> None:
        self.pacing = Pacing(requests_per_minute)
        self.began: list[tuple[str, int, float]] = []

    async def ask(self, whose: str, number: int) -> None:
        loop = asyncio.get_running_loop()
        if wait_s := self.pacing.wait_s(whose, loop.time()):
            await self.pacing.turn(wait_s)
        self.began.append((whose, number, loop.time()))


@pytest.mark.parametrize("per_minute", [60, 600, 4_000])
def test_a_whole_minute_at_once_is_carried_out_at_a_pace(per_minute: int) -> None:
    """The first at once, the rest evenly and in order; the last within 12 seconds."""
    pace = max(limits.USER_REQUESTS_PER_S, per_minute / 12)

    async def body() -> None:
        line, loop = Line(per_minute), asyncio.get_running_loop()
        start_s = loop.time()
        await asyncio.gather(*(line.ask("asha", number) for number in range(per_minute)))
        assert [number for _, number, _ in line.began] == list(range(per_minute))
        times = [at_s - start_s for _, _, at_s in line.began]
        at_once = limits.USER_REQUESTS_AT_ONCE_MAX
        assert times[at_once - 1] == 0
        for number in range(at_once, per_minute):
            assert times[number] == pytest.approx((number - at_once + 0.5) / pace, abs=0.002)
        assert times[-1] < 12
        assert len(line.pacing) == 0

    on_virtual_time(body)


def test_others_do_not_wait() -> None:
    """Nor who asks at that pace, for however long."""

    async def body() -> None:
        line, loop = Line(), asyncio.get_running_loop()
        noisy = [asyncio.create_task(line.ask("noisy", number)) for number in range(600)]
        start_s = loop.time()
        for number in range(500):
            due_s = start_s + number / limits.USER_REQUESTS_PER_S
            await asyncio.sleep(due_s - loop.time())
            before_s = loop.time()
            await line.ask("quiet", number)
            assert loop.time() == before_s
        await asyncio.gather(*noisy)
        await asyncio.sleep(1)
        for number in range(limits.USER_REQUESTS_AT_ONCE_MAX):
            before_s = loop.time()
            await line.ask("noisy", number)
            assert loop.time() == before_s, "who has waited begins anew"

    on_virtual_time(body)


def test_who_goes_away_holds_up_nobody() -> None:
    """A request that is cut off leaves the line; the others keep their turns."""

    async def body() -> None:
        line = Line()
        asking = [asyncio.create_task(line.ask("noisy", number)) for number in range(60)]
        await asyncio.sleep(0)
        assert len(line.pacing) == 40
        for task in asking[20:40]:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert [number for _, number, _ in line.began] == [*range(20), *range(40, 60)]
        assert len(line.pacing) == 0

    on_virtual_time(body)


def test_a_stop_lets_all_go_in_order() -> None:
    """Whoever waits is carried out now, and who comes later at once."""

    async def body() -> None:
        line, loop = Line(), asyncio.get_running_loop()
        start_s = loop.time()
        asking = [asyncio.create_task(line.ask("noisy", number)) for number in range(300)]
        await asyncio.sleep(0)
        line.pacing.let_go()
        await asyncio.gather(*asking, line.ask("noisy", 300))
        assert [number for _, number, _ in line.began] == list(range(301))
        assert loop.time() == start_s

    on_virtual_time(body)


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all users together; beyond it is 503, and who need not wait is served as ever. So are users remembered."""
    monkeypatch.setattr(limits, "USER_REQUESTS_WAITING_MAX", 100)
    monkeypatch.setattr(limits, "LIMITED_KEYS_MAX", 50)

    async def body() -> None:
        line = Line()
        asking = [asyncio.create_task(line.ask(f"user-{n % 4}", n)) for n in range(180)]
        await asyncio.sleep(0)
        assert len(line.pacing) == 100
        with pytest.raises(Overloaded):
            await line.ask("user-1", 180)
        for number in range(1_000):
            await line.ask(f"other-{number}", number)
        assert len(line.pacing._due_s) == 50
        await asyncio.gather(*asking)

    on_virtual_time(body)


@pytest.fixture
def stillness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has to wait for their turn waits until the server stops."""
    monkeypatch.setattr(limits, "USER_REQUESTS_PER_S", 1e-6)
    monkeypatch.setattr(pacing, "_SHARE", 0)


def asked(api: Api, times: int, headers: dict[str, str]) -> list[asyncio.Task[Answer]]:
    return [asyncio.create_task(api("GET", PROFILE, headers=headers)) for _ in range(times)]


async def answered(asking: list[asyncio.Task[Answer]], number: int) -> None:
    """So many of them are answered."""
    async with asyncio.timeout(30):
        while sum(task.done() for task in asking) < number:
            await asyncio.wait([task for task in asking if not task.done()], return_when="FIRST_COMPLETED")


async def statuses(asking: list[asyncio.Task[Answer]]) -> list[int]:
    """Of all of them, once they are answered."""
    await answered(asking, len(asking))
    return sorted(task.result().status for task in asking)


@pytest.mark.anyio
@pytest.mark.usefixtures("stillness")
async def test_requests_wait_for_their_turn() -> None:
    """Over HTTP: of one user's requests the first are answered, the rest when it is their turn, or at a stop."""
    at_once = limits.USER_REQUESTS_AT_ONCE_MAX
    async with world() as here:
        key = bearing(here.key(*ALL))
        limiter = Limiter(here.clock, quotas(Settings()))
        app = create_app(here.samvad, auth=here.auth, limiter=limiter)
        api, asha = Api(here.samvad, app), bearing(here.token(ASHA))
        asking = asked(api, at_once + 200, asha)
        await answered(asking, at_once)
        assert len(limiter.pacing) == 200
        others = f"/api/session/{BALA}/profile"
        assert (await api("GET", others, headers=bearing(here.token(BALA)))).status == 200
        programs = [await api("GET", PROFILE, headers=key) for _ in range(2 * at_once)]
        assert {answer.status for answer in programs} == {200}
        app.stop_streams()
        assert set(await statuses(asking)) == {200}
        assert len(limiter.pacing) == 0


@pytest.mark.anyio
@pytest.mark.usefixtures("stillness")
async def test_who_is_refused_takes_no_turn() -> None:
    """Beyond the quota it is 429 at once, whoever waits; without a quota of users nobody waits."""
    at_once = limits.USER_REQUESTS_AT_ONCE_MAX
    async with world() as here:
        limiter = Limiter(here.clock, quotas(Settings(limit_user_requests=at_once + 5)))
        app = create_app(here.samvad, auth=here.auth, limiter=limiter)
        api, asha = Api(here.samvad, app), bearing(here.token(ASHA))
        asking = asked(api, at_once + 15, asha)
        await answered(asking, at_once + 10)
        assert len(limiter.pacing) == 5
        app.stop_streams()
        assert await statuses(asking) == [200] * (at_once + 5) + [429] * 10
        free = Limiter(here.clock, quotas(Settings(limit_user_requests=0)))
        api = Api(here.samvad, create_app(here.samvad, auth=here.auth, limiter=free))
        assert set(await statuses(asked(api, 3 * at_once, asha))) == {200}


@pytest.mark.anyio
@pytest.mark.usefixtures("stillness")
async def test_they_wait_with_shared_windows_too() -> None:
    """Where replicas share their windows, each still sees to it that its own users do not stand behind one."""

    class Shared:
        async def spend(self, wanted: Sequence[Wanted]) -> list[Left]:
            return [Left(quota, quota.amount - cost, 60) for _, quota, cost in wanted]

        async def close(self) -> None:
            pass

    at_once = limits.USER_REQUESTS_AT_ONCE_MAX
    async with world() as here:
        limiter = Limiter(here.clock, quotas(Settings()), shared=Shared())
        app = create_app(here.samvad, auth=here.auth, limiter=limiter)
        asking = asked(Api(here.samvad, app), at_once + 7, bearing(here.token(ASHA)))
        await answered(asking, at_once)
        assert len(limiter.pacing) == 7
        app.stop_streams()
        assert set(await statuses(asking)) == {200}
