"""The settings of `build`, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from aisle.commands.named_inputs import check_data_sets, check_files, check_models
from aisle.config.label_map import LabelMap
from aisle.data.files import expand_files
from aisle.types.text_languages import Language

Count = Annotated[int, Field(ge=1)]
BACKEND_FLAGS = ("M", "ef_construction")
"""Settings that are parameters of a graph backend, by the same name."""


@dataclass(frozen=True)
class BuildSettings:
    """Embed a catalogue and write its index.

    The catalogue is one of --catalog (a file with a row per product) or --pairs (a data set of pairs,
    whose distinct products are the catalogue).
    """

    model: str
    """Run, adapter or base model: a folder or a Hub id."""
    index_dir: str
    """Folder that the index is written to."""
    catalog: tuple[str, ...] | None = None
    """csv, tsv, jsonl, json or parquet files (globs and .gz allowed), one row per product."""
    id_column: str = "product_id"
    """Column of --catalog with the unique product id."""
    text_template: str = "{title}"
    """Text that is embedded, from the columns of --catalog, such as "{title} {brand}"."""
    text_columns: tuple[str, ...] = ()
    """Columns of --catalog that stay text, whatever they look like: versions, part numbers, postcodes."""
    pairs: tuple[str, ...] | None = None
    """Pairs data set: files, a folder or a Hub id; its distinct products are indexed."""
    split: str = "train"
    """Split of --pairs to take, where it has several."""
    dataset_config_name: str | None = None
    """Configuration (subset) of --pairs on the Hub, where it has several."""
    product_column: str | None = None
    """Column of --pairs with the product text; found by name when not given."""
    product_id_column: str | None = None
    """Column of --pairs with the product id; found by name when not given."""
    delimiter: str | None = None
    """Character between the fields of csv files, such as ";", or the word tab. When not given: a comma, or
    what the first line names (sep=;). tsv files always have tabs."""
    encoding: str = "utf-8"
    """Encoding of csv, tsv, jsonl and json files, such as cp1252 or utf-16."""
    on_bad_row: Literal["error", "skip"] = "error"
    """Stop at rows that cannot be used, or leave them out and say how many."""
    language: Literal["auto", Language] = "auto"
    """Language of the texts: --mode lexical and hybrid search by its stems and without its stop words. auto
    keeps the language of the version before; a first build takes the one whose stop words are most frequent
    (of 12 European languages), English in doubt. none keeps words as they are, for catalogues in several
    languages."""
    backend: str = "hnsw"
    """hnsw searches a graph, which finds nearly all of the nearest products in a fraction of the time. exact
    compares every product with the query: for some ten thousand products, or as a reference."""
    M: Annotated[int, Field(ge=2)] = 16
    """Links per node in the graph; higher is larger and closer to exact."""
    ef_construction: Count = 200
    """Candidates kept while building; higher is slower and closer to exact."""
    ef_search: Count | None = None
    """Candidates kept while searching; chosen for --target_recall when not given."""
    target_recall: Annotated[float, Field(ge=0, le=1)] | None = None
    """recall@10 against exact search that ef_search is chosen for, on held-out queries; 0.98
    when neither is given."""
    dimensions: Count | None = None
    """Keep the first so many components of an embedding, for encoders that were trained so (Matryoshka)."""
    store_dtype: Literal["float32", "float16"] = "float32"
    """Type of the stored embeddings."""
    precision: Literal["fp32", "bf16", "int8"] | None = None
    """Compute type; fp32 or bf16, whichever is faster on this machine, when not given. int8 is faster still
    on CPUs with VNNI instructions, for a cosine to fp32's embeddings of 0.999; queries stay in fp32."""
    max_tokens: Annotated[int, Field(ge=64)] | None = None
    """Padded tokens encoded at a time; 1,024 on CPU and 65,536 on GPU when not given."""
    base_model: str | None = None
    """Base of an adapter that names none, such as one saved by PEFT's example."""
    model_revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    pooling: Literal["mean", "cls", "last"] | None = None
    """How token vectors become one; what the model says when not given."""
    query_prompt: str | None = None
    """Text put before every query; what the model says when not given."""
    product_prompt: str | None = None
    """Text put before every product; what the model says when not given."""
    max_length: Annotated[int, Field(ge=4)] | None = None
    """Longest text in tokens; what the model says when not given."""
    trust_remote_code: bool = False
    """Run the Python code that the model's repository brings."""
    tune_queries: str | None = None
    """Training queries with ids, to tune the weight of --mode hybrid on; needs --tune_qrels. Without them the
    weight of the version before is kept, if encoder, words and template are the same."""
    tune_qrels: str | None = None
    """Judgements of --tune_queries."""
    tune_label_map: LabelMap = None
    """What each label of --tune_qrels is worth in [0, 1], for example E=1,S=0.1,C=0.01,I=0."""
    keep_versions: Count | None = None
    """Versions of the index to keep from now on, the new one included; as many as before when not given,
    3 for a new index. Versions that the current one was made from stay longest; see rollback."""
    embed_all: bool = False
    """Embed every product anew; else those whose text is in the version before are taken over from it."""
    threads: Count | None = None
    """Threads that build the graph; all cores when not given."""
    deterministic: bool = False
    """Build the graph on one thread: the same catalogue then gives the same files every time."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""


def build_problems(settings: BuildSettings) -> list[str]:
    """Return one message for each combination of settings that cannot work."""
    problems = []
    if bool(settings.catalog) == bool(settings.pairs):
        problems.append("give the products with one of --catalog or --pairs")
    if settings.ef_search is not None and settings.target_recall is not None:
        problems.append("--ef_search and --target_recall: give one of them; the recall decides ef_search")
    if (settings.tune_queries is None) != (settings.tune_qrels is None):
        problems.append("--tune_queries and --tune_qrels: give both or none")
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


def build_inputs(settings: BuildSettings) -> None:
    """Raise unless the catalogue, the tuning files and a model given as a folder exist."""
    expand_files(settings.catalog or ())
    check_data_sets(settings.pairs or ())
    check_files(settings.tune_queries, settings.tune_qrels)
    check_models(settings.model, settings.base_model)
