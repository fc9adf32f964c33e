"""The settings of `evaluate`, and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from aisle.commands.named_inputs import check_data_sets, check_files, check_indexes, check_models
from aisle.config.label_map import LabelMap

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class EvaluateSettings:
    """Measure an index, or a model, against judgements.

    With --queries and --qrels, it compares the rankings of BM25, the base model, the tuned model and hybrid
    search. With --pairs, it compares how base and tuned model score judged pairs, or question-answer pairs.
    --report writes all of it as a page.
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


def evaluation_problems(settings: EvaluateSettings) -> list[str]:
    """Return one message for each combination of evaluation settings that cannot work."""
    problems = []
    if (settings.queries is None) != (settings.qrels is None):
        problems.append("--queries and --qrels: give both or none")
    if settings.queries is None and not settings.pairs:
        problems.append("nothing to measure against: give --queries and --qrels, or --pairs")
    if settings.queries is not None and settings.index_dir is None:
        problems.append("--index_dir: required with --queries; give the folder of the index")
    if settings.index_dir is None and settings.model is None:
        problems.append("--model or --index_dir: give the encoder that is to be measured")
    if settings.protocol == "joint_pool" and not settings.pairs:
        problems.append("--protocol joint_pool: needs --pairs, a file of questions and answers")
    if settings.rows is not None and not settings.rows:
        problems.append("--rows: name at least one of bm25, base, tuned, hybrid")
    if settings.with_tracking and settings.report is None:
        problems.append("--with_tracking: needs --report, the folder that trackers write in")
    lexical = settings.rows is None and settings.mode == "lexical"
    if settings.model_card and (lexical or "tuned" not in (settings.rows or ("tuned",))):
        problems.append("--model_card: is about the row tuned; name it in --rows")
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


def evaluation_inputs(settings: EvaluateSettings) -> None:
    """Raise unless queries, judgements, pairs, indexes and models given as folders exist."""
    check_files(settings.queries, *(settings.qrels or ()))
    check_data_sets(settings.pairs or ())
    check_indexes(settings.index_dir, *settings.compare)
    named = settings.base_model_row
    check_models(settings.model, settings.base_model, None if named in {"auto", "none"} else named)
