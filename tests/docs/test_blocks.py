"""What the documentation shows is what happens: every block of every page is run, and its output compared."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.expected import json_differs, text_differs
from tests.docs.pages import Page, all_pages, page
from tests.docs.run import Reader
from tests.support import loudly_skip

RUNNABLE = ("python", "sh", "json")
SKIPS_MAX = 22  # in all of the documentation; most of them are commands of Google Cloud


def has_blocks(page: Page) -> bool:
    """Whether there is anything to run or to parse."""
    return any(block.language in RUNNABLE for block in page.blocks)


@pytest.mark.parametrize("page", [*filter(has_blocks, all_pages())], ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block works when pasted, in the order of the page, and prints what the page says."""
    for program in ("bash", "curl"):
        if shutil.which(program) is None:
            loudly_skip(f"there is no {program}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with Reader(page, tmp_path) as reader:
        reader.read()


def test_the_first_minute_is_all_there() -> None:
    """The README's first minute starts the server, kills it with kill -9 and starts it again."""
    commands = [block.text.strip() for block in page("README.md").blocks if block.language == "sh"]
    first = commands.index("make serve")
    killed = next(n for n, command in enumerate(commands) if command.startswith("kill -9 "))
    again = commands.index("make serve", killed)
    assert first < killed < again < len(commands) - 1


def test_few_blocks_are_left_out() -> None:
    """What cannot be run in a test is the exception."""
    skipped = [
        (page.name, block.line) for page in all_pages() for block in page.blocks if "skip" in block.marks
    ]
    assert len(skipped) <= SKIPS_MAX, skipped


def test_every_block_names_its_language() -> None:
    """No block is left unrun because its fence says nothing."""
    found = [
        f"{page.name}:{block.line}" for page in all_pages() for block in page.blocks if not block.language
    ]
    assert found == []


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1}, {"a": True}),
        ([1, 2], [1]),
        ([1, "…"], [2, 3]),
        ("m…", "x1"),
    ],
)
def test_other_answers_are_noticed(wanted: object, found: object) -> None:
    """An answer that differs from the page fails its test."""
    assert json_differs(wanted, found) is not None


def test_the_same_answers_pass() -> None:
    """`…` stands for what differs from run to run, and for nothing else."""
    assert (
        json_differs({"id": "m1-…", "at": "…", "all": [1, "…"]}, {"id": "m1-ab", "at": 3, "all": [1, 2, 3]})
        is None
    )
    assert text_differs("one …\n…\nlast", "one two\nthree\nfour\nlast\n") is None
    assert text_differs("one", "one\ntwo") is not None
    assert text_differs("a.c", "abc") is not None
