"""What is recorded of an interruption: pure rules, from what a caller reports to an `Interruption`'s fields.

The rules are those of live conversation: the assistant speaks faster than it is heard, so what was said is
split into what the user heard and the rest, and the rest may be offered again.
"""

from __future__ import annotations

from typing import Final, get_args

from samvad import limits
from samvad.errors import InvalidId, InvalidRequest, TooLarge
from samvad.types import HeardSource, InterruptionType

INTERRUPTION_TYPES: Final[tuple[str, ...]] = get_args(InterruptionType)
HEARD_SOURCES: Final[tuple[str, ...]] = get_args(HeardSource)

NOT_INTERRUPTING: Final = frozenset({"BACKCHANNEL", "NOISE"})
"""Types after which the assistant goes on speaking: "haan", a cough. Recorded, but nothing was cut off."""

NOT_RESUMABLE: Final = frozenset({"CORRECTION", "URGENT", "CUT_OFF"}) | NOT_INTERRUPTING
"""Types after which the unheard rest is not offered again."""

PROGRESS_RESUMABLE_MIN: Final = 0.2
PROGRESS_RESUMABLE_MAX: Final = 0.9
SPEECH_MS_MAX: Final = 24 * 3600 * 1000
LANGUAGE_CHARS_MAX: Final = 64
TOPIC_CHARS_MAX: Final = 80  # of a topic as counted, told to the model and spoken


def check_text(name: str, text: object) -> int:
    """The size of a text in bytes of UTF-8, or the error that names it.

    Raises InvalidRequest if it is no string or no valid Unicode, TooLarge if it is over
    `limits.INTERRUPTION_TEXT_BYTES_MAX`.
    """
    if not isinstance(text, str):
        raise InvalidRequest(f"{name} must be a string.")
    size = len(text)
    if size <= limits.INTERRUPTION_TEXT_BYTES_MAX and not text.isascii():
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise InvalidRequest(f"{name} is not valid Unicode: it holds half of a surrogate pair.") from None
    if size > limits.INTERRUPTION_TEXT_BYTES_MAX:
        raise TooLarge(f"{name} is larger than {limits.INTERRUPTION_TEXT_BYTES_MAX} bytes of UTF-8.")
    return size


def check_id(name: str, value: object) -> None:
    """Whether a value can be an id: 1 to 256 bytes; the finer rules are the session service's.

    Raises InvalidId.
    """
    if not isinstance(value, str):
        raise InvalidId(f"{name} must be a string.")
    if not 0 < check_text(name, value) <= limits.ID_BYTES_MAX:
        raise InvalidId(f"{name} must have 1 to {limits.ID_BYTES_MAX} bytes of UTF-8.")


def check_language(language: object) -> None:
    """Whether a value can be a language tag (BCP 47). Raises InvalidRequest."""
    check_text("language", language)
    if len(str(language)) > LANGUAGE_CHARS_MAX:
        raise InvalidRequest(
            f"language must be a tag such as 'hi-IN', of at most {LANGUAGE_CHARS_MAX} characters."
        )


def checked_progress(progress: object) -> float:
    """A reported share of the answer that was heard, 0.0 to 1.0. Raises InvalidRequest."""
    if isinstance(progress, bool) or not isinstance(progress, int | float) or not 0 <= progress <= 1:
        raise InvalidRequest("progress must be a number from 0 to 1.")
    return float(progress)


def checked_ms(name: str, ms: object) -> int:
    """A reported time of speech in whole milliseconds; fractions, as audio clocks give them, are rounded.

    Raises InvalidRequest if it is no number from 0 to a day's milliseconds.
    """
    if isinstance(ms, bool) or not isinstance(ms, int | float) or not 0 <= ms <= SPEECH_MS_MAX:
        raise InvalidRequest(f"{name} must be a number of milliseconds from 0 to {SPEECH_MS_MAX}.")
    return round(ms)


def heard_share(full_text: str, heard_text: str, played_ms: int | None, generated_ms: int | None) -> float:
    """The heard share of the answer, 0.0 to 1.0: by the audio's times if both are known, else by length.

    `full_text` must not be empty. Lengths are in characters (code points), whatever the script.
    """
    if played_ms is not None and generated_ms:
        return min(played_ms / generated_ms, 1.0)
    return min(len(heard_text) / len(full_text), 1.0)


def unheard_rest(full_text: str, heard_text: str, progress: float) -> str:
    """What of `full_text` was not heard, without white space at its ends; "" if all was.

    Where `heard_text` begins `full_text` (runs of white space compare as equal) the rest is what follows it.
    Where it does not, as with a transcript of another wording, the rest begins at `progress`, snapped back to
    the start of a word.
    """
    cut = prefix_end(full_text, heard_text)
    if cut is None:
        cut = word_start(full_text, int(progress * len(full_text)))
    return full_text[cut:].strip()


def prefix_end(full_text: str, heard_text: str) -> int | None:
    """Where in `full_text` its beginning `heard_text` ends; None if it does not begin so.

    Runs of white space compare as equal, and white space at the start does not count.
    """
    if full_text.startswith(heard_text):
        return len(heard_text)
    heard_words = heard_text.split()
    if not heard_words:
        return 0
    last_word = heard_words.pop()
    # The last part keeps the white space of the original, and so gives the place in it.
    parts = full_text.split(None, len(heard_words))
    if len(parts) <= len(heard_words):
        return None
    tail = parts.pop()
    if parts != heard_words or not tail.startswith(last_word):
        return None
    end = len(full_text) - len(tail) + len(last_word)
    if end < len(full_text) and heard_text[-1].isspace() and not full_text[end].isspace():
        return None
    return end


def word_start(text: str, position: int) -> int:
    """The start of the word that `position` lies in; `position` itself between words and at the end."""
    if position <= 0 or position >= len(text):
        return max(0, min(position, len(text)))
    if text[position].isspace() or text[position - 1].isspace():
        return position
    return position - len(text[:position].rsplit(None, 1)[-1])


def can_resume(type: str, progress: float, unheard_text: str) -> bool:
    """Whether the unheard rest is worth offering again, by the type, the share heard and what is left."""
    return (
        type not in NOT_RESUMABLE
        and PROGRESS_RESUMABLE_MIN <= progress <= PROGRESS_RESUMABLE_MAX
        and unheard_text != ""
    )
