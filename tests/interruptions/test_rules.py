"""The pure rules: what was heard, what was not, and whether to go on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samvad import limits
from samvad.errors import InvalidId, InvalidRequest, TooLarge
from samvad.interruptions import rules

WORDS = st.lists(
    st.sampled_from(["home", "loans", "ऋण", "के", "লোন", "नमस्ते।", "x", "🏠"]), min_size=1, max_size=12
)
SPACES = st.sampled_from([" ", "  ", "\n", "\t ", " ", " \r\n"])


@st.composite
def spaced(draw: st.DrawFn) -> tuple[str, str]:
    """The same words twice, with other white space between them."""
    words = draw(WORDS)
    texts = ["".join(draw(SPACES) + word for word in words) + draw(SPACES) for _ in range(2)]
    return texts[0], texts[1]


def squeezed(text: str) -> str:
    return "".join(text.split())


@given(spaced(), st.data())
def test_heard_and_unheard_make_up_the_whole(texts: tuple[str, str], data: st.DataObject) -> None:
    """Where the heard text begins the full one, the two parts hold each character once, white space aside."""
    full, other = texts
    heard = other[: data.draw(st.integers(0, len(other)))]
    unheard = rules.unheard_rest(full, heard, 0.5)
    assert squeezed(heard) + squeezed(unheard) == squeezed(full)
    assert full.rstrip().endswith(unheard)


@given(st.text(min_size=1), st.data())
def test_an_exact_beginning_is_cut_where_it_ends(full: str, data: st.DataObject) -> None:
    """The rest after an exact beginning is the rest of the original, whatever its characters."""
    cut = data.draw(st.integers(0, len(full)))
    assert rules.unheard_rest(full, full[:cut], 0.5) == full[cut:].strip()


@given(st.text(), st.text(), st.floats(0, 1))
def test_the_rest_is_always_an_end_of_the_whole(full: str, heard: str, progress: float) -> None:
    """Nothing is offered again that the assistant did not set out to say."""
    unheard = rules.unheard_rest(full, heard, progress)
    assert full.rstrip().endswith(unheard)
    assert unheard == unheard.strip()


@pytest.mark.parametrize(
    ("full", "heard", "progress", "unheard"),
    [
        ("You need two documents", "You need", 0.4, "two documents"),
        ("You need two documents", "", 0.4, "You need two documents"),
        ("You need two documents", "   ", 0.4, "You need two documents"),
        ("You need two documents", "You need two documents", 1.0, ""),
        ("You need\n\n two  documents ", "You need two", 0.5, "documents"),
        ("You need two documents", "You  need tw", 0.5, "o documents"),
        ("You need two documents", "something else", 0.5, "two documents"),  # 11 is inside "two"
        (
            "You need two documents",
            "You need tw ",
            0.5,
            "two documents",
        ),  # no beginning: a word "tw" was heard
        ("You need two documents", "you need", 0.0, "You need two documents"),
        ("You need two documents", "you need", 1.0, ""),
        ("You need", "You need two documents", 1.0, ""),
        ("गृह ऋण के लिए दो काग़ज़ चाहिए।", "गृह  ऋण के लिए", 0.3, "दो काग़ज़ चाहिए।"),
        ("இரண்டு ஆவணங்கள் தேவை", "வேறு", 0.6, "ஆவணங்கள் தேவை"),
    ],
)
def test_the_unheard_rest(full: str, heard: str, progress: float, unheard: str) -> None:
    """The rest follows a heard beginning; otherwise it starts with the word at the progress."""
    assert rules.unheard_rest(full, heard, progress) == unheard


@given(st.text(alphabet="ab \n", max_size=20), st.integers(-2, 22))
def test_a_word_is_never_cut(text: str, position: int) -> None:
    """The place snapped to is at or before the one given, and not inside a word."""
    start = rules.word_start(text, position)
    assert 0 <= start <= max(0, min(position, len(text)))
    assert start in (0, len(text)) or text[start - 1].isspace() or text[start].isspace()
    assert text[start : max(start, position)].split() in ([], [text[start : max(start, position)].strip()])


@pytest.mark.parametrize(
    ("full", "heard", "played", "generated", "share"),
    [
        ("abcd", "a", None, None, 0.25),
        ("abcd", "a", 1000, 2000, 0.5),
        ("abcd", "a", 3000, 2000, 1.0),
        ("abcd", "a", 1000, 0, 0.25),
        ("abcd", "a", 1000, None, 0.25),
        ("abcd", "a", None, 2000, 0.25),
        ("abcd", "abcdefgh", None, None, 1.0),
        ("abcd", "", None, None, 0.0),
        ("abcd", "a", 0, 2000, 0.0),
    ],
)
def test_the_heard_share(
    full: str, heard: str, played: int | None, generated: int | None, share: float
) -> None:
    """Audio times give the share where both are known, else the lengths do; never more than all."""
    assert rules.heard_share(full, heard, played, generated) == share


@pytest.mark.parametrize(
    ("type_", "progress", "unheard", "expected"),
    [
        ("CLARIFICATION", 0.5, "rest", True),
        ("BARGE_IN", 0.5, "rest", True),
        ("CORRECTION", 0.5, "rest", False),
        ("URGENT", 0.5, "rest", False),
        ("CUT_OFF", 0.5, "rest", False),
        ("BACKCHANNEL", 0.5, "rest", False),
        ("NOISE", 0.5, "rest", False),
        ("BARGE_IN", 0.2, "rest", True),
        ("BARGE_IN", 0.19, "rest", False),
        ("BARGE_IN", 0.9, "rest", True),
        ("BARGE_IN", 0.91, "rest", False),
        ("BARGE_IN", 0.5, "", False),
    ],
)
def test_what_can_be_resumed(type_: str, progress: float, unheard: str, expected: bool) -> None:
    """Only what the user did not mean to stop, neither barely begun nor nearly done, with something left."""
    assert rules.can_resume(type_, progress, unheard) is expected


@pytest.mark.parametrize("text", ["a" * limits.INTERRUPTION_TEXT_BYTES_MAX, "क" * 21_845, ""])
def test_a_text_of_the_largest_size_passes(text: str) -> None:
    """The bound is on bytes of UTF-8, and is itself allowed."""
    assert rules.check_text("fullText", text) == len(text.encode())


@pytest.mark.parametrize(
    "text", ["a" * (limits.INTERRUPTION_TEXT_BYTES_MAX + 1), "क" * 21_846, "\ud800" * 70_000]
)
def test_a_larger_text_is_refused(text: str) -> None:
    """Over the bound, in whatever script, the text is too large and the error names it."""
    with pytest.raises(TooLarge, match="fullText is larger than 65536 bytes"):
        rules.check_text("fullText", text)


@pytest.mark.parametrize("value", [None, 1, 1.5, b"x", ["x"], {}])
def test_a_text_is_a_string(value: object) -> None:
    """Anything but a string is refused, by name."""
    with pytest.raises(InvalidRequest, match="heardText must be a string"):
        rules.check_text("heardText", value)


def test_half_a_surrogate_pair_is_refused() -> None:
    """What could not be written as UTF-8 later is refused at once."""
    with pytest.raises(InvalidRequest, match="not valid Unicode"):
        rules.check_text("heardText", "a\ud83d")


@pytest.mark.parametrize("value", ["", "x" * 257, "क" * 86, 7, None])
def test_an_id_has_a_length(value: object) -> None:
    """An id has 1 to 256 bytes."""
    with pytest.raises(InvalidId, match="sessionId must"):
        rules.check_id("sessionId", value)


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf"), "0.5", True, None, 10**400])
def test_a_progress_outside_its_range_is_refused(value: object) -> None:
    """Progress is a finite number from 0 to 1."""
    with pytest.raises(InvalidRequest, match="progress must be a number from 0 to 1"):
        rules.checked_progress(value)


@pytest.mark.parametrize("value", [-1, -0.5, float("nan"), float("inf"), "12", True, 10**400, 86_400_001])
def test_a_time_outside_its_range_is_refused(value: object) -> None:
    """A time of speech is a finite number of milliseconds, not negative, of a day at most."""
    with pytest.raises(InvalidRequest, match="playedMs must be a number of milliseconds"):
        rules.checked_ms("playedMs", value)


def test_fractions_of_a_millisecond_are_rounded() -> None:
    """Browsers report times of audio with fractions."""
    assert rules.checked_ms("playedMs", 1234.56) == 1235
