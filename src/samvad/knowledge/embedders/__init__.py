"""Embedders by name, as the settings want them; each imports its client when it is first asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Final, NamedTuple

from samvad.errors import SetupError
from samvad.knowledge.embedding import Embedder

# Models that know well over a hundred languages, by how their names begin.
_MULTILINGUAL: Final = (
    "gemini-embedding",
    "text-multilingual-embedding",
    "text-embedding-3-",
    "embeddinggemma",
)
DIMENSIONS: Final = 768  # of Gemini's models: they may be cut, and so long is nearly as good


class EmbedderOptions(NamedTuple):
    """What an embedder may be made of. `languages` is `all`, or tags with commas between."""

    provider: str = "none"
    model: str | None = None
    dimensions: int | None = None
    languages: str | None = None
    base_url: str | None = None
    api_key: str | None = None
    query_prefix: str = ""
    document_prefix: str = ""
    project_id: str | None = None
    location: str | None = None
    environ: Mapping[str, str] = os.environ


def make_embedder(options: EmbedderOptions) -> Embedder | None:
    """The embedder that the settings name, None for `none`; SetupError where one that it needs is missing."""
    if options.provider == "none":
        return None
    if options.provider == "openai":
        _needs("openai", "openai", "openai")
        return _openai(options)
    if options.provider in ("gemini", "vertex"):
        _needs(options.provider, "google.genai", "gemini")
        return _gemini(options)
    if options.provider == "local":
        _needs("local", "model2vec", "local")
        return _local(options)
    raise SetupError("SAMVAD_EMBEDDING_PROVIDER must be none, openai, gemini, vertex or local.")


def _openai(options: EmbedderOptions) -> Embedder:
    from samvad.knowledge.embedders.openai import OpenAIEmbedder

    base_url = options.base_url or options.environ.get("OPENAI_BASE_URL")
    api_key = options.api_key or options.environ.get("OPENAI_API_KEY")
    if base_url is None and api_key is None:
        raise SetupError(
            "The embedder 'openai' needs an address or a key: set SAMVAD_EMBEDDING_BASE_URL "
            "or SAMVAD_EMBEDDING_API_KEY."
        )
    if base_url is not None and not base_url.startswith(("http://", "https://")):
        raise SetupError("SAMVAD_EMBEDDING_BASE_URL must begin with http:// or https://.")
    model = options.model or ("text-embedding-3-small" if base_url is None else None)
    if model is None:
        raise SetupError("The embedder 'openai' needs a model: set SAMVAD_EMBEDDING_MODEL.")
    return OpenAIEmbedder(
        model=model,
        languages=_languages(options, model),
        base_url=base_url,
        api_key=api_key,
        dimensions=options.dimensions,
        query_prefix=options.query_prefix,
        document_prefix=options.document_prefix,
    )


def _gemini(options: EmbedderOptions) -> Embedder:
    from samvad.knowledge.embedders.gemini import MODEL, GeminiEmbedder

    model = options.model or MODEL
    common = {
        "model": model,
        "languages": _languages(options, model),
        "dimensions": options.dimensions or DIMENSIONS,
    }
    if options.provider == "vertex":
        project = options.project_id or options.environ.get("GOOGLE_CLOUD_PROJECT")
        if not project:
            raise SetupError("The embedder 'vertex' needs a project: set PROJECT_ID or GOOGLE_CLOUD_PROJECT.")
        location = options.location or options.environ.get("GOOGLE_CLOUD_LOCATION") or "us-central1"
        return GeminiEmbedder(vertexai=True, project=project, location=location, **common)  # type: ignore[arg-type]
    key = options.api_key or options.environ.get("GEMINI_API_KEY") or options.environ.get("GOOGLE_API_KEY")
    if not key:
        raise SetupError("The embedder 'gemini' needs a key: set GEMINI_API_KEY.")
    return GeminiEmbedder(api_key=key, **common)  # type: ignore[arg-type]


def _local(options: EmbedderOptions) -> Embedder:
    from samvad.knowledge.embedders.local import LocalEmbedder

    if options.model is None:
        raise SetupError("The embedder 'local' needs a model: set SAMVAD_EMBEDDING_MODEL to its folder.")
    return LocalEmbedder(options.model, languages=_languages(options, options.model))


def _languages(options: EmbedderOptions, model: str) -> frozenset[str] | None:
    given = (options.languages or "").strip().lower()
    if given == "all":
        return None
    if given:
        return frozenset(tag.strip().partition("-")[0] for tag in given.split(",") if tag.strip())
    if model.rpartition("/")[2].startswith(_MULTILINGUAL):
        return None
    raise SetupError(
        f"Say which languages the embedding model {model[:80]!r} knows: set SAMVAD_EMBEDDING_LANGUAGES to tags such as "
        "en,hi, or to all."
    )


def _needs(name: str, module: str, extra: str) -> None:
    """An operator learns at the start that a package is missing; it is not imported for that."""
    try:
        found = find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise SetupError(
            f"The embedder {name!r} needs another package: pip install 'samvad-sessions[{extra},knowledge]'."
        )
    if find_spec("numpy") is None:
        raise SetupError("Embedders need an extra: pip install 'samvad-sessions[knowledge]'.")


__all__ = ["EmbedderOptions", "make_embedder"]
