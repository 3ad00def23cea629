"""The whole API under schemathesis with credentials: what one tenant has made, another one never gets."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from samvad import open_samvad
from samvad.auth.api_keys import ApiKey, make_key
from samvad.auth.authenticator import Authenticator
from samvad.auth.keyring import Keyring
from samvad.clock import SystemClock
from samvad.http.app import create_app
from samvad.types import SCOPES
from tests.auth.world import HeldKeys
from tests.http.support import serving
from tests.http.test_schemathesis import run


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """A server that asks who is asking, and how schemathesis says so: as one tenant or as another."""
    clock, keys = SystemClock(), HeldKeys()
    users = []
    for tenant in ("asha-inc", "bala-ltd"):
        text, key_id, digest = make_key()
        keys.keys.append(
            ApiKey(
                id=key_id,
                name=tenant,
                digest=digest,
                scopes=SCOPES - {"stats", "admin"},
                created_ms=0,
                tenant=tenant,
            )
        )
        users.append({"name": tenant, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {text}"}]})
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auth": users}))
    auth = Authenticator(clock, keyring=Keyring(keys, clock), required=True)
    with serving(app=create_app(open_samvad("memory://"), auth=auth)) as port:
        yield port, {"wfc": {"path": str(file), "peers": ["asha-inc", "bala-ltd"]}}


@pytest.mark.soak  # two minutes on a busy machine
def test_the_whole_api_with_credentials(asked: tuple[int, dict[str, Any]]) -> None:
    """A few hundred cases: no answer without credentials, none to the other tenant, no 5xx."""
    port, auth = asked
    found = run(port, max_examples=4, seed=2, auth=auth)  # without the phase that tries every bound
    assert sum(found.cases.values()) >= 100
    assert {200, 400, 401, 403} <= set(found.statuses), found.statuses


@pytest.mark.soak
def test_the_whole_api_with_credentials_at_length(asked: tuple[int, dict[str, Any]]) -> None:
    """50,000 cases."""
    port, auth = asked
    cases = 0
    for seed in itertools.count(1):
        cases += sum(run(port, max_examples=150, seed=seed, auth=auth).cases.values())
        if cases >= 50_000:
            return
