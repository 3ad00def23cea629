"""Dialogues replayed through HTTP by many devices, and a witness that knows what the server owes each user.

A witness notes when each message was sent, when its answer came or its connection was lost, and what the answer
said. From that follows what a user's history must hold, may hold and must not hold, whatever happened to the
server. Time is a counter of events on this side, so that what overlapped is known exactly.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.crash.server import Answer, Connection, ConnectionLost
from tests.support import REPOSITORY

DATA = REPOSITORY.parent / "shared" / "data" / "dialogues" / "sgd-dev.jsonl"
NEVER = 1 << 62
ATTEMPTS_MAX = 500

Turn = tuple[str, str]  # role, content


def dialogues() -> list[tuple[str, list[Turn]]]:
    """Dialogues with their ids: real ones if they are at hand, else made up."""
    if DATA.exists():
        lines = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
        return [(each["dialogueId"], [(t["role"], t["content"]) for t in each["turns"]]) for each in lines]
    rng = random.Random(0)
    words = [
        "मेरा",
        "account",
        "balance",
        "what",
        "is",
        "the",
        "खाता",
        "interest",
        "कितना",
        "rate",
        "please",
        "ok",
    ]

    def turn(number: int) -> Turn:
        role = "assistant" if number % 2 else "user"
        return role, " ".join(rng.choices(words, k=rng.randint(1, 40)))

    return [(f"made-{n}", [turn(t) for t in range(rng.randint(6, 30))]) for n in range(500)]


@dataclass(slots=True)
class Said:
    """One message. `tag` is in its metadata, and tells which one it is whatever id it was given."""

    tag: str
    role: str
    content: str
    sent: int = 0  # when it was last sent
    settled: int = 0  # when the last answer came, or the connection was lost
    acknowledged: bool = False
    seq: int = 0
    id: str | None = None
    group: str = ""  # of those that were sent in one request
    refused_for_ever: bool = False  # the user was erased after it was written


@dataclass(slots=True)
class Erasure:
    """One erasing: from when to when it may have happened, and whether it surely did."""

    begun: int
    ended: int = NEVER
    acknowledged: bool = False


class Register:
    """Something that one device writes step by step: the values it may have now."""

    def __init__(self) -> None:
        self.possible: list[Any] = [None]

    def writing(self, value: Any) -> None:
        """A new value is on its way: it may be there from now on."""
        self.possible.append(value)

    def acknowledged(self) -> None:
        """The newest value is there; the older ones are not."""
        del self.possible[:-1]


@dataclass(slots=True)
class Witness:
    """All that a user's devices know."""

    user_id: str
    said: dict[str, Said] = field(default_factory=dict)
    erasures: list[Erasure] = field(default_factory=list)
    state: Register = field(default_factory=Register)
    sessions: dict[str, Register] = field(default_factory=dict)

    def history_complaints(self, messages: list[dict[str, Any]]) -> Iterator[str]:
        """What is wrong with the user's whole history, oldest first."""
        if [message["seq"] for message in messages] != list(range(1, len(messages) + 1)):
            yield f"seq has holes: {[message['seq'] for message in messages]}"
        tags = [str((message.get("metadata") or {}).get("tag")) for message in messages]
        if strange := set(tags) - set(self.said):
            yield f"never sent: {strange}"
        count = Counter(tags)
        there = {tag: message for tag, message in zip(tags, messages, strict=True) if tag in self.said}
        for said in self.said.values():
            if count[said.tag] > 1:
                yield f"{said.tag} is there {count[said.tag]} times"
            if said.tag in there:
                yield from self._message_complaints(said, there[said.tag])
            elif said.acknowledged and self._is_kept(said):
                yield f"{said.tag} was acknowledged (seq {said.seq}) and is lost"
        order: dict[str, int] = {}
        for tag in tags:
            device, _, number = tag.rpartition("#")
            if number.isdigit() and int(number) <= order.get(device, -1):
                yield f"{tag} stands behind #{order[device]} of the same device"
            order[device] = int(number) if number.isdigit() else 0
        for group, members in itertools.groupby(self.said.values(), key=lambda said: said.group):
            if group and len({said.tag in there for said in members}) > 1:
                yield f"of the messages sent at once in {group} only some are there"

    def _is_kept(self, said: Said) -> bool:
        return all(erasure.ended < said.sent for erasure in self.erasures)

    def _message_complaints(self, said: Said, found: dict[str, Any]) -> Iterator[str]:
        if any(erasure.acknowledged and said.settled < erasure.begun for erasure in self.erasures):
            yield f"{said.tag} was erased and is back"
        if said.refused_for_ever:
            yield f"{said.tag} was refused as erased and is there"
        if (found["role"], found["content"]) != (said.role, said.content):
            yield f"{said.tag} reads {found['role']}: {found['content'][:80]!r}"
        if said.acknowledged and self._is_kept(said) and found["seq"] != said.seq:
            yield f"{said.tag} was acknowledged as seq {said.seq} and is {found['seq']}"
        if said.id is not None and found["id"] != said.id:
            yield f"{said.tag} has the id {found['id']}, not {said.id}"


