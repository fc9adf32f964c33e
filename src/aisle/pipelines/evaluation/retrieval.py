"""Rankings of an index and of the systems that it is held against, measured side by side."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute

from aisle.config.index import EvaluateSettings
from aisle.data.judgements import read_qrels, read_queries
from aisle.errors import ConfigError
from aisle.evaluation.comparison import compare_runs
from aisle.evaluation.document import Retrieval, SystemKind
from aisle.evaluation.retrieval import RetrievalMetrics
from aisle.evaluation.runs import write_trec_run
from aisle.index import SearchIndex, open_index
from aisle.index.exact import FloatArray
from aisle.index.products import ID_COLUMN
from aisle.models.encoder import Encoder
from aisle.pipelines.encoders import encoder_of_index
from aisle.pipelines.evaluation.models import Models, embed_base, has_texts, wanted_rows
from aisle.pipelines.evaluation.rows import (
    GraphRecall,
    Ranker,
    Run,
    exact_ranker,
    index_ranker,
    rank_all,
)
from aisle.pipelines.output import Output
from aisle.training.processes import Processes

MODE_ROWS = {"dense": "tuned", "lexical": "bm25", "hybrid": "hybrid"}


@dataclass(frozen=True)
class Judged:
    """Queries with judgements.

    Args:
        queries: query id -> text, of those that are judged.
        qrels: query id -> product id -> relevance.
        unknown: ids of judged queries that have no text.
    """

    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, float]]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Ranked:
    """What was measured of the rankings.

    Args:
        retrieval: the rows side by side.
        metrics: row -> its figures per query.
        runs: row -> its rankings.
        main: the row of --mode.
        base: the row that the others are held against, if there is one.
        dense: row -> encoder and embeddings of the products, of base and index.
        ann_recall: share of the exact top 10 that the graph finds; None where it was not searched.
        notes: what was left out.
    """

    retrieval: Retrieval
    metrics: Mapping[str, RetrievalMetrics]
    runs: Mapping[str, Run]
    main: str
    base: str | None
    dense: Mapping[str, tuple[Encoder, FloatArray]]
    ann_recall: float | None
    notes: tuple[str, ...]


def read_judged(queries_file: str, qrels_file: str, label_map: Mapping[str, float] | None) -> Judged:
    """Return the judged queries.

    Raises:
        DataError: a file cannot be read, or no judged query has a text.
    """
    qrels = read_qrels([Path(qrels_file)], label_map=label_map)
    queries = read_queries([Path(queries_file)], only=qrels.keys())
    return Judged(queries, qrels, tuple(query_id for query_id in qrels if query_id not in queries))


def evaluate_retrieval(
    settings: EvaluateSettings,
    index: SearchIndex,
    judged: Judged,
    models: Models,
    processes: Processes,
    output: Output,
) -> Ranked:
    """Rank the catalogue for every judged query by each system, and measure the rankings.

    Raises:
        AisleError: a row that was asked for cannot be had, or the judgements do not fit.
    """
    if settings.run_file is not None:
        check_run_file(Path(settings.run_file), judged.queries, index)
    rows, notes = _possible_rows(settings, index)
    notes += [models.note] if models.note and "base" in rows else []
    top_k = min(max(settings.cutoffs), len(index))
    others, said = _compared(settings, index, top_k)
    dense: dict[str, tuple[Encoder, FloatArray]] = {}
    rankers: list[Ranker] = []
    if "base" in rows and models.base is not None:
        embeddings = embed_base(settings, index.manifest, index.products, models.base, processes, output)
        dense["base"] = (models.base, embeddings)
        rankers.append(exact_ranker(index, models.base, embeddings, name="base", top_k=top_k))
    own = models.name if "tuned" in rows or ("base" in rows and models.name == "base") else None
    if own is not None and models.measured is not None:
        dense[own] = (models.measured, index.embeddings)
    recall = GraphRecall()
    rankers.append(
        index_ranker(
            index,
            models.measured,
            lexical="bm25" if "bm25" in rows else None,
            dense=own,
            hybrid="hybrid" if "hybrid" in rows else None,
            top_k=top_k,
            ef_search=settings.ef_search,
            fusion=settings.fusion,
            weight=settings.hybrid_weight,
            recall=recall,
        )
    )
    kinds: dict[str, SystemKind] = {"bm25": "bm25", "base": "base", "tuned": "tuned", "hybrid": "hybrid"}
    kinds |= dict.fromkeys(others, "other")
    with output.progress("searching", len(judged.queries) * (len(rankers) + len(others))) as bar:
        found = rank_all([*rankers, *others.values()], judged.queries, on_progress=bar.advance)
    runs = {name: found[name] for name in kinds if name in found}
    base = "base" if "base" in runs else None
    retrieval, metrics = compare_runs(
        runs,
        judged.qrels,
        kinds=kinds,
        base=base,
        products=len(index),
        known_products=_known_products(index, judged.qrels),
        unknown_queries=judged.unknown,
        cutoffs=settings.cutoffs,
        relevant_from=settings.relevant_from,
        resamples=settings.resamples,
        seed=settings.seed,
    )
    asked = models.name if settings.mode == "dense" else MODE_ROWS[settings.mode]
    main = asked if asked in runs else [name for name in runs if name not in others][-1]
    return Ranked(retrieval, metrics, runs, main, base, dense, recall.value(), (*notes, *said))


def check_run_file(path: Path, queries: Iterable[str], index: SearchIndex) -> None:
    """Refuse, before anything is embedded, a run file that could not be written in the end.

    Raises:
        ConfigError: its folder is not there or cannot be written to, `path` is a folder or a device, or an id
            has white space in it, which separates the fields of a run.
    """
    problem = None
    if not path.parent.is_dir():
        problem = f"there is no folder {path.parent}; make it first, or name a file elsewhere"
    elif path.exists() and not path.is_file():
        problem = "this is not a file; name one"
    elif not os.access(path.parent, os.W_OK):
        problem = f"the folder {path.parent} cannot be written to; name a file elsewhere"
    else:
        products = index.products.column(ID_COLUMN)
        spaced = products.filter(pyarrow.compute.match_substring_regex(products, r"[\s\pZ]"))
        for what, ids in (("query", queries), ("product", spaced.slice(0, 1).to_pylist())):
            odd = next((one for one in ids if one.split() != [one]), None)
            if odd is not None:
                problem = f"fields are separated by white space, which the {what} id {odd!r} has in it"
    if problem is not None:
        raise ConfigError(f"--run_file {path}: {problem}")


def write_runs(path: Path, ranked: Ranked, output: Output) -> None:
    """Write the main row's rankings to `path`, those of another row to `path` with its name at the end.

    The name comes before an ending .gz; a row that answers no query has no file, which is said.

    Raises:
        EvaluationError: a file cannot be written.
    """
    stem = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    for name, run in ranked.runs.items():
        ending = path.name[len(stem) :]
        target = path if name == ranked.main else path.with_name(f"{stem}.{name}{ending}")
        if any(run.values()):
            write_trec_run(target, run)
            output.say(f"ranking of {name}: {target}")
        else:
            output.say(f"warning: {name} answers no query; {target} is not written")


def _possible_rows(settings: EvaluateSettings, index: SearchIndex) -> tuple[tuple[str, ...], list[str]]:
    """Return the rows that the index can give, and why others are left out."""
    rows = wanted_rows(settings)
    missing = {}
    if index.lexical is None:
        why = "the index was built without its products' texts and has no BM25; build it again with them"
        missing = {"bm25": why, "hybrid": why}
    if not has_texts(index.products):
        missing["base"] = "the index keeps no texts that another model could embed; build it again with them"
    required = (*(settings.rows or ()), MODE_ROWS[settings.mode])
    for name, why in missing.items():
        if name in rows and name in required:
            flag = f"--rows {name}" if name in (settings.rows or ()) else f"--mode {settings.mode}"
            raise ConfigError(f"{flag}: {why}")
    notes = [f"no row {name}: {why}" for name, why in missing.items() if name in rows]
    return tuple(name for name in rows if name not in missing), notes


def _compared(
    settings: EvaluateSettings, index: SearchIndex, top_k: int
) -> tuple[dict[str, Ranker], list[str]]:
    """Return the ranker of each index of --compare by its row's name, and what differs in their products."""
    rankers: dict[str, Ranker] = {}
    notes: list[str] = []
    for folder in map(Path, settings.compare):
        other = open_index(folder)
        encoder = encoder_of_index(
            other.manifest,
            folder,
            model=None,
            base_model=None,
            trust_remote_code=settings.trust_remote_code,
        )
        name = _free_name(folder.resolve().name, rankers)
        rankers[name] = index_ranker(
            other,
            encoder,
            lexical=None,
            dense=name,
            hybrid=None,
            top_k=min(top_k, len(other)),
            ef_search=None,
            fusion=settings.fusion,
            weight=None,
            recall=None,
        )
        notes += _other_products(name, index, other)
    return rankers, notes


