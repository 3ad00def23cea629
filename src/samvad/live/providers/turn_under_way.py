"""The turn under way: what a line's parts mean for the turn loop, whatever has become of the line.

Parts come in (`take`), events go out. It knows no line, no clock and no waiting; `LineSession` does all of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import msgspec

from samvad.live.providers import base
from samvad.live.providers.base import Event
from samvad.live.providers.line import Noise, NotResumable, Part, Usage
from samvad.live.providers.outbox import Outbox
from samvad.live.providers.waiting import Waiting

Role = Literal["user", "assistant"]
_ROLES: Final[tuple[Role, ...]] = ("user", "assistant")


class TurnUnderWay:
    """See the module. `changed` is called where somebody may have to look again: a turn ended, a line must be left."""

    def __init__(
        self, outbox: Outbox, waiting: Waiting, handle: str | None, changed: Callable[[], None]
    ) -> None:
        self._outbox = outbox
        self._waiting = waiting
        self._changed = changed
        self.active = False  # an answer is owed, or being given
        self.answering = False  # some of it has come
        self.discarding = False  # nobody wants the rest
        self.owed = False  # the line was asked for an answer
        self.noise = False  # something came that nobody understood, and nothing since
        self.calls: dict[str, str] = {}  # owed results: the function's name by the call's id
        self.unwanted: dict[str, str] = {}  # the same, of an answer that nobody wants
        self.handle = handle
        self.handle_is_fresh = handle is not None  # it knows all that was said
        self.leave_in_s: float | None = None  # the line must be left, in so long from when that was said
        self.turns_done = 0
        self._interrupted = False
        self._words: set[Role] = set()  # whose words were heard and not closed yet
        self._usage: dict[str, int] | None = None

    # --- what comes ----------------------------------------------------------------------------------------

    def take(self, part: Part) -> None:
        """One part of what the line has said."""
        match part:
            case base.Transcript(role="user"):
                self.active = True
                self._words.add("user")
                self._waiting.was_heard()
                self._outbox.put(part)
            case base.Transcript() | base.Delta() | base.Audio():
                self._answer(part)
            case base.ToolCall():
                self._call(part)
            case base.ToolCancelled(ids=ids):
                for call_id in ids:
                    self.calls.pop(call_id, None)
                self._outbox.put(part)
            case base.Interrupted():
                self._interrupt()
            case base.TurnDone():
                self._done(part)
            case base.Resumable(handle=handle):
                self.handle, self.handle_is_fresh = handle, True
                self._outbox.put(part)
                self._changed()
            case NotResumable():
                self.handle_is_fresh = False
            case Usage(counts=counts):
                self._usage = dict(counts)
            case base.GoingAway(in_s=in_s):
                self.leave_in_s = in_s
                self._outbox.put(part)
                self._changed()
            case Noise():
                self.noise = True
                self._changed()
            case base.Failed():
                self._waiting.was_answered()
                self._close_words()
                self.end()
                self._outbox.put(part)
            case _:
                self._outbox.put(part)

    def _answer(self, part: Event) -> None:
        """A piece of the assistant's answer."""
        self.noise = self.handle_is_fresh = False
        self.answering = True
        if self.discarding:
            return
        self.active = True
        self._waiting.was_answered()
        if isinstance(part, base.Transcript):
            self._words.add("assistant")
        self._outbox.put(part)

    def _call(self, call: base.ToolCall) -> None:
        (self.unwanted if self.discarding else self.calls)[call.id] = call.name
        self._answer(call)

    def _interrupt(self) -> None:
        self._interrupted = True
        if self.discarding:
            return
        if self.answering:
            self._outbox.drop_audio()
            self._outbox.put(base.Interrupted())
        self._close_words()  # what comes now belongs to the next turn

    def _done(self, done: base.TurnDone) -> None:
        self.turns_done += 1
        interrupted, self._interrupted = self._interrupted, False
        if not interrupted and not self.discarding:
            self._waiting.was_answered()
            self._close_words()
        usage = done.usage or self._usage
        # An interrupted turn that has said nothing, while another is on its way, is nobody's.
        is_nobodys = self.discarding or (interrupted and not self.answering and bool(self._waiting.said))
        self.end()
        if not is_nobodys:
            self._outbox.put(msgspec.structs.replace(done, usage=usage))

    # --- what the user and the session do --------------------------------------------------------------------

    def begin(self) -> None:
        """The user has said something that wants an answer."""
        if self.discarding and not self.answering:
            self.discarding = False  # nothing of the unwanted answer has come: it may never be begun
        self.active = True
        self.handle_is_fresh = False
        self._changed()

    def interrupt(self) -> bool:
        """The user stops the answer: it is over, and the rest of it is dropped. False where there is none."""
        if self.discarding or not (self.answering or self.owed or self._waiting.said):
            return False
        self.discarding = self.answering or self.owed  # else no line knows of it
        self._outbox.drop_audio()
        self._close_words()
        self._waiting.said.clear()
        self.unwanted.update(self.calls)
        self._cancel_calls()
        self._outbox.put(base.TurnDone(usage=self._usage))
        if not self.discarding:
            self.end()
        return True

    def give_up(self) -> bool:
        """End a turn for which nothing comes; False where there was something to answer.

        A noise, taken for speech by the client, is no reason to dial again.
        """
        if self._waiting.said or self.answering or self._words or self.noise:
            return False
        self.end()
        self._outbox.put(base.TurnDone())
        return True

    def line_went(self) -> None:
        """The line is gone: an answer in its middle is over, and nobody waits for results any more."""
        self._cancel_calls()
        self.unwanted.clear()
        if self.discarding:
            self.end()
        elif self.answering or self._words:
            self._close_words()
            self._fail("The connection to the live provider was lost in the middle of the answer.")
        for said in self._waiting.line_went():
            self._fail(f"The live provider was lost {said.sent} times before it answered.")
        self.answering = self.owed = self.noise = self._interrupted = False
        self.leave_in_s = None
        self._usage = None

    def end(self) -> None:
        """This turn is over; where the user has said more already, the next has begun."""
        self.active = bool(self._waiting.said)
        self.owed = any(said.on_line for said in self._waiting.said)
        self.answering = self.discarding = self.noise = False
        self._usage = None
        self._changed()

    @property
    def is_idle(self) -> bool:
        """Whether nobody speaks and nobody is waited for."""
        return not (self.active or self.calls or self._waiting.speaking or self._waiting.said)

    def _cancel_calls(self) -> None:
        if self.calls:
            self._outbox.put(base.ToolCancelled(tuple(self.calls)))
            self.calls.clear()

    def _fail(self, message: str) -> None:
        self.end()
        self._outbox.put(base.Failed(code="provider_lost", message=message, retryable=True))

    def _close_words(self) -> None:
        for role in _ROLES:
            if role in self._words:
                self._outbox.put(base.Transcript(role=role, text="", final=True))
        self._words.clear()
