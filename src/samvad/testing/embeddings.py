"""A fake endpoint of embeddings, in OpenAI's protocol and in that of Gemini and Vertex AI.

    async with FakeEmbeddings(lambda text: [1.0, 0.0]) as fake:
        client = AsyncOpenAI(base_url=fake.base_url, api_key="x")
        ...

`hold` it to have it answer nothing, set `status` to have it refuse; `texts` is what it was asked, in order.
"""

from __future__ import annotations

import asyncio
import base64
import json
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Final

from samvad.testing.fake_http import Asked, FakeHttp

_COUNTS: Final = {"prompt_tokens": 1, "total_tokens": 1}


class FakeEmbeddings(FakeHttp):
    """The endpoint; an async context manager. `vector` gives the vector of a text."""

    def __init__(self, vector: Callable[[str], Sequence[float]]) -> None:
        super().__init__()
        self.vector = vector
        self.status = 200
        self.texts: list[str] = []
        self.requests: list[tuple[str, dict[str, Any]]] = []  # path and body, in order
        self.held = asyncio.Event()
        self.held.set()

    @property
    def google_url(self) -> str:
        """What the `base_url` of Google's client must be."""
        return f"http://127.0.0.1:{self.port}"

    def hold(self) -> None:
        """Answer nothing until `held` is set."""
        self.held.clear()

    async def _answer_to(
        self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        path, body = asked.path.partition("?")[0], json.loads(asked.body or b"{}")
        self.requests.append((path, body))
        await self.held.wait()
        if self.status == 200:
            await _write(writer, 200, self._answer(path, body))
        else:
            await _write(writer, self.status, {"error": {"message": "refused, as the test has asked"}})
        return True

    def _answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/embeddings"):
            texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
            data = [
                {"object": "embedding", "index": index, "embedding": self._openai(text, body)}
                for index, text in enumerate(texts)
            ]
            return {"object": "list", "data": data, "model": body["model"], "usage": _COUNTS}
        if path.endswith(":batchEmbedContents"):
            found = [{"values": self._made(_said(each["content"]))} for each in body["requests"]]
            return {"embeddings": found}
        if path.endswith(":embedContent"):
            return {"embedding": {"values": self._made(_said(body["content"]))}}
        if path.endswith(":predict"):
            return {
                "predictions": [
                    {"embeddings": {"values": self._made(each["content"]), "statistics": {"token_count": 1}}}
                    for each in body["instances"]
                ]
            }
        raise AssertionError(f"there is nothing at {path}")

    def _made(self, text: str) -> list[float]:
        self.texts.append(text)
        return list(self.vector(text))

    def _openai(self, text: str, body: dict[str, Any]) -> Any:
        vector = self._made(text)
        if body.get("encoding_format") == "base64":
            return base64.b64encode(array("f", vector).tobytes()).decode()
        return vector


def _said(content: dict[str, Any]) -> str:
    return "".join(part["text"] for part in content["parts"])


async def _write(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    writer.write(head.encode() + data)
    await writer.drain()


__all__ = ["FakeEmbeddings"]
