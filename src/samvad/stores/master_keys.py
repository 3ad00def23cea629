"""Master keys: what wraps the keys of a store. From a text, a file, or Google Cloud KMS.

`SAMVAD_MASTER_KEY` names one or several, separated by commas: the first wraps, the others can still unwrap.

    32 bytes in base64            the key itself (`openssl rand -base64 32`)
    file:/run/secrets/samvad      a file that holds it, as base64 or as 32 bytes
    gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K

A key of KMS never leaves it: it is asked once for each key that it wraps, at the start and when keys are rotated.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from pathlib import Path
from typing import Any, Final, Protocol

from samvad.errors import SetupError, StoreUnavailable

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
_KMS_NAME = re.compile(r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+")
_KMS_TIMEOUT_S: Final = 10.0
_FORMS: Final = "32 bytes in base64 (openssl rand -base64 32), file:PATH, or gcpkms://projects/…/cryptoKeys/…"


class MasterKey(Protocol):
    """Wraps the keys of a store. Both calls may block; `id` tells which key it is, and nothing about it."""

    id: str

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """The key, so that only this master key can give it back, and only for this context."""
        ...

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """The key that was wrapped; SetupError where this is another master key or another context."""
        ...


class LocalMasterKey:
    """A master key that this process holds: AES-256-GCM."""

    def __init__(self, key: bytes) -> None:
        self._aead = aead_of(key)
        self.id = "local:" + hashlib.sha256(b"samvad master key\0" + key).hexdigest()[:16]

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """See MasterKey."""
        return sealed_with(self._aead, key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See MasterKey."""
        opened = opened_with(self._aead, wrapped, context)
        if opened is None:
            raise SetupError("A key of the store does not fit the master key; was its file changed?")
        return opened


class KmsMasterKey:
    """A key of Google Cloud KMS, through Google's client. `client` is one that was made already.

    Both ways carry the CRC32C of what is sent and of what comes back, as Google's guide to data integrity asks: a byte
    that was turned over on the way would make a key that opens nothing, found out when it is too late.
    """

    def __init__(self, name: str, client: Any = None) -> None:
        self._name = name
        self._client = client
        self.id = "gcpkms:" + hashlib.sha256(name.encode()).hexdigest()[:16]

    def _ask(self, call: str, context: bytes, **sent: bytes) -> Any:
        from google.api_core import exceptions, retry
        from google.auth.exceptions import GoogleAuthError

        sent["additional_authenticated_data"] = context
        checksums = {f"{name}_crc32c": _crc32c(value) for name, value in sent.items()}
        try:
            if self._client is None:
                from google.cloud import kms

                self._client = kms.KeyManagementServiceClient()
            # Where KMS is away, it is asked again; left to itself the client would go on for a minute.
            away = retry.if_exception_type(exceptions.ServiceUnavailable, exceptions.DeadlineExceeded)
            return getattr(self._client, call)(
                request={"name": self._name} | sent | checksums,
                retry=retry.Retry(predicate=away, initial=0.1, maximum=2.0, timeout=_KMS_TIMEOUT_S),
                timeout=_KMS_TIMEOUT_S,
            )
        except (exceptions.PermissionDenied, exceptions.NotFound, exceptions.FailedPrecondition) as error:
            raise SetupError(
                f"Cloud KMS refuses {call} with {self._name}: {error.message} The service account needs the role "
                "roles/cloudkms.cryptoKeyEncrypterDecrypter on a key that is there and enabled."
            ) from error
        except exceptions.InvalidArgument as error:
            raise SetupError(
                f"Cloud KMS cannot {call} with {self._name}: {error.message} Is this the key that wrapped it?"
            ) from error
        except GoogleAuthError as error:
            raise SetupError(
                f"Cloud KMS cannot be asked without credentials of Google: {error} Set "
                "GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`."
            ) from error
        except exceptions.GoogleAPIError as error:
            raise StoreUnavailable(f"Cloud KMS does not answer for {self._name}: {error}.") from error

    def _damaged(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"What Cloud KMS was sent, or answered, for {self._name} was damaged on the way."
        )

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """See MasterKey; SetupError where KMS refuses, StoreUnavailable where it cannot be asked."""
        answer = self._ask("encrypt", context, plaintext=key)
        ciphertext = bytes(answer.ciphertext)
        arrived = answer.verified_plaintext_crc32c and answer.verified_additional_authenticated_data_crc32c
        if not arrived or _crc32c(ciphertext) != answer.ciphertext_crc32c:
            raise self._damaged()
        return ciphertext

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See MasterKey; StoreUnavailable where KMS cannot be asked."""
        answer = self._ask("decrypt", context, ciphertext=wrapped)
        key = bytes(answer.plaintext)
        if _crc32c(key) != answer.plaintext_crc32c:
            raise self._damaged()
        return key


def _crc32c(data: bytes) -> int:
    import google_crc32c

    return int(google_crc32c.value(data))


def aead_of(key: bytes) -> Any:
    """AES-256-GCM with this key."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def sealed_with(aead: Any, plain: bytes | memoryview, context: bytes, nonce: bytes = b"") -> bytes:
    """A random nonce of 12 bytes, the ciphertext, and the tag of 16 bytes, which covers the context as well.

    A `nonce` is one that was drawn already, for this and nothing else.
    """
    nonce = nonce or os.urandom(NONCE_BYTES)
    sealed: bytes = nonce + aead.encrypt(nonce, plain, context)
    return sealed


def opened_with(aead: Any, sealed: bytes, context: bytes) -> bytes | None:
    """What `sealed_with` sealed; None where one bit of it, of the key or of the context is another."""
    from cryptography.exceptions import InvalidTag

    if len(sealed) < NONCE_BYTES + 16:
        return None
    try:
        opened: bytes = aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
    except InvalidTag:
        return None
    return opened


def master_keys(text: str) -> list[MasterKey]:
    """The master keys that a setting names, the one that wraps first. SetupError, which never shows a key."""
    return [_master_key(part.strip(), number) for number, part in enumerate(text.split(","), 1)]


def _master_key(text: str, number: int) -> MasterKey:
    which = f"Master key {number}"
    if text.startswith("gcpkms://"):
        name = text.removeprefix("gcpkms://")
        if not _KMS_NAME.fullmatch(name):
            raise SetupError(f"{which} is not the name of a key of KMS; write {_FORMS}.")
        try:
            import google.cloud.kms  # noqa: F401 (only whether they are there)
            import google_crc32c  # noqa: F401
        except ModuleNotFoundError:
            raise SetupError(
                "Cloud KMS needs one more package: pip install 'samvad-sessions[kms]'."
            ) from None
        return KmsMasterKey(name)
    raw = text.encode()
    if text.startswith("file:"):
        path = Path(text.removeprefix("file:")).expanduser()
        try:
            with path.open("rb") as opened:
                raw = opened.read(1024)
        except OSError as error:
            raise SetupError(f"{which} cannot be read from {path}: {error.strerror}.") from error
        if len(raw) == KEY_BYTES:
            return LocalMasterKey(raw)
    try:
        key = base64.b64decode(raw.strip().replace(b"-", b"+").replace(b"_", b"/"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise SetupError(f"{which} is not a key; write {_FORMS}.")
    return LocalMasterKey(key)
