"""The default provider: answers from the knowledge base, word for word and with citations; no key, no network.

It says when it does not know, knows a few greetings, and speaks the user's language as far as its own words go;
what it quotes is in the language of the documents.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from samvad.live import phrases
from samvad.live.language import language_of
from samvad.live.pacing import WORD_S, paced
from samvad.live.providers.base import (
    Ahead,
    Capabilities,
    Context,
    Delta,
    Event,
    Failed,
    Provider,
    ProviderSession,
    TurnDone,
)
from samvad.live.providers.registry import ProviderOptions

_QUEUED_MAX: Final = 256


class Citation(NamedTuple):
    """Where a piece of an answer stands."""

    title: str
    document_id: str
    start: int
    end: int


class Extract(NamedTuple):
    """An answer out of documents."""

    text: str
    citations: Sequence[Citation]


class Answers(Protocol):
    """What the provider asks: a knowledge base, or plain documents."""

    async def extract(self, query: str, *, tenant: str, user_id: str, language: str | None) -> Extract | None:
        """The answer to a question; None where the documents hold none."""
        ...

    async def titles(self, *, tenant: str, user_id: str) -> Sequence[str]:
        """What the documents are called, a few of them; none where there is no document."""
        ...


class NoDocuments:
    """Knows nothing."""

    async def extract(self, query: str, *, tenant: str, user_id: str, language: str | None) -> Extract | None:
        return None

    async def titles(self, *, tenant: str, user_id: str) -> Sequence[str]:
        return ()


def make_extractive(options: ProviderOptions) -> Provider:
    """The provider over `options.parts["knowledge"]` (see `Answers`)."""
    return ExtractiveProvider(options.parts.get("knowledge") or NoDocuments())


class ExtractiveProvider:
    """Quotes documents; `word_s` is the pace at which it speaks, in seconds a word."""

    name = "extractive"
    capabilities = Capabilities()

    def __init__(self, answers: Answers, *, word_s: float = WORD_S) -> None:
        self._answers = answers
        self._word_s = word_s

    async def open(self, context: Context) -> ProviderSession:
        return _Session(self._answers, context, self._word_s)

    async def close(self) -> None:
        pass


def language_to_answer_in(text: str, chosen: str | None) -> str | None:
    """That of the text, where it tells; but who has chosen an Indian language and types in English wants the chosen."""
    found = language_of(text, chosen)
    if found is None or (found == "en" and chosen is not None):
        return chosen or found
    return found


class _Session:
    def __init__(self, answers: Answers, context: Context, word_s: float) -> None:
        self._answers = answers
        self._tenant = context.tenant
        self._user_id = context.user_id
        self._language = context.language
        self._word_s = word_s
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(_QUEUED_MAX)
        self._answering: asyncio.Task[None] | None = None
        self._closed = False

    async def events(self) -> AsyncIterator[Event]:
        while (event := await self._events.get()) is not None:
            yield event

    async def send_text(self, text: str, *, note: str | None = None) -> None:
        await self._stop()
        self._answering = asyncio.create_task(self._answer(text))

    async def _answer(self, text: str) -> None:
        language = language_to_answer_in(text, self._language)
        try:
            answer, metadata = await self._reply(text, language)
        except (
            Exception
        ) as error:  # the top of the task: the documents' own faults: this turn fails, the next may not
            await self._events.put(
                Failed("knowledge_failed", f"The documents could not be read: {type(error).__name__}.", True)
            )
            return
        await self._events.put(Ahead(answer))
        async for piece in paced(answer, self._word_s):
            await self._events.put(Delta(piece))
        await self._events.put(TurnDone(metadata=metadata))

    async def _reply(self, text: str, language: str | None) -> tuple[str, Mapping[str, Any] | None]:
        words = phrases.phrases(language)
        kind = small_talk(text)
        if kind in ("hello", "thanks", "goodbye"):
            return getattr(words, str(kind)), None
        titles = await self._answers.titles(tenant=self._tenant, user_id=self._user_id)
        if kind == "help" and titles:
            return words.help.replace("{topics}", ", ".join(titles[:5])), None
        found = await self._answers.extract(
            text, tenant=self._tenant, user_id=self._user_id, language=language
        )
        if found is None:
            return words.unknown if titles else words.no_documents, {"answered": False}
        sources = list(dict.fromkeys(citation.title for citation in found.citations))
        source = words.source.replace("{title}", "; ".join(sources)) if sources else ""
        citations = [
            {"title": c.title, "documentId": c.document_id, "start": c.start, "end": c.end}
            for c in found.citations
        ]
        return f"{found.text} {source}".strip(), {"answered": True, "citations": citations}

    async def _stop(self) -> None:
        task, self._answering = self._answering, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])
            await self._events.put(TurnDone())

    async def send_audio(self, data: bytes) -> None:
        await self._events.put(Failed("audio_not_supported", "This provider takes text only."))

    async def activity(self, speaking: bool) -> None:
        pass

    async def interrupt(self, *, heard_text: str, played_ms: int | None) -> None:
        await self._stop()

    async def send_tool_result(
        self, call_id: str, name: str, result: Any, *, error: str | None = None
    ) -> None:
        pass

    async def announce(self, text: str) -> bool:
        return False

    async def set_note(self, note: str) -> None:
        pass

    async def set_language(self, language: str | None) -> None:
        self._language = language

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._answering is not None:
            self._answering.cancel()
        while self._events.full():
            self._events.get_nowait()
        self._events.put_nowait(None)


_SMALL_TALK: Final = {
    "hello": "hello hi hey namaste namaskar good morning evening afternoon नमस्ते नमस्कार प्रणाम வணக்கம் నమస్కారం নমস্কার "
    "નમસ્તે ನಮಸ್ಕಾರ നമസ്കാരം there samvad",
    "thanks": "thanks thank you thankyou very much so dhanyavad dhanyavaad shukriya bahut धन्यवाद शुक्रिया बहुत நன்றி "
    "ధన్యవాదాలు ধন্যবাদ આભાર ಧನ್ಯವಾದಗಳು നന്ദി ਧੰਨਵਾਦ",
    "goodbye": "bye goodbye good night see you alvida अलविदा फिर मिलेंगे tata",
    "help": "help who are you what can do how does this work madad मदद आप कौन हैं aap kaun hain hai",
}
_SURE: Final = {
    "hello": "hello hi hey namaste namaskar morning evening afternoon नमस्ते नमस्कार प्रणाम வணக்கம் నమస్కారం নমস্কার નમસ્તે "
    "ನಮಸ್ಕಾರ നമസ്കാരം",
    "thanks": "thanks thank thankyou dhanyavad dhanyavaad shukriya धन्यवाद शुक्रिया நன்றி ధన్యవాదాలు ধন্যবাদ આભાર ಧನ್ಯವಾದಗಳು "
    "നന്ദി ਧੰਨਵਾਦ",
    "goodbye": "bye goodbye alvida अलविदा मिलेंगे tata night",
    "help": "help who can madad मदद कौन kaun work",
}
_WORD: Final = re.compile(r"[^\s.,;:!?।॥'’\"()]+")


def small_talk(text: str) -> str | None:
    """`hello`, `thanks`, `goodbye`, `help`, or None where the text says more than that."""
    words = [match.group().casefold() for match in _WORD.finditer(text)]
    if not 1 <= len(words) <= 6:
        return None
    for kind, all_words in _SMALL_TALK.items():
        if set(words) <= set(all_words.split()) and set(words) & set(_SURE[kind].split()):
            return kind
    return None
