"""Files and bytes as readable text: which kind it is, and who reads it.

PDF, and what is large, is read in a process of its own with bounds on time and memory: the parsers are C code,
the files are strangers', and the event loop must go on meanwhile.
"""

from __future__ import annotations

import asyncio
import binascii
import codecs
import contextlib
import re
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, Literal, cast

import msgspec

from samvad.errors import InvalidRequest, SetupError, TooLarge, UnreadableDocument
from samvad.knowledge.structure import Extracted, clean, has_words

if TYPE_CHECKING:
    from typing_extensions import Buffer

DocumentType = Literal["text", "markdown", "html", "pdf"]

DOCUMENT_BYTES_MAX: Final = 64 * 1024 * 1024  # of a file, before its text is taken out
TEXT_CHARS_MAX: Final = 10_000_000  # of the text of one document
EXTRACTION_S_MAX: Final = 60.0
EXTRACTION_MEMORY_BYTES_MAX: Final = 1536 * 1024 * 1024
_INLINE_BYTES_MAX: Final = 64 * 1024  # markup up to this size is read at once: a few milliseconds
_PROCESSES_MAX: Final = 2
_PIECE_BYTES: Final = 256 * 1024
_BASE64_BLOCK_BYTES: Final = 256 * 1024
_DATA_HEAD_BYTES_MAX: Final = 1_024
_NOT_BASE64: Final = "pdfContent is not valid base64 (RFC 4648); encode the file's bytes anew."

