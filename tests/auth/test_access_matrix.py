"""Every route and every frame × every verb × everybody who may ask: no leak, and no difference between what is not
there and what is another's. The table of routes is the application's own: a new route is in the matrix, or fails it.
"""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import AsyncIterator
from typing import Any, get_args
from urllib.parse import quote

import pytest

from samvad.http.app import routes
from samvad.http.routing import Route
from samvad.knowledge.store import KnowledgeStore
from samvad.live import frames
from samvad.stores.base import Store
from tests.auth.world import (
    ALL,
    ASHA,
    ASKED,
    BALA,
    CANARY,
    MISSING,
    OF_ASHA,
    Socket,
    World,
    bearing,
    populate,
    world,
)
from tests.http.support import Answer
from tests.support import SOAK

pytestmark = pytest.mark.anyio
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
DENIED = (401, 403, 404)


def bodies(about: dict[str, str]) -> dict[str, Any]:
    """What each route with a body is asked, about these ids."""
    user, session = about["user"], about["session"]
    message = {"role": "user", "content": "hello"}
    return {
        "saveUserState": {"a": 1},
        "replaceUserState": {"a": 1},
        "saveUserProfile": {"preferences": {"a": 1}},
        "savePrivacy": {"content": "none"},
        "appendToUserHistory": message,
        "clearUserData": {"userId": user},
        "saveSession": {"sessionId": session, "userId": user},
        "batch": {
            "operations": [
                {"op": "append", "userId": user, **message},
                {"op": "state", "userId": user, "state": {"a": 1}},
                {"op": "replaceState", "userId": user, "state": {"a": 1}},
                {"op": "preferences", "userId": user, "preferences": {"a": 1}},
                {"op": "session", "userId": user, "sessionId": session},
                {"op": "endSession", "sessionId": session},
            ]
        },
        "pushInterruption": {"type": "BARGE_IN", "fullText": "one two", "heardText": "one"},
        "resumeInterruption": {},
        "addText": {"title": "T", "content": "C", "userId": user},
        "addUrl": {"url": "https://example.org/", "userId": user},
        "addPdf": {"pdfContent": "JVBERi0=", "filename": "a.pdf", "userId": user},
        "searchKnowledge": {"query": "note", "userId": user},
        "answerQuestion": {"query": "where is it?", "userId": user},
        "mintToken": {"userId": user},
    }


QUERIES = {"listDocuments": "userId={user}", "clearDocuments": "userId={user}", "liveEvents": "userId={user}"}
QUERIES |= dict.fromkeys(("knowledgeStats", "clearKnowledgeStats"), "userId={user}")
BY_KEYS = dict.fromkeys(("getDocument", "deleteDocument"), "userId={user}")  # who is not the user says whose
SEGMENTS = {"userId": "user", "sessionId": "session", "documentId": "document"}
FILE = "talk.js"


def place(route: Route, about: dict[str, str]) -> str:
    """The path of a request; fails for a parameter that this test does not know."""
    segments = []
    for segment in route.path.split("/"):
        name = segment[1:-1] if segment.startswith("{") else None
        assert name in (None, "file", *SEGMENTS), f"say in this test what {segment} of {route.path} is"
        segments.append(segment if name is None else FILE if name == "file" else quote(about[SEGMENTS[name]]))
    return "/".join(segments)


async def request(
    here: World,
    route: Route,
    about: dict[str, str],
    token: str | None,
    method: str | None = None,
    **headers: str,
) -> Answer:
    """One request about these ids."""
    body = bodies(about).get(route.name)
    assert body is not None or route.method in ("GET", "DELETE", "PUT"), (
        f"say in this test what {route.name} is asked"
    )
    if (method or route.method) in ("GET", "HEAD", "DELETE", "OPTIONS"):
        body = None
    queries = QUERIES | BY_KEYS if (token or "").startswith("samvad_k1_") else QUERIES
    query = queries.get(route.name, "").format(**about)
    return await here.api(
        method or route.method, place(route, about), body, headers=bearing(token) | headers, query=query
    )


