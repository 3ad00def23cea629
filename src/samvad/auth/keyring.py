"""The keyring: all API keys of a deployment, as the server holds them and the command line changes them.

It is one small document: a file in the data directory, or a document of the Firestore database, so that all replicas
share it. A server reads it anew every few seconds, which bounds how long a revoked key still works.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

from samvad import limits
from samvad.auth.api_keys import ApiKey, digest_of, id_of
from samvad.clock import Clock
from samvad.errors import SamvadError, SetupError, StoreUnavailable
from samvad.private_files import replace_private

_log = logging.getLogger(__name__)
KEYS_FILE: Final = "keys.json"
USED_FILE: Final = "keys-used.json"
COPY_FILE: Final = "keys-copy.json"
_NOBODY: Final = "0" * 64


class Keys(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is kept: every key there ever was, the revoked ones too."""

    keys: list[ApiKey] = []


class KeySource(Protocol):
    """Where the keyring is kept. All raise StoreUnavailable where it cannot be reached."""

    place: str
    every_s: float  # how often it is read anew; at most KEYS_REFRESH_S

    async def load(self) -> bytes | None:
        """The document; None where there is none."""
        ...

    async def change(self, make: Callable[[bytes | None], bytes]) -> None:
        """Replace the document by what `make` makes of it, in one step: no other change is lost."""
        ...

    async def load_used(self) -> Mapping[str, int]:
        """When each key was last used, in milliseconds since 1970, by its id."""
        ...

    async def save_used(self, used: Mapping[str, int]) -> None:
        """Note these; other keys keep theirs."""
        ...


class FileKeys:
    """The keyring as a file of the data directory, readable by its owner alone."""

    every_s = 1.0

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.place = str(directory / KEYS_FILE)

    async def load(self) -> bytes | None:
        return self.read()

    def read(self) -> bytes | None:
        """The document; None where there is none. SetupError where it cannot be read."""
        path = Path(self.place)
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):  # of the directory, its store will speak
            return None
        except OSError as error:
            raise SetupError(f"Cannot read the keys in {path}: {error.strerror}.") from error

    async def change(self, make: Callable[[bytes | None], bytes]) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(self._directory / f"{KEYS_FILE}.lock"):
                replace_private(Path(self.place), make(self.read()), sync=True)
        except OSError as error:
            raise SetupError(f"Cannot write the keys to {self.place}: {error.strerror}.") from error

    async def load_used(self) -> Mapping[str, int]:
        with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode((self._directory / USED_FILE).read_bytes(), type=dict[str, int])
        return {}

    async def save_used(self, used: Mapping[str, int]) -> None:
        try:
            with _locked(self._directory / f"{KEYS_FILE}.lock"):
                known = await self.load_used()
                replace_private(
                    self._directory / USED_FILE, msgspec.json.encode({**known, **used}), sync=True
                )
        except OSError as error:
            raise StoreUnavailable(f"Cannot write {USED_FILE}: {error.strerror}.") from error


class NoKeys:
    """No keyring at all: for an application that is mounted, or a store that lives in memory."""

    place = "memory"
    every_s = float(limits.KEYS_REFRESH_S)

    async def load(self) -> bytes | None:
        return None

    async def change(self, make: Callable[[bytes | None], bytes]) -> None:
        raise SetupError("There is no place to keep keys in.")

    async def load_used(self) -> Mapping[str, int]:
        return {}

    async def save_used(self, used: Mapping[str, int]) -> None:
        return


