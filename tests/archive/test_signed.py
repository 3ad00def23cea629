"""Signed archives: who made one, and that nothing of it was changed, whoever rewrites the manifest with it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from typer.testing import CliRunner

from samvad.archive.checking import checked_archive
from samvad.auth.erasure_receipts import KEY_FILE, ErasureSigner
from samvad.cli import app
from samvad.errors import SetupError
from samvad.runtime import open_samvad
from tests.archive.support import ASHA, archive, members, packed, populate
from tests.http.support import Api
from tests.knowledge.here import engine_here

SIGNER = ErasureSigner(None)


__all__ = ["engine_here"]
pytestmark = pytest.mark.usefixtures("engine_here")


@pytest.fixture(scope="module")
def good() -> dict[str, bytes]:
    """The members of a signed archive, by the name of each."""

    async def make() -> dict[str, bytes]:
        async with open_samvad("memory://", record_interruptions=True) as samvad:
            await populate(samvad)
            return members(await archive(samvad, signer=SIGNER))

    return asyncio.run(make())


def call(*arguments: str) -> tuple[int, str]:
    """Run a command in this process; how it ended, and what it said."""
    done = CliRunner().invoke(app, ["user", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return (2 if isinstance(done.exception, SetupError) else 1), str(done.exception)
    return done.exit_code, done.output


def as_it_is(found: dict[str, bytes]) -> bytes:
    """The archive with its own manifest, byte for byte."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, body in found.items():
            made.writestr(name, body)
    return out.getvalue()


def test_anybody_can_check_the_signature(good: dict[str, bytes]) -> None:
    """With the format as it is documented and any Ed25519."""
    told = json.loads(good["signature.json"])
    assert list(good)[-2:] == ["manifest.json", "signature.json"] and told["algorithm"] == "Ed25519"
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(told["publicKey"]))
    key.verify(base64.b64decode(told["signature"]), b"samvad-user-archive\0" + good["manifest.json"])
    assert told["publicKey"] == SIGNER.public_key


def forged(found: dict[str, bytes]) -> bytes:
    """Other words, and a manifest that is right for them."""
    return packed(found | {"history.jsonl": found["history.jsonl"].replace(b"Good", b"Evil")})


FORGED: dict[str, tuple[Callable[[dict[str, bytes]], bytes], str]] = {
    "words": (forged, "was altered since it was signed"),
    "whose": (
        lambda found: packed(found, exportedAt="2020-01-01T00:00:00.000Z"),
        "altered since it was signed",
    ),
    "of another": (
        lambda found: as_it_is(found | {"signature.json": _signed_by_others(b"{}")}),
        "altered since it was signed",
    ),
    "key swapped": (
        lambda found: as_it_is(
            found
            | {
                "signature.json": found["signature.json"].replace(
                    SIGNER.public_key.encode(), ErasureSigner(None).public_key.encode()
                )
            }
        ),
        "altered since it was signed",
    ),
    "no key": (
        lambda found: as_it_is(
            found | {"signature.json": found["signature.json"].replace(SIGNER.public_key.encode(), b"x")}
        ),
        "A public key is 32 bytes",
    ),
    "other algorithm": (
        lambda found: as_it_is(
            found | {"signature.json": found["signature.json"].replace(b"Ed25519", b"none")}
        ),
        "altered since it was signed",
    ),
    "no signature": (lambda found: as_it_is(found | {"signature.json": b"{}"}), "cannot be read"),
    "empty": (
        lambda found: as_it_is(
            found
            | {
                "signature.json": json.dumps(
                    {"algorithm": "Ed25519", "publicKey": SIGNER.public_key, "signature": ""}
                ).encode()
            }
        ),
        "altered since it was signed",
    ),
    "long": (lambda found: as_it_is(found | {"signature.json": b" " * 5_000}), "is longer than any"),
    "named": (
        lambda found: packed(found, members=[{"name": "signature.json", "bytes": 0, "sha256": "0" * 64}]),
        "members",
    ),
}