def seen(answer: Answer, about: dict[str, str]) -> tuple[int, dict[str, str], str]:
    """An answer, without what names the request and what was asked for; times stand still."""
    text = answer.body.decode()
    for kind, name in about.items():
        text = text.replace(name, f"<{kind}>")
    headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
    request_id = answer.headers["x-request-id"]
    # The number in the id of a request may have one digit more.
    if "content-length" in headers:
        headers["content-length"] = str(
            int(headers["content-length"]) - text.count(request_id) * len(request_id)
        )
    return answer.status, headers, text.replace(request_id, "<request>")


@pytest.fixture
async def here() -> AsyncIterator[World]:
    """A world of its own for each test."""
    async with world() as found:
        yield found


ALL_ROUTES = routes()
EVENTS = next(route for route in ALL_ROUTES if route.name == "liveEvents")  # who is let in stays there
ROUTES = [route for route in ALL_ROUTES if route is not EVENTS]
GUARDED = [route for route in ROUTES if not route.access.open]


def test_every_route_says_who_may_ask() -> None:
    """What is open is on this list, and nothing else; nobody opens a route by mistake."""
    assert {route.name for route in ROUTES if route.access.open} == {
        "healthz", "readyz", "openapi", "docs", "talk", "talkFile",
    }  # fmt: skip
    with pytest.raises(TypeError):
        Route("GET", "/new", None, "new")  # type: ignore[call-arg, arg-type]


async def test_nobody_reaches_anything_without_good_credentials(here: World) -> None:
    """None, malformed, expired, revoked, of another server: one and the same 401, whatever is asked for."""
    here.key(*ALL)
    revoked = here.key(*ALL, revoked_ms=1)
    over = here.key(*ALL, expires_ms=1)
    expired = here.token(ASHA, ttl_s=60)
    await here.auth.refresh()
    here.clock.advance(61)
    minted_by_revoked = here.auth.tokens.sign(
        here.auth.tokens.claims("default", ASHA, None, revoked.split("_")[2], 60)
    )
    async with world() as elsewhere:
        foreign = elsewhere.token(ASHA)
    wrong = here.token(ASHA)[:-2] + "AA"
    tokens = [None, "", "x", expired, revoked, over, minted_by_revoked, foreign, wrong, revoked[:-1] + "0"]
    before = await here.snapshot()
    for route in [*GUARDED, EVENTS]:
        kinds = set()
        for token in tokens:
            for about in (OF_ASHA, MISSING):
                answer = await request(here, route, about, token)
                assert answer.status == 401, (route.name, token, answer.body)
                assert answer.headers["www-authenticate"] == 'Bearer realm="samvad"'
                kinds.add(json.dumps(seen(answer, about)))
        assert len(kinds) == 1, route.name
        schemes = [
            {"authorization": "Basic dXNlcjpwYXNz"},
            {"authorization": "Bearer"},
            {"authorization": here.token(ASHA)},
        ]
        for headers in schemes:
            assert (await request(here, route, OF_ASHA, None, **headers)).status == 401, (route.name, headers)
    assert await here.snapshot() == before


async def test_what_is_open_says_nothing_of_anybody(here: World) -> None:
    """The open routes answer the same to everybody, and know nobody."""
    for route in ROUTES:
        if route.access.open:
            answers = [await request(here, route, OF_ASHA, token) for token in (None, "x", here.token(ASHA))]
            assert {answer.status for answer in answers} == {200}, route.name
            assert len({answer.body for answer in answers}) == 1
            assert CANARY.encode() not in answers[0].body and ASHA.encode() not in answers[0].body


