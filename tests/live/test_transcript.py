"""Said, heard and unsaid: what of an answer was heard, at any moment of its playback."""

from __future__ import annotations

import random

import pytest

from samvad.live.transcript import Transcript, cluster_start, word_end

ENGLISH = (
    "For a home loan you need an identity card, and proof of your income for the last six months. The interest rate "
    "is eight and a half percent a year, and it is fixed for five years. You may pay it back earlier without a fee. "
    "The bank answers within ten working days, and pays out about a week after you have signed."
)
HINDI = (
    "होम लोन के लिए पहचान पत्र चाहिए, और पिछले छह महीनों की आय का प्रमाण भी। ब्याज दर साढ़े आठ प्रतिशत सालाना है, और पाँच साल तक "
    "वही रहती है। आप बिना किसी शुल्क के पहले भी चुका सकते हैं। बैंक दस दिनों में जवाब देता है, और हस्ताक्षर के लगभग एक हफ़्ते बाद पैसे देता है।"
)
TOLERANCE_MS = 150
TOLERANCE_CHARS = 15


class Speech:
    """Words with the moments at which they are spoken, to the millisecond: the truth."""

    def __init__(self, text: str, rng: random.Random) -> None:
        self.text = text
        self.words: list[tuple[int, int, float, float]] = []  # first character, last + 1, from ms, to ms
        at_ms, place = 0.0, 0
        for word in text.split():
            start = text.index(word, place)
            place = start + len(word)
            ms = len(word) * rng.uniform(55, 85)
            self.words.append((start, place, at_ms, at_ms + ms))
            at_ms += ms + rng.uniform(10, 60) + (180 if word[-1] in ".।" else 0)
        self.ms = at_ms

    def heard_chars(self, ms: float) -> int:
        """How many characters belong to the words that were spoken to their end."""
        return max((end for _, end, _, to_ms in self.words if to_ms <= ms), default=0)

    def began_chars(self, ms: float) -> int:
        """… and to those that had begun."""
        return max((end for _, end, from_ms, _ in self.words if from_ms <= ms), default=0)


def told(speech: Speech, rng: random.Random, words_first: bool, upto_ms: float) -> Transcript:
    """What a provider sends until `upto_ms` of audio: pieces of 20 ms, and a few words at a time with some jitter."""
    transcript = Transcript()
    sent_ms, word = 0.0, 0
    while sent_ms < upto_ms or word < len(speech.words):
        if word < len(speech.words):
            last = min(word + rng.randint(1, 3), len(speech.words)) - 1
            due_ms = speech.words[word][2] if words_first else speech.words[last][3]
            if sent_ms >= min(max(due_ms + rng.uniform(-60, 60), 0 if words_first else 20), speech.ms):
                start = speech.words[word][0] if word else 0
                end = speech.words[last + 1][0] if last + 1 < len(speech.words) else len(speech.text)
                transcript.add_text(speech.text[start:end])
                word = last + 1
                continue
        if sent_ms >= min(upto_ms, speech.ms):
            break
        ms = min(20.0, speech.ms - sent_ms)
        transcript.add_audio(ms)
        sent_ms += ms
    if sent_ms >= speech.ms:
        transcript.finish()
    return transcript


@pytest.mark.parametrize("words_first", [False, True])
@pytest.mark.parametrize("text", [ENGLISH, HINDI], ids=["en", "hi"])
def test_the_heard_text_is_true_at_50_positions(text: str, words_first: bool) -> None:
    """Within 150 ms of audio or 15 characters of the truth, at the end of a word; heard and unheard are the whole."""
    rng = random.Random(f"{text[:9]}{words_first}")
    for _ in range(50):
        speech = Speech(text, rng)
        played_ms = rng.uniform(0, speech.ms)
        generated_ms = min(speech.ms, played_ms + rng.choice([400.0, 2_000.0, speech.ms]))
        transcript = told(speech, rng, words_first, generated_ms)
        heard = transcript.heard(played_ms=played_ms)

        assert heard.source == "client" and heard.played_ms == round(played_ms)
        assert transcript.text.startswith(heard.text)
        assert " ".join(f"{heard.text} {heard.rest}".split()) == " ".join(transcript.text.split())
        rest = transcript.text[len(heard.text) :]
        assert not rest or not heard.text or rest[0].isspace(), "it ends at the end of a word"
        chars = len(heard.text)
        assert chars >= min(
            speech.heard_chars(played_ms - TOLERANCE_MS), speech.heard_chars(played_ms) - TOLERANCE_CHARS
        ), "nothing that was heard is lost"
        assert chars <= max(
            speech.began_chars(played_ms + TOLERANCE_MS), speech.began_chars(played_ms) + TOLERANCE_CHARS
        ), "nothing that was not heard is kept"


