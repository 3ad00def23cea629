"""Documents of strangers: text or a clear error, in bounded time and memory."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from samvad.errors import InvalidRequest, TooLarge, UnreadableDocument
from samvad.knowledge import extracting
from samvad.knowledge.extracting import decode_base64, decode_text, extract, kind_of

pytestmark = pytest.mark.anyio
DATA = Path(__file__).parent / "data"
FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"


def pdf(
    content: bytes, *, extra: list[bytes] | None = None, trailer: bytes = b"", filters: bytes = b""
) -> bytes:
    """A PDF of one page, written by hand."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R /Resources 6 0 R >>",
        b"<< /Length %d %b >> stream\n%b\nendstream" % (len(content), filters, content),
        FONT,
        b"<< /Font << /F1 5 0 R >> >>",
        *(extra or []),
    ]
    out = bytearray(b"%PDF-1.7\n")
    places = []
    for number, each in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, each)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    for place in places:
        out += b"%010d 00000 n \n" % place
    out += b"trailer << /Size %d /Root 1 0 R %b >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        trailer,
        start,
    )
    return bytes(out)


HELLO = b"BT /F1 12 Tf 50 700 Td (The rate is fixed.) Tj ET"


async def test_a_hindi_pdf_of_a_browser_is_read_word_for_word() -> None:
    """Syllables drawn as several glyphs are read once, and no word breaks at a vowel sign."""
    extracted = await extract((DATA / "hindi.pdf").read_bytes(), "pdf")
    assert extracted.text == (
        "गृह ऋण की शर्तें\n\n"
        "गृह ऋण के लिए आय प्रमाण पत्र और पते का प्रमाण चाहिए। ब्याज दर 8.5 प्रतिशत प्रति वर्ष है और बीस वर्ष में "
        "चुकानी होती है।\n\n"
        "समय से पहले चुकाने पर कोई शुल्क नहीं लगता। बैंक की किसी भी शाखा में आवेदन किया जा सकता है।\n\n"
        "Second page: the processing fee is one percent of the loan."
    )
    assert extracted.title == "गृह ऋण की शर्तें"
    assert extracted.text[extracted.page_starts[1] :].startswith("Second page")


async def test_a_scanned_pdf_says_what_to_do() -> None:
    """Pages of pictures have no text: the error names OCR."""
    with pytest.raises(UnreadableDocument, match="OCR"):
        await extract(pdf(b"0.5 g 10 10 500 700 re f"), "pdf")


async def test_an_encrypted_pdf_says_what_to_do() -> None:
    """A PDF with a password is told apart from a damaged one."""
    lock = b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%b> /U <%b> >>" % (b"41" * 32, b"42" * 32)
    ids = b"<%b>" % (b"43" * 16)
    locked = pdf(HELLO, extra=[lock], trailer=b"/Encrypt 7 0 R /ID [%b %b]" % (ids, ids))
    with pytest.raises(UnreadableDocument, match="encrypted"):
        await extract(locked, "pdf")


async def test_a_large_pdf_is_read_or_refused_by_its_size() -> None:
    """50 MB with little text are read; more than the bound is refused before anything is parsed."""
    ballast = b"<< /Length 50000000 >> stream\n%b\nendstream" % (b"x" * 50_000_000)
    extracted = await extract(pdf(HELLO, extra=[ballast]), "pdf")
    assert extracted.text == "The rate is fixed."
    with pytest.raises(TooLarge):
        await extract(b"%PDF-" + bytes(extracting.DOCUMENT_BYTES_MAX), "pdf")


