"""The settings of `infer_index.py`: build, query, evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from tyro.conf import Positional

from aisle.config.label_map import LabelMap
from aisle.types.text_languages import Language

Count = Annotated[int, Field(ge=1)]


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


@dataclass(frozen=True)
class QuerySettings:
    """Answer queries from an index; without a query, ask for them."""

    index_dir: str
    """Folder of the index."""
    text: Positional[tuple[str, ...]] = ()
    """Queries."""
    queries_file: str | None = None
    """File with a query on each line."""
    top_k: Count = 10
    """Products per query; more than there are gives all of them."""
    where: str | None = None
    """Only products that satisfy this, such as "price <= 50 and brand in ['Acme', 'Zenith']": comparisons
    of columns with numbers and quoted texts, in, is None, and, or, not; col('list price') for odd names."""
    min_score: float | None = None
    """Leave out products with a lower score: their cosine in --mode dense and hybrid (not the hybrid score),
    their BM25 score in --mode lexical. In --mode hybrid a product whose id is the query stays."""
    fields: str | None = None
    """Columns of the catalogue to show, such as title,brand,price; the title when not given, and with --json
    all of them."""
    mode: Literal["dense", "lexical", "hybrid"] = "dense"
    """Search by embeddings, by words (BM25), or by both."""
    fusion: Literal["convex", "rrf"] = "convex"
    """How --mode hybrid joins the two: weighted scores, or reciprocal ranks, which have no weight."""
    hybrid_weight: Annotated[float, Field(ge=0, le=1)] | None = None
    """Weight of the embeddings in --mode hybrid, 0 to 1; what the index was tuned to when not given."""
    ef_search: Count | None = None
    """Candidates kept while searching; what the index was built with when not given."""
    exact: bool = False
    """Compare with every product instead of following the graph."""
    model: str | None = None
    """The encoder that made the index, if it has moved."""
    base_model: str | None = None
    """The base of its adapter, if it has moved."""
    trust_remote_code: bool = False
    """Run the Python code that the model's repository brings."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""


@dataclass(frozen=True)
class EvaluateSettings:
    """Measure an index, or a model, against judgements: rankings, judged pairs, or question-answer pairs.

    With --queries and --qrels, BM25, the base model, the index and both together rank the catalogue side by
    side. With --pairs, base and tuned model score judged pairs. --report writes all of it as a page.
    """

    index_dir: str | None = None
    """Folder of the index; --model alone will do for --pairs."""
    queries: str | None = None
    """csv, tsv, jsonl, json or parquet file with query ids and queries."""
    qrels: tuple[str, ...] | None = None
    """Judgements: TREC or BEIR qrels, or csv, tsv, jsonl, json or parquet files; several are joined."""
    id_column: str | None = None
    """Column of --qrels with the product id; found by name when not given (product_id, corpus-id, doc_id)."""
    query_id_column: str | None = None
    """Column of --queries and --qrels with the query id; found by name when not given (query_id, qid)."""
    label_map: LabelMap = None
    """What each label is worth in [0, 1], for example E=1,S=0.1,C=0.01,I=0."""
    relevant_from: Annotated[float, Field(gt=0)] | None = None
    """Lowest relevance that counts as relevant for recall, MRR and precision; above 0 when not given."""
    cutoffs: tuple[Count, ...] = (1, 10, 100)
    """Ranks at which the metrics are taken."""
    rows: tuple[Literal["bm25", "base", "tuned", "hybrid"], ...] | None = None
    """Systems to compare. When not given, all that the index can give; with --mode lexical, bm25 alone,
    which needs no encoder."""
    base_model_row: str = "auto"
    """Model of the row base: auto is the one that the index's encoder was trained from, none leaves the row
    out, and anything else is a folder or a Hub id. It embeds the catalogue once; the embeddings are kept
    beside the index."""
    run: str | None = None
    """Rankings of the shop's present engine, a run file in TREC's format (query, Q0, product, rank, score,
    tag), gzipped or not: a row of its own, which all others are compared with in place of base."""
    compare: tuple[str, ...] = ()
    """Folders of further indexes of the same products, each a row, with encoders of their own."""
    mode: Literal["dense", "lexical", "hybrid"] = "dense"
    """The row that the headline, --run_file and the changed queries are about: embeddings, words (BM25), or
    both."""
    fusion: Literal["convex", "rrf"] = "convex"
    """How the row hybrid joins the two: weighted scores, or reciprocal ranks, which have no weight."""
    hybrid_weight: Annotated[float, Field(ge=0, le=1)] | None = None
    """Weight of the embeddings in the row hybrid, 0 to 1; what the index was tuned to when not given."""
    ef_search: Count | None = None
    """Candidates kept while following the graph; what the index was built with when not given. The rows
    search exactly; what the graph loses is shown separately."""
    pairs: tuple[str, ...] | None = None
    """Judged pairs to score: files, a folder or a Hub id."""
    split: str = "test"
    """Split of --pairs to take, where it has several."""
    dataset_config_name: str | None = None
    """Configuration (subset) of --pairs on the Hub, where it has several."""
    protocol: Literal["ranking", "joint_pool"] = "ranking"
    """joint_pool takes --pairs as questions and answers: each text has to find its partner among all."""
    query_column: str | None = None
    """Column of --pairs with the query; found by name when not given (query, question)."""
    product_column: str | None = None
    """Column of --pairs with the product text; found by name when not given (product, product_title,
    title)."""
    label_column: str | None = None
    """Column of --pairs with the relevance; found by name when not given."""
    pairs_label_map: LabelMap = None
    """What each label of --pairs is worth in [0, 1]; --label_map when not given."""
    positive_threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    """Lowest relevance of a positive pair; above 0.5 when not given."""
    delimiter: str | None = None
    """Character between the fields of csv files, such as ";", or the word tab. When not given: a comma, or
    what the first line names (sep=;). tsv files always have tabs."""
    encoding: str = "utf-8"
    """Encoding of csv, tsv, jsonl and json files, such as cp1252 or utf-16."""
    on_bad_row: Literal["error", "skip"] = "error"
    """Stop at rows of --pairs that cannot be used, or leave them out and say how many."""
    resamples: Annotated[int, Field(ge=100)] = 1000
    """Draws of the bootstrap intervals; the significance tests always have 10,000."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of those draws: the same seed gives the same intervals."""
    run_file: str | None = None
    """Write the ranking of --mode to this file in TREC's run format, and those of the other rows to
    FILE.bm25, FILE.base and so on; a name that ends in .gz is gzipped, and theirs keep that ending."""
    report: str | None = None
    """Folder for a report: a page, its figures as PNG, and all of it as JSON."""
    with_tracking: bool = False
    """Give the figures, tables and charts to experiment trackers too; those that write files do so in
    tracking/ of --report."""
    report_to: str = "all"
    """Trackers, with commas: wandb, tensorboard, ..., or all that are installed."""
    model_card: bool = False
    """Write the table, the sentence and two charts into the model card (README.md) of the run that made the
    encoder; evaluating again replaces them."""
    title_column: str | None = None
    """Column of the catalogue that the report shows products by; found by name when not given (title,
    product_title, name), else their texts."""
    slice_column: tuple[str, ...] | None = None
    """Columns of the catalogue to look for the gain by; found by name when not given (department,
    category, brand)."""
    model: str | None = None
    """The encoder that made the index, if it has moved; without an index, the model to score --pairs
    with."""
    base_model: str | None = None
    """The base of its adapter, if it has moved."""
    trust_remote_code: bool = False
    """Run the Python code that the model's repository brings."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""
