"""`samvad kb add|search|answer|list|delete|reindex|eval|stats`: the knowledge base."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from samvad import limits
from samvad.cli import flags
from samvad.cli.command import PlainCommand, verbs
from samvad.cli.opening import reading, settings_of, writing
from samvad.cli.output import printable, progress, table
from samvad.errors import InvalidRequest, SamvadError, SetupError
from samvad.types import DEFAULT_TENANT

app = verbs("Look after the knowledge base.")

_TAKEN: Final = frozenset({".txt", ".text", ".md", ".markdown", ".html", ".htm", ".pdf"})
_BYTES_MAX: Final = 64 * 1024 * 1024
_SHOWN: Final = 160
_INSTEAD: Final = "let that server do it: POST /api/knowledge/add-text, or DELETE /api/knowledge/ID"

Category = Annotated[str | None, typer.Option("--category", metavar="TEXT", help="Its category.")]
Tags = Annotated[str | None, typer.Option("--tags", metavar="A,B", help="Its tags, with commas between.")]
Language = Annotated[str | None, typer.Option("--language", metavar="TAG", help="Its language, such as hi.")]
User = Annotated[str | None, typer.Option("--user", metavar="USER", help="Whose documents, if one user's.")]
Query = Annotated[list[str], typer.Argument(metavar="WORDS…", help="What is asked.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _options(
    category: str | None, tags: str | None, language: str | None, user: str | None
) -> dict[str, Any]:
    """The flags as the knowledge base takes them."""
    return {"category": category, "tags": _tags(tags), "language": language, "user_id": user}


def _tags(given: str | None) -> list[str]:
    return [tag.strip() for tag in (given or "").split(",") if tag.strip()]


def _titled(document: Any) -> str:
    return "(cannot be read)" if document.unreadable else printable(document.title)


@app.command(cls=PlainCommand)
def add(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH…", help="Files, folders of files, and URLs.", show_default=False),
    ],
    category: Category = None,
    tags: Tags = None,
    language: Language = None,
    user: User = None,
    tenant: flags.Tenant = DEFAULT_TENANT,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Add files and web pages, or change the documents that were made of them. No server may be running."""
    found = list(_sources(paths))
    if not found:
        raise SetupError("There is no file to add: .txt, .md, .html and .pdf files are taken.")
    described = _options(category, tags, language, user)

    async def work(samvad: Any) -> tuple[Counter[str], list[str]]:
        counts: Counter[str] = Counter()
        refused = []
        with progress("adding", len(found)) as tell:
            for number, path in enumerate(found, 1):
                try:
                    added = await _add(samvad.knowledge, path, described)
                except (SamvadError, OSError) as error:
                    what = error.message if isinstance(error, SamvadError) else error.strerror
                    refused.append(f"{printable(str(path))}: {what}")
                else:
                    state = "added" if added.created else "changed" if added.changed else "as they were"
                    counts[state] += 1
                tell(number)
        await _embed(samvad.knowledge, user, refused)
        return counts, refused

    counts, refused = writing(settings_of(store, data_dir), work, tenant=tenant, instead=_INSTEAD)
    for line in refused:
        typer.echo(f"not added: {line}", err=True)
    parts = [f"{counts[state]:,} {state}" for state in ("added", "changed", "as they were") if counts[state]]
    typer.echo(f"documents: {', '.join(parts) or 'none'}")
    if refused:
        raise SamvadError(f"{len(refused)} of {len(found)} could not be added.")


def _sources(paths: Sequence[str]) -> Iterator[Path | str]:
    """URLs, and the files below the paths that can be read, in order; what is named itself must be there."""
    for name in paths:
        if name.lower().startswith(("http://", "https://")):
            yield name
            continue
        path = Path(name)
        if path.is_dir():
            yield from sorted(
                each
                for each in path.rglob("*")
                if each.suffix.lower() in _TAKEN and each.is_file() and not _is_hidden(each.relative_to(path))
            )
        elif path.is_file():
            yield path
        else:
            raise SetupError(f"There is no file {name}.")


def _is_hidden(below: Path) -> bool:
    """Whether a file below a folder is none that a reader would see: .git, .venv and the like."""
    return any(part.startswith(".") for part in below.parts)


