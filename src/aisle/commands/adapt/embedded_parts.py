"""Embed the judged queries of an index: those to train on, to choose the epoch, and to measure the gain."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aisle.commands.adapt.index_pairs import SplitPairs
from aisle.commands.adapt.settings import AdaptSettings
from aisle.commands.output import Output
from aisle.errors import DataError
from aisle.index import SearchIndex
from aisle.search.load_encoder import LoadedEncoder
from aisle.training.adapter_queries import AdapterQueries, match_queries
from aisle.training.query_vectors import cached_queries

FEWEST_HELD_OUT = 20
"""Fewest held-out queries: the interval of a mean of fewer is too narrow."""


@dataclass(frozen=True, eq=False)
class Part:
    """Judged queries of an index, and their embeddings by the encoder.

    Attributes:
        queries: The queries.
        pairs: Number of pairs of these queries.
        embeddings: (queries, dim) embeddings of the queries.
    """

    queries: AdapterQueries
    pairs: int
    embeddings: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Parts:
    """Judged queries in three parts: to train on, to choose the epoch, and to measure the gain."""

    train: Part
    validation: Part
    held_out: Part


def embedded_parts(
    settings: AdaptSettings,
    index: SearchIndex,
    encoder: LoadedEncoder,
    pairs: SplitPairs,
    output: Output,
) -> Parts:
    """Return the queries with their embeddings; each text is embedded once.

    Args:
        settings: Settings of the command.
        index: The index.
        encoder: Encoder of the queries.
        pairs: Judged pairs.
        output: Output of the command.

    Raises:
        DataError: A part has too few queries with a product of the index.
    """
    matched = {
        "training": match_queries(pairs.train.pairs, index, by_id=pairs.train.by_id),
        "validation": match_queries(pairs.validation.pairs, index, by_id=pairs.validation.by_id),
        "held-out": match_queries(pairs.held_out.pairs, index, by_id=pairs.held_out.by_id),
    }
    unknown = sum(found.unknown for found in matched.values())
    if unknown:
        example = next(found.example for found in matched.values() if found.example is not None)
        output.log(f"{unknown:,} pairs are left out: the index has no product such as {example[:80]!r}")
    irrelevant = sum(found.without_relevant for found in matched.values())
    if irrelevant:
        output.log(f"{irrelevant:,} queries are left out: the index has no product that is relevant to them")
    for name, found in matched.items():
        fewest = FEWEST_HELD_OUT if name == "held-out" else 1
        if len(found.queries) < fewest:
            raise DataError(
                f"{settings.index_dir}: {len(found.queries)} {name} queries have a relevant product in the "
                f"index, and at least {fewest} must; pairs name products by the ids of the index, or by the "
                "texts that were embedded. Give more judged pairs"
            )
    texts = [text for found in matched.values() for text in found.queries.texts]
    embeddings = _embedded(settings, encoder, texts, output)
    ends = np.cumsum([len(found.queries) for found in matched.values()])
    return Parts(
        *(
            Part(found.queries, found.pairs, part)
            for found, part in zip(matched.values(), np.split(embeddings, ends[:-1]), strict=True)
        )
    )


def _embedded(
    settings: AdaptSettings, encoder: LoadedEncoder, texts: list[str], output: Output
) -> npt.NDArray[np.float32]:
    given = settings.embedding_cache
    kept = tempfile.TemporaryDirectory() if given is None else nullcontext(given)
    bundle = getattr(encoder, "bundle", None)
    with kept as folder, output.progress("embedding queries", len(set(texts))) as bar:
        return cached_queries(
            Path(folder),
            encoder,
            texts,
            precision="fp32" if bundle is None else f"onnx-{bundle.precision}",
            log=output.log,
            on_progress=bar.advance,
        )