class Request:
    """One request of a device: sent until it is answered, or given up where sending twice would do it twice."""

    def __init__(
        self,
        method: str,
        path: str,
        body: Any,
        *,
        key: str | None = None,
        repeatable: bool = True,
        sending: Callable[[int], None] = lambda now: None,
        settled: Callable[[int], None] = lambda now: None,
        answered: Callable[[Answer], None] = lambda answer: None,
    ) -> None:
        self.method = method
        self.path = path
        self.body = body
        self.headers = {} if key is None else {"Idempotency-Key": key}
        self.repeatable = repeatable
        self.sending = sending
        self.settled = settled
        self.answered = answered
        self.attempts = 0


@dataclass(slots=True)
class Device:
    """One device of a user: its requests, in order, each one answered before the next."""

    witness: Witness
    todo: deque[Request]

    async def go_on(self, connection: Connection, replay: Replay) -> None:
        """Send what there is to send; ConnectionLost if the server goes away."""
        while self.todo:
            request = self.todo[0]
            if request.attempts and not request.repeatable:
                self.todo.popleft()
                continue
            request.attempts += 1
            request.sending(replay.now())
            try:
                answer = await connection.request(request.method, request.path, request.body, request.headers)
            finally:
                request.settled(replay.now())
            if answer.status == 503:
                assert request.attempts < ATTEMPTS_MAX, f"refused again and again: {answer}"
                replay.refused(answer)
                continue
            request.answered(answer)
            self.todo.popleft()
            await replay.acknowledged()


