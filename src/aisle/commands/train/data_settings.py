"""The settings of the training data; each field is a flag and a YAML key of the same name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from aisle.config.label_map import LabelMap

MEMORY = "memory:"
"""Begins the name of pairs that `aisle.train` took from memory, where config.yaml has the names of files."""


@dataclass(frozen=True)
class DataSettings:
    """Where the judged pairs come from."""

    dataset_name: str | None = None
    """Hub id of a data set, or a local file or folder (splits are found by file name)."""
    dataset_revision: str | None = None
    """Branch, tag or commit of the Hub data set."""
    dataset_config_name: str | None = None
    """Configuration (subset) of the Hub data set, where it has several."""
    train_file: tuple[str, ...] | None = None
    """csv, tsv, jsonl, json or parquet files (globs and .gz allowed) to train on."""
    validation_file: tuple[str, ...] | None = None
    """Files to validate on; without them a share of the training queries is held out."""
    esci_dir: str | None = None
    """Folder of the original ESCI release (its two parquet files)."""
    esci_locale: Literal["us", "es", "jp"] = "us"
    """Locale of the ESCI release to use."""
    esci_version: Literal["small", "large"] = "small"
    """Version of the ESCI release to use."""
    query_column: str | None = None
    """Column with the query; found by name when not given (query, question, search_term, anchor)."""
    product_column: str | None = None
    """Column with the product text, or a list of them; found by name when not given (product, product_title,
    title, positive, pos)."""
    label_column: str | None = None
    """Column with the relevance; found by name when not given. Without one every pair is a positive; "none"
    says that the pairs have no labels."""
    query_id_column: str | None = None
    """Column with the query's id, if any."""
    product_id_column: str | None = None
    """Column with the product's id, if any."""
    catalog: tuple[str, ...] | None = None
    """Catalogue files to take the products' texts from, where the pairs name products by id (query,
    product_id, relevance); the column of hard negatives then holds ids too."""
    id_column: str | None = None
    """Column with the product id in --catalog, and in the pairs unless --product_id_column names another;
    product_id when not given."""
    text_template: str | None = None
    """Text of a product, from the columns of --catalog, such as "{title} {brand}"; the one to give to
    infer_index.py build too. {title} when not given."""
    hard_negatives_column: str | None = None
    """Column with a list of products that are wrong for the query; found by name when not given
    (hard_negatives, negatives, neg; or a column each, negative, negative_1, ...)."""
    teacher_score_column: str | None = None
    """Column with a teacher's score of each pair, a finite number, for a --loss that learns from it;
    teacher_score when not given."""
    label_map: LabelMap = None
    """What each label is worth in [0, 1], for example E=1,S=0.1,C=0.01,I=0."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training queries to hold out when no validation data is given."""
    delimiter: str | None = None
    """Character between the fields of csv files, such as ";", or the word tab. When not given: a comma, or
    what the first line names (sep=;). tsv files always have tabs."""
    encoding: str = "utf-8"
    """Encoding of csv, tsv, jsonl and json files, such as cp1252 or utf-16."""
    on_bad_row: Literal["error", "skip"] = "error"
    """Stop at rows that cannot be used, or leave them out and say how many."""
    sanity_test: bool = False
    """Use the first 1,024 rows of each split only."""


def is_in_memory(names: tuple[str, ...] | None) -> bool:
    """Return whether --train_file or --validation_file of a saved run stands for data from memory."""
    return bool(names) and any(name.startswith(MEMORY) for name in names or ())


def data_problems(data: DataSettings) -> list[str]:
    """Return one message for each combination of data settings that cannot work."""
    problems = []
    sources = {
        "--dataset_name": data.dataset_name,
        "--train_file": data.train_file,
        "--esci_dir": data.esci_dir,
    }
    given = [flag for flag, value in sources.items() if value]
    if len(given) > 1:
        problems.append(f"{' and '.join(given)}: give one source of pairs, not {len(given)}")
    if not given and not data.sanity_test:
        problems.append("no training data: give one of --dataset_name, --train_file or --esci_dir")
    if data.dataset_config_name is not None and not data.dataset_name:
        problems.append("--dataset_config_name: needs --dataset_name, a data set on the Hub")
    if data.validation_file and not data.train_file:
        problems.append("--validation_file: goes with --train_file only")
    return problems + _catalog_problems(data)


def _catalog_problems(data: DataSettings) -> list[str]:
    if data.catalog is None:
        given = {"--id_column": data.id_column, "--text_template": data.text_template}
        return [f"{flag}: needs --catalog" for flag, value in given.items() if value is not None]
    problems = []
    if data.esci_dir:
        problems.append("--catalog: does not go with --esci_dir, whose pairs have the products' titles")
    if data.product_column is not None:
        problems.append("--product_column and --catalog: the texts come from one of them; leave one out")
    return problems
