"""The settings of the training data; each field is a flag and a YAML key of the same name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval
from pydantic import BeforeValidator

from aisle.commands.shared_settings import Count, Delimiter, Encoding, LabelMax, OnBadRow
from aisle.config.label_map import LabelGains
from aisle.types.choices import OWN_COLUMNS, TrainFormat

MEMORY = "memory:"
"""Prefix in config.yaml, in place of a file name, for pairs that `aisle.train` took from memory."""


def _in_tuple(value: object) -> object:
    """Return a name by itself, from YAML or Python, in a tuple."""
    return (value,) if isinstance(value, str) else value


def _column_names(value: object) -> object:
    """Return the names in texts with commas, as in `clicks,impressions`."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        return value
    return tuple(name.strip() for text in texts for name in str(text).split(","))


@dataclass(frozen=True)
class DataSettings:
    """Source of the judged pairs, and how to read them."""

    dataset_name: Annotated[tuple[str, ...] | None, BeforeValidator(_in_tuple)] = None
    """Data sets, one or several: a Hub id, with its configuration as in nyu-mll/glue:mnli, or a local file or
    folder whose file names contain the names of the splits."""
    dataset_revision: str | None = None
    """Branch, tag or commit of the Hub data set."""
    dataset_config_name: str | None = None
    """Configuration (subset) of the Hub data set, if it has several; for a single --dataset_name."""
    train_file: tuple[str, ...] | None = None
    """Training pairs: csv, tsv, jsonl, json or parquet files. Globs and .gz are allowed."""
    validation_file: tuple[str, ...] | None = None
    """Validation pairs, in files like those of --train_file. If not given, a share of the training queries is
    held out."""
    esci_dir: str | None = None
    """Folder of the original ESCI release (its two parquet files)."""
    esci_locale: Literal["us", "es", "jp"] = "us"
    """Locale of the ESCI release to use."""
    esci_version: Literal["small", "large"] = "small"
    """Version of the ESCI release to use."""
    train_format: TrainFormat = "auto"
    """Layout of the training and validation data.
    pairs: a row has a query and a product, a list of products, or a positive with its negatives.
    triples: a row has an anchor, a positive and one or more negatives, in columns of any names.
    nli: a row of SNLI or MNLI has a premise, a hypothesis and a label; they are joined into triples.
    dpr: DPR's json: a question with positive_ctxs and hard_negative_ctxs, or if it has none negative_ctxs.
    simpletransformers: the columns query_text, gold_passage, and if given title and hard_negative.
    auto: found by the columns."""
    query_column: str | None = None
    """Column with the query. If not given, it is found by its name (query, question, search_term, anchor)."""
    product_column: str | None = None
    """Column with the product text, or with a list of texts. If not given, it is found by its name (product,
    product_title, title, positive, pos)."""
    label_column: str | None = None
    """Column with the relevance. If not given, it is found by its name; without it, every pair is a positive.
    "none" reads the pairs as if they had no labels."""
    label_from: Annotated[tuple[str, ...] | None, BeforeValidator(_column_names)] = None
    """Columns of clicks and impressions, and if given of purchases, with commas: clicks,impressions. The
    relevance is then the smoothed rate of clicks; rows of a pair are summed. --label_max is the rate that
    becomes relevance 1; if not given: the 95th percentile of the rates of pairs with clicks."""
    click_prior_strength: Annotated[float, Interval(ge=0, le=1e9)] | None = None
    """Impressions of each pair that the mean click rate counts for (--label_from); 0 does not smooth. If not
    given: estimated from how far the pairs' rates differ."""
    purchase_weight: Annotated[float, Interval(ge=0, le=1e6)] = 5.0
    """Clicks that a purchase counts for, besides its own click (--label_from)."""
    position_column: str | None = None
    """Column with the position at which the product was shown, 1 is the top. Impressions at positions that
    few shoppers look at then count less (--label_from)."""
    position_propensities: tuple[Annotated[float, Interval(ge=1e-6, le=1)], ...] | None = None
    """Probability that a shopper looks at position 1, 2, 3 and so on; the last is for all that follow. If not
    given: estimated from pairs that were shown at several positions."""
    query_id_column: str | None = None
    """Column with the query id, if any."""
    product_id_column: str | None = None
    """Column with the product id, if any."""
    catalog: tuple[str, ...] | None = None
    """Catalogue files with the products' texts, for pairs that name products by id (query, product_id,
    relevance). The column of hard negatives then has ids too."""
    id_column: str | None = None
    """Column with the product id in --catalog, and in the pairs unless --product_id_column names another.
    If not given: product_id."""
    text_template: str | None = None
    """Text of a product, made from the columns of --catalog, such as "{title} {brand}". Build the index with
    the same template. If not given: {title}. With --train_format dpr, the text of a passage; if not given:
    title and text with [SEP] between them, as in DPR. With simpletransformers: {title} {gold_passage}."""
    hard_negatives_column: str | None = None
    """Column with a list of wrong products for the query. If not given, it is found by its name
    (hard_negatives, negatives, neg; or several columns: negative, negative_1, ...)."""
    hard_negatives_per_pair: Count | None = None
    """Hard negatives of a pair to read: the first of its list, usually the hardest. None: all."""
    group_column: str | None = None
    """Column with the group of a product; products of a group are alike, such as the variants of a product,
    and never negatives of each other's queries. If there is no second column of texts, a row is a text with
    its group: texts of a group are positives of each other, and all others are negatives."""
    subgroup_column: str | None = None
    """Column with the subgroup of a pair. Texts of other subgroups are negatives of the pair; inside its
    subgroup, only products judged wrong (and hard negatives) are."""
    teacher_score_column: str | None = None
    """Column with a teacher's score of each pair, a finite number, for a --loss that learns from it.
    If not given: teacher_score or pos_scores."""
    negative_scores_column: str | None = None
    """Column with a list of the teacher's scores of the hard negatives. If not given: negative_teacher_scores
    or neg_scores, if there is one."""
    label_map: LabelGains = None
    label_max: LabelMax = None
    validation_share: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    """Share of the training queries to hold out if no validation pairs are given."""
    delimiter: Delimiter = None
    encoding: Encoding = "utf-8"
    on_bad_row: OnBadRow = "error"
    sanity_test: bool = False
    """Use only the first 1,024 rows of each split."""


