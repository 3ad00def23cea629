"""A user who asks for much at once is served in turn, so that what the others ask for is not behind all of it.

Rate limits let a whole minute's requests in at one moment: of who asks on hundreds of connections, all would be under
way together. So a user's first requests are carried out as they come, and further ones in their order, at a pace at
which others find room between any two. Whoever asks at that pace never waits. What waits is bounded; beyond, it is 503.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from samvad import limits
from samvad.errors import Overloaded
from samvad.http.waiting import Waiting

_SHARE: Final = 5  # a minute's requests are carried out within a fifth of it


class Pacing:
    """Requests of users that wait for their turn."""

    def __init__(self, requests_per_minute: int) -> None:
        self._every_s = 1 / max(limits.USER_REQUESTS_PER_S, _SHARE * requests_per_minute / 60)
        # So far ahead of their pace nobody waits; half a request more, so that no rounding holds up the last of them.
        self._ahead_s = self._every_s * (limits.USER_REQUESTS_AT_ONCE_MAX - 0.5)
        # When the next request of each would be due if all came at the pace.
        self._due_s: OrderedDict[str, float] = OrderedDict()
        self._waiting = Waiting()

    def __len__(self) -> int:
        return len(self._waiting)

    def wait_s(self, whose: str, now_s: float) -> float:
        """How long a request of this user that comes now must wait: mostly 0. Overloaded where too many wait."""
        due = self._due_s
        ahead_s = due.get(whose, now_s) - now_s
        if ahead_s <= 0:  # as mostly
            due[whose] = now_s + self._every_s
            if len(due) > limits.LIMITED_KEYS_MAX:
                due.popitem(last=False)
            return 0.0
        wait_s = ahead_s - self._ahead_s
        if wait_s > 0 and len(self._waiting) >= limits.USER_REQUESTS_WAITING_MAX:
            raise Overloaded("Too many requests wait for their turn; try again soon.")
        due[whose] += self._every_s
        due.move_to_end(whose)
        return wait_s if wait_s > 0 else 0.0

    async def turn(self, wait_s: float) -> None:
        """Wait for so long, or until the server stops."""
        await self._waiting.wait(wait_s)

    def let_go(self) -> None:
        """The server stops: nobody waits any more."""
        self._waiting.let_go()