def _known_products(index: SearchIndex, qrels: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the judged ids that the index has; its own ids, which may be millions, stay in Arrow."""
    ids = list(dict.fromkeys(product for grades in qrels.values() for product in grades))
    judged = pa.array(ids, pa.string())
    known = pyarrow.compute.is_in(judged, value_set=index.products.column(ID_COLUMN).combine_chunks())
    found: list[str] = judged.filter(known).to_pylist()
    return found


def _free_name(name: str, taken: Mapping[str, Ranker]) -> str:
    """Return a name that no row has yet."""
    used = {*MODE_ROWS.values(), "base", *taken}
    return next(free for free in (name, *(f"{name}-{n}" for n in range(2, 10_000))) if free not in used)


def _other_products(name: str, index: SearchIndex, other: SearchIndex) -> Sequence[str]:
    ids = [each.products.column(ID_COLUMN).combine_chunks() for each in (index, other)]
    shared = pyarrow.compute.sum(pyarrow.compute.is_in(ids[1], value_set=ids[0])).as_py() or 0
    if shared == len(ids[0]) == len(ids[1]):
        return ()
    return (
        f"{name} has {len(ids[1]):,} products, {shared:,} of them among the {len(ids[0]):,} of the index: "
        "the two are not compared on the same catalogue",
    )