async def test_a_decompression_bomb_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that unpacks to gigabytes meets the bound of memory or of time; the server lives on."""
    monkeypatch.setattr(extracting, "EXTRACTION_MEMORY_BYTES_MAX", 400 * 1024 * 1024)
    monkeypatch.setattr(extracting, "EXTRACTION_S_MAX", 3.0)
    with pytest.raises(UnreadableDocument):
        await extract(bomb(), "pdf")


def bomb() -> bytes:
    """A PDF of some kilobytes whose page unpacks to 600 MB: packed twice, as PDF allows."""
    packer = zlib.compressobj(1)
    piece = b" " * 1_000_000
    packed = b"".join([packer.compress(HELLO), *(packer.compress(piece) for _ in range(600)), packer.flush()])
    bombed = pdf(zlib.compress(packed, 9), filters=b"/Filter [/FlateDecode /FlateDecode]")
    assert len(bombed) < 100_000
    return bombed


@pytest.mark.parametrize(
    "data",
    [b"", b"%PDF-1.7", b"%PDF-1.7\n" + b"\0" * 2_000, pdf(HELLO)[:300], b"%PDF-1.4\nxref\n0 99999999\n"],
    ids=["empty", "head only", "zeros", "cut", "false table"],
)
async def test_damaged_pdfs_are_refused(data: bytes) -> None:
    """A damaged file is one sentence."""
    with pytest.raises(UnreadableDocument):
        await extract(data, "pdf")


async def test_many_at_once_do_not_hold_up_the_loop() -> None:
    """While documents are read in other processes, the event loop goes round."""
    turns = 0
    html = b"<p>" + b"word " * 40_000

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(count)
        for _ in range(3):
            assert (await extract(html, "html")).text.startswith("word word")
        group.cancel_scope.cancel()
    assert turns > 100


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"PK\x03\x04" + bytes(50), "ZIP"),
        (zlib.compress(b"x" * 99, wbits=31), "gzip"),
        (b"\x89PNG\r\n", "picture"),
        (b"MZ\0\0\0\0", "binary"),
    ],
)
async def test_other_kinds_of_files_are_named(data: bytes, says: str) -> None:
    """A file that is no document says what it is, and what to do."""
    for kind in ("text", "html", "markdown", "pdf"):
        with pytest.raises(UnreadableDocument, match=says):
            await extract(data, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", ["%%%", "abc$", "", "data:application/pdf,plain", "é"])
def test_malformed_base64_is_refused(content: str) -> None:
    """Anything but base64 is a 400 that says so."""
    with pytest.raises(InvalidRequest, match="pdfContent"):
        decode_base64(content)


def test_base64_is_taken_as_people_send_it() -> None:
    """Line breaks, a data: URL and missing padding are no reason to refuse."""
    plain = base64.b64encode(b"%PDF-1.7 ab").decode()
    for content in (
        plain,
        plain.rstrip("="),
        plain[:4] + "\r\n" + plain[4:],
        "data:application/pdf;base64," + plain,
    ):
        assert decode_base64(content) == b"%PDF-1.7 ab"


@pytest.mark.parametrize(
    ("data", "charset", "html", "text"),
    [
        ("ऋण".encode(), None, False, "ऋण"),
        ("ऋण".encode("utf-16"), None, False, "ऋण"),
        (b"\xef\xbb\xbf" + "ऋण".encode(), "latin-1", False, "ऋण"),
        (b"caf\xe9 \x93q\x94", "iso-8859-1", False, "café “q”"),
        (b'<meta charset="windows-1252">\xe9', None, True, '<meta charset="windows-1252">é'),
    ],
)
def test_character_sets(data: bytes, charset: str | None, html: bool, text: str) -> None:
    """The byte order mark wins, then what was declared, then UTF-8."""
    assert decode_text(data, charset, html=html) == text


@pytest.mark.parametrize("charset", ["x-unknown", "hex", "idna", None])
def test_text_that_cannot_be_decoded_is_refused(charset: str | None) -> None:
    """Not a guess: a sentence that says to send UTF-8."""
    with pytest.raises(UnreadableDocument, match="UTF-8"):
        decode_text(b"\xff\xfe\x00\xd8\xff"[2:] + b"\xe9", charset)


def test_kinds_by_name_type_and_content() -> None:
    """What a thing is counts more than what it is called."""
    assert kind_of("a.txt", None, b"%PDF-1.7") == "pdf"
    assert kind_of("notes.md", "text/plain") == "markdown"
    assert kind_of(None, "text/html; charset=utf-8") == "html"
    assert kind_of("x.docx", "application/vnd.ms-word") is None
    assert kind_of(None, None, b" <!DOCTYPE html>") == "html"


async def test_what_has_no_words_is_refused() -> None:
    """Nothing could ever be found in it."""
    for data, kind in ((b" \n--", "text"), (b"<script>a()</script>", "html"), (b"***", "markdown")):
        with pytest.raises(UnreadableDocument):
            await extract(data, kind)  # type: ignore[arg-type]
