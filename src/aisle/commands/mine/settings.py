"""The settings of `mine`, and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aisle.commands.named_inputs import check_data_sets, check_indexes
from aisle.commands.shared_settings import (
    CatalogIdColumn,
    ConfigFile,
    Count,
    Delimiter,
    Encoding,
    Json,
    OnBadRow,
)
from aisle.commands.train.data_settings import DataSettings, data_problems
from aisle.config.annotations import Required
from aisle.config.label_map import LabelGains
from aisle.data.files import expand_files
from aisle.errors import ConfigError
from aisle.types.choices import TrainFormat
from aisle.types.text_languages import Language

OutputFormat = Literal["pairs", "dpr"]
OUTPUT_ENDINGS: dict[OutputFormat, tuple[str, ...]] = {"pairs": (".jsonl", ".parquet"), "dpr": (".json",)}
"""Format of the output to the extensions that it can have."""


@dataclass(frozen=True)
class MineSettings:
    """Find hard negatives: products that rank high for a training query but are not right for it.

    It writes the training data again with --per_query hard negatives for each query. A product that the
    training data mark as right for a query is never its negative; the counts of all reasons are printed.
    """

    train_file: Required[tuple[str, ...]] = ()
    """Training pairs, as for `train`: csv, tsv, jsonl, json or parquet files. They have the products' texts,
    or their ids in --catalog."""
    output_file: Required[str] = ""
    """File to write, .jsonl or .parquet: the pairs with a column hard_negatives (texts), and their ids in
    hard_negative_ids. With --output_format dpr: .json. Hard negatives that the training data already have are
    replaced."""
    catalog: tuple[str, ...] | None = None
    """Catalogue to search: csv, tsv, jsonl, json or parquet files, one row per product."""
    index_dir: str | None = None
    """Directory of an index to search, in place of --catalog. With both, the index's word search is reused if
    it has the same products."""
    source: Literal["bm25"] = "bm25"
    """How products are ranked. bm25: by words, as lexical search does."""
    depth: Count = 200
    """Best products per query to look at."""
    per_query: Count = 4
    """Most hard negatives of a query: the best ranked products that are not excluded."""
    output_format: OutputFormat | None = None
    """Layout of the output. If not given: that of the training data.
    pairs: a row for each pair, in the order of the training data.
    dpr: DPR's json, an object for each query."""
    id_column: CatalogIdColumn = "product_id"
    text_template: str | None = None
    """Text of a product, made from the columns of --catalog, such as "{title} {brand}": the texts of the hard
    negatives, and what is searched. If not given: {title}."""
    language: Literal["auto", Language] = "auto"
    """Language of the texts of --catalog, for the word search. auto: the language of the texts."""
    train_format: TrainFormat = "auto"
    """Layout of the training data, as for `train`."""
    query_column: str | None = None
    """Column with the query. If not given, it is found by its name."""
    product_column: str | None = None
    """Column with the product text. If not given, it is found by its name; without it, pairs name products by
    id."""
    label_column: str | None = None
    """Column with the relevance. If not given, it is found by its name; without it, every pair is a positive.
    "none" reads the pairs as if they had no labels."""
    label_map: LabelGains = None
    query_id_column: str | None = None
    """Column with the query id, if any."""
    product_id_column: str | None = None
    """Column with the product id. If not given: --id_column, or product_id."""
    delimiter: Delimiter = None
    encoding: Encoding = "utf-8"
    on_bad_row: OnBadRow = "error"
    json: Json = False
    config: ConfigFile = None


def data_settings(settings: MineSettings) -> DataSettings:
    """Return how to read the training pairs."""
    return DataSettings(
        train_file=settings.train_file,
        train_format=settings.train_format,
        query_column=settings.query_column,
        product_column=settings.product_column,
        label_column=settings.label_column,
        label_map=settings.label_map,
        query_id_column=settings.query_id_column,
        product_id_column=settings.product_id_column,
        delimiter=settings.delimiter,
        encoding=settings.encoding,
        on_bad_row=settings.on_bad_row,
    )


def mine_problems(settings: MineSettings) -> list[str]:
    """Return one message for each combination of settings that cannot work."""
    problems = []
    if not settings.train_file:
        problems.append("--train_file: required; give the training pairs")
    else:
        problems += data_problems(data_settings(settings))
    if not settings.output_file:
        problems.append("--output_file: required; give the file to write")
    elif settings.output_format is not None:
        problems += output_problem(settings.output_file, settings.output_format)
    if not settings.catalog and settings.index_dir is None:
        problems.append("no products to search: give --catalog or --index_dir")
    if not settings.catalog:
        unread = {
            "--text_template": settings.text_template is not None,
            "--language": settings.language != "auto",
        }
        problems += [f"{flag}: needs --catalog" for flag, given in unread.items() if given]
    if settings.per_query > settings.depth:
        problems.append(
            f"--per_query {settings.per_query}: must be at most --depth {settings.depth}, the number of "
            "products to look at"
        )
    return problems


def output_problem(output_file: str, output_format: OutputFormat) -> list[str]:
    """Return the problem with the extension of the output, if any."""
    endings = OUTPUT_ENDINGS[output_format]
    if output_file.lower().endswith(endings):
        return []
    return [
        f"--output_file {output_file}: must end in {' or '.join(endings)} for the format {output_format}; "
        "name another file, or give --output_format"
    ]


def mine_inputs(settings: MineSettings) -> None:
    """Check that the pairs, the catalogue and the index exist, and that no input would be replaced."""
    check_data_sets(settings.train_file)
    check_indexes(settings.index_dir)
    target = Path(settings.output_file)
    for path in (*expand_files(settings.catalog or ()), *expand_files(settings.train_file)):
        if target.resolve() == path.resolve():
            raise ConfigError(f"--output_file {target}: is read by this command; name another file")
    if not target.resolve().parent.is_dir():
        raise ConfigError(f"--output_file {target}: its folder does not exist; make it first")
