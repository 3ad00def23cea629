"""The composite indexes that the queries need, and for each a query that Firestore answers only with it.

`firestore.indexes.json` at the repository's root declares the same for `firebase deploy`, and the fields that need
no index of their own; a test holds the two and the code's queries together.
https://firebase.google.com/docs/firestore/query-data/index-overview
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from samvad.stores.firestore_queries import query


class Index(NamedTuple):
    """A composite index: its collection and its fields, each with its order; the first `equal` are compared by `==`.

    `summed`: the last field is one that is added up, not one to order by.
    """

    collection: str
    fields: tuple[tuple[str, str], ...]
    equal: int = 1
    summed: bool = False

    @property
    def name(self) -> str:
        """For people: `sessions (tenant, open, activeMs)`."""
        return f"{self.collection} ({', '.join(field for field, _ in self.fields)})"

    def query(self) -> Any:
        """A query that finds nothing, and needs this index."""
        equal = self.fields[: self.equal]
        filters = [(field, "EQUAL", True if field == "open" else "\0none") for field, _ in equal]
        order = [] if self.summed else self.fields[self.equal :]
        return query(self.collection, *filters, order=order, limit=1)

    def sums(self) -> list[str]:
        """The field to add up, if there is one."""
        return [self.fields[-1][0]] if self.summed else []


_ASC: Final = "ASCENDING"
_DESC: Final = "DESCENDING"

COMPOSITES: Final = (
    Index("user_profiles", (("tenant", _ASC), ("userId", _ASC))),
    Index("user_profiles", (("tenant", _ASC), ("activeMs", _ASC))),
    Index("user_profiles", (("tenant", _ASC), ("seq", _ASC)), summed=True),
    Index("user_profiles", (("tenant", _ASC), ("trimmed", _ASC)), summed=True),
    Index("sessions", (("tenant", _ASC), ("open", _ASC), ("activeMs", _ASC)), equal=2),
    Index("sessions", (("life", _ASC), ("open", _ASC), ("activeMs", _DESC)), equal=2),
    Index("interruptions", (("place", _ASC), ("atMs", _DESC), ("id", _DESC))),
    Index("interruptions", (("life", _ASC), ("atMs", _ASC))),
)