def is_in_memory(names: tuple[str, ...] | None) -> bool:
    """Return whether --train_file or --validation_file of a saved run stands for pairs from memory."""
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
    several = len(data.dataset_name or ()) > 1
    if several and data.dataset_config_name is not None:
        problems.append("--dataset_config_name: is for one data set; name each configuration as NAME:CONFIG")
    if several and data.dataset_revision is not None:
        problems.append("--dataset_revision: is for one data set, and --dataset_name gives several")
    if data.validation_file and not (data.train_file or data.dataset_name):
        problems.append("--validation_file: needs --train_file or --dataset_name")
    if data.label_map is not None and data.label_max is not None:
        problems.append("--label_map and --label_max: give one of them")
    return [*problems, *_click_problems(data), *_format_problems(data), *_catalog_problems(data)]


def _click_problems(data: DataSettings) -> Iterator[str]:
    if data.label_from is None:
        needed = {
            "--click_prior_strength": data.click_prior_strength,
            "--position_column": data.position_column,
            "--position_propensities": data.position_propensities,
        }
        yield from (f"{flag}: needs --label_from" for flag, value in needed.items() if value is not None)
        return
    flag = f"--label_from {','.join(data.label_from)}"
    if len(set(data.label_from)) != len(data.label_from) or len(data.label_from) not in (2, 3):
        yield f"{flag}: give two or three columns, as clicks,impressions or clicks,impressions,purchases"
    if data.label_column is not None:
        yield f"{flag} and --label_column: both give the relevance; leave one of them out"
    if data.esci_dir:
        yield f"{flag}: cannot be combined with --esci_dir, whose pairs are judged"
    if data.train_format not in ("auto", "pairs"):
        yield f"{flag}: cannot be combined with --train_format {data.train_format}; clicks are of pairs"
    if data.label_map is not None and not data.validation_file:
        yield f"{flag}: --label_map is for judged pairs of --validation_file; leave it out"
    if data.position_propensities is not None and data.position_column is None:
        yield "--position_propensities: needs --position_column"


def _format_problems(data: DataSettings) -> Iterator[str]:
    if data.train_format == "auto":
        return
    if data.esci_dir:
        yield f"--train_format {data.train_format}: --esci_dir has a format of its own; leave one of them out"
    if data.train_format in ("triples", "nli") and data.catalog is not None:
        yield f"--catalog: cannot be combined with --train_format {data.train_format}, which has the texts"
    if data.train_format in ("triples", "nli") and data.label_map is not None and not data.validation_file:
        yield (
            f"--label_map: cannot be combined with --train_format {data.train_format}, whose pairs are all "
            "positives"
        )
    if data.train_format not in OWN_COLUMNS:
        return
    given = {
        "--query_column": data.query_column,
        "--product_column": data.product_column,
        "--label_column": data.label_column,
        "--label_map": data.label_map,
        "--query_id_column": data.query_id_column,
        "--product_id_column": data.product_id_column,
        "--hard_negatives_column": data.hard_negatives_column,
        "--group_column": data.group_column,
        "--subgroup_column": data.subgroup_column,
        "--catalog": data.catalog,
    }
    unread = [flag for flag, value in given.items() if value is not None]
    if unread:
        yield (
            f"{', '.join(unread)}: cannot be combined with --train_format {data.train_format}, whose columns "
            "are fixed"
        )


def _catalog_problems(data: DataSettings) -> list[str]:
    if data.catalog is None:
        given = {"--id_column": data.id_column}
        if data.train_format not in OWN_COLUMNS:
            given["--text_template"] = data.text_template
        return [f"{flag}: needs --catalog" for flag, value in given.items() if value is not None]
    problems = []
    if data.esci_dir:
        problems.append(
            "--catalog: cannot be combined with --esci_dir, whose pairs have the products' titles"
        )
    if data.product_column is not None:
        problems.append(
            "--product_column and --catalog: both give the products' texts; leave one of them out"
        )
    return problems
