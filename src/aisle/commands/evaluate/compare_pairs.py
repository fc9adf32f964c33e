"""Read judged pairs and question-answer pairs, and score them with each model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aisle.commands.evaluate.settings import EvaluateSettings
from aisle.commands.output import Output
from aisle.commands.passage_pairs import passage_pairs
from aisle.commands.speed_notes import speed_notes
from aisle.data.dataset_sources import iter_split, resolve_dataset, splits_of
from aisle.data.files import expand_files, iter_rows
from aisle.data.pairs import PairColumns, Pairs, read_pairs
from aisle.data.rows import Row
from aisle.data.text_files import TextFormat
from aisle.errors import ConfigError
from aisle.evaluation import document
from aisle.evaluation.document import JointPoolRow, SystemKind
from aisle.evaluation.joint_pool import joint_pool_row
from aisle.evaluation.pair_comparison import compare_pairs
from aisle.evaluation.pair_metrics import is_positive
from aisle.search.load_encoder import LoadedEncoder
from aisle.search.rerankers import load_reranker

CHUNK_PAIRS = 8192
"""Pairs embedded at a time: their embeddings of 1,024 components are 64 MiB."""


def read_judged_pairs(settings: EvaluateSettings, *, log: Callable[[str], None]) -> Pairs:
    """Return the pairs of --pairs.

    Raises:
        DataError: A file cannot be read, a column is missing, or a row is bad and --on_bad_row is error.
    """
    wanted = PairColumns(
        query=settings.query_column, product=settings.product_column, label=settings.label_column
    )
    rows, columns = passage_pairs(_rows(settings), wanted, log)
    read = read_pairs(
        rows,
        columns=columns,
        label_map=settings.pairs_label_map or settings.label_map,
        on_bad_row=settings.on_bad_row,
        label_max=settings.label_max,
    )
    if settings.label_max is not None and not read.pairs.labelled:
        raise ConfigError("--label_max: --pairs has no label column; name it with --label_column")
    label = read.columns.label or "none: every pair is a positive"
    log(
        f"pairs: {len(read.pairs):,}; query: {read.columns.query}, product: {read.columns.product}, "
        f"label: {label}"
    )
    if read.bad_rows.total:
        log(f"pairs: {read.bad_rows}")
    return read.pairs


def positive_pairs(pairs: Pairs, settings: EvaluateSettings, *, log: Callable[[str], None]) -> Pairs:
    """Return the positive pairs, which make up the joint pool.

    Raises:
        ConfigError: No pair is positive.
    """
    if pairs.relevance is None:
        return pairs
    positive = is_positive(pairs.relevance.astype(np.float64), settings.positive_threshold)
    if not positive.any():
        least = settings.positive_threshold
        rule = "above 0.5" if least is None else f"{least} or more"
        raise ConfigError(
            f"--protocol joint_pool: none of the {len(pairs):,} pairs of --pairs is positive (relevance "
            f"{rule}); lower --positive_threshold, or say what labels are worth with --pairs_label_map"
        )
    if not positive.all():
        log(f"joint pool: {int(positive.sum()):,} of {len(pairs):,} pairs are positive and taken")
    return pairs.select(np.flatnonzero(positive))


def pair_files(settings: EvaluateSettings) -> list[Path]:
    """Return the local files of --pairs; empty if the pairs come from the Hub.

    Raises:
        DataError: A file does not exist.
    """
    names = settings.pairs or ()
    if len(names) != 1:
        return expand_files(names) if names else []
    source = resolve_dataset(names[0], config=settings.dataset_config_name)
    splits = source.splits or {}
    if source.saved:
        return sorted(path for folders in splits.values() for path in folders[0].glob("*.arrow"))
    return list(next(iter(splits.values())) if len(splits) == 1 else splits.get(settings.split, ()))


def _rows(settings: EvaluateSettings) -> Iterator[Row]:
    names = settings.pairs or ()
    text = TextFormat.of(settings.delimiter, settings.encoding)
    if len(names) > 1:
        return iter_rows(expand_files(names), text=text)
    source = resolve_dataset(names[0], config=settings.dataset_config_name)
    splits = splits_of(source)
    # A file is a split of its own, whatever it is called.
    only = next(iter(splits.values())) if len(splits) == 1 else None
    return iter_split(source, only or splits.get(settings.split, settings.split), text=text)


def pair_scores(
    encoder: LoadedEncoder,
    pairs: Pairs,
    *,
    chunk_pairs: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Return the cosine of each pair: (pairs,) float32.

    Args:
        encoder: Embeds both sides.
        pairs: Pairs to score, which are read a chunk at a time.
        chunk_pairs: Pairs embedded at a time; None is `CHUNK_PAIRS`. It changes memory, not the scores.
        on_progress: Called with the number of pairs that were scored since the last call.
    """
    step = chunk_pairs or CHUNK_PAIRS
    scores = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), step):
        chunk = pairs.select(range(start, min(start + step, len(pairs))))
        queries = encoder.encode_queries(chunk.queries)
        products = encoder.encode_products(chunk.products)
        scores[start : start + step] = np.einsum("pd,pd->p", queries, products, dtype=np.float64)
        if on_progress is not None:
            on_progress(len(chunk))
    return scores


def evaluate_pairs(
    encoders: Mapping[str, LoadedEncoder],
    pairs: Pairs,
    *,
    kinds: Mapping[str, SystemKind],
    settings: EvaluateSettings,
    output: Output,
) -> document.Pairs:
    """Return how well each encoder's cosines, and a reranker's scores, separate positive from negative pairs.

    Raises:
        EvaluationError: The scores or the judgements cannot be used.
        ModelError: The reranker cannot be loaded, or fails.
    """
    relevance = pairs.relevance
    if relevance is None:
        relevance = np.ones(len(pairs), np.float32)
    notes = [speed_notes(one, "fp32", texts=len(pairs), remedy=None) for one in encoders.values()]
    for note in dict.fromkeys(chain.from_iterable(notes)):
        output.log(note)
    with output.progress("scoring pairs", len(pairs) * len(encoders)) as bar:
        scores = {
            name: pair_scores(encoder, pairs, on_progress=bar.advance) for name, encoder in encoders.items()
        }
    if settings.reranker is not None:
        reranker = load_reranker(settings.reranker)
        scores["reranker"] = reranker.logits(list(zip(pairs.queries, pairs.products, strict=True)))
    return compare_pairs(
        scores,
        relevance,
        kinds={**kinds, "reranker": "other"},
        positive_threshold=settings.positive_threshold,
        resamples=settings.resamples,
        seed=settings.seed,
    )


def evaluate_joint_pool(
    encoders: Mapping[str, LoadedEncoder],
    pairs: Pairs,
    *,
    kinds: Mapping[str, SystemKind],
    settings: EvaluateSettings,
    output: Output,
) -> tuple[JointPoolRow, ...]:
    """Return how often each encoder finds the partner of a text among all questions and answers."""
    questions, answers = pairs.queries, pairs.products
    rows = []
    with output.progress("embedding questions and answers", 2 * len(pairs) * len(encoders)) as bar:
        for name, encoder in encoders.items():
            rows.append(
                joint_pool_row(
                    name,
                    kinds[name],
                    encoder.encode_queries(questions, on_progress=bar.advance),
                    encoder.encode_products(answers, on_progress=bar.advance),
                    resamples=settings.resamples,
                    seed=settings.seed,
                )
            )
    return tuple(rows)
