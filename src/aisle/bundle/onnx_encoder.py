"""Encoder that runs an exported bundle on ONNX Runtime, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aisle.bundle.bundle_file import (
    TOKENIZER_FILE,
    check_cpu,
    check_precision,
    read_bundle,
    verify_checksums,
)
from aisle.bundle.bundle_record import Bundle
from aisle.bundle.bundle_tokenizer import BundleTokenizer, load_tokenizer_file
from aisle.bundle.graph_session import TowerGraph, import_onnxruntime, load_graph
from aisle.bundle.parallel_batches import batch_workers, fill_processors
from aisle.extras import require_extra
from aisle.text.distinct_tokens import DistinctTexts, DistinctTokens, distinct_texts
from aisle.text.tokens import Side
from aisle.types.encoder_protocol import Precision
from aisle.types.encoder_settings import EncoderSettings, check_dimensions

__all__ = ["OnnxEncoder", "import_libraries", "load_bundle"]

BATCH_TOKENS = 1024
"""Most tokens in a call of the graph."""


@dataclass(frozen=True)
class OnnxEncoder:
    """Turn queries and products into embeddings with a bundle; any number of threads may share it.

    Texts of equal length are computed together, so there is no padding. In a batch, several calls of the
    graph run at the same time; with a large model, a call has several threads.

    Args:
        bundle: Contents of `bundle.json`.
        query_graph: Graph of queries.
        product_graph: Graph of products; the same object with a shared tower.
        tokenizer: Tokenizer of the towers.
        name: Name of the bundle in messages.
        dimensions: Number of leading components of an embedding to keep; None keeps all.
        stands_for: Fingerprints of the product tower and the query tower of another encoder, to search its
            index: the model that the bundle was exported from, or that model's bundle in fp32. The export
            measured how close the embeddings are.
    """

    bundle: Bundle
    query_graph: TowerGraph
    product_graph: TowerGraph
    tokenizer: BundleTokenizer
    name: str
    dimensions: int | None = None
    stands_for: tuple[str, str] | None = None

    def __repr__(self) -> str:
        settings, source = self.settings, self.bundle.source
        prompts = (
            f"query_prompt {settings.query_prompt[:30]!r}, product_prompt {settings.product_prompt[:30]!r}"
        )
        return (
            f"OnnxEncoder({self.name[-60:]}, {self.dim} dim, {settings.pooling} pooling, "
            f"max_length {settings.max_length},\n  {prompts},\n"
            f"  {self.bundle.precision}, exported from {source.model[-60:]}, "
            f"fingerprint {self.fingerprint[:12]})"
        )

    @property
    def settings(self) -> EncoderSettings:
        """Pooling, prompts, maximum length."""
        return self.bundle.settings

    @property
    def dim(self) -> int:
        """Number of components of an embedding."""
        return self.dimensions or self.bundle.dim

    @property
    def fingerprint(self) -> str:
        """Hash of everything that determines a product's embedding."""
        return self.bundle.fingerprint if self.stands_for is None else self.stands_for[0]

    @property
    def query_fingerprint(self) -> str:
        """Hash of everything that determines a query's embedding; the same with one tower."""
        return self.bundle.query_fingerprint if self.stands_for is None else self.stands_for[1]

    @property
    def revision(self) -> None:
        """A bundle is a folder, so it has no commit of the Hub."""

    @property
    def device(self) -> str:
        """Type of the device that computes."""
        return "cpu"

    @property
    def note(self) -> str | None:
        """The failed gates, if the export accepted them; None without."""
        failed = self.bundle.failed_gates
        return failed and f"{self.name}: its export accepted a failed gate: {failed}"

    @property
    def texts_at_a_time(self) -> None:
        """Texts are not tokenised in parts: the tokenizer and the graph share processors."""

    def in_place_of_source(self) -> OnnxEncoder:
        """Return an encoder with the fingerprints of the exported model, to search an index of that model."""
        source = self.bundle.source
        return replace(self, stands_for=(source.fingerprint, source.query_fingerprint))

    def truncated(self, dimensions: int | None) -> OnnxEncoder:
        """Return an encoder that keeps the first `dimensions` components, rescaled to unit norm.

        Raises:
            ModelError: The encoder has fewer components, or its embeddings are not unit vectors.
        """
        if dimensions is None:
            return self
        check_dimensions(dimensions, self.dim, self.settings, name=self.name)
        return replace(self, dimensions=dimensions)

    def encode_queries(self, queries: Iterable[str], **options: Any) -> np.ndarray:
        """Return the embeddings of queries; see `encode_texts` for the options.

        Returns:
            (queries, dim) float32, unit L2 norm.
        """
        return self.encode_texts(queries, prompt=self.settings.query_prompt, side="query", **options)

    def encode_products(self, products: Iterable[str], **options: Any) -> np.ndarray:
        """Return the embeddings of products; see `encode_texts` for the options.

        Returns:
            (products, dim) float32, unit L2 norm.
        """
        return self.encode_texts(products, prompt=self.settings.product_prompt, side="product", **options)

    def encode_texts(
        self,
        texts: Iterable[str],
        *,
        prompt: str,
        side: Side = "product",
        max_tokens: int | None = None,
        precision: Precision | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Return the embeddings of texts, in the order given; a text that occurs twice is encoded once.

        Args:
            texts: Any iterable of texts; texts beyond the maximum length are cut off.
            prompt: Prompt before every text.
            side: Side of the texts, which selects the tower; with one tower it makes no difference.
            max_tokens: Most tokens in a call of the graph.
            precision: Precision of the bundle, or None.
            on_progress: Function called with the number of texts that were encoded since the last call.

        Returns:
            (texts, dim) float32, unit L2 norm.

        Raises:
            ModelError: `texts` is a single text, an entry is not a text or not Unicode, or the bundle
                computes in another precision.
        """
        found: list[np.ndarray] = []
        self.encode_parts(
            [self._tokenize(distinct_texts(texts), prompt, side)],
            found.append,
            max_tokens=max_tokens,
            precision=precision,
            on_progress=on_progress,
        )
        return found[0]

    def tokenize(
        self, texts: Iterable[str], *, prompt: str, side: Side = "product", marked: bool = False
    ) -> DistinctTokens:
        """Tokenise texts, each distinct text once; safe while another thread encodes.

        Raises:
            ModelError: `texts` is a single text, or an entry is not a text or not Unicode.
        """
        return self._tokenize(distinct_texts(texts), prompt, side, marked=marked)

    def tokenize_products(self, products: Iterable[str], *, marked: bool = False) -> DistinctTokens:
        """Tokenise products with the products' prompt; see `tokenize`."""
        return self.tokenize(products, prompt=self.settings.product_prompt, marked=marked)

    def _tokenize(
        self, distinct: DistinctTexts, prompt: str, side: Side, *, marked: bool = False
    ) -> DistinctTokens:
        max_length = self.settings.max_length
        return distinct.tokenize(
            self.tokenizer, prompt=prompt, side=side, max_length=max_length, marked=marked
        )

    def encode_parts(
        self,
        parts: Iterable[DistinctTokens],
        take: Callable[[np.ndarray], None],
        *,
        max_tokens: int | None = None,
        precision: Precision | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Embed parts of tokenised texts, and pass the embeddings of each part to `take`, in order.

        Args:
            parts: Tokenised texts.
            take: Function called with the embeddings of each part, (texts, dim) float32, unit L2 norm.
            max_tokens: Most tokens in a call of the graph.
            precision: Precision of the bundle, or None.
            on_progress: Function called with the number of texts that were encoded since the last call.

        Raises:
            ModelError: The bundle computes in another precision.
        """
        check_precision(self.bundle, precision, name=self.name, flag="precision")
        for texts in parts:
            take(texts.in_order(self._embed(texts, max_tokens or BATCH_TOKENS, on_progress)))

    def _embed(
        self, texts: DistinctTokens, max_tokens: int, on_progress: Callable[[int], None] | None
    ) -> np.ndarray:
        """Return the embeddings of the distinct texts: (distinct texts, dim) float32."""
        tokens, repeats = texts.tokens, texts.repeats
        graph = self.query_graph if texts.side == "query" else self.product_graph
        if len(tokens) == 1:  # Without the steps of a batch: they take 0.05 ms or more, 5% of a query.
            embeddings = self._cut(graph.single.embed(tokens[0][None].astype(np.int64)))
            graph.single.release(len(tokens.ids))
            if on_progress is not None:
                on_progress(int(repeats[0]))
            return embeddings
        lengths = tokens.lengths()
        session = graph.for_batches() if fill_processors(lengths) else graph.single
        embeddings = np.empty((len(tokens), self.dim), dtype=np.float32)

        def compute(rows: np.ndarray) -> np.ndarray:
            return self._cut(session.embed(tokens.take(rows).reshape(len(rows), -1)))

        with batch_workers(lengths, max_tokens, call_threads=session.threads) as (run_all, batches):
            for rows, found in zip(batches, run_all(compute, batches), strict=True):
                embeddings[rows] = found
                if on_progress is not None:
                    on_progress(int(repeats[rows].sum()))
        session.release(max((len(rows) * int(lengths[rows[0]]) for rows in batches), default=0))
        return embeddings

    def _cut(self, embeddings: np.ndarray) -> np.ndarray:
        if self.dimensions is None:
            return embeddings
        kept = embeddings[:, : self.dimensions]
        norms = np.linalg.norm(kept, axis=1, keepdims=True)
        return np.asarray(kept / np.maximum(norms, 1e-12))


def import_libraries() -> None:
    """Import the libraries that load a bundle.

    Raises:
        OptionalDependencyError: onnxruntime or tokenizers is not installed.
    """
    require_extra("onnx")
    import_onnxruntime()
    import tokenizers  # noqa: F401


def load_bundle(model: str | Path, *, unmeasured: bool = False) -> OnnxEncoder:
    """Load a bundle.

    While ONNX Runtime loads the graphs, a thread compares all files with their checksums.

    Args:
        model: Folder of the bundle.
        unmeasured: Whether the export loads the bundle to measure its gates.

    Raises:
        ModelError: A file is missing or altered, or the bundle cannot be used, such as int8 on a CPU where
            its embeddings may be wrong.
        OptionalDependencyError: onnxruntime or tokenizers is not installed.
    """
    require_extra("onnx")
    folder = Path(model).expanduser().resolve()
    bundle = read_bundle(folder, unmeasured=unmeasured)
    check_cpu(bundle.precision, name=str(model))
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="checksums") as worker:
        checked = worker.submit(verify_checksums, folder, bundle)
        try:
            tokenizer = load_tokenizer_file(
                folder / TOKENIZER_FILE, bundle.tokenizer, max_length=bundle.max_length
            )
            size = tokenizer.vocabulary_size
            graphs = {
                tower.graph: load_graph(folder, bundle, tower, vocabulary_size=size)
                for tower in bundle.towers
            }
        finally:
            checked.result()  # an altered file is the cause of any other error
    return OnnxEncoder(
        bundle=bundle,
        query_graph=graphs[bundle.tower("query").graph],
        product_graph=graphs[bundle.tower("product").graph],
        tokenizer=tokenizer,
        name=str(model),
    )
