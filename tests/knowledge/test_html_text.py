"""HTML as text: what a reader sees, in order, and nothing that is hidden."""

from __future__ import annotations

from samvad.knowledge.html_text import extract_html

PAGE = """<!doctype html><html lang="hi-IN"><head><title> गृह ऋण </title>
<script>var x = "canary-script";</script><style>.a{content:"canary-style"}</style></head>
<body><nav><a href="/">canary-nav</a></nav>
<main><h1>गृह&nbsp;ऋण</h1>
<p>ब्याज   दर <b>8.5</b>% है।<br>यह घट सकती है।</p>
<h2>Documents</h2>
<ul><li>Proof of <i>income</i></li><li>Proof of address<ul><li>a bill</li></ul></li></ul>
<ol start="3"><li>third</li><li>fourth</li></ol>
<table><tr><th>Years</th><th>Rate</th></tr><tr><td>5</td><td><p>8.1</p></td></tr></table>
<pre>  keep
    this</pre>
<p style="display:none">canary-none</p><p hidden>canary-hidden</p><p aria-hidden="true">canary-aria</p>
<p style="font-size:0px">canary-tiny</p><p style="font-size:0.9em">small print</p>
<!-- canary-comment --><noscript>canary-noscript</noscript><iframe>canary-iframe</iframe>
<img alt="a house" src="x.png">
</main><footer>canary-footer</footer></body></html>"""


def test_a_page_reads_as_it_is_seen() -> None:
    """Paragraphs, lists, rows and preformatted text keep their shape; markup and menus are gone."""
    extracted = extract_html(PAGE)
    assert extracted.text == (
        "गृह ऋण\n\nब्याज दर 8.5% है।\nयह घट सकती है।\n\nDocuments\n- Proof of income\n- Proof of address\n- a bill\n"
        "3. third\n4. fourth\nYears | Rate\n5 | 8.1\n\nkeep\n    this\n\nsmall print\n\na house"
    )
    assert (extracted.title, extracted.language) == ("गृह ऋण", "hi")


def test_headings_stand_where_they_say() -> None:
    """Each heading's offsets give its words."""
    extracted = extract_html(PAGE)
    found = [(h.level, extracted.text[h.start : h.end]) for h in extracted.headings]
    assert found == [(1, "गृह ऋण"), (2, "Documents")]


def test_nothing_hidden_is_read() -> None:
    """Scripts, styles, comments and what CSS hides would put words into an answer that no reader ever saw."""
    assert "canary" not in extract_html(PAGE).text


def test_a_page_of_menus_only_is_read_all_the_same() -> None:
    """Where there is nothing but navigation, that is the content."""
    assert extract_html("<nav><p>Opening hours: nine to five</p></nav>").text == "Opening hours: nine to five"


def test_a_small_main_does_not_hide_the_rest() -> None:
    """Some pages put a <main> around a headline; the content beside it is read."""
    text = extract_html(
        "<main><p>Hi</p></main><div>" + "<p>All that matters is here.</p>" * 9 + "</div>"
    ).text
    assert "All that matters" in text


def test_deep_nesting_ends() -> None:
    """A tree as deep as a file allows is read without recursion."""
    assert extract_html("<div>" * 12_000 + "bottom").text == "bottom"


def test_broken_markup_is_read_as_browsers_do() -> None:
    """Unclosed and misnested tags are no errors in HTML."""
    assert extract_html("<p>one<p>two<b>three</p>four</b>").text == "one\n\ntwothree\n\nfour"
