"""Lists of an annotation file that are tables: a data frame's columns, or columns with rows of values."""

from typing import Any


def read_table(entries: object) -> list[dict[str, Any]] | None:
    """Returns the rows of {"id": {"0": 1, ...}, ...}, {"id": [1, ...], ...} or {"columns": [...], "data": [[...]]}.

    These are what pandas writes. Returns None if `entries` is not a table.
    """
    if not isinstance(entries, dict):
        return None
    names, data = entries.get("columns"), entries.get("data")
    if isinstance(names, list) and isinstance(data, list):
        rows = [row for row in data if isinstance(row, list) and len(row) == len(names)]
        return [dict(zip(map(str, names), row, strict=True)) for row in rows] if len(rows) == len(data) else None
    columns = list(entries.values())
    if not {"id", "file_name", "image_id", "name"} & set(entries) or not columns:
        return None
    if all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):
        return [{name: column[row] for name, column in entries.items()} for row in columns[0]]
    if all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns) and len(columns[0]) > 1:
        return [dict(zip(entries, row, strict=True)) for row in zip(*columns, strict=True)]
    return None
