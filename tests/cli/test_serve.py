"""`samvad serve` as a process: when it says it is ready, how it stops, and what it refuses."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import select
import signal
import socket
from pathlib import Path

import pytest

from samvad import __version__
from tests.cli.processes import WAIT_S, Server, refusal, run
from tests.support import loudly_skip

BODY = json.dumps({"role": "user", "content": "What documents do I need?"}).encode()
HISTORY = "/api/session/user_456/history"


def answer_of(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def test_it_prints_one_line_and_answers_at_once(tmp_path: Path) -> None:
    """The line has the address with the port that was picked, and requests are answered from then on."""
    with Server(tmp_path) as server:
        assert re.fullmatch(
            rf"samvad {re.escape(__version__)} listening on http://127\.0\.0\.1:[1-9]\d+\n", server.ready_line
        )
        assert server.request("GET", "/readyz")[0] == 200
        server.signal()
        assert server.exit_code() == 0
        assert server.more_output() == ""
        assert "only this machine can connect" in "".join(server.errors)
    assert (tmp_path / "data" / "samvad.db").exists()


def test_ipv6_addresses_are_printed_in_brackets(tmp_path: Path) -> None:
    """The address can be pasted into a browser."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        loudly_skip("this machine has no IPv6 loopback")
    with Server(tmp_path, "--host", "::1", "--store", "memory://") as server:
        assert server.url.startswith("http://[::1]:")
        assert server.request("GET", "/healthz")[0] == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_what_is_in_flight(number: int, tmp_path: Path) -> None:
    """A request whose body is on its way when the signal comes is answered, kept, and the exit code is 0."""
    with Server(tmp_path, "--drain-s", "60") as server:
        connection = server.half_a_request(HISTORY, BODY, 10)
        server.signal(number)
        server.wait_until_it_accepts_nothing()
        connection.sendall(BODY[10:])
        answer = answer_of(connection)
        connection.close()
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert b'"durability":"stored"' in answer
        assert b"connection: close" in answer.lower()
        assert server.exit_code() == 0
        assert "Traceback" not in "".join(server.errors)
    with Server(tmp_path) as server:
        assert server.request("GET", "/api/session/user_456/profile")[1]["profile"]["historyLength"] == 1


def test_idle_connections_do_not_delay_the_stop(tmp_path: Path) -> None:
    """Connections that are kept alive, or have said nothing or half a head yet, are closed at once."""
    with Server(tmp_path, "--drain-s", "300", "--store", "memory://") as server:
        idle = http.client.HTTPConnection(*server.address, timeout=WAIT_S)
        idle.request("GET", "/healthz")
        idle.getresponse().read()
        silent = socket.create_connection(server.address, timeout=WAIT_S)
        half = socket.create_connection(server.address, timeout=WAIT_S)
        half.sendall(b"GET /healthz HTTP/1.1\r\nho")
        server.signal()
        assert server.exit_code() == 0
        for connection in (idle.sock, silent, half):
            assert answer_of(connection) == b""
            connection.close()


def test_a_client_that_never_ends_is_cut_off(tmp_path: Path) -> None:
    """The time to stop is bounded; what is not finished gets no answer rather than a false one."""
    with Server(tmp_path, "--drain-s", "0.2") as server:
        connection = server.half_a_request(HISTORY, BODY, 10)
        server.signal()
        assert server.exit_code() == 0
        with contextlib.suppress(ConnectionResetError):
            assert answer_of(connection) == b""
        connection.close()
        assert "Traceback" not in "".join(server.errors)


def test_a_second_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    """Who presses Ctrl-C twice does not want to wait."""
    with Server(tmp_path, "--drain-s", "300") as server:
        connection = server.half_a_request(HISTORY, BODY, 10)
        server.signal(signal.SIGINT)
        server.wait_until_it_accepts_nothing()
        server.signal(signal.SIGINT)
        assert server.exit_code() == 130
        connection.close()


def test_an_endless_head_is_refused(tmp_path: Path) -> None:
    """A request's head is bounded: memory does not grow with what a client sends."""
    with Server(tmp_path, "--store", "memory://") as server:
        connection = socket.create_connection(server.address, timeout=WAIT_S)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nx: ")
        with pytest.raises(ConnectionError):
            for _ in range(10_000):
                connection.sendall(b"a" * 65536)
        connection.close()
        assert server.request("GET", "/healthz")[0] == 200


