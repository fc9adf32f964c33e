"""Rank the products of `mine` by words, by embeddings, or by both; reuse the search of an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aisle.commands.indexing.catalog_embeddings import catalog_embeddings
from aisle.commands.mine.searched_catalog import SearchedCatalog, word_search
from aisle.commands.mine.settings import MineSettings
from aisle.commands.output import Output, quieten_libraries
from aisle.errors import ModelError
from aisle.index import StoredProducts
from aisle.index.scoring import FloatArray, Scores
from aisle.mining.ranked_products import Bm25Ranking, BothRankings, DenseRanking, RandomRanking, Ranking
from aisle.search.encoders import encoder_of_index
from aisle.search.load_encoder import LoadedEncoder, extra_for, load_encoder
from aisle.training.process_group import Processes
from aisle.types.encoder_protocol import Precision
from aisle.types.encoder_settings import Overrides

__all__ = ["ProductSearch", "product_search"]

VECTORS_END = ".vectors"
"""End of the name of the folder beside the output with the embeddings of the catalogue."""


@dataclass(frozen=True)
class ProductSearch:
    """How products are ranked.

    Attributes:
        ranking: Ranking of the catalogue.
        embeddings: (count, dim) embeddings of the catalogue, memory-mapped; None without a model.
        model: Name of the model; None without.
    """

    ranking: Ranking
    embeddings: FloatArray | None = None
    model: str | None = None


def product_search(settings: MineSettings, searched: SearchedCatalog, output: Output) -> ProductSearch:
    """Return how the products are ranked; the catalogue is embedded if no index has its embeddings.

    Raises:
        AisleError: The model cannot be loaded, is not the encoder of the index, or does not rank by cosine.
    """
    tie_ranks = searched.catalog.tie_ranks
    if settings.source == "bm25":
        return ProductSearch(Bm25Ranking(word_search(settings, searched, output), tie_ranks, settings.depth))
    if settings.source == "random":
        return ProductSearch(RandomRanking(len(searched.catalog), settings.depth, settings.seed))
    encoder = _encoder(settings, searched, output)
    embeddings = _embeddings(settings, searched, encoder, output)
    index = searched.index if searched.is_index else None

    def encode(queries: Sequence[str]) -> Scores:
        found: Scores = encoder.encode_queries(queries)
        return found if searched.index is None else searched.index.adapted(found)

    dense = DenseRanking(
        embeddings,
        encode,
        tie_ranks,
        settings.depth,
        index if index is not None and index.has_graph and not settings.exact else None,
    )
    output.log(
        f"embeddings: {encoder.name}, "
        + ("the graph of the index" if dense.graph is not None else "compared with every product")
    )
    ranking: Ranking = dense
    if settings.source == "both":
        lexical = word_search(settings, searched, output)
        ranking = BothRankings(dense, Bm25Ranking(lexical, tie_ranks, settings.depth))
    return ProductSearch(ranking, embeddings, encoder.name)


def cache_folder(settings: MineSettings) -> Path:
    """Return the folder for the embeddings of the catalogue."""
    if settings.embedding_cache is not None:
        return Path(settings.embedding_cache)
    return Path(settings.output_file + VECTORS_END)


def _encoder(settings: MineSettings, searched: SearchedCatalog, output: Output) -> LoadedEncoder:
    index, is_index = searched.index, searched.is_index
    if settings.model is None or extra_for(settings.model) == "encode":
        quieten_libraries()
    if index is not None:
        return encoder_of_index(
            index.manifest,
            Path(str(settings.index_dir)),
            model=settings.model,
            base_model=settings.base_model,
            trust_remote_code=settings.trust_remote_code,
            to_search=is_index,
            log=output.log,
        )
    model = str(settings.model)
    if extra_for(model) == "encode":
        from aisle.training.cpu_threads import use_cpu_threads  # imports torch

        use_cpu_threads()
    encoder = load_encoder(
        model,
        base_model=settings.base_model,
        overrides=Overrides(
            pooling=settings.pooling,
            query_prompt=settings.query_prompt,
            product_prompt=settings.product_prompt,
            max_length=settings.max_length,
        ),
        trust_remote_code=settings.trust_remote_code,
    )
    if not encoder.settings.normalize:
        raise ModelError(
            f"--model {model}: was trained with --similarity dot, and mining compares cosines, so its order "
            "would differ from the model's; train with --similarity cosine"
        )
    if encoder.note is not None:
        output.log(encoder.note)
    return encoder


def _embeddings(
    settings: MineSettings, searched: SearchedCatalog, encoder: LoadedEncoder, output: Output
) -> FloatArray:
    """Return the (count, dim) embeddings of the products, memory-mapped.

    Those of an index are used as they are; texts that an index of other products has are taken over.
    """
    index = searched.index
    if index is not None and searched.is_index:
        return index.embeddings
    known = None
    if index is not None:
        known = StoredProducts(index.manifest, index.directory, index.products, index.embeddings)
    folder = cache_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    return np.asarray(
        catalog_embeddings(
            searched.catalog.products,
            encoder,
            folder,
            precision=_precision(encoder),
            processes=Processes(),
            output=output,
            role="mining",
            remedy=None,
            known=known,
        )
    )


def _precision(encoder: LoadedEncoder) -> Precision:
    from aisle.bundle.onnx_encoder import OnnxEncoder

    return encoder.bundle.precision if isinstance(encoder, OnnxEncoder) else "fp32"
