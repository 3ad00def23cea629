"""Names and heads of Firestore documents, without a database."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from samvad.records import StoredMessage, UserKey
from samvad.stores.firestore_head import SEGMENT_BYTES_MAX, TAIL_BYTES_MAX, TAIL_MESSAGES_MAX, sealed_runs
from samvad.stores.firestore_names import Names, document_id, place

HOSTILE = (
    "__x__",
    "__id7__",
    ".",
    "..",
    "%",
    "%25",
    "%u__x__",
    "a:b",
    ":",
    "x" * 256,
    "%" * 256,
    "\u0909\u092a",
)


def test_ids_are_names_that_firestore_takes() -> None:
    """No document id is empty, reserved, too long or holds a slash, whatever the tenant and the id."""
    for tenant in ("default", "Default", "acme", "__x__", ":", "%"):
        for name in HOSTILE:
            encoded = document_id(tenant, name)
            assert "/" not in encoded
            assert 0 < len(encoded.encode()) <= 1_500
            assert encoded not in (".", "..")
            assert not (encoded.startswith("__") and encoded.endswith("__"))


def test_ordinary_ids_of_the_only_tenant_stand_as_they_are() -> None:
    """Profiles of the older layout are found under their user's id."""
    for name in ("asha", "asha@example.com", "user:42", "100%", "a b", "\u0909\u092a\u092f\u094b", "_x_"):
        assert document_id("default", name) == name


@given(
    st.lists(
        st.tuples(st.sampled_from(["default", "a", "a:b", "%t"]), st.text("ab:%/_.", max_size=6)), unique=True
    )
)
def test_no_two_ids_share_a_name(pairs: list[tuple[str, str]]) -> None:
    """A name tells tenant and id apart, wherever one ends and the other begins."""
    assert len({document_id(*pair) for pair in pairs}) == len(pairs)


@given(st.lists(st.tuples(st.text("ab:%", max_size=4), st.text("ab:%", max_size=4)), unique=True))
def test_no_two_interruptions_share_a_name(pairs: list[tuple[str, str]]) -> None:
    """The name of an interruption tells its session and its id apart."""
    names = Names("p", "d")
    assert len({names.interruption("default", *pair) for pair in pairs}) == len(pairs)


def test_lives_come_one_after_the_other() -> None:
    """A place in a later life is behind every place in an earlier one."""
    assert place(0, 1) < place(0, 10**9) < place(1, 1) < place(7, 1) < 2**63


def message(seq: int, size: int) -> StoredMessage:
    """A message of about `size` bytes."""
    return StoredMessage(seq, f"m{seq}", "user", 0, b"x" * size)


@given(st.lists(st.integers(1, 500_000), max_size=250))
def test_sealing_loses_nothing_and_keeps_bounds(sizes: list[int]) -> None:
    """What is sealed and what is left is what there was; every document stays well under 1 MiB."""
    tail = tuple(message(seq, size) for seq, size in enumerate(sizes, 1))
    runs, count = sealed_runs(tail)
    left = tail[count:]
    assert tuple(m for run in runs for m in run) + left == tail
    assert len(left) <= TAIL_MESSAGES_MAX
    assert sum(len(m.body) for m in left) <= TAIL_BYTES_MAX
    for run in runs:
        assert len(run) == 1 or sum(len(m.body) for m in run) <= SEGMENT_BYTES_MAX


def test_users_live_in_paths_of_their_tenant() -> None:
    """The same user id of two tenants is two documents."""
    names = Names("p", "(default)")
    assert names.head(UserKey("default", "asha")) != names.head(UserKey("acme", "asha"))
    assert "acme" in names.head(UserKey("acme", "asha"))
