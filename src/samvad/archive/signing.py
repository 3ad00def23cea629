"""`signature.json` of an archive: who made it, and that nothing in it was changed since.

The manifest has the SHA-256 of every other member, so the manifest alone is signed: Ed25519 (RFC 8032) over the bytes
`samvad-user-archive` and one of zero, and behind them `manifest.json` as it stands in the archive. The public key that
stands beside the signature proves nothing by itself: it must be known by another way.
"""

from __future__ import annotations

from typing import Final

import msgspec

from samvad.archive import form
from samvad.auth.erasure_receipts import ErasureSigner, is_signed

_CONTEXT: Final = form.FORMAT.encode() + b"\0"


class Signature(msgspec.Struct, kw_only=True, rename="camel"):
    """`signature.json`: both in base64, the key of 32 bytes and the signature of 64."""

    algorithm: str
    public_key: str
    signature: str


def signed(manifest: bytes, signer: ErasureSigner) -> bytes:
    """The member that signs a manifest."""
    signature = signer.signature(_CONTEXT + manifest)
    return form.pretty(Signature(algorithm="Ed25519", public_key=signer.public_key, signature=signature))


def signer_of(manifest: bytes, member: bytes) -> str | None:
    """The public key that signed a manifest; None where the signature is not of it. InvalidRequest if it is no key."""
    found = msgspec.json.decode(member, type=Signature)
    good = found.algorithm == "Ed25519" and is_signed(_CONTEXT + manifest, found.signature, found.public_key)
    return found.public_key if good else None
