"""The settings of `build`, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval

from aisle.commands.named_inputs import check_data_sets, check_files, check_models
from aisle.commands.shared_settings import (
    AdapterBase,
    CatalogIdColumn,
    ConfigFile,
    Count,
    Delimiter,
    Encoding,
    Fraction,
    IndexDir,
    Json,
    KeepVersions,
    MaxLength,
    MaxTokens,
    ModelRevision,
    OnBadRow,
    Pooling,
    ProductPrompt,
    QueryPrompt,
    TextTemplate,
    TrustRemoteCode,
)
from aisle.config.label_map import LabelGains
from aisle.data.files import expand_files
from aisle.types.choices import StoreDtype
from aisle.types.encoder_protocol import Precision, int8_needs_bundle
from aisle.types.encoder_settings import Overrides
from aisle.types.text_languages import Language

BACKEND_FLAGS = ("M", "ef_construction")
"""Settings that are parameters of a graph backend, by the same name."""


@dataclass(frozen=True)
class BuildSettings:
    """Embed a catalogue and write its index.

    The products come from --catalog, a file with a row per product, or from --pairs, a data set of pairs that
    contributes its distinct products.
    """

    model: str
    """Model that embeds the products: a run, an adapter or a base model, as a folder or a Hub id; or the
    folder of an exported bundle, which needs no torch."""
    index_dir: IndexDir
    catalog: tuple[str, ...] | None = None
    """Catalogue: csv, tsv, jsonl, json or parquet files, one row per product. Globs and .gz are allowed."""
    id_column: CatalogIdColumn = "product_id"
    text_template: TextTemplate = "{title}"
    text_columns: tuple[str, ...] = ()
    """Columns of --catalog to keep as text even if they look like numbers: versions, part numbers,
    postcodes."""
    pairs: tuple[str, ...] | None = None
    """Data set of pairs: files, a folder or a Hub id. Its distinct products are indexed; of DPR's json and
    simpletransformers' columns, the positive passages."""
    split: str = "train"
    """Split of --pairs to read, if it has several."""
    dataset_config_name: str | None = None
    """Configuration (subset) of --pairs on the Hub, if it has several."""
    product_column: str | None = None
    """Column of --pairs with the product text. If not given, it is found by its name."""
    product_id_column: str | None = None
    """Column of --pairs with the product id. If not given, it is found by its name."""
    delimiter: Delimiter = None
    encoding: Encoding = "utf-8"
    on_bad_row: OnBadRow = "error"
    language: Literal["auto", Language] = "auto"
    """Language of the texts. Lexical and hybrid search compare the stems of its words, without its stop
    words. auto: as in the version before; for a new index, the language (of 12 European ones, or English)
    with the most frequent stop words. none: compare whole words, for catalogues in several languages."""
    backend: str = "hnsw"
    """Search structure. hnsw searches a graph: it finds nearly all of the nearest products in a fraction of
    the time. exact compares every product with the query: for small catalogues, or as a reference."""
    M: Annotated[int, Interval(ge=2)] = 16
    """Links per node of the graph. More links make the graph larger and its results closer to exact."""
    ef_construction: Count = 200
    """Candidates to compare when a node is added. More are slower and give results closer to exact."""
    ef_search: Count | None = None
    """Candidates to compare in a search. If not given, the fewest that reach --target_recall."""
    target_recall: Fraction | None = None
    """recall@10, compared with exact search on held-out queries, that sets ef_search.
    0.98 if neither flag is given."""
    dimensions: Count | None = None
    """Components of each embedding to keep, from the first on, for encoders trained for it (Matryoshka;
    `aisle train --matryoshka_dims`)."""
    store_dtype: StoreDtype = "float32"
    """Number format of the stored embeddings."""
    precision: Precision | None = None
    """Number format for computing. If not given: fp32 or bf16, whichever is faster on this machine.
    Queries are always embedded in fp32. A bundle has a number format, which embeds queries too. int8 needs a
    bundle that `aisle export --precision int8` wrote."""
    max_tokens: MaxTokens = None
    base_model: AdapterBase = None
    model_revision: ModelRevision = None
    pooling: Pooling = None
    query_prompt: QueryPrompt = None
    product_prompt: ProductPrompt = None
    max_length: MaxLength = None
    trust_remote_code: TrustRemoteCode = False
    tune_queries: str | None = None
    """File of training queries with ids, to tune the weight of hybrid search on; needs --tune_qrels.
    If not given, the weight of the version before is kept if encoder, analyser and template are the same."""
    tune_qrels: str | None = None
    """Judgements of --tune_queries."""
    tune_label_map: LabelGains = None
    keep_versions: KeepVersions = None
    embed_all: bool = False
    """Embed every product. Otherwise texts of the version before keep their embeddings."""
    threads: Count | None = None
    """Threads that build the graph. If not given: all cores."""
    deterministic: bool = False
    """Build the graph on one thread: the same catalogue then gives the same files every time."""
    json: Json = False
    config: ConfigFile = None


