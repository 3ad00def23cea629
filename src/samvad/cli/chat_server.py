"""The server that `samvad chat` talks to: one that runs already, or one of its own for as long as it takes."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from types import TracebackType
from typing import Final, Self

from samvad.errors import SamvadError, SetupError

_STOP_S: Final = 12.0  # the server drains its journal for 8


class EmbeddedServer:
    """A server process on a free port of this machine, unless `url` names a server that runs already.

    It reads the same settings as `samvad serve` and does not hear the terminal's Ctrl-C. SetupError where it cannot
    start, with what it said.
    """

    def __init__(self, url: str | None, *, store: str | None, data_dir: str | None) -> None:
        self.url = (url or "").rstrip("/")
        self._arguments = [
            *(["--store", store] if store is not None else []),
            *(["--data-dir", data_dir] if data_dir is not None else []),
        ]
        self._process: subprocess.Popen[str] | None = None
        # Nobody else on this machine gets at what is kept through the server's port.
        self._secret = secrets.token_urlsafe(32)

    def token(self, user_id: str) -> str | None:
        """A token with which this user may talk: one of the server's own, or for another server SAMVAD_TOKEN."""
        if self._process is None:
            return os.environ.get("SAMVAD_TOKEN") or None
        from samvad import limits
        from samvad.auth.secret_file import derived
        from samvad.auth.user_tokens import PURPOSE, UserTokens
        from samvad.clock import SystemClock
        from samvad.types import DEFAULT_TENANT

        tokens = UserTokens(lambda: [derived(self._secret, PURPOSE)], SystemClock())
        return tokens.sign(tokens.claims(DEFAULT_TENANT, user_id, None, None, limits.USER_TOKEN_TTL_S_MAX))

    def __enter__(self) -> Self:
        if self.url:
            return self
        command = [sys.executable, "-m", "samvad.cli", "serve", "--host", "127.0.0.1", "--port", "0"]
        self._process = subprocess.Popen(
            [*command, "--log-level", "error", "--auth", "required", *self._arguments],
            env={**os.environ, "SAMVAD_AUTH_TOKEN_SECRET": self._secret},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        ready = self._process.stdout.readline()
        if not ready:
            _, errors = self._process.communicate()
            said = (errors.strip().splitlines() or ["the server could not be started"])[-1]
            message = said.removeprefix("samvad: ")
            raise (SetupError if self._process.returncode == 2 else SamvadError)(message)
        self.url = ready.split()[-1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=_STOP_S)
            return
        self._process.kill()
        self._process.communicate()