@pytest.mark.parametrize("text", [ENGLISH, HINDI], ids=["en", "hi"])
def test_written_text_is_heard_as_far_as_it_was_read(text: str) -> None:
    """At 50 positions of a written answer: within 15 characters, at the end of a word, never more than was read."""
    rng = random.Random(text[:9])
    for _ in range(50):
        transcript = Transcript()
        for word in text.split(" "):
            transcript.add_text(word + " ")
        at = rng.randrange(len(text))
        heard = transcript.heard(played_chars=at)
        assert text.startswith(heard.text) and at - TOLERANCE_CHARS <= len(heard.text) <= at
        assert " ".join(f"{heard.text} {heard.rest}".split()) == text


def test_no_report_can_say_more_than_was_delivered() -> None:
    """A client (or a clock) that is ahead of what it was sent is not believed."""
    transcript = Transcript()
    transcript.add_text("one two three four ")
    assert transcript.heard(played_chars=10_000, delivered_chars=8).text == "one two"
    assert transcript.heard(delivered_chars=8).source == "delivered"
    for _ in range(40):
        transcript.add_audio(20)
    transcript.finish()
    assert transcript.heard(played_ms=1e9, delivered_ms=400).text == "one two"
    assert transcript.heard(elapsed_ms=1e9, delivered_ms=400).source == "clock"
    assert transcript.heard(played_ms=-5).text == ""


def test_what_was_planned_is_the_rest() -> None:
    """Where the whole answer is known beforehand, the unheard part is all of what follows."""
    transcript = Transcript()
    transcript.planned = "one two three four"
    transcript.add_text("one two ")
    heard = transcript.heard(played_chars=5)
    assert (heard.text, heard.rest) == ("one", "two three four")
    assert heard.progress == pytest.approx(4 / 18)
    transcript.planned = "something else"
    assert transcript.heard(played_chars=5).rest == "two"


def test_nothing_said_is_nothing_heard() -> None:
    """An empty transcript has no halves."""
    heard = Transcript().heard(played_ms=100, elapsed_ms=100)
    assert (heard.text, heard.rest, heard.progress) == ("", "", 0.0)


def test_all_words_before_the_audio_are_spread_by_the_pace_of_speech() -> None:
    """A speech synthesiser gets its whole text first; the words are not all heard at once."""
    transcript = Transcript()
    transcript.add_text(ENGLISH)
    transcript.add_audio(2_000)
    assert 15 <= len(transcript.heard(played_ms=2_000).text) <= 45
    transcript.add_audio(18_000)
    transcript.finish()
    assert abs(len(transcript.heard(played_ms=10_000).text) - len(ENGLISH) / 2) < 20
    assert transcript.heard(played_ms=20_000).text == ENGLISH


@pytest.mark.parametrize(
    ("text", "position", "end"),
    [
        ("one two", 3, 3),
        ("one two", 2, 0),
        ("one two", 5, 4),
        ("one two", 7, 7),
        ("नमस्ते दुनिया", 4, 0),  # between a consonant and its vowel sign
        ("हाँ।नहीं तो", 5, 4),  # the danda needs no space behind it
        ("あ" * 60, 50, 50),
        ("क्षि" * 20, 42, 40),  # a long run without spaces is cut between syllables
    ],
)
def test_word_ends(text: str, position: int, end: int) -> None:
    """A word that is cut does not count."""
    assert word_end(text, position) == end


@pytest.mark.parametrize(
    ("text", "position", "start"), [("क्षि", 1, 0), ("क्षि", 2, 0), ("क्षि", 3, 0), ("कख", 1, 1), ("a", 5, 1)]
)
def test_syllables_are_whole(text: str, position: int, start: int) -> None:
    """A conjunct and its vowel sign belong together."""
    assert cluster_start(text, position) == start