async def test_what_a_request_costs_is_noted(here: World) -> None:
    """Of every question that there is to a store: else two costs were the same because nobody looked."""
    assert {"commit", "load", "session", "stats", "users"} <= ASKED[Store]
    assert {"get", "list", "put", "remove", "statistics"} <= ASKED[KnowledgeStore]
    here.store.asked.clear()
    for name in ("getSession", "getUserProfile", "getDocument", "listDocuments"):
        await request(here, _named(name), MISSING, here.token(MISSING["user"]))
    assert {"MemoryStore.session", "MemoryStore.load"} <= set(here.store.asked)
    assert {"PlainKnowledgeStore.get", "PlainKnowledgeStore.list"} <= set(here.store.asked)


async def compare(here: World, route: Route, token: str, method: str | None = None) -> Answer:
    """Ask for what is another's and for what is not there: the answers, and what they cost the store, are the same."""
    answers, costs = [], []
    for about in (OF_ASHA, MISSING):
        here.store.asked.clear()
        answers.append(await request(here, route, about, token, method))
        costs.append(list(here.store.asked))
        assert CANARY.encode() not in answers[-1].body, (route.name, answers[-1].body)
    assert seen(answers[0], OF_ASHA) == seen(answers[1], MISSING), route.name
    assert costs[0] == costs[1], (route.name, costs)
    return answers[0]


async def test_another_user_learns_nothing(here: World) -> None:
    """Bala asks for everything of Asha's, by every verb: the same as if Asha did not exist, and nothing changes."""
    before = await here.snapshot()
    for warm in (False, True):
        if warm:  # what memory holds of Asha's must not answer faster, or otherwise
            for route in GUARDED:
                if route.method == "GET":
                    await request(here, route, OF_ASHA, here.token(ASHA))
        for route in [*GUARDED, EVENTS]:
            answer = await compare(here, route, here.token(BALA))
            if route.name == "batch":
                assert all(result["status"] in DENIED for result in answer.json["results"])
            else:
                assert answer.status in (403, 404), (route.name, answer.body)
    assert await here.snapshot() == before


async def test_another_tenant_learns_nothing(here: World) -> None:
    """A key that may do everything in another tenant sees there what anybody's name would be: nothing of Asha's."""
    key, third = here.key(*ALL, tenant="other"), here.key("stats", tenant="third")
    await here.auth.refresh()
    mine = await here.samvad.read_user(ASHA)
    for route in GUARDED:
        if route.method == "GET":
            await compare(here, route, key)
    for route in GUARDED:
        if route.name in ("getCost", "metrics"):  # about all tenants: the operator's alone
            assert (await compare(here, route, key)).status == 403
        elif route.method != "GET":
            for about in (OF_ASHA, MISSING):
                answer = await request(here, route, about, key)
                assert CANARY.encode() not in answer.body, route.name
    assert await here.samvad.read_user(ASHA) == mine
    assert len(here.samvad.interruptions.list("session_asha", tenant="default")) == 1
    session = await here.samvad.get_session("session_asha")
    assert session is not None and session.is_active
    stats = await here.api.ok("GET", "/api/session/stats", headers=bearing(third))
    assert set(stats["stats"].values()) == {0}


async def test_a_key_without_the_scope_reaches_nothing(here: World) -> None:
    """With all scopes but the one that a route needs, it is 403, for what is there as for what is not."""
    keys = {scope: here.key(*(each for each in ALL if each != scope)) for scope in ALL}
    unknown = here.key("billing")
    await here.auth.refresh()
    before = await here.snapshot()
    for route in [*GUARDED, EVENTS]:
        if route.access.scope is None:
            continue
        needed = (route.access.scope, *route.access.also)
        for key in (*(keys[scope] for scope in needed), unknown):
            assert (await compare(here, route, key)).status == 403, route.name
    users, sessions = keys["sessions"], keys["users"]
    for key, refused in ((users, {4, 5}), (sessions, {0, 1, 2, 3})):
        results = (await request(here, _named("batch"), MISSING, key)).json["results"]
        assert {at for at, result in enumerate(results) if result.get("status") == 403} == refused
    assert [each for each in await here.samvad.list_users() if each == ASHA] == [ASHA]
    assert json.loads(before)[1] == json.loads(await here.snapshot())[1]