async def _embed(knowledge: Any, user: str | None, refused: list[str]) -> None:
    """Wait for the vectors of what was added, where there is an embedder."""
    with progress("making vectors", 1) as tell:
        try:
            await knowledge.embed(user_id=user, tell=lambda done, total: tell(done / max(total, 1)))
        except SamvadError as error:
            refused.append(
                f"vectors: {error.message} Run samvad kb reindex later; words are found meanwhile."
            )


async def _add(knowledge: Any, source: Path | str, described: dict[str, Any]) -> Any:
    if isinstance(source, str):
        return await knowledge.add_url(source, **described)
    data = await asyncio.to_thread(_bytes, source)
    return await knowledge.add_file(data, source.name, source=_address(source), **described)


def _address(path: Path) -> str:
    return path.resolve().as_uri()


def _bytes(path: Path) -> bytes:
    if path.stat().st_size > _BYTES_MAX:
        raise InvalidRequest(f"it is larger than {_BYTES_MAX // 1024**2} MiB")
    return path.read_bytes()


@app.command(cls=PlainCommand)
def search(
    query: Query,
    category: Category = None,
    tags: Tags = None,
    language: Language = None,
    user: User = None,
    tenant: flags.Tenant = DEFAULT_TENANT,
    json: AsJson = False,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Find passages. A server may be running."""
    condition = _options(category, tags, language, user)

    async def work(samvad: Any) -> Any:
        return await samvad.knowledge.search(" ".join(query), max_results=10, **condition)

    hits = reading(settings_of(store, data_dir), work, tenant=tenant)
    if json:
        typer.echo(msgspec.json.encode(hits))
        return
    if not hits:
        typer.echo("nothing was found")
    for hit in hits:
        place = f"{hit.passage.start}-{hit.passage.end}"
        typer.echo(f"{hit.score:.2f}  {printable(hit.doc.title)}  ({printable(hit.doc.id)}, {place})")
        typer.echo(f"      {printable(hit.passage.text, _SHOWN)}")


@app.command(cls=PlainCommand)
def answer(
    query: Query,
    user: User = None,
    tenant: flags.Tenant = DEFAULT_TENANT,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Answer a question in the words of a document. A server may be running."""

    async def work(samvad: Any) -> Any:
        return await samvad.knowledge.answer(" ".join(query), user_id=user)

    found = reading(settings_of(store, data_dir), work, tenant=tenant)
    if not found.answered:
        typer.echo(f"no document answers this (confidence {found.confidence:.2f})")
        return
    typer.echo(printable(found.answer))
    for citation in found.citations:
        place = f"({citation.document_id}, {citation.start}-{citation.end})"
        typer.echo(printable(f"  {citation.title} {place}"))


@app.command("list", cls=PlainCommand)
def list_documents(
    category: Category = None,
    tags: Tags = None,
    language: Language = None,
    user: User = None,
    tenant: flags.Tenant = DEFAULT_TENANT,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """List the documents, newest first. A server may be running."""
    condition = _options(category, tags, language, user)

    async def work(samvad: Any) -> None:
        cursor = None
        while True:
            page = await samvad.knowledge.list_documents(limit=500, cursor=cursor, **condition)
            rows = (
                (
                    printable(each.id),
                    each.type,
                    each.language or "-",
                    f"{each.content_length:,}",
                    _titled(each),
                )
                for each in page.documents
            )
            if page.documents:
                typer.echo(table(rows))
            cursor = page.next_cursor
            if cursor is None:
                break
        typer.echo(f"documents: {page.count:,}")

    reading(settings_of(store, data_dir), work, tenant=tenant)


@app.command(cls=PlainCommand)
def delete(
    document_id: Annotated[str, typer.Argument(metavar="ID", help="The document's id.", show_default=False)],
    user: User = None,
    tenant: flags.Tenant = DEFAULT_TENANT,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Remove a document. No server may be running."""
    writing(
        settings_of(store, data_dir),
        lambda samvad: samvad.knowledge.delete(document_id, user_id=user),
        tenant=tenant,
        instead=_INSTEAD,
    )
    typer.echo(f"removed {printable(document_id)}")


@app.command(cls=PlainCommand)
def reindex(
    user: User = None,
    tenant: flags.Tenant = DEFAULT_TENANT,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Make the index anew from the documents, and the vectors that are missing. No server may be running."""
    count = writing(
        settings_of(store, data_dir),
        lambda samvad: samvad.knowledge.reindex(user_id=user),
        tenant=tenant,
        instead="stop it first",
    )
    typer.echo(f"indexed {count:,} documents")


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"


@app.command("eval", cls=PlainCommand)
def evaluate(
    file: Annotated[
        str, typer.Argument(metavar="FILE.jsonl", help="Questions, a JSON object a line.", show_default=False)
    ],
    min_confidence: Annotated[
        float,
        typer.Option("--min-confidence", metavar="SHARE", min=0, max=1, help="How sure an answer must be."),
    ] = limits.ANSWER_CONFIDENCE_MIN,
    json: AsJson = False,
    tenant: flags.Tenant = DEFAULT_TENANT,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Ask questions whose answers are known, and say how many were found. A server may be running.

    Each line has a "question", and the "document" that answers it (id, title or source) or the words of its "answer",
    or "answerable": false.
    """
    from samvad.knowledge.evaluation import evaluate, read_questions

    try:
        questions = read_questions(Path(file).read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError):
        raise SetupError(f"Cannot read {file}.") from None
    except InvalidRequest as error:
        raise SetupError(f"{file}: {error.message}") from None
    found = reading(
        settings_of(store, data_dir),
        lambda samvad: evaluate(samvad.knowledge, questions, min_confidence=min_confidence),
        tenant=tenant,
    )
    if json:
        typer.echo(msgspec.json.encode(found._asdict()))
        return
    rows = [
        ("questions", f"{found.questions:,}"),
        ("MRR@10", _share(found.mrr)),
        ("recall at 1, 5, 10", ", ".join(map(_share, (found.recall_1, found.recall_5, found.recall_10)))),
        ("answered", _share(found.answered)),
        ("right, of those", _share(found.right)),
        ("answered wrongly, of those without an answer", _share(found.wrongly_answered)),
    ]
    typer.echo(table(rows))
    for question in found.unfound:
        typer.echo(f"not found: {printable(question, _SHOWN)}")


@app.command(cls=PlainCommand)
def stats(
    user: User = None,
    json: AsJson = False,
    tenant: flags.Tenant = DEFAULT_TENANT,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Count documents, and tell which are cited most and which questions found nothing. A server may be running."""

    async def work(samvad: Any) -> dict[str, Any]:
        languages: Counter[str] = Counter()
        types: Counter[str] = Counter()
        passages = chars = 0
        cursor = None
        while True:
            page = await samvad.knowledge.list_documents(limit=500, cursor=cursor, user_id=user)
            for each in page.documents:
                languages[each.language or "not known"] += 1
                types[each.type] += 1
                passages += each.passages
                chars += each.content_length
            cursor = page.next_cursor
            if cursor is None:
                break
        asked = await samvad.knowledge.stats(user_id=user)
        counted = {
            "passages": passages,
            "characters": chars,
            "languages": dict(languages),
            "types": dict(types),
        }
        return {**asked, "documents": sum(types.values()), **counted}

    found = reading(settings_of(store, data_dir), work, tenant=tenant)
    if json:
        typer.echo(msgspec.json.encode(found))
        return
    rows = [
        ("documents", f"{found['documents']:,}"),
        ("passages", f"{found['passages']:,}"),
        ("characters", f"{found['characters']:,}"),
        *((f"language {name}", f"{count:,}") for name, count in found["languages"].items()),
        *((f"type {name}", f"{count:,}") for name, count in found["types"].items()),
    ]
    if "searches" in found:
        rows.append(("searches", f"{found['searches']:,}, of which {found['foundNothing']:,} found nothing"))
        rows.append(
            ("questions", f"{found['questions']:,}, of which {found['unanswered']:,} were not answered")
        )
    typer.echo(table(rows))
    if found["mostCited"]:
        typer.echo("cited most:")
        typer.echo(
            table([(f"  {each['cited']:,}", printable(each["title"], _SHOWN)) for each in found["mostCited"]])
        )
    if found["unfound"]:
        typer.echo("found nothing:")
        typer.echo(
            table([(f"  {each['count']:,}", printable(each["query"], _SHOWN)) for each in found["unfound"]])
        )
