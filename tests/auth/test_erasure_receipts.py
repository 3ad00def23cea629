"""A receipt of an erasing: signed, checked with a key that one trusts, and about nobody whom one does not know."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from samvad import open_samvad
from samvad.auth.erasure_receipts import ErasureSigner, check_receipt
from samvad.errors import InvalidRequest
from samvad.http.app import SamvadApp
from samvad.records import UserKey
from samvad.types import Cleared
from tests.auth.test_audit import requested_body

pytestmark = pytest.mark.anyio
ASHA = UserKey("default", "asha")
CLEARED = Cleared(user_state=True, user_profile=True, sessions=2, interruptions=3, messages=4)


def signed(tmp_path: Path) -> tuple[ErasureSigner, dict[str, Any]]:
    """A signer, and a receipt of it."""
    signer = ErasureSigner(tmp_path)
    return signer, signer.sign(ASHA, CLEARED, {"store (sqlite)": "removed"}, 1)


def test_a_receipt_is_checked_with_the_key_that_is_trusted(tmp_path: Path) -> None:
    """Over restarts it is the same key; the one in the receipt is not asked."""
    signer, receipt = signed(tmp_path)
    data = msgspec.json.encode(receipt)
    again = ErasureSigner(tmp_path)
    assert again.public_key == signer.public_key == receipt["publicKey"]
    fields = check_receipt(msgspec.json.format(data, indent=2), again.public_key, ASHA)
    assert fields["removed"] == {
        "userState": True,
        "userProfile": True,
        "messages": 4,
        "sessions": 2,
        "interruptions": 3,
    }
    assert b"asha" not in data
    for user in (UserKey("default", "Asha"), UserKey("other", "asha")):
        with pytest.raises(InvalidRequest, match="another user"):
            check_receipt(data, again.public_key, user)
    with pytest.raises(InvalidRequest, match="another key"):
        check_receipt(data, ErasureSigner(None).public_key)


def test_each_member_is_signed(tmp_path: Path) -> None:
    """Whatever is changed, added or left out."""
    signer, receipt = signed(tmp_path)
    for name in receipt:
        for changed in (
            {**receipt, name: "x"},
            {key: value for key, value in receipt.items() if key != name},
        ):
            with pytest.raises(InvalidRequest):
                check_receipt(msgspec.json.encode(changed), signer.public_key)
    with pytest.raises(InvalidRequest):
        check_receipt(msgspec.json.encode({**receipt, "more": 1}), signer.public_key)
    with pytest.raises(InvalidRequest):
        check_receipt(
            msgspec.json.encode({**receipt, "removed": {**receipt["removed"], "messages": 5}}),
            signer.public_key,
        )


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"signature":1}', b"[" * 100_000])
def test_what_is_no_receipt_is_refused(tmp_path: Path, data: bytes) -> None:
    """In one line."""
    with pytest.raises(InvalidRequest, match="no receipt"):
        check_receipt(data, ErasureSigner(tmp_path).public_key)


async def test_the_server_gives_one_where_it_is_asked(tmp_path: Path) -> None:
    """With what was removed, and where; without being asked, the answer is as it was."""
    key = base64.b64encode(os.urandom(32)).decode()
    async with open_samvad(f"sqlite:///{tmp_path}/samvad.db", master_key=key) as samvad:
        app = SamvadApp(samvad)
        samvad.erasure_signer = ErasureSigner(tmp_path)
        await samvad.append_to_user_history("asha", "user", "hello")
        path = "/api/session/refresh"
        status, answer = await requested_body(app, "POST", path, {"userId": "asha", "receipt": True})
        assert status == 200
        receipt = check_receipt(
            msgspec.json.encode(answer["receipt"]), samvad.erasure_signer.public_key, ASHA
        )
        assert receipt["removed"]["messages"] == 1
        assert list(receipt["places"]) == ["memory", "store (sqlite)", "data key"]
        assert "receipt" not in (await requested_body(app, "POST", path, {"userId": "asha"}))[1]
        assert (await requested_body(app, "POST", path, {"userId": "asha", "receipt": "yes"}))[0] == 400
