"""In which language somebody writes or speaks, and what providers call the languages.

Samvad keeps short codes (`hi`); providers want tags with a region (`hi-IN`). With `auto` the language follows what the
user writes: the script tells most languages of India, words tell Hindi and Marathi apart, and Hindi in Latin letters
from English.
"""

from __future__ import annotations

from typing import Final

from samvad.interruptions.lexicon import folded

AUTO: Final = "auto"

# The language of each script, by the first code point of its Unicode block; blocks are of 128.
_SCRIPTS: Final = {
    0x0900: "hi",
    0x0980: "bn",
    0x0A00: "pa",
    0x0A80: "gu",
    0x0B00: "or",
    0x0B80: "ta",
    0x0C00: "te",
    0x0C80: "kn",
    0x0D00: "ml",
}
_DANDAS: Final = "।॥"  # in the block of Devanagari, but written in other scripts too


def _words(text: str) -> frozenset[str]:
    return frozenset(word for line in text.splitlines() for word in folded(line).split())


# Frequent words that only one of two languages has; compared as `folded` makes them.
_MARATHI: Final = _words(
    """
    आहे आहेत आहात आहेस नाही मला माझा माझी माझे माझं माझ्या तुम्ही तुमचा तुमची तुमचे तुमचं तुमच्या मी आम्ही
    आमचा आमची काय कसा कशी कसे कसं कुठे कधी किती कोण कोणता कोणती कोणते आणि पण किंवा होता होती होते हवे हवं
    हवा हवी पाहिजे सांगा सांग द्या घ्या करा झाले झालं झाला नको बद्दल साठी मध्ये हे ते ती तो हो बरं त्या ह्या
    याचा याची याचे त्याचा करायचं करायचे जायचं मिळेल शकतो शकता येईल थांबा पुढे
    """
)
_HINDI: Final = _words(
    """
    है हैं हूँ हो था थी थे नहीं मुझे मेरा मेरी मेरे आप आपका आपकी आपके मैं हम हमारा क्या कैसे कैसा कहाँ कब
    कितना कितनी कितने कौन और लेकिन चाहिए बताओ बताइए बताएं दीजिए कीजिए करो करना का की के को से में पर यह वह
    ये वो इसका उसका रहा रही रहे गया गई लिए बारे रुको आगे जी हाँ
    """
)
_ROMAN_HINDI: Final = _words(
    """
    hai hain hoon hun kya kyun kyon kaise kaisa kaisi kahan kab kitna kitni kitne kaun mujhe mera meri mere
    aap aapka aapki tum tumhara main mai hum humara nahi nahin nhi haan accha achha acha theek thik chahiye
    batao bataiye bataye dijiye kijiye karo karna karu karun ka ki ke ko se mein pe par yeh woh iska uska
    raha rahi rahe gaya gayi liye bare baare ruko bolo boliye aage abhi kal aaj bahut thoda zyada paisa
    paise lekin aur matlab samajh wala wali bhai yaar ji jaldi phir fir kuch koi sab bhi toh hota hoti hote
    sakta sakti sakte lagega lagta chal chalo dekho suno bas
    """
)
_ROMAN_ALSO_ENGLISH: Final = _words("main hum par ki ke ka ko se pe fir chal sab kal hun bas are")
_ENGLISH: Final = _words(
    """
    the a an is are was were am i you he she it we they my your his her our their this that these those what
    which who how when where why do does did not no yes can could will would should shall may of to in on at
    for with from about and or but if me please tell have has had be been there here need want know much many
    """
)

_REGIONS: Final = {
    "en": "en-IN",
    "hi": "hi-IN",
    "ta": "ta-IN",
    "te": "te-IN",
    "bn": "bn-IN",
    "mr": "mr-IN",
    "gu": "gu-IN",
    "kn": "kn-IN",
    "ml": "ml-IN",
    "pa": "pa-Guru-IN",
    "or": "or-IN",
}


def language_of(text: str, before: str | None = None) -> str | None:
    """The language of a text as a short code; None where nothing tells.

    `before` is the language so far: it decides where the words leave Hindi and Marathi open, and a few words in
    Latin letters ("ok", "EMI") do not change it.
    """
    counts: dict[str, int] = {}
    latin = 0
    for character in text:
        if "a" <= character.lower() <= "z":
            latin += 1
        elif (language := _SCRIPTS.get(ord(character) & ~0x7F)) and character not in _DANDAS:
            counts[language] = counts.get(language, 0) + 1
    before = None if before is None else before.lower().replace("_", "-").partition("-")[0]
    # A word of an Indian script among Latin names of things ("मेरा home loan EMI") is what the sentence is in.
    if counts and max(counts.values()) * 3 >= latin:
        found = max(counts, key=counts.__getitem__)
        return _of_devanagari(text, before) if found == "hi" else found
    return _of_latin(text, before) if latin else None


def tag_for_providers(language: str | None) -> str | None:
    """The BCP 47 tag that speech providers know a short code by: `hi` gives `hi-IN`.

    A tag with a region stays as it is; None and `auto` give None: the provider is to find out by itself.
    """
    if language is None or language.lower() == AUTO:
        return None
    return _REGIONS.get(language.lower(), language)


def _of_devanagari(text: str, before: str | None) -> str:
    words = folded(text).split()
    marathi = sum(word in _MARATHI and word not in _HINDI for word in words)
    hindi = sum(word in _HINDI and word not in _MARATHI for word in words)
    # Letters and endings that Hindi does not have.
    marathi += text.count("ळ") + sum(
        word.endswith(("च्या", "मध्ये", "साठी", "ाचं", "ायचं", "ायचे")) for word in words
    )
    if marathi == hindi:
        return "mr" if before == "mr" else "hi"
    return "mr" if marathi > hindi else "hi"


def _of_latin(text: str, before: str | None) -> str | None:
    words = folded(text).split()
    sure = sum(word in _ROMAN_HINDI and word not in _ROMAN_ALSO_ENGLISH for word in words)
    hindi = sure + sum(word in _ROMAN_ALSO_ENGLISH for word in words) if sure else 0
    english = sum(word in _ENGLISH for word in words)
    if hindi > english or (hindi and hindi == english and before == "hi"):
        return "hi"
    if english or len(words) > 3:
        return "en" if english or before is None else None
    return None
