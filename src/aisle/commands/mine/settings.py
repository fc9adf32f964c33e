"""The settings of `mine`, and their checks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from aisle.commands.named_inputs import check_data_sets, check_indexes, check_models
from aisle.commands.shared_settings import (
    AdapterBase,
    CatalogIdColumn,
    ConfigFile,
    Count,
    Delimiter,
    Encoding,
    Json,
    MaxLength,
    OnBadRow,
    Pooling,
    ProductPrompt,
    QueryPrompt,
    Seed,
    TrustRemoteCode,
)
from aisle.commands.train.data_settings import DataSettings, data_problems
from aisle.config.annotations import Required
from aisle.config.label_map import LabelGains
from aisle.data.files import expand_files
from aisle.errors import ConfigError
from aisle.mining.margin import Margin
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
    model: str | None = None
    """Model that ranks the products for --source dense and both: a run, an adapter, a base model or an
    exported bundle. If not given: the encoder of --index_dir."""
    source: Literal["bm25", "dense", "both", "random"] = "bm25"
    """How products are ranked. bm25: by words, as lexical search does. dense: by embeddings. both: the best
    by embeddings, the best by words, the second best by embeddings, and so on. random: drawn at random, for
    a run to compare with."""
    depth: Count = 200
    """Best products per query to look at, of each source."""
    per_query: Count = 4
    """Most hard negatives of a query: the best ranked products that are not excluded."""
    margin: str | None = None
    """Exclude products that score nearly as high as the positive, because they are likely to be right.
    relative:0.05: a score above 95% of the positive's. absolute:0.1: a score above the positive's less 0.1.
    none: no margin. If not given: relative:0.05, and none for bm25 and random."""
    near_duplicate: Annotated[float, Interval(gt=0, le=1)] = 0.98
    """Exclude products whose embedding has at least this cosine with that of a relevant product. 1: equal
    embeddings only. Without embeddings, only products with the words of a relevant product are excluded."""
    teacher: str | None = None
    """Cross-encoder that checks the products that are left: a run of `aisle train-reranker`, or the folder or
    Hub id of another. Products that it scores at least as high as the positive are excluded."""
    graded: bool = False
    """Use the levels of relevance: a pair with any relevance above 0 gets hard negatives, and a product that
    is judged lower than the pair may be its negative. Otherwise pairs up to 0.5 get none, and no product with
    a relevance above 0 is a negative."""
    group_column: str | None = None
    """Column of the catalogue, the training data or both with the group of a product, such as the product of
    which it is a variant. Products with the group of a relevant product are excluded."""
    subgroup_column: str | None = None
    """Column of the catalogue, and of the training data, with a subgroup of pairs: products with the subgroup
    of the pair are excluded unless they are judged wrong, as in `train`."""
    held_out_file: tuple[str, ...] | None = None
    """Judged pairs that are kept out of --train_file, with the same columns: the report has the share of the
    hard negatives that they judge relevant, an estimate of the share of false negatives."""
    exact: bool = False
    """Compare with every product instead of searching the graph of --index_dir."""
    seed: Seed = 42
    """Seed of --source random."""
    embedding_cache: str | None = None
    """Folder for the embeddings of the catalogue, which later calls with the same model and texts read. If
    not given: a folder beside --output_file, removed at the end; a killed call continues from it."""
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
    base_model: AdapterBase = None
    pooling: Pooling = None
    query_prompt: QueryPrompt = None
    product_prompt: ProductPrompt = None
    max_length: MaxLength = None
    trust_remote_code: TrustRemoteCode = False
    json: Json = False
    config: ConfigFile = None

    @property
    def uses_model(self) -> bool:
        """Whether products are ranked by embeddings."""
        return self.source in ("dense", "both")

    @property
    def chosen_margin(self) -> Margin | None:
        """Margin in use; None without.

        Raises:
            ConfigError: The margin has no valid form.
        """
        if self.margin is None:
            return Margin.of("relative:0.05") if self.uses_model else None
        return Margin.of(self.margin)


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
    problems = [*_model_problems(settings)]
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


def _model_problems(settings: MineSettings) -> Iterator[str]:
    try:
        _ = settings.chosen_margin
    except ConfigError as error:
        yield str(error)
    if settings.uses_model:
        if settings.model is None and settings.index_dir is None:
            yield f"--source {settings.source}: needs a model; give --model, or --index_dir with its encoder"
        if settings.model is None and settings.base_model is not None:
            yield "--base_model: needs --model"
        overridden = {
            f"--{name}": getattr(settings, name) is not None
            for name in ("pooling", "query_prompt", "product_prompt", "max_length")
        }
        if settings.index_dir is not None:
            yield from (
                f"{flag}: cannot be combined with --index_dir, which records the settings of its encoder"
                for flag, given in overridden.items()
                if given
            )
        return
    unread = {"--model": settings.model, "--embedding_cache": settings.embedding_cache}
    yield from (
        f"{flag}: needs --source dense or both, which rank by embeddings"
        for flag, value in unread.items()
        if value is not None
    )


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
    check_data_sets([*settings.train_file, *(settings.held_out_file or ())])
    check_models(settings.model, settings.teacher)
    check_indexes(settings.index_dir)
    target = Path(settings.output_file)
    read = (settings.catalog, settings.train_file, settings.held_out_file)
    for path in (path for files in read for path in expand_files(files or ())):
        if target.resolve() == path.resolve():
            raise ConfigError(f"--output_file {target}: is read by this command; name another file")
    if not target.resolve().parent.is_dir():
        raise ConfigError(f"--output_file {target}: its folder does not exist; make it first")
