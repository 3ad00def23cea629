"""The search engine in a process of its own: `python -m samvad.knowledge.worker [DIRECTORY]`.

It reads requests from standard input and answers on standard output, one after the other, and ends when its
parent does. Searching takes the interpreter's lock for milliseconds at a time; here it is another interpreter's.
"""

from __future__ import annotations

import gc
import os
import signal
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from samvad.knowledge.records import (
    Filter,
    HeadingAt,
    Hit,
    KnowledgeAnswer,
    QueryVector,
    Scope,
    StoredDocument,
    Vectors,
)

HEADER: Final = struct.Struct("<I")
FRAME_BYTES_MAX: Final = 256 * 1024 * 1024


class Put(msgspec.Struct, tag=True):
    """Index these documents."""

    documents: list[StoredDocument]


class Count(msgspec.Struct, tag=True):
    """Tell how many passages a document makes: here, as splitting holds the interpreter's lock."""

    text: str
    headings: tuple[HeadingAt, ...]


class Remove(msgspec.Struct, tag=True):
    """Forget these documents."""

    scope: Scope
    ids: list[str]


class Drop(msgspec.Struct, tag=True):
    """Forget a scope."""

    scope: Scope


class Revisions(msgspec.Struct, tag=True):
    """Tell what is indexed."""

    scope: Scope


class Unlock(msgspec.Struct, tag=True):
    """Take the key of a scope's sealed index."""

    scope: Scope
    key: bytes


class PutVectors(msgspec.Struct, tag=True):
    """Take vectors of documents that are indexed."""

    scope: Scope
    vectors: list[Vectors]


class Search(msgspec.Struct, tag=True):
    """Find passages; with `vector` by meaning as well as by words."""

    query: str
    scopes: list[Scope]
    condition: Filter
    limit: int
    vector: QueryVector | None = None


class Ask(msgspec.Struct, tag=True):
    """Answer a question."""

    query: str
    scopes: list[Scope]
    condition: Filter
    threshold: float
    citations: int


Request = Count | Put | PutVectors | Remove | Drop | Revisions | Unlock | Search | Ask
ANSWERS: Final[dict[type[Any], Any]] = {
    Count: int,
    Put: None,
    PutVectors: None,
    Remove: None,
    Drop: None,
    Revisions: dict[str, int],
    Unlock: None,
    Search: list[Hit],
    Ask: KnowledgeAnswer,
}


class Answer(msgspec.Struct, array_like=True):
    """What became of a request: the result, encoded, or the name of the error."""

    result: msgspec.Raw = msgspec.Raw(b"\xc0")
    error: str | None = None


def carry_out(engine: Any, meaning: Any, request: Request) -> Any:
    """Do what a request asks."""
    if isinstance(request, Count):
        from samvad.knowledge.passages import passages

        return len(passages(request.text, request.headings))
    if isinstance(request, Put):
        for stored in request.documents:
            meaning.forget(stored.scope, [stored.document.id])
        return engine.put(request.documents)
    if isinstance(request, PutVectors):
        return meaning.put(request.scope, request.vectors)
    if isinstance(request, Remove):
        meaning.forget(request.scope, request.ids)
        return engine.remove(request.scope, request.ids)
    if isinstance(request, Drop):
        meaning.forget(request.scope)
        return engine.drop(request.scope)
    if isinstance(request, Revisions):
        return engine.revisions(request.scope)
    if isinstance(request, Unlock):
        return engine.unlock(request.scope, request.key)
    if isinstance(request, Search):
        if request.vector is not None:
            from samvad.knowledge.meaning import search

            return search(
                engine,
                meaning,
                request.query,
                request.scopes,
                request.condition,
                request.limit,
                request.vector,
            )
        return engine.search(request.query, request.scopes, request.condition, request.limit)
    from samvad.knowledge.answering import answer

    return answer(
        engine,
        request.query,
        request.scopes,
        request.condition,
        threshold=request.threshold,
        citations=request.citations,
    )


def read_frame(source: BinaryIO) -> bytes | None:
    """One frame; None at the end."""
    head = source.read(HEADER.size)
    if len(head) < HEADER.size:
        return None
    (size,) = HEADER.unpack(head)
    body = source.read(size)
    return body if len(body) == size else None


def make_steady() -> None:
    """Load what a search needs before the first one, and let the collector of cycles come seldom: few are made here."""
    from samvad.knowledge.lexicon import translations

    translations("ghar")  # stems in both languages
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def main() -> None:
    """Serve until standard input ends."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the parent, which ends us by closing the pipe
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not get between the answers
    from samvad.knowledge.engine import Engine
    from samvad.knowledge.meaning import Meaning

    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    engine = Engine(directory, readonly="--readonly" in sys.argv[2:], sealed="--sealed" in sys.argv[2:])
    make_steady()
    meaning = Meaning()
    decoder, encoder = msgspec.msgpack.Decoder(Request), msgspec.msgpack.Encoder()
    try:
        while (frame := read_frame(source)) is not None:
            try:
                result = carry_out(engine, meaning, decoder.decode(frame))
                answer = Answer(msgspec.Raw(encoder.encode(result)))
            except Exception as error:  # the top of a request: told to the parent, which logs and counts it
                answer = Answer(error=f"{type(error).__name__}: {_place(error)}")
            body = encoder.encode(answer)
            target.write(HEADER.pack(len(body)) + body)
            target.flush()
    except BrokenPipeError:
        pass
    engine.close()


def _place(error: BaseException) -> str:
    """Where an error came from, without what it says: that may be content."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


if __name__ == "__main__":
    main()
