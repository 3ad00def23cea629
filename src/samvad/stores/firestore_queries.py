"""Queries as Firestore takes them, and their shapes, which tell what indexes they need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from google.cloud.firestore_v1.types import query as query_types

Query: Any = query_types.StructuredQuery.pb()
_OPERATORS: Any = query_types.StructuredQuery.FieldFilter.Operator
_DESCENDING: Final = 2


class QueryShape(NamedTuple):
    """What an index must offer for a query: its collection, filters (field, operator), orders and sums."""

    collection: str
    filters: tuple[tuple[str, str], ...]
    orders: tuple[tuple[str, str], ...]
    sums: tuple[str, ...] = ()


def query(
    collection: str,
    *filters: tuple[str, str, Any],
    order: Sequence[tuple[str, str]] = (),
    limit: int | None = None,
    only_names: bool = False,
) -> Any:
    """A query over a collection: `filters` are (field, operator, value), all of which must hold."""
    wanted = Query()
    wanted.from_.add(collection_id=collection)
    if len(filters) == 1:
        _fill(wanted.where.field_filter, *filters[0])
    elif filters:
        wanted.where.composite_filter.op = 1  # AND
        for each in filters:
            _fill(wanted.where.composite_filter.filters.add().field_filter, *each)
    for field, direction in order:
        each = wanted.order_by.add(direction=_DESCENDING if direction == "DESCENDING" else 1)
        each.field.field_path = field
    if limit is not None:
        wanted.limit.value = limit
    if only_names:
        wanted.select.fields.add().field_path = "__name__"
    return wanted


def _fill(wanted: Any, field: str, operator: str, value: Any) -> None:
    wanted.field.field_path = field
    wanted.op = int(_OPERATORS[operator])
    values = value if isinstance(value, list) else [value]
    for each in values:
        target = wanted.value.array_value.values.add() if isinstance(value, list) else wanted.value
        if isinstance(each, bool):
            target.boolean_value = each
        elif isinstance(each, int):
            target.integer_value = each
        else:
            target.string_value = each


def shape(wanted: Any, sums: tuple[str, ...] = ()) -> QueryShape:
    """The shape of a query."""
    where = wanted.where
    single = [where.field_filter] if where.HasField("field_filter") else []
    filters = [*single, *(each.field_filter for each in where.composite_filter.filters)]
    return QueryShape(
        wanted.from_[0].collection_id,
        tuple(sorted((each.field.field_path, _OPERATORS(each.op).name) for each in filters)),
        tuple(
            (each.field.field_path, "DESCENDING" if each.direction == _DESCENDING else "ASCENDING")
            for each in wanted.order_by
        ),
        sums,
    )