class Script:
    """What the devices of one user do, turn by turn. `mode`: which messages may be sent again, and how.

    «id»: the client gives ids. «key»: each request has an Idempotency-Key. «plain»: neither, so that what was
    not answered is not sent again.
    """

    def __init__(self, user_id: str, mode: str, durability: str, rng: random.Random) -> None:
        self.witness = Witness(user_id)
        self.mode = mode
        self.durability = durability
        self.rng = rng
        self.path = f"/api/session/{user_id}"
        self._numbers = itertools.count()

    def _key(self) -> str | None:
        return f"{self.witness.user_id}/{next(self._numbers)}" if self.mode == "key" else None

    def say(self, device: str, first: int, turns: list[Turn], session_id: str | None = None) -> Request:
        """Append one message, or several at once."""
        saids, messages = [], []
        for number, (role, content) in enumerate(turns, first):
            if self.rng.random() < 0.02:  # one in fifty is long: its commit spreads over many pages
                content = content * (20_000 // len(content.encode()) + 1)
            said = Said(f"{device}#{number}", role, content, group=f"{device}#{first}" if turns[1:] else "")
            message = {"role": role, "content": content, "metadata": {"tag": said.tag}}
            if self.mode == "id":
                said.id = message["id"] = f"{self.witness.user_id}-{said.tag}"
            if session_id is not None:
                message["sessionId"] = session_id
            self.witness.said[said.tag] = said
            saids.append(said)
            messages.append(message)

        def sending(now: int) -> None:
            for said in saids:
                said.sent, said.settled = now, NEVER

        def settled(now: int) -> None:
            for said in saids:
                said.settled = now

        def answered(answer: Answer) -> None:
            if answer.status == 409 and answer.json["code"] == "user_erased" and self.witness.erasures:
                for said in saids:
                    said.refused_for_ever = True
                return
            body = answer.check()
            assert body["durability"] == self.durability, body
            told = body["messages"] if len(saids) > 1 else [body]
            for said, each in zip(saids, told, strict=True):
                assert said.id in (None, each["messageId"]), each
                said.acknowledged, said.seq, said.id = True, each["seq"], each["messageId"]

        return Request(
            "POST",
            f"{self.path}/history",
            messages[0] if len(messages) == 1 else {"messages": messages},
            key=self._key(),
            repeatable=self.mode != "plain",
            sending=sending,
            settled=settled,
            answered=answered,
        )

    def repeat(self, tag: str) -> Request:
        """Send a message of long ago again, under its id: nothing may come of it."""
        said = self.witness.said[tag]
        body = {"role": said.role, "content": said.content, "id": said.id, "metadata": {"tag": said.tag}}

        def answered(answer: Answer) -> None:
            told = answer.check()
            assert (told["seq"], told["messageId"], told.get("duplicate")) == (said.seq, said.id, True), told

        return Request("POST", f"{self.path}/history", body, answered=answered)

    def save_state(self, number: int) -> Request:
        """Save a state that counts up."""
        return self._write(
            self.witness.state,
            number,
            "POST",
            f"{self.path}/state",
            {"turn": number, "context": {f"t{number % 3}": 1}},
        )

    def create_session(self, session_id: str) -> Request:
        """Open a session."""
        body = {"sessionId": session_id, "userId": self.witness.user_id, "language": "hi"}
        register = self.witness.sessions.setdefault(session_id, Register())
        return self._write(register, "open", "POST", "/api/session/create", body)

    def end_session(self, session_id: str) -> Request:
        """End a session."""
        return self._write(
            self.witness.sessions[session_id], "ended", "PUT", f"/api/session/{session_id}/end", None
        )

    def _write(self, register: Register, value: Any, method: str, path: str, body: Any) -> Request:
        def answered(answer: Answer) -> None:
            assert answer.check()["durability"] == self.durability, answer.body
            register.acknowledged()

        return Request(
            method,
            path,
            body,
            key=self._key(),
            sending=lambda now: register.writing(value),
            answered=answered,
        )

    def refresh(self) -> Request:
        """Erase the user. With a key it happens at most once, however often it is sent."""
        key = self._key()
        registers = [self.witness.state, *self.witness.sessions.values()]

        def sending(now: int) -> None:
            if not request.attempts > 1 or key is None:
                self.witness.erasures.append(Erasure(now))
            self.witness.erasures[-1].ended = NEVER
            for register in registers:
                register.writing(None)

        def settled(now: int) -> None:
            self.witness.erasures[-1].ended = now

        def answered(answer: Answer) -> None:
            answer.check()
            self.witness.erasures[-1].acknowledged = True
            for register in registers:
                register.acknowledged()

        body = {"userId": self.witness.user_id}
        path = "/api/session/refresh"
        request = Request("POST", path, body, key=key, sending=sending, settled=settled, answered=answered)
        return request

    # --- what devices do -----------------------------------------------------------------------------------

    def alone(self, turns: list[Turn]) -> list[Device]:
        """One device speaks for both sides, saves the state after each user's turn, and keeps a session."""
        session_id = f"{self.witness.user_id}-session"
        todo = [self.create_session(session_id)]
        at = 0
        while at < len(turns):
            size = self.rng.choice((1, 1, 1, 1, 1, 2, 4))
            todo.append(self.say("phone", at, turns[at : at + size], session_id))
            at += size
            if self.rng.random() < 0.3:
                todo.append(self.save_state(at))
        if self.mode == "id":
            todo.append(self.repeat("phone#0"))
        todo.append(self.end_session(session_id))
        return [Device(self.witness, deque(todo))]

    def together(self, turns: list[Turn]) -> list[Device]:
        """The user's device and the assistant's speak at once, neither waiting for the other."""
        sides: list[deque[Request]] = [deque(), deque()]
        for number, turn in enumerate(turns):
            sides[number % 2].append(self.say(("phone", "assistant")[number % 2], number, [turn]))
        return [Device(self.witness, side) for side in sides]

    def erased(self, turns: list[Turn]) -> list[Device]:
        """Two devices speak while a third one saves the state and erases the user, again and again."""
        session_id = f"{self.witness.user_id}-session"
        eraser: deque[Request] = deque()
        for number in range(4):
            eraser += [self.create_session(session_id), self.save_state(number), self.refresh()]
        eraser += [self.save_state(9)]
        return [*self.together(turns + turns), Device(self.witness, eraser)]


class Replay:
    """Replays dialogues against a server with several connections at once, until told to stop.

    `port` says where the server is now. `modes` are those of `Script`; the state of the world outlives the server:
    after a restart, `run` goes on where it was.
    """

    def __init__(
        self,
        port: Callable[[], int],
        *,
        seed: int,
        connections: int = 16,
        durability: str = "stored",
        users_max: int = NEVER,
    ) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.witnesses: list[Witness] = []
        self.requests_acknowledged = 0
        self.refusals = 0
        self.on_refusal: Callable[[], None] = lambda: None
        self._port = port
        self._connections = connections
        self._durability = durability
        self._clock = itertools.count(1)
        self._scripts = itertools.islice(self._endless(), users_max)
        self._waiting: deque[Device] = deque()
        self._no_more = False
        self._due = NEVER
        self._then: Callable[[], None] = lambda: None
        self._touched: set[str] = set()

    def now(self) -> int:
        """The next moment."""
        return next(self._clock)

    @property
    def messages_acknowledged(self) -> int:
        """How many messages the server has acknowledged so far."""
        return sum(said.acknowledged for witness in self.witnesses for said in witness.said.values())

    def _endless(self) -> Iterator[list[Device]]:
        told = dialogues()
        self.rng.shuffle(told)
        for number in itertools.count():
            name, turns = told[number % len(told)]
            user_id = f"{name}-{number}"
            mode = ("id", "key", "plain")[number % 3]
            script = Script(user_id, mode, self._durability, self.rng)
            if number % 8 == 5:
                devices = script.erased(turns)
            elif number % 4 == 3:
                devices = script.together(turns)
            elif number % 16 == 2:  # a history of several windows
                devices = script.alone(
                    list(itertools.chain(*(told[(number + n) % len(told)][1] for n in range(12))))
                )
            else:
                devices = script.alone(turns)
            self.witnesses.append(script.witness)
            yield devices

    async def run(self, acknowledgements: int | None, then: Callable[[], None] = lambda: None) -> None:
        """Replay until the server goes away, calling `then` after so many acknowledgements.

        With None, finish what was begun, begin nothing new, and return when all is done.
        """
        self._no_more = acknowledgements is None
        self.after(NEVER if acknowledgements is None else acknowledgements, then)
        await asyncio.gather(*(self._work() for _ in range(self._connections)))

    def move_to(self, port: Callable[[], int]) -> None:
        """From now on the server is another one, with the same data."""
        self._port = port

    def after(self, acknowledgements: int, then: Callable[[], None]) -> None:
        """Call `then` when so many more requests have been acknowledged."""
        self._due = self.requests_acknowledged + acknowledgements
        self._then = then

    async def acknowledged(self) -> None:
        """Count an acknowledgement, and do what is due after it."""
        self.requests_acknowledged += 1
        if self.requests_acknowledged == self._due:
            for _ in range(self.rng.randrange(30)):  # not always between the same two requests
                await asyncio.sleep(0)
            self._then()

    def refused(self, answer: Answer) -> None:
        """Take note of a 503, which must say that it is one."""
        self.refusals += 1
        check_refusal(answer)
        self.on_refusal()

    async def _work(self) -> None:
        try:
            connection = await Connection.open(self._port())
        except ConnectionLost:
            return
        async with connection:
            while (device := self._next()) is not None:
                self._touched.add(device.witness.user_id)
                try:
                    await device.go_on(connection, self)
                except ConnectionLost:
                    self._waiting.append(device)
                    return

    def _next(self) -> Device | None:
        if not self._waiting and not self._no_more:
            self._waiting.extend(next(self._scripts, ()))
        return self._waiting.popleft() if self._waiting else None

    # --- looking -------------------------------------------------------------------------------------------

    async def complaints(self, *, all_of_it: bool = False) -> list[str]:
        """What is wrong with what the server has: every history, and the rest of those touched since last asked."""
        touched = {witness.user_id for witness in self.witnesses} if all_of_it else self._touched
        self._touched = {device.witness.user_id for device in self._waiting}
        found: list[str] = []
        waiting = deque(self.witnesses)

        async def look() -> None:
            async with await Connection.open(self._port()) as connection:
                while waiting:
                    witness = waiting.popleft()
                    wrong = await self._look(connection, witness, witness.user_id in touched)
                    found.extend(f"seed {self.seed}, {witness.user_id}: {line}" for line in wrong)

        await asyncio.gather(*(look() for _ in range(8)))
        return found

    async def _look(self, connection: Connection, witness: Witness, closely: bool) -> list[str]:
        path = f"/api/session/{witness.user_id}"
        messages = await whole_history(connection, witness.user_id, limit=90 if closely else 1_000)
        found = list(witness.history_complaints(messages))
        if not closely:
            return found
        profile = (await connection.get(f"{path}/profile")).check()["profile"]
        if [message["seq"] for message in profile["conversationHistory"]] != [
            m["seq"] for m in messages[-100:]
        ]:
            found.append("the window is not the end of the history")
        state = await connection.get(f"{path}/state")
        turn = state.json["state"]["turn"] if state.status == 200 else None
        if turn not in witness.state.possible:
            found.append(f"the state is {turn}, it must be one of {witness.state.possible}")
        for session_id, register in witness.sessions.items():
            answer = await connection.get(f"/api/session/{session_id}")
            now = None
            if answer.status == 200:
                now = "open" if answer.json["session"]["isActive"] else "ended"
            if now not in register.possible:
                found.append(f"session {session_id} is {now}, it must be one of {register.possible}")
        return found


async def whole_history(connection: Connection, user_id: str, limit: int = 1_000) -> list[dict[str, Any]]:
    """All messages of a user, page by page."""
    messages: list[dict[str, Any]] = []
    while True:
        after = messages[-1]["seq"] if messages else 0
        page = (await connection.get(f"/api/session/{user_id}/history?limit={limit}&after={after}")).check()
        messages += page["messages"]
        if not page["hasMore"]:
            return messages


def check_refusal(answer: Answer) -> None:
    """A 503 is a problem document that says when to come back, and claims nothing."""
    assert answer.status == 503, answer
    assert answer.headers["content-type"] == "application/problem+json", answer
    assert int(answer.headers["retry-after"]) >= 1, answer
    body = answer.json
    assert body["success"] is False and body["status"] == 503 and body["code"] and body["error"], body
    assert "durability" not in body and "seq" not in body, body
