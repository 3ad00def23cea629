"""The server with some of its locks on: `python -m benchmarks.locks_servers LOCKS DATA_DIR`.

It is what `samvad serve` runs. LOCKS are words of `LOCKS` joined by `+`, or `none`. Limits hold where credentials are
asked for, so that `limits` brings `auth` with it; their amounts are beyond what a benchmark asks for, or with
`auth+default` those of a server as it comes.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from typing import Any

LOCKS = ("encryption", "auth", "limits", "metrics")
PLENTY = 1_000_000_000
AMOUNTS = ("user_requests", "key_requests", "address_requests", "refused")
MIB = ("user_mib", "key_mib", "address_mib")


def settings(locks: set[str], data_dir: str) -> dict[str, Any]:
    """The settings of a server with these locks."""
    found: dict[str, Any] = {"port": 0, "data_dir": data_dir, "auth": "off", "audit": "off"}
    if locks & {"auth", "limits"}:
        found |= {"auth": "required", "audit": "sensitive"}
    if locks & {"auth", "limits"} and "default" not in locks:
        amount = PLENTY if "limits" in locks else 0
        found |= {f"limit_{name}": amount for name in (*AMOUNTS, "starts", "erasures")}
        found |= {f"limit_{name}": amount // 1024 for name in MIB}
    if "encryption" in locks:
        found["master_key"] = base64.b64encode(hashlib.sha256(data_dir.encode()).digest()).decode()
    return found


def main() -> None:
    """Serve until killed."""
    locks, data_dir = set(sys.argv[1].split("+")) - {"none"}, sys.argv[2]
    from samvad.cli.serve import run
    from samvad.http.metrics import Metrics
    from samvad.settings import Settings

    if "metrics" not in locks:
        Metrics.observe = lambda *_: None  # type: ignore[method-assign]
    run(Settings(**settings(locks, data_dir)))


if __name__ == "__main__":
    main()
