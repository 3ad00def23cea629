"""Word lists by which a short utterance is understood: data in `languages/`, the table `listening` of each file.

An entry is one or more words, written as people write them; case, punctuation and other spellings of the same
sound (`folded`) do not count. In an entry `*` stands for the rest of a word, or alone for a whole word. The keys:

- `backchannel`, `murmur`: words that say "I listen", with and without assent in them ("haan", "hmm");
- `filler`: words that change nothing ("please", "yaar"); `noise`: sounds that are no words;
- `resume`, `stop`: whole utterances, with fillers around them; `stop_anywhere`: wherever they stand;
- `urgent`: wherever it stands, unless `calm` does too; `urgent_whole`: whole utterances;
- `correction`: wherever it stands; `negation`: at the start; `contrast`: "not X, Y" and "X nahi, Y";
- `question`: wherever it stands; `question_start`: at the start; `question_endings`: of the last word, unless it is
  one of `not_questions`.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Final

import msgspec

from samvad.interruptions.phrases import FOLDER

TEXT_CHARS_MAX: Final = 400
"""Of a longer utterance only the beginning is looked at: what it is shows in its first words."""

_FOLDS: Final = {
    **dict.fromkeys(map(ord, "'’‘`"), None),
    0x093C: None,  # nukta of Devanagari: often left out
    0x0901: 0x0902,  # chandrabindu: often written as anusvara
    0x0A01: 0x0A02,
    0x200C: None,
    0x200D: None,
}
_DRAWN_OUT: Final = re.compile(r"(.)\1{2,}")


class Listening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The word lists of one language, or of several joined; see the module for the keys."""

    backchannel: tuple[str, ...]
    murmur: tuple[str, ...]
    filler: tuple[str, ...]
    noise: tuple[str, ...]
    resume: tuple[str, ...]
    stop: tuple[str, ...]
    stop_anywhere: tuple[str, ...]
    urgent: tuple[str, ...]
    urgent_whole: tuple[str, ...]
    calm: tuple[str, ...]
    correction: tuple[str, ...]
    negation: tuple[str, ...]
    contrast: tuple[str, ...]
    question: tuple[str, ...]
    question_start: tuple[str, ...]
    question_endings: tuple[str, ...]
    not_questions: tuple[str, ...]


@cache
def listening(language: str) -> Listening:
    """The lists of one language as they are written; reads a small file of the package once."""
    tables = tomllib.loads((FOLDER / f"{language}.toml").read_text(encoding="utf-8"))
    return msgspec.convert(tables["listening"], Listening)


def folded(text: str) -> str:
    """A text as words with one space between, in the form in which entries are compared.

    Punctuation (the danda too) becomes space, letters their small and composed form; drawn-out ones ("okaaay")
    are shortened, and signs that writers often leave out are.
    """
    text = unicodedata.normalize("NFC", text[:TEXT_CHARS_MAX]).casefold().translate(_FOLDS)
    letters = [character if unicodedata.category(character)[0] in "LMN" else " " for character in text]
    return " ".join(_DRAWN_OUT.sub(r"\1", "".join(letters)).split())


class Words:
    """Entries made ready for comparing with folded text; longer ones are tried first.

    Groups are atomic (they never try again in another way), so that no text takes long.
    """

    def __init__(self, *lists: Iterable[str]) -> None:
        entries = {_pattern(entry) for entries in lists for entry in entries}
        entries.discard("")
        longest_first = sorted(entries, key=lambda entry: (-entry.count(" "), -len(entry), entry))
        # The empty list matches nothing.
        one_of = f"(?>{'|'.join(longest_first)})" if longest_first else "(?!)"
        self._one = re.compile(one_of + r"(?=\s|$)\s?")
        self._all = re.compile(f"(?>{one_of}(?=\\s|$)\\s?)+")
        self._anywhere = re.compile(rf"(?<!\S){one_of}(?!\S)")

    def fill(self, text: str) -> bool:
        """Whether the text consists of entries and of nothing else; the empty one does not."""
        return self._all.fullmatch(text) is not None

    def fill_with(self, core: Words, text: str) -> bool:
        """Whether the text consists of entries, at least one of them an entry of `core` too."""
        return self.fill(text) and any(core.fill(match[0].strip()) for match in self._one.finditer(text))

    def found_in(self, text: str) -> bool:
        """Whether an entry stands somewhere in the text."""
        return self._anywhere.search(text) is not None

    def kinds_in(self, text: str) -> int:
        """How many different entries stand in a text that they fill."""
        return len({match[0].strip() for match in self._one.finditer(text)})

    def start(self, text: str) -> int:
        """Where in the text its first entry ends; 0 if it does not begin with one."""
        match = self._one.match(text)
        return match.end() if match else 0

    def starts(self, text: str) -> int:
        """Where in the text the run of entries at its beginning ends."""
        match = self._all.match(text)
        return match.end() if match else 0


def _pattern(entry: str) -> str:
    words = []
    for written in entry.split():
        word = folded(written.strip("*"))
        if "*" not in written:
            words += [re.escape(part) for part in word.split()]
        elif not word:
            words.append(r"\S+")
        else:
            words.append(
                (r"\S*" if written[0] == "*" else "")
                + re.escape(word)
                + (r"\S*" if written[-1] == "*" else "")
            )
    return " ".join(words)


class Lexicon:
    """What utterances in some languages, mixed as people mix them, are compared with."""

    def __init__(self, lists: Iterable[Listening]) -> None:
        tables = tuple(lists)

        def words(*keys: str) -> Words:
            return Words(*(getattr(table, key) for table in tables for key in keys))

        self.noise = words("noise")
        self.murmurs = words("murmur", "noise", "filler")
        self.backchannels = words("backchannel", "murmur", "filler", "noise")
        self.counted = words("backchannel", "murmur")
        self.resume = words("resume")
        self.resumes = words("resume", "backchannel", "murmur", "filler", "noise")
        self.stop = words("stop")
        self.stops = words("stop", "backchannel", "murmur", "filler", "noise", "negation")
        self.stop_anywhere = words("stop_anywhere")
        self.urgent = words("urgent")
        self.urgent_whole = words("urgent_whole")
        self.urgent_wholes = words("urgent_whole", "stop", "filler", "murmur", "noise")
        self.calm = words("calm")
        self.correction = words("correction")
        self.lead = words("backchannel", "murmur", "filler", "noise", "stop")
        self.negation = words("negation")
        self.contrast = words("contrast")
        self.question = words("question")
        self.question_start = words("question_start")
        self.question_endings = tuple(end for table in tables for end in table.question_endings)
        self.not_questions = frozenset(folded(word) for table in tables for word in table.not_questions)


@lru_cache(maxsize=32)
def lexicon(languages: tuple[str, ...]) -> Lexicon:
    """The lexicon of several languages together; made once, in some milliseconds."""
    return Lexicon(map(listening, languages))