class Keyring:
    """The keys as a running server knows them. `copy`: where the last ones known are kept over a restart."""

    def __init__(self, source: KeySource, clock: Clock, *, copy: Path | None = None) -> None:
        self._source = source
        self._clock = clock
        self._copy = copy
        self._keys: dict[str, ApiKey] = {}
        self._raw: bytes | None = None
        self._used: dict[str, int] = {}
        self._unsaved: set[str] = set()
        self._saved_s = clock.monotonic_s()
        self.read_s: float | None = None
        self.generation = 0  # grows when keys change
        self.any = False  # whether there ever were keys; never false again

    async def refresh(self) -> bool:
        """Read the keys anew; whether they have changed. StoreUnavailable or SetupError where that cannot be."""
        raw = await self._source.load()
        changed = raw != self._raw
        if changed:
            self._take(raw)
        # Not where the place holds no keys: those known end then as if it were away.
        self.read_s = self._clock.monotonic_s()
        if not changed:
            return False
        if self._copy is not None and raw is not None:
            try:
                self._copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                replace_private(self._copy, raw, sync=True)
            except OSError as error:
                _log.warning("the copy of the keys cannot be written: %s", error.strerror)
        return True

    def use_copy(self) -> None:
        """Take the keys as they were known before the restart, where their place cannot be reached."""
        if self._copy is None or self._raw is not None:
            return
        with contextlib.suppress(OSError):
            age_s = self._clock.now_ms() / 1000 - self._copy.stat().st_mtime
            if age_s < limits.KEYS_STALE_S_MAX:
                self._take(self._copy.read_bytes())
                self.read_s = self._clock.monotonic_s() - max(age_s, 0.0)

    def _take(self, raw: bytes | None) -> None:
        self._keys = {key.id: key for key in decoded(raw, self._source.place)}
        self._raw = raw
        self.generation += 1
        self.any = self.any or bool(self._keys)

    @property
    def every_s(self) -> float:
        """How often it is to be read anew."""
        return self._source.every_s

    @property
    def fresh_until_s(self) -> float:
        """Until when the keys are trusted as they were last read, on the clock that never jumps."""
        return float("-inf") if self.read_s is None else self.read_s + limits.KEYS_STALE_S_MAX

    @property
    def fresh(self) -> bool:
        """Whether the keys were read lately enough to be trusted."""
        return self._clock.monotonic_s() < self.fresh_until_s

    def check(self, text: str) -> ApiKey | None:
        """The key that this text is, if it is valid now."""
        key_id = id_of(text)
        key = None if key_id is None else self._keys.get(key_id)
        # What is not there is compared as well, so that the answer takes the same time.
        same = hmac.compare_digest(digest_of(text), _NOBODY if key is None else key.digest)
        if key is None or not same or not self.holds(key.id):
            return None
        self.use(key.id, self._clock.now_ms())
        return key

    def use(self, key_id: str, now_ms: int) -> None:
        """Take note that a key is used now."""
        if now_ms - self._used.get(key_id, 0) > limits.KEY_USED_S * 1000:
            self._used[key_id] = now_ms
            self._unsaved.add(key_id)

    def holds(self, key_id: str) -> bool:
        """Whether a key is there and neither revoked nor expired."""
        key = self._keys.get(key_id)
        return key is not None and self.fresh and key.state(self._clock.now_ms()) == "valid"

    async def save_used(self, *, at_once: bool = False) -> None:
        """Note which keys were used, every ten minutes or `at_once`; what cannot be noted now is noted later."""
        now_s = self._clock.monotonic_s()
        if not self._unsaved or (not at_once and now_s - self._saved_s < limits.KEY_USED_S):
            return
        self._saved_s = now_s
        used = {key_id: self._used[key_id] for key_id in self._unsaved}
        try:
            await self._source.save_used(used)
        except SamvadError as error:
            _log.warning("when keys were used cannot be noted: %s", error.code)
        else:
            self._unsaved.clear()


def decoded(raw: bytes | None, place: str) -> list[ApiKey]:
    """The keys in a document; SetupError where it is none."""
    if raw is None:
        return []
    try:
        return msgspec.json.decode(raw, type=Keys).keys
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{place} does not hold keys ({error}); put back a copy of it.") from None


def encoded(keys: list[ApiKey]) -> bytes:
    """The document that holds these keys."""
    return msgspec.json.format(msgspec.json.encode(Keys(keys=keys), order="sorted"), indent=1)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
