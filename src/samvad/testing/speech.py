"""Speech for tests: PCM16 that is loud where somebody speaks and carries its own words.

A fake server that "hears" such audio knows what was said without any recognition. The words lie in the lowest bits
of the samples, which changes nothing of the sound; the audio may be cut into chunks, and silence may come between.
"""

from __future__ import annotations

import array
import sys
from typing import Final

SAMPLE_RATE_IN: Final = 16_000  # Hz, what a client sends
SAMPLE_RATE_OUT: Final = 24_000  # Hz, what an assistant says
_LOUD: Final = 6_000
_LOUD_MIN: Final = 500  # mean of the samples' sizes above which somebody speaks
_MARK: Final = b"\xa5words"
_HALF_PERIOD: Final = 40  # samples: a tone of 200 Hz at 16 kHz


def speech(text: str, ms: int = 400, rate: int = SAMPLE_RATE_IN) -> bytes:
    """At least `ms` milliseconds of a voice (PCM16 LE mono) that says `text`."""
    said = text.encode()
    payload = _MARK + len(said).to_bytes(4, "big") + said
    count = max(rate * ms // 1000, 8 * len(payload))
    samples = array.array("h", [_LOUD if (i // _HALF_PERIOD) % 2 else -_LOUD for i in range(count)])
    for index, byte in enumerate(payload):
        for bit in range(8):
            samples[8 * index + bit] |= (byte >> bit) & 1
    return _bytes(samples)


def silence(ms: int, rate: int = SAMPLE_RATE_IN) -> bytes:
    """Nothing, for so long."""
    return bytes(2 * (rate * ms // 1000))


def chunks(audio: bytes, ms: int = 20, rate: int = SAMPLE_RATE_IN) -> list[bytes]:
    """The audio in pieces as a microphone gives them."""
    size = 2 * (rate * ms // 1000)
    return [audio[at : at + size] for at in range(0, len(audio), size)]


def is_loud(audio: bytes) -> bool:
    """Whether somebody speaks in this piece."""
    samples = _samples(audio)
    return bool(samples) and sum(map(abs, samples)) / len(samples) > _LOUD_MIN


def words_in(audio: bytes) -> list[str]:
    """What is said in this audio by `speech`, one text a call; an empty list where it is somebody else's."""
    bits = bytes(sample & 1 for sample in _samples(audio))
    mark = bytes((byte >> bit) & 1 for byte in _MARK for bit in range(8))
    found = []
    at = 0
    while (at := bits.find(mark, at)) >= 0:
        at += len(mark)
        size = int.from_bytes(_read(bits, at, 4), "big")
        found.append(_read(bits, at + 32, size).decode(errors="replace"))
        at += 32 + 8 * size
    return found


def _read(bits: bytes, at: int, size: int) -> bytes:
    """`size` bytes of what lies in the bits from `at` on; fewer where the audio was cut."""
    chosen = bits[at : at + 8 * size]
    eights = (chosen[i : i + 8] for i in range(0, len(chosen), 8))
    return bytes(sum(bit << place for place, bit in enumerate(eight)) for eight in eights)


def _samples(audio: bytes) -> array.array[int]:
    samples = array.array("h", audio[: len(audio) // 2 * 2])
    if sys.byteorder == "big":
        samples.byteswap()
    return samples


def _bytes(samples: array.array[int]) -> bytes:
    if sys.byteorder == "big":
        samples.byteswap()
    return samples.tobytes()
