"""Read rows from the original release of the Amazon Shopping Queries data set (ESCI).

Its two parquet files, examples and products, are joined on product id and locale.
Reddy et al. 2022, https://arxiv.org/abs/2206.06588; https://github.com/amazon-science/esci-data
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from aisle.data.rows import Problem, Row
from aisle.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ESCI_GAINS", "EsciLocale", "EsciSplit", "EsciVersion", "iter_esci_rows"]

ESCI_GAINS = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}
"""Gains of exact, substitute, complement and irrelevant that the paper sets for nDCG."""

EsciSplit = Literal["train", "test"]
EsciLocale = Literal["us", "es", "jp"]
EsciVersion = Literal["small", "large"]

_EXAMPLES = "shopping_queries_dataset_examples.parquet"
_PRODUCTS = "shopping_queries_dataset_products.parquet"
_EXAMPLE_COLUMNS = ["query", "query_id", "product_id", "esci_label"]
_PRODUCT_COLUMNS = ["product_title", "product_brand"]
_BATCH = 8192


def iter_esci_rows(
    folder: Path, *, split: EsciSplit, locale: EsciLocale, version: EsciVersion
) -> Iterator[Row]:
    """Return the rows of one split: query, query_id, product_id, product_title, product_brand, esci_label.

    `read_pairs` finds these columns by name. Row numbers are those of the examples file. An example without
    its product is a row with a problem. Memory holds the examples of the split, and the titles and brands of
    their products.

    Args:
        folder: Folder with the two parquet files of the release.
        split: Split of the queries, as the release divides them.
        locale: Marketplace; each query belongs to one.
        version: `small` is the subset of harder queries for the ranking task.

    Raises:
        DataError: An argument is unknown, a file is missing or damaged, or no example is left.
    """
    for flag, value, kind in (
        ("split", split, EsciSplit),
        ("locale", locale, EsciLocale),
        ("version", version, EsciVersion),
    ):
        if value not in get_args(kind):
            raise DataError(f"ESCI: there is no {flag} {value!r}; it is one of {', '.join(get_args(kind))}.")
    for name in (_EXAMPLES, _PRODUCTS):
        if not (Path(folder) / name).is_file():
            raise DataError(
                f"{folder}: there is no {name}. The folder must hold {_EXAMPLES} and {_PRODUCTS} of the "
                "original ESCI release."
            )
    return _joined_rows(Path(folder), split, locale, version)


def _joined_rows(folder: Path, split: str, locale: str, version: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.compute as pc

    path = folder / _EXAMPLES
    try:
        examples = _read_examples(path, split, locale, version)
        products = _read_products(folder / _PRODUCTS, locale, examples["product_id"])
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{folder}: the ESCI release cannot be read, a file is damaged: {reason}") from None
    if not examples.num_rows:
        raise DataError(f"{path}: no example has split {split!r}, locale {locale!r} and version {version!r}.")
    where = pc.index_in(examples["product_id"], value_set=products["product_id"])
    for start in range(0, examples.num_rows, _BATCH):
        part, at = examples.slice(start, _BATCH), where.slice(start, _BATCH)
        titles = products.take(at)
        columns = {name: part[name].to_pylist() for name in _EXAMPLE_COLUMNS}
        columns |= {name: titles[name].to_pylist() for name in _PRODUCT_COLUMNS}
        numbers, found = part["number"].to_pylist(), at.is_valid().to_pylist()
        for number, is_found, values in zip(numbers, found, zip(*columns.values(), strict=True), strict=True):
            row = dict(zip(columns, values, strict=True))
            if is_found:
                yield Row(str(path), number, row)
            else:
                problem = Problem(
                    f"product_id is not among the products of locale {locale}", row["product_id"]
                )
                yield Row(str(path), number, {}, None, problem)


def _read_examples(path: Path, split: str, locale: str, version: str) -> pa.Table:
    """Return the examples of a split, with their row `number` in the file from 1."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    filters = {"split": split, "product_locale": locale, f"{version}_version": 1}
    parts, first = [], 1
    with pq.ParquetFile(path) as file:
        wanted = [*_EXAMPLE_COLUMNS, *filters]
        _require(path, file.schema_arrow.names, wanted)
        # Batches and a mask instead of a pushed-down filter, which would lose the row numbers.
        for batch in file.iter_batches(batch_size=2**16, columns=wanted):
            table = pa.Table.from_batches([batch])
            mask = pa.chunked_array([pa.repeat(True, batch.num_rows)])
            for column, value in filters.items():
                mask = pc.and_(mask, pc.equal(table[column], value))
            numbers = pa.array(range(first, first + batch.num_rows), type=pa.int64())
            parts.append(_plain(table.select(_EXAMPLE_COLUMNS)).append_column("number", numbers).filter(mask))
            first += batch.num_rows
    if not parts:
        raise DataError(f"{path}: the file holds no rows.")
    return pa.concat_tables(parts)


def _read_products(path: Path, locale: str, ids: pa.ChunkedArray) -> pa.Table:
    """Return id, title and brand of the products of a locale that are among `ids`."""
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    source = ds.dataset(path, format="parquet")
    _require(path, source.schema.names, ["product_id", "product_locale", *_PRODUCT_COLUMNS])
    wanted = pc.unique(ids).cast(source.schema.field("product_id").type)
    keep = (ds.field("product_locale") == locale) & ds.field("product_id").isin(wanted)
    return _plain(source.to_table(columns=["product_id", *_PRODUCT_COLUMNS], filter=keep))


def _plain(table: pa.Table) -> pa.Table:
    """Return the table with all texts as large strings: writers differ, and a join needs one type."""
    import pyarrow as pa

    fields = [
        field.with_type(pa.large_string()) if field.name != "query_id" else field for field in table.schema
    ]
    return table.cast(pa.schema(fields))


def _require(path: Path, names: list[str], wanted: list[str]) -> None:
    missing = [name for name in wanted if name not in names]
    if missing:
        raise DataError(
            f"{path}: there is no column {', '.join(map(repr, missing))}; this is not a file of the original "
            f"ESCI release. The columns are: {', '.join(names)}."
        )