def build_problems(settings: BuildSettings) -> list[str]:
    """Return one message for each combination of settings that cannot work."""
    from aisle.bundle.bundle_file import is_bundle

    problems = []
    if settings.precision == "int8" and not is_bundle(settings.model):
        problems.append(int8_needs_bundle(settings.model, flag="--precision"))
    if bool(settings.catalog) == bool(settings.pairs):
        problems.append("give the products with one of --catalog or --pairs")
    if settings.ef_search is not None and settings.target_recall is not None:
        problems.append("--ef_search and --target_recall: give one of them; the recall decides ef_search")
    if (settings.tune_queries is None) != (settings.tune_qrels is None):
        problems.append("--tune_queries and --tune_qrels: give both or neither")
    return problems + _backend_problems(settings)


def backend_parameters(settings: BuildSettings) -> Mapping[str, Any]:
    """Return the parameters of the chosen graph backend that have a flag."""
    from aisle.index.backends import backend_named

    known = {field.name for field in fields(backend_named(settings.backend).Parameters)}
    return {name: getattr(settings, name) for name in BACKEND_FLAGS if name in known}


def _backend_problems(settings: BuildSettings) -> list[str]:
    from aisle.index.backends import backend_named, backend_names, effort_problem

    if settings.backend not in backend_names():
        return [f"--backend: must be one of {', '.join(backend_names())}, found {settings.backend!r}"]
    problem = effort_problem(backend_named(settings.backend), settings.ef_search)
    problems = [] if problem is None else [f"--{problem}"]
    usual, known = vars(BuildSettings), backend_parameters(settings)
    for name in BACKEND_FLAGS:
        if name not in known and getattr(settings, name) != usual[name]:
            problems.append(f"--{name}: --backend {settings.backend} has no such parameter; leave it out")
    return problems


def build_extra(settings: BuildSettings) -> str:
    """Return the extra that the model needs."""
    from aisle.search.load_encoder import extra_for

    return extra_for(settings.model)


def build_inputs(settings: BuildSettings) -> None:
    """Check that the catalogue, the tuning files and a model given as a folder exist.

    Raises:
        ModelError: A flag would change a bundle, or the bundle is damaged.
    """
    expand_files(settings.catalog or ())
    check_data_sets(settings.pairs or ())
    check_files(settings.tune_queries, settings.tune_qrels)
    check_models(settings.model, settings.base_model)
    _check_bundle(settings)


def overrides_of(settings: BuildSettings) -> Overrides:
    """Return the settings that override those in the model's files."""
    return Overrides(
        pooling=settings.pooling,
        query_prompt=settings.query_prompt,
        product_prompt=settings.product_prompt,
        max_length=settings.max_length,
    )


def _check_bundle(settings: BuildSettings) -> None:
    """Refuse flags that would change a bundle, before the catalogue is read."""
    from aisle.bundle.bundle_file import check_precision, is_bundle, read_bundle
    from aisle.search.load_encoder import refuse_changes

    if not is_bundle(settings.model):
        return
    refuse_changes(
        settings.model,
        base_model=settings.base_model,
        overrides=overrides_of(settings),
        revision=settings.model_revision,
    )
    bundle = read_bundle(Path(settings.model).expanduser())
    check_precision(bundle, settings.precision, name=settings.model, flag="--precision")
