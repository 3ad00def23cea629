"""What the user has said and no line has taken, or none has answered yet."""

from __future__ import annotations

from collections import deque
from typing import Final

from samvad import limits

AUDIO_BYTES_MAX: Final = limits.LIVE_PROVIDER_HEARD_BYTES_MAX  # while there is no line
# Of one utterance, where the client says when the user speaks.
UTTERANCE_BYTES_MAX: Final = limits.LIVE_PROVIDER_UTTERANCE_BYTES_MAX
SENDS_MAX: Final = limits.LIVE_PROVIDER_SENDS_MAX  # of one written turn that is not answered

Step = bytes | bool  # a piece of speech; or that the user begins (True) or ends (False) to speak


class Said:
    """A written turn of the user that is not answered yet."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.note: str | None = None  # what goes with it, each time
        self.sent = 0
        self.on_line = False  # sent on the line that stands

    def add_note(self, note: str | None) -> None:
        """Something for the model, with this turn."""
        if note:
            self.note = f"{self.note}\n{note}" if self.note else note


class Waiting:
    """The written turns, the speech and the note that are on their way to the model."""

    def __init__(self, client_activity: bool) -> None:
        self._client_activity = client_activity
        self.said: list[Said] = []
        self.speaking = False
        self._note: str | None = None
        self._steps: deque[Step] = deque()
        self._bytes = 0
        self._utterance: list[Step] | None = None  # to be said again where the line goes before it was heard
        self._utterance_bytes = 0

    @property
    def unsent(self) -> list[Said]:
        """The written turns that the line has not got."""
        return [said for said in self.said if not said.on_line]

    def say(self, text: str) -> None:
        """The user wrote something."""
        self.said.append(Said(text))

    def was_answered(self) -> None:
        """The model answers what it has got."""
        self.said = self.unsent
        self.was_heard()

    def was_heard(self) -> None:
        """The speech has arrived, at least in part: it is not to be said again."""
        self._utterance = None

    def add_note(self, note: str) -> None:
        """Something for the model, with the next turn."""
        self._note = f"{self._note}\n{note}" if self._note else note

    def take_note(self) -> str | None:
        """The note, which is now somebody else's."""
        note, self._note = self._note, None
        return note

    def give_back(self, note: str | None) -> None:
        """It could not be sent; it stands before what has come since."""
        if note is not None:
            later, self._note = self._note, note
            if later:
                self.add_note(later)

    def hear(self, data: bytes) -> None:
        """A piece of speech. What no line takes is kept within bounds: the oldest goes, of an utterance the newest."""
        if self._client_activity and self._bytes + len(data) > UTTERANCE_BYTES_MAX:
            return
        self._put(data)
        while self._bytes > AUDIO_BYTES_MAX and not self._client_activity:
            oldest = self._steps.popleft()
            self._bytes -= len(oldest) if isinstance(oldest, bytes) else 0

    def activity(self, speaking: bool) -> None:
        """The user begins or ends to speak."""
        if speaking:
            self._utterance, self._utterance_bytes = [], 0
        self.speaking = speaking
        self._put(speaking)

    def take_step(self) -> Step | None:
        """What of the speech goes out next, which is now somebody else's."""
        if not self._steps:
            return None
        step = self._steps.popleft()
        self._bytes -= len(step) if isinstance(step, bytes) else 0
        return step

    def give_step_back(self, step: Step) -> None:
        """It could not be sent."""
        self._steps.appendleft(step)
        self._bytes += len(step) if isinstance(step, bytes) else 0

    def line_went(self) -> list[Said]:
        """Nothing has arrived for sure: say it again. Returns what was said too often, and is given up."""
        given_up = [said for said in self.said if said.sent >= SENDS_MAX]
        self.said = [said for said in self.said if said.sent < SENDS_MAX]
        for said in self.said:
            said.on_line = False
        if self._utterance is not None:
            self._steps = deque(self._utterance)
            self._bytes = sum(len(step) for step in self._steps if isinstance(step, bytes))
        return given_up

    def _put(self, step: Step) -> None:
        self._steps.append(step)
        size = len(step) if isinstance(step, bytes) else 0
        self._bytes += size
        if self._client_activity and self._utterance is not None:
            self._utterance.append(step)
            self._utterance_bytes += size
            if self._utterance_bytes > UTTERANCE_BYTES_MAX:
                self._utterance = None
