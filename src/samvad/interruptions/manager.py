"""The last interruptions of each session, in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, cast

from msgspec.structs import replace

from samvad import limits
from samvad.clock import Clock, SystemClock, rfc3339, uuid7
from samvad.errors import InvalidRequest, MissingFields
from samvad.interruptions import phrases, rules, snippet
from samvad.interruptions.patterns import InterruptionPatterns, RunningCounts
from samvad.types import HeardSource, Interruption, InterruptionStatus, InterruptionType

EXPIRES_AFTER_S: Final = 24 * 3600
INTERRUPTIONS_BYTES_MAX: Final = 256 * 1024 * 1024
SESSION_OVERHEAD_BYTES: Final = 1_600
INTERRUPTION_OVERHEAD_BYTES: Final = 700

SessionKey = tuple[str, str]
"""Tenant and session id."""

Interruptions = list[Interruption]


class _Held:
    """An interruption on a stack: when it was pushed (monotonic seconds) and the memory it takes in bytes."""

    __slots__ = ("interruption", "pushed_s", "size_bytes")

    def __init__(self, interruption: Interruption, pushed_s: float, size_bytes: int) -> None:
        self.interruption = interruption
        self.pushed_s = pushed_s
        self.size_bytes = size_bytes


class _SessionStack:
    """What is kept of one session: its user, its last interruptions (newest last), the running counts."""

    __slots__ = ("counts", "held", "size_bytes", "user_id")

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.held: list[_Held] = []
        self.counts = RunningCounts()
        self.size_bytes = 0


class InterruptionContextManager:
    """Where the assistant was cut off: per session a stack of the last 3 interruptions, the newest on top.

    Everything is in memory and synchronous, without I/O (`resume_phrase` reads a small data file of this
    package once per language). It is used from one event loop and is not safe to share between threads.

    Memory is bounded: by interruptions per session, by bytes per text, by sessions and by bytes over all.
    Beyond the last two the least recently used sessions are dropped. An interruption that is still pending
    after more than `expires_after_s` seconds has the status `expired` when it is next looked at.

    A session has one user. The session service decides whose a session is; where it hands a session to
    another user, the first push of that user drops what was kept for the one before. Tenants share nothing.

    `new_id` makes the id of an interruption from the wall clock's milliseconds.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        sessions_max: int = limits.INTERRUPTION_SESSIONS_MAX,
        expires_after_s: float = EXPIRES_AFTER_S,
        new_id: Callable[[int], str] = uuid7,
        *,
        bytes_max: int = INTERRUPTIONS_BYTES_MAX,
    ) -> None:
        if sessions_max < 1 or bytes_max < 1 or not expires_after_s > 0:
            raise ValueError("sessions_max, bytes_max and expires_after_s must be greater than 0")
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._sessions_max = sessions_max
        self._bytes_max = bytes_max
        self._expires_after_s = expires_after_s
        self._new_id = new_id
        self._sessions: OrderedDict[SessionKey, _SessionStack] = OrderedDict()
        self._sessions_of_user: dict[tuple[str, str], set[SessionKey]] = {}
        self._size_bytes = 0

    @property
    def session_count(self) -> int:
        """Sessions that something is kept of."""
        return len(self._sessions)

    @property
    def size_bytes(self) -> int:
        """The memory in use, in bytes: an estimate, rather too high than too low."""
        return self._size_bytes

    def push(
        self,
        session_id: str,
        user_id: str,
        *,
        type: str,
        full_text: str,
        heard_text: str,
        turn_id: str | None = None,
        progress: float | None = None,
        played_ms: float | None = None,
        generated_ms: float | None = None,
        user_utterance: str | None = None,
        language: str | None = None,
        topic: str | None = None,
        heard_source: str | None = None,
        tenant: str = "default",
    ) -> Interruption:
        """Record that the assistant was interrupted, and forget the oldest of the session beyond 3.

        `full_text` is what the assistant set out to say, `heard_text` what of it the user heard. `progress`
        is the heard share, 0 to 1; without it `played_ms` of `generated_ms` (milliseconds of audio, rounded
        to whole ones) give it, else the lengths of the texts. `heard_source` says who knows what was heard;
        without it `client` where `played_ms` is given, else `delivered`.

        Raises MissingFields, InvalidId, InvalidRequest, and TooLarge for a text of over 64 KiB; nothing is
        recorded then.
        """
        required = {
            "sessionId": session_id,
            "userId": user_id,
            "type": type,
            "fullText": full_text,
            "heardText": heard_text,
        }
        if None in required.values():
            raise MissingFields(*(name for name, value in required.items() if value is None))
        rules.check_id("sessionId", session_id)
        rules.check_id("userId", user_id)
        if not isinstance(type, str) or type not in rules.INTERRUPTION_TYPES:
            raise InvalidRequest(f"type must be one of {', '.join(rules.INTERRUPTION_TYPES)}.")
        text_bytes = rules.check_text("fullText", full_text) + rules.check_text("heardText", heard_text)
        if not full_text or full_text.isspace():
            raise InvalidRequest("fullText must not be empty: it is what the assistant was saying.")
        if turn_id is not None:
            rules.check_id("turnId", turn_id)
        if user_utterance is not None:
            text_bytes += rules.check_text("userUtterance", user_utterance)
        if topic is not None:
            text_bytes += rules.check_text("topic", topic)
        if language is not None:
            rules.check_language(language)
        if played_ms is not None:
            played_ms = rules.checked_ms("playedMs", played_ms)
        if generated_ms is not None:
            generated_ms = rules.checked_ms("generatedMs", generated_ms)
        if heard_source is None:
            heard_source = "delivered" if played_ms is None else "client"
        elif heard_source not in rules.HEARD_SOURCES:
            raise InvalidRequest(f"heardSource must be one of {', '.join(rules.HEARD_SOURCES)}.")
        if progress is None:
            progress = rules.heard_share(full_text, heard_text, played_ms, generated_ms)
        else:
            progress = rules.checked_progress(progress)
        unheard_text = rules.unheard_rest(full_text, heard_text, progress)

        now_ms = self._clock.now_ms()
        interruption = Interruption(
            id=self._new_id(now_ms),
            session_id=session_id,
            user_id=user_id,
            at=rfc3339(now_ms),
            type=cast(InterruptionType, type),
            full_text=full_text,
            heard_text=heard_text,
            unheard_text=unheard_text,
            progress=progress,
            can_resume=rules.can_resume(type, progress, unheard_text),
            turn_id=turn_id,
            language=language,
            topic=topic,
            user_utterance=user_utterance,
            played_ms=played_ms,
            generated_ms=generated_ms,
            heard_source=cast(HeardSource, heard_source),
        )
        # A text may be kept twice: as the interpreter holds it, and as UTF-8 once it was written as JSON.
        size_bytes = (
            text_bytes + full_text.__sizeof__() + heard_text.__sizeof__() + 2 * unheard_text.__sizeof__()
        )
        size_bytes += (user_utterance or "").__sizeof__() + (topic or "").__sizeof__()
        self._keep((tenant, session_id), _Held(interruption, self._clock.monotonic_s(), size_bytes))
        return interruption

    def list(self, session_id: str, *, tenant: str = "default") -> Interruptions:
        """The interruptions held of a session, newest first; at most 3."""
        stack = self._use((tenant, session_id))
        return [self._look(held) for held in reversed(stack.held)] if stack is not None else []

    def peek(self, session_id: str, *, tenant: str = "default") -> Interruption | None:
        """The newest interruption of a session, which stays; None if there is none."""
        stack = self._use((tenant, session_id))
        return self._look(stack.held[-1]) if stack is not None and stack.held else None

    def pop(self, session_id: str, *, tenant: str = "default") -> Interruption | None:
        """Remove the newest interruption of a session and return it; None if none. `patterns` keep it."""
        stack = self._use((tenant, session_id))
        if stack is None or not stack.held:
            return None
        interruption = self._look(stack.held.pop())
        self._weigh(stack)
        return interruption

    def resume(self, session_id: str, *, tenant: str = "default") -> Interruption | None:
        """The newest pending interruption that can be resumed, now `resumed`; None if none. It stays."""
        stack = self._use((tenant, session_id))
        if stack is None:
            return None
        for held in reversed(stack.held):
            interruption = self._look(held)
            if interruption.status == "pending" and interruption.can_resume:
                stack.counts.resumed += 1
                return self._set_status(held, "resumed")
        return None

    def abandon(
        self, session_id: str, interruption_id: str | None = None, *, tenant: str = "default"
    ) -> Interruption | None:
        """A pending interruption, now `abandoned`: the user moved on. None if none is pending.

        The one of that id, else the newest that cut the assistant off. It stays.
        """
        passed_over = rules.NOT_INTERRUPTING if interruption_id is None else frozenset[str]()
        return self._settle((tenant, session_id), interruption_id, "abandoned", passed_over)

    def mark_false_alarm(
        self, session_id: str, interruption_id: str | None = None, *, tenant: str = "default"
    ) -> Interruption | None:
        """A pending interruption, now `false_alarm`: the user said nothing. None if none is pending.

        The one of that id, else the newest. It stays; averages and topics of `patterns` no longer count it.
        """
        return self._settle((tenant, session_id), interruption_id, "false_alarm")

    def reclassify(
        self,
        session_id: str,
        interruption_id: str,
        *,
        type: str,
        user_utterance: str | None = None,
        tenant: str = "default",
    ) -> Interruption | None:
        """A pending interruption of that id with the type that the user's words have shown; None if there is none.

        The assistant stops before it knows why: the words come later. Raises InvalidRequest and TooLarge as `push`.
        """
        if type not in rules.INTERRUPTION_TYPES:
            raise InvalidRequest(f"type must be one of {', '.join(rules.INTERRUPTION_TYPES)}.")
        stack = self._use((tenant, session_id))
        for held in reversed(stack.held) if stack is not None else ():
            before = self._look(held)
            if before.id != interruption_id or before.status != "pending" or stack is None:
                continue
            if user_utterance is not None:
                held.size_bytes += rules.check_text("userUtterance", user_utterance)
                held.size_bytes += 2 * user_utterance.__sizeof__()
            held.interruption = replace(
                before,
                type=cast(InterruptionType, type),
                user_utterance=user_utterance or before.user_utterance,
                can_resume=rules.can_resume(type, before.progress, before.unheard_text),
            )
            stack.counts.retype(before, held.interruption)
            self._weigh(stack)
            return held.interruption
        return None

    def clear(self, session_id: str, *, tenant: str = "default") -> int:
        """Forget a session, its counts included; how many interruptions were held."""
        return self._drop((tenant, session_id))

    def clear_user(self, user_id: str, *, tenant: str = "default") -> int:
        """Forget every session of a user, their counts included; how many interruptions were held."""
        keys = self._sessions_of_user.get((tenant, user_id))
        return sum([self._drop(key) for key in tuple(keys)]) if keys else 0

    def users(self) -> Sequence[tuple[str, str]]:
        """Of whom something is held: (tenant, user id)."""
        return tuple(self._sessions_of_user)

    def patterns(self, session_id: str, *, tenant: str = "default") -> InterruptionPatterns:
        """How the session has been interrupted since its first interruption; all zero if it is not known."""
        stack = self._use((tenant, session_id))
        return (
            stack.counts.patterns(session_id)
            if stack is not None
            else InterruptionPatterns(session_id=session_id)
        )

    def prompt_snippet(self, session_id: str, *, tenant: str = "default") -> str | None:
        """What to tell the model with the user's next turn: one line about the newest interruption.

        Backchannels, noise and false alarms are passed over. None if there is no other, or if it is no longer
        pending. Quoted text stands between « and », which it cannot contain, and is capped (see `snippet`).
        """
        stack = self._use((tenant, session_id))
        for held in reversed(stack.held) if stack is not None else ():
            interruption = self._look(held)
            if interruption.type in rules.NOT_INTERRUPTING or interruption.status == "false_alarm":
                continue
            return snippet.prompt_snippet(interruption) if interruption.status == "pending" else None
        return None

    def resume_phrase(
        self,
        language: str | None,
        topic: str | None = None,
        *,
        session_id: str | None = None,
        tenant: str = "default",
    ) -> str:
        """How to go on after an interruption, in the language of a BCP 47 tag (English if it is not known).

        With a session, its phrases take turns from one `resume` to the next.
        """
        stack = self._use((tenant, session_id)) if session_id is not None else None
        variant = None if stack is None else max(stack.counts.resumed - 1, 0)
        return phrases.resume_phrase(language, topic, variant=variant)

    def _keep(self, key: SessionKey, held: _Held) -> None:
        user_id = held.interruption.user_id
        stack = self._use(key)
        if stack is not None and stack.user_id != user_id:
            self._drop(key)
            stack = None
        if stack is None:
            stack = self._sessions[key] = _SessionStack(user_id)
            self._sessions_of_user.setdefault((key[0], user_id), set()).add(key)
        stack.held.append(held)
        if len(stack.held) > limits.INTERRUPTIONS_PER_SESSION_MAX:
            del stack.held[0]
        stack.counts.add(held.interruption)
        self._weigh(stack)
        while len(self._sessions) > self._sessions_max or (
            self._size_bytes > self._bytes_max and len(self._sessions) > 1
        ):
            self._drop(next(iter(self._sessions)))

    def _use(self, key: SessionKey) -> _SessionStack | None:
        stack = self._sessions.get(key)
        if stack is not None:
            self._sessions.move_to_end(key)
        return stack

    def _drop(self, key: SessionKey) -> int:
        stack = self._sessions.pop(key, None)
        if stack is None:
            return 0
        self._size_bytes -= stack.size_bytes
        owner = (key[0], stack.user_id)
        keys = self._sessions_of_user[owner]
        keys.discard(key)
        if not keys:
            del self._sessions_of_user[owner]
        return len(stack.held)

    def _weigh(self, stack: _SessionStack) -> None:
        size_bytes = SESSION_OVERHEAD_BYTES + stack.counts.topic_bytes
        for held in stack.held:
            size_bytes += INTERRUPTION_OVERHEAD_BYTES + held.size_bytes
        self._size_bytes += size_bytes - stack.size_bytes
        stack.size_bytes = size_bytes

    def _look(self, held: _Held) -> Interruption:
        """The interruption as of now: a pending one that is too old has expired."""
        if (
            held.interruption.status == "pending"
            and self._clock.monotonic_s() - held.pushed_s > self._expires_after_s
        ):
            return self._set_status(held, "expired")
        return held.interruption

    def _settle(
        self,
        key: SessionKey,
        interruption_id: str | None,
        status: InterruptionStatus,
        passed_over: frozenset[str] = frozenset(),
    ) -> Interruption | None:
        stack = self._use(key)
        if stack is None:
            return None
        for held in reversed(stack.held):
            interruption = self._look(held)
            if interruption.type in passed_over or interruption_id not in (None, interruption.id):
                continue
            if interruption.status == "pending":
                if status == "abandoned":
                    stack.counts.abandoned += 1
                else:
                    stack.counts.add_false_alarm(interruption)
                    self._weigh(stack)
                return self._set_status(held, status)
        return None

    @staticmethod
    def _set_status(held: _Held, status: InterruptionStatus) -> Interruption:
        held.interruption = replace(held.interruption, status=status)
        return held.interruption
