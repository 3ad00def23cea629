"""Embeddings made on this machine, without a service: static models of Model2Vec (one vector a token, averaged).

A model is a folder with `model.safetensors`, `tokenizer.json` and `config.json`; `potion-multilingual-128M` knows a
hundred languages. It needs no graphics card: a passage takes a fraction of a millisecond.
https://github.com/MinishLab/model2vec
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from samvad.errors import SetupError

_FILES: Final = ("config.json", "model.safetensors", "tokenizer.json")


class LocalEmbedder:
    """Vectors by a static model in a folder; it is loaded when it is first asked. SetupError where it cannot be."""

    def __init__(self, model: str, *, languages: frozenset[str] | None) -> None:
        folder = Path(model).expanduser()
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            raise SetupError(
                f"There is no Model2Vec model in {folder}: {missing[0]} is missing. Nothing is downloaded here; "
                "put the model's folder there."
            )
        self.languages = languages
        # The same name with other weights is another space.
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        self.space = f"local/{folder.name}/{digest[:16]}"
        self._folder = folder
        self._model: Any = None
        self._loading = asyncio.Lock()

    async def embed_documents(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """A vector for each passage."""
        async with self._loading:
            if self._model is None:
                self._model = await asyncio.to_thread(self._load)
        vectors: list[list[float]] = await asyncio.to_thread(lambda: self._model.encode(list(texts)).tolist())
        return vectors

    async def embed_query(self, text: str) -> Sequence[float]:
        """The vector of what is asked."""
        return (await self.embed_documents([text]))[0]

    def _load(self) -> Any:
        from model2vec import StaticModel

        return StaticModel.from_pretrained(str(self._folder))

    async def close(self) -> None:
        """Let the model go."""
        self._model = None


__all__ = ["LocalEmbedder"]
