"""The text of PDF pages whose writer says what clusters of glyphs mean (ActualText, ISO 32000-2, 14.9.4).

Browsers draw Devanagari and other Indic scripts as several glyphs a syllable, and note the syllable beside them.
PDFium's own reading order takes each glyph of a cluster for a letter: it breaks words at vowel signs and says
some syllables twice. Here the objects of the page are read in the order in which they were drawn: a marked
cluster is what its mark says, once; a glyph without ink is a space.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final, NamedTuple

_ACTUAL_TEXT: Final = b"ActualText"
_BYTES_MAX: Final = 64 * 1024
_INK_WIDTH_MIN: Final = 0.05  # points: what is narrower has no ink
_LINE_SHARE: Final = 0.4  # of the size of the letters: a baseline this far away is another line
_GAP_SHARE: Final = 0.2  # of the size: letters this far apart are of two words


class _Piece(NamedTuple):
    text: str
    mark: int | None  # the address of its cluster's mark
    left: float
    right: float
    baseline: float
    size: float


def page_text(page: Any, text_page: Any) -> str | None:
    """The text of such a page; None where the page marks no cluster, or is made of parts that are not seen here."""
    pieces = _pieces(page, text_page)
    if pieces is None or not any(piece.mark is not None for piece in pieces):
        return None
    parts: list[str] = []
    before: _Piece | None = None
    for piece in pieces:
        if before is not None:
            if abs(piece.baseline - before.baseline) > _LINE_SHARE * max(piece.size, before.size):
                parts.append("\n")
            elif piece.mark is not None and piece.mark == before.mark:
                before = before._replace(right=max(before.right, piece.right))
                continue
            elif piece.left - before.right > _GAP_SHARE * piece.size:
                parts.append(" ")
        parts.append(piece.text)
        before = piece
    return "\n".join(" ".join(line.split()) for line in "".join(parts).split("\n"))


def _pieces(page: Any, text_page: Any) -> list[_Piece] | None:
    import pypdfium2.raw as pdfium

    pieces: list[_Piece] = []
    for index in range(pdfium.FPDFPage_CountObjects(page)):
        item = pdfium.FPDFPage_GetObject(page, index)
        kind = pdfium.FPDFPageObj_GetType(item)
        if kind == pdfium.FPDF_PAGEOBJ_FORM:
            return None
        if kind != pdfium.FPDF_PAGEOBJ_TEXT:
            continue
        left, bottom, right, top = (ctypes.c_float() for _ in range(4))
        size, matrix = ctypes.c_float(), pdfium.FS_MATRIX()
        pdfium.FPDFPageObj_GetBounds(item, left, bottom, right, top)
        pdfium.FPDFTextObj_GetFontSize(item, size)
        pdfium.FPDFPageObj_GetMatrix(item, matrix)
        if matrix.b or matrix.c:  # turned: lines do not lie level
            return None
        mark, text = _cluster(item)
        if text is None:
            text = _own_text(item, text_page).strip()
            if not text and right.value - left.value < _INK_WIDTH_MIN:
                text = " "
        pieces.append(_Piece(text, mark, left.value, right.value, matrix.f, size.value * abs(matrix.d)))
    return pieces


def _own_text(item: Any, text_page: Any) -> str:
    import pypdfium2.raw as pdfium

    size = min(pdfium.FPDFTextObj_GetText(item, text_page, None, 0), _BYTES_MAX)
    buffer = (ctypes.c_ushort * (size // 2 + 1))()
    pdfium.FPDFTextObj_GetText(item, text_page, buffer, size)
    return bytes(buffer)[:size].decode("utf-16-le", "ignore").rstrip("\0")


def _cluster(item: Any) -> tuple[int | None, str | None]:
    """The mark that says what the glyphs of an object mean, by its address, and what it says."""
    import pypdfium2.raw as pdfium

    for index in range(pdfium.FPDFPageObj_CountMarks(item)):
        mark = pdfium.FPDFPageObj_GetMark(item, index)
        length = ctypes.c_ulong()
        if (
            not pdfium.FPDFPageObjMark_GetParamBlobValue(mark, _ACTUAL_TEXT, None, 0, length)
            or not length.value
        ):
            continue
        buffer = (ctypes.c_ubyte * min(length.value, _BYTES_MAX))()
        if pdfium.FPDFPageObjMark_GetParamBlobValue(mark, _ACTUAL_TEXT, buffer, len(buffer), length):
            return ctypes.addressof(mark.contents), _decode(bytes(buffer))
    return None, None


def _decode(data: bytes) -> str:
    """A text string of PDF (ISO 32000-2, 7.9.2.2): UTF-16 or UTF-8 by its mark, else close to Latin-1."""
    if data.startswith(b"\xfe\xff"):
        return data[2:].decode("utf-16-be", "ignore")
    if data.startswith(b"\xef\xbb\xbf"):
        return data[3:].decode("utf-8", "ignore")
    return data.decode("latin-1")
