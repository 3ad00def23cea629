"""Google Cloud KMS, as `tests.google_server` does it: keys that never leave it, contexts, checksums."""

from __future__ import annotations

import os
from typing import Any

import google_crc32c
import grpc
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.cloud.kms_v1.services.key_management_service import KeyManagementServiceClient
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcTransport
from google.cloud.kms_v1.types import service as kms_types

from tests.google_server import Answer, GoogleServer, Refusal, refuse

_SERVICE = "/google.cloud.kms.v1.KeyManagementService/"
KEY_NAME = "projects/p/locations/asia-south1/keyRings/samvad/cryptoKeys/master"


class CloudKms(GoogleServer):
    """One key, `KEY_NAME`. What comes with a wrong checksum is refused; `damage` turns over a bit of what goes out."""

    requests = {  # noqa: RUF012
        _SERVICE + "Encrypt": kms_types.EncryptRequest,
        _SERVICE + "Decrypt": kms_types.DecryptRequest,
    }

    def __init__(self, answer: Answer = lambda method, asked: None) -> None:
        super().__init__(answer)
        self._key = AESGCM(os.urandom(32))
        self.damage = False
        self.routed: list[str] = []  # the routing headers

    def client(self) -> Any:
        """Google's client, over plain gRPC."""
        channel = grpc.insecure_channel(self.address)
        return KeyManagementServiceClient(transport=KeyManagementServiceGrpcTransport(channel=channel))

    def well(self, method: str, asked: Any, context: grpc.ServicerContext) -> Any:
        """As the reference of the service has it: INVALID_ARGUMENT for another context or checksum."""
        self.routed += [
            value for key, value in context.invocation_metadata() if key == "x-goog-request-params"
        ]
        if asked.name != KEY_NAME:
            refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, f"CryptoKey {asked.name} not found."))
        bound = asked.additional_authenticated_data
        sent = [(bound, asked.additional_authenticated_data_crc32c)]
        if method == "Encrypt":
            sent.append((asked.plaintext, asked.plaintext_crc32c))
        else:
            sent.append((asked.ciphertext, asked.ciphertext_crc32c))
        if any(google_crc32c.value(part) != checksum.value for part, checksum in sent):
            refuse(context, Refusal(grpc.StatusCode.INVALID_ARGUMENT, "The checksum did not match."))
        if method == "Encrypt":
            nonce = os.urandom(12)
            sealed = nonce + self._key.encrypt(nonce, asked.plaintext, bound)
            return kms_types.EncryptResponse.pb()(
                name=f"{KEY_NAME}/cryptoKeyVersions/1",
                ciphertext=self._sent(sealed),
                ciphertext_crc32c={"value": google_crc32c.value(sealed)},
                verified_plaintext_crc32c=True,
                verified_additional_authenticated_data_crc32c=True,
            )
        try:
            opened = self._key.decrypt(asked.ciphertext[:12], asked.ciphertext[12:], bound)
        except InvalidTag:
            text = "Decryption failed: the ciphertext is invalid."
            refuse(context, Refusal(grpc.StatusCode.INVALID_ARGUMENT, text))
            raise
        return kms_types.DecryptResponse.pb()(
            plaintext=self._sent(opened), plaintext_crc32c={"value": google_crc32c.value(opened)}
        )

    def _sent(self, data: bytes) -> bytes:
        return bytes([data[0] ^ 1]) + data[1:] if self.damage else data
