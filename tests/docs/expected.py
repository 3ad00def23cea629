"""Comparing what a block printed with what its page says it prints. `…` stands for whatever was there."""

from __future__ import annotations

import json
import re
from typing import Any


def json_values(text: str) -> list[Any]:
    """The JSON values that stand in a text one after the other; ValueError where there is something else."""
    decoder, values, at = json.JSONDecoder(), [], 0
    text = text.strip()
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        values.append(value)
        while at < len(text) and text[at].isspace():
            at += 1
    return values


def failures(text: str) -> list[str]:
    """The answers in a text that tell of a failure."""
    return re.findall(r'"success": ?false.*', text)


def json_differs(wanted: Any, found: Any, where: str = "$") -> str | None:
    """Where a JSON value is not what the page says; the text `…` fits any value, as a last item any others."""
    if isinstance(wanted, str) and "…" in wanted:
        fits = wanted == "…" or (isinstance(found, str) and _pattern(wanted).fullmatch(found))
        return None if fits else f"{where}: {found!r}, not {wanted!r}"
    if isinstance(wanted, dict) and isinstance(found, dict):
        if wanted.keys() != found.keys():
            return f"{where}: has {', '.join(found)}, not {', '.join(wanted)}"
        return next(filter(None, (json_differs(wanted[k], found[k], f"{where}.{k}") for k in wanted)), None)
    if isinstance(wanted, list) and isinstance(found, list):
        if wanted and wanted[-1] == "…":
            wanted, found = wanted[:-1], found[: len(wanted) - 1]
        if len(wanted) != len(found):
            return f"{where}: {len(found)} items, not {len(wanted)}"
        pairs = enumerate(zip(wanted, found, strict=True))
        return next(filter(None, (json_differs(w, f, f"{where}[{n}]") for n, (w, f) in pairs)), None)
    same = wanted == found and type(wanted) is type(found)
    return None if same else f"{where}: {found!r}, not {wanted!r}"


def text_differs(wanted: str, found: str) -> str | None:
    """As `json_differs`, of text: `…` fits anything within its line, a line of nothing else any lines."""
    found = "\n".join(line.rstrip() for line in found.replace("\r", "").strip().splitlines())
    parts = [
        r"(?:.*\n)*?" if line.strip() == "…" else _pattern(line.rstrip()).pattern + r"\n"
        for line in wanted.strip().splitlines()
    ]
    if re.fullmatch("".join(parts), found + "\n"):
        return None
    return f"printed\n{found}\n--- and the page says\n{wanted.strip()}"


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*?".join(re.escape(part) for part in text.split("…")))