_ENDINGS: dict[str, DocumentType] = {
    ".txt": "text",
    ".text": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
}
_MEDIA_TYPES: dict[str, DocumentType] = {
    "text/plain": "text",
    "text/markdown": "markdown",
    "text/x-markdown": "markdown",
    "text/html": "html",
    "application/xhtml+xml": "html",
    "application/pdf": "pdf",
    "application/x-pdf": "pdf",
}
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE)
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What files begin with that are often handed over as something else.
_OTHER_FILES = (
    (b"PK\x03\x04", "a ZIP archive (or an office document); save it as PDF, HTML or text"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"\xd0\xcf\x11\xe0", "an old office document; save it as PDF, HTML or text"),
    (b"\x89PNG", "a picture; run text recognition (OCR) over it first"),
    (b"\xff\xd8\xff", "a picture; run text recognition (OCR) over it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"{\\rtf", "an RTF document; save it as PDF, HTML or text"),
)


def kind_of(filename: str | None, media_type: str | None = None, data: bytes = b"") -> DocumentType | None:
    """The kind of a document by its media type, else its name's ending, else how it begins; None if unknown."""
    if data.lstrip()[:5] == b"%PDF-":
        return "pdf"
    if media_type:
        found = _MEDIA_TYPES.get(media_type.partition(";")[0].strip().lower())
        if found is not None and not (found == "text" and filename):
            return found
    if filename:
        by_name = _ENDINGS.get(PurePath(filename).suffix.lower())
        if by_name is not None:
            return by_name
    if media_type:
        return _MEDIA_TYPES.get(media_type.partition(";")[0].strip().lower())
    begin = data[:1024].lstrip().lower()
    return "html" if begin.startswith((b"<!doctype html", b"<html")) else None


def decode_base64(content: str | Buffer) -> bytes:
    """The bytes of a base64 text (RFC 4648; a `data:` URL and line breaks are accepted); InvalidRequest else.

    Done block by block: in a thread, it holds the interpreter for a millisecond or two at a time.
    """
    try:
        view = memoryview(content.encode("ascii") if isinstance(content, str) else content)
    except UnicodeEncodeError:
        raise InvalidRequest(_NOT_BASE64) from None
    if bytes(view[:5]) == b"data:":
        head, comma, _ = bytes(view[:_DATA_HEAD_BYTES_MAX]).partition(b",")
        if not comma or not head.endswith(b";base64"):
            raise InvalidRequest("pdfContent is a data: URL that is not base64; send the bytes as base64.")
        view = view[len(head) + 1 :]
    data, rest = bytearray(), b""
    try:
        for at in range(0, len(view), _BASE64_BLOCK_BYTES):
            block = rest + bytes(view[at : at + _BASE64_BLOCK_BYTES]).translate(None, b" \t\r\n\f\v")
            rest = block[len(block) - len(block) % 4 :]
            if rest == block:
                continue
            if data and len(data) % 3:
                raise InvalidRequest(_NOT_BASE64)  # a padding in the middle
            data += binascii.a2b_base64(block[: len(block) - len(rest)], strict_mode=True)
            if len(data) > DOCUMENT_BYTES_MAX:
                raise TooLarge(f"A document may have {DOCUMENT_BYTES_MAX} bytes at most.")
        if rest:  # without its padding
            if data and len(data) % 3:
                raise InvalidRequest(_NOT_BASE64)
            data += binascii.a2b_base64(rest + b"=" * (4 - len(rest)), strict_mode=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(_NOT_BASE64) from None
    if not data:
        raise InvalidRequest("pdfContent is empty; send the file's bytes as base64.")
    return bytes(data)


async def extract(data: bytes, kind: DocumentType, *, charset: str | None = None) -> Extracted:
    """The text of a document.

    UnreadableDocument says why there is none; TooLarge is raised past 64 MiB or 10 million characters.
    """
    if len(data) > DOCUMENT_BYTES_MAX:
        raise TooLarge(f"A document may have {DOCUMENT_BYTES_MAX} bytes at most; this one has {len(data)}.")
    if kind == "pdf":
        if not data.lstrip()[:5] == b"%PDF-" and (other := _other_file(data)):
            raise UnreadableDocument(f"This is not a PDF; it is {other}.")
    elif other := _other_file(data):
        raise UnreadableDocument(f"This is not text; it is {other}.")
    if kind == "text" or (kind != "pdf" and len(data) <= _INLINE_BYTES_MAX):
        return read(data, kind, charset)
    return await _in_process(data, kind, charset)


def read(data: bytes, kind: DocumentType, charset: str | None = None) -> Extracted:
    """As `extract`, at once and in this process."""
    if kind == "pdf":
        from samvad.knowledge.pdf_text import extract_pdf

        return extract_pdf(data, chars_max=TEXT_CHARS_MAX)
    try:
        extracted = _read_text(decode_text(data, charset, html=kind == "html"), kind)
    except ImportError as error:
        raise SetupError(
            f"Reading {kind} needs an extra: pip install 'samvad-sessions[knowledge]'."
        ) from error
    if len(extracted.text) > TEXT_CHARS_MAX:
        raise TooLarge(f"A document may have {TEXT_CHARS_MAX} characters of text at most; split it.")
    if not has_words(extracted.text):
        raise UnreadableDocument("There are no words in this document.")
    return extracted


def _read_text(text: str, kind: DocumentType) -> Extracted:
    if kind == "markdown":
        from samvad.knowledge.markdown_text import extract_markdown

        return extract_markdown(clean(text))
    if kind == "html":
        from samvad.knowledge.html_text import extract_html

        return extract_html(text)
    return Extracted(clean(text))


def decode_text(data: bytes, charset: str | None = None, *, html: bool = False) -> str:
    """Bytes as text: by their byte order mark, by what is declared, else as UTF-8.

    The order is that of the WHATWG encoding standard (https://encoding.spec.whatwg.org/#decode).
    """
    for mark, name in _BOMS:
        if data.startswith(mark):
            charset = name
            break
    else:
        if charset is None and html and (declared := _META_CHARSET.search(data[:2048])):
            charset = declared.group(1).decode("ascii")
    label = (charset or "utf-8").strip("\"' ").lower()
    label = {"iso-8859-1": "cp1252", "latin-1": "cp1252", "us-ascii": "utf-8", "ascii": "utf-8"}.get(
        label, label
    )
    try:
        return data.decode(label).removeprefix("\ufeff")
    except LookupError:
        raise UnreadableDocument(
            f"The character set {charset!r} is not known; send the text as UTF-8."
        ) from None
    except (UnicodeDecodeError, ValueError):
        raise UnreadableDocument(f"This is not valid {label.upper()} text; save it as UTF-8.") from None


def _other_file(data: bytes) -> str | None:
    for begin, name in _OTHER_FILES:
        if data.startswith(begin):
            return name
    return (
        "a binary file" if b"\0" in data[:1024] and not data.startswith(tuple(m for m, _ in _BOMS)) else None
    )


# --- in a process of its own ---------------------------------------------------------------------------------


class Task(msgspec.Struct):
    """What the process is to do; the document's bytes follow it."""

    kind: str
    charset: str | None
    cpu_s: int
    memory_bytes: int


class Answer(msgspec.Struct):
    """What the process has to say: a text, or the code and sentence of an error."""

    extracted: Extracted | None = None
    code: str | None = None
    message: str = ""


# One semaphore a running loop would do for a server; scripts may run one loop after another.
_running: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}


def _places() -> asyncio.Semaphore:
    loop = asyncio.get_running_loop()
    if loop not in _running:
        for old in [old for old in _running if old.is_closed()]:
            del _running[old]
        _running[loop] = asyncio.Semaphore(_PROCESSES_MAX)
    return _running[loop]


async def _in_process(data: bytes, kind: DocumentType, charset: str | None) -> Extracted:
    task = Task(kind, charset, int(EXTRACTION_S_MAX), EXTRACTION_MEMORY_BYTES_MAX + 4 * len(data))
    head = msgspec.json.encode(task)
    async with _places():
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "samvad.knowledge.extraction_process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(EXTRACTION_S_MAX):
                out = await _exchange(process, head + b"\n", data)
        except TimeoutError:
            raise UnreadableDocument(
                f"Reading the document took longer than {EXTRACTION_S_MAX:.0f} s; split it."
            ) from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
    try:
        answer = msgspec.json.decode(out, type=Answer)
    except (
        msgspec.DecodeError,
        UnicodeDecodeError,
    ):  # it died: of its bound of memory or processor time, or in the parser
        raise UnreadableDocument(
            "The document could not be read within the bounds of time and memory; it may be damaged, or made to harm."
        ) from None
    if answer.extracted is not None:
        return answer.extracted
    for kind_of_error in (UnreadableDocument, TooLarge, SetupError):
        if answer.code == kind_of_error.code:
            raise kind_of_error(answer.message)
    raise UnreadableDocument(answer.message or None)


async def _exchange(process: asyncio.subprocess.Process, head: bytes, data: bytes) -> bytes:
    """Hand a document over piece by piece (what waits in a buffer is copied at every turn), and take the answer."""
    assert process.stdin is not None and process.stdout is not None
    target = process.stdin

    async def feed() -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: there will be no answer
            target.write(head)
            for at in range(0, len(data), _PIECE_BYTES):
                target.write(data[at : at + _PIECE_BYTES])
                await target.drain()
        target.close()

    _, out = await asyncio.gather(feed(), process.stdout.read())
    await process.wait()
    return out


def type_of(kind: str) -> DocumentType:
    """A kind that came as a word of the wire; InvalidRequest where there is none of that name."""
    if kind not in ("text", "markdown", "html", "pdf"):
        raise InvalidRequest("type must be text, markdown, html or pdf.")
    return cast(DocumentType, kind)
