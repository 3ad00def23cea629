"""Embeddings of any endpoint that speaks OpenAI's protocol: OpenAI, vLLM, Ollama, llama.cpp, text-embeddings-inference.

https://platform.openai.com/docs/api-reference/embeddings/create
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class OpenAIEmbedder:
    """Vectors by OpenAI's client. `languages` None: it knows all.

    `dimensions` is asked for where it is given, and must be left out where a model cannot cut its vectors. The prefixes
    go before the texts, as E5 (`query: `, `passage: `) and other models want it.
    """

    def __init__(
        self,
        *,
        model: str,
        languages: frozenset[str] | None,
        base_url: str | None = None,
        api_key: str | None = None,
        dimensions: int | None = None,
        query_prefix: str = "",
        document_prefix: str = "",
    ) -> None:
        self.languages = languages
        self.space = "/".join(
            ("openai", model, str(dimensions or ""), repr(query_prefix), repr(document_prefix))
        )
        self._model = model
        self._where: dict[str, Any] = {"base_url": base_url, "api_key": api_key or "none"}
        self._dimensions = dimensions
        self._prefixes = (query_prefix.strip(), document_prefix.strip())
        self._client: Any = None

    async def embed_documents(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """A vector for each passage."""
        return await self._ask([_joined(self._prefixes[1], text) for text in texts], retries=2)

    async def embed_query(self, text: str) -> Sequence[float]:
        """The vector of what is asked; tried once, somebody waits for it."""
        return (await self._ask([_joined(self._prefixes[0], text)], retries=0))[0]

    async def _ask(self, texts: list[str], *, retries: int) -> list[list[float]]:
        if self._client is None:
            import openai

            self._client = openai.AsyncOpenAI(**self._where)
        wanted: dict[str, Any] = {"model": self._model, "input": texts, "encoding_format": "float"}
        if self._dimensions is not None:
            wanted["dimensions"] = self._dimensions
        answer = await self._client.with_options(max_retries=retries).embeddings.create(**wanted)
        rows = sorted(answer.data, key=lambda each: each.index)
        if [row.index for row in rows] != list(range(len(texts))):
            raise ValueError("the endpoint answered with other vectors than those asked for")
        return [row.embedding for row in rows]

    async def close(self) -> None:
        """Let the client go."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _joined(prefix: str, text: str) -> str:
    return f"{prefix} {text}" if prefix else text


__all__ = ["OpenAIEmbedder"]
