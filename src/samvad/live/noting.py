"""What happens on a live connection that an audit log wants: who starts, goes on with another token, and ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from samvad.errors import SamvadError

START, RENEW, END = "startLive", "renewLive", "endLive"

# What was done, the status that HTTP would answer, and the user and session that it was done to.
Tell = Callable[[str, int, "str | None", "str | None"], None]


class Notes:
    """What one connection tells `tell`, if that is set. Never what is said on it."""

    def __init__(self) -> None:
        self.tell: Tell | None = None
        self._started: tuple[str, str] | None = None

    async def start(self, user_id: str, starting: Awaitable[str]) -> None:
        """Note a start for a user, which gives the id of the session, or that it failed."""
        try:
            session_id = await starting
        except SamvadError as error:
            self._note(START, error.status, user_id, None)
            raise
        self._started = user_id, session_id
        self._note(START, 200, *self._started)

    async def renew(self, renewing: Awaitable[None]) -> None:
        """Note that another token is brought, or that it was refused."""
        user_id, session_id = self._started or (None, None)
        try:
            await renewing
        except SamvadError as error:
            self._note(RENEW, error.status, user_id, session_id)
            raise
        self._note(RENEW, 200, user_id, session_id)

    def end(self) -> None:
        """Note that it is over, if it had begun."""
        if self._started is not None:
            self._note(END, 200, *self._started)

    def _note(self, what: str, status: int, user_id: str | None, session_id: str | None) -> None:
        if self.tell is not None:
            self.tell(what, status, user_id, session_id)
