"""Embeddings of Gemini, with an API key or through Vertex AI, by Google's own client (google-genai).

https://ai.google.dev/gemini-api/docs/embeddings
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

MODEL: Final = "gemini-embedding-001"
_AT_ONCE: Final = 4  # requests, where one takes a single text


class GeminiEmbedder:
    """Vectors by Google's client; it is told what is a passage and what a query (`task_type`).

    `who` are the arguments of `genai.Client`: `api_key`, or `vertexai`, `project`, `location`, `credentials`, and
    `http_options`. Vertex AI takes one text in a request.
    """

    def __init__(
        self,
        *,
        model: str = MODEL,
        languages: frozenset[str] | None = None,
        dimensions: int = 768,
        **who: Any,
    ) -> None:
        self.languages = languages
        self.space = f"gemini/{model}/{dimensions}/retrieval"
        self._model = model
        self._dimensions = dimensions
        self._who: Mapping[str, Any] = who
        self._client: Any = None
        self._making = asyncio.Lock()

    async def embed_documents(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """A vector for each passage."""
        if not self._who.get("vertexai"):
            return await self._ask(list(texts), "RETRIEVAL_DOCUMENT")
        found: list[Sequence[float]] = []
        for at in range(0, len(texts), _AT_ONCE):
            async with asyncio.TaskGroup() as group:
                asked = [
                    group.create_task(self._ask([text], "RETRIEVAL_DOCUMENT"))
                    for text in texts[at : at + _AT_ONCE]
                ]
            found += [task.result()[0] for task in asked]
        return found

    async def embed_query(self, text: str) -> Sequence[float]:
        """The vector of what is asked."""
        return (await self._ask([text], "RETRIEVAL_QUERY"))[0]

    async def _ask(self, texts: list[str], task: str) -> list[list[float]]:
        client = await self._shared_client()
        answer = await client.aio.models.embed_content(
            model=self._model,
            contents=texts,
            config={"task_type": task, "output_dimensionality": self._dimensions},
        )
        vectors = [each.values for each in answer.embeddings or []]
        if len(vectors) != len(texts) or not all(vectors):
            raise ValueError("Gemini answered with other vectors than those asked for")
        return vectors

    async def _shared_client(self) -> Any:
        async with self._making:
            if self._client is None:
                self._client = await asyncio.to_thread(self._make)  # to import it takes a second
            return self._client

    def _make(self) -> Any:
        from google import genai

        return genai.Client(**self._who)

    async def close(self) -> None:
        """Let the client go."""
        client, self._client = self._client, None
        if client is not None:
            await client.aio.aclose()


__all__ = ["MODEL", "GeminiEmbedder"]
