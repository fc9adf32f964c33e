"""Show the answers to a query as a table: a line per product, with its title or chosen columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from aisle.commands.terminal import printable
from aisle.errors import ConfigError
from aisle.index import SearchIndex
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN, TITLE_COLUMNS

SHOWN_CHARACTERS = 120


def chosen_fields(fields: str | None, index: SearchIndex) -> list[str] | None:
    """Return the columns of --fields; None for all.

    Raises:
        ConfigError: The index has no such column.
    """
    if fields is None:
        return None
    there = [name for name in index.products.column_names if name not in (ID_COLUMN, TEXT_COLUMN)]
    if fields in there:  # a name may contain commas
        return [fields]
    names = [name.strip() for name in fields.split(",")]
    unknown = [name for name in names if name not in there]
    if unknown:
        raise ConfigError(
            f"--fields {fields}: the index has no column {unknown[0]!r}; it has {', '.join(there) or 'none'}"
        )
    return names


def answer_table(text: str, results: Sequence[Mapping[str, Any]], *, fields: Sequence[str] | None) -> Table:
    """Return the answer to a query as a table with a line for each product.

    Args:
        text: Text of the query.
        results: Rank, scores, product_id and payload of each product.
        fields: Columns to show; None shows the title, or the first column that is not empty.
    """
    table = Table(title=Text(printable(text)), title_justify="left", box=box.SIMPLE_HEAD)
    scores = [name for name in ("score", "cosine") if results and name in results[0]] or ["score"]
    for name in ("rank", *scores):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("id", no_wrap=True)
    for name in ["product"] if fields is None else fields:
        table.add_column(Text(printable(name)))
    for result in results:
        payload = result["payload"]
        shown = [_title(payload)] if fields is None else [payload[name] for name in fields]
        table.add_row(
            str(result["rank"]),
            *(f"{result[name]:.4f}" for name in scores),
            Text(printable(result["product_id"])),
            *map(_line, shown),
        )
    if not results:
        table.caption = "no product was found, or all scores are below --min_score"
    return table


def _title(payload: Mapping[str, Any]) -> Any:
    """Return the title of a product, or its first value that is not empty."""
    filled = {name: value for name, value in payload.items() if value not in (None, "")}
    return next((filled[name] for name in TITLE_COLUMNS if name in filled), next(iter(filled.values()), ""))


def _line(value: Any) -> Text:
    """Return a value on one line, cut off at the width of its column."""
    text = "" if value is None else " ".join(printable(str(value)).split())
    if len(text) > SHOWN_CHARACTERS:
        text = text[: SHOWN_CHARACTERS - 1] + "…"
    return Text(text, no_wrap=True, overflow="ellipsis")
