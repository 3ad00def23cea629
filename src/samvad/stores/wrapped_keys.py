"""Keys as they stand in a key store, wrapped, in MessagePack: an entry for each user, and one for the rings."""

from __future__ import annotations

import msgspec

from samvad.errors import Unreadable


class Ring(msgspec.Struct, array_like=True):
    """A key that wraps data keys."""

    ring_id: bytes
    wraps: dict[str, bytes]  # by the id of the master key


class Rings(msgspec.Struct, array_like=True):
    """All ring keys of a store, and what is believed there."""

    rings: list[Ring] = []
    strict: bool = False  # nothing that is not sealed is to be believed
    documents_strict: bool | None = None  # the same of the knowledge base; None: nobody has looked yet


class Wrapped(msgspec.Struct, array_like=True):
    """The data key of one life of a user."""

    epoch: int
    key_id: bytes
    ring_id: bytes
    key: bytes


class UserKeys(msgspec.Struct, array_like=True):
    """What is kept of a user's keys."""

    keys: list[Wrapped] = []
    destroyed: int = -2  # lives up to this one have no key any more, and never will
    user: tuple[str, str] | None = None  # while an erasing is under way


rings_of = msgspec.msgpack.Decoder(Rings).decode
_decode_keys = msgspec.msgpack.Decoder(UserKeys).decode
encoded = msgspec.msgpack.encode


def user_keys(value: bytes) -> UserKeys:
    """An entry, read; Unreadable where it was changed."""
    try:
        return _decode_keys(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Unreadable(
            "The keys of this user were changed: restore them, or erase the user, which always works."
        ) from None


def user_keys_or_none(value: bytes) -> UserKeys:
    """As `user_keys`; no keys where they were changed: what they sealed is not read, and can be erased."""
    try:
        return user_keys(value)
    except Unreadable:
        return UserKeys()


def newest_life(value: bytes) -> int:
    """The last life of which an entry holds a key, as it stands in a key store; -3 where it holds none."""
    return max((each.epoch for each in user_keys_or_none(value).keys), default=-3)


def ring_ids(value: bytes) -> frozenset[bytes]:
    """The names of the ring keys in the entry that holds them."""
    return frozenset(ring.ring_id for ring in rings_of(value).rings)


def bound_to(hashed: bytes, epoch: int, key_id: bytes) -> bytes:
    """What a wrapped data key is bound to: whose it is, and of which life."""
    return b"samvad data key\0" + hashed + epoch.to_bytes(8, "big", signed=True) + key_id
