"""The timeline as server-sent events: places, what was missed, gaps, erasing, and the end of the server."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from samvad import limits
from tests.cli.processes import Server
from tests.support import wait_until


class Stream:
    """A client of the event stream."""

    def __init__(self, server: Server, user: str = "user_456", last: str | None = None) -> None:
        self._connection = http.client.HTTPConnection(*server.address, timeout=20)
        headers = {} if last is None else {"last-event-id": last}
        self._connection.request("GET", f"/api/live/events?userId={user}", headers=headers)
        self.answer = self._connection.getresponse()

    def next(self) -> dict[str, Any]:
        """The next event: its name, id and data."""
        event: dict[str, Any] = {}
        while True:
            line = self.answer.readline().decode().rstrip("\n")
            if not line and "event" in event:
                return event
            name, _, value = line.partition(": ")
            if name in ("event", "id", "data"):
                event[name] = json.loads(value) if name == "data" else value

    def close(self) -> None:
        """Go away."""
        self.answer.close()
        self._connection.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of its own."""
    with Server(tmp_path, "--data-dir", str(tmp_path / "data")) as running:
        yield running


def append(server: Server, *texts: str) -> None:
    """Append messages of the user."""
    messages = [{"role": "user", "content": text} for text in texts]
    assert server.request("POST", "/api/session/user_456/history", {"messages": messages})[0] == 200


def test_the_head_alone_ends(server: Server) -> None:
    """HEAD has the headers of the stream and nothing behind them: the connection is free for what comes next."""
    connection = http.client.HTTPConnection(*server.address, timeout=20)
    connection.request("HEAD", "/api/live/events?userId=user_456")
    answer = connection.getresponse()
    assert answer.getheader("content-type", "").startswith("text/event-stream") and answer.read() == b""
    connection.request("GET", "/metrics")
    metrics = connection.getresponse().read().decode()
    connection.close()
    assert "samvad_event_streams 0.0" in metrics and "samvad_feed_subscriptions 0.0" in metrics


def test_the_timeline_goes_on_where_it_was_left(server: Server) -> None:
    """What comes is told with its place; who comes back with the last place misses nothing."""
    append(server, "before")
    stream = Stream(server)
    assert stream.answer.getheader("content-type", "").startswith("text/event-stream")
    assert stream.next() == {
        "event": "ready",
        "id": "0:1",
        "data": {"epoch": 0, "seq": 1, "recovered": False},
    }
    append(server, "one\nwith two lines")
    told = stream.next()
    assert (told["event"], told["id"], told["data"]["seq"]) == ("message", "0:2", 2)
    assert told["data"]["message"]["content"] == "one\nwith two lines"
    stream.close()
    append(server, *[f"missed {number}" for number in range(30)])
    stream = Stream(server, last=told["id"])
    assert stream.next()["data"] == {"epoch": 0, "seq": 2, "recovered": True}
    assert [stream.next()["id"] for _ in range(30)] == [f"0:{seq}" for seq in range(3, 33)]
    stream.close()


def test_too_much_is_a_gap(server: Server) -> None:
    """More than is replayed: the gap is named, the rest follows."""
    for _ in range(12):
        append(server, *["x"] * 100)
    stream = Stream(server, last="0:0")
    stream.next()
    gap = stream.next()
    assert gap["event"] == "gap" and gap["data"]["from"] == 1
    assert stream.next()["data"]["seq"] == gap["data"]["to"] + 1
    stream.close()


def test_erasing_is_a_reset(server: Server) -> None:
    """The user was erased: another life begins, and its messages follow."""
    append(server, "secret")
    stream = Stream(server)
    stream.next()
    assert server.request("POST", "/api/session/refresh", {"userId": "user_456"})[0] == 200
    assert stream.next() == {"event": "reset", "id": "1:0", "data": {"epoch": 1, "seq": 0}}
    append(server, "anew")
    assert stream.next()["id"] == "1:1"
    stream.close()
    stream = Stream(server, last="0:1")
    assert stream.next()["data"] == {"epoch": 1, "seq": 0, "recovered": False}
    assert stream.next()["data"]["message"]["content"] == "anew"
    stream.close()


@pytest.mark.parametrize(
    ("query", "last", "code"),
    [
        ("", None, "missing_fields"),
        ("?userId=a%2Fb", None, "invalid_id"),
        ("?userId=u", "x", "invalid_request"),
    ],
)
def test_mistakes_are_told(server: Server, query: str, last: str | None, code: str) -> None:
    """As a problem document, before anything is streamed."""
    connection = http.client.HTTPConnection(*server.address, timeout=20)
    connection.request("GET", f"/api/live/events{query}", headers={"last-event-id": last} if last else {})
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (400, code)
    connection.close()


def test_a_client_without_headers_and_other_methods(server: Server) -> None:
    """The place may stand in the query; what is no GET, or an unknown parameter, is told as everywhere."""
    append(server, "one", "two")
    stream = Stream(server, user="user_456&lastEventId=0:1")
    assert stream.next()["data"] == {"epoch": 0, "seq": 1, "recovered": True}
    assert stream.next()["data"]["message"]["content"] == "two"
    stream.close()
    status, answer = server.request("POST", "/api/live/events?userId=u", {})
    assert (status, answer["code"]) == (405, "method_not_allowed")
    status, answer = server.request("GET", "/api/live/events?userId=u&since=1")
    assert (status, answer["code"]) == (400, "invalid_request")
    status, answer = server.request("GET", "/api/live/events?userId=u&lastEventId=0:x")
    assert (status, answer["code"]) == (400, "invalid_request")


def test_streams_are_counted(server: Server) -> None:
    """In /metrics, under the name that the OpenAPI document gives them, with what they were answered."""
    document = server.request("GET", "/openapi.json")[1]
    operation = document["paths"]["/api/live/events"]["get"]
    assert list(operation["responses"]["200"]["content"]) == ["text/event-stream"]
    assert {each["name"] for each in operation["parameters"]} == {"userId", "lastEventId", "Last-Event-ID"}
    server.request("GET", "/api/live/events")
    connection = http.client.HTTPConnection(*server.address, timeout=20)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    assert f'samvad_requests_total{{route="{operation["operationId"]}",status="400"}} 1.0' in text


def test_nobody_has_all_the_streams(server: Server) -> None:
    """So many of one user's, as of live connections; others have theirs, and one that is closed makes room."""
    streams = [Stream(server) for _ in range(limits.LIVE_SOCKETS_PER_USER_MAX)]
    assert {each.next()["event"] for each in streams} == {"ready"}
    refused = Stream(server)
    assert refused.answer.status == 503
    assert json.loads(refused.answer.read())["code"] == "overloaded"
    other = Stream(server, "user_789")
    assert other.answer.status == 200
    streams.pop().close()

    def room() -> bool:
        again = Stream(server)
        again.close()
        return again.answer.status == 200

    wait_until(room, "there is room")
    for each in (*streams, refused, other):
        each.close()


def test_the_server_stops_with_streams_open(server: Server) -> None:
    """A stream has no end of its own; a stop ends it, at once and cleanly."""
    stream = Stream(server)
    stream.next()
    server.signal()
    assert stream.answer.read() == b""
    stream.close()
    assert server.exit_code() == 0
    assert not any("cut off" in line for line in server.errors)