def _signed_by_others(manifest: bytes) -> bytes:
    from samvad.archive.signing import signed

    return signed(manifest, ErasureSigner(None))


@pytest.mark.parametrize("name", FORGED)
def test_what_was_altered_since_is_refused(name: str, good: dict[str, bytes], tmp_path: Path) -> None:
    """In one line, before anything is written, whatever the checksums say."""
    make, why = FORGED[name]
    path = tmp_path / "a.zip"
    path.write_bytes(make(dict(good)))
    with pytest.raises(SetupError, match=why), checked_archive(path):
        pass


def test_who_signed_is_told_and_may_be_demanded(
    good: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By import and by verify-archive; a forger's own signature is another key's, and nobody's is a word."""
    monkeypatch.chdir(tmp_path)
    own = ErasureSigner(tmp_path / "own").public_key
    archives = {
        "ours": packed_and_signed(good, ErasureSigner(tmp_path / "own")),
        "theirs": as_it_is(good),
        "nobodys": as_it_is({name: body for name, body in good.items() if name != "signature.json"}),
    }
    for name, data in archives.items():
        Path(f"{name}.zip").write_bytes(data)
    words = {
        "ours": f"signed by this server, with the key {own}",
        "theirs": f"signed with the key {SIGNER.public_key}: is that the key of who should have made it?",
        "nobodys": "not signed: whoever had the file may have altered it",
    }
    for number, name in enumerate(archives):
        for verb, more in (("verify-archive", ()), ("import", ("--store", f"sqlite:///{number}.db"))):
            code, told = call(verb, f"{name}.zip", "--data-dir", "own", *more)
            assert code == 0 and words[name] in told, told
        assert call("verify-archive", f"{name}.zip", "--data-dir", "own")[1].startswith(
            "5 messages, 2 sessions"
        )
        for demanded, good_ones in (
            (("--require-signature",), {"ours"}),
            (("--public-key", SIGNER.public_key), {"theirs"}),
            (("--require-signature", "--public-key", own), {"ours"}),
        ):
            code, told = call("verify-archive", f"{name}.zip", "--data-dir", "own", *demanded)
            assert code == (0 if name in good_ones else 1), told
            code, told = call(
                "import", f"{name}.zip", "--data-dir", "own", "--store", f"sqlite:///{number}-x.db", *demanded
            )
            assert code == (0 if name in good_ones else 2), told
            assert name in good_ones or told.endswith("; nothing was imported.")
    code, told = call("verify-archive", "theirs.zip", "--data-dir", "nowhere", "--require-signature")
    assert code == 1 and not Path("nowhere", KEY_FILE).exists()
    Path("forged.zip").write_bytes(forged(dict(good)))
    code, told = call("verify-archive", "forged.zip", "--data-dir", "own")
    assert code == 1 and told == "forged.zip: it was altered since it was signed."


def packed_and_signed(found: dict[str, bytes], signer: ErasureSigner) -> bytes:
    """The archive signed anew."""
    from samvad.archive.signing import signed

    return as_it_is(found | {"signature.json": signed(found["manifest.json"], signer)})


def test_the_api_and_the_command_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the key that signs receipts of erasings, in the data directory."""
    monkeypatch.chdir(tmp_path)
    signer = ErasureSigner(tmp_path / "data")

    async def exported() -> bytes:
        async with open_samvad("sqlite:///a.db", record_interruptions=True) as samvad:
            samvad.erasure_signer = signer
            await populate(samvad)
            return (await Api(samvad).get(f"/api/session/{ASHA}/export")).body

    Path("api.zip").write_bytes(asyncio.run(exported()))
    call("export", ASHA, "--archive", "cli.zip", "--store", "sqlite:///a.db", "--data-dir", "data")
    for name in ("api.zip", "cli.zip"):
        with checked_archive(Path(name)) as found:
            assert found.signed_by == signer.public_key, name