async def test_whose_it_is_reaches_it(here: World) -> None:
    """The user by a token of theirs, and a key with the one scope needed: so that the refusals mean something."""
    keys = {(scope,): here.key(scope) for scope in (*ALL, "admin")}
    keys |= {
        (route.access.scope, *route.access.also): here.key(route.access.scope, *route.access.also)
        for route in GUARDED
        if route.access.scope is not None and route.access.also
    }
    both = here.key("users", "sessions")
    await here.auth.refresh()
    for route in GUARDED:
        if route.name in ("addUrl", "addPdf"):
            continue  # they fetch and read; what lets them in is what lets in the others
        scope, also = route.access.scope, route.access.also
        tokens = [both if scope is None else keys[scope, *also], keys["admin",]]
        tokens += [here.token(ASHA)] * route.access.people
        for number, token in enumerate(tokens):
            await populate(here.samvad)
            answer = await request(here, route, OF_ASHA, token)
            assert answer.status == 200, (route.name, number, answer.body)
            assert route.name != "batch" or answer.json["failed"] == 0, answer.body


async def test_people_do_not_mint_count_or_look_into_the_process(here: World) -> None:
    """What is for programs alone is 403 to a user, about themself as well."""
    about_bala = {"user": BALA, "session": "session_bala", "document": "kb_bala"}
    for route in GUARDED:
        if not route.access.people:
            assert (await request(here, route, about_bala, here.token(BALA))).status == 403, route.name


async def test_a_token_of_one_session_reaches_that_one_alone(here: World) -> None:
    """Another session of the same user is as if it were not there; what is the user's and not the session's is 403."""
    await here.samvad.save_session("session_two_", ASHA)
    assert len("session_two_") == len(MISSING["session"])
    token = here.token(ASHA, session="session_two_")
    for route in [*GUARDED, EVENTS]:
        answer = await compare(here, route, token)
        assert answer.status == (404 if route.access.session else 403), route.name
    own = {**OF_ASHA, "session": "session_two_"}
    assert (await request(here, _named("getSession"), own, token)).status == 200


async def test_every_other_verb(here: World) -> None:
    """A verb that a path does not know is 405 to everybody; those that it knows are in the tests above."""
    for route in GUARDED:
        known = {each.method for each in ROUTES if each.path == route.path}
        for method in METHODS:
            if method in known or (method == "HEAD" and "GET" in known):
                continue
            statuses = {
                (await here.api(method, place(route, about), headers=bearing(token))).status
                for about in (OF_ASHA, MISSING)
                for token in (None, "x", here.token(BALA))
            }
            assert statuses == {405}, (route.path, method)


async def test_head_is_guarded_like_get(here: World) -> None:
    """HEAD tells nothing that GET would not."""
    for route in GUARDED:
        if route.method == "GET":
            assert (await request(here, route, OF_ASHA, None, "HEAD")).status == 401
            assert (await compare(here, route, here.token(BALA), "HEAD")).status in (403, 404), route.name


def _named(name: str) -> Route:
    return next(route for route in ROUTES if route.name == name)


# --- idempotency keys ----------------------------------------------------------------------------------------


async def test_a_kept_answer_is_given_to_nobody_else(here: World) -> None:
    """Under somebody else's Idempotency-Key, a request is judged like any other, in every tenant."""
    path = f"/api/session/{ASHA}/history"
    body = {"role": "user", "content": CANARY}
    named = {"idempotency-key": "key-1"}
    first = await here.api.ok("POST", path, body, headers=bearing(here.token(ASHA)) | named)
    key = here.key(*ALL, tenant="other")
    weak = here.key("knowledge")
    await here.auth.refresh()
    assert (await here.api("POST", path, body, headers=bearing(here.token(BALA)) | named)).status == 403
    assert (await here.api("POST", path, body, headers=bearing(weak) | named)).status == 403
    other = await here.api.ok("POST", path, body, headers=bearing(key) | named)
    assert other["messageId"] != first["messageId"]
    again = await here.api.ok("POST", path, body, headers=bearing(here.token(ASHA)) | named)
    assert again == first


