"""PDF as readable text, by PDFium: lines joined into paragraphs, pages known. Runs in a process of its own."""

from __future__ import annotations

import re
from statistics import median
from typing import Any, Final

from samvad.errors import UnreadableDocument
from samvad.knowledge.pdf_clusters import page_text
from samvad.knowledge.structure import Extracted, TextBuilder, clean, has_words, one_line

PAGES_MAX: Final = 5_000
_ENDS_SENTENCE = re.compile(r"[.?!:;।॥…][\"'”’)\]]*$")
_NEW_ITEM = re.compile(r"^\s*(?:[-•*▪◦–]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s")
# Of the usual length of a line: what is shorter than the first ends a paragraph (or is a heading), what is shorter
# than the second ends one where a sentence ends with it.
_STUMP = 0.5
_SHORT_LINE = 0.85
_ENCRYPTED = "The PDF is encrypted; save it without a password and add it again."
_PICTURES = (
    "The PDF has no text: its pages are pictures. Run text recognition (OCR) over it, for example with ocrmypdf, "
    "and add the result."
)


def extract_pdf(data: bytes, *, chars_max: int) -> Extracted:
    """The text of a PDF; UnreadableDocument where there is none, or it cannot be read."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise UnreadableDocument(_refusal(error)) from None
    try:
        if len(document) > PAGES_MAX:
            raise UnreadableDocument(
                f"The PDF has {len(document)} pages; {PAGES_MAX} are read at most. Split it."
            )
        builder = TextBuilder()
        for number in range(len(document)):
            builder.page()
            for paragraph in _paragraphs(_page_text(document, number)):
                builder.block(paragraph)
            if builder.length > chars_max:
                raise UnreadableDocument(f"The PDF has more than {chars_max} characters of text; split it.")
        title = one_line(document.get_metadata_value("Title") or "")
    finally:
        document.close()
    extracted = builder.done(title=title or None)
    if not has_words(extracted.text):
        raise UnreadableDocument(_PICTURES)
    return extracted


def _refusal(error: Any) -> str:
    code = getattr(error, "err_code", None)
    if code in (4, 5):  # FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY (public/fpdfview.h)
        return _ENCRYPTED
    return "This is not a PDF that can be read: it is damaged or another kind of file."


def _page_text(document: Any, number: int) -> str:
    import pypdfium2

    try:
        page = document[number]
        try:
            text_page = page.get_textpage()
            try:
                return page_text(page, text_page) or str(text_page.get_text_bounded())
            finally:
                text_page.close()
        finally:
            page.close()
    except pypdfium2.PdfiumError:
        return ""  # a damaged page: the others may still be read


def _paragraphs(text: str) -> list[str]:
    """Lines as they stand on the page, joined into paragraphs."""
    text = text.replace("\ufffe\r\n", "").replace("\ufffe\n", "")  # a word that was broken at the line's end
    lines = [line.strip() for line in clean(text).split("\n")]
    lengths = [len(line) for line in lines if line]
    usual = median(lengths) if lengths else 0
    paragraphs: list[str] = []
    current: list[str] = []
    for line in lines:
        ends = bool(current) and (not line or _NEW_ITEM.match(line) is not None or _ends(current[-1], usual))
        if ends:
            paragraphs.append(" ".join(current))
            current = []
        if line:
            current.append(line)
    if current:
        paragraphs.append(" ".join(current))
    return paragraphs


def _ends(line: str, usual: float) -> bool:
    """Whether a paragraph ends with this line, by its length beside the usual one."""
    if len(line) < usual * _STUMP:
        return True
    return len(line) < usual * _SHORT_LINE and _ENDS_SENTENCE.search(line) is not None
