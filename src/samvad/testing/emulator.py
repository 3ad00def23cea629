"""Google's Firestore emulator for tests: found in the Google Cloud SDK, started in half a second, always ended.

The emulator is a component of the SDK (`gcloud components install cloud-firestore-emulator`) and needs Java 17
or newer, but no network. It is started without `gcloud`, which leaves its Java process behind when it is
killed. Tests are kept apart by project: each takes one of its own (`demo-…`), and nothing is ever reset.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path
from typing import IO, Final, Self

_JAR: Final = Path("platform/cloud-firestore-emulator/cloud-firestore-emulator.jar")
_MAIN: Final = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
_START_S_MAX: Final = 30.0
_STARTS_MAX: Final = 3
_POLL_S: Final = 0.02
# The child ends with its parent, however that ends: the pipe on its standard input is closed then.
_WATCHED: Final = """
exec 3<&0
"$@" </dev/null 3<&- & java=$!
(cat <&3 >/dev/null; kill $java; sleep 5; kill -9 $java) >/dev/null 2>&1 &
watcher=$!
wait $java
kill $watcher
"""


class EmulatorMissing(Exception):
    """The emulator cannot be had on this machine; the message says why."""


def find_jar() -> Path:
    """The emulator's jar; EmulatorMissing if there is none."""
    for root in _sdk_roots():
        if (root / _JAR).is_file():
            return root / _JAR
    raise EmulatorMissing(
        "there is no Firestore emulator: `gcloud components install cloud-firestore-emulator`, "
        "or Debian's google-cloud-cli-firestore-emulator"
    )


@functools.cache
def _sdk_roots() -> tuple[Path, ...]:
    roots = [
        Path(root) for name in ("CLOUDSDK_ROOT_DIR", "GOOGLE_CLOUD_SDK") if (root := os.environ.get(name))
    ]
    gcloud = shutil.which("gcloud")
    if gcloud is not None:
        roots += Path(gcloud).resolve().parents
        if not any((root / _JAR).is_file() for root in roots):
            asked = subprocess.run(
                [gcloud, "info", "--format=value(installation.sdk_root)"],
                capture_output=True,
                text=True,
                check=False,
            )
            roots.append(Path(asked.stdout.strip() or "/nowhere"))
    return tuple(roots)


def find_java() -> str:
    """The Java that runs the emulator; EmulatorMissing if there is none."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else None
    java = java or shutil.which("java")
    if java is None:
        raise EmulatorMissing("the Firestore emulator needs Java: install default-jre-headless")
    return java


class FirestoreEmulator:
    """One running emulator; a context manager. It keeps nothing on the disk, and all in a heap of `heap_mib`."""

    def __init__(self, heap_mib: int = 512) -> None:
        self.port = 0
        self._heap_mib = heap_mib
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def host(self) -> str:
        """What FIRESTORE_EMULATOR_HOST must be."""
        return f"127.0.0.1:{self.port}"

    @staticmethod
    def new_project() -> str:
        """A project that nobody has used: an empty database."""
        return f"demo-{uuid.uuid4().hex[:20]}"

    def start(self) -> Self:
        """Start it and wait until it answers; EmulatorMissing where that cannot be."""
        java, jar = find_java(), find_jar()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `stop`)
        for attempt in range(1, _STARTS_MAX + 1):
            self.port = _free_port()
            self._run(java, jar)
            if self._answers():
                return self
            self._end()
            if attempt == _STARTS_MAX:
                self._log.seek(0)
                said = self._log.read().decode(errors="replace")[-2_000:]
                self.stop()
                raise EmulatorMissing(f"the Firestore emulator does not start: {said}")
        return self

    def restart(self) -> None:
        """End it at once, and start an empty one on the same port."""
        self._end()
        self._run(find_java(), find_jar())
        if not self._answers():
            raise EmulatorMissing("the Firestore emulator does not start again")

    def _run(self, java: str, jar: Path) -> None:
        archive = _archive(java, jar)
        sharing = [f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []
        command = [java, f"-Xmx{self._heap_mib}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *sharing]
        command += ["-Xshare:auto", "-Xlog:disable", "-Duser.language=en", "-cp", str(jar), _MAIN]
        assert self._log is not None, "start it first"
        self._process = _spawn([*command, "--host=127.0.0.1", f"--port={self.port}"], self._log)
        if not archive.exists():
            _make_archive(java, jar, archive)

    def _answers(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + _START_S_MAX
        while time.monotonic() < deadline and self._process.poll() is None:
            if _is_up(self.port):
                return True
            time.sleep(_POLL_S)
        return False

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
        assert process.stdin is not None
        process.stdin.close()

    def stop(self) -> None:
        """End it. Ending twice is fine."""
        self._end()
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()


@functools.cache
def shared_emulator() -> FirestoreEmulator:
    """The one emulator that all tests of this process use, ended with it; EmulatorMissing if there is none."""
    emulator = FirestoreEmulator().start()
    atexit.register(emulator.stop)
    return emulator


def _spawn(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", _WATCHED, "emulator", *command],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _archive(java: str, jar: Path) -> Path:
    """Where the classes of this jar and this Java are kept ready, so that starting takes 0.6 s instead of 3."""
    facts = [str(Path(path).resolve().stat()[6:9]) for path in (java, jar)]
    key = hashlib.sha256("".join([str(os.getuid()), *facts]).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"samvad-firestore-emulator-{key}.jsa"


def _make_archive(java: str, jar: Path, archive: Path) -> None:
    """Keep the classes of an emulator that was started and ended once; where it fails, starting stays slow."""
    part = archive.with_suffix(f".{os.getpid()}.part")
    port = _free_port()
    command = [java, "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xlog:disable"]
    command += [f"-XX:ArchiveClassesAtExit={part}", "-Duser.language=en", "-cp", str(jar), _MAIN]
    process = subprocess.Popen(
        [*command, "--host=127.0.0.1", f"--port={port}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + _START_S_MAX
        while not _is_up(port) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(_POLL_S)
        process.terminate()
        process.wait(_START_S_MAX)
        if part.exists():
            part.replace(archive)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        process.wait()
        part.unlink(missing_ok=True)