def test_a_head_that_is_too_large_is_told(tmp_path: Path) -> None:
    """A client that listens while it sends reads why it was cut off."""
    with Server(tmp_path, "--store", "memory://") as server:
        connection = socket.create_connection(server.address, timeout=WAIT_S)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nx: ")
        for number in range(40):
            connection.sendall(b"a" * 16_384)
            if select.select([connection], [], [], 0.5 if number > 3 else 0.0)[0]:
                break
        answer = connection.recv(65536)
        connection.close()
        assert answer.startswith(b"HTTP/1.1 431")
        assert b"application/problem+json" in answer
        assert b"\r\nx-content-type-options: nosniff\r\ncache-control: no-store\r\n" in answer


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    """Exit code 2, the port in the line, no traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"Port {port} of 127.0.0.1 is in use" in refusal(["serve", "--port", port], tmp_path)
    assert not (tmp_path / "data").exists()


def test_a_locked_database_is_one_line(tmp_path: Path) -> None:
    """A second server on one database is refused, with the process that holds it."""
    with Server(tmp_path) as server:
        line = refusal(["serve", "--port", "0"], tmp_path)
        assert f"in use by process {server.process.pid}" in line
        assert server.request("GET", "/readyz")[0] == 200


@pytest.mark.parametrize(
    ("arguments", "extra", "words"),
    [
        (["--store", "postgres://x"], {}, "is not the URL of a store"),
        (["--store", "sqlite://relative.db"], {}, "sqlite:///PATH"),
        (["--host", "0.0.0.0"], {}, "--insecure"),
        (["--host", "::"], {}, "--insecure"),
        (["--host", "no such host"], {}, "--host"),
        (["--host", "192.0.2.1", "--insecure"], {}, "not an address of this machine"),
        (["--port", "http"], {}, "--port must be a whole number"),
        (["--data-dir", "file/below"], {}, "Cannot open the database"),
        (["--data-dir", "/proc/no/where"], {}, "Cannot open the database"),
        ([], {"SAMVAD_PROT": "1"}, "did you mean SAMVAD_PORT?"),
        ([], {"SAMVAD_CACHE_MIB": "all"}, "SAMVAD_CACHE_MIB must be a whole number"),
        (["--prot", "1"], {}, "--port"),
        (["extra"], {}, "unexpected extra argument"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], extra: dict[str, str], words: str, tmp_path: Path
) -> None:
    """Whatever is wrong with the setup is one line on standard error and exit code 2."""
    (tmp_path / "file").write_text("")
    assert words in refusal(["serve", "--port", "0", *arguments], tmp_path, extra)


def test_a_setting_in_the_file_is_read_and_a_wrong_one_named(tmp_path: Path) -> None:
    """`.env` in the working directory counts."""
    (tmp_path / ".env").write_text("SAMVAD_DATA_DIR=elsewhere\n")
    with Server(tmp_path):
        assert (tmp_path / "elsewhere" / "samvad.db").exists()
    (tmp_path / ".env").write_text("SAMVAD_DATADIR=elsewhere\n")
    assert "SAMVAD_DATADIR in .env is not a setting" in refusal(["serve", "--port", "0"], tmp_path)


def test_with_insecure_others_may_connect_and_it_says_what_that_means(tmp_path: Path) -> None:
    """Any address can be listened on, with a warning."""
    with Server(tmp_path, "--host", "0.0.0.0", "--insecure", "--log-format", "json") as server:
        assert server.url.startswith("http://0.0.0.0:")
        server.signal()
        assert server.exit_code() == 0
        lines = [json.loads(line) for line in server.errors]
        assert any(line["level"] == "warning" and "no credentials" in line["message"] for line in lines)


def test_commands_work_beside_a_running_server(tmp_path: Path) -> None:
    """Looking is free; erasing is sent to the server, with the request that does it."""
    with Server(tmp_path) as server:
        assert server.request("POST", HISTORY, {"role": "user", "content": "Hello"})[0] == 200
        shown = run(["user", "show", "user_456"], tmp_path)
        assert "Hello" in shown.stdout
        assert json.loads(run(["stats", "--json"], tmp_path).stdout)["totalMessages"] == 1
        assert "exported 1 users" in run(["export", "-o", "all.jsonl"], tmp_path).stderr
        doctor = run(["doctor"], tmp_path)
        assert doctor.returncode == 0, doctor.stdout
        assert f"by process {server.process.pid}" in doctor.stdout
        line = refusal(["user", "erase", "user_456", "--yes"], tmp_path)
        assert 'POST /api/session/refresh {"userId":"user_456"}' in line
        (tmp_path / "some.jsonl").write_text("")
        assert "in use by process" in refusal(["import", "some.jsonl"], tmp_path)
        assert server.request("GET", "/api/session/user_456/profile")[1]["profile"]["historyLength"] == 1


@pytest.mark.parametrize("name", ["audit.key", "erasures.key", "live.key", "logs.key", "tokens.key"])
def test_a_damaged_key_is_told_at_the_start(tmp_path: Path, name: str) -> None:
    """Not when the first user is to be erased, or the first token minted."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_text("not a key")
    told = refusal(["serve", "--port", "0"], tmp_path)
    assert told.startswith(f"samvad: data/{name} does not hold a key of 32 bytes"), told


def test_that_nobody_is_let_in_is_told(tmp_path: Path) -> None:
    """Credentials are asked for, and none were made: the log says how to make one."""
    with Server(tmp_path, "--auth", "required") as server:
        server.signal()
        assert server.exit_code() == 0
        assert "samvad keys create --name NAME" in "".join(server.errors)
    run(["keys", "create", "--name", "one"], tmp_path)
    with Server(tmp_path, "--auth", "required") as server:
        server.signal()
        assert server.exit_code() == 0
        assert "nobody is let in" not in "".join(server.errors)
