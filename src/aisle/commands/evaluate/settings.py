"""The settings of `evaluate`, and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from aisle.commands.named_inputs import check_data_sets, check_files, check_indexes, check_models
from aisle.commands.shared_settings import (
    AdapterBase,
    ConfigFile,
    Count,
    Delimiter,
    Encoding,
    Fraction,
    Json,
    LabelMax,
    OnBadRow,
    QrelsIdColumn,
    QueryIdColumn,
    Seed,
    TrustRemoteCode,
)
from aisle.config.label_map import LabelGains, LabelMap
from aisle.types.choices import Fusion, SearchMode


@dataclass(frozen=True)
class EvaluateSettings:
    """Measure an index, or a model, against judgements.

    With --queries and --qrels, it compares the rankings of BM25, the base model, the tuned model and hybrid
    search. With --pairs, it compares how base and tuned model score judged pairs, or question-answer pairs.
    --report writes all results as a page.
    """

    index_dir: str | None = None
    """Directory of the index. With --pairs, --model can take its place."""
    queries: str | None = None
    """Queries with ids: a csv, tsv, jsonl, json or parquet file."""
    qrels: tuple[str, ...] | None = None
    """Judgements: TREC or BEIR qrels, or csv, tsv, jsonl, json or parquet files. Give one file or several."""
    id_column: QrelsIdColumn = None
    query_id_column: QueryIdColumn = None
    label_map: LabelGains = None
    relevant_from: Annotated[float, Interval(gt=0)] | None = None
    """Lowest relevance that counts as relevant for recall, MRR and precision. If not given: anything above
    0."""
    cutoffs: tuple[Count, ...] = (1, 10, 100)
    """Ranks k to measure at, as in recall@k."""
    rows: tuple[Literal["bm25", "base", "tuned", "hybrid"], ...] | None = None
    """Systems to compare. If not given: every system that the index allows; with --mode lexical only bm25,
    which needs no encoder."""
    base_model_row: str = "auto"
    """Model of the row base: auto is the model that the index's encoder was trained from; none leaves the row
    out; anything else is a folder or a Hub id. It embeds the catalogue once, and the embeddings are kept
    beside the index."""
    run: str | None = None
    """Rankings of your present search engine, as a run file in TREC's format (query, Q0, product, rank,
    score, tag), gzipped or not. They become a row, and all other rows are compared with it instead of with
    base."""
    compare: tuple[str, ...] = ()
    """Directories of other indexes of the same products. Each becomes a row, with its own encoder."""
    mode: SearchMode = "dense"
    """Row for the headline, --run_file and the changed queries: embeddings (dense), BM25 (lexical), or both
    (hybrid)."""
    reranker: str | None = None
    """Reranker (a cross-encoder) that orders the best products of the row of --mode again, in a further row:
    the folder of a run of `aisle train-reranker`, or a Hub id. A note says whether it helps. With --pairs, it
    scores the pairs too."""
    rerank_depth: Count = 50
    """Products per query that --reranker scores."""
    fusion: Fusion = "convex"
    """How the row hybrid combines both searches: by weighted scores (convex), or by reciprocal ranks
    (rrf)."""
    hybrid_weight: Fraction | None = None
    """Weight of the embeddings in the row hybrid, from 0 to 1. If not given: the weight tuned for the
    index."""
    ef_search: Count | None = None
    """Candidates to compare in a search of the graph. If not given: the value that the index records.
    All rows are searched exactly; a separate line shows what the graph misses."""
    pairs: tuple[str, ...] | None = None
    """Judged pairs to score: files, a folder or a Hub id. Questions of DPR's json, and simpletransformers'
    columns, are read as in train: each positive passage is a pair."""
    split: str = "test"
    """Split of --pairs to read, if it has several."""
    dataset_config_name: str | None = None
    """Configuration (subset) of --pairs on the Hub, if it has several."""
    protocol: Literal["ranking", "joint_pool"] = "ranking"
    """How --pairs are measured: by their scores (ranking), or as questions and answers: each text ranks all
    other texts, and only its partner counts (joint_pool)."""
    query_column: str | None = None
    """Column of --pairs with the query. If not given, it is found by its name (query, question)."""
    product_column: str | None = None
    """Column of --pairs with the product text. If not given, it is found by its name (product, product_title,
    title)."""
    label_column: str | None = None
    """Column of --pairs with the relevance. If not given, it is found by its name."""
    label_max: LabelMax = None
    pairs_label_map: LabelMap = None
    """Relevance of each label of --pairs, from 0 to 1. If not given: as in --label_map."""
    positive_threshold: Annotated[float, Interval(gt=0, le=1)] | None = None
    """Lowest relevance of a positive pair. If not given: anything above 0.5."""
    delimiter: Delimiter = None
    encoding: Encoding = "utf-8"
    on_bad_row: OnBadRow = "error"
    resamples: Annotated[int, Interval(ge=100)] = 1000
    """Bootstrap samples for the confidence intervals. The significance tests always take 10,000."""
    seed: Seed = 0
    """Seed of the bootstrap samples: the same seed gives the same intervals."""
    run_file: str | None = None
    """File for the ranking of --mode, in TREC's run format. The other rows go to FILE.bm25, FILE.base and so
    on. If the name ends in .gz, all of these files are gzipped."""
    report: str | None = None
    """Folder for a report: a page, its figures as PNG, and all results as JSON."""
    with_tracking: bool = False
    """Send figures, tables and charts to experiment trackers. Trackers that write files use tracking/ of
    --report."""
    report_to: str = "all"
    """Trackers, with commas: wandb, tensorboard, ..., or all that are installed."""
    model_card: bool = False
    """Write the headline, the table and two charts into the model card (README.md) of the run that made the
    encoder. A later evaluation replaces them."""
    title_column: str | None = None
    """Column of the catalogue with the title that the report shows. If not given, it is found by its name
    (title, product_title, name); without a title, the report shows the text."""
    slice_column: tuple[str, ...] | None = None
    """Columns of the catalogue to group the queries by, for the gain per group.
    If not given, they are found by their names (department, category, brand)."""
    model: str | None = None
    """Encoder of the index, a folder or a Hub id. If not given: the folder or id that is
    recorded in the index. Without an index: the model that scores --pairs."""
    base_model: AdapterBase = None
    trust_remote_code: TrustRemoteCode = False
    json: Json = False
    config: ConfigFile = None


def evaluation_problems(settings: EvaluateSettings) -> list[str]:
    """Return one message for each combination of evaluation settings that cannot work."""
    problems = []
    if (settings.queries is None) != (settings.qrels is None):
        problems.append("--queries and --qrels: give both or neither")
    if settings.queries is None and not settings.pairs:
        problems.append("nothing to measure with: give --queries and --qrels, or --pairs")
    if settings.queries is not None and settings.index_dir is None:
        problems.append("--index_dir: required with --queries; give the folder of the index")
    if settings.index_dir is None and settings.model is None:
        problems.append("--model or --index_dir: give the encoder to measure")
    problems += _pair_problems(settings)
    problems += _reranker_problems(settings)
    if settings.rows is not None and not settings.rows:
        problems.append("--rows: name at least one of bm25, base, tuned, hybrid")
    if settings.with_tracking and settings.report is None:
        problems.append("--with_tracking: needs --report, the folder that trackers write to")
    lexical = settings.rows is None and settings.mode == "lexical"
    if settings.model_card and (lexical or "tuned" not in (settings.rows or ("tuned",))):
        problems.append("--model_card: needs the row tuned; add tuned to --rows")
    if settings.queries is None:
        wanted = {
            "--rows": settings.rows,
            "--run": settings.run,
            "--run_file": settings.run_file,
            "--compare": settings.compare,
            "--model_card": settings.model_card,
        }
        problems += [f"{flag}: needs --queries and --qrels" for flag, value in wanted.items() if value]
    return problems


def _reranker_problems(settings: EvaluateSettings) -> list[str]:
    if settings.reranker is None:
        changed = settings.rerank_depth != EvaluateSettings.rerank_depth
        return ["--rerank_depth: needs --reranker"] if changed else []
    if settings.protocol == "joint_pool":
        return ["--reranker: cannot be combined with --protocol joint_pool, which compares embeddings"]
    return []


def _pair_problems(settings: EvaluateSettings) -> list[str]:
    problems = []
    if settings.protocol == "joint_pool" and not settings.pairs:
        problems.append("--protocol joint_pool: needs --pairs, a file of questions and answers")
    if settings.label_max is not None and not settings.pairs:
        problems.append("--label_max: needs --pairs, whose labels it divides")
    if settings.label_max is not None and (settings.pairs_label_map or settings.label_map):
        problems.append("--label_max: cannot be combined with a label map of --pairs; give one of them")
    return problems


def evaluation_inputs(settings: EvaluateSettings) -> None:
    """Check that queries, judgements, pairs, indexes and models given as files or folders exist."""
    check_files(settings.queries, *(settings.qrels or ()))
    check_data_sets(settings.pairs or ())
    check_indexes(settings.index_dir, *settings.compare)
    named = settings.base_model_row
    check_models(settings.model, settings.base_model, None if named in {"auto", "none"} else named)
