"""No link of the documentation leads nowhere, and every page can be reached."""

from __future__ import annotations

import re
from urllib.parse import unquote

from tests.docs.pages import Page, all_pages, page, read_page
from tests.support import REPOSITORY


def dead_links(page: Page) -> list[str]:
    """The links of a page to files, folders or headings that are not there."""
    found = []
    for line, link in page.links():
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.path.parent / unquote(name)).resolve() if name else page.path
        if not target.exists() or not target.is_relative_to(REPOSITORY):
            found.append(f"{page.name}:{line}: {link}")
        elif anchor and (target.suffix != ".md" or anchor not in read_page(target).anchors()):
            found.append(f"{page.name}:{line}: {link} (no such heading)")
    return found


def test_links_resolve() -> None:
    """Every relative link leads to a file of the repository, every anchor to a heading."""
    assert [dead for page in all_pages() for dead in dead_links(page)] == []


def test_every_page_can_be_reached() -> None:
    """From the README, by following links."""
    reached, waiting = set(), [page("README.md").path]
    while waiting:
        path = waiting.pop()
        if path in reached or path.suffix != ".md" or not path.exists():
            continue
        reached.add(path)
        waiting += [
            (path.parent / unquote(link.partition("#")[0])).resolve()
            for _, link in read_page(path).links()
            if not re.match(r"[a-z]+:|#", link)
        ]
    assert [page.name for page in all_pages() if page.path not in reached] == []


def test_paths_named_in_the_text_exist() -> None:
    """A file of the repository that a page names in `code` is there."""
    named = re.compile(r"`((?:src|tests|benchmarks|tools|requirements|docs)/[\w./-]+)`")
    found = [
        f"{page.name}:{line}: {path}"
        for page in all_pages()
        for line, text in page.prose
        for path in named.findall(text)
        if not (REPOSITORY / path).exists() and path != "benchmarks/RESULTS.md"  # `make bench` writes it
    ]
    assert found == []
