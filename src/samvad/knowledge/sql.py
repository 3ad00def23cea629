"""What the documents' database and the indexes ask alike."""

from __future__ import annotations

from samvad.knowledge.records import Filter


def filter_sql(condition: Filter) -> tuple[str, tuple[str, ...]]:
    """A condition on the columns `category`, `language` (short, lower case) and `tags` (JSON); empty for none."""
    parts: list[str] = []
    values: list[str] = []
    if condition.category is not None:
        parts.append("category = ?")
        values.append(condition.category)
    if condition.language is not None:
        parts.append("language = ?")
        values.append(condition.language.partition("-")[0].lower())
    if condition.tags:
        marks = ", ".join("?" * len(condition.tags))
        parts.append(f"EXISTS (SELECT 1 FROM json_each(tags) WHERE value IN ({marks}))")  # noqa: S608
        values += condition.tags
    return " AND ".join(parts), tuple(values)