async def test_a_kept_answer_of_a_batch_is_given_to_nobody_who_may_not(here: World) -> None:
    """Each operation asks for its scope before its kept answer is looked for."""
    whole, sessions = here.key("users", "sessions"), here.key("sessions")
    await here.auth.refresh()
    named = {"idempotency-key": "key-2"}
    body = bodies(OF_ASHA)["batch"]
    first = await here.api.ok("POST", "/api/session/batch", body, headers=bearing(whole) | named)
    assert first["failed"] == 0
    other = await here.api.ok("POST", "/api/session/batch", body, headers=bearing(sessions) | named)
    assert [result.get("status") for result in other["results"][:4]] == [403] * 4


# --- the socket ----------------------------------------------------------------------------------------------


def frames_about(about: dict[str, str]) -> dict[str, dict[str, Any]]:
    """One frame of each type that a client may send."""
    return {
        "start_session": {"userId": about["user"], "sessionId": about["session"]},
        "user_text": {"text": "hello"},
        "activity_start": {},
        "activity_end": {},
        "interrupt": {},
        "playback": {},
        "resume_interruption": {},
        "set_language": {"language": "hi"},
        "ping": {},
        "end_session": {},
        "renew_token": {"token": "x"},
    }


def frame_types() -> set[str]:
    """The types of the client's frames, from the protocol itself."""
    return {str(kind.__struct_config__.tag) for kind in get_args(frames.ClientFrame)}


async def test_the_socket_lets_nobody_in_without_good_credentials(here: World) -> None:
    """The handshake is refused with the same 401; a key without the scope, and one with another, with 403."""
    weak = here.key("sessions", "knowledge", "stats")
    revoked = here.key(*ALL, revoked_ms=1)
    await here.auth.refresh()
    for token in (None, "x", revoked):
        for by in ("header", "subprotocol"):
            socket = Socket(here, token, by)
            message = await socket.next()
            assert (message["type"], message["status"]) == ("websocket.http.response.start", 401)
            await socket.task
    socket = Socket(here, weak)
    assert (await socket.next())["status"] == 403
    await socket.task


@pytest.mark.parametrize("kind", sorted(frame_types()))
async def test_every_frame_of_another_user_is_refused(kind: str, here: World) -> None:
    """Bala's socket, with every frame about Asha, and about somebody who is not there: the same answers."""
    assert kind in frames_about(OF_ASHA), f"say in this test what {kind} looks like"
    before = await here.snapshot()
    answers = []
    for about in (OF_ASHA, MISSING):
        socket = Socket(here, here.token(BALA), "subprotocol")
        assert (await socket.next())["subprotocol"] == "samvad.v1"
        socket.send({"type": kind, **frames_about(about)[kind]})
        socket.send({"type": "ping"})
        answers.append(await socket.next())
        await socket.close()
    assert answers[0] == answers[1]
    assert answers[0]["type"] in ("error", "pong")
    assert (answers[0]["type"] == "pong") == (kind == "ping")
    assert await here.snapshot() == before


async def test_a_resume_token_is_good_for_its_user_alone(here: World) -> None:
    """Asha's place cannot be taken by Bala, nor by the same name in another tenant."""
    socket = Socket(here, here.token(ASHA))
    socket.send({"type": "start_session", "userId": ASHA, "sessionId": "session_asha"})
    while (frame := await socket.next()).get("type") != "session_started":
        pass
    resume = {"token": frame["resumeToken"], "epoch": 0, "lastSeq": 0}
    other = here.key(*ALL, tenant="other")
    await here.auth.refresh()
    for token, user in ((here.token(BALA), BALA), (here.token(BALA), ASHA), (other, ASHA)):
        thief = Socket(here, token)
        thief.send({"type": "start_session", "userId": user, "resume": resume})
        found = await thief.until("error", "session_started")
        assert found["code"] in ("invalid_resume_token", "forbidden")
        await thief.close()
    await socket.close()


