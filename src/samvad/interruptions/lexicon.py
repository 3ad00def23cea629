"""Word lists by which a short utterance is understood: data in `languages/`, the table `listening` of each file.

An entry is one or more words, written as people write them; case, punctuation and other spellings of the same
sound (`folded`) do not count. In an entry `*` stands for the rest of a word, or alone for a whole word. The keys:

- `backchannel`, `murmur`: words that say "I listen", with and without assent in them ("haan", "hmm");
- `filler`: words that change nothing ("please", "yaar"); `noise`: sounds that are no words;
- `resume`, `stop`: whole utterances, with fillers around them; `stop_anywhere`: wherever they stand;
- `request`: ways to ask for something, before a `stop`; `stop_object`: what is stopped ("band karo ye");
- `urgent`: wherever it stands, unless `calm` does too; `urgent_whole`: whole utterances;
- `correction`: wherever it stands; `negation`: at the start; `contrast`: "not X, Y" and "X nahi, Y", without a comma
  too, unless one of `not_contrasts` stands there ("mujhe nahi pata": who and what is said of them);
- `question`: wherever it stands; `question_start`: at the start; `question_endings`: of the last word, unless it is
  one of `not_questions`.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Sequence
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
    request: tuple[str, ...] = ()
    stop_object: tuple[str, ...] = ()
    not_contrasts: tuple[str, ...] = ()


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


Entry = tuple[str, ...]


class Words:
    """Entries made ready for comparing with folded text; longer ones are tried first, and none is tried again.

    They are kept by their first word, so that a list takes no time to make ready and a text none to be looked at: a
    regular expression of all entries takes a fifth of a second to compile, in which a server answers nobody.
    """

    def __init__(self, *lists: Iterable[str]) -> None:
        entries = {_entry(written) for entries in lists for written in entries}
        entries.discard(())
        self._plain: dict[str, list[Entry]] = {}
        self._open: list[Entry] = []  # those that begin with a `*`, or with a word that ends in one
        for entry in sorted(entries, key=_length, reverse=True):
            if "*" in entry[0]:
                self._open.append(entry)
            else:
                self._plain.setdefault(entry[0], []).append(entry)

    def _match(self, words: Sequence[str], at: int) -> int:
        """How many words the longest entry takes that stands at a place; 0 where there is none."""
        found: Entry = ()
        for entry in self._plain.get(words[at], ()):
            if _stands(entry, words, at):
                found = entry
                break
        for entry in self._open:
            if found and _length(entry) <= _length(found):
                break
            if _fits(entry[0], words[at]) and _stands(entry, words, at):
                found = entry
                break
        return len(found)

    def _run(self, words: Sequence[str]) -> list[str] | None:
        """The entries of which a text consists; None where it holds something else."""
        entries, at = [], 0
        while at < len(words):
            taken = self._match(words, at)
            if not taken:
                return None
            entries.append(" ".join(words[at : at + taken]))
            at += taken
        return entries

    def fill(self, text: str) -> bool:
        """Whether the text consists of entries and of nothing else; the empty one does not."""
        return bool(self._run(text.split()))

    def fill_with(self, core: Words, text: str) -> bool:
        """Whether the text consists of entries, at least one of them an entry of `core` too."""
        return any(core.fill(entry) for entry in self._run(text.split()) or ())

    def found_in(self, text: str) -> bool:
        """Whether an entry stands somewhere in the text."""
        words = text.split()
        return any(self._match(words, at) for at in range(len(words)))

    def kinds_in(self, text: str) -> int:
        """How many different entries stand in a text that they fill."""
        return len(set(self._run(text.split()) or ()))

    def start(self, text: str) -> int:
        """Where in the text the word behind its first entry begins; 0 if it does not begin with one."""
        words = text.split()
        return _behind(words, self._match(words, 0)) if words else 0

    def starts(self, text: str) -> int:
        """Where in the text the word behind the run of entries at its beginning begins."""
        words, at = text.split(), 0
        while at < len(words) and (taken := self._match(words, at)):
            at += taken
        return _behind(words, at)


@cache
def _entry(written: str) -> Entry:
    """An entry as words, folded; `*` stays at the ends of those that have it."""
    words: list[str] = []
    for piece in written.split():
        parts = folded(piece.strip("*")).split()
        if "*" in piece:
            parts = parts or [""]
            parts[0] = ("*" if piece[0] == "*" else "") + parts[0]
            parts[-1] += "*" if piece[-1] == "*" and parts[-1] != "*" else ""
        words += parts
    return tuple(words)


def _length(entry: Entry) -> tuple[int, int]:
    return len(entry), sum(map(len, entry))


def _stands(entry: Entry, words: Sequence[str], at: int) -> bool:
    """Whether an entry's words are those at a place."""
    if at + len(entry) > len(words):
        return False
    return all(
        wanted == word or ("*" in wanted and _fits(wanted, word))
        for wanted, word in zip(entry, words[at : at + len(entry)], strict=True)
    )


def _fits(wanted: str, word: str) -> bool:
    bare = wanted.strip("*")
    if wanted[0] == "*":
        return bare in word if wanted[-1] == "*" else word.endswith(bare)
    return word.startswith(bare)


def _behind(words: Sequence[str], count: int) -> int:
    """The place of the word with this number in the text of which these are the words."""
    return sum(map(len, words[:count])) + count - (count == len(words) and count > 0)


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
        self.stops = words("stop", "backchannel", "murmur", "filler", "noise", "negation", "stop_object")
        self.request = words("request")
        self.asking = words("request", "backchannel", "murmur", "filler", "noise")
        self.stop_anywhere = words("stop_anywhere")
        self.urgent = words("urgent")
        self.urgent_whole = words("urgent_whole")
        self.urgent_wholes = words("urgent_whole", "stop", "filler", "murmur", "noise")
        self.calm = words("calm")
        self.correction = words("correction")
        self.lead = words("backchannel", "murmur", "filler", "noise", "stop")
        self.negation = words("negation")
        self.contrast = words("contrast")
        self.not_contrasts = words("not_contrasts")
        self.around = words("backchannel", "murmur", "filler", "noise")
        self.question = words("question")
        self.question_start = words("question_start")
        self.question_endings = tuple(end for table in tables for end in table.question_endings)
        self.not_questions = frozenset(folded(word) for table in tables for word in table.not_questions)


@lru_cache(maxsize=32)
def lexicon(languages: tuple[str, ...]) -> Lexicon:
    """The lexicon of several languages together; made once, in some milliseconds."""
    return Lexicon(map(listening, languages))
