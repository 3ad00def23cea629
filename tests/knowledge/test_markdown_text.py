"""Markdown as text: no markup left, headings known."""

from __future__ import annotations

from samvad.knowledge.markdown_text import extract_markdown

SOURCE = """---
title: ignored
---
# Home *loans*

The rate is **8.5 %** and may [fall](https://example.com).
It is fixed
for `12` months.

## Papers

- income
- address
  more of it

1. first
2. second

| Years | Rate |
|---|---|
| 5 | 8.1 |

```python
print("as it stands")
```

<div>canary-html</div>
"""


def test_markup_is_gone_and_headings_are_known() -> None:
    """Text reads as prose; raw HTML, which may hide things, is left out."""
    extracted = extract_markdown(SOURCE)
    assert extracted.text == (
        "Home loans\n\nThe rate is 8.5 % and may fall. It is fixed for 12 months.\n\nPapers\n- income\n"
        "- address more of it\n1. first\n2. second\nYears | Rate\n5 | 8.1\n\n"
        'print("as it stands")'
    )
    assert extracted.title == "Home loans"
    assert [extracted.text[h.start : h.end] for h in extracted.headings] == ["Home loans", "Papers"]


def test_a_second_paragraph_of_an_item_is_its_own_block() -> None:
    """Only the first paragraph of a list item carries the item's mark."""
    assert extract_markdown("- one\n\n  two\n- three").text == "- one\n\ntwo\n- three"


def test_nested_quotes_do_not_recurse() -> None:
    """Quotes as deep as people write are read, quotes as deep as a line allows do no harm."""
    assert extract_markdown(">" * 50 + " end").text == "end"
    extract_markdown(">" * 5_000 + " end")