async def test_another_tenants_socket_sees_its_own_world(here: World) -> None:
    """The same ids in another tenant: a new conversation, with nothing of Asha's in it."""
    key = here.key(*ALL, tenant="other")
    await here.auth.refresh()
    mine = await here.samvad.read_user(ASHA)
    socket = Socket(here, key)
    socket.send({"type": "start_session", "userId": ASHA, "sessionId": "session_asha"})
    started = await socket.until("session_started")
    assert started["history"] == [] and started["seq"] == 0
    socket.send({"type": "user_text", "text": "What do you know?"})
    assert CANARY not in json.dumps(await socket.until("turn_complete"))
    await socket.close()
    assert await here.samvad.read_user(ASHA) == mine


async def test_a_token_of_one_session_talks_in_that_one_alone(here: World) -> None:
    """Another session is refused; left out, the conversation is in the token's session."""
    token = here.token(ASHA, session="session_mine")
    socket = Socket(here, token)
    socket.send({"type": "start_session", "userId": ASHA, "sessionId": "session_asha"})
    assert (await socket.until("error", "session_started"))["code"] == "forbidden"
    socket.send({"type": "start_session", "userId": ASHA})
    while (frame := await socket.next()).get("type") not in ("error", "session_started"):
        pass
    assert frame["sessionId"] == "session_mine"
    await socket.close()


# --- ids that are nearly those of others -----------------------------------------------------------------------


def mutated(name: str, dice: random.Random) -> str:
    """An id that is nearly another one, as a segment of a path."""
    ways = [
        lambda: quote(name).replace("_", "%5F"),
        lambda: "".join(f"%{byte:02x}" for byte in name.encode()),
        lambda: quote(name.upper()),
        lambda: quote(name + dice.choice(" \t\n\0/.\u200b\u00ad\ufeff")),
        lambda: quote(dice.choice(" \t\0.\u200b%") + name),
        lambda: quote(
            unicodedata.normalize(
                dice.choice(["NFD", "NFKC", "NFKD"]), name.replace("a", dice.choice("аａá"))
            )
        ),
        lambda: f"{BALA}%2F..%2F{name}",
        lambda: f"{BALA}/../{name}",
        lambda: quote(name, safe="") + "%00" + BALA,
        lambda: f"default%3A{name}",
        lambda: quote(f"%t{dice.choice(['default', 'other'])}:{name}", safe=""),
        lambda: quote(name)[: dice.randrange(1, len(name))],
        lambda: quote(name.replace(dice.choice(name), dice.choice("*?%_'\"\\[]{}$"))),
        lambda: quote(f'["{name}"]'),
        lambda: quote(f"{name}' OR '1'='1"),
        lambda: quote(f"{name}#{dice.randrange(9)}"),
    ]
    return dice.choice(ways)()


async def probe(here: World, number: int, dice: random.Random) -> None:
    """Ask as Bala, with ids that are nearly Asha's, here and there."""
    before = await here.samvad.read_user(ASHA)
    asked = [route for route in GUARDED if "{" in route.path]
    for _ in range(number):
        route = dice.choice(asked)
        segments = [
            mutated(OF_ASHA[SEGMENTS[segment[1:-1]]], dice) if segment.startswith("{") else segment
            for segment in route.path.split("/")
        ]
        body = bodies(OF_ASHA).get(route.name)
        answer = await here.api(route.method, "/".join(segments), body, headers=bearing(here.token(BALA)))
        assert answer.status in (400, 403, 404, 405), (segments, answer.status, answer.body)
        assert CANARY.encode() not in answer.body
    assert await here.samvad.read_user(ASHA) == before


async def test_ids_that_are_nearly_anothers(here: World) -> None:
    """300 of them; 5,000 in soak."""
    await probe(here, 300, random.Random(6))


@pytest.mark.soak
async def test_many_ids_that_are_nearly_anothers(here: World) -> None:
    """5,000."""
    assert SOAK
    await probe(here, 5_000, random.Random())
