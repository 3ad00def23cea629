"""A service account that is good for nothing but the fake server: its key file, and the endpoint that gives tokens."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path


class TokenEndpoint:
    """An HTTP server on this machine that gives a token to whoever asks."""

    def __init__(self) -> None:
        self.tokens_given = 0
        self._directory = Path()
        self._server: asyncio.Server | None = None

    async def start(self, directory: Path) -> None:
        """Listen on a free port."""
        self._directory = directory
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)

    @property
    def credentials_file(self) -> Path:
        """What GOOGLE_APPLICATION_CREDENTIALS must be; made when it is first asked for."""
        path = self._directory / "credentials.json"
        if not path.exists():
            assert self._server is not None, "start it first"
            port = self._server.sockets[0].getsockname()[1]
            account = {
                "type": "service_account",
                "project_id": "demo-project",
                "private_key_id": "1",
                "private_key": _private_key(),
                "client_email": "tests@demo-project.iam.gserviceaccount.com",
                "client_id": "1",
                "token_uri": f"http://127.0.0.1:{port}/token",
            }
            path.write_text(json.dumps(account))
        return path

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length")
            ),
            0,
        )
        await reader.readexactly(length)
        self.tokens_given += 1
        body = json.dumps({"access_token": "token-for-tests", "expires_in": 3600, "jwt_type": "Bearer"})
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _private_key() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
